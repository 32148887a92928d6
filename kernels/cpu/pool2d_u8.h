/* max_pool2d_u8: channels are adjacent, so a window's maximum is taken over whole pixels by vectors, which the compiler
 * makes of these loops. */
#pragma once
#include "sizes.h"
#include "tb_kernel.h"
#include <string.h>

static void max_pixel(uint8_t *restrict to, const uint8_t *restrict from, int64_t channels)
{
    for (int64_t k = 0; k < channels; k++) to[k] = from[k] > to[k] ? from[k] : to[k];
}

static void run(const void *args)
{
    const tb_pool_u8_args *a = args;
    for (int64_t row = a->from; row < a->to; row++) {
        const uint8_t *image = a->x + row / a->oh * a->h * a->w * a->c;
        int64_t top = row % a->oh * a->stride[0] - a->pad[0];
        for (int64_t j = 0; j < a->ow; j++) {
            uint8_t *to = a->out + (row * a->ow + j) * a->c;
            int64_t left = j * a->stride[1] - a->pad[1];
            int64_t y0 = max_i64(top, 0), y1 = min_i64(top + a->kh, a->h);
            int64_t x0 = max_i64(left, 0), x1 = min_i64(left + a->kw, a->w);
            memset(to, 0, (size_t)a->c);
            for (int64_t y = y0; y < y1; y++)
                for (int64_t x = x0; x < x1; x++) max_pixel(to, image + (y * a->w + x) * a->c, a->c);
        }
    }
}
