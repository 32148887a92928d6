/* Attention, f32: every kernel against the definition in f64; the same bits on every ISA and at any thread count; what
 * a row gives does not depend on the rows beside it. */
#include "kernel_test.h"
#include "tb_pool.h"

typedef struct attention_case {
    int64_t b, h, t, s, d, e;
    bool causal, heads_last, has_len;
} attention_case;
static const attention_case cases[] = {
    {1, 1, 1, 1, 1, 1, false, false, false},      {2, 3, 7, 7, 8, 8, true, false, false},
    {1, 2, 5, 9, 16, 3, false, true, false},      {2, 2, 33, 33, 17, 17, true, true, false},
    {1, 1, 130, 130, 32, 32, true, false, false}, {2, 1, 1, 67, 20, 24, true, false, true},
    {2, 2, 20, 31, 5, 40, true, true, true},      {1, 1, 3, 600, 8, 16, false, false, false},
    {3, 1, 6, 0, 4, 4, false, false, false},      {1, 2, 0, 5, 4, 4, false, false, false},
    {1, 1, 300, 300, 12, 12, true, false, false},
};
enum { CASES = sizeof cases / sizeof *cases, MAX_KERNELS = 8 };

/* [b, h, rows, width], or in memory [b, rows, h, width] as a projection gives it. */
static void set_strides(const attention_case *c, int64_t rows, int64_t width, int64_t stride[3])
{
    stride[0] = c->h * rows * width;
    stride[1] = c->heads_last ? width : rows * width;
    stride[2] = c->heads_last ? c->h * width : width;
}

static tb_attention_args args_of(const attention_case *c)
{
    static const int64_t lengths[] = {3, 31};
    tb_attention_args a = {.b = c->b, .h = c->h, .t = c->t, .s = c->s, .d = c->d, .e = c->e, .causal = c->causal,
                           .scale = 0.4, .kv_len = c->has_len ? lengths : NULL};
    set_strides(c, c->t, c->d, a.q_stride);
    set_strides(c, c->s, c->d, a.k_stride);
    set_strides(c, c->s, c->e, a.v_stride);
    set_strides(c, c->t, c->e, a.out_stride);
    memcpy(a.g_stride, a.out_stride, sizeof a.g_stride);
    memcpy(a.dq_stride, a.q_stride, sizeof a.q_stride);
    memcpy(a.dk_stride, a.k_stride, sizeof a.k_stride);
    memcpy(a.dv_stride, a.v_stride, sizeof a.v_stride);
    a.q = guarded_random(c->b * c->h * c->t * c->d, 1);
    a.k = guarded_random(c->b * c->h * c->s * c->d, 2);
    a.v = guarded_random(c->b * c->h * c->s * c->e, 3);
    a.g = guarded_random(c->b * c->h * c->t * c->e, 4);
    return a;
}

static void new_outputs(tb_attention_args *a)
{
    a->out = guarded((size_t)(a->b * a->h * a->t * a->e) * sizeof(float));
    a->lse = guarded((size_t)(a->b * a->h * a->t) * sizeof(float));
    a->dq = guarded((size_t)(a->b * a->h * a->t * a->d) * sizeof(float));
    a->dk = guarded((size_t)(a->b * a->h * a->s * a->d) * sizeof(float));
    a->dv = guarded((size_t)(a->b * a->h * a->s * a->e) * sizeof(float));
}

static double at(const void *x, const int64_t *stride, int64_t b, int64_t h, int64_t i, int64_t j)
{
    return (double)((const float *)x)[b * stride[0] + h * stride[1] + i * stride[2] + j];
}

static int64_t seen_by(const tb_attention_args *a, int64_t b, int64_t i)
{
    int64_t valid = a->kv_len ? a->kv_len[b] : a->s, n = a->causal ? i + 1 + valid - a->t : valid;
    return n < 0 ? 0 : n;
}

/* One head by the definition: weights p [t, s], out [t, e], lse, and with g the gradients. */
typedef struct exact {
    double *p, *out, *lse, *dq, *dk, *dv;
} exact;
static exact exact_head(const tb_attention_args *a, int64_t b, int64_t h)
{
    exact x = {calloc((size_t)(a->t * a->s) + 1, 8), calloc((size_t)(a->t * a->e) + 1, 8),
               calloc((size_t)a->t + 1, 8),          calloc((size_t)(a->t * a->d) + 1, 8),
               calloc((size_t)(a->s * a->d) + 1, 8), calloc((size_t)(a->s * a->e) + 1, 8)};
    for (int64_t i = 0; i < a->t; i++) {
        int64_t n = seen_by(a, b, i);
        double *p = x.p + i * a->s, max = -INFINITY, sum = 0, mean = 0;
        for (int64_t j = 0; j < n; j++) {
            for (int64_t d = 0; d < a->d; d++)
                p[j] += a->scale * at(a->q, a->q_stride, b, h, i, d) * at(a->k, a->k_stride, b, h, j, d);
            max = fmax(max, p[j]);
        }
        for (int64_t j = 0; j < n; j++) sum += p[j] = exp(p[j] - max);
        x.lse[i] = n ? max + log(sum) : (double)-INFINITY;
        for (int64_t j = 0; j < n; j++) {
            p[j] /= sum;
            for (int64_t e = 0; e < a->e; e++) x.out[i * a->e + e] += p[j] * at(a->v, a->v_stride, b, h, j, e);
        }
        for (int64_t e = 0; e < a->e; e++) mean += at(a->g, a->g_stride, b, h, i, e) * x.out[i * a->e + e];
        for (int64_t j = 0; j < n; j++) {
            double gv = 0;
            for (int64_t e = 0; e < a->e; e++) {
                gv += at(a->g, a->g_stride, b, h, i, e) * at(a->v, a->v_stride, b, h, j, e);
                x.dv[j * a->e + e] += p[j] * at(a->g, a->g_stride, b, h, i, e);
            }
            double ds = a->scale * p[j] * (gv - mean);
            for (int64_t d = 0; d < a->d; d++) {
                x.dq[i * a->d + d] += ds * at(a->k, a->k_stride, b, h, j, d);
                x.dk[j * a->d + d] += ds * at(a->q, a->q_stride, b, h, i, d);
            }
        }
    }
    return x;
}

