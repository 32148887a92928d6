"""Values and shapes at the edges give what PyTorch gives: NaN, infinities, zeros, ties, nothing to sum."""
import itertools
import unittest

import engine  # before torch: it says so where torch is missing

import torch
import torch.nn.functional as F

from cases import Case, Input, fixed
from cases.pointwise import BINARY, UNARY
from run_case import Run

NAN, INF = float("nan"), float("inf")
SPECIAL = torch.tensor([NAN, INF, -INF, 0.0, 1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
FIRST, SECOND = torch.tensor(list(itertools.product(SPECIAL, SPECIAL)), dtype=torch.float64).T
TIES = torch.tensor([[1.0, 3, 3, 2], [3, 3, 3, 3], [-1, -1, -2, -1]], dtype=torch.float64)


def empty(*shape):
    return torch.empty(shape, dtype=torch.float64)


class Edges(unittest.TestCase):
    def agree(self, op, inputs, function, attrs=None, dtypes=(torch.float32, torch.float64), **case):
        inputs = [x if x is None or isinstance(x, Input) else Input(x) for x in inputs]
        for dtype in dtypes:
            with self.subTest(op=op, dtype=dtype):
                made = Case(inputs, function, attrs or {}, **case)
                Run(op, REGISTRY[op], made, dtype).forward_and_backward(REGISTRY)

    def test_special_values_through_unary_ops(self):
        for op, (function, _, _) in UNARY.items():
            self.agree(op, [SPECIAL], function, grad=False)

    def test_special_values_through_binary_ops(self):
        for op, function in [*BINARY.items(), ("div", torch.div), ("pow", torch.pow)]:
            self.agree(op, [FIRST, SECOND], function, grad=False)

    def test_gradients_at_special_values(self):
        for op in ("neg", "abs", "exp", "relu", "tanh", "sigmoid"):
            self.agree(op, [SPECIAL], UNARY[op][0], grad_terms=1)
        for op in ("add", "sub", "mul", "maximum", "minimum"):
            self.agree(op, [FIRST, SECOND], BINARY[op])

    def test_gradients_where_functions_have_a_kink(self):
        x = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
        for op in ("abs", "relu", "sqrt"):
            self.agree(op, [x.abs() if op == "sqrt" else x], UNARY[op][0])
        self.agree("clamp", [x], lambda x: x.clamp(-1, 1), {"lo": -1, "hi": 1})
        self.agree("clamp", [SPECIAL], lambda x: x.clamp(-1, 1), {"lo": -1, "hi": 1})
        self.agree("clamp", [x], lambda x: x.clamp(2, 1), {"lo": 2, "hi": 1}, grad=False)
        self.agree("maximum", [x, x], torch.maximum)
        self.agree("pow", [torch.zeros(3).double(), torch.tensor([0.0, 1.0, 2.0]).double()], torch.pow)

    def test_ties(self):
        self.agree("max", [TIES], lambda x: x.amax(1), {"axes": [1]})
        self.agree("argmax", [TIES], lambda x: x.argmax(1), {"axis": 1})
        window = {"kernel": [2, 2], "stride": [1, 1], "pad": [0, 0]}
        self.agree("max_pool2d", [TIES[None, None]], lambda x: F.max_pool2d(x, 2, 1), window)

    def test_nan_is_the_maximum(self):
        x = TIES.clone()
        x[0, 2] = x[1, 1] = x[1, 3] = NAN
        self.agree("max", [x], lambda x: x.amax(1), {"axes": [1]}, grad=False)
        self.agree("argmax", [x], lambda x: x.argmax(1), {"axis": 1})
        window = {"kernel": [2, 2], "stride": [1, 1], "pad": [1, 1]}
        self.agree("max_pool2d", [x[None, None]], lambda x: F.max_pool2d(x, 2, 1, 1), window, grad=False)

    def test_infinities_in_rows(self):
        rows = torch.tensor([[1, INF, 2], [-INF, 0, -INF], [NAN, 1, 2], [-INF, -INF, -INF]]).double()
        wide = torch.tensor([[1e4, -1e4, 0.0]]).double()
        for op in ("softmax", "log_softmax"):
            self.agree(op, [rows], lambda x, op=op: getattr(F, op)(x, -1), {"axis": -1}, k=3, grad=False)
        self.agree("softmax", [wide], lambda x: x.softmax(-1), {"axis": -1}, k=3)
        self.agree("sum", [rows], lambda x: x.sum(1), {"axes": [1]}, grad=False)
        self.agree("max", [rows], lambda x: x.amax(1), {"axes": [1]}, grad=False)
        self.agree("layer_norm", [rows, None, None], lambda x, *_: F.layer_norm(x, [3]), k=3, grad=False)

    def test_nothing_to_sum(self):
        self.agree("sum", [empty(0, 3)], lambda x: x.sum(0), {"axes": [0]})
        self.agree("sum", [empty(0, 3)], lambda x: x.mean(0), {"axes": [0], "mean": True})
        self.agree("sum", [empty(2, 0)], lambda x: x.sum(), {})
        self.agree("matmul", [empty(2, 0), empty(0, 3)], torch.matmul)
        self.agree("matmul", [empty(0, 2), torch.ones(2, 3).double()], torch.matmul)
        self.agree("linear", [empty(2, 0), empty(3, 0), torch.ones(3).double()], F.linear)
        self.agree("softmax", [empty(0, 3)], lambda x: x.softmax(1), {"axis": 1})
        self.agree("softmax", [empty(3, 0)], lambda x: x.softmax(1), {"axis": 1})
        none = fixed(torch.empty(0, 4, dtype=torch.int64))
        self.agree("embedding", [torch.ones(3, 2).double(), none], lambda w, i: w[i])
        self.agree("concat", [empty(0, 2), torch.ones(3, 2).double()], lambda *x: torch.cat(x))
        self.agree("layer_norm", [empty(0, 4), torch.ones(4).double(), None],
                   lambda x, g, b: F.layer_norm(x, [4], g))
        self.agree("max", [empty(0, 3)], lambda x: x.amax(1), {"axes": [1]})
        self.agree("conv2d", [empty(0, 1, 4, 4), torch.ones(2, 1, 3, 3).double(), None],
                   lambda x, w, b: F.conv2d(x, w), {"stride": [1, 1], "pad": [0, 0], "dilation": [1, 1]})

    def test_losses_of_ignored_rows(self):
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()
        none = fixed(torch.full((3,), -100))
        for number, reduction in enumerate(("mean", "sum", "none")):
            for labels in (none, fixed(torch.tensor([1, -100, 3]))):
                self.agree("cross_entropy", [x, labels, None],
                           lambda x, y, _, r=reduction: F.cross_entropy(x, y, reduction=r),
                           {"reduction": number}, k=4, magnitude=False)
        rows = torch.tensor([[1e4, -1e4, 0.0], [-INF, 0.0, 1.0], [INF, 0.0, 1.0]]).double()
        self.agree("cross_entropy", [rows, fixed(torch.tensor([1, 0, 0])), None],
                   lambda x, y, _: F.cross_entropy(x, y, reduction="none"), {"reduction": 2}, k=3, grad=False)

    def test_integers_wrap_and_divide_as_in_torch(self):
        for dtype in engine.INTEGERS:
            info = torch.iinfo(dtype)
            x = torch.tensor([info.min, info.max, 0, 1, 7]).double() if dtype != torch.int64 else \
                torch.tensor([-(2.0 ** 62), 2.0 ** 62, 0, 1, 7]).double()
            y = x.flip(0)
            for op in ("add", "sub", "mul", "maximum", "minimum", "eq", "lt"):
                self.agree(op, [x, y], BINARY[op], dtypes=[dtype])
            self.agree("div", [x, y], torch.div, dtypes=[dtype])
            for op in ("neg", "abs", "sign"):
                self.agree(op, [x], UNARY[op][0], dtypes=[dtype])
            self.agree("sum", [x], lambda x: x.sum(), dtypes=[dtype])
            bases, powers = torch.tensor([0.0, 1, 2, 3, 5]), torch.tensor([0.0, 9, 8, 5, 3])
            self.agree("pow", [bases, powers], torch.pow, dtypes=[dtype])


if __name__ == "__main__":
    engine.enter_context()
    REGISTRY = engine.registry()
    unittest.main()
