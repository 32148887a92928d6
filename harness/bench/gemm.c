/* gemm: C[M,N] = A[M,K] W[K,N] by the engine's best kernel, with the constant operand packed beforehand as a
 * layer keeps its weights (and as the peer that packs, oneDNN, does). f32, bf16, or u8 x s8 -> s32 -> f32. The peer
 * "own_f32" is the engine's f32 kernel on a product of the same size.
 *
 * The reference is a plain sum in f64. An element's rounding error is bounded by K u sum |a| |w|, whatever
 * the order of the sum (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, (3.5)), u = 2^-24, and in
 * bf16 by one more rounding of the result; integers must be equal. */
#include "bench_library.h"
#include "bench_torch.h"
#include "tb_alloc.h"
#include "tb_kernel.h"
#include <math.h>
#include <string.h>

enum {
    FULLY_CHECKED = 1 << 24 /* products */,
    CHECKED_ELEMENTS = 4096,
    MOST_KERNELS = 8,
    MOST_DEPTH_I8 = 66311
};

typedef struct gemm {
    int64_t m, k, n;
    tb_dtype dtype;
    const tb_kernel *kernel;
    tb_pool *pool;
    void *a, *w, *packed, *scratch; /* w: [K, N] f32, or [N, K] s8 */
    void *c;         /* f32, or bf16 */
    int32_t *offset; /* i8: zeros, and ones */
    float *scale;
    tb_gemm_args floats;
    tb_gemm_u8s8_args i8;
} gemm;

/* ---- operands ---- */
static void pack_s8(gemm *g)
{
    int64_t quads = (g->k + 3) / 4;
    int8_t *to = g->packed;
    const int8_t *w = g->w;
    for (int64_t j = 0; j < g->n; j++)
        for (int64_t p = 0; p < g->k; p++)
            to[((j / TB_U8S8_COLUMNS * quads + p / TB_U8S8_DEPTH) * TB_U8S8_COLUMNS + j % TB_U8S8_COLUMNS) *
                   TB_U8S8_DEPTH +
               p % TB_U8S8_DEPTH] = w[j * g->k + p];
}

static tb_status make_i8(gemm *g)
{
    size_t packed = (size_t)((g->n + 15) / 16 * ((g->k + 3) / 4) * 64);
    g->offset = tb_calloc((size_t)g->n, sizeof *g->offset);
    g->scale = tb_calloc((size_t)g->n, sizeof *g->scale);
    g->packed = tb_calloc(packed, 1);
    if (!g->offset || !g->scale || !g->packed) return TB_ERR_OOM;
    for (int64_t i = 0; i < g->m * g->k; i++)
        ((uint8_t *)g->a)[i] = (uint8_t)lrint(127.5 + 127.5 * tb_bench_value(1, i));
    for (int64_t i = 0; i < g->k * g->n; i++) ((int8_t *)g->w)[i] = (int8_t)lrint(127 * tb_bench_value(2, i));
    for (int64_t j = 0; j < g->n; j++) g->scale[j] = 1;
    pack_s8(g);
    g->i8 = (tb_gemm_u8s8_args){.m = g->m,
                                .n = g->n,
                                .k = g->k,
                                .a = g->a,
                                .a_row = g->k,
                                .packed_w = g->packed,
                                .offset = g->offset,
                                .scale = g->scale,
                                .c = g->c,
                                .c_row = g->n,
                                .pool = g->pool};
    return TB_OK;
}

static void fill(const gemm *g, void *to, uint64_t stream, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float value = (float)tb_bench_value(stream, i);
        if (g->dtype == TB_BF16) ((uint16_t *)to)[i] = tb_f32_to_bf16(value);
        else ((float *)to)[i] = value;
    }
}

static tb_status make_floats(gemm *g)
{
    fill(g, g->a, 1, g->m * g->k);
    fill(g, g->w, 2, g->k * g->n);
    g->floats = (tb_gemm_args){.m = g->m,
                            .n = g->n,
                            .k = g->k,
                            .a = g->a,
                            .a_row = g->k,
                            .a_col = 1,
                            .b = g->w,
                            .b_row = g->n,
                            .b_col = 1,
                            .c = g->c,
                            .c_row = g->n,
                            .tree = 1,
                            .pool = g->pool};
    const tb_kernel *k = g->kernel;
    if (k->pack_bytes && !(g->packed = tb_calloc(k->pack_bytes(&g->floats), 1))) return TB_ERR_OOM;
    if (k->pack_bytes) k->pack(&g->floats, g->packed);
    g->floats.packed_b = g->packed;
    size_t scratch = k->scratch_bytes ? k->scratch_bytes(&g->floats) : 0;
    if (scratch && !(g->scratch = tb_calloc(scratch, 1))) return TB_ERR_OOM;
    g->floats.scratch = g->scratch;
    return TB_OK;
}

