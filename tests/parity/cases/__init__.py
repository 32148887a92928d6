"""What each op is in PyTorch: one generator of random cases per op, found by the op's name.

A generator takes a Source and returns a Case: inputs, attributes, the PyTorch function. Inputs made by
`source.floats` are in the dtype under test; everything else keeps its own. A new file here is found by
itself.
"""
import importlib
import pkgutil
import zlib
from dataclasses import dataclass, field
from typing import Callable

import torch


@dataclass
class Input:
    value: torch.Tensor
    role: str = "tested"  # tested: in the dtype under test; stat: f64 there, else f32; fixed: as it is
    grad: bool = True     # differentiated


@dataclass
class Case:
    inputs: list              # Input or None (absent)
    torch: Callable           # the same in PyTorch; one tensor or a tuple of the visible results
    attrs: dict = field(default_factory=dict)
    k: int = 1                # terms of a sum that reach one element
    grad: bool = True         # False: this case is not differentiated
    terms: Callable = None    # what is summed, of absolute inputs, where that is not `torch` of them
    magnitude: bool = True    # False: absolute inputs say nothing of what is summed (they go through exp)
    grad_terms: float = 0     # least size of what the gradient rule sums, where that can cancel


class Source:
    """Random shapes and values; the same for a seed, an op and a round."""

    def __init__(self, seed, op, number, dtype=torch.float64):
        self.generator = torch.Generator().manual_seed(seed + zlib.crc32(op.encode()) + 7919 * number)
        self.number, self.dtype = number, dtype

    def integer(self, low, high):
        """low <= i <= high"""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def pick(self, *choices):
        return choices[self.integer(0, len(choices) - 1)]

    def size(self, most=9):
        return self.integer(1, most)

    def shape(self, low=0, high=4, most=6):
        return [self.size(most) for _ in range(self.integer(low, high))]

    def broadcast(self, n=2):
        """n shapes that broadcast: dimensions of 1, and leading ones left out."""
        full = self.shape(1, 3, 9)
        shapes = [[self.pick(d, d, 1) for d in full][self.pick(0, 0, self.integer(0, len(full))):]
                  for _ in range(n)]
        shapes[self.integer(0, n - 1)] = full
        return shapes

    def values(self, shape, low, high):
        if self.dtype.is_floating_point:
            unit = torch.rand(tuple(shape), generator=self.generator, dtype=torch.float64)
            return low + (high - low) * unit
        if self.dtype == torch.bool:
            low, high = 0, 1
        low, high = (0 if self.dtype == torch.uint8 else round(low)), max(round(high), 1)
        return torch.randint(low, high + 1, tuple(shape), generator=self.generator).double()

    def floats(self, *shape, low=-2.0, high=2.0, grad=True):
        return Input(self.values(shape, low, high), grad=grad)

    def distinct(self, *shape):
        """No two elements are equal: maxima have no ties, in no dtype."""
        n = int(torch.tensor(shape).prod()) if shape else 1
        order = torch.randperm(n, generator=self.generator).double()
        return Input(((order if self.dtype == torch.uint8 else order - n // 2) % 120).reshape(shape))

    def indices(self, *shape, below, dtype=torch.int64):
        return fixed(torch.randint(0, below, shape, generator=self.generator).to(dtype))

    def truths(self, *shape):
        return fixed(torch.rand(shape, generator=self.generator) < 0.5)


def fixed(value):
    return Input(value, "fixed", grad=False)


def stat(value):
    return Input(value, "stat")


REGISTRY = {}


def case(*names):
    """Registers a generator for ops; it is called as generator(source, name) where it serves several."""
    def register(generator):
        for name in names:
            assert name not in REGISTRY, name
            of_one = lambda source, name=name: generator(source, name)  # noqa: E731
            REGISTRY[name] = generator if len(names) == 1 else of_one
        return generator
    return register


def vjp(function, inputs, grad):
    """The gradient of function(*inputs) weighted by grad, itself differentiable: a backward op."""
    inputs = [x if x.requires_grad else x.requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*inputs), inputs, grad, create_graph=True)


for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")
