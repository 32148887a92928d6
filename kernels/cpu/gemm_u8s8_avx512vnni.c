/* gemm_u8s8, AVX-512 VNNI: vpdpbusd adds four u8 x s8 products to each 32-bit sum without saturation. A vector of
 * weights holds 16 columns x 4 k; a tile is 12 rows x 16 columns. */
#include "gemm_u8s8.h"
#include <immintrin.h>

enum { ROWS = 12 };

static inline __attribute__((always_inline)) void tile(const tb_gemm_u8s8_args *g, int64_t i, int64_t j, const int rows)
{
    int64_t quads = (g->k + 3) / 4, whole = g->k / 4;
    const int8_t *w = g->packed_w + j * quads * 4;
    __m512i acc[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) acc[r] = _mm512_setzero_si512();
    for (int64_t q = 0; q < quads; q++, w += 64) {
        __m512i weights = _mm512_loadu_si512(w);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const uint8_t *row = g->a + (i + r) * g->a_row;
            uint32_t quad;
            if (q < whole) __builtin_memcpy(&quad, row + 4 * q, 4);
            else quad = u8s8_quad(row, 4 * q, g->k);
            acc[r] = _mm512_dpbusd_epi32(acc[r], _mm512_set1_epi32((int)quad), weights);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        _Alignas(64) int32_t sums[16];
        _mm512_store_si512(sums, acc[r]);
        u8s8_store_row(g, i + r, j, 16, sums);
    }
}

static void run(const void *args)
{
    const tb_gemm_u8s8_args *g = args;
    for (int64_t j = 0; j < g->n; j += 16) {
        int64_t i = 0;
        for (; i + ROWS <= g->m; i += ROWS) tile(g, i, j, ROWS);
        for (; i + 4 <= g->m; i += 4) tile(g, i, j, 4);
        for (; i < g->m; i++) tile(g, i, j, 1);
    }
}

TB_KERNEL(gemm_u8s8_avx512vnni) = {.name = "gemm_u8s8_avx512vnni", .primitive = "gemm_u8s8", .dtype = TB_I8,
                                   .isa = TB_ISA_AVX512VNNI, .run = run};
