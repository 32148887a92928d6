"""Every op agrees with PyTorch, forward and backward, on random shapes, in every dtype."""
import unittest

import engine  # before torch: it says so where torch is missing

import torch

import cases
import compare
from engine import FULL, SEED
from run_case import Run

ROUNDS = 25 if FULL else 6

ELSEWHERE = {  # ops without a case, and where they are checked
    "rand": "draws of a key of our own: distribution and streams in ops/random",
    "randn": "as rand",
    "multinomial": "as rand",
    "dropout": "its mask is such a draw: below, against the mask that it took",
    "fused_pointwise": "a program of other ops, equal to them bit for bit in compiler/passes",
}


FLOATS_ONLY = {"linear", "linear_act", "embedding", "conv2d", "conv2d_act", "conv2d_winograd", "avg_pool2d",
               "quantize"}  # and backward ops
NOT_OF_BOOL = {"clamp", "accumulate", "argmax"}  # argmax: torch only where nothing is compared


def run_all(test, dtype):
    for name in sorted(cases.REGISTRY):
        for number in range(ROUNDS):
            with test.subTest(op=name, round=number, seed=SEED):
                run_one(name, number, dtype)


def has_tested(case):
    """False: the case's dtypes are its own."""
    return any(item is not None and item.role == "tested" for item in case.inputs)


def run_one(name, number, dtype):
    info = REGISTRY[name]
    is_defined = list(info["dtypes"].values())[engine.NUMBER[dtype]] is not None
    case = cases.REGISTRY[name](cases.Source(SEED, name, number, dtype))
    if not dtype.is_floating_point:
        try:
            Run(name, info, case, dtype)
        except (RuntimeError, TypeError):  # torch does not have it
            return
        is_known = (name in FLOATS_ONLY or name.endswith("_grad") or not has_tested(case) or
                    dtype == torch.bool and name in NOT_OF_BOOL)
        assert is_defined or is_known, f"{name}: torch has it for {dtype}, the engine has not"
    if is_defined or not has_tested(case):
        Run(name, info, case, dtype).forward_and_backward(REGISTRY)


class Ops(unittest.TestCase):
    def test_every_op_has_a_case_or_a_reason(self):
        without = set(REGISTRY) - set(cases.REGISTRY) - set(ELSEWHERE)
        self.assertFalse(without, f"no parity case in tests/parity/cases for {sorted(without)}")
        gone = (set(cases.REGISTRY) | set(ELSEWHERE)) - set(REGISTRY)
        self.assertFalse(gone, f"cases of ops that the engine does not have: {sorted(gone)}")
        self.assertFalse(set(cases.REGISTRY) & set(ELSEWHERE))

    def test_another_function_is_noticed(self):
        case = cases.REGISTRY["tanh"](cases.Source(SEED, "tanh", 0))
        case.torch = torch.sin
        with self.assertRaisesRegex(AssertionError, "PyTorch has"):
            Run("tanh", REGISTRY["tanh"], case, torch.float32).forward_and_backward(REGISTRY)

    def test_a_result_ten_tolerances_away_is_noticed(self):
        want = torch.rand(7, dtype=torch.float64) + 1
        tolerance = compare.allowed(want, None, torch.float32, 2, 9, False)
        compare.assert_agree((want + 0.9 * tolerance).double(), want, tolerance, "inside")
        with self.assertRaisesRegex(AssertionError, "7 of 7 differ"):
            compare.assert_agree(want + 10 * tolerance, want, tolerance, "outside")

    def test_f32_agrees(self):
        run_all(self, torch.float32)

    def test_f64_agrees(self):
        run_all(self, torch.float64)

    def test_bf16_agrees(self):
        run_all(self, torch.bfloat16)

    def test_f16_agrees(self):
        run_all(self, torch.float16)

    def test_integers_and_bool_agree_wherever_torch_has_them(self):
        for dtype in engine.INTEGERS + [torch.bool]:
            run_all(self, dtype)

    def test_mixed_dtypes_promote_as_in_torch(self):
        """All pairs of dtypes, with dimensions and without: 0-d tensors count for less."""
        for a in engine.DTYPES:
            for b in engine.DTYPES:
                for shapes in (((3,), (3,)), ((3,), ()), ((), (3,)), ((), ())):
                    with self.subTest(a=a, b=b, shapes=shapes):
                        self.check_promotion(torch.ones(shapes[0], dtype=a), torch.ones(shapes[1], dtype=b))

    def check_promotion(self, a, b):
        want = torch.result_type(a, b)
        want = torch.int32 if want == torch.int16 else want  # i8 with u8: the engine has no i16
        with engine.scope():
            x, y = engine.to_engine(a), engine.to_engine(b)
            quotient = want if want.is_floating_point else torch.float32
            for op, dtype in (("mul", want), ("maximum", want), ("div", quotient), ("eq", torch.bool),
                              ("logical_and", torch.bool)):
                got = engine.to_torch(engine.call(op, [x, y])[0])
                self.assertEqual(got.dtype, dtype, op)
                self.assertTrue((got == 1).all(), op)
            chosen = engine.lib.tb_where(engine.to_engine(torch.tensor(True)), x, y)
            self.assertEqual(engine.to_torch(chosen).dtype, want, "where")
            if a.dim() and b.dim():
                joined = engine.lib.tb_concat(2, engine.handles([x, y]), 0)
                self.assertEqual(engine.to_torch(joined).dtype, want, "concat")

    def test_dropout_keeps_and_scales_what_its_mask_keeps(self):
        for dtype in engine.FLOATS:
            x, key = torch.rand(64, 33).to(dtype) + 1, torch.tensor([1, 2, 0])
            with engine.scope():
                handle = engine.to_engine(x)
                engine.require_grad(handle)
                y = engine.call("dropout", [handle, engine.to_engine(key)], {"p": 0.25})[0]
                got, grad = engine.to_torch(y), engine.gradients(y, engine.to_engine(x), [handle])[0]
            want = torch.where(got != 0, x.double() / 0.75, torch.zeros(()).double())
            tolerance = compare.allowed(want, None, dtype, REGISTRY["dropout"]["tolerance"], 1, False)
            compare.assert_agree(got, want, tolerance, "dropout")
            compare.assert_agree(grad, want, tolerance, "gradient of dropout")
            self.assertLess(abs((got == 0).double().mean() - 0.25), 0.05)


if __name__ == "__main__":
    print(f"seed {SEED}, {ROUNDS} rounds an op")
    engine.enter_context()
    REGISTRY = engine.registry()
    unittest.main()
