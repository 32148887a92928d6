/* Element types: sizes, names, conversions, promotion. */
#include "tb_dtype.h"
#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    bool is_float;
    double eps;
} dtypes[TB_DTYPES] = {
    [TB_F32] = {"f32", true, 0x1p-23},  [TB_F64] = {"f64", true, 0x1p-52},
    [TB_BF16] = {"bf16", true, 0x1p-7}, [TB_F16] = {"f16", true, 0x1p-10},
    [TB_I8] = {"i8", false, 0},         [TB_U8] = {"u8", false, 0},
    [TB_I32] = {"i32", false, 0},       [TB_I64] = {"i64", false, 0},
    [TB_BOOL] = {"bool", false, 0},
};

const char *tb_dtype_name(tb_dtype t) { return (unsigned)t < TB_DTYPES ? dtypes[t].name : "?"; }
extern inline size_t tb_dtype_size(tb_dtype t);
bool tb_dtype_is_float(tb_dtype t) { return dtypes[t].is_float; }
double tb_dtype_eps(tb_dtype t) { return dtypes[t].eps; }

bool tb_dtype_parse(const char *name, tb_dtype *t)
{
    for (int i = 0; i < TB_DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0) return *t = (tb_dtype)i, true;
    return false;
}

tb_dtype tb_dtype_promote(tb_dtype a, tb_dtype b)
{
    if (a == b) return a;
    if (dtypes[a].is_float != dtypes[b].is_float) return dtypes[a].is_float ? a : b;
    if (dtypes[a].is_float) {
        if (a == TB_F64 || b == TB_F64) return TB_F64;
        return TB_F32; /* f32 with anything smaller, or bf16 with f16: neither holds the other */
    }
    if (a == TB_BOOL || b == TB_BOOL) return a == TB_BOOL ? b : a;
    if ((a == TB_I8 && b == TB_U8) || (a == TB_U8 && b == TB_I8)) return TB_I32; /* torch: int16, which we lack */
    return tb_dtype_size(a) >= tb_dtype_size(b) ? a : b;
}

static uint32_t f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static float bits_f32(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

float tb_bf16_to_f32(uint16_t x) { return bits_f32((uint32_t)x << 16); }

uint16_t tb_f32_to_bf16(float x)
{
    uint32_t u = f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float tb_f16_to_f32(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = (x >> 10) & 31u, mantissa = x & 0x3ffu;
    if (exponent == 31) return bits_f32(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24 is exact in f32 */
        float magnitude = (float)mantissa * 0x1p-24f;
        return bits_f32(sign | f32_bits(magnitude));
    }
    return bits_f32(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* Rounds |x| to a float with `precision` significand bits, smallest exponent `e_min` (of the leading bit), to
 * nearest even, in double arithmetic: x and the power of two are exact, nearbyint does the one rounding. */
static double round_to(double x, int precision, int e_min)
{
    if (x == 0 || !isfinite(x)) return x;
    int e;
    frexp(x, &e);
    e = (e - 1 < e_min ? e_min : e - 1) - (precision - 1);
    return ldexp(nearbyint(ldexp(x, -e)), e);
}

uint16_t tb_f64_to_bf16(double x) { return tb_f32_to_bf16(isnan(x) ? (float)x : (float)round_to(x, 8, -126)); }

uint16_t tb_f64_to_f16(double x)
{
    uint16_t sign = signbit(x) ? 0x8000u : 0;
    if (isnan(x)) return (uint16_t)(sign | 0x7e00u);
    double r = fabs(round_to(x, 11, -14));
    if (r >= 65520.0) return (uint16_t)(sign | 0x7c00u);
    if (r < 0x1p-14) return (uint16_t)(sign | (uint16_t)(r * 0x1p24));
    int e;
    double m = frexp(r, &e); /* m in [0.5, 1) */
    return (uint16_t)(sign | ((uint16_t)(e + 14) << 10) | ((uint16_t)(m * 2048.0) & 0x3ffu));
}

uint16_t tb_f32_to_f16(float x) { return tb_f64_to_f16((double)x); }

double tb_load_f64(tb_dtype t, const void *p)
{
    switch (t) {
    case TB_F32: return (double)*(const float *)p;
    case TB_F64: return *(const double *)p;
    case TB_BF16: return (double)tb_bf16_to_f32(*(const uint16_t *)p);
    case TB_F16: return (double)tb_f16_to_f32(*(const uint16_t *)p);
    default: return (double)tb_load_i64(t, p);
    }
}

void tb_store_f64(tb_dtype t, void *p, double x)
{
    switch (t) {
    case TB_F32: *(float *)p = (float)x; break;
    case TB_F64: *(double *)p = x; break;
    case TB_BF16: *(uint16_t *)p = tb_f64_to_bf16(x); break;
    case TB_F16: *(uint16_t *)p = tb_f64_to_f16(x); break;
    case TB_BOOL: *(uint8_t *)p = x != 0; break;
    default: tb_store_i64(t, p, x >= -0x1p63 && x < 0x1p63 ? (int64_t)x : INT64_MIN); break;
    }
}

int64_t tb_load_i64(tb_dtype t, const void *p)
{
    switch (t) {
    case TB_I8: return *(const int8_t *)p;
    case TB_U8: return *(const uint8_t *)p;
    case TB_I32: return *(const int32_t *)p;
    case TB_I64: return *(const int64_t *)p;
    case TB_BOOL: return *(const uint8_t *)p != 0;
    default: {
        double x = tb_load_f64(t, p);
        return x >= -0x1p63 && x < 0x1p63 ? (int64_t)x : INT64_MIN;
    }
    }
}

void tb_store_i64(tb_dtype t, void *p, int64_t x)
{
    switch (t) {
    case TB_I8: *(int8_t *)p = (int8_t)x; break;
    case TB_U8: *(uint8_t *)p = (uint8_t)x; break;
    case TB_I32: *(int32_t *)p = (int32_t)x; break;
    case TB_I64: *(int64_t *)p = x; break;
    case TB_BOOL: *(uint8_t *)p = x != 0; break;
    case TB_F32: *(float *)p = (float)x; break; /* rounded once: not every i64 is an f64 */
    default: tb_store_f64(t, p, (double)x); break;
    }
}
