/* A model of two inputs for the server's tests: y = sum(image) * scale[0] + scale[1], image u8 [16], scale f32 [2]. */
#pragma once
#include "tb_alloc.h"
#include "tb_serve_model.h"
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

enum { PAIR_PIXELS = 16 };

typedef struct pair_model {
    tb_serve_model base;
    atomic_int *destroyed;
} pair_model;

static inline tb_status pair_run(const tb_serve_model *model, int n, const void *const *in, void *const *out,
                                 void *scratch)
{
    (void)model;
    (void)scratch;
    for (int r = 0; r < n; r++) {
        const uint8_t *image = (const uint8_t *)in[0] + r * PAIR_PIXELS;
        const float *scale = (const float *)in[1] + r * 2;
        int sum = 0;
        for (int i = 0; i < PAIR_PIXELS; i++) sum += image[i];
        ((float *)out[0])[r] = (float)sum * scale[0] + scale[1];
    }
    return TB_OK;
}

static inline void pair_destroy(tb_serve_model *model)
{
    atomic_fetch_add(((pair_model *)model)->destroyed, 1);
    tb_free(model);
}

static inline tb_serve_model *pair_make(int max_batch, atomic_int *destroyed)
{
    pair_model *m = tb_calloc(1, sizeof *m);
    if (!m) return NULL;
    m->destroyed = destroyed;
    m->base.max_batch = max_batch;
    m->base.n_inputs = 2;
    m->base.n_outputs = 1;
    m->base.inputs[0] =
        (tb_serve_tensor){.name = "image", .dtype = TB_U8, .rank = 1, .shape = {PAIR_PIXELS}, .elements = PAIR_PIXELS};
    m->base.inputs[1] = (tb_serve_tensor){.name = "scale", .dtype = TB_F32, .rank = 1, .shape = {2}, .elements = 2};
    m->base.outputs[0] = (tb_serve_tensor){.name = "y", .dtype = TB_F32, .rank = 1, .shape = {1}, .elements = 1};
    m->base.run = pair_run;
    m->base.destroy = pair_destroy;
    return &m->base;
}
