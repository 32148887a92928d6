/* gemm_u8s8, AVX2: vpmaddubsw would saturate its pair sums to 16 bits, so both sides are widened to 16 bits and
 * vpmaddwd adds pairs exactly in 32. A vector of weights holds 4 columns x 4 k; its products leave two partial sums a
 * column, added at the end. Tile: 3 rows x 16 columns = 12 accumulators, the 4 weight vectors of a quad are widened
 * once for 3 rows (28 vector instructions for 192 products: bound 27 products a clock against 16 of f32 FMA). */
#include "gemm_u8s8.h"
#include <immintrin.h>

enum { ROWS = 3 };

/* Four bytes, widened to four 16-bit numbers, in all four places of the vector. */
static inline __m256i spread(uint32_t quad)
{
    return _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128((int)quad)));
}

static inline uint32_t load_quad(const uint8_t *p)
{
    uint32_t quad;
    __builtin_memcpy(&quad, p, 4);
    return quad;
}

static inline __attribute__((always_inline)) void tile(const tb_gemm_u8s8_args *g, int64_t i, int64_t j, const int rows)
{
    int64_t quads = (g->k + 3) / 4, whole = g->k / 4;
    const int8_t *w = g->packed_w + j * quads * 4;
    __m256i acc[ROWS][4];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < 4; v++) acc[r][v] = _mm256_setzero_si256();
    for (int64_t q = 0; q < quads; q++, w += 64) {
        __m256i weights[4];
#pragma GCC unroll 16
        for (int v = 0; v < 4; v++) weights[v] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + 16 * v)));
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const uint8_t *row = g->a + (i + r) * g->a_row;
            __m256i x = spread(q < whole ? load_quad(row + 4 * q) : u8s8_quad(row, 4 * q, g->k));
#pragma GCC unroll 16
            for (int v = 0; v < 4; v++) acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_madd_epi16(weights[v], x));
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        _Alignas(32) int32_t sums[16];
#pragma GCC unroll 16
        for (int v = 0; v < 4; v += 2) { /* hadd pairs within 128-bit lanes: columns come out as 0 1 4 5 | 2 3 6 7 */
            __m256i pairs = _mm256_hadd_epi32(acc[r][v], acc[r][v + 1]);
            _mm256_store_si256((__m256i *)(sums + 4 * v), _mm256_permute4x64_epi64(pairs, 0xd8));
        }
        u8s8_store_tile_row(g, i + r, j, sums);
    }
}

static void run(const void *args)
{
    const tb_gemm_u8s8_args *g = args;
    for (int64_t j = 0; j < g->n; j += 16) {
        int64_t i = 0;
        for (; i + ROWS <= g->m; i += ROWS) tile(g, i, j, ROWS);
        if (g->m - i == 2) tile(g, i, j, 2);
        if (g->m - i == 1) tile(g, i, j, 1);
    }
}

TB_KERNEL(gemm_u8s8_avx2) = {.name = "gemm_u8s8_avx2", .primitive = "gemm_u8s8", .dtype = TB_I8, .isa = TB_ISA_AVX2,
                             .run = run};
