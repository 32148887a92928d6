/* add_u8: one formula in one order on every ISA, of which the compiler makes vectors. */
#pragma once
#include "tb_kernel.h"
#include <math.h>

static void run(const void *args)
{
    const tb_pointwise_args *p = args;
    const tb_add_u8_args s = *(const tb_add_u8_args *)p->attrs;
    const uint8_t *a = p->in[0], *b = p->in[1];
    uint8_t *y = p->out;
    int64_t n = p->n;
    float low = (float)s.low, zero = (float)s.zero;
#pragma GCC ivdep /* the result may lie where an operand does */
    for (int64_t i = 0; i < n; i++) {
        float sum = (float)(a[i] - s.a_zero) * s.a_scale + (float)(b[i] - s.b_zero) * s.b_scale;
        float q = rintf(sum) + zero;
        q = q > low ? q : low;
        q = q < 255 ? q : 255;
        y[i] = (uint8_t)(int32_t)q;
    }
}
