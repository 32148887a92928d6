/* Building and running the four arms. */
#include "arms.h"
#include "deploy.h"
#include "stepper.h"
#include "tb_alloc.h"
#include "tb_artefact.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include "tb_quant.h"
#include "tb_safetensors.h"
#include "tb_train.h"
#include "weights.h"
#include <math.h>
#include <string.h>

enum { E1, E2, E3, SESSIONS };
enum { CALIBRATION_ROWS = 512, SAVED_ROWS = 64, TEXT_ROWS = 256, TEXT_CHECK_BATCH = 64 };

struct tb_arms {
    tb_arms_config config;
    tb_ctx *ctx;
    tb_dataset *data;
    tb_model *model;
    tb_exec *exec[SESSIONS];
    tb_session *session[SESSIONS];
    tb_stepper *stepper[TB_ARMS]; /* stepped only */
    tb_quant_report quant;
    bool is_text;
    int64_t classes, row_bytes;
    int64_t answers; /* of a row: one class, or what follows each byte */
    int64_t test_rows, check_batch;
    double train_loss;
    float *logits; /* two batches of them */
    float *step_logits; /* of one place of a batch; stepped only */
};

static tb_status train(tb_arms *s)
{
    tb_trainer *trainer;
    double loss = 0;
    int64_t steps = s->config.train_steps;
    tb_optim_config sgd = {.kind = TB_OPTIM_SGD, .momentum = 0.9, .nesterov = true, .decay = s->config.decay},
                    adamw = {.kind = TB_OPTIM_ADAMW,
                             .beta1 = 0.9,
                             .beta2 = 0.999,
                             .eps = 1e-8,
                             .decay = s->config.decay};
    tb_trainer_config c = {.model = s->model,
                           .data = s->data,
                           .batch = s->config.train_batch,
                           .context = s->config.context,
                           .seed = s->config.seed,
                           .ahead = 2,
                           .optim = s->config.adamw ? adamw : sgd,
                           .schedule = {.kind = TB_LR_COSINE,
                                        .rate = s->config.rate,
                                        .floor = 0,
                                        .warmup = steps > 1000 ? 100 : steps / 10,
                                        .steps = steps}};
    TB_TRY(tb_trainer_create(&c, &trainer));
    tb_status st = TB_OK;
    for (int64_t i = 0; i < steps && st == TB_OK; i++) {
        if (i % 100 == 0 && s->config.progress) s->config.progress(s->config.arg, i, steps);
        st = tb_trainer_step(trainer, &loss);
    }
    tb_trainer_destroy(trainer);
    s->train_loss = loss;
    return st;
}

/* From the file where there is one; a training that has a file's name writes it and reads it back. */
static tb_status learn(tb_arms *s)
{
    const tb_arms_config *c = &s->config;
    char training[256], context[32] = "";
    bool found = false;
    if (!c->weights) return train(s);
    if (s->is_text) snprintf(context, sizeof context, " x %lld bytes", (long long)c->context);
    snprintf(training, sizeof training, "%s: %lld steps of %lld%s, %s, rate %g, decay %g, seed %llu", c->data,
             (long long)c->train_steps, (long long)c->train_batch, context, c->adamw ? "adamw" : "sgd",
             c->rate, c->decay, (unsigned long long)c->seed);
    tb_weights_origin origin = {training, tb_dataset_part(s->data, TB_SPLIT_TRAIN)->sha256};
    char *path = tb_weights_path(c->weights);
    if (!path) return tb_error_code();
    tb_status st = tb_weights_load(s->model, path, &origin, &found, &s->train_loss);
    if (st == TB_OK && !found) {
        st = train(s);
        if (st == TB_OK) st = tb_weights_save(s->model, path, &origin, s->train_loss);
        if (st == TB_OK) st = tb_weights_load(s->model, path, &origin, &found, &s->train_loss);
    }
    tb_free(path);
    return st;
}

