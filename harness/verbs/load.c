/* tb load: open-loop load against a server. */
#include "tb_alloc.h"
#include "target.h"
#include "tb_verb.h"
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    tb_target target;
    tb_load_config config;
    tb_load_schedule schedule;
    tb_slo slo;
    tb_load_form form;
    bool search, json;
} job;

static atomic_bool told_to_end;

/* What was measured by then is reported; a second signal ends at once. */
static void on_signal(int signal)
{
    (void)signal;
    atomic_store(&told_to_end, true);
}

static tb_status number(const tb_args *args, const char *name, double otherwise, double least, double *out)
{
    const char *text = tb_args_get(args, name);
    char *end;
    *out = otherwise;
    if (!text) return TB_OK;
    *out = strtod(text, &end);
    if (*end || end == text || !(*out >= least) || isinf(*out))
        return TB_FAIL(TB_ERR_CONFIG, "tb load: --%s takes a number of at least %g, not '%s'", name, least, text);
    return TB_OK;
}

static tb_status form_of(const tb_args *args, job *j)
{
    const char *text = tb_args_get(args, "form");
    bool predict = strcmp(j->target.path, "/v1/predict") == 0;
    static const char *const names[] = {"predict", "json", "binary"};
    j->form = predict ? TB_LOAD_PREDICT : TB_LOAD_JSON;
    for (int i = 0; text && i < 3; i++)
        if (strcmp(text, names[i]) == 0) j->form = (tb_load_form)i;
    if (text && strcmp(text, names[j->form]) != 0)
        return TB_FAIL(TB_ERR_CONFIG, "tb load: --form is predict, json or binary, not '%s'", text);
    if (j->form == TB_LOAD_PREDICT) snprintf(j->target.path, sizeof j->target.path, "/v1/predict");
    else snprintf(j->target.path, sizeof j->target.path, "/v2/models/%s/infer", j->target.model);
    return TB_OK;
}

static tb_status read_options(const tb_args *args, job *j)
{
    double v;
    const char *arrivals = tb_args_get(args, "arrivals"), *slo = tb_args_get(args, "slo");
    TB_TRY(tb_arrivals_parse(arrivals ? arrivals : "poisson", &j->schedule.kind));
    TB_TRY(number(args, "rate", 100, 1e-3, &j->schedule.rate));
    TB_TRY(number(args, "duration", 5, 1e-3, &j->schedule.duration_s));
    TB_TRY(number(args, "seed", 1, 0, &v));
    j->schedule.seed = (uint64_t)v;
    TB_TRY(number(args, "shape", 0, 0, &j->schedule.shape));
    TB_TRY(number(args, "connections", 64, 1, &v));
    j->config.connections = (int)v;
    j->schedule.file = tb_args_get(args, "replay");
    if (j->schedule.file) j->schedule.kind = TB_ARRIVALS_REPLAY;
    j->slo = (tb_slo){.quantile = 0.95, .limit_ms = 25};
    if (slo) TB_TRY(tb_slo_parse(slo, &j->slo));
    j->config.slo_ms = j->slo.limit_ms;
    j->config.keep_columns = tb_args_has(args, "columns");
    j->search = tb_args_has(args, "search");
    return TB_OK;
}

static tb_status prepare(const tb_args *args, job *j)
{
    const char *data = tb_args_get(args, "data"), *model = tb_args_get(args, "model");
    double n;
    TB_TRY(number(args, "samples", 1024, 1, &n));
    TB_TRY(tb_target_open(args->words[0], getenv("TB_SERVE_KEY"), &j->target));
    TB_TRY(form_of(args, j));
    TB_TRY(tb_target_samples(&j->target, data ? data : "random", (int)n, j->schedule.seed));
    if (model) TB_TRY(tb_target_answers(&j->target, model));
    j->config.host = j->target.host;
    j->config.port = j->target.port;
    return TB_OK;
}

static tb_status write_columns(const char *path, FILE *f, const tb_load_result *r)
{
    fprintf(f, "intended_ns,dispatch_ns,done_ns,status,batch,wrong\n");
    for (int64_t i = 0; i < r->n; i++) {
        const tb_load_column *c = &r->columns[i];
        fprintf(f, "%lld,%lld,%lld,%d,%d,%d\n", (long long)c->intended_ns, (long long)c->dispatch_ns,
                (long long)c->done_ns, c->status, c->batch, c->wrong);
    }
    if (fflush(f) == 0 && !ferror(f)) return TB_OK;
    return TB_FAIL(TB_ERR_IO, "tb load: '%s' is not complete (%s)", path, strerror(errno));
}

