/* Pointwise f32: the loops over an operand list, and one function per primitive.
 *
 * Primitives carry the names of the ops. Gradients take the gradient of the result first, then what the formula
 * reads: x for relu_grad, gelu_*_grad and silu_grad, the result y for tanh_grad and sigmoid_grad. where reads its
 * condition (in[0]) as bool bytes. clamp's attrs are a tb_clamp_attrs. The output may be one of the inputs. */
#pragma once
#include "tb_kernel.h"
#include "vec_math.h"

typedef vf (*fn1)(vf);
typedef vf (*fn2)(vf, vf);

VEC void map1(const tb_pointwise_args *p, fn1 f)
{
    const float *x = p->in[0];
    float *out = p->out;
    const int64_t n = p->n;
    int64_t i = 0;
    if (n > 0 && !p->step[0]) {
        vf constant = f(vf_set1(*x));
        for (; i < n; i += VL) vf_store_part(out + i, constant, n - i);
    }
    for (; i + VL <= n; i += VL) vf_store(out + i, f(vf_load(x + i)));
    if (i < n) vf_store_part(out + i, f(vf_load_part(x + i, n - i)), n - i);
}

VEC void map2_steps(const tb_pointwise_args *p, fn2 f, const bool a_moves, const bool b_moves)
{
    const float *a = p->in[0], *b = p->in[1];
    float *out = p->out;
    const int64_t n = p->n;
    vf av = a_moves ? vf_zero() : vf_set1(*a), bv = b_moves ? vf_zero() : vf_set1(*b);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) vf_store(out + i, f(a_moves ? vf_load(a + i) : av, b_moves ? vf_load(b + i) : bv));
    if (i < n) {
        vf x = a_moves ? vf_load_part(a + i, n - i) : av, y = b_moves ? vf_load_part(b + i, n - i) : bv;
        vf_store_part(out + i, f(x, y), n - i);
    }
}

VEC void map2(const tb_pointwise_args *p, fn2 f)
{
    if (p->n == 0) return;
    if (p->step[0] && p->step[1]) map2_steps(p, f, true, true);
    else if (p->step[0]) map2_steps(p, f, true, false);
    else if (p->step[1]) map2_steps(p, f, false, true);
    else map2_steps(p, f, false, false);
}

/* NaN wins. */
VEC vf maximum(vf a, vf b) { return vf_select(vf_isnan(a), a, vf_max(a, b)); }
VEC vf minimum(vf a, vf b) { return vf_select(vf_isnan(a), a, vf_min(a, b)); }
VEC vf rsqrt(vf x) { return vf_div(vf_set1(1.0f), vf_sqrt(x)); }

/* A NaN lets the gradient pass, as in torch. */
VEC vf relu_grad(vf g, vf x) { return vf_select(vf_le(x, vf_zero()), vf_zero(), g); }
VEC vf tanh_grad(vf g, vf y) { return vf_mul(g, vf_fnma(y, y, vf_set1(1.0f))); }
VEC vf sigmoid_grad(vf g, vf y) { return vf_mul(g, vf_mul(y, vf_sub(vf_set1(1.0f), y))); }

/* s (1 + x (1 - s)), s = sigmoid(x) */
VEC vf silu_grad(vf g, vf x)
{
    vf s = vf_sigmoid(x), one = vf_set1(1.0f);
    return vf_mul(g, vf_mul(s, vf_fma(x, vf_sub(one, s), one)));
}

/* s + x s (1 - s) v', s = sigmoid(v), v = 2 sqrt(2/pi) (x + 0.044715 x^3). From e = exp(-|v|), so that s (1 - s) =
 * e / (1 + e)^2 keeps its digits where s is near 1 and x v' large; beyond |x| = 12 s is 0 or 1, and the clamp keeps x^3
 * from overflowing. */
