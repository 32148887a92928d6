#!/usr/bin/python3
"""PyTorch as a peer of `tb bench`: one case, timed so many iterations at a time.

torch_bench.py THREADS CASE [SIZES] prints "ready VERSION,SETTINGS"; then, for every line it reads (a number of
iterations), the milliseconds that they took; it ends with its input. Before torch is loaded the process gives itself
the settings that are best for Debian's build: the processor's own OpenBLAS kernels with one thread pool (OpenMP), the
widest vectors, a malloc that keeps large blocks."""
import os
import sys
import time

OPENBLAS = "/usr/lib/x86_64-linux-gnu/openblas-openmp"


def tune(threads):
    """Runs this script again in the tuned environment, once."""
    if os.environ.get("TB_TORCH_TUNED"):
        return
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    flags = open("/proc/cpuinfo").read().split("flags", 1)[-1].split("\n", 1)[0].split()
    env.update(TB_TORCH_TUNED="1", OMP_NUM_THREADS=threads, MALLOC_TRIM_THRESHOLD_="4000000000",
               MALLOC_MMAP_THRESHOLD_="4000000000",
               ATEN_CPU_CAPABILITY="avx512" if {"avx512f", "avx512dq", "avx512vl", "avx512bw"} <= set(flags) else "avx2")
    if os.path.isdir(OPENBLAS):
        env["LD_LIBRARY_PATH"] = OPENBLAS
    os.execve(sys.executable, [sys.executable] + sys.argv, env)


tune(sys.argv[1])
import torch  # noqa: E402  (after the environment is set)
import torch.nn.functional as F  # noqa: E402


def no_grad(f):
    def run(times):
        with torch.inference_mode():
            start = time.perf_counter()
            for _ in range(times):
                f()
            return time.perf_counter() - start
    return run


def with_grad(f):
    def run(times):
        start = time.perf_counter()
        for _ in range(times):
            f()
        return time.perf_counter() - start
    return run


def add():
    a, b = torch.randn(8), torch.randn(8)
    return no_grad(lambda: a + b)


def add_recorded():
    a, b = torch.randn(8, requires_grad=True), torch.randn(8)
    return with_grad(lambda: a + b)


def gemm(m, k, n):
    a, b = torch.randn(int(m), int(k)), torch.randn(int(k), int(n))
    return no_grad(lambda: torch.mm(a, b))


def elementwise(op, n):
    a, b = torch.randn(int(n)), torch.randn(int(n))
    ops = {"add": lambda: a + b, "mul": lambda: a * b, "relu": lambda: torch.relu(a), "exp": lambda: torch.exp(a),
           "tanh": lambda: torch.tanh(a), "sigmoid": lambda: torch.sigmoid(a),
           "gelu_tanh": lambda: F.gelu(a, approximate="tanh")}
    return no_grad(ops[op])


def gradients(f, inputs, g):
    """Forward, then the gradients of all inputs."""
    for x in inputs:
        x.requires_grad_()
    return with_grad(lambda: torch.autograd.grad(f(), inputs, g))


def norm(op, rows, columns):
    x, gamma, beta = torch.randn(int(rows), int(columns)), torch.randn(int(columns)), torch.randn(int(columns))
    ops = {"softmax": lambda: torch.softmax(x, -1), "log_softmax": lambda: torch.log_softmax(x, -1),
           "layer_norm": lambda: F.layer_norm(x, (int(columns),), gamma, beta), "sum": lambda: x.sum(-1)}
    if op.endswith("_train"):
        op = op[:-len("_train")]
        return gradients(ops[op], (x, gamma, beta) if op == "layer_norm" else (x,), torch.randn(x.shape))
    return no_grad(ops[op])


def optimizer(op, n):
    p = torch.randn(int(n), requires_grad=True)
    p.grad = torch.randn(int(n))
    step = {"sgd": lambda: torch.optim.SGD([p], lr=1e-3, momentum=0.9, foreach=True),
            "adamw": lambda: torch.optim.AdamW([p], lr=1e-3, weight_decay=0.01, foreach=True)}[op]().step
    return with_grad(step)


def attention_parts(causal, b, h, t, d):
    q, k, v = (torch.randn(int(b), int(h), int(t), int(d)) for _ in range(3))
    hidden = torch.triu(torch.ones(int(t), int(t), dtype=torch.bool), 1)

    def forward():
        scores = (q @ k.transpose(-2, -1)) * int(d) ** -0.5
        if int(causal):
            scores = scores.masked_fill(hidden, float("-inf"))
        return torch.softmax(scores, -1) @ v
    return forward, (q, k, v)


def attention(*sizes):
    return no_grad(attention_parts(*sizes)[0])


def attention_train(*sizes):
    forward, inputs = attention_parts(*sizes)
    return gradients(forward, inputs, torch.randn(inputs[0].shape))


def conv_parts(n, c, h, w, o, k):
    x, kernel = torch.randn(int(n), int(c), int(h), int(w)), torch.randn(int(o), int(c), int(k), int(k))
    bias = torch.randn(int(o))
    return (lambda: F.conv2d(x, kernel, bias, padding=int(k) // 2)), (x, kernel, bias)


def conv(*sizes):
    return no_grad(conv_parts(*sizes)[0])


def conv_train(*sizes):
    forward, inputs = conv_parts(*sizes)
    return gradients(forward, inputs, torch.randn(forward().shape))


class Block(torch.nn.Module):
    """A pre-norm transformer block, causal."""

    def __init__(self, width, heads, context):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        self.register_buffer("hidden", torch.triu(torch.ones(context, context, dtype=torch.bool), 1))

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


def train_step(model, batch):
    nn, rows = torch.nn, int(batch)
    images, labels = torch.randn(rows, 1, 28, 28), torch.randint(0, 10, (rows,))
    if model == "mlp":
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(),
                            nn.Linear(256, 10))
    elif model == "cnn":
        net = nn.Sequential(nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.ReLU(),
                            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10))
    else:
        net, images, labels = GPT(), torch.randint(0, 256, (rows, 128)), torch.randint(0, 256, (rows * 128,))
    if model == "gpt":
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images).view(labels.numel(), -1), labels).backward()
        optimizer.step()
    return with_grad(step)


def tiny_train_step():
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.randn(4, 4), torch.randn(4, 1)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    return with_grad(step)


CASES = {f.__name__: f for f in (add, add_recorded, tiny_train_step, gemm, elementwise, norm, optimizer,
                                 attention, attention_train, conv, conv_train, train_step)}


def main():
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(1)
    run = CASES[sys.argv[2]](*sys.argv[3:])
    settings = "openblas-openmp" if os.path.isdir(OPENBLAS) else "system-blas"
    print(f"ready torch-{torch.__version__},{settings},{os.environ['ATEN_CPU_CAPABILITY']}", flush=True)
    for line in sys.stdin:
        print(1e3 * run(int(line)), flush=True)


if __name__ == "__main__":
    main()