/* 1: wrong answers; 3: void, stopped early, or requests failed. Refusals (429, 503) are an answer. */
static int verdict(const tb_load_result *r)
{
    return r->wrong ? 1 : *r->void_reason || r->failed || r->n < r->planned ? 3 : 0;
}

static tb_status one_run(const tb_args *args, job *j, tb_load_requests *requests, int *code)
{
    tb_load_result *r;
    const char *path = tb_args_get(args, "columns");
    FILE *columns = path ? fopen(path, "w") : NULL; /* before the load: no run is lost to a bad path */
    if (path && !columns) return TB_FAIL(TB_ERR_IO, "tb load: cannot write '%s' (%s)", path, strerror(errno));
    tb_status st = tb_load_run(&j->config, &j->schedule, requests, &r);
    if (st != TB_OK) {
        if (columns) fclose(columns);
        return st;
    }
    if (columns) {
        st = write_columns(path, columns, r);
        fclose(columns);
    }
    if (j->json) {
        tb_text text = {0};
        tb_json to = {.to = &text, .pretty = true};
        tb_load_result_json(r, j->slo.limit_ms, &to);
        printf("%s\n", tb_text_str(&text));
        tb_text_free(&text);
    } else {
        tb_load_result_print(r, j->slo.limit_ms);
        if (!j->target.samples.answers)
            printf(
                "  answers were not compared: --model DIR or a file with 'output' gives the expected ones\n");
    }
    *code = verdict(r);
    tb_load_result_free(r);
    return st;
}

static void show_point(const tb_slo_point *p)
{
    printf("%10.0f/s  achieved %10.0f  p50 %8.3f ms  quantile %8.3f ms  %s%s\n", p->rate, p->achieved,
           p->p50_ms, p->quantile_ms, p->holds ? "holds" : "no: ", p->why);
    fflush(stdout);
}

static void print_search(const job *j, const tb_slo_result *r)
{
    if (!j->json && r->stopped) {
        printf("stopped before the search had a result\n");
        return;
    }
    if (!j->json) {
        printf("largest rate with p%g <= %g ms: %.0f/s (lowest of the confirming runs %.0f)%s\n",
               j->slo.quantile * 100, j->slo.limit_ms, r->rate, r->rate_min,
               r->generator_limited ? "; the generator was the limit, so this is a lower bound" : "");
        return;
    }
    tb_text text = {0};
    tb_json to = {.to = &text, .pretty = true};
    tb_json_open(&to, '{');
    tb_json_put_num(&to, "quantile", j->slo.quantile);
    tb_json_put_num(&to, "limit_ms", j->slo.limit_ms);
    tb_json_put_num(&to, "rate_per_s", r->rate);
    tb_json_put_num(&to, "rate_min_per_s", r->rate_min);
    tb_json_put_bool(&to, "generator_limited", r->generator_limited);
    tb_json_put_bool(&to, "stopped_early", r->stopped);
    tb_json_key(&to, "points");
    tb_json_open(&to, '[');
    for (int i = 0; i < r->n; i++) {
        tb_json_open(&to, '{');
        tb_json_put_num(&to, "rate_per_s", r->points[i].rate);
        tb_json_put_num(&to, "achieved_per_s", r->points[i].achieved);
        tb_json_put_num(&to, "quantile_ms", r->points[i].quantile_ms);
        tb_json_put_num(&to, "p50_ms", r->points[i].p50_ms);
        tb_json_put_bool(&to, "holds", r->points[i].holds);
        tb_json_put_str(&to, "why", r->points[i].why);
        tb_json_close(&to, '}');
    }
    tb_json_close(&to, ']');
    tb_json_close(&to, '}');
    printf("%s\n", tb_text_str(&text));
    tb_text_free(&text);
}

static tb_status search(job *j, tb_load_requests *requests, int *code)
{
    tb_slo_result r;
    j->slo.point_s = j->schedule.duration_s;
    j->slo.start_rate = j->schedule.rate;
    TB_TRY(tb_slo_search(&j->config, &j->schedule, requests, &j->slo, j->json ? NULL : show_point, &r));
    print_search(j, &r);
    *code = r.rate > 0 ? 0 : 3;
    return TB_OK;
}

