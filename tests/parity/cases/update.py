"""Optimizer steps, and the integers of INT8 inference. torch.optim itself takes the step."""
import torch
import torch.nn.functional as F

from . import Case, case, fixed
from .layers import ACTIVATIONS


def stepped(optimizer, parameter, grad, state):
    """The parameter and the named states after one step from these."""
    parameter = torch.nn.Parameter(parameter.detach().clone())
    parameter.grad = grad.detach().clone()
    made = optimizer([parameter])
    made.state[parameter].update({name: value.detach().clone() for name, value in state.items()})
    made.step()
    return [parameter.detach()] + [made.state[parameter][name] for name in state if name != "step"]


def sgd_attrs(r):
    return {"rate": 0.1, "scale": r.pick(1.0, 0.5), "decay": r.pick(0.0, 0.01)}


@case("sgd")
def sgd(r):
    shape, a = r.shape(1, 3), sgd_attrs(r)

    def step(p, g):
        return stepped(lambda ps: torch.optim.SGD(ps, a["rate"], weight_decay=a["decay"]), p,
                       a["scale"] * g, {})
    return Case([r.floats(*shape), r.floats(*shape)], step, a, terms=lambda p, g: [p + 0.1 * (g + p)])


@case("sgd_momentum")
def sgd_momentum(r):
    shape, a = r.shape(1, 3), {**sgd_attrs(r), "momentum": 0.9, "nesterov": r.pick(True, False)}

    def step(p, g, b):
        def made(ps):
            return torch.optim.SGD(ps, a["rate"], a["momentum"], weight_decay=a["decay"],
                                   nesterov=a["nesterov"])
        return stepped(made, p, a["scale"] * g, {"momentum_buffer": b})
    return Case([r.floats(*shape) for _ in range(3)], step, a,
                terms=lambda p, g, b: [p + 0.1 * (p + 2 * g + b), b + g + p])


@case("adamw")
def adamw(r):
    shape, t, decoupled = r.shape(1, 3), r.integer(1, 30), r.pick(True, False)
    a = {"rate": 0.01, "scale": r.pick(1.0, 0.5), "decay": r.pick(0.0, 0.1), "beta1": 0.9, "beta2": 0.99,
         "eps": 1e-6}
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam

    def step(p, g, m, v):
        return stepped(lambda ps: kind(ps, a["rate"], (a["beta1"], a["beta2"]), a["eps"], a["decay"]), p,
                       a["scale"] * g, {"step": torch.tensor(float(t - 1)), "exp_avg": m, "exp_avg_sq": v})
    inputs = [r.floats(*shape), r.floats(*shape), r.floats(*shape), r.floats(*shape, low=0.1, high=2)]
    return Case(inputs, step,
                {**a, "bias1": 1 - a["beta1"] ** t, "bias2": 1 - a["beta2"] ** t, "decoupled": decoupled},
                terms=lambda p, g, m, v: [p + 0.01 * (p + m + g), m + g + p, v + g * g + p * p])


@case("running_average")
def running_average(r):
    shape, momentum, scale = r.shape(1, 3), r.pick(0.1, 0.5), r.pick(1.0, 1.25)
    return Case([r.floats(*shape), r.floats(*shape)],
                lambda a, x: torch.lerp(a, scale * x, momentum), {"momentum": momentum, "scale": scale},
                terms=lambda a, x: a + scale * x)


@case("quantize")
def quantize(r):
    scale, zero = 0.03125, r.integer(0, 255)  # a power of two: x / scale is exact
    return Case([r.floats(*r.shape(0, 3, 17), low=-5, high=5)],
                lambda x: torch.quantize_per_tensor(x.float(), scale, zero, torch.quint8).int_repr(),
                {"scale": scale, "zero": zero})


@case("dequantize")
def dequantize(r):
    scale, zero = 0.03125, r.integer(0, 255)
    q = r.indices(*r.shape(0, 3, 17), below=256, dtype=torch.uint8)
    return Case([q], lambda q: (q.float() - zero) * scale, {"scale": scale, "zero": zero})


@case("linear_u8s8")
def linear_u8s8(r):
    rows, n, k, to_u8, zero = r.size(20), r.size(20), r.size(70), r.pick(True, False), r.integer(0, 200)
    x, w = r.indices(rows, k, below=256, dtype=torch.uint8), r.indices(n, k, below=255)
    w, offset = fixed((w.value - 127).to(torch.int8)), r.indices(n, below=5000, dtype=torch.int32)
    scale = fixed((torch.rand(n, generator=r.generator) + 0.1) / 1000)

    def run(x, w, offset, scale):
        y = (x.int() @ w.int().T + offset).float() * scale
        return (torch.round(y) + zero).clamp(0, 255).to(torch.uint8) if to_u8 else y
    return Case([x, w, offset, scale], run, {"to_u8": to_u8, "zero": zero, "low": 0})


