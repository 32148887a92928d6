/* tb serve: the models of a folder over HTTP. */
#include "deploy.h"
#include "tb_alloc.h"
#include "tb_file.h"
#include "tb_serve.h"
#include "tb_serve_artefact.h"
#include "tb_verb.h"
#include <glob.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_ROOM = 256 };

static tb_server *serving; /* for the handler: the one thing that a signal may reach */

static void on_signal(int signal)
{
    (void)signal;
    tb_server_drain(serving);
}

static tb_status number(const tb_args *args, const char *name, long least, long most, int *out)
{
    int64_t v = *out;
    TB_TRY(tb_args_int(args, name, least, most, &v));
    *out = (int)v;
    return TB_OK;
}

static tb_status mode_of(const tb_args *args, tb_serve_mode *out)
{
    static const char *const names[] = {"auto", "loop", "worker"};
    const char *text = tb_args_get(args, "mode");
    for (int i = 0; i < 3; i++)
        if (!text || strcmp(text, names[i]) == 0) {
            *out = (tb_serve_mode)i;
            return TB_OK;
        }
    return TB_FAIL(TB_ERR_CONFIG, "tb serve: --mode is auto, loop or worker, not '%s'", text);
}

/* From a file or the environment: a command line can be read by everybody on the machine. */
static tb_status read_key(const tb_args *args, char key[KEY_ROOM])
{
    const char *path = tb_args_get(args, "key-file"), *given = getenv("TB_SERVE_KEY");
    if (!path) {
        snprintf(key, KEY_ROOM, "%s", given ? given : "");
        return !given || strlen(given) < KEY_ROOM
                   ? TB_OK
                   : TB_FAIL(TB_ERR_CONFIG, "tb serve: TB_SERVE_KEY has more than %d bytes", KEY_ROOM - 1);
    }
    uint8_t *data;
    size_t bytes, n = 0;
    TB_TRY(tb_file_read(path, NULL, &data, &bytes));
    while (n < bytes && data[n] != '\r' && data[n] != '\n') n++;
    snprintf(key, KEY_ROOM, "%.*s", (int)(n < KEY_ROOM ? n : 0), (const char *)data);
    tb_free(data);
    if (!n) return TB_FAIL(TB_ERR_CONFIG, "tb serve: %s holds no key", path);
    return strlen(key) == n
               ? TB_OK
               : TB_FAIL(TB_ERR_CONFIG, "tb serve: the key in %s has more than %d bytes, or a NUL", path, KEY_ROOM - 1);
}

/* A server without models answers, but nobody who starts one means it. */
static tb_status holds_models(const char *repository)
{
    char *artefact = tb_asprintf("%s/model.yaml", repository), *versions = tb_asprintf("%s/*/[1-9]*", repository);
    glob_t found = {0};
    tb_status st = artefact && versions ? TB_OK : TB_ERR_OOM;
    if (st == TB_OK && access(artefact, F_OK) == 0)
        st = TB_FAIL(TB_ERR_CONFIG,
                     "tb serve: %s is itself a model; --repo takes the DIR of DIR/<name>/<version>/ that holds it",
                     repository);
    else if (st == TB_OK && access(repository, F_OK) == 0 && glob(versions, GLOB_ONLYDIR, NULL, &found) == GLOB_NOMATCH)
        st = TB_FAIL(TB_ERR_CONFIG,
                     "tb serve: no model in %s; they are folders DIR/<name>/<version>/ (a number from 1 on)",
                     repository);
    globfree(&found);
    tb_free(artefact);
    tb_free(versions);
    return st;
}

