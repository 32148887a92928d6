/* Starting, disturbing and ending the server under test. */
#include "serving.h"
#include "target.h"
#include "peer.h"
#include "tb_alloc.h"
#include "tb_load.h"
#include "tb_serve_artefact.h"
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct tb_serving {
    tb_serving_config config;
    tb_server *server;
    pthread_t thread;
    bool is_running;
    tb_status status; /* of tb_server_run, when it has ended */
    char message[256];
    char repository[64];
    tb_peer *peer;
    tb_echo *echo;
    int port;
};

static void *serve(void *arg)
{
    tb_serving *s = arg;
    s->status = tb_server_run(s->server);
    if (s->status != TB_OK) snprintf(s->message, sizeof s->message, "%s", tb_error_message());
    return NULL;
}

static tb_status write_repository(tb_serving *s)
{
    char dir[128];
    snprintf(s->repository, sizeof s->repository, "/tmp/tb-serve-XXXXXX");
    if (!mkdtemp(s->repository)) return TB_FAIL(TB_ERR_IO, "cannot make a folder for the model in /tmp");
    snprintf(dir, sizeof dir, "%s/model/1", s->repository);
    return tb_arms_export(s->config.arms, s->config.arm, "model", s->config.max_batch, dir);
}

static void remove_repository(const tb_serving *s)
{
    static const char *const files[] = {
        "1/graph.tbir", "1/weights.safetensors", "1/golden.safetensors", "1/model.yaml", "1", ""};
    char path[192];
    if (!s->repository[0]) return;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/model/%s", s->repository, files[i]);
        remove(path);
    }
    remove(s->repository);
}

static tb_status request(const tb_serving *s, const char *method, const char *path)
{
    tb_target at = {.host = "127.0.0.1", .port = s->port};
    char *body;
    TB_TRY(tb_target_get(&at, method, path, &body));
    tb_free(body);
    return TB_OK;
}

/* Models load in the background. */
static tb_status wait_until_ready(const tb_serving *s)
{
    for (int i = 0; i < 500; i++) {
        if (request(s, "GET", "/v2/health/ready") == TB_OK) return TB_OK;
        tb_error_clear();
        usleep(20000);
    }
    return TB_FAIL(TB_ERR_TIMEOUT, "the server was not ready within 10 s");
}

static tb_status start_ours(tb_serving *s)
{
    tb_serve_config c = {
        .repository = s->repository, .open = tb_serve_artefact_open, .limits = s->config.limits};
    TB_TRY(tb_server_create(&c, &s->server));
    s->port = tb_server_port(s->server);
    if (pthread_create(&s->thread, NULL, serve, s) != 0)
        return TB_FAIL(TB_ERR_OOM, "cannot start the server's thread");
    s->is_running = true;
    return wait_until_ready(s);
}

/* The peer inherits a socket that listens already: no port can be lost between two processes. */
static tb_status start_peer(tb_serving *s, char version[64])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    char number[16];
    const char *variant = s->config.server + strlen("fastapi-");
    char *args[] = {(char *)(uintptr_t)variant, number, NULL};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 1024) == 0 &&
              getsockname(fd, (struct sockaddr *)&at, &bytes) == 0;
    snprintf(number, sizeof number, "%d", fd);
    s->port = ntohs(at.sin_port);
    tb_status st = ok ? tb_peer_start("fastapi_predict.py", args, &s->peer, version)
                      : TB_FAIL(TB_ERR_IO, "no socket for the peer");
    if (fd >= 0) close(fd);
    return st;
}

tb_status tb_serving_start(const tb_serving_config *config, tb_serving **out, char version[64])
{
    tb_serving *s = *out = tb_calloc(1, sizeof *s);
    version[0] = 0;
    if (!s) return TB_ERR_OOM;
    s->config = *config;
    if (strcmp(config->server, "echo") == 0) {
        TB_TRY(tb_echo_start(&s->echo));
        s->port = tb_echo_port(s->echo);
        return TB_OK;
    }
    if (strcmp(config->server, "tensorbrain") != 0) return start_peer(s, version);
    TB_TRY(write_repository(s));
    return start_ours(s);
}

