/* gemm_u8s8, AVX2: vpmaddubsw would saturate its pair sums to 16 bits, so both sides are widened to 16 bits and
 * vpmaddwd adds pairs exactly in 32. A vector of weights holds 4 columns x 4 k; its products leave two partial sums a
 * column, added at the end.
 *
 * From BLOCK_ROWS_MIN rows on, a block of rows and 8 columns at a time are widened first, so that the tile only loads
 * and broadcasts: 6 rows x 8 columns, 12 accumulators, 24 vector instructions for 192 products; at three a clock (Zen
 * 3, measured) that bounds it to 24 products a clock, against 16 of f32 FMA. Fewer rows, or rows longer than WIDE_K: 3
 * rows x 16 columns, widened on the way. */
#include "blocking.h"
#include "gemm_u8s8.h"
#include <immintrin.h>

enum { WIDE_ROWS = 6, BLOCK_ROWS = 48, BLOCK_ROWS_MIN = 8, WIDE_K = 1024, ROWS = 3 };

/* Sums of 8 columns, in order, from the partial sums of columns 0-3 and 4-7: hadd works within 128-bit halves and
 * leaves the columns as 0 1 4 5 | 2 3 6 7. */
static inline __m256i whole_sums(__m256i first, __m256i second)
{
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xd8);
}

/* ---- many rows: both sides widened beforehand ---- */
typedef struct wide_block {
    _Alignas(32) int16_t rows[BLOCK_ROWS * WIDE_K];
    _Alignas(32) int16_t columns[8 * WIDE_K];
    _Alignas(32) int32_t sums[BLOCK_ROWS * 8];
} wide_block;

static void widen_row(const uint8_t *row, int64_t k, int16_t *to)
{
    int64_t depth = (k + 3) / 4 * 4, i = 0;
    for (; i + 16 <= k; i += 16)
        _mm256_store_si256((__m256i *)(to + i), _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(row + i))));
    for (; i < depth; i++) to[i] = i < k ? row[i] : 0;
}

/* 8 of the 16 columns of a packed panel. */
static void widen_columns(const int8_t *w, int64_t quads, int16_t *to)
{
    for (int64_t q = 0; q < quads; q++, w += 64, to += 32) {
        _mm256_store_si256((__m256i *)to, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w)));
        _mm256_store_si256((__m256i *)(to + 16), _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + 16))));
    }
}

static inline __attribute__((always_inline)) void wide_tile(const int16_t *x, const int16_t *w, int64_t quads,
                                                            const int rows, int32_t *sums)
{
    __m256i acc[WIDE_ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    for (int64_t q = 0; q < quads; q++, w += 32, x += 4) {
        __m256i left = _mm256_load_si256((const __m256i *)w), right = _mm256_load_si256((const __m256i *)(w + 16));
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            __m256i quad = _mm256_castpd_si256(_mm256_broadcast_sd((const double *)(x + r * WIDE_K)));
            acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(left, quad));
            acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(right, quad));
            __asm__("" : "+x"(acc[r][0]), "+x"(acc[r][1])); /* stays in registers: GCC would spill copies */
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) _mm256_store_si256((__m256i *)(sums + 8 * r), whole_sums(acc[r][0], acc[r][1]));
}

static void wide_rows(const tb_gemm_u8s8_args *g, int64_t first, int64_t rows)
{
    wide_block b;
    int64_t quads = (g->k + 3) / 4;
    for (int64_t r = 0; r < rows; r++) widen_row(g->a + (first + r) * g->a_row, g->k, b.rows + r * WIDE_K);
    for (int64_t j = 0; j < g->n; j += 8) {
        widen_columns(g->packed_w + j / 16 * quads * 64 + j % 16 * 4, quads, b.columns);
        int64_t r = 0;
        for (; r + WIDE_ROWS <= rows; r += WIDE_ROWS)
            wide_tile(b.rows + r * WIDE_K, b.columns, quads, WIDE_ROWS, b.sums + 8 * r);
        for (; r + 2 <= rows; r += 2) wide_tile(b.rows + r * WIDE_K, b.columns, quads, 2, b.sums + 8 * r);
        if (r < rows) wide_tile(b.rows + r * WIDE_K, b.columns, quads, 1, b.sums + 8 * r);
        for (r = 0; r < rows; r++) u8s8_store_row(g, first + r, j, 8, b.sums + 8 * r);
    }
}

/* ---- few rows ---- */
/* Four bytes, widened to four 16-bit numbers, in all four places of the vector. */
static inline __m256i spread(uint32_t quad)
{
    return _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128((int)quad)));
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
            __m256i x = spread(q < whole ? u8s8_load_quad(row + 4 * q) : u8s8_quad(row, 4 * q, g->k));
#pragma GCC unroll 16
            for (int v = 0; v < 4; v++) acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_madd_epi16(weights[v], x));
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        _Alignas(32) int32_t sums[16];
        _mm256_store_si256((__m256i *)sums, whole_sums(acc[r][0], acc[r][1]));
        _mm256_store_si256((__m256i *)(sums + 8), whole_sums(acc[r][2], acc[r][3]));
        u8s8_store_row(g, i + r, j, 16, sums);
    }
}

static void run_part(const tb_gemm_u8s8_args *g)
{
    int64_t i = 0;
    for (; g->k <= WIDE_K && i + BLOCK_ROWS_MIN <= g->m; i += BLOCK_ROWS)
        wide_rows(g, i, g->m - i < BLOCK_ROWS ? g->m - i : BLOCK_ROWS);
    for (int64_t first = i, j = 0; first < g->m && j < g->n; j += 16) {
        for (i = first; i + ROWS <= g->m; i += ROWS) tile(g, i, j, ROWS);
        if (g->m - i == 2) tile(g, i, j, 2);
        if (g->m - i == 1) tile(g, i, j, 1);
    }
}

static void run(const void *args) { u8s8_run_split(args, MACS_PER_THREAD, run_part); }

TB_KERNEL(gemm_u8s8_avx2) = {.name = "gemm_u8s8_avx2", .primitive = "gemm_u8s8", .dtype = TB_I8, .isa = TB_ISA_AVX2,
                             .run = run};
