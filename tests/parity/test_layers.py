"""Layers have the shapes, the initial values and the results of torch.nn's, forward and backward."""
import ctypes as C
import functools
import math
import unittest

import engine  # before torch: it says so where torch is missing

import torch

import compare
from engine import SEED, lib



class Linear(C.Structure):
    _fields_ = [("weight", C.c_void_p), ("bias", C.c_void_p)]


class Conv2d(C.Structure):
    _fields_ = Linear._fields_ + [("stride", C.c_int64), ("pad", C.c_int64), ("groups", C.c_int64)]


class Conv2dOpts(C.Structure):
    _fields_ = [("stride", C.c_int64), ("pad", C.c_int64), ("groups", C.c_int64), ("no_bias", C.c_bool)]


class Embedding(C.Structure):
    _fields_ = [("weight", C.c_void_p)]


class LayerNorm(C.Structure):
    _fields_ = Linear._fields_ + [("eps", C.c_double)]


class Dropout(C.Structure):
    _fields_ = [("p", C.c_double), ("training", C.c_void_p)]


class Attention(C.Structure):
    _fields_ = [("qkv", Linear), ("proj", Linear), ("heads", C.c_int64), ("causal", C.c_bool),
                ("drop", Dropout)]


class AttentionConfig(C.Structure):
    _fields_ = [("width", C.c_int64), ("heads", C.c_int64), ("causal", C.c_bool), ("std", C.c_double),
                ("proj_std", C.c_double), ("dropout", C.c_double)]


class Block(C.Structure):
    _fields_ = [("norm1", LayerNorm), ("norm2", LayerNorm), ("attn", Attention), ("fc", Linear),
                ("proj", Linear), ("drop", Dropout)]


LAYERS = {  # name: (structure, arguments of its maker behind the set)
    "linear": (Linear, [C.c_char_p, C.c_int64, C.c_int64, C.c_bool]),
    "conv2d": (Conv2d, [C.c_char_p, C.c_int64, C.c_int64, C.c_int64, C.c_void_p]),
    "embedding": (Embedding, [C.c_char_p, C.c_int64, C.c_int64, C.c_double]),
    "layer_norm": (LayerNorm, [C.c_char_p, C.c_int64]),
    "attention": (Attention, [C.c_char_p, C.c_void_p]),
    "transformer_block": (Block, [C.c_void_p]),
}
for name, (structure, arguments) in LAYERS.items():
    make, forward = getattr(lib, f"tb_nn_{name}_make"), getattr(lib, f"tb_nn_{name}_forward")
    make.restype, make.argtypes = structure, [C.c_void_p, *arguments]
    forward.restype, forward.argtypes = C.c_void_p, [C.c_void_p, C.c_void_p]
lib.tb_params_create.argtypes = [C.c_int, C.c_uint64, C.c_void_p]
lib.tb_params_status.argtypes = lib.tb_params_destroy.argtypes = [C.c_void_p]


class Layer:
    """A layer of the engine in a parameter set of its own."""

    def __init__(self, name, dtype, *arguments):
        self.params, self.name = C.c_void_p(), name
        engine.check(lib.tb_params_create(engine.NUMBER[dtype], 7, C.byref(self.params)))
        self.structure = getattr(lib, f"tb_nn_{name}_make")(self.params, *arguments)
        engine.check(lib.tb_params_status(self.params))
        found = [lib.tb_params_at(self.params, i).contents for i in range(lib.tb_params_count(self.params))]
        self.tensors = {p.name.decode().lstrip("."): p.tensor for p in found}

    def weights(self):
        return {name: engine.to_torch(tensor) for name, tensor in self.tensors.items()}

    def run(self, x, grad):
        """The result, and the gradients of the input (None for indices) and of every parameter."""
        with engine.scope():
            handle = engine.to_engine(x)
            if x.dtype.is_floating_point:
                engine.require_grad(handle)
            y = getattr(lib, f"tb_nn_{self.name}_forward")(C.byref(self.structure), handle)
            at = ([handle] if x.dtype.is_floating_point else []) + list(self.tensors.values())
            return engine.to_torch(y), engine.gradients(y, engine.to_engine(grad), at)

    def close(self):
        lib.tb_params_destroy(self.params)


def conv2d(*sizes, **opts):
    return [b"", *sizes, C.byref(Conv2dOpts(**opts))]


def attention(width, heads, causal):
    return C.byref(AttentionConfig(width, heads, causal, 0.2, 0.2, 0.0))


def packed(module, w):
    """A torch.nn.MultiheadAttention with the weights under their names here."""
    names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias", "out_proj.weight": "proj.weight",
             "out_proj.bias": "proj.bias"}
    module.load_state_dict({theirs: w[ours] for theirs, ours in names.items()})
    return [module.in_proj_weight, module.in_proj_bias, module.out_proj.weight, module.out_proj.bias]


def in_f32_and_f64(test):
    @functools.wraps(test)
    def each(self):
        for dtype in (torch.float32, torch.float64):
            self.generator = torch.Generator().manual_seed(SEED)
            with self.subTest(dtype=dtype, seed=SEED):
                test(self, dtype)
    return each


