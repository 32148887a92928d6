/* A server on loopback in a thread of the test, a repository folder for it, and a plain blocking client. */
#pragma once
#include "mlp_model.h"
#include "pair_model.h"
#include "step_model.h"
#include "tb_cpu.h"
#include "tb_serve.h"
#include "tb_test.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

/* What the opener makes of a version folder; one row is `in` floats. */
typedef struct live {
    tb_server *server;
    pthread_t thread;
    tb_status run_status;
    char run_message[200];
    int port;
    char dir[64];
    int in, hidden, out, max_batch;
    bool pair;       /* a model of two inputs; in, hidden, out are not used */
    int step_tokens; /* above 0: a model that steps, with this capacity */
    atomic_int delay_us, broken, destroyed, opened;
    atomic_int held, stopped; /* live_hold */
} live;

static inline tb_status live_open(void *arg, const char *dir, const char *name, const char *version,
                                  tb_serve_model **out)
{
    live *l = arg;
    (void)dir;
    if (l->pair) {
        *out = pair_make(l->max_batch, &l->destroyed);
        if (!*out) return TB_FAIL(TB_ERR_OOM, "no memory");
        atomic_fetch_add(&l->opened, 1);
        return TB_OK;
    }
    if (l->step_tokens) {
        step_model *s = step_make(name, version, l->step_tokens, l->max_batch);
        if (!s) return TB_FAIL(TB_ERR_OOM, "no memory");
        s->delay_us = atomic_load(&l->delay_us);
        s->destroyed = &l->destroyed;
        atomic_fetch_add(&l->opened, 1);
        *out = &s->base;
        return TB_OK;
    }
    mlp *m = mlp_make(name, version, l->in, l->hidden, l->out, l->max_batch);
    if (!m) return TB_FAIL(TB_ERR_OOM, "no memory");
    m->delay_us = atomic_load(&l->delay_us);
    m->broken = atomic_load(&l->broken);
    m->destroyed = &l->destroyed;
    m->held = &l->held;
    m->stopped = &l->stopped;
    atomic_fetch_add(&l->opened, 1);
    *out = &m->base;
    return TB_OK;
}

static inline void *live_run(void *arg)
{
    live *l = arg;
    l->run_status = tb_server_run(l->server);
    snprintf(l->run_message, sizeof l->run_message, "%s", tb_error_message());
    return NULL;
}

static inline void live_add_version(live *l, const char *name, const char *version)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", l->dir, name);
    (void)mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/%s/%s", l->dir, name, version);
    assert_int_equal(mkdir(path, 0700), 0);
}

/* ---- client ---- */

