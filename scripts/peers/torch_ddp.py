#!/usr/bin/python3
"""One rank of PyTorch's DistributedDataParallel (gloo) as a peer of `tb run ddp_scaling`.

torch_ddp.py RANK WORLD PORT THREADS WIDTHS ROWS BUCKET_MIB trains an MLP of these widths (784-512-10) on random rows
with SGD and momentum 0.9. It prints "ready VERSION", then one line with a step's milliseconds for every line it reads,
until its input ends. Gradients are views into the buckets; torch's flags for denormals are left as they are."""
import os
import sys
import time

THREADS = sys.argv[4]
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = THREADS  # before BLAS starts threads of its own

import torch
import torch.distributed as dist


def model(widths):
    layers = []
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        layers += [torch.nn.Linear(a, b)] + ([torch.nn.ReLU()] if i + 2 < len(widths) else [])
    return torch.nn.Sequential(*layers)


def main():
    rank, world, port, threads = map(int, sys.argv[1:5])
    widths, rows, bucket = [int(w) for w in sys.argv[5].split("-")], int(sys.argv[6]), float(sys.argv[7])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    net = model(widths)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
        net = torch.nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True, bucket_cap_mb=bucket)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    torch.manual_seed(2 + rank)
    x, y = torch.randn(rows, widths[0]), torch.randint(0, widths[-1], (rows,))
    print("ready", torch.__version__, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        print(1e3 * (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