static tb_status choose_kernel(gemm *g, tb_isa isa)
{
    const tb_kernel *found[MOST_KERNELS];
    const char *primitive = g->dtype == TB_I8 ? "gemm_u8s8" : "gemm";
    const tb_gemm_args any = {.m = g->m, .k = g->k, .n = g->n, .a_row = g->k, .a_col = 1, .b_row = g->n, .b_col = 1};
    int n = tb_kernel_find(primitive, g->dtype, isa, found, MOST_KERNELS);
    for (int i = 0; i < n && !g->kernel; i++)
        if (!found[i]->supports || found[i]->supports(&any)) g->kernel = found[i];
    if (g->kernel) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "gemm: no %s kernel for %s", tb_dtype_name(g->dtype), tb_isa_name(isa));
}

static tb_status make(gemm *g, tb_bench_run *run, tb_dtype dtype)
{
    const int64_t *d = run->shape.at;
    size_t size = tb_dtype_size(dtype);
    *g = (gemm){.m = d[0], .k = d[1], .n = d[2], .dtype = dtype, .pool = tb_ctx_pool(run->ctx)};
    if (g->dtype == TB_I8 && g->k > MOST_DEPTH_I8)
        return TB_FAIL(TB_ERR_INVALID, "gemm: K = %lld could overflow 32 bits; at most %d in i8",
                       (long long)g->k, MOST_DEPTH_I8);
    TB_TRY(choose_kernel(g, tb_ctx_isa(run->ctx)));
    g->a = tb_calloc((size_t)(g->m * g->k), size);
    g->w = tb_calloc((size_t)(g->k * g->n), size);
    g->c = tb_calloc((size_t)(g->m * g->n), sizeof(float));
    if (!g->a || !g->w || !g->c) return TB_ERR_OOM;
    return g->dtype == TB_I8 ? make_i8(g) : make_floats(g);
}

static void drop(gemm *g)
{
    void *const blocks[] = {g->a, g->w, g->packed, g->scratch, g->c, g->offset, g->scale};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) tb_free(blocks[i]);
}

/* ---- our side ---- */
static tb_status run_ours(void *self, int64_t times, double *ns)
{
    gemm *g = self;
    (void)ns;
    const void *args = g->dtype == TB_I8 ? (const void *)&g->i8 : &g->floats;
    for (int64_t t = 0; t < times; t++) g->kernel->run(args);
    return TB_OK;
}

/* ---- check ---- */
/* How far element (i, j) of C is off, as part of what rounding allows. */
static double element(tb_dtype dtype, const void *x, int64_t i)
{
    if (dtype == TB_BF16) return (double)tb_bf16_to_f32(((const uint16_t *)x)[i]);
    return dtype == TB_F32  ? (double)((const float *)x)[i]
           : dtype == TB_U8 ? ((const uint8_t *)x)[i]
                            : ((const int8_t *)x)[i];
}

static double element_error(const gemm *g, const void *c, int64_t i, int64_t j)
{
    bool is_i8 = g->dtype == TB_I8;
    double sum = 0, size = 0;
    for (int64_t p = 0; p < g->k; p++) {
        double x = element(is_i8 ? TB_U8 : g->dtype, g->a, i * g->k + p);
        double w = element(g->dtype, g->w, is_i8 ? j * g->k + p : p * g->n + j);
        sum += x * w;
        size += fabs(x * w);
    }
    double got = element(is_i8 ? TB_F32 : g->dtype, c, i * g->n + j);
    if (is_i8) return got == (double)(float)sum ? 0 : INFINITY;
    double allowed = (double)g->k * 0x1p-24 * size + (g->dtype == TB_BF16 ? 0x1p-8 * fabs(sum) : 0);
    return got == sum ? 0 : fabs(got - sum) / allowed;
}

