#!/usr/bin/python3
"""ONNX Runtime as a peer of `tb run fused_int8`, in the environment .venv-peers (`scripts/dev peers` makes it).

ort_infer.py FILE ROWS THREADS f32|int8 builds an ONNX graph of raw bytes to logits from the file that torch_infer.py
describes; models that are not here are an error. f32: it ends with status 1 where logits differ by more than 1e-4 of
the largest. int8: static QDQ quantization, weights a scale a channel, calibrated on the file's rows; its version word
states on how many of them the most likely class is that of f32, and below 95 % it ends with status 1. Then it answers
as torch_infer.py does."""
import logging
import os
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON = os.path.join(ROOT, ".venv-peers", "bin", "python")
try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
except ImportError as missing:
    if sys.prefix == os.path.join(ROOT, ".venv-peers") or not os.path.exists(PYTHON):
        print(f"cannot {missing}; `scripts/dev peers` installs onnxruntime and onnx in .venv-peers")
        sys.exit(1)
    os.execv(PYTHON, [PYTHON] + sys.argv)
from safetensors_file import read  # noqa: E402  (in the environment that has ONNX Runtime)


class Graph:
    """Nodes of one result each; `last` is the newest, and what the next takes unless it is told another."""

    def __init__(self, tensors, notes):
        self.tensors = tensors
        self.options = dict(option.split("=") for option in notes["model"].partition(":")[2].split(",") if option)
        self.nodes, self.constants, self.last = [], [], "rows"

    def add(self, op, *operands, of=None, **attributes):
        """`operands` behind the first: names of results, or constants."""
        names = [of or self.last]
        for value in operands:
            if isinstance(value, str):
                names.append(value)
                continue
            names.append(f"c{len(self.constants)}")
            self.constants.append(numpy_helper.from_array(np.array(value), names[-1]))
        self.last = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [self.last], self.last, **attributes))
        return self.last

    def linear(self, name):
        return self.add("Gemm", self.tensors[name + ".weight"], self.tensors[name + ".bias"], transB=1)

    def conv_norm(self, name, of=None, stride=1, groups=1):
        """Batch norm in the weights, as the quantizer wants it and as ONNX Runtime would make it."""
        weight = self.tensors[name + ".conv.weight"]
        mean, var, gamma, beta = (self.tensors[f"{name}.norm.{part}"].astype(np.float64)
                                  for part in ("running_mean", "running_var", "weight", "bias"))
        factor = gamma / np.sqrt(var + 1e-5)
        return self.add("Conv", (weight * factor[:, None, None, None]).astype(np.float32),
                        (beta - mean * factor).astype(np.float32), of=of, kernel_shape=weight.shape[2:],
                        pads=[weight.shape[-1] // 2] * 4, strides=[stride] * 2, group=groups)

    def conv_pool(self, name):
        weight = self.tensors[name + ".weight"]
        self.add("Conv", weight, self.tensors[name + ".bias"], kernel_shape=weight.shape[2:])
        self.add("Relu")
        self.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])

    def classes_of_mean(self):
        self.add("GlobalAveragePool")
        self.add("Flatten")
        self.linear("fc")


def mlp(g):
    n = sum(name.startswith("fc") and name.endswith(".weight") for name in g.tensors)
    g.add("Flatten")
    for i in range(1, n + 1):
        g.linear(f"fc{i}")
        if i < n:
            g.add("Relu")


def cnn(g):
    g.conv_pool("conv1")
    g.conv_pool("conv2")
    g.add("Flatten")
    g.linear("fc1")
    g.add("Relu")
    g.linear("fc2")


