#!/usr/bin/python3
"""PyTorch's eager inference as a peer of `tb run fused_int8`.

torch_infer.py FILE ROWS THREADS reads weights, images (u8 [n, pixels]) and logits (f32 [n, classes]) from one
safetensors file whose notes "scale" and "shift" say how pixels become numbers, rebuilds the model from the weights'
names and shapes (a 4-d weight: convolution, ReLU, 2x2 pooling; a 2-d one: linear, ReLU but for the last), and ends with
status 1 where its own logits differ by more than 1e-4 of the largest. Then it prints "ready VERSION,SETTINGS"
(torch_tuned.py), and for every line it reads one with the milliseconds of a call on ROWS images; an untimed call before
it warms caches, which favours it."""
import json
import sys
import time

import torch_tuned

torch_tuned.tune(sys.argv[3])
import numpy as np  # noqa: E402  (after the environment is set)
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

DTYPES = {"F32": np.float32, "U8": np.uint8}


def read(path):
    """({name: tensor} in the file's order, notes) of a safetensors file."""
    raw = open(path, "rb").read()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    notes = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        values = np.frombuffer(raw, DTYPES[entry["dtype"]], (last - first) // np.dtype(DTYPES[entry["dtype"]]).itemsize,
                               8 + size + first)
        tensors[name] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    return tensors, notes


class Model:
    def __init__(self, tensors, notes):
        names = [name[:-len(".weight")] for name in tensors if name.endswith(".weight")]
        self.layers = [(tensors[n + ".weight"], tensors[n + ".bias"]) for n in names]
        self.scale, self.shift = float(notes["scale"]), float(notes["shift"])
        self.side = int(tensors["images"].shape[1] ** 0.5)

    def __call__(self, images):
        x = images.float() * self.scale - self.shift
        if self.layers[0][0].dim() == 4:
            x = x.view(-1, 1, self.side, self.side)
        for i, (weight, bias) in enumerate(self.layers):
            if weight.dim() == 4:
                x = F.max_pool2d(F.relu(F.conv2d(x, weight, bias)), 2)
            else:
                x = F.linear(x.flatten(1), weight, bias)
                x = F.relu(x) if i + 1 < len(self.layers) else x
        return x


def main():
    path, rows, settings = sys.argv[1], int(sys.argv[2]), torch_tuned.start(torch, sys.argv[3])
    tensors, notes = read(path)
    model = Model(tensors, notes)
    with torch.inference_mode():
        error = (model(tensors["images"]) - tensors["logits"]).abs().max() / tensors["logits"].abs().max()
        if not error <= 1e-4:
            print(f"torch_infer: logits differ by {error:.2e} of the largest", file=sys.stderr)
            return 1
        images = tensors["images"].repeat(rows // len(tensors["images"]) + 1, 1)[:rows].clone()
        print("ready", settings, flush=True)
        for _ in sys.stdin:
            model(images)
            start = time.perf_counter()
            model(images)
            print(1e3 * (time.perf_counter() - start), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