static double worst_error(const gemm *g, const void *c)
{
    double worst = 0;
    int64_t all = g->m * g->n;
    bool few = all * g->k > FULLY_CHECKED && all > CHECKED_ELEMENTS;
    for (int64_t e = 0; e < (few ? CHECKED_ELEMENTS : all); e++) {
        int64_t at = few ? (int64_t)((tb_bench_value(3, e) + 1) / 2 * (double)all) : e;
        if (few && e == 0) at = all - 1; /* the corner that tails end in */
        double error = element_error(g, c, at / g->n, at % g->n);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

static tb_status check_ours(void *self)
{
    const gemm *g = self;
    return tb_bench_judge("gemm", worst_error(g, g->c));
}

/* ---- peers ---- */
typedef struct peer_side {
    tb_bench_library library; /* first: tb_bench_library_run */
    const gemm *ours;
    void *c; /* [M, N] f32, or s32 */
} peer_side;

static tb_status check_peer(void *self)
{
    const peer_side *p = self;
    int64_t n = p->ours->m * p->ours->n;
    float *c = p->c;
    if (p->ours->dtype == TB_I8) {
        c = tb_calloc((size_t)n, sizeof *c);
        if (!c) return TB_ERR_OOM;
        for (int64_t i = 0; i < n; i++) c[i] = (float)((const int32_t *)p->c)[i];
    }
    double worst = worst_error(p->ours, c);
    if (c != p->c) tb_free(c);
    return tb_bench_judge("gemm", worst);
}

/* Percent of peak that the peers of Debian 12 reach on 1 and 2 quiet cores of one processor (Zen 5, AVX-512). */
static const char known_cpu[] = "AuthenticAMD 26 2";
static const struct {
    const char *peer;
    tb_dtype dtype;
    int64_t m, k, n;
    double percent[2];
} known[] = {
    {"onednn", TB_F32, 64, 64, 64, {88, 18}},         {"onednn", TB_F32, 128, 128, 128, {98, 62}},
    {"onednn", TB_F32, 256, 256, 256, {98, 86}},      {"onednn", TB_F32, 512, 512, 512, {98, 94}},
    {"onednn", TB_F32, 1024, 1024, 1024, {95, 89}},   {"onednn", TB_F32, 2048, 2048, 2048, {92, 87}},
    {"onednn", TB_F32, 1, 784, 256, {27, 9}},         {"onednn", TB_F32, 8, 784, 256, {92, 55}},
    {"onednn", TB_F32, 32, 1024, 1024, {93, 80}},     {"onednn", TB_F32, 128, 512, 2048, {97, 92}},
    {"onednn", TB_I8, 64, 64, 64, {69, 6}},           {"onednn", TB_I8, 128, 128, 128, {92, 33}},
    {"onednn", TB_I8, 512, 512, 512, {94, 93}},       {"onednn", TB_I8, 1024, 1024, 1024, {97, 96}},
    {"onednn", TB_I8, 2048, 2048, 2048, {95, 94}},    {"onednn", TB_I8, 1, 784, 256, {22, 4}},
    {"onednn", TB_I8, 8, 784, 256, {86, 23}},         {"onednn", TB_I8, 32, 1024, 1024, {93, 81}},
    {"onednn", TB_I8, 128, 512, 2048, {93, 92}},      {"openblas", TB_F32, 64, 64, 64, {98, 48}},
    {"openblas", TB_F32, 128, 128, 128, {81, 32}},    {"openblas", TB_F32, 256, 256, 256, {90, 53}},
    {"openblas", TB_F32, 512, 512, 512, {91, 69}},    {"openblas", TB_F32, 1024, 1024, 1024, {91, 71}},
    {"openblas", TB_F32, 2048, 2048, 2048, {89, 82}}, {"openblas", TB_F32, 1, 784, 256, {23, 11}},
    {"openblas", TB_F32, 8, 784, 256, {29, 14}},      {"openblas", TB_F32, 32, 1024, 1024, {46, 30}},
    {"openblas", TB_F32, 128, 512, 2048, {77, 64}},
};

/* 0: not known, as on every other processor. A lower instruction set is another percent. */
static double known_percent(const tb_bench_run *run, const gemm *g)
{
    tb_isa isa = g->dtype == TB_I8 ? TB_ISA_AVX512VNNI : TB_ISA_AVX512;
    if (run->threads > 2 || g->kernel->isa != isa || strcmp(tb_cpu_id(), known_cpu) != 0) return 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].peer, run->peer) == 0 && known[i].dtype == g->dtype && known[i].m == g->m &&
            known[i].k == g->k && known[i].n == g->n)
            return known[i].percent[run->threads - 1];
    return 0;
}