@case("linear_dynamic_s8")
def linear_dynamic_s8(r):
    rows, n, k, act = r.size(20), r.size(20), r.size(70), r.number % 5
    x, w = fixed(r.floats(rows, k).value.float()), r.indices(n, k, below=255)
    w, offset = fixed((w.value - 127).to(torch.int8)), r.indices(n, below=5000, dtype=torch.int32)
    scale = fixed((torch.rand(n, generator=r.generator) + 0.1) / 1000)
    bias, residual = r.pick(None, fixed(torch.rand(n))), r.pick(None, fixed(torch.rand(rows, n)))

    def run(x, w, offset, scale, bias, residual):
        most = x.abs().amax(1, keepdim=True)
        q = (torch.round(x * (127 / most)) + 128).clamp(1, 255)
        y = (q.int() @ w.int().T + offset).float() * scale * (most / 127)
        for term in (bias, residual):
            y = y if term is None else y + term
        return ACTIVATIONS[act](y)
    return Case([x, w, offset, scale, bias, residual], run, {"act": act}, k=k + 64)


@case("conv2d_u8s8")
def conv2d_u8s8(r):
    n, c, o, kernel, to_u8 = r.size(3), r.size(20), r.size(40), r.integer(1, 3), r.pick(True, False)
    x_zero, zero, stride, pad = r.integer(0, 200), r.integer(0, 200), r.integer(1, 2), r.integer(0, 2)
    groups = r.pick(1, c)
    o = c if groups > 1 else o
    x = r.indices(n, r.integer(3, 9), r.integer(3, 9), c, below=256, dtype=torch.uint8)
    w, offset = r.indices(o, kernel, kernel, c // groups, below=255), r.indices(o, below=5000, dtype=torch.int32)
    w = fixed((w.value - 127).to(torch.int8))
    scale = fixed((torch.rand(o, generator=r.generator) + 0.1) / 1000)

    def run(x, w, offset, scale):
        image = F.pad(x.permute(0, 3, 1, 2).double(), (pad,) * 4, value=x_zero)
        sums = F.conv2d(image, w.permute(0, 3, 1, 2).double(), stride=stride, groups=groups).permute(0, 2, 3, 1)
        y = (sums.to(torch.int32) + offset).float() * scale
        return (torch.round(y) + zero).clamp(0, 255).to(torch.uint8) if to_u8 else y
    return Case([x, w, offset, scale], run,
                {"stride": [stride] * 2, "pad": [pad] * 2, "dilation": [1, 1], "groups": groups, "x_zero": x_zero,
                 "to_u8": to_u8, "zero": zero, "low": 0})


@case("max_pool2d_u8")
def max_pool2d_u8(r):
    kernel, stride = r.integer(1, 3), r.integer(1, 3)
    pad = r.integer(0, kernel // 2)
    x = r.indices(r.size(3), r.integer(3, 9), r.integer(3, 9), r.size(70), below=256, dtype=torch.uint8)
    return Case([x], lambda x: F.max_pool2d(x.permute(0, 3, 1, 2).double(), kernel, stride, pad)
                .permute(0, 2, 3, 1).to(torch.uint8),
                {"kernel": [kernel] * 2, "stride": [stride] * 2, "pad": [pad] * 2})


@case("add_u8")
def add_u8(r):
    shape, zeros, scales = r.shape(1, 4), [r.integer(0, 255) for _ in range(3)], [r.pick(0.3, 1.7), r.pick(0.9, 0.02)]
    a, b = (r.indices(*shape, below=256, dtype=torch.uint8) for _ in range(2))
    low = r.pick(0, zeros[2])

    def run(a, b):
        left, right = ((x.int() - zero).float() * scale for x, zero, scale in zip((a, b), zeros, scales))
        return (torch.round(left + right) + zeros[2]).clamp(low, 255).to(torch.uint8)
    return Case([a, b], run, {"a_scale": scales[0], "b_scale": scales[1], "a_zero": zeros[0], "b_zero": zeros[1],
                              "zero": zeros[2], "low": low})


@case("mean_u8")
def mean_u8(r):
    h, w, x_zero, zero, scale = r.integer(1, 9), r.integer(1, 9), r.integer(0, 255), r.integer(0, 255), r.pick(0.4, 2.5)
    x = r.indices(r.size(3), h, w, r.size(70), below=256, dtype=torch.uint8)

    def run(x):
        sums = (x.int().sum((1, 2)) - h * w * x_zero).float()
        return (torch.round(sums * (scale / (h * w))) + zero).clamp(0, 255).to(torch.uint8)
    return Case([x], run, {"scale": scale, "x_zero": x_zero, "zero": zero})