VEC vf gelu_tanh_grad(vf g, vf x)
{
    vf one = vf_set1(1.0f), scale = vf_set1(1.5957691216f);
    x = vf_max(vf_set1(-12.0f), vf_min(vf_set1(12.0f), x));
    vf x2 = vf_mul(x, x);
    vf e = vf_exp(vf_neg(vf_abs(vf_mul(scale, vf_fma(vf_mul(x2, x), vf_set1(0.044715f), x)))));
    vf part = vf_div(one, vf_add(e, one)), rest = vf_mul(e, part);
    vf slope = vf_mul(scale, vf_fma(x2, vf_set1(0.134145f), one));
    vf s = vf_select(vf_lt(x, vf_zero()), rest, part);
    return vf_mul(g, vf_fma(vf_mul(x, vf_mul(part, rest)), slope, s));
}

/* Phi(x) + x phi(x), with the normal distribution Phi and its density phi */
VEC vf gelu_erf_grad(vf g, vf x)
{
    vf phi = vf_mul(vf_exp(vf_mul(vf_mul(x, x), vf_set1(-0.5f))), vf_set1(0.39894228040f));
    return vf_mul(g, vf_fma(x, phi, vf_normal_cdf(x)));
}

#define RUN1(op, f)                                                                                                   \
    static void run_##op(const void *args) { map1(args, f); }
#define RUN2(op, f)                                                                                                   \
    static void run_##op(const void *args) { map2(args, f); }
RUN1(neg, vf_neg) RUN1(abs, vf_abs) RUN1(exp, vf_exp) RUN1(log, vf_log) RUN1(sqrt, vf_sqrt) RUN1(rsqrt, rsqrt)
RUN1(tanh, vf_tanh) RUN1(erf, vf_erf) RUN1(sigmoid, vf_sigmoid) RUN1(relu, vf_relu) RUN1(silu, vf_silu)
RUN1(gelu_tanh, vf_gelu_tanh) RUN1(gelu_erf, vf_gelu_erf)
RUN2(add, vf_add) RUN2(sub, vf_sub) RUN2(mul, vf_mul) RUN2(div, vf_div) RUN2(maximum, maximum) RUN2(minimum, minimum)
RUN2(relu_grad, relu_grad) RUN2(gelu_tanh_grad, gelu_tanh_grad) RUN2(gelu_erf_grad, gelu_erf_grad)
RUN2(silu_grad, silu_grad) RUN2(tanh_grad, tanh_grad) RUN2(sigmoid_grad, sigmoid_grad)

/* min(max(x, lo), hi); NaN stays */
static void run_clamp(const void *args)
{
    const tb_pointwise_args *p = args;
    const tb_clamp_attrs *range = p->attrs;
    vf lo = vf_set1((float)range->lo), hi = vf_set1((float)range->hi);
    const float *x = p->in[0];
    for (int64_t i = 0; i < p->n; i += VL) {
        vf v = p->step[0] ? vf_load_part(x + i, p->n - i) : vf_set1(*x);
        vf_store_part((float *)p->out + i, vf_min(hi, vf_max(lo, v)), p->n - i);
    }
}

static void run_where(const void *args)
{
    const tb_pointwise_args *p = args;
    const uint8_t *cond = p->in[0];
    const float *yes = p->in[1], *no = p->in[2];
    for (int64_t i = 0; i < p->n; i += VL) {
        int64_t left = p->n - i;
        uint8_t tail[16] = {0};
        const uint8_t *c = cond + i;
        if (!p->step[0] || left < VL) {
            for (int j = 0; j < VL && j < left; j++) tail[j] = p->step[0] ? cond[i + j] : *cond;
            c = tail;
        }
        vf a = p->step[1] ? vf_load_part(yes + i, left) : vf_set1(*yes);
        vf b = p->step[2] ? vf_load_part(no + i, left) : vf_set1(*no);
        vf_store_part((float *)p->out + i, vf_select(vm_load_bool(c), a, b), left);
    }
}

#define POINTWISE(op)                                                                                                 \
    {                                                                                                                 \
        .name = #op "_f32_" VEC_ISA_NAME, .primitive = #op, .dtype = TB_F32, .isa = VEC_ISA, .run = run_##op          \
    }