static tb_status calibrate(tb_arms *s, tb_graph *g, tb_ranges *ranges)
{
    tb_exec *e;
    tb_session *session = NULL;
    const tb_data_part *part = tb_dataset_part(s->data, TB_SPLIT_TRAIN);
    int64_t n = CALIBRATION_ROWS;
    float *logits = tb_calloc((size_t)(n * s->classes), sizeof *logits);
    TB_TRY(tb_exec_create(g, &e));
    tb_status st = logits ? tb_session_create(e, s->ctx, &session) : TB_ERR_OOM;
    if (st == TB_OK) st = tb_ranges_create(tb_exec_graph(e), TB_OBSERVE_MINMAX, ranges);
    if (st == TB_OK) {
        tb_ranges_observe(ranges, session);
        st = tb_session_run(session, &n, (const void *[]){part->bytes}, (void *[]){logits});
    }
    tb_session_free(session);
    tb_exec_free(e);
    tb_free(logits);
    return st;
}

/* `strict`: with the bits of eager execution, so that batch norm stays a step of its own. */
static tb_status simplified(tb_arms *s, bool strict, tb_graph **g)
{
    if (s->config.is_stepped)
        TB_TRY(tb_deploy_capture_step(s->model, s->config.context, "model", g));
    else
        TB_TRY(tb_deploy_capture(s->model, s->data, s->config.context, "model", g));
    return tb_compile(*g, &(tb_compile_opts){.no_fusion = true, .strict = strict}, NULL);
}

static tb_status build(tb_arms *s, int arm)
{
    tb_graph *g = NULL, *calibrated = NULL;
    tb_ranges ranges = {0};
    tb_status st = simplified(s, arm == E1, &g);
    if (st == TB_OK && arm == E3 && s->is_text) {
        st = tb_quantize_graph_dynamic(g, NULL, &s->quant);
    } else if (st == TB_OK && arm == E3) {
        st = simplified(s, false, &calibrated);
        if (st == TB_OK) st = calibrate(s, calibrated, &ranges);
        if (st == TB_OK) st = tb_quantize_graph(g, &ranges, NULL, &s->quant);
        tb_ranges_free(&ranges);
    }
    if (st == TB_OK && arm != E1) st = tb_compile(g, &(tb_compile_opts){.fast = s->config.is_fast}, NULL);
    if (st != TB_OK) {
        tb_graph_free(g);
        return st;
    }
    TB_TRY(tb_exec_create(g, &s->exec[arm]));
    return tb_session_create(s->exec[arm], s->ctx, &s->session[arm]);
}

/* (pixel / 255 - mean) / std in the shape that the first block takes. */
static tb_tensor *images(const tb_arms *s, int64_t rows, tb_tensor *bytes)
{
    double std = tb_dataset_std(s->data), mean = tb_dataset_mean(s->data);
    const tb_boundary *in = &tb_model_block_at(s->model, 0)->in;
    int64_t dims[TB_MAX_RANK];
    tb_tensor *x = tb_mul(tb_cast(bytes, TB_F32), tb_scalar(TB_F32, 1 / (255 * std)));
    x = tb_sub(x, tb_scalar(TB_F32, mean / std));
    for (int i = 0; i < in->rank; i++) dims[i] = i == 0 ? rows : in->dims[i];
    return tb_reshape(x, in->rank, dims);
}

/* What the graphs compute, op by op: the same preprocessing, the same forward. */
static tb_status eager(tb_arms *s, int64_t rows, const uint8_t *data, float *logits)
{
    tb_scope *scope = tb_scope_open();
    bool mode = tb_grad_mode(s->ctx, false);
    tb_tensor *bytes = tb_tensor_from(TB_U8, 2, (int64_t[]){rows, s->row_bytes}, data);
    tb_tensor *x = s->is_text ? tb_cast(bytes, TB_I32) : images(s, rows, bytes);
    tb_tensor *y = tb_model_forward(s->model, x);
    tb_status st = tb_tensor_read(y, logits, sizeof *logits * (size_t)(rows * s->answers * s->classes));
    tb_grad_mode(s->ctx, mode);
    tb_scope_close(scope);
    return st;
}

static tb_status step(tb_arms *s, int arm, int64_t n, const uint8_t *rows, int64_t place, float *logits)
{
    return tb_stepper_run(s->stepper[arm], n, rows, s->row_bytes, place, logits);
}