static void compare(const tb_kernel *k, const char *what, const void *got, const int64_t *stride, int64_t b, int64_t h,
                    int64_t rows, int64_t width, const double *want)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < width; j++)
            assert_near(k, what, i * width + j, at(got, stride, b, h, i, j), want[i * width + j], 5e-6, 5e-6);
}

static void run_both(const tb_kernel *forward, const tb_kernel *backward, tb_attention_args *a)
{
    new_outputs(a);
    a->scratch = guarded((forward->scratch_bytes(a) + 63) / 64 * 64);
    forward->run(a);
    a->scratch = guarded((backward->scratch_bytes(a) + 63) / 64 * 64);
    backward->run(a);
}

static int find(const tb_kernel **forward, const tb_kernel **backward)
{
    int n = kernel_test_find("attention", TB_F32, forward, MAX_KERNELS);
    assert_int_equal(kernel_test_find("attention_grad", TB_F32, backward, MAX_KERNELS), n);
    return n;
}

static void every_kernel_is_the_definition(void **state)
{
    const tb_kernel *forward[MAX_KERNELS], *backward[MAX_KERNELS];
    int n_kernels = find(forward, backward);
    for (int q = 0; q < n_kernels; q++)
        for (int which = 0; which < CASES; which++) {
            tb_attention_args a = args_of(&cases[which]);
            if (which & 1) a.pool = *state;
            run_both(forward[q], backward[q], &a);
            for (int64_t b = 0; b < a.b; b++)
                for (int64_t h = 0; h < a.h; h++) {
                    exact x = exact_head(&a, b, h);
                    compare(forward[q], "out", a.out, a.out_stride, b, h, a.t, a.e, x.out);
                    compare(forward[q], "lse", a.lse, (int64_t[]){a.h * a.t, a.t, 1}, b, h, a.t, 1, x.lse);
                    compare(backward[q], "dq", a.dq, a.dq_stride, b, h, a.t, a.d, x.dq);
                    compare(backward[q], "dk", a.dk, a.dk_stride, b, h, a.s, a.d, x.dk);
                    compare(backward[q], "dv", a.dv, a.dv_stride, b, h, a.s, a.e, x.dv);
                    free(x.p), free(x.out), free(x.lse), free(x.dq), free(x.dk), free(x.dv);
                }
            guarded_free_all();
        }
}

static void isas_and_threads_change_nothing(void **state)
{
    const tb_kernel *forward[MAX_KERNELS], *backward[MAX_KERNELS];
    int n_kernels = find(forward, backward);
    for (int which = 0; which < CASES; which++) {
        tb_attention_args first = args_of(&cases[which]);
        run_both(forward[0], backward[0], &first);
        for (int q = 0; q < n_kernels; q++) {
            tb_attention_args a = first;
            a.pool = *state;
            run_both(forward[q], backward[q], &a);
            bool same =
                same_bits(a.out, first.out, a.b * a.h * a.t * a.e) && same_bits(a.lse, first.lse, a.b * a.h * a.t) &&
                same_bits(a.dq, first.dq, a.b * a.h * a.t * a.d) && same_bits(a.dk, first.dk, a.b * a.h * a.s * a.d) &&
                same_bits(a.dv, first.dv, a.b * a.h * a.s * a.e);
            if (!same) fail_msg("%s and %s differ in case %d", forward[0]->name, forward[q]->name, which);
        }
        guarded_free_all();
    }
}

/* The last query alone, over the same keys, gives the bits it has among the others: decoding equals prefill. */
static void a_query_alone_gives_the_same_bits(void **state)
{
    (void)state;
    const tb_kernel *forward[MAX_KERNELS], *backward[MAX_KERNELS];
    int n_kernels = find(forward, backward);
    for (int q = 0; q < n_kernels; q++) {
        tb_attention_args all = args_of(&cases[4]);
        run_both(forward[q], backward[q], &all);
        tb_attention_args one = all;
        one.t = 1;
        one.q = (const float *)all.q + (all.t - 1) * all.d;
        new_outputs(&one);
        one.scratch = guarded((forward[q]->scratch_bytes(&one) + 63) / 64 * 64);
        forward[q]->run(&one);
        assert_true(same_bits(one.out, (const float *)all.out + (all.t - 1) * all.e, all.e));
        guarded_free_all();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_is_the_definition),
        cmocka_unit_test(isas_and_threads_change_nothing),
        cmocka_unit_test(a_query_alone_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, three_threads, no_threads);
}
