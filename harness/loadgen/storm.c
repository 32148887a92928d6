/* The cases, and the thread that sends them. One blocking connection each: a bad client is slow and rude, and
 * the load that is measured runs on other connections. */
#include "storm.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct tb_storm {
    int port;
    double rate;
    atomic_bool stop;
    pthread_t thread;
    tb_storm_result result;
};

#define POST               "POST /v1/predict HTTP/1.1\r\nHost: t\r\n"
#define WITH(length, body) POST "Content-Length: " #length "\r\n\r\n" body

/* Status 0: the client leaves before it could be answered. */
static const struct {
    const char *what, *text;
    int status;
} cases[] = {
    {"cut JSON", WITH(11, "{\"data\":[1,"), 400},
    {"wrong length of a row", WITH(16, "{\"data\":[1,2,3]}"), 400},
    {"not a number", WITH(14, "{\"data\":[NaN]}"), 400},
    {"text for numbers", WITH(12, "{\"data\":\"1\"}"), 400},
    {"deep nesting", WITH(20, "[[[[[[[[[[[[[[[[[[[["), 400},
    {"unknown member", WITH(7, "{\"x\":1}"), 400},
    {"no body length", POST "\r\n", 411},
    {"two lengths", POST "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400},
    {"length and chunks", POST "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"a body beyond the limit", POST "Content-Length: 900000000000\r\n\r\n", 413},
    {"unknown path", "GET /../../etc/passwd HTTP/1.1\r\nHost: t\r\n\r\n", 404},
    {"wrong method", "GET /v1/predict HTTP/1.1\r\nHost: t\r\n\r\n", 405},
    {"unknown model", "GET /v2/models/nope HTTP/1.1\r\nHost: t\r\n\r\n", 404},
    {"another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
    {"gone in the middle of a body", POST "Content-Length: 2000\r\n\r\n{\"data\":[1,2,3", 0},
    {"gone in the middle of a header", "POST /v1/pre", 0},
};
enum { CASES = sizeof cases / sizeof *cases };

static int ask(const tb_storm *s, int which)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)s->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 10}; /* a stalled machine is no wrong answer */
    struct linger reset = {.l_onoff = 1};
    char reply[512];
    int status = -1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    size_t n = strlen(cases[which].text);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 &&
        send(fd, cases[which].text, n, MSG_NOSIGNAL) == (ssize_t)n) {
        if (cases[which].status == 0) {
            status = 0;
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset); /* close with a reset */
        } else {
            ssize_t k = recv(fd, reply, sizeof reply - 1, 0);
            reply[k > 0 ? k : 0] = 0;
            if (sscanf(reply, "HTTP/1.%*d %d", &status) != 1) status = -1;
        }
    }
    close(fd);
    return status;
}

static void *blow(void *arg)
{
    tb_storm *s = arg;
    int64_t begin = tb_now_ns();
    while (!atomic_load(&s->stop)) {
        int which = (int)(s->result.sent % CASES), status = ask(s, which);
        if (status != cases[which].status && s->result.unexpected++ == 0)
            snprintf(s->result.example, sizeof s->result.example, "%s: status %d instead of %d",
                     cases[which].what, status, cases[which].status);
        s->result.sent++;
        int64_t ahead = begin + (int64_t)((double)s->result.sent / s->rate * 1e9) - tb_now_ns();
        if (ahead > 0) nanosleep(&(struct timespec){ahead / 1000000000, ahead % 1000000000}, NULL);
    }
    return NULL;
}

tb_status tb_storm_start(int port, double rate, tb_storm **out)
{
    tb_storm *s = *out = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    s->port = port;
    s->rate = rate;
    if (pthread_create(&s->thread, NULL, blow, s) == 0) return TB_OK;
    tb_free(s);
    *out = NULL;
    return TB_FAIL(TB_ERR_OOM, "storm: no thread");
}

void tb_storm_stop(tb_storm *s, tb_storm_result *out)
{
    *out = (tb_storm_result){0};
    if (!s) return;
    atomic_store(&s->stop, true);
    pthread_join(s->thread, NULL);
    *out = s->result;
    tb_free(s);
}
