/* Sixteen f32 lanes: AVX-512 F, BW, DQ, VL. The names are explained in vec_avx2.h. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#define VEC static inline __attribute__((always_inline, unused))

#define VEC_ISA TB_ISA_AVX512
#define VEC_ISA_NAME "avx512"

enum { VL = 16 };
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

VEC __mmask16 lanes_below(int n) { return (__mmask16)((1u << n) - 1u); }

VEC vf vf_zero(void) { return _mm512_setzero_ps(); }
VEC vf vf_set1(float x) { return _mm512_set1_ps(x); }
VEC vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
VEC vf vf_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
VEC void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
VEC void vf_store_n(float *p, vf x, int n) { _mm512_mask_storeu_ps(p, lanes_below(n), x); }
/* The next `left` > 0 elements of an array, at most VL. */
VEC vf vf_load_part(const float *p, int64_t left) { return left >= VL ? vf_load(p) : vf_load_n(p, (int)left); }
VEC void vf_store_part(float *p, vf x, int64_t left)
{
    if (left >= VL) vf_store(p, x);
    else vf_store_n(p, x, (int)left);
}

VEC vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VEC vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VEC vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VEC vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VEC vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
VEC vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
VEC vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
VEC vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
VEC vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VEC vf vf_scale(vf a, vf n) { return _mm512_scalef_ps(a, n); }
VEC vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

VEC vi vf_bits(vf a) { return _mm512_castps_si512(a); }
VEC vf vi_as_vf(vi a) { return _mm512_castsi512_ps(a); }
VEC vi vf_to_vi(vf a) { return _mm512_cvtps_epi32(a); }
VEC vf vi_to_vf(vi a) { return _mm512_cvtepi32_ps(a); }
VEC vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
VEC vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
VEC vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
VEC vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
VEC vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
VEC vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
#define vi_shl(a, bits) _mm512_slli_epi32((a), (bits))
#define vi_shr(a, bits) _mm512_srli_epi32((a), (bits))
#define vi_sar(a, bits) _mm512_srai_epi32((a), (bits))

VEC vm vf_lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
VEC vm vf_le(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
VEC vm vf_eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
VEC vm vf_isnan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
VEC vm vi_eq(vi a, vi b) { return _mm512_cmpeq_epi32_mask(a, b); }
VEC vm vm_first(int n) { return lanes_below(n); }
VEC vm vm_between(int from, int to) { return lanes_below(to) & ~lanes_below(from); }
VEC vf vf_load_if(vm m, const float *p) { return _mm512_maskz_loadu_ps(m, p); }
VEC vf vf_select(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
VEC vi vi_select(vm m, vi yes, vi no) { return _mm512_mask_blend_epi32(m, no, yes); }

VEC vf vf_ahead(vf a, vf b) { return vi_as_vf(_mm512_alignr_epi32(vf_bits(b), vf_bits(a), 1)); }
VEC vf vf_behind(vf a, vf b) { return vi_as_vf(_mm512_alignr_epi32(vf_bits(b), vf_bits(a), VL - 1)); }

VEC void vf_unzip(vf a, vf b, vf *even, vf *odd)
{
    vi at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, at, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(at, _mm512_set1_epi32(1)), b);
}
VEC void vf_load_pairs(const float *p, int n, vf *even, vf *odd)
{
    vf_unzip(vf_load_n(p, n > VL / 2 ? VL : 2 * n), vf_load_n(p + VL, n > VL / 2 ? 2 * n - VL : 0), even, odd);
}

VEC __m256 upper_half(vf v) { return _mm512_castps512_ps256(_mm512_shuffle_f32x4(v, v, 0xEE)); }
VEC float vf_tree_sum(vf v)
{
    __m256 x = _mm256_add_ps(_mm512_castps512_ps256(v), upper_half(v));
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}
VEC float vf_tree_max(vf v)
{
    __m256 x = _mm256_max_ps(_mm512_castps512_ps256(v), upper_half(v));
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}

VEC vi vi_load_u8(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }

VEC void vi_store_u8(uint8_t *p, vi x) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(x)); }

VEC vm vm_load_bool(const uint8_t *p)
{
    vi x = vi_load_u8(p);
    return _mm512_test_epi32_mask(x, x);
}

/* r[i][j] <-> r[j][i]: 4x4 blocks within 128-bit lanes, then the lanes as a 4x4 matrix. */
VEC void vf_transpose(vf r[VL])
{
    vf t[16], u[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) { /* u[4i + c], 128-bit lane l: column 4l + c of rows 4i..4i+3 */
        u[4 * i + 0] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        u[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
        u[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        u[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
    }
    for (int c = 0; c < 4; c++) {
        vf a = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x44), b = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xEE);
        vf d = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x44), e = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xEE);
        r[c] = _mm512_shuffle_f32x4(a, d, 0x88);
        r[4 + c] = _mm512_shuffle_f32x4(a, d, 0xDD);
        r[8 + c] = _mm512_shuffle_f32x4(b, e, 0x88);
        r[12 + c] = _mm512_shuffle_f32x4(b, e, 0xDD);
    }
}

VEC vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
VEC void vf_store_f16(uint16_t *p, vf x)
{
    __m256i h = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)p, h);
}
VEC vi vi_load_u16(const uint16_t *p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)); }
VEC void vi_store_u16(uint16_t *p, vi x) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(x)); }
