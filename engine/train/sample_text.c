/* Sampling text: one forward pass over the last `context` bytes per new byte. */
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include "tb_train.h"
#include <math.h>

enum { BYTES = 256 };

static int draw(const float *logits, const tb_sampling *how, int64_t index)
{
    int best = 0;
    double weight[BYTES], sum = 0;
    for (int i = 1; i < BYTES; i++)
        if (logits[i] > logits[best]) best = i;
    if (how->temperature <= 0) return best;
    for (int i = 0; i < BYTES; i++)
        sum += weight[i] = exp(((double)logits[i] - (double)logits[best]) / how->temperature);
    double left = sum * tb_random_uniform(how->seed, tb_stream_name(0, "sample"), (uint64_t)index);
    for (int i = 0; i < BYTES; i++) {
        left -= weight[i];
        if (left < 0) return i;
    }
    return best;
}

/* Logits of the byte that follows tokens[0..n). */
static tb_status next_logits(tb_model *m, const int32_t *tokens, int64_t n, float *logits)
{
    tb_scope *scope = tb_scope_open();
    tb_tensor *y = tb_model_forward(m, tb_tensor_from(TB_I32, 2, (int64_t[]){1, n}, tokens));
    tb_tensor *last = tb_cast(tb_slice(y, 1, -1, n, 1), TB_F32);
    tb_status st = tb_tensor_read(last, logits, BYTES * sizeof *logits);
    tb_scope_close(scope);
    return st;
}

tb_status tb_sample_text(tb_model *m, const tb_sampling *how, const uint8_t *prompt, int64_t n_prompt, int64_t n,
                         uint8_t *out)
{
    tb_ctx *ctx = tb_ctx_current();
    if (n_prompt < 1 || how->context < 1)
        return TB_FAIL(TB_ERR_INVALID, "sampling needs a prompt of at least one byte and a context");
    int32_t *tokens = tb_calloc((size_t)(n_prompt + n), sizeof *tokens);
    if (!tokens) return TB_ERR_OOM;
    for (int64_t i = 0; i < n_prompt; i++) tokens[i] = prompt[i];
    bool was_training = *tb_params_training(tb_model_params(m)), recorded = tb_grad_mode(ctx, false);
    tb_model_set_training(m, false);
    tb_status st = TB_OK;
    for (int64_t at = n_prompt; st == TB_OK && at < n_prompt + n; at++) {
        float logits[BYTES];
        int64_t seen = at < how->context ? at : how->context;
        st = next_logits(m, tokens + at - seen, seen, logits);
        if (st == TB_OK) out[at - n_prompt] = (uint8_t)(tokens[at] = draw(logits, how, at - n_prompt));
    }
    tb_model_set_training(m, was_training);
    tb_grad_mode(ctx, recorded);
    tb_free(tokens);
    return st;
}
