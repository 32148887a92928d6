"""The forms in which PyTorch offers a trained model for inference, for torch_infer.py to choose from.

A form is a (name, what to call) pair. Forms of f32: eager, torch.jit.trace, torch.jit.freeze and
torch.jit.optimize_for_inference of the trace. Forms of INT8: FX graph mode post-training static quantization with
weights a scale a channel, calibrated on the given rows, eager and traced and frozen."""
import statistics
import sys
import time
import warnings

import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

ENGINE = next((e for e in ("onednn", "fbgemm") if e in torch.backends.quantized.supported_engines), "none")
ROUNDS, LEAST_S = 15, 0.3


def fastest(forms, batch):
    """The form whose median call on the batch is shortest; they take turns."""
    times, start = {name: [] for name, _ in forms}, time.perf_counter()
    for _, form in forms:  # a trace is compiled in its first calls
        for _ in range(3):
            form(batch)
    while len(times[forms[0][0]]) < ROUNDS or time.perf_counter() - start < LEAST_S:
        for name, form in forms:
            form(batch)
            before = time.perf_counter()
            form(batch)
            times[name].append(time.perf_counter() - before)
    return min(forms, key=lambda form: statistics.median(times[form[0]]))


class Module(nn.Module):
    """A function as a module: tracing makes its weights constants, which freezing folds and packs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *given):
        return self.function(*given)


def traced_forms(function, rows):
    """Those that torch can make of it; one that it can't is named on stderr."""
    module = function if isinstance(function, nn.Module) else Module(function).eval()
    forms, makers = [], (("traced", lambda t: t), ("frozen", torch.jit.freeze),
                         ("optimized", lambda t: torch.jit.optimize_for_inference(torch.jit.freeze(t))))
    for name, make in makers:
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sizes that become constants, as they are
                form = make(torch.jit.trace(module, (rows,), check_trace=False))
            form(rows)
            forms.append((name, form))
        except (RuntimeError, TypeError) as error:
            print(f"torch_deploy: no {name} form: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
    return forms


def float_forms(model, rows, check):
    """`check` raises ValueError where logits are wrong."""
    forms = [("eager", model)] + traced_forms(model, rows)
    for name, form in forms:
        try:
            check(form(rows))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return forms


def layer(module, weights, name):
    with torch.no_grad():
        module.weight.copy_(weights.of[name + ".weight"])
        module.bias.copy_(weights.of[name + ".bias"])
    return module


def linear(weights, name):
    out, into = weights.of[name + ".weight"].shape
    return layer(nn.Linear(into, out), weights, name)


def conv(weights, name):
    out, into, high, wide = weights.of[name + ".weight"].shape
    return layer(nn.Conv2d(into, out, (high, wide)), weights, name)


def mlp(weights, _):
    n = weights.count(".weight")
    layers = [nn.Flatten()]
    for i in range(1, n + 1):
        layers += [linear(weights, f"fc{i}")] + ([nn.ReLU()] if i < n else [])
    return nn.Sequential(*layers)


def cnn(weights, _):
    return nn.Sequential(conv(weights, "conv1"), nn.ReLU(), nn.MaxPool2d(2), conv(weights, "conv2"), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), linear(weights, "fc1"), nn.ReLU(), linear(weights, "fc2"))


def conv_norm(weights, name, stride=1, groups=1):
    """[convolution, batch norm] to be fused by what quantizes them."""
    out, into, high, wide = weights.of[name + ".conv.weight"].shape
    module = nn.Conv2d(into * groups, out, (high, wide), stride, wide // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out)
    with torch.no_grad():
        module.weight.copy_(weights.of[name + ".conv.weight"])
        for part in ("running_mean", "running_var", "weight", "bias"):
            getattr(norm, part).copy_(weights.of[f"{name}.norm.{part}"])
    return [module, norm]


class Residual(nn.Module):
    def __init__(self, weights, name, stride):
        super().__init__()
        self.body = nn.Sequential(*conv_norm(weights, name + ".first", stride), nn.ReLU(),
                                  *conv_norm(weights, name + ".second"))
        self.shortcut = nn.Sequential(*conv_norm(weights, name + ".shortcut", stride)) if stride == 2 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.body(x) + self.shortcut(x))


def classes_of_mean(weights):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(weights, "fc")]


def resnet(weights, options):
    layers = [*conv_norm(weights, "stem"), nn.ReLU()]
    for stage in (1, 2, 3):
        layers += [Residual(weights, f"stage{stage}.{i}", 2 if stage > 1 and i == 0 else 1)
                   for i in range(int(options["depth"]) // 6)]
    return nn.Sequential(*layers, *classes_of_mean(weights))


def dscnn(weights, options):
    layers = [*conv_norm(weights, "stem", 2), nn.ReLU()]
    for i in range(int(options["layers"])):
        channels = len(weights.of[f"block.{i}.depthwise.conv.weight"])
        layers += [*conv_norm(weights, f"block.{i}.depthwise", groups=channels), nn.ReLU(),
                   *conv_norm(weights, f"block.{i}.pointwise"), nn.ReLU()]
    return nn.Sequential(*layers, *classes_of_mean(weights))


MODULES = {"mlp": mlp, "cnn": cnn, "resnet": resnet, "dscnn": dscnn}


class Int8(nn.Module):
    def __init__(self, images, body):
        super().__init__()
        self.images, self.body = images, body

    def forward(self, rows):
        return self.body(self.images(rows))


def int8_forms(model, rows):
    if model.kind not in MODULES or ENGINE == "none":
        raise ValueError(f"no static INT8 of '{model.kind}' here; there is {', '.join(MODULES)}, with onednn or fbgemm")
    torch.backends.quantized.engine = ENGINE
    with torch.inference_mode(False), torch.no_grad():
        images = model.images(rows.clone())
        body = MODULES[model.kind](model.weights, model.options).eval()
        prepared = prepare_fx(body, {"": get_default_qconfig(ENGINE)}, example_inputs=(images,))
        prepared(images)
        body = convert_fx(prepared)
    module = Int8(model.images, body).eval()
    return [("eager", module)] + traced_forms(module, rows)
