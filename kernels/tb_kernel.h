/* The contract between the engine and its kernels.
 *
 * A kernel is one file kernels/cpu/<primitive>[-variant]_<dtype>_<isa>.c with one or more lines
 *     TB_KERNEL(name) = { .primitive = "...", .dtype = ..., .isa = ..., .supports = ..., .run = ... };
 * found at build time by that line; the suffix gives the compiler flags. Kernels see raw pointers and sizes, never a
 * tensor. They run on one thread over the range they are given, handle every tail, allocate nothing, keep no state,
 * never read an output they are asked to overwrite, and read no byte outside their operands.
 *
 * Argument structures of the primitives are below; tests run every kernel against the op's ref. Candidates are tried
 * best ISA first, then by priority; .supports may refuse (strides, sizes), the op's ref is always last.
 *
 * Rule of arithmetic (engine/README.md, "One canonical order"): an output element is a function of its operands only:
 * never of M, N, the number of threads or its place in a tile. */
#pragma once
#include "tb_cpu.h"
#include "tb_dtype.h"
#include <stddef.h>

typedef struct tb_kernel {
    const char *name;
    const char *primitive;
    tb_dtype dtype;
    tb_isa isa;
    int priority;                        /* higher first among equals */
    bool (*supports)(const void *args);  /* NULL: everything the primitive can express */
    void (*run)(const void *args);       /* args: the primitive's structure */
    size_t (*scratch_bytes)(const void *args); /* what args->scratch must hold; NULL: none (args->scratch is unused) */
    size_t (*pack_bytes)(const void *args);    /* size of an operand in the kernel's own layout; NULL: no such layout */
    void (*pack)(const void *args, void *out); /* writes that layout, 64-byte aligned; reads shapes and that operand */
} tb_kernel;

#define TB_KERNEL(name_) const tb_kernel tbi_kernel_##name_

/* Fills `out` (at most `max`) with the kernels of a primitive and dtype that `isa` may run, best first; returns how
 * many there are. */
int tb_kernel_find(const char *primitive, tb_dtype dtype, tb_isa isa, const tb_kernel **out, int max);
int tb_kernel_count(void);
const tb_kernel *tb_kernel_at(int index);

/* ---- pointwise: out[i] = f(a[i], b[i], c[i]) over n elements; primitive = the op's name ("add", "gelu_tanh") ---- */
typedef struct tb_pointwise_args {
    int64_t n;
    void *out;            /* contiguous */
    const void *in[3];
    int8_t step[3];       /* per operand: 1 contiguous, 0 one value for all n */
    const void *attrs;    /* the op's attributes, or NULL */
} tb_pointwise_args;
typedef struct tb_clamp_attrs { /* of "clamp" */
    double lo, hi;
} tb_clamp_attrs;

/* ---- sgd, adamw: one optimizer step over n elements, in place; every element by itself ---- */
typedef struct tb_sgd_step { /* attrs of "sgd" */
    double rate, scale, decay, momentum;
    bool nesterov;
} tb_sgd_step;
typedef struct tb_adamw_step { /* attrs of "adamw" */
    double rate, scale, decay, beta1, beta2, eps, bias1, bias2;
    bool decoupled;
} tb_adamw_step;
typedef struct tb_update_args {
    int64_t n;
    void *param;      /* new values; contiguous, as all of them */
    const void *from; /* old values where they lie elsewhere; NULL: param */
    const void *grad; /* may be param where `from` is set */
    void *state[2];   /* sgd: momentum buffer or NULL; adamw: first and second moment */
    const void *attrs;
} tb_update_args;

/* ---- gemm: C[M,N] (+)= op(A)[M,K] op(B)[K,N], then the epilogue. Canonical order: each C element is one chain of
 * fused multiply-adds over ascending k from +0, so every f32 kernel gives the same bits on every ISA. With tree > 1,
 * K is cut into `tree` blocks of ceil(K / tree) (the last ones shorter or empty), each its own chain, summed as a
 * balanced pairwise tree: the order for sums over the batch. Kernels offer a packed layout of B (the operand that is
 * constant when it is a weight): pack() reads n, k, b, b_row, b_col; run() then takes it as packed_b and b may be
 * NULL.
 *
 * In bf16 (all operands), and as gemm_bf16 (operands of f32, rounded to bf16), products of pairs of adjacent k are
 * added to an f32 chain over ascending pairs, and `tree` blocks are whole pairs; how a pair is added is the ISA's.
 * In f16 (all operands) the chain is that of f32, and the result is rounded once.
 * ---- */