static int self_test(const job *j)
{
    tb_load_ceiling c;
    if (tb_load_self_test(j->config.connections, j->schedule.rate, j->schedule.duration_s, &c) != TB_OK)
        return tb_report(stderr);
    if (j->json)
        printf("{\"closed_per_s\": %.1f, \"client_us\": %.3f, \"server_us\": %.3f, \"open_per_s\": %.1f, "
               "\"lag_p99_us\": %.1f, \"rate_per_s\": %.1f, \"p50_us\": %.1f, \"p95_us\": %.1f, \"open_valid\": %s}\n",
               c.closed_per_s, c.client_us, c.server_us, c.open_per_s, c.lag_p99_us, c.rate, c.p50_us, c.p95_us,
               c.open_valid ? "true" : "false");
    else
        printf("against a bare echo: %.0f/s closed loop, CPU %.1f us a request here, %.1f us there; open loop at "
               "%.0f/s p99 lag %.0f us, at %.0f/s latency p50 %.0f us, p95 %.0f us (%s)\n",
               c.closed_per_s, c.client_us, c.server_us, c.open_per_s, c.lag_p99_us, c.rate, c.p50_us, c.p95_us,
               c.open_valid ? "valid" : "void");
    return c.open_valid ? 0 : 3;
}

static int run(const tb_args *args)
{
    job j = {.json = tb_args_has(args, "json")};
    tb_load_requests *requests = NULL;
    int code = 0;
    if (read_options(args, &j) != TB_OK) return tb_report(stderr);
    if (tb_args_has(args, "self-test")) return self_test(&j);
    j.config.until = &told_to_end;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    tb_status st = args->n_words == 1 ? prepare(args, &j)
                                      : TB_FAIL(TB_ERR_CONFIG, "tb load: a URL or --self-test is wanted");
    if (st == TB_OK)
        st = tb_load_requests_make(&j.target.samples, j.form, j.target.host, j.target.path, j.target.api_key,
                                   &requests);
    if (st == TB_OK) st = j.search ? search(&j, requests, &code) : one_run(args, &j, requests, &code);
    if (st != TB_OK) code = tb_report(stderr);
    tb_load_requests_free(requests);
    tb_target_close(&j.target);
    return code;
}

static const tb_option options[] = {
    {"rate", 'r', "R", "arrivals a second (100); with --search the first rate tried"},
    {"duration", 'd', "S", "seconds of arrivals (5), of each run of a search"},
    {"arrivals", 0, "KIND", "poisson, constant, gamma, bursts, ramp, closed (poisson)"},
    {"replay", 0, "FILE", "arrival times in ns, one a line"},
    {"shape", 0, "K", "of gamma arrivals (0.5)"},
    {"seed", 0, "N", "of arrivals and random samples (1)"},
    {"connections", 'c', "N", "(64)"},
    {"form", 0, "FORM", "json, binary (Open Inference Protocol) or predict"},
    {"data", 0, "DATA", "fashion-mnist, FILE.safetensors with tensors input and output, or random"},
    {"samples", 0, "N", "distinct samples at most (1024)"},
    {"model", 0, "DIR", "deploy artefact: all answers are compared with its own, bit for bit"},
    {"slo", 0, "pQ:MS", "objective (p95:25)"},
    {"search", 0, NULL, "find the largest rate that holds the objective"},
    {"columns", 0, "FILE", "write every arrival as a line"},
    {"self-test", 0, NULL, "what this generator can do, against a bare echo"},
    {"json", 0, NULL, "as JSON"},
};

TB_VERB(load, .group = TB_VERB_MODEL, .args = "[URL]", .min_args = 0, .max_args = 1,
        .doc = "Open-loop load: latency from intended times, answers checked, void when it was late itself",
        .help =
            "URL is http://ADDRESS:PORT, .../v2/models/NAME or .../v1/predict. The API key is in TB_SERVE_KEY.\n"
            "Ctrl-C ends the arrivals and reports those made; a second one ends at once.\n"
            "Exit code 1: wrong answers; 3: void, stopped, or requests failed (refusals by 429 and 503 are answers).",
        .options = options, .n_options = sizeof options / sizeof options[0], .run = run);