/* All answers of n rows, by an arm. */
static tb_status answer(tb_arms *s, int arm, int64_t n, const uint8_t *rows, float *logits)
{
    size_t classes = (size_t)s->classes;
    if (!s->config.is_stepped && arm == 0) return eager(s, n, rows, logits);
    if (!s->config.is_stepped)
        return tb_session_run(s->session[arm - 1], &n, (const void *[]){rows}, (void *[]){logits});
    for (int64_t place = 0; place < s->answers; place++) {
        TB_TRY(step(s, arm, n, rows, place, s->step_logits));
        for (int64_t i = 0; i < n; i++)
            memcpy(logits + (i * s->answers + place) * s->classes, s->step_logits + i * s->classes,
                   classes * sizeof *logits);
    }
    return TB_OK;
}

/* ln sum exp(row) - row[label] */
static double negative_log_likelihood(const float *row, int64_t classes, int64_t label)
{
    double most = (double)row[0], sum = 0;
    for (int64_t k = 1; k < classes; k++) most = fmax(most, (double)row[k]);
    for (int64_t k = 0; k < classes; k++) sum += exp((double)row[k] - most);
    return most + log(sum) - (double)row[label];
}

/* What an arm's answers to the test rows are worth. */
typedef struct verdict {
    bool *right;           /* [test_rows * answers]: the most likely class is the label */
    double loss, furthest; /* sum of nats; the largest difference from the logits of whole rows op by op */
} verdict;

static double difference(double x, double y)
{
    double d = fabs(x - y);
    return x == y || (isnan(x) && isnan(y)) ? 0 : isnan(d) ? (double)INFINITY : d;
}

static void judge(const tb_arms *s, const float *logits, const float *reference, int64_t first, int64_t n, verdict *v)
{
    const tb_data_part *test = tb_dataset_part(s->data, TB_SPLIT_TEST);
    const uint8_t *labels = (s->is_text ? test->bytes + 1 : test->labels) + first;
    for (int64_t i = 0; i < n * s->classes; i++)
        v->furthest = fmax(v->furthest, difference((double)logits[i], (double)reference[i]));
    for (int64_t i = 0; i < n; i++) {
        const float *row = logits + i * s->classes;
        int64_t best = 0;
        for (int64_t k = 1; k < s->classes; k++)
            if (row[k] > row[best]) best = k;
        v->right[first + i] = best == labels[i];
        v->loss += negative_log_likelihood(row, s->classes, labels[i]);
    }
}

/* All test rows by every arm (e0: whole rows and, where steps are what is measured, by steps). */
static tb_status answer_all(tb_arms *s, verdict of[TB_ARMS], double *largest)
{
    const uint8_t *test = tb_dataset_part(s->data, TB_SPLIT_TEST)->bytes;
    for (int64_t at = 0; at < s->test_rows; at += s->check_batch) {
        int64_t n = s->test_rows - at < s->check_batch ? s->test_rows - at : s->check_batch, answers = n * s->answers;
        float *other = s->logits + answers * s->classes;
        TB_TRY(eager(s, n, test + at * s->row_bytes, s->logits));
        for (int64_t i = 0; i < answers * s->classes; i++) *largest = fmax(*largest, fabs((double)s->logits[i]));
        for (int arm = s->config.is_stepped ? 0 : 1; arm < TB_ARMS; arm++) {
            TB_TRY(answer(s, arm, n, test + at * s->row_bytes, other));
            judge(s, other, s->logits, at * s->answers, answers, &of[arm]);
        }
    }
    return TB_OK;
}

/* The interval of the paired difference is the normal one of McNemar's counts. */
static void compare(const verdict *f32, const verdict *int8, int64_t n_answers, tb_arms_facts *out)
{
    double lost = 0, won = 0, right = 0, n = (double)n_answers;
    for (int64_t i = 0; i < n_answers; i++) {
        right += f32->right[i];
        lost += f32->right[i] && !int8->right[i];
        won += int8->right[i] && !f32->right[i];
    }
    double drop = (lost - won) / n, half = 1.96 * sqrt(lost + won - n * drop * drop) / n;
    out->accuracy_f32 = right / n;
    out->accuracy_int8 = (right - lost + won) / n;
    out->loss_f32 = f32->loss / n;
    out->loss_int8 = int8->loss / n;
    out->drop_low = drop - half;
    out->drop_high = drop + half;
}

