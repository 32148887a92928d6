/* conv2d_u8s8, depthwise, AVX-512 VNNI: the bytes of four taps are interleaved within 128-bit lanes, and
 * vpdpbusd adds the four products to each 32-bit sum. The packs of the epilogue work within the same lanes
 * and put channels in order again. */
#include <immintrin.h>
#include <stdint.h>

typedef int8_t wtap;
enum { BLOCK = 64, TAPS = 4, VECTORS = 4, LANES = 16 };
static inline int place(int vector, int lane) { return lane / 4 * 16 + 4 * vector + lane % 4; }
#include "conv_depthwise_u8s8.h"

static inline __m512i requantized(__m512i sum, const float *scale, float zero, float low)
{
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(scale));
    y = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    y = _mm512_add_ps(y, _mm512_set1_ps(zero));
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(low)), _mm512_set1_ps(255)));
}

static inline void pixel(const uint8_t *at, const int64_t *tap, int64_t steps, const wtap *w,
                         const int32_t *offset, const float *scale, float zero, float low, uint8_t *out)
{
    __m512i sum[4];
    for (int v = 0; v < 4; v++) sum[v] = _mm512_loadu_si512(offset + 16 * v);
    for (int64_t s = 0; s < steps; s++, tap += 4, w += 4 * 64) {
        __m512i a = _mm512_loadu_si512(at + tap[0]), b = _mm512_loadu_si512(at + tap[1]);
        __m512i c = _mm512_loadu_si512(at + tap[2]), d = _mm512_loadu_si512(at + tap[3]);
        __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
        sum[0] = _mm512_dpbusd_epi32(sum[0], _mm512_unpacklo_epi16(ab, cd), _mm512_loadu_si512(w));
        sum[1] = _mm512_dpbusd_epi32(sum[1], _mm512_unpackhi_epi16(ab, cd), _mm512_loadu_si512(w + 64));
        ab = _mm512_unpackhi_epi8(a, b), cd = _mm512_unpackhi_epi8(c, d);
        sum[2] = _mm512_dpbusd_epi32(sum[2], _mm512_unpacklo_epi16(ab, cd), _mm512_loadu_si512(w + 128));
        sum[3] = _mm512_dpbusd_epi32(sum[3], _mm512_unpackhi_epi16(ab, cd), _mm512_loadu_si512(w + 192));
    }
    for (int v = 0; v < 4; v++) sum[v] = requantized(sum[v], scale + 16 * v, zero, low);
    __m512i words[2] = {_mm512_packus_epi32(sum[0], sum[1]), _mm512_packus_epi32(sum[2], sum[3])};
    _mm512_storeu_si512(out, _mm512_packus_epi16(words[0], words[1]));
}

TB_KERNEL(conv2d_u8s8_depthwise_avx512vnni) = DEPTHWISE_U8S8_KERNEL(TB_ISA_AVX512VNNI, "avx512vnni");
