#!/usr/bin/python3
"""PyTorch's inference as a peer of `tb run fused_int8`.

torch_infer.py FILE ROWS THREADS [eager|best|int8] reads weights, rows (u8 [n, bytes]) and logits (f32 [n, classes];
text: of every byte) from one safetensors file whose notes "scale" and "shift" say how pixels become numbers, and
rebuilds the model that its note "model" names (one that is not here is an error). Where its own logits differ by more
than 1e-4 of the largest it ends with status 1. Then it prints "ready VERSION,SETTINGS" (torch_tuned.py), and for
every line it reads one with the milliseconds of a call on ROWS rows; an untimed call before it warms caches, which
favours it. Where the note "form" says "step" a call reads one byte of each of ROWS rows (torch_steps.py): the n-th
question is place n modulo the length of a row.

best: the fastest of eager, traced, frozen and optimize_for_inference, chosen by a timing here; its name ends SETTINGS.
int8: PyTorch's own static INT8 (torch_deploy.py) of the models it is written for; SETTINGS state on how many of the
rows the most likely class is that of f32."""
import sys
import time

import torch_tuned

torch_tuned.tune(sys.argv[3])
import torch  # noqa: E402
import torch_deploy  # noqa: E402
import torch_steps  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors_file import read  # noqa: E402


class Weights:
    def __init__(self, tensors):
        self.of = tensors

    def linear(self, name, x):
        return F.linear(x, self.of[name + ".weight"], self.of[name + ".bias"])

    def conv_norm(self, name, x, stride=1, groups=1):
        w = self.of[name + ".conv.weight"]
        x = F.conv2d(x, w, None, stride, int(w.shape[-1]) // 2, 1, groups)
        mean, var, gamma, beta = (self.of[f"{name}.norm.{part}"]
                                  for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, gamma, beta)

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.of[name + ".weight"], self.of[name + ".bias"])

    def count(self, suffix):
        return sum(name.endswith(suffix) for name in self.of)


def mlp(w, x, options):
    x, layers = x.flatten(1), w.count(".weight")
    for i in range(1, layers + 1):
        x = w.linear(f"fc{i}", x)
        x = F.relu(x) if i < layers else x
    return x


def cnn(w, x, options):
    for name in ("conv1", "conv2"):
        x = F.max_pool2d(F.relu(F.conv2d(x, w.of[name + ".weight"], w.of[name + ".bias"])), 2)
    return w.linear("fc2", F.relu(w.linear("fc1", x.flatten(1))))


