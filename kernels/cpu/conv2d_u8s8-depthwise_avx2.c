/* conv2d_u8s8, depthwise, AVX2: the bytes of two taps are interleaved and widened to 16 bits, and vpmaddwd
 * adds the pairs of products exactly in 32. */
#include <immintrin.h>
#include <stdint.h>

typedef int16_t wtap;
enum { BLOCK = 16, TAPS = 2, VECTORS = 2, LANES = 8 };
static inline int place(int vector, int lane) { return 8 * vector + lane; }
#include "conv_depthwise_u8s8.h"

static inline __m256i requantized(__m256i sums, const int32_t *offset, const float *scale, float zero,
                                  float low)
{
    __m256i sum = _mm256_add_epi32(sums, _mm256_loadu_si256((const __m256i *)offset));
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(scale));
    y = _mm256_round_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    y = _mm256_add_ps(y, _mm256_set1_ps(zero));
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(y, _mm256_set1_ps(low)), _mm256_set1_ps(255)));
}

static inline void pixel(const uint8_t *at, const int64_t *tap, int64_t steps, const wtap *w,
                         const int32_t *offset, const float *scale, float zero, float low, uint8_t *out)
{
    __m256i left = _mm256_setzero_si256(), right = left;
    for (int64_t s = 0; s < steps; s++, tap += 2, w += 2 * 16) {
        __m128i a = _mm_loadu_si128((const __m128i *)(at + tap[0])),
                b = _mm_loadu_si128((const __m128i *)(at + tap[1]));
        __m256i low_pairs = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)),
                high_pairs = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
        left = _mm256_add_epi32(left, _mm256_madd_epi16(low_pairs, _mm256_loadu_si256((const __m256i *)w)));
        right = _mm256_add_epi32(
            right, _mm256_madd_epi16(high_pairs, _mm256_loadu_si256((const __m256i *)(w + 16))));
    }
    left = requantized(left, offset, scale, zero, low);
    right = requantized(right, offset + 8, scale + 8, zero, low);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(left, right), 0xd8);
    _mm_storeu_si128((__m128i *)out,
                     _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

TB_KERNEL(conv2d_u8s8_depthwise_avx2) = DEPTHWISE_U8S8_KERNEL(TB_ISA_AVX2, "avx2");