static tb_status check_answers(tb_arms *s, tb_arms_facts *out)
{
    int64_t n = s->test_rows * s->answers;
    verdict of[TB_ARMS] = {0};
    double largest = 0;
    tb_status st = TB_OK;
    for (int arm = 0; arm < TB_ARMS && st == TB_OK; arm++)
        if (!(of[arm].right = tb_calloc((size_t)n + 1, sizeof(bool)))) st = TB_ERR_OOM;
    if (st == TB_OK) st = answer_all(s, of, &largest);
    if (st == TB_OK) {
        out->difference = fmax(of[0].furthest, of[1].furthest);
        out->fused_difference = of[TB_ARM_FUSED].furthest > 0 ? of[TB_ARM_FUSED].furthest / largest : 0;
        compare(&of[TB_ARM_FUSED], &of[TB_ARM_INT8], n, out);
    }
    for (int arm = 0; arm < TB_ARMS; arm++) tb_free(of[arm].right);
    return st;
}

/* Rows of text are windows side by side; each byte is told from those before it in its window. */
static tb_status open_data(tb_arms *s)
{
    TB_TRY(tb_dataset_open(s->config.data, &s->data));
    const tb_data_part *test = tb_dataset_part(s->data, TB_SPLIT_TEST);
    int64_t context = s->config.context;
    s->is_text = tb_dataset_kind(s->data) == TB_DATA_TEXT;
    if (s->is_text && context < 1) return TB_FAIL(TB_ERR_CONFIG, "'%s' holds no images", s->config.data);
    s->classes = tb_dataset_classes(s->data);
    s->row_bytes = s->is_text ? context : tb_dataset_height(s->data) * tb_dataset_width(s->data);
    s->answers = s->is_text ? context : 1;
    int64_t windows = s->is_text ? (test->rows - 1) / context : 0;
    s->test_rows = !s->is_text ? test->rows : windows < TEXT_ROWS ? windows : TEXT_ROWS;
    s->check_batch = s->is_text ? TEXT_CHECK_BATCH : TB_ARMS_CHECK_BATCH;
    if (s->test_rows < s->config.batch || s->test_rows < s->check_batch)
        return TB_FAIL(TB_ERR_CONFIG, "'%s' holds %lld test rows; batches of %lld want more", s->config.data,
                       (long long)s->test_rows, (long long)s->config.batch);
    return TB_OK;
}

static tb_status make_steppers(tb_arms *s, int64_t rows)
{
    s->step_logits = tb_calloc((size_t)(rows * s->classes), sizeof *s->step_logits);
    if (!s->step_logits) return TB_ERR_OOM;
    for (int arm = 0; arm < TB_ARMS; arm++)
        TB_TRY(tb_stepper_create(s->model, arm > 0 ? s->session[arm - 1] : NULL, s->config.context, rows,
                                 &s->stepper[arm]));
    return TB_OK;
}

static tb_status fill(tb_arms *s)
{
    TB_TRY(open_data(s));
    if (s->config.is_stepped && !s->is_text)
        return TB_FAIL(TB_ERR_CONFIG, "'%s' holds images; only text is read byte by byte", s->config.data);
    TB_TRY(tb_model_create(s->config.model, TB_F32, &s->model));
    TB_TRY(learn(s));
    tb_model_set_training(s->model, false);
    int64_t most = s->config.batch > s->check_batch ? s->config.batch : s->check_batch;
    s->logits = tb_calloc((size_t)(2 * most * s->answers * s->classes), sizeof *s->logits);
    if (!s->logits) return TB_ERR_OOM;
    for (int arm = 0; arm < SESSIONS; arm++) TB_TRY(build(s, arm));
    return s->config.is_stepped ? make_steppers(s, most) : TB_OK;
}

tb_status tb_arms_create(const tb_arms_config *config, tb_arms **out)
{
    tb_arms *s = tb_calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return TB_ERR_OOM;
    s->config = *config;
    s->ctx = config->ctx;
    tb_status st = fill(s);
    if (st != TB_OK) tb_arms_destroy(s);
    else *out = s;
    return st;
}

