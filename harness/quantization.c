/* Layers are taken into integers together. Where that loses more than the budget on validation rows (the last rows of
 * training), layers go back to f32 one by one, the one first that alone disturbs the logits most. Test rows are only
 * reported on, never used to choose. */
#include "quantization.h"
#include "layer_times.h"
#include "tb_alloc.h"
#include "tb_pass.h"
#include <math.h>
#include <string.h>

enum {
    VALIDATION_ROWS = 2000,
    VALIDATION_WINDOWS = 32,
    SENSITIVITY_ROWS = 128,
    SENSITIVITY_WINDOWS = 8,
    TEST_WINDOWS = 64
};

/* Rows of input with the answers that are right: images with classes, or windows of text with the next tokens. */
typedef struct rows {
    const uint8_t *bytes, *labels;
    int64_t n, row_bytes, answers; /* answers of a row */
} rows;

typedef struct work {
    const tb_quantization_config *c;
    tb_quantization *q;
    tb_ctx *ctx;
    tb_graph *f32;           /* simplified, not fused */
    tb_ranges ranges;
    bool *keep;              /* [nodes of f32] */
    int64_t classes, answers;
} work;

static rows rows_of(const work *w, tb_split split, bool from_end, int64_t most_rows, int64_t most_windows)
{
    const tb_dataset *d = w->c->data;
    const tb_data_part *p = tb_dataset_part(d, split);
    bool is_text = tb_dataset_kind(d) == TB_DATA_TEXT;
    int64_t width = is_text ? w->c->context : tb_dataset_height(d) * tb_dataset_width(d);
    int64_t there = is_text ? (p->rows - 1) / width : p->rows, most = is_text ? most_windows : most_rows;
    rows r = {.n = most && most < there ? most : there, .row_bytes = width, .answers = is_text ? width : 1};
    int64_t first = from_end ? there - r.n : 0;
    r.bytes = p->bytes + first * width;
    r.labels = is_text ? r.bytes + 1 : p->labels + first;
    return r;
}

/* ---- runs ---- */
typedef struct runner {
    tb_exec *exec;
    tb_session *session;
} runner;

static tb_status runner_open(work *w, tb_graph *g, runner *r)
{
    *r = (runner){0};
    TB_TRY(tb_exec_create(g, &r->exec));
    return tb_session_create(r->exec, w->ctx, &r->session);
}

static void runner_close(runner *r)
{
    tb_session_free(r->session);
    tb_exec_free(r->exec);
}

static tb_status run_rows(const runner *r, const rows *in, int64_t first, int64_t n, float *logits)
{
    return tb_session_run(r->session, &n, (const void *[]){in->bytes + first * in->row_bytes}, (void *[]){logits});
}

/* right[i]: whether the i-th answer is the most likely class. */
static tb_status evaluate(work *w, const runner *r, const rows *in, bool *right)
{
    int64_t batch = w->c->batch;
    float *logits = tb_calloc((size_t)(batch * in->answers * w->classes), sizeof *logits);
    tb_status st = logits ? TB_OK : TB_ERR_OOM;
    for (int64_t at = 0; at < in->n && st == TB_OK; at += batch) {
        int64_t n = in->n - at < batch ? in->n - at : batch;
        st = run_rows(r, in, at, n, logits);
        for (int64_t i = 0; i < n * in->answers && st == TB_OK; i++) {
            const float *row = logits + i * w->classes;
            int64_t best = 0;
            for (int64_t k = 1; k < w->classes; k++)
                if (row[k] > row[best]) best = k;
            right[at * in->answers + i] = best == in->labels[at * in->answers + i];
        }
    }
    tb_free(logits);
    return st;
}

/* ---- graphs ---- */
static tb_status simplified(work *w, tb_graph **g)
{
    TB_TRY(tb_deploy_capture(w->c->model, w->c->data, w->c->context, w->c->name, g));
    return tb_compile(*g, &(tb_compile_opts){.no_fusion = true}, NULL);
}

static tb_status calibrate(work *w)
{
    rows in = rows_of(w, TB_SPLIT_TRAIN, false, w->c->calibration_rows, w->c->calibration_rows);
    tb_graph *g;
    runner r = {0};
    float *logits = tb_calloc((size_t)(w->c->batch * in.answers * w->classes), sizeof *logits);
    if (!logits) return TB_ERR_OOM;
    tb_status st = simplified(w, &g);
    if (st == TB_OK) st = runner_open(w, g, &r);
    if (st == TB_OK) tb_ranges_observe(&w->ranges, r.session);
    for (int64_t at = 0; at < in.n && st == TB_OK; at += w->c->batch)
        st = run_rows(&r, &in, at, in.n - at < w->c->batch ? in.n - at : w->c->batch, logits);
    if (st == TB_OK) st = w->ranges.status;
    runner_close(&r);
    tb_free(logits);
    return st;
}

