"""The engine through its shared library: the public tb_* functions by ctypes, tensors as torch tensors.

Handles belong to the current scope, so everything happens inside `with scope():`.
"""
import contextlib
import ctypes as C
import json
import os
import random
import subprocess
import sys

try:
    import torch
except ImportError:
    sys.exit("parity: this Python has no torch; scripts/dev setup installs it (Debian's python3-torch)")

BUILD = os.environ.get("TB_BUILD_DIR") or sys.exit("parity: TB_BUILD_DIR must name the build folder")
lib = C.CDLL(os.path.join(BUILD, "engine", "libtensorbrain.so"))
torch.set_num_threads(1)

# TB_TEST_FULL: a fresh seed and more rounds; TB_TEST_SEED repeats a run.
FULL = bool(os.environ.get("TB_TEST_FULL"))
SEED = int(os.environ.get("TB_TEST_SEED") or (random.SystemRandom().randrange(1 << 30) if FULL else 1))

MAX_RANK, MAX_OUT = 8, 4
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.int32,
          torch.int64, torch.bool]  # in the order of tb_dtype
FLOATS, INTEGERS = DTYPES[:4], DTYPES[4:8]
NUMBER = {dtype: number for number, dtype in enumerate(DTYPES)}


class Attr(C.Structure):
    _fields_ = [("name", C.c_char_p), ("n", C.c_int), ("value", C.c_double * MAX_RANK)]


class ContextConfig(C.Structure):
    _fields_ = [("threads", C.c_int), ("seed", C.c_uint64), ("device", C.c_char_p), ("cores", C.c_void_p),
                ("n_cores", C.c_int)]


class BackwardOpts(C.Structure):
    _fields_ = [("grad", C.c_void_p), ("retain_graph", C.c_bool), ("create_graph", C.c_bool),
                ("defer_weights", C.c_bool), ("input", C.c_void_p)]


class OptimConfig(C.Structure):
    _fields_ = [("kind", C.c_int), ("rate", C.c_double), ("decay", C.c_double), ("momentum", C.c_double),
                ("nesterov", C.c_bool), ("beta1", C.c_double), ("beta2", C.c_double), ("eps", C.c_double),
                ("clip_norm", C.c_double)]


class Param(C.Structure):
    _fields_ = [("name", C.c_char_p), ("tensor", C.c_void_p), ("decays", C.c_bool)]


def _declare():
    pointer = C.c_void_p
    for name, result, *arguments in (
            ("tb_error_message", C.c_char_p), ("tb_scope_open", pointer), ("tb_ctx_enter", pointer, pointer),
            ("tb_ctx_current", pointer), ("tb_scope_close", None, pointer),
            ("tb_ctx_create", C.c_int, pointer, pointer), ("tb_dtype_size", C.c_size_t, C.c_int),
            ("tb_tensor_from", pointer, C.c_int, C.c_int, pointer, pointer),
            ("tb_tensor_dtype", C.c_int, pointer), ("tb_tensor_rank", C.c_int, pointer),
            ("tb_tensor_dims", C.POINTER(C.c_int64), pointer), ("tb_tensor_bytes", C.c_size_t, pointer),
            ("tb_tensor_read", C.c_int, pointer, pointer, C.c_size_t),
            ("tb_tensor_write", C.c_int, pointer, pointer, C.c_size_t),
            ("tb_call_named", C.c_int, C.c_char_p, C.c_int, pointer, C.c_int, pointer, pointer),
            ("tb_where", pointer, pointer, pointer, pointer),
            ("tb_concat", pointer, C.c_int, pointer, C.c_int64),
            ("tb_require_grad", C.c_int, pointer), ("tb_backward_with", C.c_int, pointer, pointer),
            ("tb_ctx_set_f16_products", None, pointer, C.c_bool),
            ("tb_optim_step_scaled", C.c_int, pointer, C.c_double, pointer),
            ("tb_model_create", C.c_int, C.c_char_p, C.c_int, pointer), ("tb_model_params", pointer, pointer),
            ("tb_model_destroy", None, pointer), ("tb_model_forward", pointer, pointer, pointer),
            ("tb_model_set_training", None, pointer, C.c_bool),
            ("tb_model_save", C.c_int, pointer, C.c_char_p),
            ("tb_model_load", C.c_int, pointer, C.c_char_p), ("tb_params_count", C.c_int, pointer),
            ("tb_params_at", C.POINTER(Param), pointer, C.c_int),
            ("tb_optim_create", C.c_int, pointer, pointer, pointer),
            ("tb_optim_destroy", None, pointer),
            ("tb_optim_grad_norm", C.c_double, pointer),
            ("tb_cross_entropy", pointer, pointer, pointer, pointer),
            ("tb_gradients", C.c_int, pointer, pointer, C.c_int, pointer, pointer)):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments


_declare()


class Failure(Exception):
    """A call of the engine failed; the text is its error record."""


def check(status):
    if status != 0:
        raise Failure(lib.tb_error_message().decode())


def enter_context(seed=1, device="cpu"):
    """Makes a context and enters it: it stays this thread's to the end."""
    context = C.c_void_p()
    check(lib.tb_ctx_create(C.byref(ContextConfig(1, seed, device.encode(), None, 0)), C.byref(context)))
    lib.tb_ctx_enter(context)


@contextlib.contextmanager
def scope():
    handle = lib.tb_scope_open()
    try:
        yield
    finally:
        lib.tb_scope_close(handle)


def to_engine(tensor):
    """A handle with a copy of the torch tensor; None stays None (an absent input)."""
    if tensor is None:
        return None
    tensor = tensor.detach().contiguous()
    dims = (C.c_int64 * MAX_RANK)(*tensor.shape)
    return lib.tb_tensor_from(NUMBER[tensor.dtype], tensor.dim(), dims, tensor.data_ptr())


def to_torch(handle):
    dtype = DTYPES[lib.tb_tensor_dtype(handle)]
    out = torch.empty(lib.tb_tensor_dims(handle)[:lib.tb_tensor_rank(handle)], dtype=dtype)
    check(lib.tb_tensor_read(handle, out.data_ptr(), lib.tb_tensor_bytes(handle)))
    return out


def handles(sequence):
    return (C.c_void_p * max(len(sequence), 1))(*sequence)


def call(op, inputs, attrs=None, outputs=1):
    """Runs any op by name; returns the first `outputs` of its results as handles."""
    table = [Attr(name.encode(), len(value) if isinstance(value, (list, tuple)) else 1,
                  tuple(value) if isinstance(value, (list, tuple)) else (value,))
             for name, value in (attrs or {}).items()]
    out = handles([None] * MAX_OUT)
    attributes = (Attr * max(len(table), 1))(*table)
    check(lib.tb_call_named(op.encode(), len(table), attributes, len(inputs), handles(inputs), out))
    return out[:outputs]


def require_grad(handle):
    check(lib.tb_require_grad(handle))


def gradients(root, grad, inputs):
    """Gradients of `root`, weighted by `grad` (None: 1), with respect to the handles; None: of no effect."""
    out = handles([None] * len(inputs))
    check(lib.tb_gradients(root, C.byref(BackwardOpts(grad=grad)), len(inputs), handles(inputs), out))
    return [None if g is None else to_torch(g) for g in out[:len(inputs)]]


class Model:
    """A model of the zoo, its parameters by name, an optimizer of it."""

    def __init__(self, spec, dtype):
        self.handle, self.optim = C.c_void_p(), None
        check(lib.tb_model_create(spec.encode(), NUMBER[dtype], C.byref(self.handle)))
        lib.tb_model_set_training(self.handle, True)
        params = lib.tb_model_params(self.handle)
        found = [lib.tb_params_at(params, i).contents for i in range(lib.tb_params_count(params))]
        self.tensors = {p.name.decode(): p.tensor for p in found}
        self.decays = {p.name.decode(): p.decays for p in found}

    def optimize(self, **config):
        self.optim = C.c_void_p()
        params = lib.tb_model_params(self.handle)
        check(lib.tb_optim_create(params, C.byref(OptimConfig(**config)), C.byref(self.optim)))

    def weights(self):
        return {name: to_torch(tensor) for name, tensor in self.tensors.items()}

    def forward(self, x):
        with scope():
            return to_torch(lib.tb_model_forward(self.handle, to_engine(x)))

    def step(self, x, labels, scale=1.0):
        """The mean cross-entropy before one step of the optimizer, which takes gradients of it times `scale`."""
        with scope():
            logits = lib.tb_model_forward(self.handle, to_engine(x))
            loss = lib.tb_cross_entropy(logits, to_engine(labels), None)
            root = to_engine(torch.tensor(scale, dtype=to_torch(loss).dtype))
            check(lib.tb_backward_with(loss, C.byref(BackwardOpts(grad=root))))
            taken = C.c_bool()
            check(lib.tb_optim_step_scaled(self.optim, scale, C.byref(taken)))
            assert taken.value, "gradients overflowed"
            return to_torch(loss).double().item()

    def close(self):
        lib.tb_optim_destroy(self.optim)
        lib.tb_model_destroy(self.handle)


def registry():
    """What `tb ops --json` says of every op, by name."""
    program = os.path.join(BUILD, "tb")
    text = subprocess.run([program, "ops", "--json"], check=True, stdout=subprocess.PIPE).stdout
    return {op["op"]: op for op in json.loads(text)}