static inline int dial(const live *l)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)l->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct timeval limit = {.tv_sec = 10};
    assert_true(fd >= 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

/* False when the peer closed before everything was taken. */
static inline bool send_all(int fd, const void *data, size_t n)
{
    const char *p = data;
    while (n > 0) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

typedef struct reply {
    int status;     /* 0: the connection ended without a reply */
    char head[4096];
    char *body;     /* zero-terminated; lives in `buffer` */
    size_t body_bytes;
    char buffer[1 << 16];
} reply;

static inline const char *reply_header(const reply *r, const char *name)
{
    static _Thread_local char value[256]; /* clients are threads */
    char key[80];
    snprintf(key, sizeof key, "\r\n%s: ", name);
    const char *at = strcasestr(r->head, key);
    if (!at) return NULL;
    at += strlen(key);
    snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\r"), at);
    return value;
}

/* Reads exactly one reply, byte-exact, so that pipelined ones stay in the socket. */
static inline int read_reply_to(int fd, reply *r, bool head)
{
    size_t n = 0;
    r->status = 0;
    r->body = r->buffer;
    r->body_bytes = 0;
    r->head[0] = r->buffer[0] = 0;
    while (n < sizeof r->head - 1) {
        if (recv(fd, r->head + n, 1, 0) != 1) return 0;
        r->head[++n] = 0;
        if (n >= 4 && memcmp(r->head + n - 4, "\r\n\r\n", 4) == 0) break;
    }
    sscanf(r->head, "HTTP/1.%*d %d", &r->status);
    const char *length = reply_header(r, "Content-Length");
    size_t want = length && !head ? (size_t)atoll(length) : 0;
    assert_true(want < sizeof r->buffer);
    while (r->body_bytes < want) {
        ssize_t k = recv(fd, r->buffer + r->body_bytes, want - r->body_bytes, 0);
        if (k <= 0) break;
        r->body_bytes += (size_t)k;
    }
    r->buffer[r->body_bytes] = 0;
    return r->status;
}

static inline int read_reply(int fd, reply *r) { return read_reply_to(fd, r, false); }

/* Whatever still comes, the end comes too. */
static inline bool peer_closed(int fd)
{
    char rest[4096];
    ssize_t n;
    while ((n = recv(fd, rest, sizeof rest, 0)) > 0) {}
    return n == 0 || errno == ECONNRESET;
}

static inline int request(int fd, reply *r, const char *method, const char *path, const char *headers,
                          const void *body, size_t n)
{
    char head[2048];
    int k = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: test\r\n%sContent-Length: %zu\r\n\r\n",
                     method, path, headers, n);
    if (!send_all(fd, head, (size_t)k)) return r->status = 0;
    if (n && !send_all(fd, body, n)) {} /* a refusal may come before the end of the body */
    return read_reply_to(fd, r, strcmp(method, "HEAD") == 0);
}

/* One request on a connection of its own. */
static inline int fetch(const live *l, reply *r, const char *method, const char *path, const char *headers,
                        const void *body, size_t n)
{
    int fd = dial(l);
    int status = request(fd, r, method, path, headers, body, n);
    close(fd);
    return status;
}

static inline int get(const live *l, reply *r, const char *path)
{
    return fetch(l, r, "GET", path, "", NULL, 0);
}
static inline int post(const live *l, reply *r, const char *path, const char *body)
{
    return fetch(l, r, "POST", path, "", body, strlen(body));
}

/* The value of `key` in a flat JSON text, as a number; -1 when absent. */
static inline double json_field(const char *json, const char *key)
{
    char quoted[80];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(json, quoted);
    return at ? strtod(at + strlen(quoted), NULL) : -1;
}

static inline bool has_code(const reply *r, const char *code)
{
    char want[80];
    snprintf(want, sizeof want, "\"code\":\"%s\"", code);
    return strstr(r->body, want) != NULL;
}

/* The engine's requests for memory so far, read over the given connection. */
static inline uint64_t allocations(int fd, reply *r)
{
    assert_int_equal(request(fd, r, "GET", "/metrics", "", NULL, 0), 200);
    const char *at = strstr(r->body, "\ntensorbrain_allocations_total ");
    assert_non_null(at);
    return strtoull(at + strlen("\ntensorbrain_allocations_total "), NULL, 10);
}

/* After whatever came: a connection of its own gets its answer. */
static inline void check_well(const live *l, const char *after)
{
    static reply r;
    if (post(l, &r, "/v1/predict", "{\"data\":[1,2,3,4]}") != 200) fail_msg("after %s: %d %s", after, r.status, r.body);
}

/* ---- life ---- */

static inline void wait_ready(const live *l)
{
    static reply r;
    for (int i = 0; i < 1000; i++) {
        if (get(l, &r, "/v2/health/ready") == 200) return;
        usleep(5000);
    }
    fail_msg("the server did not become ready: %s", r.body);
}

/* Until /metrics has this line; what a test waits for is seen, not slept for. */
static inline void await_metric(const live *l, const char *line)
{
    static reply r;
    char want[128];
    snprintf(want, sizeof want, "\ntensorbrain_%s\n", line);
    for (int i = 0; i < 2000; i++) {
        if (get(l, &r, "/metrics") == 200 && strstr(r.body, want)) return;
        usleep(5000);
    }
    fail_msg("no line '%s' in the metrics:\n%s", line, r.body);
}

static inline void await_queue(const live *l, int rows)
{
    char line[64];
    snprintf(line, sizeof line, "queue_rows{model=\"mlp\"} %d", rows);
    await_metric(l, line);
}

/* From here on the model's runs wait, until live_release. */
static inline void live_hold(live *l) { atomic_store(&l->held, 1); }
static inline void live_release(live *l) { atomic_store(&l->held, 0); }

static inline void await_stopped(const live *l) /* a run that waits */
{
    for (int i = 0; i < 10000 && atomic_load(&l->stopped) == 0; i++) usleep(1000);
    assert_true(atomic_load(&l->stopped) > 0);
}

static inline void live_start_with(live *l, tb_serve_config *config)
{
    if (!l->in) l->in = 4, l->hidden = 8, l->out = 3;
    if (!l->max_batch) l->max_batch = 8;
    if (!l->dir[0]) {
        snprintf(l->dir, sizeof l->dir, "/tmp/tb_serve_XXXXXX");
        assert_non_null(mkdtemp(l->dir));
        live_add_version(l, "mlp", "1");
    }
    config->repository = l->dir;
    if (!config->open) config->open = live_open, config->open_arg = l;
    assert_ok(tb_server_create(config, &l->server));
    l->port = tb_server_port(l->server);
    assert_int_equal(pthread_create(&l->thread, NULL, live_run, l), 0);
}

static inline void live_start(live *l)
{
    tb_serve_config config = {.limits = {.drain_delay_ms = 1}};
    live_start_with(l, &config);
    wait_ready(l);
}

static inline tb_status live_join(live *l)
{
    pthread_join(l->thread, NULL);
    tb_server_destroy(l->server);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", l->dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(atomic_load(&l->destroyed), atomic_load(&l->opened)); /* every model was closed */
    return l->run_status;
}

static inline void live_stop(live *l)
{
    tb_server_drain(l->server);
    if (live_join(l) != TB_OK) fail_msg("draining: %s", l->run_message);
}

/* A server that all tests of a program share. */
static live server;

static inline int server_setup(void **state)
{
    (void)state;
    live_start(&server);
    return 0;
}

static inline int server_teardown(void **state)
{
    (void)state;
    live_stop(&server);
    return 0;
}

/* What the model answers to one row, computed here. */
static inline void live_expect(const live *l, const char *version, const float *x, float *y)
{
    mlp *m = mlp_make("expect", version, l->in, l->hidden, l->out, 1);
    mlp_row(m, x, y);
    m->base.destroy(&m->base);
}