static tb_status integer_graph(work *w, const tb_quant_opts *opts, tb_quant_report *report, tb_graph **g)
{
    TB_TRY(simplified(w, g));
    tb_status st = w->c->is_dynamic ? tb_quantize_graph_dynamic(*g, opts->keep, report)
                                    : tb_quantize_graph(*g, &w->ranges, opts, report);
    if (st == TB_OK) st = tb_compile(*g, NULL, NULL);
    if (st == TB_OK) return TB_OK;
    tb_graph_free(*g);
    *g = NULL;
    return st;
}

/* ---- layers ---- */
/* The layer that a node of any of the graphs belongs to: weights keep their names ("fc1.weight", "fc1.weight.s8");
 * products without weights keep their order. */
static int layer_of(const tb_quantization *q, const tb_graph *g, int node)
{
    const tb_node *n = &g->nodes[node];
    const tb_tensor *weight = n->n_in > 1 && n->in[1] != TB_NO_VALUE ? g->values[n->in[1]].constant : NULL;
    const char *name = weight ? g->values[n->in[1]].name : n->op->name;
    int before = 0;
    for (int i = 0; !weight && i < node; i++) before += g->nodes[i].op == n->op;
    for (int i = 0; i < q->n_layers; i++) {
        size_t length = strlen(q->layer[i].name);
        if (strncmp(name, q->layer[i].name, length) != 0) continue;
        if (weight ? !name[length] || strcmp(name + length, ".s8") == 0 : !name[length] && before-- == 0) return i;
    }
    return -1;
}

static tb_status find_layers(work *w)
{
    tb_graph *g;
    tb_quant_report all;
    TB_TRY(simplified(w, &g));
    tb_status st =
        w->c->is_dynamic ? tb_quantize_graph_dynamic(g, NULL, &all) : tb_quantize_graph(g, &w->ranges, NULL, &all);
    for (int i = 0; st == TB_OK && i < w->f32->n_nodes && w->q->n_layers < TB_QUANTIZED_LAYERS; i++) {
        const tb_node *n = &w->f32->nodes[i];
        double macs = tb_quant_macs(w->f32, i);
        if (macs == 0) continue;
        tb_quantized_layer *l = &w->q->layer[w->q->n_layers++];
        bool has_weight = n->n_in > 1 && n->in[1] != TB_NO_VALUE && w->f32->values[n->in[1]].constant;
        *l = (tb_quantized_layer){
            .node = i, .macs_share = macs / all.macs, .is_int8 = has_weight, .sqnr_db = NAN, .alone_db = NAN};
        snprintf(l->name, sizeof l->name, "%s", has_weight ? w->f32->values[n->in[1]].name : n->op->name);
        for (int k = 0; k < all.n_kept; k++)
            if (strcmp(all.kept[k].layer, l->name) == 0) l->is_int8 = false, l->reason = all.kept[k].reason;
    }
    tb_graph_free(g);
    return st;
}

static tb_status logits_of(work *w, tb_graph *g, const rows *in, float *logits)
{
    runner r;
    tb_status st = runner_open(w, g, &r);
    if (st == TB_OK) st = run_rows(&r, in, 0, in->n, logits);
    runner_close(&r);
    return st;
}

/* Every layer alone in integers: what that does to the logits. */
static tb_status sensitivities(work *w)
{
    rows in = rows_of(w, TB_SPLIT_TRAIN, true, SENSITIVITY_ROWS, SENSITIVITY_WINDOWS);
    int64_t n = in.n * in.answers * w->classes;
    float *exact = tb_calloc((size_t)n, sizeof *exact), *other = tb_calloc((size_t)n, sizeof *other);
    bool *keep = tb_calloc((size_t)w->f32->n_nodes + 1, sizeof *keep);
    tb_graph *g = NULL;
    tb_status st = exact && other && keep ? simplified(w, &g) : TB_ERR_OOM;
    if (st == TB_OK) st = logits_of(w, g, &in, exact);
    for (int i = 0; i < w->q->n_layers && st == TB_OK; i++) {
        tb_quant_report report;
        double signal = 0, noise = 0;
        if (!w->q->layer[i].is_int8) continue;
        for (int k = 0; k < w->f32->n_nodes; k++) keep[k] = k != w->q->layer[i].node;
        st = integer_graph(w, &(tb_quant_opts){keep, .islands = true}, &report, &g);
        if (st == TB_OK) st = logits_of(w, g, &in, other);
        for (int64_t k = 0; k < n; k++) {
            signal += (double)exact[k] * (double)exact[k];
            noise += ((double)other[k] - (double)exact[k]) * ((double)other[k] - (double)exact[k]);
        }
        w->q->layer[i].alone_db = 10 * log10(signal / fmax(noise, 1e-300));
    }
    tb_free(exact);
    tb_free(other);
    tb_free(keep);
    return st;
}

