/* tb quantize: a checkpoint becomes a deploy artefact in integers, with a report of what that cost. */
#include "quantization.h"
#include "tb_alloc.h"
#include "tb_artefact.h"
#include "tb_file.h"
#include "tb_hash.h"
#include "tb_verb.h"
#include <stdlib.h>
#include <string.h>

typedef struct job {
    tb_quantization_config config;
    const char *checkpoint, *data_name, *out;
    int64_t max_batch;
    tb_ctx *ctx;
    tb_dataset *data;
    tb_model *model;
    tb_quantization result;
} job;

static tb_status write_report(const job *j)
{
    char *path = tb_asprintf("%s/quantization.json", j->out);
    tb_text text = {0};
    tb_quantization_json(&j->config, &j->result, &text);
    tb_status st = path && !text.failed ? tb_file_save(path, text.data, text.size) : TB_ERR_OOM;
    tb_text_free(&text);
    tb_free(path);
    return st;
}

static tb_status save(job *j)
{
    char sha[TB_SHA256_HEX];
    tb_artefact_info info = {.max_batch = j->max_batch};
    snprintf(info.name, sizeof info.name, "%s", j->config.name);
    info.labels = tb_deploy_labels(j->data, &info.n_labels);
    info.vocabulary = tb_deploy_vocabulary(j->data);
    TB_TRY(tb_sha256_of_file(j->checkpoint, sha));
    const char *facts[] = {"model", tb_model_spec(j->model), "checkpoint/sha256", sha, "data", j->data_name,
                           "data/train/sha256", tb_dataset_part(j->data, TB_SPLIT_TRAIN)->sha256, "quantized", "int8"};
    info.n_facts = (int)(sizeof facts / sizeof *facts / 2);
    info.facts = facts;
    TB_TRY(tb_artefact_save(j->result.graph, &info, 16, j->out));
    return write_report(j);
}

static tb_status quantize(job *j)
{
    TB_TRY(tb_ctx_create(&(tb_ctx_config){.threads = 1, .seed = 1}, &j->ctx));
    tb_ctx_enter(j->ctx);
    TB_TRY(tb_deploy_open(j->checkpoint, &j->model));
    TB_TRY(tb_deploy_data(j->model, &j->data_name, &j->data));
    j->config.model = j->model;
    j->config.data = j->data;
    j->config.is_dynamic |= tb_dataset_kind(j->data) == TB_DATA_TEXT;
    TB_TRY(tb_quantize_model(&j->config, &j->result));
    tb_quantization_print(&j->config, &j->result);
    TB_TRY(save(j));
    printf("wrote      %s (report: quantization.json)\n", j->out);
    return TB_OK;
}

static tb_status read_options(const tb_args *args, job *j)
{
    static const char *const observers[] = {"minmax", "moving-average", "percentile"};
    const char *budget = tb_args_get(args, "budget"), *observer = tb_args_get(args, "observer");
    char *end = NULL;
    tb_quantization_config *c = &j->config;
    if (!j->out) return TB_FAIL(TB_ERR_INVALID, "tb quantize: where to? --out DIR names the folder that is written");
    TB_TRY(tb_args_int(args, "rows", 1, INT32_MAX, &c->calibration_rows));
    TB_TRY(tb_args_int(args, "batch", 1, TB_DEPLOY_ROWS, &c->batch));
    TB_TRY(tb_args_int(args, "context", 1, TB_DEPLOY_ROWS, &c->context));
    TB_TRY(tb_args_int(args, "max-batch", 1, TB_DEPLOY_ROWS, &j->max_batch));
    TB_TRY(tb_deploy_check_name(c->name));
    if (budget) c->budget = strtod(budget, &end) / 100;
    if (budget && (*end || end == budget || !(c->budget >= 0 && c->budget <= 1)))
        return TB_FAIL(TB_ERR_CONFIG, "tb quantize: --budget takes points of accuracy from 0 to 100, not '%s'", budget);
    for (int i = 0; observer; i++) {
        if (i == 3)
            return TB_FAIL(TB_ERR_INVALID, "tb quantize: --observer is minmax, moving-average or percentile, not '%s'",
                           observer);
        if (strcmp(observer, observers[i]) != 0) continue;
        c->observer = (tb_observer_kind)i;
        break;
    }
    return TB_OK;
}

static int run(const tb_args *args)
{
    const char *data = tb_args_get(args, "data"), *name = tb_args_get(args, "name");
    job j = {.config = {.name = name ? name : "model",
                        .context = 128,
                        .calibration_rows = 512,
                        .batch = 32,
                        .budget = 0.005,
                        .is_dynamic = tb_args_has(args, "dynamic")},
             .checkpoint = args->words[0],
             .data_name = data,
             .out = tb_args_get(args, "out"),
             .max_batch = 64};
    tb_status st = read_options(args, &j);
    if (st == TB_OK) st = quantize(&j);
    int code = st == TB_OK ? 0 : tb_report(stderr);
    tb_quantization_free(&j.result);
    tb_model_destroy(j.model);
    tb_dataset_close(j.data);
    tb_ctx_destroy(j.ctx);
    return code;
}

static const tb_option options[] = {
    {"out", 0, "DIR", "folder of the artefact and the report (made if missing)"},
    {"data", 0, "NAME", "data set it was trained on (fashion-mnist; of text models jargon, which makes it --dynamic)"},
    {"name", 0, "NAME", "the model's name (model)"},
    {"rows", 0, "N", "training rows that calibration sees (512)"},
    {"observer", 0, "KIND", "minmax, moving-average or percentile (minmax)"},
    {"dynamic", 0, NULL, "quantize the rows of linear layers' inputs on the spot; no calibration"},
    {"budget", 0, "POINTS", "of accuracy that may be lost before layers go back to f32 (0.5)"},
    {"batch", 0, "N", "rows of a run, also of the timed ones (32)"},
    {"max-batch", 0, "N", "largest batch it will be run with (64)"},
    {"context", 0, "T", "text models: tokens of a row (128)"},
};

TB_VERB(quantize, .group = TB_VERB_MODEL, .args = "CHECKPOINT", .min_args = 1, .max_args = 1,
        .doc = "Make an INT8 artefact of a trained model, with a report of accuracy and time by layer",
        .help = "Calibrates on training rows, takes layers back to f32 while validation rows lose more than the\n"
                "budget, and compares both on all test rows. tb serve serves the folder like any other artefact.",
        .options = options, .n_options = sizeof options / sizeof options[0], .run = run);
