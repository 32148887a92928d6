"""The zoo in PyTorch: functions of the engine's parameters by name: both start from the same weights."""
import torch
import torch.nn.functional as F


def linear(w, name, x):
    return F.linear(x, w[name + ".weight"], w[name + ".bias"])


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"])


def mlp(w, x):
    layers = len(w) // 2
    for i in range(1, layers + 1):
        x = linear(w, f"fc{i}", x)
        x = torch.relu(x) if i < layers else x
    return x


def cnn(w, x):
    for name in ("conv1", "conv2"):
        x = F.max_pool2d(torch.relu(F.conv2d(x, w[name + ".weight"], w[name + ".bias"])), 2)
    return linear(w, "fc2", torch.relu(linear(w, "fc1", x.flatten(1))))


def attention(w, name, x, heads, causal=True):
    b, t, c = x.shape
    parts = linear(w, name + ".qkv", x).split(c, -1)
    q, k, v = (part.reshape(b, t, heads, c // heads).transpose(1, 2) for part in parts)
    hidden = torch.ones(t, t, dtype=torch.bool).triu(1) & causal
    scores = (q @ k.transpose(-1, -2) / (c // heads) ** 0.5).masked_fill(hidden, float("-inf"))
    return linear(w, name + ".proj", (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))


def transformer(w, y, heads, causal):
    for i in range(sum(name.endswith(".attn.qkv.weight") for name in w)):
        part = f"block.{i}."
        y = y + attention(w, part + "attn", norm(w, part + "norm1", y), heads, causal)
        wide = F.gelu(linear(w, part + "fc", norm(w, part + "norm2", y)), approximate="tanh")
        y = y + linear(w, part + "proj", wide)
    return y


def gpt(w, x, heads=4):
    y = w["embed.token.weight"][x.long()] + w["embed.place.weight"][:x.shape[1]]
    y = transformer(w, y, heads, True)
    return F.linear(norm(w, "head.norm", y), w["embed.token.weight"])


def conv_norm(w, name, x, stride=1, groups=1):
    """Normalised by the batch, as in training."""
    weight = w[name + ".conv.weight"]
    x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
    return F.batch_norm(x, None, None, w[name + ".norm.weight"], w[name + ".norm.bias"], True)


def resnet(w, x):
    y = torch.relu(conv_norm(w, "stem", x))
    for name in [name[:-len(".first.conv.weight")] for name in w if name.endswith(".first.conv.weight")]:
        stride = 2 if name in ("stage2.0", "stage3.0") else 1
        inner = torch.relu(conv_norm(w, name + ".first", y, stride))
        shortcut = conv_norm(w, name + ".shortcut", y, stride) if stride == 2 else y
        y = torch.relu(conv_norm(w, name + ".second", inner) + shortcut)
    return linear(w, "fc", y.mean((2, 3)))


def dscnn(w, x):
    y = torch.relu(conv_norm(w, "stem", x, 2))
    for i in range(sum(name.endswith(".pointwise.conv.weight") for name in w)):
        y = torch.relu(conv_norm(w, f"block.{i}.depthwise", y, groups=y.shape[1]))
        y = torch.relu(conv_norm(w, f"block.{i}.pointwise", y))
    return linear(w, "fc", y.mean((2, 3)))


def vit(w, x, heads=2):
    patch = int(w["embed.patches.weight"].shape[1] ** 0.5)
    x = F.unfold(x, patch, stride=patch).transpose(1, 2)  # [B, patches, pixels]
    y = transformer(w, linear(w, "embed.patches", x) + w["embed.place"], heads, False)
    return linear(w, "head.fc", norm(w, "head.norm", y).mean(1))


class Torch:
    """One of them with an optimizer, in f64, from the weights of an engine model."""

    def __init__(self, function, engine_model, optimizer, clip=0.0):
        self.function, self.clip = function, clip
        self.weights = {name: t.double().requires_grad_() for name, t in engine_model.weights().items()}
        decaying, others = ([w for name, w in self.weights.items() if engine_model.decays[name] == decays]
                            for decays in (True, False))
        self.optim = optimizer([{"params": decaying}, {"params": others, "weight_decay": 0.0}])

    def step(self, x, labels, scale=1.0):
        self.optim.zero_grad()
        logits = self.function(self.weights, x.double() if x.dtype.is_floating_point else x)
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten().long())
        (scale * loss).backward()
        for w in self.weights.values():
            w.grad /= scale
        if self.clip:
            norm = torch.norm(torch.stack([w.grad.norm() for w in self.weights.values()]))
            bound = self.clip * (norm + 1e-6) / norm  # torch divides by norm + 1e-6, the engine by the norm
            torch.nn.utils.clip_grad_norm_(self.weights.values(), bound.item())
        self.optim.step()
        return loss.item()