/* ---- accuracy ---- */
typedef struct answers {
    bool *f32, *int8;
    int64_t n;
} answers;

static void answers_free(answers *a)
{
    tb_free(a->f32);
    tb_free(a->int8);
}

static tb_status answer(work *w, const bool *keep, const rows *in, answers *out)
{
    tb_quant_report report;
    tb_graph *g;
    runner r;
    *out = (answers){.n = in->n * in->answers};
    out->f32 = tb_calloc((size_t)out->n + 1, sizeof *out->f32);
    out->int8 = tb_calloc((size_t)out->n + 1, sizeof *out->int8);
    for (int arm = 0; arm < 2; arm++) {
        tb_status st = !out->f32 || !out->int8 ? TB_ERR_OOM
                       : arm                   ? integer_graph(w, &(tb_quant_opts){keep, false}, &report, &g)
                                               : simplified(w, &g);
        if (st != TB_OK) return st;
        st = runner_open(w, g, &r);
        if (st == TB_OK) st = evaluate(w, &r, in, arm ? out->int8 : out->f32);
        runner_close(&r);
        TB_TRY(st);
    }
    return TB_OK;
}

static double drop_of(const answers *a, int64_t *lost, int64_t *won)
{
    *lost = *won = 0;
    for (int64_t i = 0; i < a->n; i++) {
        *lost += a->f32[i] && !a->int8[i];
        *won += a->int8[i] && !a->f32[i];
    }
    return a->n ? (double)(*lost - *won) / (double)a->n : 0;
}

/* Layers back to f32, the most sensitive first, until validation rows stay within the budget. */
static tb_status spend_budget(work *w)
{
    rows in = rows_of(w, TB_SPLIT_TRAIN, true, VALIDATION_ROWS, VALIDATION_WINDOWS);
    for (;;) {
        answers a;
        int64_t lost, won;
        tb_status st = answer(w, w->keep, &in, &a);
        w->q->validation_drop = st == TB_OK ? drop_of(&a, &lost, &won) : 0;
        answers_free(&a);
        TB_TRY(st);
        if (w->q->validation_drop <= w->c->budget) return TB_OK;
        tb_quantized_layer *worst = NULL;
        for (int i = 0; i < w->q->n_layers; i++) {
            tb_quantized_layer *l = &w->q->layer[i];
            if (l->is_int8 && (!worst || l->alone_db < worst->alone_db)) worst = l;
        }
        if (!worst) return TB_OK; /* all is f32 */
        worst->is_int8 = false;
        worst->reason = "it costs too much accuracy";
        w->keep[worst->node] = true;
    }
}

/* Paired: only answers that differ tell the arms apart. Interval: normal, of the difference of two shares of the same
 * answers (Agresti, "Categorical Data Analysis", 10.1.1). */
static tb_status compare(work *w)
{
    rows in = rows_of(w, TB_SPLIT_TEST, false, 0, TEST_WINDOWS);
    answers a;
    int64_t lost, won, right = 0;
    tb_status st = answer(w, w->keep, &in, &a);
    if (st == TB_OK) {
        double n = (double)a.n, drop = drop_of(&a, &lost, &won);
        double half = 1.96 * sqrt(fmax((double)(lost + won) - (double)(lost - won) * drop, 0)) / n;
        for (int64_t i = 0; i < a.n; i++) right += a.f32[i];
        w->q->answers = a.n;
        w->q->accuracy_f32 = (double)right / n;
        w->q->accuracy_int8 = w->q->accuracy_f32 - drop;
        w->q->drop = drop;
        w->q->drop_low = drop - half;
        w->q->drop_high = drop + half;
    }
    answers_free(&a);
    return st;
}

