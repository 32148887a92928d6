/* conv2d_u8s8, AVX-512 VNNI: vpdpbusd adds four u8 x s8 products to each 32-bit sum without saturation. 12 pixels x 32
 * channels: 24 sums, 2 vectors of weights, 1 broadcast quad; 14 loads for 24 products of vectors. */
#include "u8s8_store16.h"

typedef uint8_t cell;
typedef int8_t wcell;
typedef __m512i vi;
enum { TILE_ROWS = 12, PANELS = 2, LANES = 16 };
static inline int64_t packed_place(int64_t column, int64_t k) { return column * 4 + k; }
static inline vi vi_zero(void) { return _mm512_setzero_si512(); }
static inline vi vi_load(const wcell *p) { return _mm512_loadu_si512(p); }
static inline vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
static inline void vi_store(int32_t *p, vi x) { _mm512_store_si512(p, x); }
static inline vi vi_dot(vi sum, vi cells, vi weights) { return _mm512_dpbusd_epi32(sum, cells, weights); }
static inline void vi_finish(const tb_gemm_u8s8_args *out, int64_t i, int64_t j, vi sums)
{
    u8s8_store16(out, i, j, sums);
}
#include "conv_u8s8_tile.h"

TB_KERNEL(conv2d_u8s8_avx512vnni) = CONV_U8S8_KERNEL(TB_ISA_AVX512VNNI, "avx512vnni");
