/* gemm_u8s8, AVX-512 without VNNI: vpmaddubsw would saturate its pair sums to 16 bits, so both sides are widened to 16
 * bits on the way and vpmaddwd adds pairs exactly in 32. A vector of weights holds 8 columns x 4 k; its products leave
 * two partial sums a column, added at the end.
 *
 * The tile is up to 6 rows x 2 panels of 16 columns: 24 sums, 4 vectors of weights, the row's four k in all eight
 * places of a vector. */
#include "blocking.h"
#include "u8s8_store16.h"

enum { ROWS = 6, PANELS = 2 };

#define INLINE static inline __attribute__((always_inline))

/* Sums of 16 columns, in order, from the partial sums of columns 0-7 and 8-15. */
INLINE __m512i whole_sums(__m512i first, __m512i second)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    __m512 a = _mm512_castsi512_ps(first), b = _mm512_castsi512_ps(second);
    return _mm512_add_epi32(_mm512_castps_si512(_mm512_permutex2var_ps(a, even, b)),
                            _mm512_castps_si512(_mm512_permutex2var_ps(a, odd, b)));
}

INLINE void store_panel(const tb_gemm_u8s8_args *g, int64_t i, int64_t j, __m512i sums)
{
    if (j + 16 <= g->n) {
        u8s8_store16(g, i, j, sums);
        return;
    }
    _Alignas(64) int32_t each[16];
    _mm512_store_si512((void *)each, sums);
    for (int64_t k = j; k < g->n; k++) u8s8_store(g, i, k, each[k - j]);
}

INLINE void tile(const tb_gemm_u8s8_args *g, int64_t i, int64_t j, const int rows, const int panels)
{
    int64_t quads = div_up(g->k, 4), whole = g->k / 4;
    const int8_t *w = g->packed_w + j * quads * 4;
    __m512i acc[ROWS][2 * PANELS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < 2 * panels; v++) acc[r][v] = _mm512_setzero_si512();
    for (int64_t q = 0; q < quads; q++, w += 64) {
        __m512i weights[2 * PANELS];
#pragma GCC unroll 16
        for (int v = 0; v < 2 * panels; v++)
            weights[v] =
                _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(w + v / 2 * quads * 64 + v % 2 * 32)));
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const uint8_t *row = g->a + (i + r) * g->a_row;
            uint32_t quad = q < whole ? u8s8_load_quad(row + 4 * q) : u8s8_quad(row, 4 * q, g->k);
            __m512i x = _mm512_cvtepu8_epi16(_mm256_set1_epi32((int)quad));
#pragma GCC unroll 16
            for (int v = 0; v < 2 * panels; v++)
                acc[r][v] = _mm512_add_epi32(acc[r][v], _mm512_madd_epi16(weights[v], x));
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int p = 0; p < panels; p++)
            store_panel(g, i + r, j + 16 * p, whole_sums(acc[r][2 * p], acc[r][2 * p + 1]));
}

INLINE void run_panels(const tb_gemm_u8s8_args *g, int64_t j, const int panels)
{
    int64_t i = 0;
    for (; i + ROWS <= g->m; i += ROWS) tile(g, i, j, ROWS, panels);
    for (; i + 2 <= g->m; i += 2) tile(g, i, j, 2, panels);
    if (i < g->m) tile(g, i, j, 1, panels);
}

static void run_part(const tb_gemm_u8s8_args *g)
{
    int64_t j = 0;
    for (; j + 16 < g->n; j += 16 * PANELS) run_panels(g, j, PANELS);
    if (j < g->n) run_panels(g, j, 1);
}

static void run(const void *args) { u8s8_run_split(args, MACS_PER_THREAD, run_part); }

TB_KERNEL(gemm_u8s8_avx512) = {
    .name = "gemm_u8s8_avx512", .primitive = "gemm_u8s8", .dtype = TB_I8, .isa = TB_ISA_AVX512, .run = run};
