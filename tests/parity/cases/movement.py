"""Ops that move, pick, join, reduce and make elements."""
import torch

from engine import DTYPES, NUMBER

from . import Case, case


@case("cast")
def cast(r):
    to = DTYPES[r.number % len(DTYPES)]
    return Case([r.floats(*r.shape(0, 3, 17), low=-100, high=100)], lambda x: x.to(to), {"dtype": NUMBER[to]})


@case("reshape")
def reshape(r):
    a, b, c = r.size(), r.size(), r.size()
    dims = r.pick([a * b, c], [a, -1], [-1], [c, 1, b, a])
    return Case([r.floats(a, b, c)], lambda x: x.reshape(dims), {"dims": dims})


@case("permute")
def permute(r):
    shape = r.shape(1, 5)
    order = torch.randperm(len(shape), generator=r.generator).tolist()
    return Case([r.floats(*shape)], lambda x: x.permute(order), {"dims": order})


@case("expand")
def expand(r):
    to = r.shape(1, 4)
    from_ = [r.pick(d, 1) for d in to][r.integer(0, len(to)):]
    return Case([r.floats(*from_)], lambda x: x.expand(to), {"dims": to})


def a_slice(r, shape):
    axis = r.integer(0, len(shape) - 1)
    n = shape[axis]
    return {"axis": axis, "start": r.integer(-n, n), "stop": r.integer(0, n + 2), "step": r.integer(1, 3)}


def cut(x, axis, start, stop, step):
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


@case("slice")
def slice_(r):
    shape = r.shape(1, 4)
    attrs = a_slice(r, shape)
    return Case([r.floats(*shape)], lambda x: cut(x, **attrs), attrs)


@case("unslice")
def unslice(r):
    shape = r.shape(1, 4)
    attrs = a_slice(r, shape)

    def back(x):
        y = torch.zeros(shape, dtype=x.dtype)
        cut(y, **attrs).copy_(x)
        return y
    return Case([r.floats(*cut(torch.empty(shape), **attrs).shape)], back, {**attrs, "dims": shape})


@case("concat")
def concat(r):
    shape = r.shape(1, 4)
    axis = r.integer(0, len(shape) - 1)
    parts = [r.floats(*shape[:axis], r.size(), *shape[axis + 1:]) for _ in range(r.integer(1, 4))]
    return Case(parts, lambda *x: torch.cat(x, axis), {"axis": axis - r.pick(0, len(shape))})


def picked(r):
    """A shape, an axis, an index into it."""
    shape = r.shape(1, 3)
    axis = r.integer(0, len(shape) - 1)
    index = [r.size(d) for d in shape]
    index[axis] = r.size()
    return shape, axis, r.indices(*index, below=shape[axis])


@case("gather")
def gather(r):
    shape, axis, index = picked(r)
    return Case([r.floats(*shape), index], lambda x, i: x.gather(axis, i), {"axis": axis}, k=1)


@case("scatter")
def scatter(r):
    shape = r.shape(1, 3)
    axis = r.integer(0, len(shape) - 1)
    index = [1 if i == axis else d for i, d in enumerate(shape)]  # no place twice: torch leaves open which one stays
    return Case([r.floats(*shape), r.indices(*index, below=shape[axis]), r.floats(*index)],
                lambda x, i, src: x.scatter(axis, i, src), {"axis": axis}, k=1)


@case("scatter_add")
def scatter_add(r):
    shape, axis, index = picked(r)
    return Case([r.floats(*shape), index, r.floats(*index.value.shape)],
                lambda x, i, src: x.scatter_add(axis, i, src), {"axis": axis}, k=1 + index.value.shape[axis])


@case("sum")
def sum_(r):
    shape = r.shape(0, 4, 12)
    axes = [i for i in range(len(shape)) if r.pick(True, False)]
    keep, mean = r.pick(True, False), r.dtype.is_floating_point and r.pick(True, False)
    over = axes or list(range(len(shape)))
    k = int(torch.tensor([shape[i] for i in over]).prod()) if over else 1

    def torchs(x):
        if not over:
            return x.clone() if mean else x.sum()
        return x.mean(over, keep) if mean else x.sum(over, keep)
    return Case([r.floats(*shape)], torchs,
                {"axes": axes, "keep": keep, "mean": mean, "batch": r.pick(True, False)}, k=k)


@case("max")
def max_(r):
    shape = r.shape(1, 3)
    axes = [i for i in range(len(shape)) if r.pick(True, False)]
    keep = r.pick(True, False)
    return Case([r.distinct(*shape)], lambda x: x.amax(axes or list(range(x.dim())), keep),
                {"axes": axes, "keep": keep})


@case("argmax")
def argmax(r):
    shape = r.shape(1, 3)
    axis, keep = r.integer(-len(shape), len(shape) - 1), r.pick(True, False)
    return Case([r.distinct(*shape)], lambda x: x.argmax(axis, keep), {"axis": axis, "keep": keep})


@case("full")
def full(r):
    dtype, shape, value = r.pick(*DTYPES), r.shape(0, 3), r.integer(0, 5)
    return Case([], lambda: torch.full(shape, value, dtype=dtype),
                {"dtype": NUMBER[dtype], "dims": shape, "value": value})


@case("arange")
def arange(r):
    dtype, start, step = r.pick(*DTYPES[:8]), r.integer(0, 5), r.integer(1, 3)
    stop = start + r.integer(1, 40)
    return Case([], lambda: torch.arange(start, stop, step, dtype=dtype),
                {"dtype": NUMBER[dtype], "start": start, "stop": stop, "step": step})


@case("accumulate")
def accumulate(r):
    shape, overwrite = r.shape(1, 3), r.pick(True, False)
    return Case([r.floats(*shape), r.floats(*shape)], lambda to, x: x.clone() if overwrite else to + x,
                {"overwrite": overwrite})
