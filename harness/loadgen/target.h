/* What a load is aimed at: a URL, the model behind it as its metadata describe it, samples for it, their
 * answers. */
#pragma once
#include "tb_data.h"
#include "tb_load.h"

typedef struct tb_target {
    char host[64], path[256], model[64], version[64];
    int port;
    const char *api_key;       /* borrowed, or NULL */
    tb_load_samples samples;
    char input_name[64], output_name[64];
    void *rows;                /* owned */
    float *answers;            /* owned */
    tb_dataset *data;
} tb_target;

/* "http://HOST:PORT" (the only loaded model), ".../v2/models/NAME[...]" or ".../v1/predict". Asks the server
 * for the model's inputs and outputs; one f32 or u8 input and one f32 output are what can be loaded. */
TB_MUST_USE tb_status tb_target_open(const char *url, const char *api_key, tb_target *out);
void tb_target_close(tb_target *t);
/* `n` samples: test images of a data set ("fashion-mnist", as bytes, or /255 for f32 inputs), the tensor
 * `input` of a safetensors file, whose tensor `output` if present gives the answers, or "random" from the
 * seed. */
TB_MUST_USE tb_status tb_target_samples(tb_target *t, const char *data, int n, uint64_t seed);
/* Answers by running the deploy artefact in `dir` here, row by row. */
TB_MUST_USE tb_status tb_target_answers(tb_target *t, const char *dir);
/* One GET; the body, zero-terminated, is freed with tb_free(). Fails unless the status is 200. */
TB_MUST_USE tb_status tb_target_get(const tb_target *t, const char *method, const char *path, char **body);