int tb_serving_port(const tb_serving *s) { return s->port; }

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    return clock_gettime(clock, &t) == 0 ? t.tv_sec * 1000000000LL + t.tv_nsec : 0;
}

static double metric(const char *text, const char *name)
{
    char key[96];
    snprintf(key, sizeof key, "\ntensorbrain_%s ", name);
    const char *at = strstr(text, key);
    return at ? strtod(at + strlen(key), NULL) : 0;
}

static tb_status read_metrics(const tb_serving *s, char **text)
{
    return tb_target_get(&(tb_target){.host = "127.0.0.1", .port = s->port}, "GET", "/metrics", text);
}

tb_status tb_serving_cpu_ns(const tb_serving *s, int64_t *ns)
{
    clockid_t clock;
    char *text;
    if (s->echo) {
        *ns = tb_echo_busy_ns(s->echo);
        return TB_OK;
    }
    if (s->peer) {
        *ns = clock_getcpuclockid(tb_peer_pid(s->peer), &clock) == 0 ? clock_ns(clock) : 0;
        return TB_OK;
    }
    TB_TRY(read_metrics(s, &text));
    double spun_s = metric(text, "spin_seconds_total");
    tb_free(text);
    *ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - clock_ns(CLOCK_THREAD_CPUTIME_ID) - (int64_t)(spun_s * 1e9);
    return TB_OK;
}

tb_status tb_serving_stage_us(const tb_serving *s, const char *stage, double *us)
{
    char *text, sum_of[64], count_of[64];
    snprintf(sum_of, sizeof sum_of, "stage_seconds_sum{stage=\"%s\"}", stage);
    snprintf(count_of, sizeof count_of, "stage_seconds_count{stage=\"%s\"}", stage);
    TB_TRY(read_metrics(s, &text));
    double count = metric(text, count_of);
    *us = metric(text, sum_of) * 1e6 / count;
    tb_free(text);
    return count > 0 ? TB_OK : TB_FAIL(TB_ERR_NOT_FOUND, "the server counts no answers by stage '%s'", stage);
}

tb_status tb_serving_row_us(const tb_serving *s, double *us)
{
    tb_target at = {.host = "127.0.0.1", .port = s->port};
    char *text;
    *us = INFINITY;
    TB_TRY(tb_target_get(&at, "GET", "/v2/models/model/config", &text));
    for (const char *p = text; (p = strstr(p, "{\"rows\":"));) {
        long long rows = 0, ns = 0;
        if (sscanf(p, "{\"rows\":%lld,\"ns\":%lld}", &rows, &ns) == 2 && rows > 0)
            *us = fmin(*us, (double)ns * 1e-3 / (double)rows);
        p++;
    }
    tb_free(text);
    return isfinite(*us) ? TB_OK : TB_FAIL(TB_ERR_NOT_FOUND, "the server tells no times of batches");
}

tb_status tb_serving_reload(tb_serving *s) { return request(s, "POST", "/v2/repository/models/model/load"); }

tb_status tb_serving_drain(tb_serving *s)
{
    tb_server_drain(s->server);
    return TB_OK;
}

static tb_status join(tb_serving *s)
{
    if (!s->is_running) return TB_OK;
    pthread_join(s->thread, NULL);
    s->is_running = false;
    tb_server_destroy(s->server);
    s->server = NULL;
    if (s->status != TB_OK) tb_error_set(s->status, s->message);
    return s->status;
}

tb_status tb_serving_restart(tb_serving *s)
{
    TB_TRY(join(s));
    return start_ours(s);
}

void tb_serving_stop(tb_serving *s)
{
    if (!s) return;
    if (s->is_running) {
        tb_server_drain(s->server);
        tb_server_drain(s->server); /* nothing is in flight: end at once */
        if (join(s) != TB_OK) tb_error_clear();
    }
    tb_server_destroy(s->server);
    tb_peer_stop(s->peer);
    tb_echo_stop(s->echo);
    remove_repository(s);
    tb_free(s);
}
