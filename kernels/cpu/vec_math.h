/* exp, log, tanh, erf and the activations made of them, on f32 lanes.
 *
 * Every step is an addition, a fused multiply-add or an exact operation, so all ISAs give the same bits. Polynomials
 * are minimax fits (Remez weights on the relative error of the result); ranges are reduced after Cody and Waite
 * ("Software Manual for the Elementary Functions", 1980). Largest error against the exact function, in units of the
 * last place of f32, over all finite arguments (tests/kernels/test_vec_math.c holds them to it):
 *     exp 1.0    log 0.8    tanh 1.4    erf 1.2    sigmoid 2.4
 * NaN gives NaN; infinities give the limits; denormal arguments and results are kept. */
#pragma once

VEC vf vf_copysign(vf magnitude, vf sign)
{
    vi bit = vi_set1(INT32_MIN);
    return vi_as_vf(vi_or(vi_and(vf_bits(sign), bit), vi_and(vf_bits(magnitude), vi_set1(INT32_MAX))));
}

VEC vf vf_abs(vf x) { return vi_as_vf(vi_and(vf_bits(x), vi_set1(INT32_MAX))); }
VEC vf vf_neg(vf x) { return vi_as_vf(vi_xor(vf_bits(x), vi_set1(INT32_MIN))); }

/* x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 P(r). */
VEC vf vf_exp(vf x)
{
    x = vf_max(vf_set1(-104.0f), vf_min(vf_set1(89.0f), x)); /* NaN passes */
    vf n = vf_round(vf_mul(x, vf_set1(0x1.715476p+0f)));
    vf r = vf_fnma(n, vf_set1(0x1.62e400p-1f), x); /* ln 2: the upper bits, exact times n */
    r = vf_fnma(n, vf_set1(0x1.7f7d1cp-20f), r);   /* and the rest */
    vf p = vf_set1(0.00138144672f);
    p = vf_fma(p, r, vf_set1(0.00836878084f));
    p = vf_fma(p, r, vf_set1(0.0416683927f));
    p = vf_fma(p, r, vf_set1(0.166665196f));
    p = vf_fma(p, r, vf_set1(0.49999994f));
    return vf_scale(vf_add(vf_fma(vf_mul(r, r), p, r), vf_set1(1.0f)), n);
}

/* x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); log(1 + f) = f - f^2/2 + f^3 P(f). */
VEC vf vf_log(vf x)
{
    vm tiny = vf_lt(x, vf_set1(0x1p-126f));
    vf scaled = vf_select(tiny, vf_mul(x, vf_set1(0x1p23f)), x);
    vi bits = vi_sub(vf_bits(scaled), vi_set1(0x3f3504f3)); /* sqrt(1/2) */
    vf e = vi_to_vf(vi_sar(bits, 23));
    e = vf_add(e, vf_select(tiny, vf_set1(-23.0f), vf_zero()));
    vf f = vf_sub(vi_as_vf(vi_add(vi_and(bits, vi_set1(0x007fffff)), vi_set1(0x3f3504f3))), vf_set1(1.0f));
    vf p = vf_set1(0.0674663857f);
    p = vf_fma(p, f, vf_set1(-0.116756514f));
    p = vf_fma(p, f, vf_set1(0.118881628f));
    p = vf_fma(p, f, vf_set1(-0.124055892f));
    p = vf_fma(p, f, vf_set1(0.142195523f));
    p = vf_fma(p, f, vf_set1(-0.166679963f));
    p = vf_fma(p, f, vf_set1(0.200021192f));
    p = vf_fma(p, f, vf_set1(-0.250000089f));
    p = vf_fma(p, f, vf_set1(0.333333135f));
    vf f2 = vf_mul(f, f);
    vf tail = vf_fma(e, vf_set1(0x1.7f7d1cp-20f), vf_mul(vf_mul(f2, f), p));
    tail = vf_fma(f2, vf_set1(-0.5f), tail);
    vf y = vf_fma(e, vf_set1(0x1.62e400p-1f), vf_add(f, tail));
    y = vf_select(vf_eq(x, vf_set1(INFINITY)), x, y);
    y = vf_select(vf_eq(x, vf_zero()), vf_set1(-INFINITY), y);
    return vf_select(vf_lt(x, vf_zero()), vf_set1(NAN), vf_select(vf_isnan(x), x, y));
}

/* |x| < 0.625: x + x^3 P(x^2); beyond: 1 - 2 / (exp(2|x|) + 1). */
VEC vf vf_tanh(vf x)
{
    vf a = vf_abs(x), z = vf_mul(x, x);
    vf p = vf_set1(-0.0057049864f);
    p = vf_fma(p, z, vf_set1(0.0206390861f));
    p = vf_fma(p, z, vf_set1(-0.0537397154f));
    p = vf_fma(p, z, vf_set1(0.133314416f));
    p = vf_fma(p, z, vf_set1(-0.333332807f));
    vf small = vf_fma(vf_mul(z, p), x, x);
    vf big = vf_exp(vf_add(a, a));
    big = vf_sub(vf_set1(1.0f), vf_div(vf_set1(2.0f), vf_add(big, vf_set1(1.0f))));
    return vf_select(vf_lt(a, vf_set1(0.625f)), small, vf_copysign(big, x));
}

