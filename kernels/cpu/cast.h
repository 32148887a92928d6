/* Casts between f32 and the 16-bit floats: round to nearest even, NaN stays NaN (quiet), overflow gives infinity; and
 * from bytes (pixels). Primitives cast_bf16 and cast_f16 (source f32) and cast_f32 (source bf16, f16 or u8);
 * tb_pointwise_args. */
#pragma once
#include "tb_kernel.h"
#include <string.h>

VEC vf load_bf16(const uint16_t *p) { return vi_as_vf(vi_shl(vi_load_u16(p), 16)); }

VEC void store_bf16(uint16_t *p, vf x)
{
    vi bits = vf_bits(x), odd = vi_and(vi_shr(bits, 16), vi_set1(1));
    vi rounded = vi_shr(vi_add(bits, vi_add(odd, vi_set1(0x7fff))), 16);
    vi nan = vi_or(vi_shr(bits, 16), vi_set1(0x40));
    vi_store_u16(p, vi_select(vf_isnan(x), nan, rounded));
}

typedef vf (*load_fn)(const uint16_t *);
typedef void (*store_fn)(uint16_t *, vf);

VEC void narrow(const tb_pointwise_args *p, store_fn store)
{
    const float *x = p->in[0];
    uint16_t *out = p->out;
    for (int64_t i = 0; i < p->n; i += VL) {
        int64_t left = p->n - i;
        vf v = p->step[0] ? vf_load_part(x + i, left) : vf_set1(*x);
        uint16_t tail[VL];
        if (left >= VL) {
            store(out + i, v);
        } else {
            store(tail, v);
            memcpy(out + i, tail, (size_t)left * sizeof *tail);
        }
    }
}

VEC void widen(const tb_pointwise_args *p, load_fn load)
{
    const uint16_t *x = p->in[0];
    for (int64_t i = 0; i < p->n; i += VL) {
        int64_t left = p->n - i;
        uint16_t some[VL] = {0};
        bool whole = left >= VL && p->step[0];
        for (int j = 0; !whole && j < VL && j < left; j++) some[j] = x[p->step[0] ? i + j : 0];
        vf_store_part((float *)p->out + i, load(whole ? x + i : some), left);
    }
}

VEC void widen_u8(const tb_pointwise_args *p)
{
    const uint8_t *x = p->in[0];
    for (int64_t i = 0; i < p->n; i += VL) {
        int64_t left = p->n - i;
        uint8_t some[VL] = {0};
        bool whole = left >= VL && p->step[0];
        for (int j = 0; !whole && j < VL && j < left; j++) some[j] = x[p->step[0] ? i + j : 0];
        vf_store_part((float *)p->out + i, vi_to_vf(vi_load_u8(whole ? x + i : some)), left);
    }
}

static void run_cast_bf16(const void *args) { narrow(args, store_bf16); }
static void run_cast_f16(const void *args) { narrow(args, vf_store_f16); }
static void run_cast_from_bf16(const void *args) { widen(args, load_bf16); }
static void run_cast_from_f16(const void *args) { widen(args, vf_load_f16); }
static void run_cast_from_u8(const void *args) { widen_u8(args); }

#define CAST(primitive_, from, suffix, run_)                                                                          \
    {                                                                                                                 \
        .name = primitive_ "_" suffix "_" VEC_ISA_NAME, .primitive = primitive_, .dtype = from, .isa = VEC_ISA,       \
        .run = run_                                                                                                   \
    }
