/* conv2d_u8s8, AVX2: cells and weights of 16 bits, of which vpmaddwd adds pairs of products exactly in 32 (vpmaddubsw
 * would saturate). 6 pixels x 16 channels: 12 sums, 2 vectors of weights, 1 broadcast pair. */
#include "gemm_u8s8.h"
#include <immintrin.h>

typedef int16_t cell;
typedef int16_t wcell;
typedef __m256i vi;
enum { TILE_ROWS = 6, PANELS = 1, LANES = 8 };
static inline int64_t packed_place(int64_t column, int64_t k) { return k / 2 * 32 + column * 2 + k % 2; }
static inline vi vi_zero(void) { return _mm256_setzero_si256(); }
static inline vi vi_load(const wcell *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline vi vi_set1(int32_t x) { return _mm256_set1_epi32(x); }
static inline void vi_store(int32_t *p, vi x) { _mm256_store_si256((__m256i *)p, x); }
static inline vi vi_dot(vi sum, vi cells, vi weights)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(cells, weights));
}
static inline void vi_finish(const tb_gemm_u8s8_args *out, int64_t i, int64_t j, vi sums)
{
    u8s8_store8(out, i, j, sums);
}
#include "conv_u8s8_tile.h"

TB_KERNEL(conv2d_u8s8_avx2) = CONV_U8S8_KERNEL(TB_ISA_AVX2, "avx2");