def resnet(w, x, options):
    x = F.relu(w.conv_norm("stem", x))
    for stage in (1, 2, 3):
        for i in range(int(options["depth"]) // 6):
            name, stride = f"stage{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = w.conv_norm(name + ".second", F.relu(w.conv_norm(name + ".first", x, stride)))
            x = F.relu(y + (w.conv_norm(name + ".shortcut", x, stride) if stride == 2 else x))
    return w.linear("fc", x.mean((2, 3)))


def dscnn(w, x, options):
    x = F.relu(w.conv_norm("stem", x, 2))
    for i in range(int(options["layers"])):
        x = F.relu(w.conv_norm(f"block.{i}.depthwise", x, groups=int(x.shape[1])))
        x = F.relu(w.conv_norm(f"block.{i}.pointwise", x))
    return w.linear("fc", x.mean((2, 3)))


def transformer_block(w, name, x, heads, mask=None):
    b, t, c = x.shape
    q, k, v = (part.reshape(b, t, heads, c // heads).transpose(1, 2)
               for part in w.linear(name + "attn.qkv", w.norm(name + "norm1", x)).split(c, -1))
    scores = (q @ k.transpose(-1, -2)) * (c // heads) ** -0.5
    y = (scores if mask is None else scores + mask).softmax(-1) @ v
    x = x + w.linear(name + "attn.proj", y.transpose(1, 2).reshape(b, t, c))
    wide = F.gelu(w.linear(name + "fc", w.norm(name + "norm2", x)), approximate="tanh")
    return x + w.linear(name + "proj", wide)


def vit(w, x, options):
    patch, heads = int(options["patch"]), int(options["heads"])
    rows = x.shape[-1] // patch
    x = x.reshape(-1, rows, patch, rows, patch).permute(0, 1, 3, 2, 4).reshape(-1, rows * rows, patch * patch)
    x = w.linear("embed.patches", x) + w.of["embed.place"]
    for i in range(int(options["layers"])):
        x = transformer_block(w, f"block.{i}.", x, heads)
    return w.linear("head.fc", w.norm("head.norm", x).mean(1))


def gpt(w, tokens, options):
    t, table = tokens.shape[1], w.of["embed.token.weight"]
    if "mask" not in w.of:
        w.of["mask"] = torch.full((t, t), float("-inf")).triu(1)
    x = F.embedding(tokens, table) + w.of["embed.place.weight"][:t]
    for i in range(int(options["layers"])):
        x = transformer_block(w, f"block.{i}.", x, int(options["heads"]), w.of["mask"])
    return F.linear(w.norm("head.norm", x), w.of.get("head.weight", table))


MODELS = {"mlp": mlp, "cnn": cnn, "resnet": resnet, "dscnn": dscnn, "vit": vit, "gpt": gpt}


class Model:
    def __init__(self, tensors, notes):
        kind, _, options = notes["model"].partition(":")
        self.options = dict(option.split("=") for option in options.split(",") if option)
        if kind not in MODELS or self.options.get("act", "relu") != "relu":
            print(f"cannot torch_infer: no model '{notes['model']}' here; there are {', '.join(MODELS)}")
            sys.exit(1)
        self.kind, self.forward = kind, MODELS[kind]
        self.weights = Weights({name: t for name, t in tensors.items() if name not in ("rows", "logits")})
        self.scale, self.shift = float(notes["scale"]), float(notes["shift"])
        self.is_text, self.side = kind == "gpt", int(tensors["rows"].shape[1] ** 0.5)

    def __call__(self, rows):
        if self.is_text:
            logits = self.forward(self.weights, rows.int(), self.options)
            return logits.view(-1, logits.shape[-1])
        return self.forward(self.weights, self.images(rows), self.options)

    def images(self, rows):
        return (rows.float() * self.scale - self.shift).view(-1, 1, self.side, self.side)


def check(logits, expected):
    error = (logits - expected).abs().max() / expected.abs().max()
    if not error <= 1e-4:
        raise ValueError(f"logits differ by {error:.2e} of the largest")


def stepped(arm, model, tensors, batch, settings):
    """(call of an iteration, settings) of a model that reads a byte at a time."""
    if model.kind != "gpt" or arm == "int8":
        raise ValueError(f"'{model.kind}' reads no bytes in form {arm} here")
    name, step = torch_steps.deployed(arm, model, tensors, batch, check)
    columns = batch.t().contiguous()
    return lambda n: step(columns[n % len(columns)], n % len(columns)), f"{settings},{name}"


def deployed(arm, model, tensors, batch, settings):
    """(what to call, settings) of an arm."""
    rows, expected = tensors["rows"], tensors["logits"]
    if arm == "eager":
        return model, settings
    if arm == "best":
        name, model = torch_deploy.fastest(torch_deploy.float_forms(model, rows, lambda y: check(y, expected)), batch)
        return model, f"{settings},{name}"
    name, model = torch_deploy.fastest(torch_deploy.int8_forms(model, rows), batch)
    agree = int((model(rows).argmax(1) == expected.argmax(1)).sum())
    if agree < 0.95 * len(expected):
        raise ValueError(f"INT8 agrees with f32 on {agree} of {len(expected)} rows alone")
    return model, f"torch-{torch.__version__},int8:{torch_deploy.ENGINE},{name},top1={agree}/{len(expected)}"


def main():
    path, rows, settings = sys.argv[1], int(sys.argv[2]), torch_tuned.start(torch, sys.argv[3])
    arm = sys.argv[4] if len(sys.argv) > 4 else "eager"
    arrays, notes = read(path)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    model = Model(tensors, notes)
    batch = tensors["rows"].repeat(rows // len(tensors["rows"]) + 1, 1)[:rows].clone()
    with torch.inference_mode():
        try:
            check(model(tensors["rows"]), tensors["logits"])
            if notes["form"] == "step":
                call, settings = stepped(arm, model, tensors, batch, settings)
            else:
                form, settings = deployed(arm, model, tensors, batch, settings)
                call = lambda _: form(batch)  # noqa: E731
        except ValueError as reason:
            print(f"cannot torch_infer {arm}: {reason}")
            return 1
        print("ready", settings, flush=True)
        for n, _ in enumerate(sys.stdin):
            call(n)
            start = time.perf_counter()
            call(n)
            print(1e3 * (time.perf_counter() - start), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
