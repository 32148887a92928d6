"""Ops with weights, windows, rows: linear, conv2d, pooling, norms, softmax, losses, attention, embedding; and
their backward ops."""
import math

import torch
import torch.nn.functional as F

from . import Case, Input, case, fixed, stat, vjp

ACTIVATIONS = [lambda x: x, torch.relu, lambda x: F.gelu(x, approximate="tanh"), F.gelu, F.silu]


# ---- products ----
@case("matmul")
def matmul(r):
    m, k, n = r.size(20), r.size(40), r.size(20)
    if r.pick(True, False):
        return Case([r.floats(*r.shape(0, 2), m, k), r.floats(k, n)], torch.matmul, k=k)
    a, b = r.broadcast()
    return Case([r.floats(*a[:2], m, k), r.floats(*b[:2], k, n)] if len(a) == len(b) else
                [r.floats(m, k), r.floats(k, n)], torch.matmul, {"batch_tree": False}, k=k)


def linear_inputs(r):
    k, n = r.size(40), r.size(20)
    return [r.floats(*r.shape(0, 3), k), r.floats(n, k), r.pick(None, r.floats(n))], k


@case("linear")
def linear(r):
    inputs, k = linear_inputs(r)
    return Case(inputs, F.linear, k=k)


@case("linear_act")
def linear_act(r):
    inputs, k = linear_inputs(r)
    act, residual = r.number % 5, r.pick(None, r.floats(*inputs[0].value.shape[:-1], inputs[1].value.shape[0]))
    return Case(inputs + [residual], lambda x, w, b, y: ACTIVATIONS[act](F.linear(x, w, b) + (0 if y is None else y)),
                {"act": act}, k=k)


@case("linear_weight_grad")
def linear_weight_grad(r):
    rows, m, n = r.size(30), r.size(), r.size()
    into = r.pick(None, r.floats(m, n))  # added to in place, so not a leaf
    return Case([r.floats(rows, m), r.floats(rows, n), into],
                lambda g, x, to: g.T @ x + (0 if to is None else to), k=rows + 1, grad=into is None)


