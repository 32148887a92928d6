/* The epilogue of gemm_u8s8.h for 16 adjacent columns. */
#pragma once
#include "gemm_u8s8.h"
#include <immintrin.h>

static inline void u8s8_store16(const tb_gemm_u8s8_args *g, int64_t i, int64_t j, __m512i sums)
{
    __m512i sum = _mm512_add_epi32(sums, _mm512_loadu_si512(g->offset + j));
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(g->scale + j));
    if (!g->to_u8) {
        _mm512_storeu_ps((float *)g->c + i * g->c_row + j, y);
        return;
    }
    y = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    y = _mm512_add_ps(y, _mm512_set1_ps((float)g->zero));
    y = _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps((float)g->low)), _mm512_set1_ps(255));
    _mm_storeu_si128((__m128i *)((uint8_t *)g->c + i * g->c_row + j), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(y)));
}
