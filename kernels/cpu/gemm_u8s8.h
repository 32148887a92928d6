/* What the u8 x s8 kernels share: the cut between threads, and the epilogue, one formula in one order on every ISA
 * (compiled without contraction). */
#pragma once
#include "sizes.h"
#include "tb_kernel.h"
#include "tb_pool.h"
#include <math.h>

typedef struct u8s8_parts {
    const tb_gemm_u8s8_args *whole;
    void (*run)(const tb_gemm_u8s8_args *part);
    int64_t parts;
    bool by_rows;
} u8s8_parts;

static void u8s8_run_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    const u8s8_parts *s = arg;
    const tb_gemm_u8s8_args *w = s->whole;
    int64_t blocks = div_up(w->n, TB_U8S8_COLUMNS), quads = div_up(w->k, TB_U8S8_DEPTH);
    (void)thread;
    for (int64_t at = begin; at < end; at++) {
        int64_t row = s->by_rows ? w->m * at / s->parts : 0, row_end = s->by_rows ? w->m * (at + 1) / s->parts : w->m;
        int64_t j = s->by_rows ? 0 : blocks * at / s->parts * TB_U8S8_COLUMNS;
        int64_t j_end = s->by_rows ? w->n : min_i64(blocks * (at + 1) / s->parts * TB_U8S8_COLUMNS, w->n);
        tb_gemm_u8s8_args part = *w;
        part.m = row_end - row;
        part.n = j_end - j;
        part.a += row * w->a_row;
        part.packed_w += j * quads * TB_U8S8_DEPTH;
        part.offset += j;
        part.scale += j;
        part.c = (char *)w->c + (size_t)(row * w->c_row + j) * (w->to_u8 ? 1 : sizeof(float));
        s->run(&part);
    }
}

/* A part of C for each thread that is worth its hand-over: whole blocks of columns, or rows where columns are few. */
static inline void u8s8_run_split(const tb_gemm_u8s8_args *g, int64_t macs_per_thread,
                                  void (*run)(const tb_gemm_u8s8_args *part))
{
    int64_t threads = min_i64(tb_pool_threads(g->pool), max_i64(g->m * g->n * g->k / macs_per_thread, 1));
    int64_t blocks = div_up(g->n, TB_U8S8_COLUMNS);
    u8s8_parts s = {g, run, threads, .by_rows = blocks < 2 * threads};
    if (s.by_rows) s.parts = min_i64(threads, g->m);
    if (g->m > 0 && g->n > 0) tb_pool_run(g->pool, s.parts, u8s8_run_parts, &s);
}

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

/* Four bytes of a row. */
static inline uint32_t u8s8_load_quad(const uint8_t *p)
{
    uint32_t quad;
    __builtin_memcpy(&quad, p, 4);
    return quad;
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