/* erf(x) / x - 1 for |x| < 0.93, from z = x^2 */
VEC vf erf_small(vf z)
{
    vf p = vf_set1(8.31677535e-05f);
    p = vf_fma(p, z, vf_set1(-0.000813001243f));
    p = vf_fma(p, z, vf_set1(0.00519990688f));
    p = vf_fma(p, z, vf_set1(-0.0268589407f));
    p = vf_fma(p, z, vf_set1(0.112836875f));
    p = vf_fma(p, z, vf_set1(-0.376126319f));
    return vf_fma(p, z, vf_set1(0.128379166f));
}

/* |x| < 0.93: x + x P(x^2); beyond: 1 - exp(Q(|x|)), where Q fits log erfc on [0.93, 4]; erf(4) rounds to 1. */
VEC vf vf_erf(vf x)
{
    vf a = vf_abs(x), small = vf_fma(x, erf_small(vf_mul(x, x)), x);
    vf b = vf_min(vf_set1(4.0f), a);
    vf q = vf_set1(0.00019477772f);
    q = vf_fma(q, b, vf_set1(-0.00303182006f));
    q = vf_fma(q, b, vf_set1(0.022181388f));
    q = vf_fma(q, b, vf_set1(-0.103836909f));
    q = vf_fma(q, b, vf_set1(-0.637290418f));
    q = vf_fma(q, b, vf_set1(-1.12761116f));
    q = vf_fma(q, b, vf_set1(-0.00021131261f));
    vf big = vf_sub(vf_set1(1.0f), vf_exp(q));
    return vf_select(vf_lt(a, vf_set1(0.93f)), small, vf_copysign(big, x));
}

/* 1 / (1 + exp(-x)), from exp(-|x|) so that neither end loses digits. */
VEC vf vf_sigmoid(vf x)
{
    vf e = vf_exp(vf_neg(vf_abs(x)));
    vf top = vf_select(vf_lt(x, vf_zero()), e, vf_set1(1.0f));
    return vf_div(top, vf_add(e, vf_set1(1.0f)));
}

VEC vf vf_relu(vf x) { return vf_select(vf_lt(x, vf_zero()), vf_zero(), x); } /* NaN passes */
VEC vf vf_silu(vf x) { return vf_mul(x, vf_sigmoid(x)); }

/* x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): Hendrycks and Gimpel 2016, tanh form. */
VEC vf vf_gelu_tanh(vf x)
{
    vf cubic = vf_fma(vf_mul(vf_mul(x, x), x), vf_set1(0.044715f), x);
    return vf_mul(x, vf_sigmoid(vf_mul(cubic, vf_set1(1.5957691216f)))); /* 2 sqrt(2/pi) */
}

/* The normal distribution function (1 + erf(x / sqrt 2)) / 2 with its digits kept in the left tail. |x| < 1: from erf's
 * polynomial; beyond: exp(-x^2/2) R((|x| - 3) / (|x| + 3)) for the tail, with the rounding of x^2 put back. */
VEC vf vf_normal_cdf(vf x)
{
    vf one = vf_set1(1.0f), half = vf_set1(0.5f);
    vf a = vf_min(vf_set1(14.5f), vf_abs(x)), three = vf_set1(3.0f); /* the tail at 14.5 is below the denormals */
    vf t = vf_div(vf_sub(a, three), vf_add(a, three));
    vf r = vf_set1(3.63737418e-05f);
    r = vf_fma(r, t, vf_set1(0.000128196567f));
    r = vf_fma(r, t, vf_set1(-0.000329071365f));
    r = vf_fma(r, t, vf_set1(-0.000991890323f));
    r = vf_fma(r, t, vf_set1(0.00290271174f));
    r = vf_fma(r, t, vf_set1(0.00613372168f));
    r = vf_fma(r, t, vf_set1(-0.0462132208f));
    r = vf_fma(r, t, vf_set1(0.123224922f));
    r = vf_fma(r, t, vf_set1(-0.206402615f));
    r = vf_fma(r, t, vf_set1(0.121513948f));
    vf square = vf_mul(a, a), lost = vf_fma(a, a, vf_neg(square));
    vf e = vf_exp(vf_mul(square, vf_set1(-0.5f)));
    vf tail = vf_mul(vf_fnma(e, vf_mul(lost, half), e), r);
    vf outer = vf_select(vf_lt(x, vf_zero()), tail, vf_sub(one, tail));
    vf z = vf_mul(x, vf_set1(0.70710678119f));
    vf inner = vf_fma(vf_fma(z, erf_small(vf_mul(z, z)), z), half, half);
    return vf_select(vf_lt(a, one), inner, vf_select(vf_isnan(x), x, outer));
}

VEC vf vf_gelu_erf(vf x) { return vf_mul(x, vf_normal_cdf(x)); }