def resnet(g):
    g.conv_norm("stem")
    g.add("Relu")
    for stage in (1, 2, 3):
        for i in range(int(g.options["depth"]) // 6):
            name, stride, x = f"stage{stage}.{i}", 2 if stage > 1 and i == 0 else 1, g.last
            g.conv_norm(name + ".first", stride=stride)
            g.add("Relu")
            y = g.conv_norm(name + ".second")
            g.add("Add", x if stride == 1 else g.conv_norm(name + ".shortcut", x, stride), of=y)
            g.add("Relu")
    g.classes_of_mean()


def dscnn(g):
    g.conv_norm("stem", stride=2)
    g.add("Relu")
    for i in range(int(g.options["layers"])):
        channels = len(g.tensors[f"block.{i}.depthwise.conv.weight"])
        g.conv_norm(f"block.{i}.depthwise", groups=channels)
        g.add("Relu")
        g.conv_norm(f"block.{i}.pointwise")
        g.add("Relu")
    g.classes_of_mean()


MODELS = {"mlp": mlp, "cnn": cnn, "resnet": resnet, "dscnn": dscnn}


def build(tensors, notes):
    kind, _, options = notes["model"].partition(":")
    if kind not in MODELS or "act=" in options and "act=relu" not in options:
        print(f"cannot ort_infer: no model '{notes['model']}' here; there are {', '.join(MODELS)}")
        sys.exit(1)
    pixels = tensors["rows"].shape[1]
    side = int(pixels ** 0.5)
    g = Graph(tensors, notes)
    g.add("Cast", to=TensorProto.FLOAT)
    g.add("Mul", np.float32(notes["scale"]))
    g.add("Sub", np.float32(notes["shift"]))
    g.add("Reshape", np.array([-1, 1, side, side], np.int64))
    MODELS[kind](g)
    graph = helper.make_graph(g.nodes, kind,
                              [helper.make_tensor_value_info("rows", TensorProto.UINT8, ["n", pixels])],
                              [helper.make_tensor_value_info(g.last, TensorProto.FLOAT, ["n", None])], g.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


LAYERS = ["Conv", "Gemm", "MaxPool", "Relu", "Flatten", "Add", "GlobalAveragePool"]


class Rows(CalibrationDataReader):
    def __init__(self, rows):
        self.batches = iter([{"rows": rows}])

    def get_next(self):
        return next(self.batches, None)


def quantized(model, rows):
    """Layers alone: the bytes become numbers in f32, as they do in the f32 graph."""
    logging.disable(logging.WARNING)  # of a preparation that these graphs leave nothing to do
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("f32.onnx", "int8.onnx")]
        onnx.save(model, paths[0])
        quantize_static(*paths, Rows(rows), quant_format=QuantFormat.QDQ, per_channel=True,
                        op_types_to_quantize=LAYERS,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        return onnx.load(paths[1])


def check(arm, logits, expected):
    """What the version word says of it; ValueError where it is wrong."""
    if arm == "f32":
        error = abs(logits - expected).max() / abs(expected).max()
        if not error <= 1e-4:
            raise ValueError(f"logits differ by {error:.2e} of the largest")
        return "f32"
    agree = int((logits.argmax(1) == expected.argmax(1)).sum())
    if agree < 0.95 * len(expected):
        raise ValueError(f"INT8 agrees with f32 on {agree} of {len(expected)} rows alone")
    return f"int8,top1={agree}/{len(expected)}"


def main():
    path, n, threads, arm = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    tensors, notes = read(path)
    rows = tensors["rows"]
    model = build(tensors, notes)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if arm == "int8":
        model = quantized(model, rows)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        settings = check(arm, session.run(None, {"rows": rows})[0], tensors["logits"])
    except ValueError as reason:
        print(f"cannot ort_infer {arm}: {reason}")
        return 1
    batch = {"rows": np.resize(rows, (n, rows.shape[1]))}
    print(f"ready onnxruntime-{ort.__version__},{settings}", flush=True)
    for _ in sys.stdin:
        session.run(None, batch)
        start = time.perf_counter()
        session.run(None, batch)
        print(1e3 * (time.perf_counter() - start), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
