/* Decimal and f32: the parts that need not be inlined into the scanner. */
#include "decimal.h"
#include <locale.h>
#include <math.h>
#include <stdlib.h>

bool tbi_text_to_f32(const char *text, size_t bytes, float *out)
{
    char copy[TBI_NUMBER_TEXT + 1];
    if (bytes > TBI_NUMBER_TEXT) return false;
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    /* The point is a point whatever locale the host program has set; the "C" locale object is static in
     * glibc. */
    *out = strtof_l(copy, NULL, newlocale(LC_ALL_MASK, "C", (locale_t)0));
    return isfinite(*out);
}

size_t tbi_u64_to_text(uint64_t x, char *out)
{
    char digits[20];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + x % 10);
        x /= 10;
    } while (x);
    for (size_t i = 0; i < n; i++) out[i] = digits[n - 1 - i];
    return n;
}

static double scaled(double x,
                     int k) /* x * 10^k in steps that neither overflow nor lose more than an ulp each */
{
    for (; k > 22; k -= 22) x *= 1e22;
    for (; k < -22; k += 22) x /= 1e22;
    return k < 0 ? x / pow(10, -k) : x * pow(10, k);
}

/* 9 digits always name a float (relative error 5e-9 against half an ulp, 3e-8); then digits go while they
 * may. */
static uint64_t shortest_digits(float x, int *exponent)
{
    int e = (int)floor(log10((double)x)); /* x = d.dddddddd * 10^e */
    uint64_t m = (uint64_t)llrint(scaled((double)x, 8 - e));
    if (m < 100000000u) m = (uint64_t)llrint(scaled((double)x, 8 - --e));
    if (m > 999999999u) m = (uint64_t)llrint(scaled((double)x, 8 - ++e));
    int k = e - 8; /* x = m * 10^k */
    for (;;) {
        float back;
        uint64_t shorter = (m + 5) / 10;
        if (m < 10 || !tbi_decimal_to_f32(shorter, k + 1, &back) || back != x) break;
        m = shorter;
        k++;
    }
    *exponent = k;
    return m;
}

size_t tbi_f32_to_text(float x, char out[TBI_F32_TEXT])
{
    char digits[TBI_F32_TEXT];
    size_t at = 0;
    int k;
    if (signbit(x)) out[at++] = '-';
    if (x == 0.0f) {
        out[at++] = '0';
        return at;
    }
    int n = (int)tbi_u64_to_text(shortest_digits(fabsf(x), &k), digits);
    int point = n + k; /* digits before the decimal point */
    if (point > 0 && point <= 9) {
        for (int i = 0; i < n || i < point; i++) {
            if (i == point) out[at++] = '.';
            out[at++] = i < n ? digits[i] : '0';
        }
    } else if (point <= 0 && point > -5) {
        out[at++] = '0';
        out[at++] = '.';
        for (int i = point; i < 0; i++) out[at++] = '0';
        for (int i = 0; i < n; i++) out[at++] = digits[i];
    } else {
        out[at++] = digits[0];
        if (n > 1) out[at++] = '.';
        for (int i = 1; i < n; i++) out[at++] = digits[i];
        out[at++] = 'e';
        if (point < 1) out[at++] = '-';
        at += tbi_u64_to_text((uint64_t)abs(point - 1), out + at);
    }
    return at;
}
