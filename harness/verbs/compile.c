/* tb compile: a checkpoint becomes a deploy artefact. */
#include "deploy.h"
#include "tb_alloc.h"
#include "tb_artefact.h"
#include "tb_hash.h"
#include "tb_pass.h"
#include "tb_verb.h"

typedef struct job {
    const char *checkpoint, *out, *data_name, *name, *dump_dir;
    int64_t max_batch, context, max_rewrites;
    bool why, no_fusion, fast, generate;
    tb_ctx *ctx;
    tb_dataset *data;
    tb_model *model;
    tb_graph *graph;
    tb_artefact *artefact;
    tb_session *session;
} job;

static void print_report(const tb_compile_report *r, int captured)
{
    printf("captured   %4d nodes\n", captured);
    for (int i = 0; i < r->n_passes; i++)
        printf("%-10s %4d nodes, %lld rewrites\n", r->pass[i].pass, r->pass[i].nodes_after,
               (long long)r->pass[i].rewrites);
}

static tb_status compile(job *j)
{
    tb_compile_report report;
    tb_text why = {0};
    TB_TRY(tb_deploy_open(j->checkpoint, &j->model));
    TB_TRY(tb_deploy_data(j->model, &j->data_name, &j->data));
    TB_TRY(j->generate ? tb_deploy_capture_step(j->model, j->context, j->name, &j->graph)
                       : tb_deploy_capture(j->model, j->data, j->context, j->name, &j->graph));
    int captured = j->graph->n_nodes;
    tb_status st = tb_compile(j->graph,
                              &(tb_compile_opts){.why = j->why ? &why : NULL,
                                                 .dump_dir = j->dump_dir,
                                                 .no_fusion = j->no_fusion,
                                                 .fast = j->fast,
                                                 .max_rewrites = j->max_rewrites},
                              &report);
    if (st == TB_OK) print_report(&report, captured);
    if (st == TB_OK && j->why) printf("%s", tb_text_str(&why));
    tb_text_free(&why);
    return st;
}

static tb_status save(job *j)
{
    char sha[TB_SHA256_HEX], accuracy[32] = "";
    tb_artefact_info info = {.max_batch = j->max_batch};
    const char *facts[16];
    snprintf(info.name, sizeof info.name, "%s", j->name);
    info.labels = tb_deploy_labels(j->data, &info.n_labels);
    info.vocabulary = tb_deploy_vocabulary(j->data);
    TB_TRY(tb_sha256_of_file(j->checkpoint, sha));
    facts[0] = "model", facts[1] = tb_model_spec(j->model);
    facts[2] = "checkpoint/sha256", facts[3] = sha;
    facts[4] = "data", facts[5] = j->data_name;
    facts[6] = "data/train/sha256", facts[7] = tb_dataset_part(j->data, TB_SPLIT_TRAIN)->sha256;
    info.n_facts = 4;
    info.facts = facts;
    TB_TRY(tb_artefact_save(j->graph, &info, j->generate ? 2 : 16, j->out)); /* a row of a step holds its caches */
    TB_TRY(tb_artefact_load(j->out, &j->artefact));
    TB_TRY(tb_session_create(tb_artefact_exec(j->artefact), j->ctx, &j->session));
    TB_TRY(tb_artefact_check(j->artefact, j->session));
    int64_t n = j->max_batch;
    tb_plan_stats plan;
    TB_TRY(tb_session_plan_stats(j->session, &n, &plan));
    printf("plan       %.1f KiB at N = %lld (naive %.1f, bound %.1f)\n", (double)plan.planned_bytes / 1024,
           (long long)n, (double)plan.naive_bytes / 1024, (double)plan.bound_bytes / 1024);
    if (tb_dataset_kind(j->data) == TB_DATA_IMAGES) {
        double share;
        TB_TRY(tb_deploy_accuracy(j->session, j->data, j->max_batch, NULL, &share));
        snprintf(accuracy, sizeof accuracy, "%.4f", share);
        printf("accuracy   %s on %lld test images\n", accuracy,
               (long long)tb_dataset_part(j->data, TB_SPLIT_TEST)->rows);
    }
    printf("wrote      %s (self-check passed)\n", j->out);
    return TB_OK;
}

static void job_free(job *j)
{
    tb_session_free(j->session);
    tb_artefact_free(j->artefact);
    tb_graph_free(j->graph);
    tb_model_destroy(j->model);
    tb_dataset_close(j->data);
    tb_ctx_destroy(j->ctx);
}

static tb_status read_numbers(const tb_args *args, job *j)
{
    TB_TRY(tb_args_int(args, "max-batch", 1, TB_DEPLOY_ROWS, &j->max_batch));
    TB_TRY(tb_args_int(args, "max-rewrites", 0, INT32_MAX, &j->max_rewrites));
    return tb_args_int(args, "context", 1, TB_DEPLOY_ROWS, &j->context);
}

static int run(const tb_args *args)
{
    job j = {.checkpoint = args->words[0],
             .out = tb_args_get(args, "out"),
             .data_name = tb_args_get(args, "data"),
             .name = tb_args_get(args, "name"),
             .max_batch = tb_args_has(args, "generate") ? 16 : 64,
             .context = 128,
             .why = tb_args_has(args, "why"),
             .dump_dir = tb_args_get(args, "dump-after"),
             .no_fusion = tb_args_has(args, "no-fusion"),
             .fast = tb_args_has(args, "fast"),
             .generate = tb_args_has(args, "generate")};
    if (!j.out) {
        (void)TB_FAIL(TB_ERR_INVALID, "tb compile: where to? --out DIR names the folder that is written");
        return tb_report(stderr);
    }
    if (!j.name) j.name = "model";
    if (read_numbers(args, &j) != TB_OK || tb_deploy_check_name(j.name) != TB_OK) return tb_report(stderr);
    tb_status st = tb_ctx_create(&(tb_ctx_config){.threads = 1, .seed = 1}, &j.ctx);
    if (st == TB_OK) {
        tb_ctx_enter(j.ctx);
        st = compile(&j);
    }
    if (st == TB_OK) st = save(&j);
    int code = st == TB_OK ? 0 : tb_report(stderr);
    job_free(&j);
    return code;
}

static const tb_option options[] = {
    {"out", 0, "DIR", "folder of the artefact (made if missing)"},
    {"data", 0, "NAME",
     "data set it was trained on: preprocessing and accuracy (fashion-mnist; of text models jargon)"},
    {"name", 0, "NAME", "the model's name (model)"},
    {"max-batch", 0, "N", "largest batch it will be run with (64; with --generate 16)"},
    {"context", 0, "T", "text models: tokens of a row (128)"},
    {"generate", 0, NULL, "a text model's single step with its caches: tb serve then generates with it"},
    {"why", 0, NULL, "list every edge that was not fused, with the reason"},
    {"no-fusion", 0, NULL, "graph passes only"},
    {"max-rewrites", 0, "N", "stop the passes after N rewrites (0: no limit)"},
    {"fast", 0, NULL, "also convolve by minimal filtering: rounds otherwise than eager execution"},
    {"dump-after", 0, "DIR", "write the graph's text after every pass"},
};

TB_VERB(compile, .group = TB_VERB_MODEL, .args = "CHECKPOINT", .min_args = 1, .max_args = 1,
        .doc = "Make a deploy artefact of a trained model: graph, weights, self-check",
        .help = "The artefact runs without any training code: tb serve --repo DIR serves DIR/<name>/<version>/.",
        .options = options, .n_options = sizeof options / sizeof options[0], .run = run);