class Layers(unittest.TestCase):
    def check(self, what, layer, x, function, parameters, k):
        """Compares with function(x) and the gradients of these f64 torch parameters, in the layer's order."""
        leaf = x.double().requires_grad_() if x.dtype.is_floating_point else x
        want = function(leaf)
        grad = torch.rand(want.shape, generator=self.generator, dtype=torch.float64) + 0.5
        dtype = next(iter(layer.weights().values())).dtype
        grad = grad.to(dtype)
        got, gradients = layer.run(x, grad)
        at = ([leaf] if x.dtype.is_floating_point else []) + parameters
        wanted = torch.autograd.grad(want, at, grad.double())
        rows = max(want.numel() // want.shape[-1], 1)
        pairs = [("result", got, want.detach(), k)] + [(f"gradient {i}", a, b, k + rows) for i, (a, b) in
                                                       enumerate(zip(gradients, wanted))]
        for which, a, b, terms in pairs:
            tolerance = compare.allowed(b, None, dtype, 8, terms, True)
            compare.assert_agree(a, b, tolerance, f"{what} {dtype}: {which}")

    def randoms(self, *shape, dtype):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(dtype)

    def check_module(self, name, arguments, module, x, k):
        """A module whose parameters have the same names."""
        layer = Layer(name, x.dtype if x.dtype.is_floating_point else torch.float32, *arguments)
        w, module = layer.weights(), module.double()
        shapes = {name: t.shape for name, t in module.state_dict().items()}
        self.assertEqual({name: t.shape for name, t in w.items()}, shapes)
        module.load_state_dict(w)
        self.check(name, layer, x, module, [dict(module.named_parameters())[n] for n in w], k)
        layer.close()

    @in_f32_and_f64
    def test_linear(self, dtype):
        for bias in (True, False):
            self.check_module("linear", [b"", 37, 19, bias], torch.nn.Linear(37, 19, bias),
                              self.randoms(5, 3, 37, dtype=dtype), 37)

    @in_f32_and_f64
    def test_conv2d(self, dtype):
        for stride, pad, groups, no_bias in ((1, 0, 1, False), (2, 1, 2, True), (1, 2, 4, False)):
            module = torch.nn.Conv2d(4, 8, 3, stride, pad, groups=groups, bias=not no_bias)
            ours = conv2d(4, 8, 3, stride=stride, pad=pad, groups=groups, no_bias=no_bias)
            x = self.randoms(3, 4, 9, 9, dtype=dtype)
            self.check_module("conv2d", ours, module, x, 4 // groups * 9)

    def test_embedding(self):
        self.generator = torch.Generator().manual_seed(SEED)
        index = torch.randint(0, 11, (4, 6), generator=self.generator)
        self.check_module("embedding", [b"", 11, 5, 1.0], torch.nn.Embedding(11, 5), index, 1)

    @in_f32_and_f64
    def test_layer_norm(self, dtype):
        x = self.randoms(4, 5, 24, dtype=dtype)
        self.check_module("layer_norm", [b"", 24], torch.nn.LayerNorm(24), x, 24)

    @in_f32_and_f64
    def test_attention_is_torchs_multihead_attention(self, dtype):
        for causal in (True, False):
            layer = Layer("attention", dtype, b"", attention(24, 3, causal))
            module = torch.nn.MultiheadAttention(24, 3, batch_first=True).double()
            parameters = packed(module, layer.weights())
            mask = torch.ones(10, 10, dtype=torch.bool).triu(1) if causal else None

            def run(x):
                return module(x, x, x, attn_mask=mask, need_weights=False)[0]
            self.check("attention", layer, self.randoms(2, 10, 24, dtype=dtype), run, parameters, 3 * 24)
            layer.close()

    @in_f32_and_f64
    def test_transformer_block_is_torchs_encoder_layer_with_norms_first(self, dtype):
        layer = Layer("transformer_block", dtype, attention(24, 3, True))
        module = torch.nn.TransformerEncoderLayer(
            24, 3, 96, 0.0, lambda x: torch.nn.functional.gelu(x, approximate="tanh"), batch_first=True,
            norm_first=True).double()
        w = layer.weights()
        parts = ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias")
        inside = packed(module.self_attn, {part: w["attn." + part] for part in parts})
        parameters = {"attn." + part: p for part, p in zip(parts, inside)}
        for ours, theirs in (("norm1", module.norm1), ("norm2", module.norm2), ("fc", module.linear1),
                             ("proj", module.linear2)):
            theirs.load_state_dict({part: w[f"{ours}.{part}"] for part in ("weight", "bias")})
            parameters.update({f"{ours}.{part}": getattr(theirs, part) for part in ("weight", "bias")})
        mask = torch.ones(10, 10, dtype=torch.bool).triu(1)
        self.check("block", layer, self.randoms(2, 10, 24, dtype=dtype), lambda x: module(x, src_mask=mask),
                   [parameters[n] for n in w], 96)
        layer.close()

    def test_initial_values_have_torchs_distributions(self):
        """Uniform on +-1/sqrt(fan in), whose deviation is that over sqrt(3); norms are ones and zeros."""
        linear = [b"", 64, 200, True]
        for name, arguments, fan in (("linear", linear, 64), ("conv2d", conv2d(8, 64, 5), 8 * 25)):
            layer = Layer(name, torch.float32, *arguments)
            for what, w in layer.weights().items():
                bound = 1 / math.sqrt(fan)
                self.assertLessEqual(w.abs().max(), bound, what)
                self.assertGreater(w.abs().max(), 0.95 * bound, what)
                if w.numel() > 1000:
                    self.assertAlmostEqual(w.std().item() * math.sqrt(3) / bound, 1, delta=0.02)
                    self.assertAlmostEqual(w.mean().item() / bound, 0, delta=0.02)
            layer.close()
        layer = Layer("layer_norm", torch.float32, b"", 9)
        self.assertTrue((layer.weights()["weight"] == 1).all() and (layer.weights()["bias"] == 0).all())
        layer.close()
        layer = Layer("embedding", torch.float32, b"", 300, 40, 1.0)
        self.assertAlmostEqual(layer.weights()["weight"].std().item(), 1, delta=0.03)
        layer.close()


if __name__ == "__main__":
    print(f"seed {SEED}")
    engine.enter_context()
    unittest.main()
