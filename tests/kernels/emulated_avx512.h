/* AVX-512 for machines without it: included before every *_avx512.c file that the tests compile once more, so that
 * those kernels run here against their reference. SIMDe does the arithmetic; what its Debian version lacks is below,
 * in plain loops. Nothing that is shipped sees this file. */
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC system_header
#include <simde/x86/avx512.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define EMULATED static inline __attribute__((unused))

EMULATED __m512 emulated_maskz_loadu_ps(__mmask16 m, const float *p)
{
    float x[16];
    for (int i = 0; i < 16; i++) x[i] = m >> i & 1 ? p[i] : 0.0f;
    return _mm512_loadu_ps(x);
}
#define _mm512_maskz_loadu_ps(m, p) emulated_maskz_loadu_ps((m), (p))

EMULATED void emulated_mask_storeu_ps(float *p, __mmask16 m, __m512 v)
{
    float x[16];
    _mm512_storeu_ps(x, v);
    for (int i = 0; i < 16; i++)
        if (m >> i & 1) p[i] = x[i];
}
#define _mm512_mask_storeu_ps(p, m, v) emulated_mask_storeu_ps((p), (m), (v))

/* Two 256-bit halves. */
EMULATED __m256 emulated_half_ps(__m512 v, int half)
{
    __m256 h;
    memcpy(&h, (const char *)&v + 32 * half, sizeof h);
    return h;
}
EMULATED __m512 emulated_join_ps(__m256 low, __m256 high)
{
    __m512 v;
    memcpy(&v, &low, sizeof low);
    memcpy((char *)&v + 32, &high, sizeof high);
    return v;
}
EMULATED __m256i emulated_half_i(__m512i v, int half)
{
    __m256i h;
    memcpy(&h, (const char *)&v + 32 * half, sizeof h);
    return h;
}
EMULATED __m512i emulated_join_i(__m256i low, __m256i high)
{
    __m512i v;
    memcpy(&v, &low, sizeof low);
    memcpy((char *)&v + 32, &high, sizeof high);
    return v;
}

EMULATED __m512 emulated_scalef_ps(__m512 v, __m512 n)
{
    float x[16], by[16];
    _mm512_storeu_ps(x, v);
    _mm512_storeu_ps(by, n);
    for (int i = 0; i < 16; i++) x[i] = by[i] != by[i] ? by[i] : ldexpf(x[i], (int)by[i]);
    return _mm512_loadu_ps(x);
}
#define _mm512_scalef_ps(v, n) emulated_scalef_ps((v), (n))

EMULATED __m512i emulated_cvtps_epi32(__m512 v)
{
    return emulated_join_i(_mm256_cvtps_epi32(emulated_half_ps(v, 0)), _mm256_cvtps_epi32(emulated_half_ps(v, 1)));
}
#define _mm512_cvtps_epi32(v) emulated_cvtps_epi32(v)

EMULATED __m512 emulated_cvtepi32_ps(__m512i v)
{
    return emulated_join_ps(_mm256_cvtepi32_ps(emulated_half_i(v, 0)), _mm256_cvtepi32_ps(emulated_half_i(v, 1)));
}
#define _mm512_cvtepi32_ps(v) emulated_cvtepi32_ps(v)

EMULATED __m512i emulated_srai_epi32(__m512i v, unsigned bits)
{
    return emulated_join_i(_mm256_srai_epi32(emulated_half_i(v, 0), (int)bits),
                           _mm256_srai_epi32(emulated_half_i(v, 1), (int)bits));
}
#define _mm512_srai_epi32(v, bits) emulated_srai_epi32((v), (bits))

EMULATED __m512 emulated_cvtph_ps(__m256i h)
{
    return emulated_join_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(h)),
                            _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)));
}
#define _mm512_cvtph_ps(h) emulated_cvtph_ps(h)

