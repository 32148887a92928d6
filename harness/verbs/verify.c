/* tb verify: does what the compiler makes of a model compute what the model computes? */
#include "deploy.h"
#include "tb_alloc.h"
#include "tb_rng.h"
#include "tb_text.h"
#include "tb_verb.h"
#include "tb_verify.h"
#include <math.h>

typedef struct job {
    const char *checkpoint, *data_name;
    int64_t rows, context, random;
    bool is_json;
    tb_compile_opts opts;
    tb_ctx *ctx;
    tb_dataset *data;
    tb_model *model;
    tb_graph *graph;
    tb_json json;
    tb_text text;
    bool is_wrong; /* something is: said already */
} job;

/* The sentence of a parity failure is part of the result; other failures end the verb. */
static tb_status take_parity(job *j, tb_status st)
{
    if (st != TB_ERR_PARITY) return st;
    j->is_wrong = true;
    if (!j->is_json) printf("WRONG      %s\n", tb_error_message());
    tb_error_clear();
    return TB_OK;
}

static void print_groups(const tb_verify_report *r)
{
    for (int i = 0; i < r->n_groups; i++) {
        const tb_verify_group *g = &r->groups[i];
        printf("  %4d %-28s %-28s %10.3g %8.3g %8.1f%s\n", g->node, g->op, g->kernel, g->max_abs, g->worst, g->sqnr_db,
               g->worst <= 1 ? "" : "  WRONG");
    }
}

static void add_json(job *j, const char *isa, const tb_verify_report *r)
{
    tb_json *o = &j->json;
    tb_json_open(o, '{');
    tb_json_put_str(o, "isa", isa);
    tb_json_put_num(o, "difference", r->difference);
    tb_json_put_num(o, "limit", r->limit);
    tb_json_put_int(o, "culprit", r->culprit);
    tb_json_put_str(o, "culprit_pass", r->culprit_pass);
    tb_json_put_str(o, "culprit_change", r->culprit ? tb_text_str(&r->culprit_change) : NULL);
    tb_json_key(o, "groups"), tb_json_open(o, '[');
    for (int i = 0; i < r->n_groups; i++) {
        const tb_verify_group *g = &r->groups[i];
        tb_json_open(o, '{');
        tb_json_put_int(o, "node", g->node);
        tb_json_put_str(o, "op", g->op);
        tb_json_put_str(o, "kernel", g->kernel);
        tb_json_put_num(o, "max_abs", g->max_abs);
        tb_json_put_num(o, "of_allowed", g->worst);
        tb_json_put_num(o, "sqnr_db", g->sqnr_db);
        tb_json_close(o, '}');
    }
    tb_json_close(o, ']');
    tb_json_close(o, '}');
}

/* ---- the model, on its test rows ---- */
static tb_status verify_model(job *j, tb_isa isa)
{
    tb_verify_report r;
    const void *rows = tb_dataset_part(j->data, TB_SPLIT_TEST)->bytes;
    tb_status st = take_parity(j, tb_verify_graph(j->graph, &j->opts, j->ctx, isa, &j->rows, &rows, &r));
    if (st == TB_OK && j->is_json) add_json(j, tb_isa_name(isa), &r);
    if (st == TB_OK && !j->is_json) {
        printf("%-10s outputs differ by %.3g of the largest (limit %.3g); %d of %d nodes as their references\n",
               tb_isa_name(isa), r.difference, r.limit, r.n_groups - r.n_wrong, r.n_groups);
        printf("       op                           kernel                       difference  allowed  SQNR dB\n");
        print_groups(&r);
    }
    tb_verify_report_free(&r);
    return st;
}

/* ---- random graphs: compiled with the bits of the captured ones ---- */
static tb_status verify_random(job *j, tb_isa isa, uint64_t seed)
{
    float x[33 * TB_RANDOM_GRAPH_WIDTH];
    const void *in = x;
    int64_t n = (int64_t[]){1, 2, 7, 33, 0}[seed % 5];
    tb_verify_report r;
    tb_graph *g;
    tb_compile_opts strict = {.strict = true};
    for (int64_t i = 0; i < 33 * TB_RANDOM_GRAPH_WIDTH; i++) x[i] = (float)tb_random_normal(seed, 1, (uint64_t)i);
    TB_TRY(tb_random_graph(seed, &g));
    tb_status st = tb_verify_graph(g, &strict, j->ctx, isa, &n, &in, &r);
    if (st == TB_ERR_PARITY)
        tb_error_add("random graph %llu at N = %lld, %s", (unsigned long long)seed, (long long)n, tb_isa_name(isa));
    tb_verify_report_free(&r);
    tb_graph_free(g);
    return take_parity(j, st);
}

