"""Training agrees with PyTorch: losses over 50 steps of the zoo, weights after 20 steps of every optimizer.

PyTorch runs in f64 from the same weights. A step's rounding error is that of its longest sum; steps add
theirs, so after t steps K is t times its terms; c = 1. Losses are differences of logits, whose magnitude is
at least 1.
"""
import contextlib
import unittest
from unittest import mock

import engine  # before torch: it says so where torch is missing

import torch

import compare
import models
from engine import SEED

C = 1
HALF_C = 1 / 16

SGD, ADAM, ADAMW = range(3)
# Rates at which training is stable: on its edge any two roundings part, PyTorch's f32 from its own f64 too.
OPTIMIZERS = {  # name: (engine's configuration, torch's)
    "sgd": (dict(kind=SGD, rate=0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd with decay": (dict(kind=SGD, rate=0.1, decay=0.01),
                       lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01)),
    "momentum": (dict(kind=SGD, rate=0.05, momentum=0.9, decay=0.01),
                 lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=0.01)),
    "nesterov": (dict(kind=SGD, rate=0.05, momentum=0.9, nesterov=True, decay=0.01),
                 lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=0.01, nesterov=True)),
    "clipped": (dict(kind=SGD, rate=0.02, momentum=0.9, clip_norm=0.5),
                lambda p: torch.optim.SGD(p, 0.02, 0.9)),
    "adam": (dict(kind=ADAM, rate=0.01, beta1=0.9, beta2=0.99, eps=1e-3, decay=0.01),
             lambda p: torch.optim.Adam(p, 0.01, (0.9, 0.99), 1e-3, 0.01)),
    "adamw": (dict(kind=ADAMW, rate=0.003, beta1=0.9, beta2=0.99, eps=1e-3, decay=0.1, clip_norm=0.2),
              lambda p: torch.optim.AdamW(p, 0.003, (0.9, 0.99), 1e-3, 0.1)),
}


