/* Eight f32 lanes: AVX2, FMA, F16C.
 *
 * vec_scalar.h (1 lane), this file and vec_avx512.h (16) define the same names, so a kernel body is written once over
 * them and compiled per ISA; a body that keeps its order of arithmetic free of VL gives the same bits on all three.
 * vf: f32 lanes, vi: i32 lanes, vm: one truth value per lane. Loads and stores need no alignment. The _n forms touch
 * the first n lanes only (0 <= n <= VL); lanes not loaded are 0. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#define VEC static inline __attribute__((always_inline, unused))

#define VEC_ISA TB_ISA_AVX2
#define VEC_ISA_NAME "avx2"

enum { VL = 8 };
typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;

VEC __m256i lanes_below(int n)
{
    static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i *)(window + 8 - n));
}

VEC vf vf_zero(void) { return _mm256_setzero_ps(); }
VEC vf vf_set1(float x) { return _mm256_set1_ps(x); }
VEC vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
VEC vf vf_load_n(const float *p, int n) { return _mm256_maskload_ps(p, lanes_below(n)); }
VEC void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
VEC void vf_store_n(float *p, vf x, int n) { _mm256_maskstore_ps(p, lanes_below(n), x); }
/* The next `left` > 0 elements of an array, at most VL. */
VEC vf vf_load_part(const float *p, int64_t left) { return left >= VL ? vf_load(p) : vf_load_n(p, (int)left); }
VEC void vf_store_part(float *p, vf x, int64_t left)
{
    if (left >= VL) vf_store(p, x);
    else vf_store_n(p, x, (int)left);
}

VEC vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
VEC vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
VEC vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
VEC vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
VEC vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
VEC vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }   /* a * b + c, one rounding */
VEC vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a * b, one rounding */
VEC vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }              /* a < b ? a : b: b when either is NaN */
VEC vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }              /* a > b ? a : b: b when either is NaN */
VEC vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

VEC vi vf_bits(vf a) { return _mm256_castps_si256(a); }
VEC vf vi_as_vf(vi a) { return _mm256_castsi256_ps(a); }
VEC vi vf_to_vi(vf a) { return _mm256_cvtps_epi32(a); } /* to nearest even; out of range gives INT32_MIN */
VEC vf vi_to_vf(vi a) { return _mm256_cvtepi32_ps(a); }
VEC vi vi_set1(int32_t x) { return _mm256_set1_epi32(x); }
VEC vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
VEC vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
VEC vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
VEC vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
VEC vi vi_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
#define vi_shl(a, bits) _mm256_slli_epi32((a), (bits))
#define vi_shr(a, bits) _mm256_srli_epi32((a), (bits)) /* zeros come in */
#define vi_sar(a, bits) _mm256_srai_epi32((a), (bits)) /* the sign comes in */

/* x 2^n for whole n in [-250, 254], rounded once. The factor goes on in two halves, so that results near the top and
 * denormal ones are right. */
VEC vf vf_scale(vf x, vf n)
{
    vi whole = vf_to_vi(n), half = vi_sar(whole, 1), rest = vi_sub(whole, half), bias = vi_set1(127);
    return vf_mul(vf_mul(x, vi_as_vf(vi_shl(vi_add(half, bias), 23))), vi_as_vf(vi_shl(vi_add(rest, bias), 23)));
}

VEC vm vf_lt(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); } /* false when either is NaN */
VEC vm vf_le(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
VEC vm vf_eq(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
VEC vm vf_isnan(vf a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
VEC vm vi_eq(vi a, vi b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
VEC vm vm_first(int n) { return _mm256_castsi256_ps(lanes_below(n)); } /* the first n lanes */
VEC vm vm_between(int from, int to)                                    /* lanes [from, to); 0 <= from, to <= VL */
{
    return _mm256_castsi256_ps(_mm256_andnot_si256(lanes_below(from), lanes_below(to)));
}
/* The lanes of m; the others are not read and 0. */
VEC vf vf_load_if(vm m, const float *p) { return _mm256_maskload_ps(p, _mm256_castps_si256(m)); }
VEC vf vf_select(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }
VEC vi vi_select(vm m, vi yes, vi no)
{
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(no), _mm256_castsi256_ps(yes), m));
}

/* Of the lanes of a, then b: VL from the second on; VL from the last of a on. */
VEC vf vf_ahead(vf a, vf b)
{
    vi middle = vf_bits(_mm256_permute2f128_ps(a, b, 0x21));
    return vi_as_vf(_mm256_alignr_epi8(middle, vf_bits(a), 4));
}
VEC vf vf_behind(vf a, vf b)
{
    vi middle = vf_bits(_mm256_permute2f128_ps(a, b, 0x21));
    return vi_as_vf(_mm256_alignr_epi8(vf_bits(b), middle, 12));
}

/* The lanes of a, then b: those with even numbers, those with odd ones. */
VEC void vf_unzip(vf a, vf b, vf *even, vf *odd)
{
    __m256d e = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)), o = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xDD));
    *even = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xD8));
    *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xD8));
}
/* n pairs of neighbours: the first of each, the second of each. */
VEC void vf_load_pairs(const float *p, int n, vf *even, vf *odd)
{
    vf_unzip(vf_load_n(p, n > VL / 2 ? VL : 2 * n), vf_load_n(p + VL, n > VL / 2 ? 2 * n - VL : 0), even, odd);
}

/* One value of all lanes: halves are joined, lane l with lane l + VL / 2, until one is left. */
VEC float vf_tree_sum(vf v)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}
VEC float vf_tree_max(vf v)
{
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}

VEC vi vi_load_u8(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }

/* Lanes are true where the byte is not 0. */
VEC void vi_store_u8(uint8_t *p, vi x) /* values 0 to 255 */
{
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}
VEC vm vm_load_bool(const uint8_t *p)
{
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(vi_load_u8(p), _mm256_setzero_si256()));
}

/* r[i][j] <-> r[j][i] */
VEC void vf_transpose(vf r[VL])
{
    vf t[8], u[8];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        u[4 * i + 0] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        u[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
        u[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        u[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* 16-bit floats in memory, f32 in lanes; stores round to nearest even and keep NaN quiet. */
VEC vf vf_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
VEC void vf_store_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
VEC vi vi_load_u16(const uint16_t *p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)); }
/* Keeps the low half of each lane; the high halves must be 0. */
VEC void vi_store_u16(uint16_t *p, vi x)
{
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(packed));
}
