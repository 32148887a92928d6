/* A small model that steps, for the server's tests: its state holds the tokens so far, its logits are a function of all
 * of them. So a text tells whether every step saw the right tokens, whatever ran beside it. */
#pragma once
#include "tb_alloc.h"
#include "tb_rng.h"
#include "tb_serve_model.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { STEP_VOCAB = 100 };

typedef struct step_model {
    tb_serve_model base;
    int capacity, delay_us; /* of every run */
    atomic_int *destroyed;
} step_model;

/* logits[v] is a random number of v and of a hash of the tokens (FNV-1a). */
static inline void step_logits(const float *tokens, int n, float *logits)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (int i = 0; i < n; i++) hash = (hash ^ (uint64_t)tokens[i]) * 0x100000001b3;
    for (int v = 0; v < STEP_VOCAB; v++) logits[v] = (float)tb_random_normal(hash, 5, (uint64_t)v);
}

static inline tb_status step_run(const tb_serve_model *model, int n, const void *const *in, void *const *out,
                                 void *scratch)
{
    const step_model *m = (const step_model *)(const void *)model;
    size_t row = (size_t)m->capacity;
    (void)scratch;
    if (in[2] != out[1]) memcpy(out[1], in[2], (size_t)n * row * sizeof(float));
    for (size_t r = 0; r < (size_t)n; r++) {
        int place = (int)((const float *)in[1])[r];
        if (place < 0) place = 0;
        if (place >= m->capacity) place = m->capacity - 1;
        float *tokens = (float *)out[1] + r * row;
        tokens[place] = ((const uint8_t *)in[0])[r];
        step_logits(tokens, place + 1, (float *)out[0] + r * STEP_VOCAB);
    }
    if (m->delay_us) nanosleep(&(struct timespec){.tv_nsec = m->delay_us * 1000L}, NULL);
    return TB_OK;
}

static inline void step_destroy(tb_serve_model *model)
{
    step_model *m = (step_model *)model;
    if (m->destroyed) atomic_fetch_add(m->destroyed, 1);
    tb_free(m);
}

static inline step_model *step_make(const char *name, const char *version, int capacity, int max_batch)
{
    step_model *m = tb_calloc(1, sizeof *m);
    if (!m) return NULL;
    snprintf(m->base.name, sizeof m->base.name, "%s", name);
    snprintf(m->base.version, sizeof m->base.version, "%s", version);
    m->capacity = capacity;
    m->base.n_inputs = 3;
    m->base.n_outputs = 2;
    m->base.inputs[0] = (tb_serve_tensor){.name = "token", .dtype = TB_U8, .elements = 1};
    m->base.inputs[1] = (tb_serve_tensor){.name = "place", .dtype = TB_F32, .elements = 1};
    m->base.inputs[2] = (tb_serve_tensor){
        .name = "seen", .dtype = TB_F32, .rank = 2, .shape = {capacity, 1}, .elements = capacity};
    m->base.outputs[0] =
        (tb_serve_tensor){.name = "logits", .dtype = TB_F32, .rank = 1, .shape = {STEP_VOCAB}, .elements = STEP_VOCAB};
    m->base.outputs[1] = m->base.inputs[2];
    snprintf(m->base.outputs[1].name, sizeof m->base.outputs[1].name, "seen.next");
    m->base.max_batch = max_batch;
    m->base.run = step_run;
    m->base.destroy = step_destroy;
    return m;
}

/* The likeliest text of n tokens behind the prompt, computed here. */
static inline void step_expect(const char *prompt, int n, uint8_t *text)
{
    float tokens[512], logits[STEP_VOCAB];
    int length = (int)strlen(prompt);
    for (int i = 0; i < length; i++) tokens[i] = (uint8_t)prompt[i];
    for (int i = 0; i < n; i++) {
        step_logits(tokens, length + i, logits);
        text[i] = 0;
        for (int v = 1; v < STEP_VOCAB; v++)
            if (logits[v] > logits[text[i]]) text[i] = (uint8_t)v;
        tokens[length + i] = text[i];
    }
}