typedef enum tb_epilogue_act {
    TB_ACT_NONE, TB_ACT_RELU, TB_ACT_GELU_TANH, TB_ACT_GELU_ERF, TB_ACT_SILU
} tb_epilogue_act;
typedef struct tb_gemm_args {
    int64_t m, n, k;
    const void *a;        /* element (i, p) at a[i * a_row + p * a_col] */
    int64_t a_row, a_col; /* in elements; one of them is 1 (or its dimension is 1) */
    const void *b;        /* element (p, j) at b[p * b_row + j * b_col] */
    int64_t b_row, b_col;
    void *c;              /* row major, row stride c_row, columns adjacent */
    int64_t c_row;
    int tree;             /* 1, or a power of two <= 8 */
    bool accumulate;      /* C += instead of C = (the sum of the chains is added to C once) */
    const void *bias;     /* [N] or NULL: added to the finished sum */
    const void *residual; /* like C, rows residual_row elements apart, or NULL: added after the bias; may be C
                             itself */
    int64_t residual_row;
    tb_epilogue_act act;  /* applied last */
    const void *packed_b; /* from .pack of the same kernel, or NULL */
    void *scratch;        /* .scratch_bytes of it, 64-byte aligned; what is needed depends on all fields but pointers
                             (a NULL packed_b and the pool's size count) */
    struct tb_pool *pool; /* gemm splits itself over the pool's threads; NULL: one thread */
} tb_gemm_args;

/* ---- conv2d, conv2d_input_grad, conv2d_weight_grad: dense NCHW images, weights [O, C / groups, KH, KW].
 *     y[n, o, i, j] = bias[o] + sum over (c, kh, kw) of weight[o, c, kh, kw] x[n, c, y0, x0],
 *     y0 = i * stride + kh * dilation - pad, x0 alike
 * Pixels outside x count as 0; their products may be left out of the sum, which finite weights cannot tell. Kernels may
 * offer a layout of the weights of a forward: pack() reads sizes and `weight`.
 * Orders: forward one chain of fused multiply-adds over ascending (c, kh, kw); input_grad over ascending (o, kh, kw);
 * weight_grad: the images are cut into `tree` blocks of ceil(n / tree), each a chain over ascending (n, i, j), summed
 * as a balanced pairwise tree.
 * conv2d_winograd is conv2d with fewer products and sums in another order (of a result's own, whatever the batch and
 * the threads). It always takes packed weights. is_pooled: no residual, and act is none or relu. ---- */
typedef struct tb_conv_args {
    int64_t n, c, h, w;    /* x */
    int64_t o, kh, kw;     /* weight */
    int64_t oh, ow;        /* y; what its last outputs reach below and right of x is padding too */
    int64_t stride[2], pad[2], dilation[2], groups; /* vertical, horizontal; pad: above and left */
    const void *x;         /* forward, weight_grad */
    const void *weight;    /* forward, input_grad */
    const void *packed_weight; /* forward: from .pack of the same kernel, or NULL; then scratch_bytes counts it */
    const void *g;         /* gradient of y: input_grad, weight_grad */
    void *out;             /* y, dx or dw */
    const void *bias;      /* forward: [O] or NULL */
    const void *residual;  /* forward: like out, or NULL: added after the bias; may be out itself */
    tb_epilogue_act act;   /* forward, last */
    bool accumulate;       /* gradients: add to out, once */
    bool is_pooled;        /* conv2d_winograd: out is the greatest of every 2 x 2 of y, [oh / 2, ow / 2] */
    int tree;              /* weight_grad: 1, 2, 4 or 8 */
    void *scratch;         /* .scratch_bytes, 64-byte aligned; depends on all fields but pointers */
    struct tb_pool *pool;  /* the kernel splits itself over the pool's threads; NULL: one thread */
} tb_conv_args;

/* ---- max_pool2d, avg_pool2d and their gradients (.._grad): dense planes [h, w] <-> [oh, ow]. Windows are clipped to
 * the plane; a kernel runs on one thread over the planes it is given. ---- */
typedef struct tb_pool2d_args {
    int64_t planes, h, w, oh, ow, kh, kw;
    int64_t stride[2], pad[2]; /* vertical, horizontal */
    bool count_pad;            /* average: divide by kh * kw also where the window is clipped */
    const void *in;            /* x; gradients: g, like y */
    void *out;                 /* y; gradients: dx */
    void *index;               /* i32, like y: where in its plane the maximum was (-1: empty window). max_pool2d
                                  writes it unless NULL, max_pool2d_grad reads it */
} tb_pool2d_args;

