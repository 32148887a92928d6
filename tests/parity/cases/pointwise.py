"""Pointwise ops: arithmetic, elementary functions, activations, comparisons, choices, casts."""
import torch
import torch.nn.functional as F

from . import Case, case, vjp

UNARY = {  # op: (function, range of values)
    "neg": (torch.neg, -2, 2), "abs": (torch.abs, -2, 2), "sign": (torch.sign, -2, 2),
    "exp": (torch.exp, -3, 3),
    "log": (torch.log, 0.1, 4), "sqrt": (torch.sqrt, 0.1, 4), "rsqrt": (torch.rsqrt, 0.1, 4),
    "relu": (torch.relu, -2, 2), "tanh": (torch.tanh, -2, 2), "sigmoid": (torch.sigmoid, -4, 4),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), -5, 5), "gelu_erf": (F.gelu, -5, 5),
    "silu": (F.silu, -5, 5),
    "logical_not": (torch.logical_not, -1, 1),
}
BINARY = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "maximum": torch.maximum, "minimum": torch.minimum,
    "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge,
    "logical_and": torch.logical_and,
}
FROM_RESULT = {  # backward ops that take the result y
    "relu_grad": (lambda g, y: torch.where(y > 0, g, torch.zeros_like(g)), 0, 2),
    "tanh_grad": (lambda g, y: g * (1 - y * y), -1, 1),
    "sigmoid_grad": (lambda g, y: g * y * (1 - y), 0, 1),
}


@case(*UNARY)
def unary(r, name):
    function, low, high = UNARY[name]
    terms = 1 if name in ("tanh", "sigmoid") else 0  # g (1 - y^2), of a rounded y
    return Case([r.floats(*r.shape(0, 3, 17), low=low, high=high)], function, grad_terms=terms)


@case(*BINARY)
def binary(r, name):
    a, b = r.broadcast()
    return Case([r.floats(*a), r.floats(*b)], BINARY[name])


@case("div")
def div(r):
    a, b = r.broadcast()
    return Case([r.floats(*a), r.floats(*b, low=0.5, high=3)], torch.div)


@case("pow")
def power(r):
    a, b = r.broadcast()
    return Case([r.floats(*a, low=0.2, high=3), r.floats(*b, low=0, high=3)], torch.pow)


@case("where")
def where(r):
    condition, a, b = r.broadcast(3)
    return Case([r.truths(*condition), r.floats(*a), r.floats(*b)], torch.where)


@case("clamp")
def clamp(r):
    low = 0 if r.dtype == torch.uint8 else -1  # torch wraps a negative bound of u8; ours bounds nothing
    lo, hi = r.pick((low, 1), (0, 2), (None, 1), (low, None))
    return Case([r.floats(*r.shape(0, 3, 17))], lambda x: torch.clamp(x, lo, hi),
                {"lo": float("-inf") if lo is None else lo, "hi": float("inf") if hi is None else hi})


@case(*FROM_RESULT)
def from_result(r, name):
    function, low, high = FROM_RESULT[name]
    shape = r.shape(0, 3, 17)
    return Case([r.floats(*shape), r.floats(*shape, low=low, high=high)], function, grad_terms=1)


@case("gelu_tanh_grad", "gelu_erf_grad", "silu_grad")
def from_input(r, name):
    forward = UNARY[name[:-len("_grad")]][0]
    shape = r.shape(0, 3, 17)
    return Case([r.floats(*shape), r.floats(*shape, low=-4, high=4)], lambda g, x: vjp(forward, [x], g)[0],
                grad_terms=1)
