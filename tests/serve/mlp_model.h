/* A real model for the server's tests: relu(x W1 + b1) W2 + b2 in plain f32 loops, weights from a seed. Each
 * output row is computed on its own, in one order, so it has the same bits in any batch. `delay_us` makes it
 * slow, `held` stops it until the test lets it go. */
#pragma once
#include "tb_alloc.h"
#include "tb_rng.h"
#include "tb_serve_model.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct mlp {
    tb_serve_model base;
    int in, hidden, out;
    int delay_us;          /* extra time of every run */
    atomic_int *held, *stopped; /* while *held is set a run waits, counted in *stopped */
    int broken;            /* 1: a row depends on its batch; 2: answers are NaN */
    atomic_int *destroyed; /* counts, when not NULL */
    float *w1, *b1, *w2, *b2;
} mlp;

static inline void mlp_row(const mlp *m, const float *x, float *y)
{
    float h[256];
    for (int j = 0; j < m->hidden; j++) h[j] = m->b1[j];
    for (int k = 0; k < m->in; k++)
        for (int j = 0; j < m->hidden; j++) h[j] += x[k] * m->w1[k * m->hidden + j];
    for (int o = 0; o < m->out; o++) y[o] = m->b2[o];
    for (int j = 0; j < m->hidden; j++)
        for (int o = 0; o < m->out; o++) y[o] += (h[j] > 0 ? h[j] : 0) * m->w2[j * m->out + o];
}

static inline tb_status mlp_run(const tb_serve_model *model, int n, const void *const *in, void *const *out,
                                void *scratch)
{
    mlp *m = (mlp *)(uintptr_t)model;
    (void)scratch;
    for (int r = 0; r < n; r++) {
        float *y = (float *)out[0] + (size_t)r * (size_t)m->out;
        mlp_row(m, (const float *)in[0] + (size_t)r * (size_t)m->in, y);
        if (m->broken == 1) y[0] += (float)n;
        if (m->broken == 2) y[0] = 0.0f / (m->b1[0] - m->b1[0]);
    }
    if (m->held && atomic_load(m->held)) {
        atomic_fetch_add(m->stopped, 1);
        while (atomic_load(m->held)) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        atomic_fetch_sub(m->stopped, 1);
    }
    if (m->delay_us) nanosleep(&(struct timespec){.tv_nsec = m->delay_us * 1000L}, NULL);
    return TB_OK;
}

static inline void mlp_destroy(tb_serve_model *model)
{
    mlp *m = (mlp *)model;
    if (m->destroyed) atomic_fetch_add(m->destroyed, 1);
    tb_free(m->w1);
    tb_free(m->b1);
    tb_free(m->w2);
    tb_free(m->b2);
    tb_free(m);
}

static inline float *mlp_weights(int n, uint64_t stream, float scale)
{
    float *w = tb_calloc((size_t)n, sizeof *w);
    for (int i = 0; w && i < n; i++) w[i] = scale * (float)tb_random_normal(7, stream, (uint64_t)i);
    return w;
}

/* Shape [in] -> [out], or [side, side] when in = side^2 and `square`. */
static inline mlp *mlp_make(const char *name, const char *version, int in, int hidden, int out, int max_batch)
{
    mlp *m = tb_calloc(1, sizeof *m);
    if (!m) return NULL;
    snprintf(m->base.name, sizeof m->base.name, "%s", name);
    snprintf(m->base.version, sizeof m->base.version, "%s", version);
    m->in = in;
    m->hidden = hidden;
    m->out = out;
    m->base.n_inputs = m->base.n_outputs = 1;
    m->base.inputs[0] =
        (tb_serve_tensor){.name = "x", .dtype = TB_F32, .rank = 1, .shape = {in}, .elements = in};
    m->base.outputs[0] =
        (tb_serve_tensor){.name = "y", .dtype = TB_F32, .rank = 1, .shape = {out}, .elements = out};
    m->base.max_batch = max_batch;
    m->base.run = mlp_run;
    m->base.destroy = mlp_destroy;
    uint64_t v = (uint64_t)version[0];
    m->w1 = mlp_weights(in * hidden, 4 * v, 0.05f);
    m->b1 = mlp_weights(hidden, 4 * v + 1, 0.1f);
    m->w2 = mlp_weights(hidden * out, 4 * v + 2, 0.2f);
    m->b2 = mlp_weights(out, 4 * v + 3, 0.1f);
    if (!m->w1 || !m->b1 || !m->w2 || !m->b2) {
        m->base.destroy(&m->base);
        return NULL;
    }
    m->base.weight_bytes = sizeof(float) * (size_t)(in * hidden + hidden + hidden * out + out);
    return m;
}
