/* gemm and gemm_bf16, products of bf16, AVX-512 BF16: vdpbf16ps adds the two products of a pair to an f32 sum,
 * denormals taken and given as zero; 14 x 32 tile, 28 sums. */
#include "vec_avx512.h"

#include "blocking.h"
BLOCKING_BF16_AVX512BF16;

VEC vf mac_pairs(vf a, vf b, vf c)
{
    vf sum = _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
    __asm__("" : "+v"(sum)); /* GCC would keep copies of the sums on the stack */
    return sum;
}
#define TILE_MAC mac_pairs

VEC vi bf16_bits(vf x) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)); }
VEC vf bf16_pairs(const float *x) { return (vf)_mm512_cvtne2ps_pbh(vf_load(x + VL), vf_load(x)); }

#include "gemm_bf16.h"

static bool runs_here(const void *args) { return tb_cpu_has_bf16() && dense_operands(args); }

TB_KERNEL(gemm_bf16_avx512bf16) = GEMM_BF16("gemm_bf16_avx512bf16", TB_ISA_AVX512, runs_here);
TB_KERNEL(gemm_f32_as_bf16_avx512bf16) = GEMM_F32_AS_BF16("gemm_f32_as_bf16_avx512bf16", TB_ISA_AVX512, runs_here);