EMULATED __m256i emulated_cvtps_ph(__m512 v)
{
    return _mm256_setr_m128i(_mm256_cvtps_ph(emulated_half_ps(v, 0), _MM_FROUND_TO_NEAREST_INT),
                             _mm256_cvtps_ph(emulated_half_ps(v, 1), _MM_FROUND_TO_NEAREST_INT));
}
#define _mm512_cvtps_ph(v, rounding) emulated_cvtps_ph(v)

EMULATED __m512i emulated_cvtepu16_epi32(__m256i h)
{
    return emulated_join_i(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(h)),
                           _mm256_cvtepu16_epi32(_mm256_extracti128_si256(h, 1)));
}
#define _mm512_cvtepu16_epi32(h) emulated_cvtepu16_epi32(h)

EMULATED __m512i emulated_cvtepu8_epi32(__m128i b)
{
    return emulated_join_i(_mm256_cvtepu8_epi32(b), _mm256_cvtepu8_epi32(_mm_srli_si128(b, 8)));
}
#define _mm512_cvtepu8_epi32(b) emulated_cvtepu8_epi32(b)

EMULATED __m512i emulated_cvtepu8_epi16(__m256i b)
{
    return emulated_join_i(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(b)),
                           _mm256_cvtepu8_epi16(_mm256_extracti128_si256(b, 1)));
}
#define _mm512_cvtepu8_epi16(b) emulated_cvtepu8_epi16(b)

EMULATED __m256i emulated_cvtepi32_epi16(__m512i v)
{
    int32_t x[16];
    uint16_t y[16];
    __m256i r;
    memcpy(x, &v, sizeof x);
    for (int i = 0; i < 16; i++) y[i] = (uint16_t)x[i];
    memcpy(&r, y, sizeof r);
    return r;
}
#define _mm512_cvtepi32_epi16(v) emulated_cvtepi32_epi16(v)

EMULATED __m128i emulated_cvtepi32_epi8(__m512i v)
{
    uint32_t x[16];
    uint8_t b[16];
    memcpy(x, &v, sizeof x);
    for (int i = 0; i < 16; i++) b[i] = (uint8_t)x[i];
    __m128i h;
    memcpy(&h, b, sizeof h);
    return h;
}
#define _mm512_cvtepi32_epi8(v) emulated_cvtepi32_epi8(v)

EMULATED void emulated_mask_storeu_epi8(void *p, __mmask16 m, __m128i v)
{
    for (int i = 0; i < 16; i++)
        if (m >> i & 1) memcpy((char *)p + i, (const char *)&v + i, 1);
}
#define _mm_mask_storeu_epi8(p, m, v) emulated_mask_storeu_epi8((p), (m), (v))

EMULATED __m512 emulated_shuffle_f32x4(__m512 a, __m512 b, int select)
{
    float x[2][16], y[16];
    _mm512_storeu_ps(x[0], a);
    _mm512_storeu_ps(x[1], b);
    for (int lane = 0; lane < 4; lane++) memcpy(y + 4 * lane, x[lane / 2] + (select >> 2 * lane & 3) * 4, 16);
    return _mm512_loadu_ps(y);
}
#define _mm512_shuffle_f32x4(a, b, select) emulated_shuffle_f32x4((a), (b), (select))

EMULATED __m512i emulated_alignr_epi32(__m512i high, __m512i low, int from)
{
    int32_t x[32];
    _mm512_storeu_si512(x, low);
    _mm512_storeu_si512(x + 16, high);
    return _mm512_loadu_si512(x + from);
}
#undef _mm512_alignr_epi32
#define _mm512_alignr_epi32(high, low, from) emulated_alignr_epi32((high), (low), (from))

#undef _mm512_madd_epi16 /* SIMDe 0.7.4 gives the name to the masked form */
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16((a), (b))

#include "tb_kernel.h"
#undef TB_KERNEL
#define TB_KERNEL(name_) extern const tb_kernel tbi_emulated_##name_; const tb_kernel tbi_emulated_##name_
