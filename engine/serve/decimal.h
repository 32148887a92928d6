/* Decimal text to and from f32, exactly. Reading gives the f32 nearest to the decimal value (ties to even),
 * as strtof does; writing gives a short text (at most 9 significant digits) that reads back to the same bits.
 *
 * The fast way in: mantissa m < 2^64 and power k give x = m * 10^k in double with a relative error below
 * 2^-51 (three roundings, powers up to 10^22 are exact). Rounding x to f32 is then right unless x lies within
 * a few double ulps of the midpoint between two floats; those, subnormals and overflow are left to strtof. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    TBI_F32_TEXT = 24,
    TBI_NUMBER_TEXT = 512
}; /* bytes of the longest text written; longest number read */

/* m * 10^k; false when it is too close to call (see above): *out is then not set. */
static inline bool tbi_decimal_to_f32(uint64_t m, int k, float *out)
{
    static const double ten_to[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    double x = (double)m;
    uint64_t bits;
    if (m == 0) {
        *out = 0.0f;
        return true;
    }
    if (k < -44 || k > 44) return false;
    if (k < -22) {
        x /= 1e22;
        k += 22;
    } else if (k > 22) {
        x *= 1e22;
        k -= 22;
    }
    x = k < 0 ? x / ten_to[-k] : x * ten_to[k];
    if (x < 0x1p-126 || x >= 0x1.ffffffp+127) return false;
    memcpy(&bits, &x, sizeof bits);
    /* The 29 bits that f32 drops; their midpoint is 2^28. */
    if ((bits & 0x1fffffff) - (0x10000000 - 8) <= 16) return false;
    *out = (float)x;
    return true;
}

/* The slow way: `text` is a JSON number of `bytes` characters (not zero-terminated). False: beyond f32's
 * range. */
bool tbi_text_to_f32(const char *text, size_t bytes, float *out);

/* Writes a finite x as a JSON number; returns its length, without a terminating zero. */
size_t tbi_f32_to_text(float x, char out[TBI_F32_TEXT]);
size_t tbi_u64_to_text(uint64_t x, char *out); /* at most 20 characters */
