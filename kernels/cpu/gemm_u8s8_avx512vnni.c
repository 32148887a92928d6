/* gemm_u8s8, AVX-512 VNNI: vpdpbusd adds four u8 x s8 products to each 32-bit sum without saturation. A vector of
 * weights holds 16 columns x 4 k (a panel); a row's four k are broadcast against it.
 *
 * The tile is up to 14 rows x 2 panels: 28 sums, 2 vectors of weights, the broadcast. Two products and two loads a
 * clock bound it: 28 products and 16 loads a step of k. Fewer rows take 4 or 8 panels, so that enough independent sums
 * hide the latency of the instruction (4 clocks). */
#include "blocking.h"
#include "gemm_u8s8.h"
#include <immintrin.h>

BLOCKING_U8S8_AVX512VNNI;
enum { PREFETCH = 16 /* steps of k */ };

#define INLINE static inline __attribute__((always_inline))

typedef struct tile_job {
    const tb_gemm_u8s8_args *g;
    int64_t i, panel; /* the tile's first row and panel */
    int64_t quads;
} tile_job;

/* GCC would keep copies of the sums on the stack. */
#ifdef __AVX512F__
#define IN_REGISTER(x) __asm__("" : "+v"(x))
#else
#define IN_REGISTER(x) (void)(x)
#endif

/* acc += the four k at `a` of each row * w. */
INLINE void step(const int rows, const int panels, const uint8_t *a, int64_t a_row, const int8_t *w, int64_t w_panel,
                 __m512i acc[MR][8])
{
    __m512i held[8 > MR ? 8 : MR];
    if (rows < panels) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) held[r] = _mm512_set1_epi32((int)u8s8_load_quad(a + r * a_row));
#pragma GCC unroll 16
        for (int v = 0; v < panels; v++) {
            __m512i weights = _mm512_loadu_si512(w + v * w_panel);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], held[r], weights);
                IN_REGISTER(acc[r][v]);
            }
        }
        return;
    }
#pragma GCC unroll 16
    for (int v = 0; v < panels; v++) held[v] = _mm512_loadu_si512(w + v * w_panel);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        __m512i quad = _mm512_set1_epi32((int)u8s8_load_quad(a + r * a_row));
#pragma GCC unroll 16
        for (int v = 0; v < panels; v++) {
            acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], quad, held[v]);
            IN_REGISTER(acc[r][v]);
        }
    }
}

/* The sums of 16 columns from j on; those behind the last column are dropped. */
INLINE void store_row(const tb_gemm_u8s8_args *g, int64_t i, int64_t j, __mmask16 columns, __m512i sums)
{
    bool whole = columns == 0xffff;
    __m512 scale = whole ? _mm512_loadu_ps(g->scale + j) : _mm512_maskz_loadu_ps(columns, g->scale + j);
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale);
    if (!g->to_u8) {
        float *c = (float *)g->c + i * g->c_row + j;
        if (whole) _mm512_storeu_ps(c, y);
        else _mm512_mask_storeu_ps(c, columns, y);
        return;
    }
    y = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    y = _mm512_add_ps(y, _mm512_set1_ps((float)g->zero));
    y = _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps((float)g->low)), _mm512_set1_ps(255));
    __m128i q = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(y));
    _mm_mask_storeu_epi8((uint8_t *)g->c + i * g->c_row + j, columns, q);
}

INLINE void store_rows(const int rows, const int panels, const tb_gemm_u8s8_args *g, int64_t i, int64_t j,
                       __mmask16 last, __m512i acc[MR][8])
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < panels; v++)
            store_row(g, i + r, j + 16 * v, v == panels - 1 ? last : 0xffff, acc[r][v]);
}