void tb_arms_destroy(tb_arms *s)
{
    if (!s) return;
    for (int arm = 0; arm < TB_ARMS; arm++) tb_stepper_destroy(s->stepper[arm]);
    for (int arm = 0; arm < SESSIONS; arm++) {
        tb_session_free(s->session[arm]);
        tb_exec_free(s->exec[arm]);
    }
    tb_model_destroy(s->model);
    tb_dataset_close(s->data);
    tb_free(s->logits);
    tb_free(s->step_logits);
    tb_free(s);
}

tb_status tb_arms_check(tb_arms *s, tb_arms_facts *out)
{
    tb_plan_stats plan;
    *out = (tb_arms_facts){.model_spec = tb_model_spec(s->model),
                           .test_sha256 = tb_dataset_part(s->data, TB_SPLIT_TEST)->sha256,
                           .train_loss = s->train_loss,
                           .int8_mac_share = s->quant.macs > 0 ? s->quant.int8_macs / s->quant.macs : 0};
    TB_TRY(check_answers(s, out));
    TB_TRY(tb_session_plan_stats(s->session[E2], &s->config.batch, &plan));
    out->plan_bytes = (double)plan.planned_bytes;
    out->plan_bound_bytes = (double)plan.bound_bytes;
    out->plan_naive_bytes = (double)plan.naive_bytes;
    return TB_OK;
}

tb_status tb_arms_run(tb_arms *s, int arm, int64_t turn)
{
    int64_t turns = s->config.is_stepped ? s->answers : 1; /* of the same rows */
    int64_t n = s->config.batch, at = turn / turns * n % (s->test_rows - n + 1);
    const uint8_t *rows = tb_dataset_part(s->data, TB_SPLIT_TEST)->bytes + at * s->row_bytes;
    return turns > 1 ? step(s, arm, n, rows, turn % turns, s->logits) : answer(s, arm, n, rows, s->logits);
}

typedef struct timed_arm {
    tb_arms *arms;
    int arm;
} timed_arm;

static tb_status run_timed(void *arg, int turn)
{
    const timed_arm *t = arg;
    return tb_arms_run(t->arms, t->arm, turn);
}

tb_status tb_arms_layer_times(tb_arms *s, int arm, tb_layer_times *out)
{
    return tb_layer_times_measure(s->session[arm - 1], tb_exec_graph(s->exec[arm - 1]), run_timed, &(timed_arm){s, arm},
                                  out);
}

static double value_bytes(const tb_graph *g, int id, const int64_t *sizes)
{
    const tb_value *v = &g->values[id];
    double bytes = (double)tb_dtype_size(v->dtype);
    for (int d = 0; d < v->rank; d++) bytes *= (double)tb_dim_at(v->dims[d], sizes);
    return bytes;
}

tb_arms_work tb_arms_work_of(const tb_arms *s, int arm)
{
    const tb_graph *g = tb_exec_graph(s->exec[arm > 0 ? arm - 1 : E1]);
    const int64_t sizes[TB_MAX_SYMBOLS] = {s->config.batch, 1};
    tb_arms_work work = {0};
    for (int i = 0; i < g->n_nodes; i++) {
        const tb_node *n = &g->nodes[i];
        work.flop += 2 * tb_quant_macs(g, i) * (double)s->config.batch;
        if (n->op->fusion == TB_FUSE_VIEW) continue;
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k] != TB_NO_VALUE) work.bytes += value_bytes(g, n->in[k], sizes);
        for (int o = 0; o < n->op->n_out - n->op->n_hidden; o++) work.bytes += value_bytes(g, n->out[o], sizes);
    }
    return work;
}

int64_t tb_arms_tokens(const tb_arms *s)
{
    return s->is_text ? s->config.batch * (s->config.is_stepped ? 1 : s->answers) : 0;
}

char *tb_arms_text(const tb_arms *s, int arm)
{
    tb_text text = {0};
    tb_graph_dump(tb_exec_graph(s->exec[arm - 1]), &text);
    if (text.failed) tb_text_free(&text);
    return text.data;
}