static tb_status open_model(job *j)
{
    TB_TRY(tb_deploy_open(j->checkpoint, &j->model));
    TB_TRY(tb_deploy_data(j->model, &j->data_name, &j->data));
    if (j->rows > tb_dataset_part(j->data, TB_SPLIT_TEST)->rows)
        return TB_FAIL(TB_ERR_INVALID, "tb verify: --rows %lld, but '%s' has %lld test rows", (long long)j->rows,
                       j->data_name, (long long)tb_dataset_part(j->data, TB_SPLIT_TEST)->rows);
    return tb_deploy_capture(j->model, j->data, j->context, "model", &j->graph);
}

static tb_status verify(job *j)
{
    TB_TRY(tb_ctx_create(&(tb_ctx_config){.threads = 1, .seed = 1}, &j->ctx));
    tb_ctx_enter(j->ctx);
    tb_isa best = tb_ctx_isa(j->ctx);
    if (j->checkpoint) TB_TRY(open_model(j));
    if (j->is_json) {
        j->json.to = &j->text;
        tb_json_open(&j->json, '{');
        tb_json_key(&j->json, "model"), tb_json_open(&j->json, '[');
    }
    for (int isa = (int)best; isa >= (int)TB_ISA_SCALAR; isa--) { /* a context's limit only goes down */
        if (j->checkpoint) TB_TRY(verify_model(j, (tb_isa)isa));
        for (int64_t seed = 0; seed < j->random; seed++) TB_TRY(verify_random(j, (tb_isa)isa, (uint64_t)seed));
    }
    if (j->is_json) {
        tb_json_close(&j->json, ']');
        tb_json_put_int(&j->json, "random_graphs", j->random);
        tb_json_put_bool(&j->json, "is_right", !j->is_wrong);
        tb_json_close(&j->json, '}');
        printf("%s\n", tb_text_str(&j->text));
    } else {
        if (j->random) printf("random     %lld graphs on every instruction set\n", (long long)j->random);
        printf("%s\n", j->is_wrong ? "WRONG" : "all right");
    }
    return TB_OK;
}

static tb_status read_numbers(const tb_args *args, job *j)
{
    TB_TRY(tb_args_int(args, "rows", 1, TB_DEPLOY_ROWS, &j->rows));
    TB_TRY(tb_args_int(args, "context", 1, TB_DEPLOY_ROWS, &j->context));
    TB_TRY(tb_args_int(args, "random", 0, INT32_MAX, &j->random));
    return j->checkpoint || j->random ? TB_OK
                                      : TB_FAIL(TB_ERR_INVALID, "tb verify: name a checkpoint, or --random N graphs");
}

static int run(const tb_args *args)
{
    job j = {.checkpoint = args->n_words ? args->words[0] : NULL,
             .data_name = tb_args_get(args, "data"),
             .rows = 2,
             .context = 128,
             .is_json = tb_args_has(args, "json"),
             .opts = {.fast = tb_args_has(args, "fast"), .strict = tb_args_has(args, "strict")}};
    tb_status st = read_numbers(args, &j);
    if (st == TB_OK) st = verify(&j);
    int code = st != TB_OK ? tb_report(stderr) : j.is_wrong ? 1 : 0;
    tb_graph_free(j.graph);
    tb_model_destroy(j.model);
    tb_dataset_close(j.data);
    tb_ctx_destroy(j.ctx);
    tb_text_free(&j.text);
    return code;
}

static const tb_option options[] = {
    {"data", 0, "NAME", "data set it was trained on; its test rows are run (fashion-mnist; of text models jargon)"},
    {"rows", 0, "N", "how many of them (2)"},
    {"context", 0, "T", "text models: bytes of a row (128)"},
    {"fast", 0, NULL, "with the passes of tb compile --fast"},
    {"strict", 0, NULL, "without passes that round differently; outputs must have the bits"},
    {"random", 0, "N", "also N random graphs, which must keep their bits"},
    {"json", 0, NULL, "as JSON"},
};

TB_VERB(verify, .group = TB_VERB_MODEL, .args = "[CHECKPOINT]", .min_args = 0, .max_args = 1,
        .doc = "Hold what the compiler makes of a model against the model, node by node",
        .help = "On every instruction set of this machine: outputs of the compiled graph against the captured\n"
                "one, and each of its nodes, on its real operands, against the op's reference. Where outputs are\n"
                "wrong, the passes' rewrites are bisected and the one to blame is named. Exit code 1: something is\n"
                "wrong.",
        .options = options, .n_options = sizeof options / sizeof options[0], .run = run);