INLINE void tile(const int rows, const int panels, const tile_job *t)
{
    const tb_gemm_u8s8_args *g = t->g;
    int64_t j = t->panel * 16, w_panel = t->quads * 64, whole = g->k / 4;
    const uint8_t *a = g->a + t->i * g->a_row;
    const int8_t *w = g->packed_w + t->panel * w_panel;
    __mmask16 last = (__mmask16)(0xffffu >> max_i64(j + 16 * panels - g->n, 0)); /* columns of the last panel */
    __m512i acc[MR][8];
#pragma GCC unroll 16
    for (int v = 0; v < panels; v++) {
        __mmask16 columns = v == panels - 1 ? last : 0xffff;
        __m512i offset = _mm512_castps_si512(_mm512_maskz_loadu_ps(columns, (const float *)g->offset + j + 16 * v));
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            acc[r][v] = offset;
            IN_REGISTER(acc[r][v]);
        }
    }
    for (int64_t q = 0; q < whole; q++, a += 4, w += 64) {
        if (rows >= panels)
#pragma GCC unroll 16
            for (int v = 0; v < panels; v++) __builtin_prefetch(w + v * w_panel + PREFETCH * 64);
        step(rows, panels, a, g->a_row, w, w_panel, acc);
    }
    if (whole < t->quads) {
        uint32_t quad[MR];
        for (int r = 0; r < rows; r++) quad[r] = u8s8_quad(a + r * g->a_row, 0, g->k % 4);
        step(rows, panels, (const uint8_t *)quad, sizeof *quad, w, w_panel, acc);
    }
    if (last == 0xffff) store_rows(rows, panels, g, t->i, j, 0xffff, acc);
    else store_rows(rows, panels, g, t->i, j, last, acc);
}

/* How many panels a tile takes at most: rows * panels sums, the held side and one more are registers. */
INLINE int tile_panels(int rows) { return rows <= 3 ? 8 : rows <= 6 ? 4 : 2; }

typedef void (*tile_fn)(const tile_job *);
#define TILE_FN(rows, panels)                                                                                         \
    static void tile_##rows##_##panels(const tile_job *t) { tile(rows, panels, t); }
#define TILES_2(rows) TILE_FN(rows, 1) TILE_FN(rows, 2)
#define TILES_4(rows) TILES_2(rows) TILE_FN(rows, 4)
#define TILES_8(rows) TILES_4(rows) TILE_FN(rows, 8)
TILES_8(1) TILES_8(2) TILES_8(3) TILES_4(4) TILES_4(5) TILES_4(6) TILES_2(7)
TILES_2(8) TILES_2(9) TILES_2(10) TILES_2(11) TILES_2(12) TILES_2(13) TILES_2(14)

#define ENTRY_2(rows) {tile_##rows##_1, tile_##rows##_2}
#define ENTRY_4(rows) {tile_##rows##_1, tile_##rows##_2, [3] = tile_##rows##_4}
#define ENTRY_8(rows) {tile_##rows##_1, tile_##rows##_2, [3] = tile_##rows##_4, [7] = tile_##rows##_8}
/* tiles[rows - 1][panels - 1] */
static const tile_fn tiles[MR][8] = {
    ENTRY_8(1), ENTRY_8(2), ENTRY_8(3), ENTRY_4(4),  ENTRY_4(5),  ENTRY_4(6),  ENTRY_2(7),
    ENTRY_2(8), ENTRY_2(9), ENTRY_2(10), ENTRY_2(11), ENTRY_2(12), ENTRY_2(13), ENTRY_2(14),
};

/* One tile of rows over the panels [panel, end). */
static void run_panels(tile_job *t, int rows, int64_t panel, int64_t end)
{
    int count = tile_panels(rows);
    for (; panel < end; panel += count) {
        while (count > end - panel) count /= 2;
        t->panel = panel;
        tiles[rows - 1][count - 1](t);
    }
}

/* Heights differ by at most one row. With few rows the tiles go down the rows inside a group of panels, whose weights
 * are then read once from memory; else along a block of panels that stays in L2. */
static void run_part(const tb_gemm_u8s8_args *g)
{
    tile_job t = {.g = g, .quads = div_up(g->k, 4)};
    int64_t panels = div_up(g->n, 16), row_tiles = div_up(g->m, MR);
    int64_t group = tile_panels((int)div_up(g->m, row_tiles));
    int64_t block = g->m <= DIRECT_M ? group : round_up(max_i64(BLOCK_BYTES / (t.quads * 64), 1), group);
    for (int64_t first = 0; first < panels; first += block)
        for (int64_t tile = 0; tile < row_tiles; tile++) {
            t.i = tile * g->m / row_tiles;
            int rows = (int)((tile + 1) * g->m / row_tiles - t.i);
            run_panels(&t, rows, first, min_i64(first + block, panels));
        }
}

static void run(const void *args) { u8s8_run_split(args, MACS_PER_THREAD_VNNI, run_part); }

TB_KERNEL(gemm_u8s8_avx512vnni) = {.name = "gemm_u8s8_avx512vnni", .primitive = "gemm_u8s8", .dtype = TB_I8,
                                   .isa = TB_ISA_AVX512VNNI, .run = run};