/* ---- tensors and times ---- */
static tb_status measure_inputs(work *w)
{
    rows in = rows_of(w, TB_SPLIT_TRAIN, true, w->c->batch, 1);
    float *logits = tb_calloc((size_t)(in.n * in.answers * w->classes), sizeof *logits);
    tb_quant_measure m = {0};
    runner r = {0};
    tb_graph *g = NULL;
    tb_status st = logits ? tb_quant_measure_create(&w->ranges, &m) : TB_ERR_OOM;
    if (st == TB_OK) st = simplified(w, &g);
    if (st == TB_OK) st = runner_open(w, g, &r);
    if (st == TB_OK) {
        tb_quant_measure_observe(&m, r.session);
        st = run_rows(&r, &in, 0, in.n, logits);
    }
    for (int i = 0; i < w->q->n_layers && st == TB_OK; i++) {
        tb_quantized_layer *l = &w->q->layer[i];
        int value = w->f32->nodes[l->node].in[0], node = w->f32->values[value].producer;
        while (node >= 0 && m.at[node].n == 0 && w->f32->nodes[node].op->fusion == TB_FUSE_VIEW)
            node = w->f32->values[w->f32->nodes[node].in[0]].producer;
        if (node < 0 || m.at[node].n == 0) continue;
        l->sqnr_db = 10 * log10(m.at[node].signal / fmax(m.at[node].noise, 1e-300));
        l->values = m.at[node].n;
        l->clipped = m.at[node].clipped;
        l->saturated = m.at[node].saturated;
    }
    runner_close(&r);
    tb_quant_measure_free(&m);
    tb_free(logits);
    return st;
}

typedef struct timed {
    const runner *runner;
    const rows *in;
    int64_t n;
    float *logits;
} timed;

static tb_status run_timed(void *arg, int turn)
{
    const timed *t = arg;
    (void)turn;
    return run_rows(t->runner, t->in, 0, t->n, t->logits);
}

/* Per layer: what its nodes take. */
static tb_status time_layers(work *w, bool is_int8)
{
    rows in = rows_of(w, TB_SPLIT_TEST, false, w->c->batch, w->c->batch);
    int64_t n = in.n < w->c->batch ? in.n : w->c->batch;
    float *logits = tb_calloc((size_t)(n * in.answers * w->classes), sizeof *logits);
    double *us = NULL;
    tb_quant_report report;
    tb_graph *g;
    runner r = {0};
    if (!logits) return TB_ERR_OOM;
    tb_status st = is_int8 ? integer_graph(w, &(tb_quant_opts){w->keep, false}, &report, &g) : simplified(w, &g);
    if (st == TB_OK && !is_int8) st = tb_compile(g, NULL, NULL);
    if (st == TB_OK) st = runner_open(w, g, &r);
    if (st == TB_OK && !(us = tb_calloc((size_t)g->n_nodes + 1, sizeof *us))) st = TB_ERR_OOM;
    if (st == TB_OK) st = tb_node_times_measure(r.session, g->n_nodes, run_timed, &(timed){&r, &in, n, logits}, us);
    for (int i = 0; st == TB_OK && i < g->n_nodes; i++) {
        int layer = layer_of(w->q, g, i);
        if (layer >= 0) *(is_int8 ? &w->q->layer[layer].int8_us : &w->q->layer[layer].f32_us) += us[i];
    }
    runner_close(&r);
    tb_free(us);
    tb_free(logits);
    return st;
}

static tb_status quantize(work *w)
{
    TB_TRY(simplified(w, &w->f32));
    const tb_value *y = &w->f32->values[w->f32->outputs[0]];
    w->classes = y->dims[y->rank - 1].base;
    w->keep = tb_calloc((size_t)w->f32->n_nodes + 1, sizeof *w->keep);
    if (!w->keep) return TB_ERR_OOM;
    TB_TRY(tb_ranges_create(w->f32, w->c->observer, &w->ranges));
    if (!w->c->is_dynamic) TB_TRY(calibrate(w));
    TB_TRY(find_layers(w));
    if (!w->c->is_dynamic) TB_TRY(measure_inputs(w));
    TB_TRY(sensitivities(w));
    TB_TRY(spend_budget(w));
    TB_TRY(compare(w));
    TB_TRY(time_layers(w, false));
    TB_TRY(time_layers(w, true));
    return integer_graph(w, &(tb_quant_opts){w->keep, false}, &w->q->rewrite, &w->q->graph);
}

tb_status tb_quantize_model(const tb_quantization_config *config, tb_quantization *out)
{
    work w = {.c = config, .q = out, .ctx = tb_ctx_current()};
    *out = (tb_quantization){0};
    tb_status st = quantize(&w);
    tb_graph_free(w.f32);
    tb_ranges_free(&w.ranges);
    tb_free(w.keep);
    return st;
}

void tb_quantization_free(tb_quantization *q) { tb_graph_free(q->graph); }

/* ---- the report ---- */
static const char *const observer_names[] = {"minmax", "moving-average", "percentile"};