static tb_status join_own(tb_bench_run *run, gemm *f32, tb_bench_case *c)
{
    TB_TRY(make(f32, run, TB_F32));
    c->peer = (tb_bench_side){run_ours, f32};
    c->peer_check = check_ours;
    c->peer_detail = f32->kernel->name;
    return TB_OK;
}

static tb_status join_peer(const tb_bench_run *run, const gemm *g, peer_side *p, tb_bench_case *c)
{
    if (g->dtype == TB_BF16) return TB_FAIL(TB_ERR_CONFIG, "gemm: peer %s computes in f32 and i8", run->peer);
    p->ours = g;
    if (!(p->c = tb_calloc((size_t)(g->m * g->n), sizeof(float)))) return TB_ERR_OOM;
    tb_peer_gemm product = {.is_i8 = g->dtype == TB_I8,
                            .m = g->m,
                            .k = g->k,
                            .n = g->n,
                            .a = g->a,
                            .w = g->w,
                            .c = p->c,
                            .threads = run->threads};
    TB_TRY(tb_bench_library_gemm(&p->library, run->peer, g->kernel->isa, &product));
    c->peer = (tb_bench_side){tb_bench_library_run, p};
    c->peer_check = check_peer;
    c->peer_detail = p->library.gemm.detail;
    c->peer_known_percent = known_percent(run, g);
    return TB_OK;
}

/* Torch multiplies through OpenBLAS; its product takes a plain right operand, as torch.mm does. */
static tb_status join_torch(const tb_bench_run *run, const gemm *g, tb_bench_torch *t, tb_bench_case *c)
{
    char what[96];
    if (g->dtype != TB_F32) return TB_FAIL(TB_ERR_CONFIG, "gemm: torch is a peer in f32 only");
    snprintf(what, sizeof what, "gemm %lld %lld %lld", (long long)g->m, (long long)g->k, (long long)g->n);
    TB_TRY(tb_bench_torch_start(t, run->threads, what));
    tb_bench_torch_join(t, c);
    return TB_OK;
}

static tb_status measure(tb_bench_run *run, gemm *g)
{
    peer_side peer = {0};
    gemm own = {0};
    tb_bench_torch torch = {0};
    tb_bench_case c = {.op = "gemm",
                       .kernel = g->kernel->name,
                       .isa = g->kernel->isa,
                       .ours = {run_ours, g},
                       .check = check_ours,
                       .flops = 2.0 * (double)g->m * (double)g->k * (double)g->n,
                       .operand_bytes = (double)(g->m + g->n) * (double)g->k * (double)tb_dtype_size(g->dtype) +
                                        4.0 * (double)g->m * (double)g->n};
    snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lld", (long long)g->m, (long long)g->k, (long long)g->n);
    tb_status st = TB_OK;
    if (run->peer && strcmp(run->peer, "torch") == 0)
        st = join_torch(run, g, &torch, &c);
    else if (run->peer && strcmp(run->peer, "own_f32") == 0)
        st = join_own(run, &own, &c);
    else if (run->peer)
        st = join_peer(run, g, &peer, &c);
    if (st == TB_OK) st = tb_bench_measure(run, &c);
    tb_bench_torch_stop(&torch);
    tb_bench_library_close(&peer.library);
    tb_free(peer.c);
    drop(&own);
    return st;
}

static tb_status run_gemm(tb_bench_run *run)
{
    gemm *g = tb_calloc(1, sizeof *g);
    if (!g) return TB_ERR_OOM;
    tb_status st = make(g, run, run->dtype);
    if (st == TB_OK) st = measure(run, g);
    drop(g);
    tb_free(g);
    return st;
}

static const char *const shapes[] = {"64x64x64",       "128x128x128", "256x256x256", "512x512x512",
                                     "1024x1024x1024", "1x784x256",   "8x784x256",   "32x1024x1024",
                                     "128x512x2048",   NULL};

static const char *const peers[] = {"onednn", "openblas", "torch", "own_f32", NULL};

TB_BENCH(gemm, .doc = "matrix product with packed weights", .shape_form = "MxKxN", .shapes = shapes,
         .dtypes = 1u << TB_F32 | 1u << TB_BF16 | 1u << TB_I8, .peers = peers, .is_whole = true, .run = run_gemm);
