#!/usr/bin/python3
"""One rank of PyTorch's DistributedDataParallel (gloo) as a peer of `tb run ddp_scaling`.

torch_ddp.py THREADS RANK WORLD PORT MODEL ROWS BUCKET_MIB OPTIMIZER trains one of torch_models.py on random rows by sgd
(momentum 0.9) or adamw. It prints "ready VERSION,SETTINGS", then one line with a step's milliseconds for every line it
reads, until its input ends. Gradients are views into the buckets. Settings: torch_tuned.py."""
import sys
import time

import torch_tuned

torch_tuned.tune(sys.argv[1])
import torch  # noqa: E402  (after the environment is set)
import torch.distributed as dist  # noqa: E402

import torch_models  # noqa: E402


def main():
    rank, world, port = map(int, sys.argv[2:5])
    spec, rows, bucket = sys.argv[5], int(sys.argv[6]), float(sys.argv[7])
    settings = torch_tuned.start(torch, sys.argv[1])
    torch.manual_seed(1)
    net = torch_models.model(spec)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
        net = torch.nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True, bucket_cap_mb=bucket)
    if sys.argv[8] == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.01)
    torch.manual_seed(2 + rank)
    x, y = torch_models.batch(spec, rows)
    print("ready", settings, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        optimizer.zero_grad()
        torch_models.loss(net, x, y).backward()
        optimizer.step()
        print(1e3 * (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
