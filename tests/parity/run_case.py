"""Runs one case in the engine and in PyTorch, forward and backward, and compares."""
import math

import torch

import compare
import engine


def rounded(item, dtype):
    """The input in the dtype under test."""
    if item is None or item.role == "fixed":
        return item and item.value
    wide = dtype == torch.float64 or not dtype.is_floating_point
    return item.value.to(dtype if item.role == "tested" or wide else torch.float32)


def is_differentiated(item):
    return item is not None and item.grad and item.role != "fixed"


def truth(case, values, function, absolute=False):
    """What the function gives in f64 (of integers: in their dtype), and the leaves it comes from."""
    leaves = []
    for item, value in zip(case.inputs, values):
        if value is not None and value.dtype.is_floating_point and item.role != "fixed":
            value = value.double().abs() if absolute else value.double()
            value = value.clone().requires_grad_(case.grad and is_differentiated(item))
        leaves.append(value)
    results = function(*leaves)
    return list(results) if isinstance(results, (tuple, list)) else [results], leaves


class Run:
    """One case in one dtype."""

    def __init__(self, name, info, case, dtype):
        self.name, self.info, self.case, self.dtype = name, info, case, dtype
        self.values = [rounded(item, dtype) for item in case.inputs]
        self.results, self.leaves = truth(case, self.values, case.torch)
        has_magnitude = case.magnitude and dtype.is_floating_point
        self.absolute = truth(case, self.values, case.terms or case.torch, True) if has_magnitude else None
        shapes = [list(v.shape) for v in self.values if v is not None]
        self.what = f"{name} {str(dtype)[6:]} {shapes} {case.attrs}"

    def forward_and_backward(self, registry):
        with engine.scope():
            handles = [engine.to_engine(value) for value in self.values]
            differentiates = (self.info["gradient"] and self.case.grad and self.dtype.is_floating_point and
                              any(leaf is not None and leaf.requires_grad for leaf in self.leaves) and
                              any(r.requires_grad for r in self.results))
            if differentiates:
                for handle, leaf in zip(handles, self.leaves):
                    if leaf is not None and leaf.requires_grad:
                        engine.require_grad(handle)
            out = engine.call(self.name, handles, self.case.attrs, len(self.results))
            self.check_forward(out)
            if differentiates:
                self.check_backward(handles, out, registry)

    def out_dtype(self, result):
        """Floats come in the dtype under test, unless the case says which; f64 stands for it in the truth."""
        if result.dtype == torch.float64 and "dtype" not in self.case.attrs and self.dtype.is_floating_point:
            return self.dtype
        return result.dtype

    def check_forward(self, out):
        for number, (handle, want) in enumerate(zip(out, self.results)):
            got, want = engine.to_torch(handle), want.detach()
            expected = self.out_dtype(want)
            assert got.dtype == expected, f"{self.what}: result {got.dtype}, PyTorch {expected}"
            magnitude = self.absolute and self.absolute[0][number].detach()
            k = self.case.k
            tolerance = compare.allowed(want, magnitude, got.dtype, self.info["tolerance"], k, k > 1)
            compare.assert_agree(got, want, tolerance, f"{self.what}, result {number}")

    def check_backward(self, handles, out, registry):
        generator = torch.Generator().manual_seed(5)
        grads = [(torch.rand(r.shape, generator=generator, dtype=torch.float64) + 0.5).to(self.out_dtype(r))
                 for r in self.results]
        at = [i for i, leaf in enumerate(self.leaves) if leaf is not None and leaf.requires_grad]
        want = self.torch_gradients(self.results, self.leaves, grads, at)
        large = self.absolute and self.torch_gradients(*self.absolute, grads, at)
        root, weight = self.root(out, grads)
        got = engine.gradients(root, weight, [handles[i] for i in at])
        backward = registry.get(self.name + "_grad")
        terms = self.case.k * sum(r.numel() for r in self.results)
        for n, i in enumerate(at):
            if got[n] is None:
                assert want[n].abs().sum() == 0, f"{self.what}: no gradient of input {i}"
                continue
            k = max(self.case.k, math.ceil(terms / max(self.leaves[i].numel(), 1)))
            c = max(backward["tolerance"], 1) if backward else 8  # 8: a composed rule, every op of it rounds
            tolerance = compare.allowed(want[n], large and large[n], self.dtype, c, k, True,
                                        self.case.grad_terms)
            compare.assert_agree(got[n], want[n], tolerance, f"{self.what}, gradient of input {i}")

    @staticmethod
    def torch_gradients(results, leaves, grads, at):
        weights = [g.to(r.dtype) for g, r in zip(grads, results)]
        made = torch.autograd.grad(results, [leaves[i] for i in at], weights, allow_unused=True)
        return [torch.zeros_like(leaves[i]) if g is None else g.detach() for i, g in zip(at, made)]

    def root(self, out, grads):
        """One result with its gradient; of several, the sum of all their weighted elements."""
        weights = [engine.to_engine(g) for g in grads]
        if len(out) == 1:
            return out[0], weights[0]
        parts = [engine.call("sum", engine.call("mul", [y, w]))[0] for y, w in zip(out, weights)]
        total = parts[0]
        for part in parts[1:]:
            total = engine.call("add", [total, part])[0]
        return total, None
