"""The engine's models in torch, with what a training step of each needs."""
import torch
import torch.nn.functional as F


class Block(torch.nn.Module):
    """A pre-norm transformer block, causal."""

    def __init__(self, width, heads, context):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        self.hidden = torch.triu(torch.ones(context, context, dtype=torch.bool), 1)  # gloo sends no buffer of booleans

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2)
                   for y in self.qkv(self.norm1(x)).split(c, 2))
        scores = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5).masked_fill(self.hidden, float("-inf"))
        x = x + self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(torch.nn.Module):
    """The engine's gpt: 4 blocks, width 256, 8 heads, 128 positions, bytes, a tied head."""

    def __init__(self):
        super().__init__()
        self.token, self.position = torch.nn.Embedding(256, 256), torch.nn.Parameter(0.02 * torch.randn(128, 256))
        self.blocks = torch.nn.Sequential(*(Block(256, 8, 128) for _ in range(4)))
        self.norm = torch.nn.LayerNorm(256)

    def forward(self, tokens):
        return F.linear(self.norm(self.blocks(self.token(tokens) + self.position)), self.token.weight)


def mlp(widths):
    layers = [torch.nn.Flatten()]
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        layers += [torch.nn.Linear(a, b)] + ([torch.nn.ReLU()] if i + 2 < len(widths) else [])
    return torch.nn.Sequential(*layers)


def cnn():
    nn = torch.nn
    return nn.Sequential(nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10))


def model(spec):
    """"mlp", "mlp:widths=784-512-10", "cnn", "gpt"."""
    name, _, options = spec.partition(":")
    if name == "mlp" and (not options or options.startswith("widths=")):
        return mlp([int(w) for w in (options.removeprefix("widths=") or "784-512-256-10").split("-")])
    if options or name not in ("cnn", "gpt"):
        raise SystemExit(f"torch has no model '{spec}' here; there are mlp, mlp:widths=A-B-C, cnn, gpt")
    return cnn() if name == "cnn" else GPT()


def batch(spec, rows):
    """Random inputs and labels."""
    if spec == "gpt":
        return torch.randint(0, 256, (rows, 128)), torch.randint(0, 256, (rows * 128,))
    return torch.randn(rows, 1, 28, 28), torch.randint(0, 10, (rows,))


def loss(net, x, y):
    return F.cross_entropy(net(x).view(y.numel(), -1), y)
