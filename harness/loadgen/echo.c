/* The generator against a bare epoll loop that answers every request with the same bytes: what the tool can
 * do. */
#include "tb_load.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST_VALUES = 784 };

struct tb_echo {
    int listen_fd, epoll_fd, port;
    atomic_bool stop;
    atomic_llong busy_ns;
    pthread_t thread;
    bool is_running;
    char buffer[1 << 16];
};

static const char answer[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"y\":[]}";

static void answer_one(tb_echo *e, int fd)
{
    if (fd == e->listen_fd) {
        int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = client};
        if (client >= 0) epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, client, &event);
        return;
    }
    ssize_t k = recv(fd, e->buffer, sizeof e->buffer, 0);
    if (k <= 0)
        close(fd);
    else if (e->buffer[k - 1] == '}')
        (void)!send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
}

static void *serve(void *arg)
{
    tb_echo *e = arg;
    struct epoll_event events[64];
    while (!atomic_load(&e->stop)) {
        int n = epoll_wait(e->epoll_fd, events, 64, 0);
        if (n <= 0) {
            sched_yield();
            continue;
        }
        int64_t begin = tb_now_ns();
        for (int i = 0; i < n; i++) answer_one(e, events[i].data.fd);
        atomic_fetch_add(&e->busy_ns, tb_now_ns() - begin);
    }
    return NULL;
}

tb_status tb_echo_start(tb_echo **out)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    tb_echo *e = *out = tb_calloc(1, sizeof *e);
    if (!e) return TB_ERR_OOM;
    e->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = e->listen_fd};
    bool ok = e->listen_fd >= 0 && e->epoll_fd >= 0 && bind(e->listen_fd, (struct sockaddr *)&at, sizeof at) == 0 &&
              listen(e->listen_fd, 1024) == 0 && getsockname(e->listen_fd, (struct sockaddr *)&at, &bytes) == 0 &&
              epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->listen_fd, &event) == 0;
    e->port = ntohs(at.sin_port);
    e->is_running = ok && pthread_create(&e->thread, NULL, serve, e) == 0;
    if (e->is_running) return TB_OK;
    tb_echo_stop(e);
    *out = NULL;
    return TB_FAIL(TB_ERR_IO, "load: the echo server did not start");
}

int tb_echo_port(const tb_echo *e) { return e->port; }

int64_t tb_echo_busy_ns(const tb_echo *e) { return atomic_load(&e->busy_ns); }

void tb_echo_stop(tb_echo *e)
{
    if (!e) return;
    atomic_store(&e->stop, true);
    if (e->is_running) pthread_join(e->thread, NULL);
    if (e->listen_fd >= 0) close(e->listen_fd);
    if (e->epoll_fd >= 0) close(e->epoll_fd);
    tb_free(e);
}

static tb_status open_loop(const tb_load_config *config, double rate, double seconds, tb_load_requests *requests,
                           tb_load_ceiling *out, tb_load_result **r)
{
    tb_load_schedule schedule = {.kind = TB_ARRIVALS_POISSON, .rate = rate, .duration_s = seconds, .seed = 1};
    TB_TRY(tb_load_run(config, &schedule, requests, r));
    out->open_valid &= !*(*r)->void_reason && (*r)->ok == (*r)->n;
    return TB_OK;
}

static tb_status measure(const tb_echo *e, tb_load_requests *requests, int connections, double rate, double seconds,
                         tb_load_ceiling *out)
{
    tb_load_result *r;
    tb_load_config config = {.host = "127.0.0.1", .port = e->port, .connections = connections};
    tb_load_schedule closed = {.kind = TB_ARRIVALS_CLOSED, .duration_s = seconds, .seed = 1};
    TB_TRY(tb_load_run(&config, &closed, requests, &r));
    out->closed_per_s = r->achieved_per_s;
    out->client_us = r->ok ? r->generator_cpu * r->wall_s / (double)r->ok * 1e6 : 0;
    out->server_us = r->ok ? (double)tb_echo_busy_ns(e) * 1e-3 / (double)r->ok : 0;
    tb_load_result_free(r);
    out->open_valid = true;
    out->open_per_s = out->closed_per_s / 2;
    TB_TRY(open_loop(&config, out->open_per_s, seconds, requests, out, &r));
    out->lag_p99_us = (double)tb_histogram_quantile(&r->lag, 0.99) * 1e-3;
    tb_load_result_free(r);
    out->rate = rate;
    TB_TRY(open_loop(&config, rate, seconds, requests, out, &r));
    out->p50_us = (double)tb_histogram_quantile(&r->latency, 0.5) * 1e-3;
    out->p95_us = (double)tb_histogram_quantile(&r->latency, 0.95) * 1e-3;
    tb_load_result_free(r);
    return TB_OK;
}

tb_status tb_load_self_test(int connections, double rate, double seconds, tb_load_ceiling *out)
{
    tb_status st;
    tb_echo *e = NULL;
    uint8_t row[REQUEST_VALUES] = {0};
    tb_load_samples samples = {
        .n = 1, .u8 = true, .elements = REQUEST_VALUES, .rank = 1, .shape = {REQUEST_VALUES}, .rows = row};
    tb_load_requests *requests = NULL;
    memset(out, 0, sizeof *out);
    TB_TRY(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &requests));
    TB_GO(tb_echo_start(&e));
    st = measure(e, requests, connections > 0 ? connections : 64, rate, seconds, out);
cleanup:
    tb_echo_stop(e);
    tb_load_requests_free(requests);
    return st;
}