/* ---- attention, attention_grad: out = softmax(scale q k^T) v for q [b, h, t, d], k [b, h, s, d], v [b, h, s, e]. Each
 * operand has strides (elements) of batch, head and row; its last dimension is dense. Of s keys the first kv_len[b]
 * count; with `causal` the last query sees all of those, the one before it one less, and so on. A query that sees none
 * gives zeros and lse = -inf. Backward takes out and lse, and writes all of dq, dk, dv. Orders: scores over ascending
 * d, sums of values over ascending keys, dk and dv over ascending queries, each one chain. ---- */
typedef struct tb_attention_args {
    int64_t b, h, t, s, d, e;
    double scale;
    bool causal;
    const int64_t *kv_len;          /* [b], each 0..s; NULL: all s */
    const void *q, *k, *v;
    int64_t q_stride[3], k_stride[3], v_stride[3];
    void *out;                      /* [b, h, t, e]; read by attention_grad */
    int64_t out_stride[3];
    void *lse;                      /* [b, h, t], dense: log of the sum of exponentials; read by attention_grad */
    const void *g;                  /* gradient of out */
    int64_t g_stride[3];
    void *dq, *dk, *dv;
    int64_t dq_stride[3], dk_stride[3], dv_stride[3];
    void *scratch;                  /* .scratch_bytes, 64-byte aligned */
    struct tb_pool *pool;           /* the kernel splits itself over the pool's threads; NULL: one thread */
} tb_attention_args;

/* ---- row kernels: `rows` rows of `n` elements, row r at r * stride (elements). Sums along a row run in 32 strided
 * lanes and a fixed tree, on every ISA; sums over rows run over ascending rows. What each primitive reads and writes:
 *   row_sum, row_max     out[r * out_stride] per row              column_sum   out[n], the sum over rows
 *   row_softmax, row_log_softmax    in -> out; they may be the same
 *   softmax_grad, log_softmax_grad  in = gradient, in2 = the forward's result -> out
 *   cross_entropy        in = logits, extra_in[0] = labels i64[rows], ignore_index -> extra[0] = loss [rows] (0 where
 *                        ignored), extra[1] = log of the row's sum of exponentials [rows]
 *   cross_entropy_grad   also extra_in[1] = that log, in2 = what the row's loss counts (at r * in2_stride) -> out
 *   layer_norm           in, gamma, beta, eps -> out, extra[0] = mean [rows], extra[1] = 1 / deviation [rows]
 *   layer_norm_grad      in = gradient, in2 = x, gamma, extra_in[0] = mean, extra_in[1] = 1 / deviation -> out = dx
 *   layer_norm_param_grad  the same -> extra[0] = dgamma [n], extra[1] = dbeta [n] of these rows
 *   row_quantize_u8      in -> out u8 around 128, extra[0] = step f32 [rows]: step = max |x| / 127, out = clamp(
 *                        round_half_even(x * (127 / max |x|)) + 128, 1, 255); rows below 2^-100 count as zeros
 *                        (step 0), NaN gives 1
 *   row_rescale          out = act(in * extra_in[0][r] + beta + in2), every step rounded; in2 may be out itself
 * gamma, beta, in2 of row_rescale, and the extras of the norms may be NULL. ---- */
typedef struct tb_row_args {
    int64_t rows, n;
    const void *in;       /* x */
    int64_t in_stride;
    void *out;
    int64_t out_stride;
    const void *in2, *in3;/* gradient, saved output, ...: as the primitive says */
    int64_t in2_stride, in3_stride;
    const void *gamma, *beta; /* [n] or NULL */
    void *extra[3];       /* per-row or per-column outputs, as the primitive says */
    const void *extra_in[3];
    double eps;
    int64_t ignore_index; /* cross entropy: rows with this label count for nothing */
    tb_epilogue_act act;  /* row_rescale */
} tb_row_args;

/* ---- batch_norm, batch_norm_eval, batch_norm_grad: c channels of n images of dense planes; channel k of
 * image i starts at i * image + k * plane. With rstd = 1 / sqrt(var + eps) and h = (x - mean) rstd:
 *   batch_norm        mean and (biased) var of each channel -> mean_out, var_out; out = h gamma + beta
 *   batch_norm_eval   the same out for the mean and var that are given
 *   batch_norm_grad   dgamma = sum g h, dbeta = sum g, out = dx = gamma rstd (g - dbeta / (n plane) - h
 * dgamma / (n plane)) Sums: the images are cut into `tree` blocks of ceil(n / tree), each in 32 lanes, summed
 * as a balanced pairwise tree. ---- */
typedef struct tb_batch_norm_args {
    int64_t n, c, plane, image;
    int tree; /* 1, 2, 4 or 8 */
    double eps;
    const void *x, *g;        /* g: gradient of the output */
    const void *gamma, *beta; /* [c] or NULL */
    const void *mean, *var;   /* [c]: _eval, _grad */
    void *out;
    void *mean_out, *var_out; /* [c] */
    void *dgamma, *dbeta;     /* [c] */
} tb_batch_norm_args;

