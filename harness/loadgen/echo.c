/* The generator against a bare epoll loop that answers every request with the same bytes: what the tool can
 * do. */
#include "tb_load.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_VALUES = 784, MOST_FDS = 4096 };

typedef struct echo {
    int listen_fd, epoll_fd, port;
    size_t request_bytes; /* every request is as long as the first: no parsing */
    atomic_bool stop;
    int64_t cpu_ns;
    pthread_t thread;
} echo;

static const char answer[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"y\":[]}";

static void *serve(void *arg)
{
    echo *e = arg;
    static _Thread_local size_t seen[MOST_FDS];
    static _Thread_local char buffer[1 << 16];
    struct epoll_event events[64];
    while (!atomic_load(&e->stop)) {
        int n = epoll_wait(e->epoll_fd, events, 64, 50);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == e->listen_fd) {
                int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (client < 0 || client >= MOST_FDS) continue;
                seen[client] = 0;
                epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, client,
                          &(struct epoll_event){.events = EPOLLIN, .data.fd = client});
                continue;
            }
            ssize_t k = recv(fd, buffer, sizeof buffer, 0);
            if (k <= 0) {
                close(fd);
                continue;
            }
            for (seen[fd] += (size_t)k; seen[fd] >= e->request_bytes; seen[fd] -= e->request_bytes)
                (void)!send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
        }
    }
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    e->cpu_ns = t.tv_sec * 1000000000LL + t.tv_nsec;
    return NULL;
}

static tb_status start(echo *e)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    e->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    bool ok = e->listen_fd >= 0 && e->epoll_fd >= 0 &&
              bind(e->listen_fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(e->listen_fd, 1024) == 0 &&
              getsockname(e->listen_fd, (struct sockaddr *)&at, &bytes) == 0;
    if (ok)
        epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->listen_fd,
                  &(struct epoll_event){.events = EPOLLIN, .data.fd = e->listen_fd});
    e->port = ntohs(at.sin_port);
    if (!ok || pthread_create(&e->thread, NULL, serve, e) != 0)
        return TB_FAIL(TB_ERR_IO, "load: the echo server did not start");
    return TB_OK;
}

static void stop(echo *e)
{
    atomic_store(&e->stop, true);
    pthread_join(e->thread, NULL);
    close(e->listen_fd);
    close(e->epoll_fd);
}

static tb_status measure(echo *e, tb_load_requests *requests, int connections, double seconds,
                         tb_load_ceiling *out)
{
    tb_load_result *r;
    tb_load_config config = {.host = "127.0.0.1", .port = e->port, .connections = connections};
    tb_load_schedule schedule = {.kind = TB_ARRIVALS_CLOSED, .duration_s = seconds, .seed = 1};
    TB_TRY(tb_load_run(&config, &schedule, requests, &r));
    out->closed_per_s = r->achieved_per_s;
    out->client_us = r->ok ? r->generator_cpu * r->wall_s / (double)r->ok * 1e6 : 0;
    int64_t closed = r->ok;
    tb_load_result_free(r);
    schedule.kind = TB_ARRIVALS_POISSON;
    schedule.rate = out->open_per_s = out->closed_per_s / 2;
    TB_TRY(tb_load_run(&config, &schedule, requests, &r));
    out->lag_p99_us = (double)tb_histogram_quantile(&r->lag, 0.99) * 1e-3;
    out->open_valid = !*r->void_reason && r->ok == r->n;
    out->server_us = (double)(closed + r->ok);
    tb_load_result_free(r);
    return TB_OK;
}

tb_status tb_load_self_test(int connections, double seconds, tb_load_ceiling *out)
{
    tb_status st;
    echo e = {.listen_fd = -1, .epoll_fd = -1};
    uint8_t row[REQUEST_VALUES] = {0};
    tb_load_samples samples = {
        .n = 1, .u8 = true, .elements = REQUEST_VALUES, .rank = 1, .shape = {REQUEST_VALUES}, .rows = row};
    tb_load_requests *requests = NULL;
    memset(out, 0, sizeof *out);
    TB_TRY(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &requests));
    e.request_bytes = (size_t)requests->begin[1];
    st = start(&e);
    if (st == TB_OK) {
        st = measure(&e, requests, connections > 0 ? connections : 64, seconds, out);
        stop(&e);
        if (out->server_us > 0) out->server_us = (double)e.cpu_ns * 1e-3 / out->server_us;
    }
    tb_load_requests_free(requests);
    return st;
}
