#!/usr/bin/python3
"""PyTorch as a peer of `tb bench`: one case, timed so many iterations at a time.

torch_bench.py THREADS CASE [SIZES] prints "ready VERSION,SETTINGS"; then, for every line it reads (a number of
iterations), the milliseconds that they took; it ends with its input. Settings: torch_tuned.py."""
import sys
import time

import torch_tuned

torch_tuned.tune(sys.argv[1])
import torch  # noqa: E402  (after the environment is set)
import torch.nn.functional as F  # noqa: E402

import torch_models  # noqa: E402


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


def conv_parts(*sizes):
    n, c, h, w, o, k, stride, groups = (int(size) for size in sizes)
    x, kernel, bias = torch.randn(n, c, h, w), torch.randn(o, c // groups, k, k), torch.randn(o)
    return (lambda: F.conv2d(x, kernel, bias, stride=stride, padding=k // 2, groups=groups)), (x, kernel, bias)


def conv(*sizes):
    return no_grad(conv_parts(*sizes)[0])


def conv_train(*sizes):
    forward, inputs = conv_parts(*sizes)
    return gradients(forward, inputs, torch.randn(forward().shape))


def train_step(model, batch, dtype="f32"):
    net, (x, y) = torch_models.model(model), torch_models.batch(model, int(batch))
    if model == "gpt":
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = torch_models.loss(net, x, y)
        loss.backward()
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
    settings = torch_tuned.start(torch, sys.argv[1])
    torch.manual_seed(1)
    run = CASES[sys.argv[2]](*sys.argv[3:])
    print("ready", settings, flush=True)
    for line in sys.stdin:
        print(1e3 * run(int(line)), flush=True)


if __name__ == "__main__":
    main()