void tb_quantization_json(const tb_quantization_config *c, const tb_quantization *q, tb_text *to)
{
    tb_json j = {.to = to, .pretty = true};
    tb_json_open(&j, '{');
    tb_json_put_str(&j, "schema", "tensorbrain.quantization/1");
    tb_json_put_str(&j, "model", tb_model_spec(c->model));
    tb_json_put_str(&j, "scheme",
                    c->is_dynamic ? "dynamic: u8 rows, s8 per-channel weights"
                                  : "static: u8 tensors, s8 per-channel weights");
    tb_json_put_str(&j, "observer", c->is_dynamic ? NULL : observer_names[c->observer]);
    tb_json_put_str(&j, "calibration_data", tb_dataset_name(c->data));
    tb_json_put_str(&j, "calibration_sha256", tb_dataset_part(c->data, TB_SPLIT_TRAIN)->sha256);
    tb_json_put_num(&j, "calibration_rows", c->is_dynamic ? 0 : (double)c->calibration_rows);
    tb_json_put_num(&j, "budget", c->budget);
    tb_json_put_num(&j, "validation_drop", q->validation_drop);
    tb_json_put_num(&j, "test_answers", (double)q->answers);
    tb_json_put_num(&j, "accuracy_f32", q->accuracy_f32);
    tb_json_put_num(&j, "accuracy_int8", q->accuracy_int8);
    tb_json_put_num(&j, "drop", q->drop);
    tb_json_put_num(&j, "drop_low", q->drop_low);
    tb_json_put_num(&j, "drop_high", q->drop_high);
    tb_json_put_num(&j, "int8_mac_share", q->rewrite.macs > 0 ? q->rewrite.int8_macs / q->rewrite.macs : 0);
    tb_json_key(&j, "layers");
    tb_json_open(&j, '[');
    for (int i = 0; i < q->n_layers; i++) {
        const tb_quantized_layer *l = &q->layer[i];
        tb_json_open(&j, '{');
        tb_json_put_str(&j, "name", l->name);
        tb_json_put_str(&j, "kept_f32", l->is_int8 ? NULL : l->reason);
        tb_json_put_num(&j, "mac_share", l->macs_share);
        tb_json_put_num(&j, "input_sqnr_db", l->sqnr_db);
        tb_json_put_int(&j, "input_values", l->values);
        tb_json_put_int(&j, "input_clipped", l->clipped);
        tb_json_put_int(&j, "input_saturated", l->saturated);
        tb_json_put_num(&j, "logits_sqnr_db_alone", l->alone_db);
        tb_json_put_num(&j, "f32_us", l->f32_us);
        tb_json_put_num(&j, "int8_us", l->int8_us);
        tb_json_close(&j, '}');
    }
    tb_json_close(&j, ']');
    tb_json_close(&j, '}');
    tb_text_add(to, "\n");
}

void tb_quantization_print(const tb_quantization_config *c, const tb_quantization *q)
{
    if (c->is_dynamic) printf("scheme     dynamic: rows quantized on the spot\n");
    else
        printf("calibrated %lld rows of %s (train), %s\n", (long long)c->calibration_rows, tb_dataset_name(c->data),
               observer_names[c->observer]);
    printf("%-36s %6s %9s %8s %9s %9s %9s %9s %9s\n", "layer", "MACs", "input dB", "clipped", "saturated", "of values",
           "alone dB", "f32 us", "int8 us");
    for (int i = 0; i < q->n_layers; i++) {
        const tb_quantized_layer *l = &q->layer[i];
        printf("%-36s %5.1f%% ", l->name, 100 * l->macs_share);
        if (isnan(l->sqnr_db))
            printf("%9s %8s %9s %9s ", "-", "-", "-", "-");
        else
            printf("%9.1f %8lld %9lld %9lld ", l->sqnr_db, (long long)l->clipped, (long long)l->saturated,
                   (long long)l->values);
        if (isnan(l->alone_db))
            printf("%9s ", "-");
        else
            printf("%9.1f ", l->alone_db);
        printf("%9.1f %9.1f %s\n", l->f32_us, l->int8_us, l->is_int8 ? "" : l->reason ? l->reason : "stays f32");
    }
    printf("INT8       %.1f %% of multiply-adds\n",
           100 * (q->rewrite.macs > 0 ? q->rewrite.int8_macs / q->rewrite.macs : 0));
    printf("accuracy   f32 %.4f, int8 %.4f on %lld test answers; lost %.2f points [%.2f, %.2f] (95 %%, paired)\n",
           q->accuracy_f32,
           q->accuracy_int8, (long long)q->answers, 100 * q->drop, 100 * q->drop_low, 100 * q->drop_high);
}
