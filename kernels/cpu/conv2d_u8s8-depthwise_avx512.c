/* conv2d_u8s8, depthwise, AVX-512 without VNNI: the bytes of two taps are interleaved (within 128-bit lanes)
 * and widened to 16 bits, and vpmaddwd adds the pairs of products exactly in 32. */
#include <immintrin.h>
#include <stdint.h>

typedef int16_t wtap;
enum { BLOCK = 32, TAPS = 2, VECTORS = 2, LANES = 16 };
static inline int place(int vector, int lane) { return lane / 8 * 16 + 8 * vector + lane % 8; }
#include "conv_depthwise_u8s8.h"

static inline __m128i requantized(__m512i sums, const int32_t *offset, const float *scale, float zero,
                                  float low)
{
    __m512i sum = _mm512_add_epi32(sums, _mm512_loadu_si512(offset));
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(scale));
    y = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    y = _mm512_add_ps(y, _mm512_set1_ps(zero));
    y = _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(low)), _mm512_set1_ps(255));
    return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(y));
}

static inline void pixel(const uint8_t *at, const int64_t *tap, int64_t steps, const wtap *w,
                         const int32_t *offset, const float *scale, float zero, float low, uint8_t *out)
{
    __m512i left = _mm512_setzero_si512(), right = left;
    for (int64_t s = 0; s < steps; s++, tap += 2, w += 2 * 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(at + tap[0])),
                b = _mm256_loadu_si256((const __m256i *)(at + tap[1]));
        __m512i low_pairs = _mm512_cvtepu8_epi16(_mm256_unpacklo_epi8(a, b)),
                high_pairs = _mm512_cvtepu8_epi16(_mm256_unpackhi_epi8(a, b));
        left = _mm512_add_epi32(left, _mm512_madd_epi16(low_pairs, _mm512_loadu_si512(w)));
        right = _mm512_add_epi32(right, _mm512_madd_epi16(high_pairs, _mm512_loadu_si512(w + 32)));
    }
    __m128i low_bytes = requantized(left, offset, scale, zero, low),
            high_bytes = requantized(right, offset + 16, scale + 16, zero, low);
    _mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi64(low_bytes, high_bytes));
    _mm_storeu_si128((__m128i *)(out + 16), _mm_unpackhi_epi64(low_bytes, high_bytes));
}

TB_KERNEL(conv2d_u8s8_depthwise_avx512) = DEPTHWISE_U8S8_KERNEL(TB_ISA_AVX512, "avx512");