/* ---- gemm_u8s8 (dtype TB_I8): exact integers on every ISA, then one epilogue in f32:
 *   acc[i][j] = offset[j] + sum over k of a[i][k] * w[j][k]        u8 x s8 -> s32, K <= 66,311: it cannot overflow
 *   to f32:  c = (float)acc * scale[j]
 *   to u8:   c = clamp(round_half_even((float)acc * scale[j]) + zero, low, 255)
 * The product is rounded before the sum; s32 -> f32 rounds to nearest even. w is packed by "pack_s8" first. ---- */
enum { TB_U8S8_COLUMNS = 16, TB_U8S8_DEPTH = 4 }; /* packed w: [ceil(N/16)][ceil(K/4)][16][4], zeros in the padding */
typedef struct tb_gemm_u8s8_args {
    int64_t m, n, k;
    const uint8_t *a;
    int64_t a_row;         /* elements between rows of a */
    const int8_t *packed_w;
    const int32_t *offset; /* [n] */
    const float *scale;    /* [n] */
    void *c;               /* f32 or u8 [m, n], rows c_row elements apart */
    int64_t c_row;
    bool to_u8;
    int32_t zero, low;
    struct tb_pool *pool; /* the kernel splits itself over the pool's threads; NULL: one thread */
} tb_gemm_u8s8_args;

/* ---- conv2d_u8s8 (dtype TB_I8): x u8 [n, h, w, c] (strided), weights s8 [o, kh, kw, c / groups], out [n,
 * oh, ow, o]. The sum of gemm_u8s8 over k = (kh, kw, c) of a window, and its epilogue; pixels outside x count
 * as x_zero. Kernels take the weights in their own layout (pack, which reads sizes and `weight`). ---- */
typedef struct tb_conv_u8s8_args {
    int64_t n, h, w, c, o, kh, kw, oh, ow;
    int64_t stride[2], pad[2], dilation[2], groups; /* as in tb_conv_args */
    const uint8_t *x;
    int64_t x_stride[4]; /* of image, row, column, channel */
    const int8_t *weight;
    const void *packed_w;
    const int32_t *offset; /* [o] */
    const float *scale;    /* [o] */
    void *out;             /* u8 or f32, dense */
    bool to_u8;
    int32_t x_zero, zero, low;
    void *scratch;        /* .scratch_bytes, 64-byte aligned; depends on all fields but pointers */
    struct tb_pool *pool; /* the kernel splits itself over the pool's threads; NULL: one thread */
} tb_conv_u8s8_args;

/* ---- max_pool2d_u8 (dtype TB_U8): dense u8 images [n, h, w, c] -> [n, oh, ow, c], windows clipped to the
 * image; rows [from, to) of the n * oh rows of the result ---- */
typedef struct tb_pool_u8_args {
    int64_t h, w, c, oh, ow, kh, kw;
    int64_t stride[2], pad[2];
    int64_t from, to;
    const uint8_t *x;
    uint8_t *out;
} tb_pool_u8_args;

/* ---- mean_u8 (dtype TB_U8): dense u8 images [n, pixels, c] -> [n, c]:
 *   clamp(round_half_even((float)(sum over pixels - shift) * scale) + zero, 0, 255); images [from, to) ----
 */
typedef struct tb_mean_u8_args {
    int64_t pixels, c, from, to;
    const uint8_t *x;
    uint8_t *out;
    int32_t shift; /* pixels * x's zero point */
    float scale;
    int32_t zero;
} tb_mean_u8_args;

/* ---- add_u8 (pointwise, dtype TB_U8):
 *   clamp(round_half_even((float)(a - a_zero) * a_scale + (float)(b - b_zero) * b_scale) + zero, low, 255),
 * every product and sum rounded ---- */
typedef struct tb_add_u8_args {
    float a_scale, b_scale;
    int32_t a_zero, b_zero, zero, low;
} tb_add_u8_args;

/* ---- quantize_u8 (pointwise, f32 -> u8): clamp(round_half_even(x * inverse) + zero, 0, 255), NaN gives 0 ---- */
typedef struct tb_quantize_args {
    float inverse, zero;
} tb_quantize_args;

/* ---- rank_sum: every out[k][i], k < n_out, becomes the pairwise tree ((in[0][i] + in[1][i]) + (in[2][i] + ...)) over
 * `ranks` operands. An output may be one of the inputs. ---- */
typedef struct tb_rank_sum_args {
    int64_t n;
    int ranks, n_out; /* kernels: 2, 4 or 8 ranks, one output or all */
    const void *const *in;
    void *const *out;
} tb_rank_sum_args;
