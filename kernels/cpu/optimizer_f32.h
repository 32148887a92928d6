/* One step of SGD or Adam(W), f32, in one pass: parameter, gradient and states are read once, parameter and states
 * written once. What is constant over the elements is computed in f64 and rounded. */
#pragma once
#include "tb_kernel.h"
#include "vec_math.h"

/* d = scale g + decay p;  b = momentum b + d;  p -= rate (nesterov ? d + momentum b : b) */
static void run_sgd(const void *args)
{
    const tb_update_args *a = args;
    const tb_sgd_step *s = a->attrs;
    float *param = a->param, *buffer = a->state[0];
    const float *grad = a->grad, *from = a->from ? a->from : a->param;
    vf rate = vf_set1((float)s->rate), scale = vf_set1((float)s->scale), decay = vf_set1((float)s->decay);
    vf momentum = vf_set1((float)s->momentum);
    for (int64_t i = 0; i < a->n; i += VL) {
        int64_t left = a->n - i;
        vf p = vf_load_part(from + i, left), d = vf_fma(decay, p, vf_mul(scale, vf_load_part(grad + i, left)));
        if (buffer) {
            vf b = vf_fma(momentum, vf_load_part(buffer + i, left), d);
            vf_store_part(buffer + i, b, left);
            d = s->nesterov ? vf_fma(momentum, b, d) : b;
        }
        vf_store_part(param + i, vf_fnma(rate, d, p), left);
    }
}

/* d = scale g (+ decay p);  m = b1 m + (1 - b1) d;  v = b2 v + (1 - b2) d^2;
 * p -= rate (m / bias1 / (sqrt(v / bias2) + eps) (+ decay p)): decay where `decoupled` says */
static void run_adamw(const void *args)
{
    const tb_update_args *a = args;
    const tb_adamw_step *s = a->attrs;
    float *param = a->param, *first = a->state[0], *second = a->state[1];
    const float *grad = a->grad, *from = a->from ? a->from : a->param;
    vf scale = vf_set1((float)s->scale), beta1 = vf_set1((float)s->beta1), beta2 = vf_set1((float)s->beta2);
    vf rest1 = vf_set1((float)(1 - s->beta1)), rest2 = vf_set1((float)(1 - s->beta2));
    vf coupled = vf_set1(s->decoupled ? 0.0f : (float)s->decay);
    vf shrink = vf_set1(s->decoupled ? (float)(s->rate * s->decay) : 0.0f);
    vf rate = vf_set1((float)(s->rate / s->bias1)), eps = vf_set1((float)s->eps);
    vf root = vf_set1((float)(1 / sqrt(s->bias2)));
    for (int64_t i = 0; i < a->n; i += VL) {
        int64_t left = a->n - i;
        vf p = vf_load_part(from + i, left), d = vf_fma(coupled, p, vf_mul(scale, vf_load_part(grad + i, left)));
        vf m = vf_fma(beta1, vf_load_part(first + i, left), vf_mul(rest1, d));
        vf v = vf_fma(beta2, vf_load_part(second + i, left), vf_mul(vf_mul(rest2, d), d));
        vf_store_part(first + i, m, left);
        vf_store_part(second + i, v, left);
        vf step = vf_div(vf_mul(rate, m), vf_fma(vf_sqrt(v), root, eps));
        vf_store_part(param + i, vf_sub(vf_fnma(shrink, p, p), step), left);
    }
}

#define UPDATE_KERNEL(op)                                                                                             \
    {                                                                                                                 \
        .name = #op "_f32_" VEC_ISA_NAME, .primitive = #op, .dtype = TB_F32, .isa = VEC_ISA, .run = run_##op          \
    }