# ---- convolution: every op is linear in both operands ----
def convolution(r):
    groups, pad = r.pick(1, 1, 2), [r.integer(0, 2), r.integer(0, 2)]
    stride, dilation = [r.size(2), r.size(2)], [r.size(2), r.size(2)]
    c, o, kernel = groups * r.size(3), groups * r.size(3), [r.size(3), r.size(3)]
    image = [d * (k - 1) + 1 + r.integer(0, 7) for d, k in zip(dilation, kernel)]
    x, w = [r.size(4), c, *image], [o, c // groups, *kernel]
    attrs = {"stride": stride, "pad": pad, "dilation": dilation, "groups": groups}

    def run(x, w, b=None):
        return F.conv2d(x, w, b, stride, pad, dilation, groups)
    return x, w, attrs, run, run(torch.empty(x), torch.empty(w)).shape


@case("conv2d")
def conv2d(r):
    x, w, attrs, run, _ = convolution(r)
    return Case([r.floats(*x), r.floats(*w), r.pick(None, r.floats(w[0]))], run, attrs, k=math.prod(w[1:]))


@case("conv2d_act")
def conv2d_act(r):
    x, w, attrs, run, y = convolution(r)
    act, residual = r.number % 5, r.pick(None, r.floats(*y))
    return Case([r.floats(*x), r.floats(*w), r.pick(None, r.floats(w[0])), residual],
                lambda x, w, b, y: ACTIVATIONS[act](run(x, w, b) + (0 if y is None else y)), {**attrs, "act": act},
                k=math.prod(w[1:]))


@case("conv2d_winograd")
def conv2d_winograd(r):
    kernel, pad, pooled = r.pick(3, 5), [r.integer(0, 2), r.integer(0, 2)], bool(r.number % 2)
    n, c, o, image = r.size(3), r.size(20), r.size(20), [kernel + r.integer(1, 9) for _ in range(2)]
    y = [i + 2 * p - kernel + 1 for i, p in zip(image, pad)]
    act = r.number % 2 if pooled else r.number % 5
    residual = None if pooled else r.pick(None, r.floats(n, o, *y))

    def run(x, w, b, y):
        z = ACTIVATIONS[act](F.conv2d(x, w, b, padding=pad) + (0 if y is None else y))
        return F.max_pool2d(z, 2) if pooled else z
    return Case([r.floats(n, c, *image), r.floats(o, c, kernel, kernel), r.pick(None, r.floats(o)), residual], run,
                {"pad": pad, "act": act, "is_pooled": pooled}, k=36 * c * kernel * kernel)


@case("conv2d_input_grad")
def conv2d_input_grad(r):
    x, w, attrs, run, y = convolution(r)
    return Case([r.floats(*y), r.floats(*w)],
                lambda g, w: vjp(lambda x: run(x, w), [torch.zeros(x, dtype=w.dtype)], g)[0],
                {**attrs, "size": x[2:]}, k=w[0] * w[2] * w[3])


@case("conv2d_weight_grad")
def conv2d_weight_grad(r):
    x, w, attrs, run, y = convolution(r)
    return Case([r.floats(*y), r.floats(*x)],
                lambda g, x: vjp(lambda w: run(x, w), [torch.zeros(w, dtype=x.dtype)], g)[0],
                {**attrs, "size": w[2:]}, k=y[0] * y[2] * y[3])


# ---- pooling ----
def pooling(r):
    kernel, stride = [r.size(3), r.size(3)], [r.size(3), r.size(3)]
    pad = [r.integer(0, k // 2) for k in kernel]
    shape = [r.size(3), r.size(3)] + [k + r.integer(0, 6) for k in kernel]
    return shape, {"kernel": kernel, "stride": stride, "pad": pad}


@case("max_pool2d")
def max_pool2d(r):
    shape, a = pooling(r)
    return Case([r.distinct(*shape)], lambda x: F.max_pool2d(x, a["kernel"], a["stride"], a["pad"]), a)


@case("max_pool2d_grad")
def max_pool2d_grad(r):
    shape, a = pooling(r)
    x = torch.randn(*shape, generator=r.generator)
    y, index = F.max_pool2d(x, a["kernel"], a["stride"], a["pad"], return_indices=True)

    def back(g, index):
        planes = torch.zeros(*shape[:2], shape[2] * shape[3], dtype=g.dtype)
        return planes.scatter_add(2, index.long().flatten(2), g.flatten(2)).reshape(shape)
    return Case([r.floats(*y.shape), fixed(index.to(torch.int32))], back, {**a, "size": shape[2:]},
                k=math.prod(a["kernel"]))


def average(r):
    shape, a = pooling(r)
    exclude = r.pick(True, False)
    return shape, {**a, "exclude_pad": exclude}, \
        lambda x: F.avg_pool2d(x, a["kernel"], a["stride"], a["pad"], count_include_pad=not exclude)


@case("avg_pool2d")
def avg_pool2d(r):
    shape, a, run = average(r)
    return Case([r.floats(*shape)], run, a, k=math.prod(a["kernel"]))


@case("avg_pool2d_grad")
def avg_pool2d_grad(r):
    shape, a, run = average(r)
    y = run(torch.empty(shape)).shape
    return Case([r.floats(*y)], lambda g: vjp(run, [torch.zeros(shape, dtype=g.dtype)], g)[0],
                {**a, "size": shape[2:]}, k=math.prod(a["kernel"]))


# ---- rows ----
@case("softmax", "log_softmax")
def softmax(r, name):
    shape = r.shape(1, 3, 40)
    axis = r.integer(-len(shape), len(shape) - 1)
    return Case([r.floats(*shape, low=-4, high=4)], lambda x: getattr(F, name)(x, axis), {"axis": axis},
                k=shape[axis], grad_terms=1)  # y (g - sum g y)


@case("softmax_grad")
def softmax_grad(r):
    shape = r.shape(1, 3, 40)
    axis = r.integer(-len(shape), len(shape) - 1)
    return Case([r.floats(*shape), r.floats(*shape, low=0, high=1)],
                lambda g, y: y * (g - (g * y).sum(axis, True)), {"axis": axis}, k=shape[axis],
                terms=lambda g, y: y * (g + (g * y).sum(axis, True)), grad_terms=1)


@case("log_softmax_grad")
def log_softmax_grad(r):
    shape = r.shape(1, 3, 40)
    axis = r.integer(-len(shape), len(shape) - 1)
    return Case([r.floats(*shape), r.floats(*shape, low=-3, high=0)],
                lambda g, y: g - y.exp() * g.sum(axis, True), {"axis": axis}, k=shape[axis],
                terms=lambda g, y: g + (-y).exp() * g.sum(axis, True), grad_terms=1)


@case("layer_norm")
def layer_norm(r):
    n = r.integer(6, 40)  # of fewer values the variance may happen to be small, and 1 / sqrt of it inexact
    eps = r.pick(1e-5, 1e-3)
    return Case([r.floats(*r.shape(0, 3), n), r.pick(None, r.floats(n)), r.pick(None, r.floats(n))],
                lambda x, gamma, beta: F.layer_norm(x, [n], gamma, beta, eps), {"eps": eps}, k=n,
                grad_terms=1)


def normalised(r):
    """x, gradient, mean, rstd: the statistics are inputs of their own."""
    n, rows = r.integer(2, 40), r.shape(0, 3)
    mean, rstd = stat(r.values(rows, -0.5, 0.5)), stat(r.values(rows, 0.5, 2))
    return n, [r.floats(*rows, n), r.floats(*rows, n), mean, rstd]


@case("layer_norm_grad")
def layer_norm_grad(r):
    n, inputs = normalised(r)

    def back(g, x, mean, rstd, gamma=None):
        h = (x - mean[..., None]) * rstd[..., None]
        u = g if gamma is None else g * gamma
        return rstd[..., None] * (u - u.mean(-1, True) - h * (u * h).mean(-1, True))
    return Case(inputs + [r.pick(None, r.floats(n))], back, k=n)


@case("layer_norm_param_grad")
def layer_norm_param_grad(r):
    n, inputs = normalised(r)

    def back(g, x, mean, rstd):
        h = (x - mean[..., None]) * rstd[..., None]
        return (g * h).reshape(-1, n).sum(0), g.reshape(-1, n).sum(0)
    return Case(inputs, back, k=inputs[2].value.numel())


def batch(r):
    """A batch of planes, channels, gamma or none, beta or none."""
    channels, rest = r.size(4), r.shape(0, 2)
    images = r.integer(6, 12)  # of fewer values the variance may happen to be small, and 1 / sqrt of it inexact
    gamma, beta = (r.pick(None, r.floats(channels)) for _ in range(2))
    return [images, channels, *rest], channels, gamma, beta, images * math.prod(rest)


@case("batch_norm")
def batch_norm(r):
    shape, _, gamma, beta, terms = batch(r)
    return Case([r.floats(*shape), gamma, beta],
                lambda x, gamma, beta: F.batch_norm(x, None, None, gamma, beta, True, 0.1, 1e-2), {"eps": 1e-2},
                k=terms, grad_terms=1)


@case("batch_norm_eval")
def batch_norm_eval(r):
    shape, channels, gamma, beta, _ = batch(r)
    mean, var = stat(r.values([channels], -0.5, 0.5)), stat(r.values([channels], 0.5, 2))

    def run(x, mean, var, gamma, beta):
        if not x.is_floating_point():
            raise TypeError("F.batch_norm takes floats; it is written out to be differentiable in the statistics")
        along = [1, channels] + [1] * (x.dim() - 2)
        y = (x - mean.reshape(along)) / (var.reshape(along) + 1e-5).sqrt()
        y = y if gamma is None else y * gamma.reshape(along)
        return y if beta is None else y + beta.reshape(along)

    def terms(x, mean, var, gamma, beta):
        return run(x, -mean, var, gamma, beta)
    return Case([r.floats(*shape), mean, var, gamma, beta], run, {"eps": 1e-5}, terms=terms, grad_terms=1)


@case("batch_norm_grad")
def batch_norm_grad(r):
    shape, channels, gamma, _, terms = batch(r)
    mean, var = stat(r.values([channels], -0.5, 0.5)), stat(r.values([channels], 0.5, 2))
    axes, along = [i for i in range(len(shape)) if i != 1], [1, channels] + [1] * (len(shape) - 2)

    def back(g, x, mean, var, gamma):
        rstd = (var.reshape(along) + 1e-5).rsqrt()
        h = (x - mean.reshape(along)) * rstd
        scale = rstd if gamma is None else rstd * gamma.reshape(along)
        return (scale * (g - g.mean(axes, True) - h * (g * h).mean(axes, True)), (g * h).sum(axes), g.sum(axes))
    return Case([r.floats(*shape), r.floats(*shape), mean, var, gamma], back, {"eps": 1e-5}, k=terms)


# ---- loss ----
REDUCTIONS = ["mean", "sum", "none"]


def labelled(r):
    """Rows of logits, labels of which some are ignored, attributes, a count for the mean or none."""
    rows, classes = r.shape(1, 2), r.integer(2, 30)
    labels = r.indices(*rows, below=classes, dtype=r.pick(torch.int64, torch.int32))
    reduction, ignored = r.number % 3, r.pick(-100, 0)
    labels.value.view(-1)[0] = classes - 1  # one row counts
    count = fixed(torch.tensor(float(r.integer(1, 9)))) if reduction == 0 and r.pick(True, False) else None
    return rows, classes, labels, {"reduction": reduction, "ignore_index": ignored}, count


def cross_entropy_of(x, labels, attrs, count):
    reduction = "sum" if count is not None else REDUCTIONS[attrs["reduction"]]
    loss = F.cross_entropy(x.reshape(-1, x.shape[-1]), labels.long().reshape(-1), reduction=reduction,
                           ignore_index=attrs["ignore_index"])
    if count is not None:
        return loss / count.to(x.dtype)
    return loss.reshape(labels.shape) if loss.dim() else loss


@case("cross_entropy")
def cross_entropy(r):
    rows, classes, labels, attrs, count = labelled(r)
    return Case([r.floats(*rows, classes, low=-4, high=4), labels, count],
                lambda x, labels, count: cross_entropy_of(x, labels, attrs, count), attrs, k=classes,
                magnitude=False)


@case("cross_entropy_grad")
def cross_entropy_grad(r):
    rows, classes, labels, attrs, count = labelled(r)
    x = r.floats(*rows, classes, low=-4, high=4)
    counted = (labels.value != attrs["ignore_index"])[..., None]
    over = 1 if attrs["reduction"] else int(counted.sum()) if count is None else float(count.value)

    def back(g, x, labels, lse, count):
        onehot = F.one_hot(labels.long().clamp(min=0), classes).to(x.dtype)
        return counted * (g[..., None] if g.dim() else g) * ((x - lse[..., None]).exp() - onehot) / over
    g = r.floats(*(rows if attrs["reduction"] == 2 else []))
    return Case([g, x, labels, stat(x.value.logsumexp(-1)), count], back, attrs, k=classes, magnitude=False,
                grad_terms=1)


@case("mse_loss")
def mse_loss(r):
    shape = r.shape(0, 3)
    n = math.prod(shape)
    return Case([r.floats(*shape), r.floats(*shape)], F.mse_loss, k=n, terms=lambda x, y: ((x + y) ** 2).mean())


@case("mse_loss_grad")
def mse_loss_grad(r):
    shape = r.shape(0, 3)
    n = math.prod(shape)
    return Case([r.floats(), r.floats(*shape), r.floats(*shape)], lambda g, x, y: g * 2 / n * (x - y), k=n,
                terms=lambda g, x, y: g * 2 / n * (x + y))


# ---- attention ----
def attention_of(q, k, v, causal, scale, kv_len):
    t, s = q.shape[2], k.shape[2]
    valid = torch.full([q.shape[0]], s) if kv_len is None else kv_len.expand(q.shape[0])
    seen = valid[:, None].expand(-1, t) if not causal else torch.arange(1, t + 1)[None] + valid[:, None] - t
    hidden = torch.arange(s) >= seen[..., None]  # [B, T, S]
    scores = (q @ k.transpose(-1, -2)) * (scale or 1 / math.sqrt(q.shape[-1]))
    return scores.masked_fill(hidden[:, None], float("-inf"))


def attended(r):
    b, h, t, s, d, e = r.size(3), r.size(3), r.size(12), r.size(12), r.size(9), r.size(9)
    s = max(s, t)
    causal, scale = r.pick(True, False), r.pick(0, 0.3)
    kv_len = r.pick(None, fixed(torch.randint(t, s + 1, (b,), generator=r.generator)),
                    fixed(torch.tensor(r.integer(t, s))))  # so every query sees a key
    qkv = [r.floats(b, h, t, d), r.floats(b, h, s, d), r.floats(b, h, s, e)]
    return qkv, kv_len, causal, scale, s + d


@case("scaled_dot_product_attention")
def attention(r):
    qkv, kv_len, causal, scale, terms = attended(r)

    def run(q, k, v, kv_len):
        return attention_of(q, k, v, causal, scale, kv_len).softmax(-1) @ v
    return Case(qkv + [kv_len], run, {"causal": causal, "scale": scale}, k=terms, magnitude=False,
                grad_terms=1)


@case("scaled_dot_product_attention_grad")
def attention_grad(r):
    qkv, kv_len, causal, scale, terms = attended(r)
    scores = attention_of(*[x.value for x in qkv], causal, scale, kv_len and kv_len.value)
    out = scores.softmax(-1) @ qkv[2].value

    def back(g, q, k, v, out, lse, kv_len):
        p = (attention_of(q, k, v, causal, scale, kv_len) - lse[..., None]).exp()
        ds = p * (g @ v.transpose(-1, -2) - (g * out).sum(-1, True)) * (scale or 1 / math.sqrt(q.shape[-1]))
        return ds @ k, ds.transpose(-1, -2) @ q, p.transpose(-1, -2) @ g

    def terms_of(g, q, k, v, out, lse, kv_len):
        p = scores.softmax(-1)
        ds = p * (g @ v.transpose(-1, -2) + (g * out).sum(-1, True)) * (scale or 1 / math.sqrt(q.shape[-1]))
        return ds @ k, ds.transpose(-1, -2) @ q, p.transpose(-1, -2) @ g + 0 * lse.sum()
    return Case([r.floats(*out.shape), *qkv, Input(out), stat(scores.logsumexp(-1)), kv_len], back,
                {"causal": causal, "scale": scale}, k=terms, terms=terms_of, grad_terms=1)


# ---- embedding ----
@case("embedding")
def embedding(r):
    rows, width = r.size(12), r.size(12)
    index = r.indices(*r.shape(0, 3), below=rows, dtype=r.pick(torch.int64, torch.int32))
    return Case([r.floats(rows, width), index], lambda w, i: w[i.long()])


@case("embedding_grad")
def embedding_grad(r):
    rows, width = r.size(12), r.size(12)
    index = r.indices(*r.shape(0, 3), below=rows)
    return Case([r.floats(*index.value.shape, width), index],
                lambda g, i: torch.zeros(rows, width, dtype=g.dtype).index_add(
                    0, i.reshape(-1), g.reshape(-1, width)), {"rows": rows}, k=index.value.numel())