static tb_status configure(const tb_args *args, tb_serve_config *c, char key[KEY_ROOM])
{
    static const long most = 100000000;
    tb_serve_limits *l = &c->limits;
    c->repository = tb_args_get(args, "repo");
    c->bind = tb_args_get(args, "bind");
    c->insecure = tb_args_has(args, "insecure");
    c->open = tb_serve_artefact_open;
    c->port = 8000;
    if (!c->repository)
        return TB_FAIL(TB_ERR_CONFIG,
                       "tb serve: --repo DIR says where the models are: DIR/<name>/<version>/");
    TB_TRY(mode_of(args, &c->mode));
    TB_TRY(number(args, "port", 0, 65535, &c->port));
    TB_TRY(number(args, "workers", 1, 1024, &c->workers));
    TB_TRY(number(args, "spin-us", 0, most, &c->spin_us));
    if (tb_args_get(args, "spin-us") && c->spin_us == 0) c->spin_us = -1;
    TB_TRY(number(args, "connections", 1, most, &l->connections));
    TB_TRY(number(args, "requests-per-connection", 1, most, &l->requests_per_connection));
    TB_TRY(number(args, "queue-rows", 1, most, &l->queue_rows));
    TB_TRY(number(args, "quota", 1, most, &l->quota_per_s));
    TB_TRY(number(args, "timeout-ms", 1, most, &l->max_timeout_ms));
    TB_TRY(number(args, "drain-ms", 0, most, &l->drain_ms));
    TB_TRY(read_key(args, key));
    TB_TRY(holds_models(c->repository));
    c->api_key = *key ? key : NULL;
    return TB_OK;
}

/* Test images for the page; without the data set the page only lets people draw. */
static tb_dataset *page_samples(tb_serve_samples *out)
{
    enum { SHOWN = 200 };
    tb_dataset *data = NULL;
    if (tb_dataset_open("fashion-mnist", &data) != TB_OK) return NULL;
    const tb_data_part *test = tb_dataset_part(data, TB_SPLIT_TEST);
    *out = (tb_serve_samples){.n = test->rows < SHOWN ? (int)test->rows : SHOWN,
                              .rows = (int)tb_dataset_height(data),
                              .cols = (int)tb_dataset_width(data),
                              .pixels = test->bytes,
                              .labels = test->labels};
    out->class_names = tb_deploy_labels(data, &out->n_classes);
    return data;
}

static int run(const tb_args *args)
{
    tb_serve_config config = {0};
    tb_serve_samples samples;
    char key[KEY_ROOM];
    if (configure(args, &config, key) != TB_OK) return tb_report(stderr);
    tb_dataset *data = page_samples(&samples);
    config.samples = data ? &samples : NULL;
    tb_server *server;
    tb_status st = tb_server_create(&config, &server);
    if (st == TB_OK) {
        struct sigaction action = {.sa_handler = on_signal};
        serving = server;
        sigaction(SIGTERM, &action, NULL);
        sigaction(SIGINT, &action, NULL);
        printf("http://%s:%d/  serving %s; Ctrl-C drains\n", config.bind ? config.bind : "127.0.0.1",
               tb_server_port(server), config.repository);
        fflush(stdout);
        st = tb_server_run(server);
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        tb_server_destroy(server);
    }
    int code = st == TB_OK ? 0 : tb_report(stderr);
    tb_dataset_close(data);
    return code;
}

static const tb_option options[] = {
    {"repo", 0, "DIR", "model repository: DIR/<name>/<version>/ as tb compile and tb quantize write them"},
    {"port", 'p', "N", "port (8000); 0 takes a free one"},
    {"bind", 0, "ADDRESS", "IPv4 address (127.0.0.1); others want a key"},
    {"key-file", 0, "FILE", "first line is the API key (or the environment's TB_SERVE_KEY)"},
    {"insecure", 0, NULL, "no key although other machines can reach the address"},
    {"mode", 0, "MODE", "auto (by measured times), loop or worker"},
    {"workers", 0, "N", "worker threads of a slow model (1)"},
    {"spin-us", 0, "N", "after the last request poll this long before sleeping (4000; 0: never)"},
    {"connections", 0, "N", "at once (512)"},
    {"requests-per-connection", 0, "N", "then it is closed (1000)"},
    {"queue-rows", 0, "N", "waiting rows of a model (4 times its largest batch)"},
    {"quota", 0, "N", "inferences a second, above that 429 (none)"},
    {"timeout-ms", 0, "N", "longest time a request may take (60000)"},
    {"drain-ms", 0, "N", "after SIGTERM, for what is open (10000)"},
};

TB_VERB(serve, .group = TB_VERB_MODEL, .args = "", .min_args = 0, .max_args = 0,
        .doc = "Serve models over HTTP: Open Inference Protocol v2, a page, metrics",
        .help = "Endpoints: engine/serve/README.md. SIGTERM (or Ctrl-C) drains: not ready, every reply "
                "closes its connection,\n"
                "then what is open is answered; a second one ends at once.",
        .options = options, .n_options = sizeof options / sizeof options[0], .run = run);
