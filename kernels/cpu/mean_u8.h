/* mean_u8: channels are adjacent, so whole pixels are added, of which the compiler makes vectors. */
#pragma once
#include "sizes.h"
#include "tb_kernel.h"
#include <math.h>
#include <string.h>

enum { CHANNELS = 64 /* sums that stay in registers or L1 */ };

static void add_pixel(int32_t *restrict sums, const uint8_t *restrict pixel, int64_t channels)
{
    for (int64_t k = 0; k < channels; k++) sums[k] += pixel[k];
}

static void run(const void *args)
{
    const tb_mean_u8_args *a = args;
    for (int64_t n = a->from; n < a->to; n++)
        for (int64_t k = 0; k < a->c; k += CHANNELS) {
            const uint8_t *image = a->x + n * a->pixels * a->c + k;
            uint8_t *y = a->out + n * a->c + k;
            int64_t channels = min_i64(a->c - k, CHANNELS);
            int32_t sums[CHANNELS] = {0};
            if (channels == CHANNELS)
                for (int64_t i = 0; i < a->pixels; i++) add_pixel(sums, image + i * a->c, CHANNELS);
            else
                for (int64_t i = 0; i < a->pixels; i++) add_pixel(sums, image + i * a->c, channels);
            for (int64_t j = 0; j < channels; j++) {
                float q = rintf((float)(sums[j] - a->shift) * a->scale) + (float)a->zero;
                y[j] = (uint8_t)(int32_t)(q < 0 ? 0 : q > 255 ? 255 : q);
            }
        }
}