tb_status tb_arms_export(const tb_arms *s, int arm, const char *name, int64_t max_batch, const char *dir)
{
    const char *facts[] = {"model", tb_model_spec(s->model), "data", s->config.data};
    tb_artefact_info info = {.max_batch = max_batch, .n_facts = 2, .facts = facts};
    snprintf(info.name, sizeof info.name, "%s", name);
    info.labels = tb_deploy_labels(s->data, &info.n_labels);
    info.vocabulary = tb_deploy_vocabulary(s->data);
    int64_t golden = s->config.is_stepped ? 2 : 16; /* a row of a step holds its caches */
    return tb_artefact_save(tb_exec_graph(s->exec[arm - 1]), &info, golden, dir);
}

const uint8_t *tb_arms_images(const tb_arms *s, int64_t *n, int64_t *pixels)
{
    *n = tb_dataset_part(s->data, TB_SPLIT_TEST)->rows;
    *pixels = s->row_bytes;
    return tb_dataset_part(s->data, TB_SPLIT_TEST)->bytes;
}

tb_status tb_arms_answers(tb_arms *s, int arm, int64_t n, float *logits)
{
    const uint8_t *images = tb_dataset_part(s->data, TB_SPLIT_TEST)->bytes;
    int64_t one = 1; /* one row at a time: the server's batches must give the same bits */
    for (int64_t i = 0; i < n; i++)
        TB_TRY(tb_session_run(s->session[arm - 1], &one, (const void *[]){images + i * s->row_bytes},
                              (void *[]){logits + i * s->classes}));
    return TB_OK;
}

tb_status tb_arms_continue(tb_arms *s, int arm, int64_t bytes, int64_t tokens, uint8_t *text)
{
    for (int64_t place = 0; place < bytes + tokens - 1; place++) {
        TB_TRY(tb_stepper_run(s->stepper[arm], 1, text, 0, place, s->step_logits));
        if (place < bytes - 1) continue;
        int64_t best = 0;
        for (int64_t k = 1; k < s->classes; k++)
            if (s->step_logits[k] > s->step_logits[best]) best = k;
        text[place + 1] = (uint8_t)best;
    }
    return TB_OK;
}

const uint8_t *tb_arms_test_text(const tb_arms *s, int64_t *bytes)
{
    *bytes = tb_dataset_part(s->data, TB_SPLIT_TEST)->rows;
    return tb_dataset_part(s->data, TB_SPLIT_TEST)->bytes;
}

tb_status tb_arms_save(tb_arms *s, const char *path)
{
    const uint8_t *rows = tb_dataset_part(s->data, TB_SPLIT_TEST)->bytes;
    const tb_params *ps = tb_model_params(s->model);
    int n_params = tb_params_count(ps), n = n_params + tb_params_buffer_count(ps);
    tb_safetensors_item *items = tb_calloc((size_t)n + 2, sizeof *items);
    char scale[32], shift[32];
    if (!items) return TB_ERR_OOM;
    double std = s->is_text ? 1.0 / 255 : tb_dataset_std(s->data); /* text: scale 1, shift 0 */
    snprintf(scale, sizeof scale, "%.9g", 1 / (255 * std));
    snprintf(shift, sizeof shift, "%.9g", s->is_text ? 0 : tb_dataset_mean(s->data) / std);
    tb_scope *scope = tb_scope_open();
    tb_status st = eager(s, SAVED_ROWS, rows, s->logits);
    for (int i = 0; i < n; i++) {
        const tb_param *p = i < n_params ? tb_params_at(ps, i) : tb_params_buffer_at(ps, i - n_params);
        items[i] = (tb_safetensors_item){p->name, p->tensor};
    }
    items[n] =
        (tb_safetensors_item){"rows", tb_tensor_from(TB_U8, 2, (int64_t[]){SAVED_ROWS, s->row_bytes}, rows)};
    items[n + 1] = (tb_safetensors_item){
        "logits", tb_tensor_from(TB_F32, 2, (int64_t[]){SAVED_ROWS * s->answers, s->classes}, s->logits)};
    tb_safetensors_pair notes[] = {{"model", tb_model_spec(s->model)},
                                   {"scale", scale},
                                   {"shift", shift},
                                   {"form", s->config.is_stepped ? "step" : "whole"}};
    if (st == TB_OK) st = tb_safetensors_save(path, n + 2, items, 4, notes);
    tb_scope_close(scope);
    tb_free(items);
    return st;
}