def images(generator, rows, shape, dtype):
    """Ten fixed patterns under noise."""
    patterns = torch.randn(10, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = torch.randint(0, 10, (rows,), generator=generator)
    noise = torch.randn(rows, *shape, generator=generator, dtype=torch.float64)
    return (patterns[labels] + noise).to(dtype), labels


def bytes_(generator, rows, length):
    """Text of a period of four, with noise: the next byte can be learnt."""
    start = torch.randint(0, 64, (rows, 1), generator=generator)
    noise = torch.randint(0, 2, (rows, length + 1), generator=generator)
    text = (start + 16 * torch.arange(length + 1) + noise) % 64
    return text[:, :-1].to(torch.int32), text[:, 1:].to(torch.int32)


# spec, function, batch, optimizer, terms of the longest sum
CURVES = {
    "mlp": ("mlp:widths=64-48-32-10", models.mlp,
            lambda g, dtype: images(g, 32, [64], dtype), "momentum", 64),
    "cnn": ("cnn:size=16,width=32", models.cnn,
            lambda g, dtype: images(g, 8, [1, 16, 16], dtype), "clipped", 32 * 25),
    "gpt": ("gpt:layers=2,width=32,heads=4,context=16,vocab=64", models.gpt,
            lambda g, dtype: bytes_(g, 4, 16), "adamw", 128),
    "resnet": ("resnet:depth=8,width=8,size=8", models.resnet,
               lambda g, dtype: images(g, 8, [1, 8, 8], dtype), "clipped", 32 * 9),
    "dscnn": ("dscnn:layers=2,width=16,size=12", models.dscnn,
              lambda g, dtype: images(g, 8, [1, 12, 12], dtype), "clipped", 8 * 36),
    "vit": ("vit:layers=2,width=32,heads=2,patch=4,size=12", models.vit,
            lambda g, dtype: images(g, 8, [1, 12, 12], dtype), "adamw", 128),
}


class HalfProduct(torch.autograd.Function):
    """x w^T as precision f16 has it: operands, result and their gradients rounded to f16, sums exact (here: in f64)."""

    @staticmethod
    def forward(ctx, x, w):
        x, w = x.half().double(), w.half().double()
        ctx.save_for_backward(x, w)
        return (x @ w.T).half().double()

    @staticmethod
    def backward(ctx, g):
        (x, w), g = ctx.saved_tensors, g.half().double()
        return (g @ w).half().double(), (g.flatten(0, -2).T @ x.flatten(0, -2)).half().double()


def half_linear(x, w, b=None):
    return HalfProduct.apply(x, w) + (0 if b is None else b)


def run(name, dtype, steps, optimizer=None, factor=1.0, scale=1.0):
    """Losses of both, and the weights that they end with. `factor` changes the engine's rate; gradients are those of
    the loss times `scale`."""
    spec, function, batch, usual, _ = CURVES[name]
    config, torchs = OPTIMIZERS[optimizer or usual]
    ours = engine.Model(spec, dtype)
    theirs = models.Torch(function, ours, torchs, config.get("clip_norm", 0.0))
    ours.optimize(**{**config, "rate": factor * config["rate"]})
    generator, losses = torch.Generator().manual_seed(SEED), []
    for _ in range(steps):
        x, labels = batch(generator, dtype)
        losses.append((ours.step(x, labels, scale), theirs.step(x, labels, scale)))
        if len(losses) == 1 and "clip_norm" in config:
            assert engine.lib.tb_optim_grad_norm(ours.optim) > config["clip_norm"], "nothing is clipped"
    weights = [(ours.weights()[w], theirs.weights[w].detach()) for w in theirs.weights]
    ours.close()
    return torch.tensor(losses, dtype=torch.float64).T, weights


def curve_tolerance(name, want, dtype):
    terms = CURVES[name][4]
    units = [compare.unit(dtype, C, terms * t) for t in range(1, len(want) + 1)]
    return torch.tensor(units, dtype=torch.float64) * want.abs().clamp(min=1)


def half_tolerance(want):
    units = [compare.unit(torch.float16, HALF_C, t) for t in range(1, len(want) + 1)]
    return torch.tensor(units, dtype=torch.float64) * want.abs().clamp(min=1)


@contextlib.contextmanager
def f16_products():
    context = engine.lib.tb_ctx_current()
    engine.lib.tb_ctx_set_f16_products(context, True)
    try:
        yield
    finally:
        engine.lib.tb_ctx_set_f16_products(context, False)


class Training(unittest.TestCase):
    def test_losses_agree_over_50_steps(self):
        for name in CURVES:
            for dtype in (torch.float32, torch.float64):
                with self.subTest(model=name, dtype=dtype, seed=SEED):
                    (got, want), _ = run(name, dtype, 50)
                    self.assertLess(want[-5:].mean(), want[:5].mean(), "nothing was learnt")
                    compare.assert_agree(got, want, curve_tolerance(name, want, dtype), f"losses of {name}")

    def test_weights_agree_after_20_steps_of_every_optimizer(self):
        for optimizer in OPTIMIZERS:
            for dtype in (torch.float32, torch.float64):
                with self.subTest(optimizer=optimizer, dtype=dtype, seed=SEED):
                    _, weights = run("mlp", dtype, 20, optimizer)
                    for got, want in weights:
                        tolerance = compare.allowed(want, None, dtype, C, 20 * 64, True)
                        compare.assert_agree(got, want, tolerance, optimizer)

    def test_products_of_f16_with_a_scaled_loss_agree(self):
        """Sums in f32 and in f64 may round to neighbours in f16: each step may add a part of its rounding error."""
        for name in ("mlp", "gpt"):
            with self.subTest(model=name, seed=SEED), f16_products():
                with mock.patch.object(torch.nn.functional, "linear", half_linear):
                    (got, want), _ = run(name, torch.float32, 50, scale=1024.0)
                self.assertLess(want[-5:].mean(), want[:5].mean(), "nothing was learnt")
                compare.assert_agree(got, want, half_tolerance(want), f"losses of {name} in f16")

    def test_training_without_f16_is_noticed(self):
        with f16_products():
            (got, exact), _ = run("mlp", torch.float32, 50, scale=1024.0)
        self.assertTrue(compare.differences(got, exact, half_tolerance(exact)).any())

    def test_a_rate_one_percent_off_is_noticed(self):
        (got, want), _ = run("mlp", torch.float32, 50, factor=1.01)
        self.assertTrue(compare.differences(got, want, curve_tolerance("mlp", want, torch.float32))[2:].any())


if __name__ == "__main__":
    print(f"seed {SEED}")
    engine.enter_context()
    unittest.main()
