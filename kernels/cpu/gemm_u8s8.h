/* What the u8 x s8 kernels share: the epilogue, one formula in one order on every ISA (compiled without contraction). */
#pragma once
#include "tb_kernel.h"
#include <math.h>

static inline void u8s8_store(const tb_gemm_u8s8_args *g, int64_t i, int64_t j, int32_t sum)
{
    float y = (float)(int32_t)((uint32_t)sum + (uint32_t)g->offset[j]) * g->scale[j];
    if (!g->to_u8) {
        ((float *)g->c)[i * g->c_row + j] = y;
        return;
    }
    float q = rintf(y) + (float)g->zero;
    q = q < (float)g->low ? (float)g->low : q > 255 ? 255 : q;
    ((uint8_t *)g->c)[i * g->c_row + j] = (uint8_t)q;
}

/* Four bytes of a row from k on, zeros behind its end. */
static inline uint32_t u8s8_quad(const uint8_t *row, int64_t k, int64_t depth)
{
    uint32_t quad = 0;
    for (int64_t d = 0; d < 4 && k + d < depth; d++) quad |= (uint32_t)row[k + d] << (8 * d);
    return quad;
}

#ifdef __AVX2__
#include <immintrin.h>

/* The same for 8 adjacent columns. */
static inline void u8s8_store8(const tb_gemm_u8s8_args *g, int64_t i, int64_t j, __m256i sums)
{
    __m256i sum = _mm256_add_epi32(sums, _mm256_loadu_si256((const __m256i *)(g->offset + j)));
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(g->scale + j));
    if (!g->to_u8) {
        _mm256_storeu_ps((float *)g->c + i * g->c_row + j, y);
        return;
    }
    y = _mm256_round_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    y = _mm256_add_ps(y, _mm256_set1_ps((float)g->zero));
    y = _mm256_min_ps(_mm256_max_ps(y, _mm256_set1_ps((float)g->low)), _mm256_set1_ps(255));
    __m256i q = _mm256_cvtps_epi32(y);
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    _mm_storel_epi64((__m128i *)((uint8_t *)g->c + i * g->c_row + j), _mm_packus_epi16(words, words));
}

/* `columns` sums of a tile's row, from column j on; those behind the last column are dropped. */
static inline void u8s8_store_row(const tb_gemm_u8s8_args *g, int64_t i, int64_t j, int columns, const int32_t *sums)
{
    for (int c = 0; c < columns; c += 8, j += 8, sums += 8) {
        if (j + 8 <= g->n) u8s8_store8(g, i, j, _mm256_loadu_si256((const __m256i *)sums));
        else
            for (int64_t k = j; k < g->n; k++) u8s8_store(g, i, k, sums[k - j]);
    }
}
#endif
