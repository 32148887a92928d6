"""When two results agree.

PyTorch in f64, on the same (rounded) values, stands for exact arithmetic. An engine result in a dtype may
differ from it by c * eps(dtype) * sqrt(K) times the magnitude of what was summed, c <= 8 as stated where the
op is (its .tol) and K the number of terms of one element; in f64, where PyTorch rounds as well, by twice
that. The magnitude is the larger of the result itself and of what absolute values of the inputs give; of the
element for K = 1, and the largest of the tensor where terms of a sum reach other elements too. Exact ops and
integers agree bit for bit.
"""
import math

import torch

EPS = {torch.float32: 2.0 ** -23, torch.float64: 2.0 ** -52, torch.bfloat16: 2.0 ** -7,
       torch.float16: 2.0 ** -10}
SMALLEST = {torch.float32: 2.0 ** -126, torch.float64: 2.0 ** -1022, torch.bfloat16: 2.0 ** -126,
            torch.float16: 2.0 ** -24}


def unit(dtype, c, k):
    return c * EPS[dtype] * math.sqrt(k) * (2 if dtype == torch.float64 else 1)


def finite_size(tensor):
    return torch.nan_to_num(tensor.double().abs(), 0.0, 0.0, 0.0)


def allowed(want, magnitude, dtype, c, k, spreads, least=0.0):
    """The tolerance of every element, of a magnitude of at least `least`; None: exact."""
    if c == 0 or dtype not in EPS:
        return None
    scale = finite_size(want).clamp(min=least)
    if magnitude is not None:
        scale = torch.maximum(scale, finite_size(magnitude))
    if spreads and scale.numel():
        scale = scale.max().expand_as(scale)
    return unit(dtype, c, k) * scale + SMALLEST[dtype]


def differences(got, want, tolerance):
    """A mask of the elements that do not agree."""
    if tolerance is None:
        want = want.to(got.dtype)
        return ~((got == want) | ((got != got) & (want != want)))
    x, y = got.double(), want.double()
    same = (x == y.to(got.dtype).double()) | (x.isnan() & y.isnan())
    return ~(same | ((x - y).abs() <= tolerance))


def perturbed(want, dtype, tolerance):
    """What must not pass for `want`: each element ten tolerances away, or another value where exact."""
    if tolerance is not None:
        return want.double() + 10 * tolerance
    if dtype == torch.bool:
        return ~want.to(dtype)
    if dtype in EPS:
        return (want.double() + 10 * EPS[dtype] * want.double().abs().clamp(min=1)).to(dtype)
    return (want + 1).to(dtype)


def assert_agree(got, want, tolerance, what):
    """Fails with the first element that differs; and proves that it would, ten tolerances away."""
    assert got.shape == want.shape, f"{what}: shape {list(got.shape)}, PyTorch {list(want.shape)}"
    bad = differences(got, want, tolerance).flatten()
    if bad.any():
        at = int(bad.nonzero()[0])
        limit = "exact" if tolerance is None else f"tolerance {tolerance.flatten()[at]:.3g}"
        raise AssertionError(
            f"{what}: element {at} of {list(got.shape)} is {got.flatten()[at].item():.9g}, PyTorch has "
            f"{want.flatten()[at].item():.17g} ({limit}; {int(bad.sum())} of {bad.numel()} differ)")
    caught = differences(perturbed(want, got.dtype, tolerance), want, tolerance)
    missed = torch.isfinite(want.double()) & ~caught
    assert not missed.any(), f"{what}: {int(missed.sum())} elements pass ten tolerances away"
