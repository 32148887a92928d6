/* Life of a server: configuration, the loop, draining. The loop is natural batching itself: read every
 * request that is there, run what they ask for, answer them all. */
#include "server.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_log.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SWEEP_NS = 250000000,
    COMPUTE_NS = 2000000
}; /* in-loop computing before the sockets are looked at again */

static void set_defaults(tb_serve_config *c)
{
    tb_serve_limits *l = &c->limits;
#define DEFAULT(field, value) l->field = l->field ? l->field : (value)
    DEFAULT(connections, 512);
    DEFAULT(connections_per_ip, l->connections);
    DEFAULT(requests_per_connection, 1000);
    DEFAULT(header_bytes, 16384);
    DEFAULT(header_fields, 64);
    DEFAULT(uri_bytes, 2048);
    DEFAULT(body_bytes, 16 << 20);
    DEFAULT(header_ms, 5000);
    DEFAULT(body_ms, 10000);
    DEFAULT(body_bytes_per_s, 1024);
    DEFAULT(send_ms, 10000);
    DEFAULT(idle_ms, 60000);
    DEFAULT(max_timeout_ms, 60000);
    DEFAULT(drain_delay_ms, 500);
    DEFAULT(drain_ms, 10000);
#undef DEFAULT
    if (!c->spin_us) c->spin_us = 4000;
    if (!c->bind) c->bind = "127.0.0.1";
    if (!c->workers) c->workers = 1;
}

static tb_status check_config(const tb_serve_config *c)
{
    if (!c->repository) return TB_FAIL(TB_ERR_CONFIG, "serve: no model repository was given");
    if (!c->open) return TB_FAIL(TB_ERR_CONFIG, "serve: no way to open models was given");
    if (c->api_key && strlen(c->api_key) < 16)
        return TB_FAIL(TB_ERR_CONFIG, "serve: the API key must have at least 16 characters");
    struct in_addr address;
    if (inet_pton(AF_INET, c->bind, &address) != 1)
        return TB_FAIL(TB_ERR_CONFIG, "serve: '%s' is not an IPv4 address such as 127.0.0.1", c->bind);
    if (strncmp(c->bind, "127.", 4) != 0 && !c->api_key && !c->insecure)
        return TB_FAIL(TB_ERR_CONFIG,
                       "serve: %s can be reached from other machines: give an API key, or say that it is "
                       "meant to be open",
                       c->bind);
    return TB_OK;
}

static tb_status listen_on(tb_server *s)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->config.port)};
    socklen_t bytes = sizeof at;
    int on = 1;
    inet_pton(AF_INET, s->config.bind, &at.sin_addr); /* check_config() has looked at it */
    s->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->listen_fd < 0) return TB_FAIL(TB_ERR_IO, "serve: no socket (%s)", strerror(errno));
    setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(s->listen_fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(s->listen_fd, 1024) != 0)
        return TB_FAIL(TB_ERR_IO, "serve: cannot listen on %s port %d (%s)", s->config.bind, s->config.port,
                       strerror(errno));
    getsockname(s->listen_fd, (struct sockaddr *)&at, &bytes);
    s->port = ntohs(at.sin_port);
    return TB_OK;
}

static tb_status watch(tb_server *s, int fd)
{
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) != 0)
        return TB_FAIL(TB_ERR_IO, "serve: epoll (%s)", strerror(errno));
    return TB_OK;
}

tb_status tb_server_create(const tb_serve_config *config, tb_server **out)
{
    tb_status st;
    tb_server *s = tb_calloc(1, sizeof *s);
    if (!s) return tb_error_code();
    s->config = *config;
    s->listen_fd = s->epoll_fd = s->wake_fd = s->drain_fd = s->spare_fd = -1;
    s->metrics.started_ns = s->quota_ns = tb_now_ns();
    tb_histogram_clear(&s->metrics.latency);
    set_defaults(&s->config);
    cpu_set_t cores;
    s->n_cores = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    s->quota = s->config.limits.quota_per_s;
    TB_GO(check_config(&s->config));
    s->conns = tb_calloc((size_t)s->config.limits.connections, sizeof *s->conns);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    s->drain_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (!s->conns) {
        st = tb_error_code();
        goto cleanup;
    }
    if (s->epoll_fd < 0 || s->wake_fd < 0 || s->drain_fd < 0 || s->spare_fd < 0 ||
        getrandom(&s->id_salt, sizeof s->id_salt, 0) != sizeof s->id_salt) {
        st = TB_FAIL(TB_ERR_IO, "serve: no descriptors for the server (%s)", strerror(errno));
        goto cleanup;
    }
    TB_GO(listen_on(s));
    TB_GO(tbi_http_start(s));
    TB_GO(watch(s, s->listen_fd));
    TB_GO(watch(s, s->wake_fd));
    TB_GO(watch(s, s->drain_fd));
    TB_GO(watch(s, MHD_get_daemon_info(s->http, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd));
    TB_GO(tbi_repository_open(&s->repository, &s->config, s->wake_fd));
    *out = s;
    return TB_OK;
cleanup:
    tb_server_destroy(s);
    return st;
}

int tb_server_port(const tb_server *s) { return s->port; }

void tb_server_drain(tb_server *s)
{
    int saved = errno;
    uint64_t one = 1;
    (void)!write(s->drain_fd, &one, sizeof one);
    errno = saved;
}

void tb_server_destroy(tb_server *s)
{
    if (!s) return;
    if (s->http) MHD_stop_daemon(s->http); /* completes every connection, which cancels its request */
    tbi_repository_close(&s->repository);
    if (s->conns)
        for (int i = 0; i < s->config.limits.connections; i++) tbi_conn_free_buffers(&s->conns[i]);
    tb_free(s->conns);
    int fds[] = {s->listen_fd, s->epoll_fd, s->wake_fd, s->drain_fd, s->spare_fd};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0) close(fds[i]);
    tb_free(s);
}

/* ---- the loop ---- */

static uint64_t read_event(int fd)
{
    uint64_t n = 0;
    return read(fd, &n, sizeof n) == sizeof n ? n : 0;
}

static void install(void *server, void *waiter, tbi_entry *e, tb_status st)
{
    tb_server *s = server;
    tbi_batcher *b = st == TB_OK ? e->live->batcher : NULL;
    if (b) {
        if (e->live->generator) {
            e->live->generator->generated = tbi_generated_token;
            e->live->generator->arg = s;
        }
        b->finish = tbi_finish_inference;
        b->finish_arg = s;
        tbi_conn_reserve(s, e->live->model);
        if (b->by_worker && watch(s, b->wake_fd) != TB_OK)
            tb_log_write(TB_LOG_ERROR, "%s", tb_error_message());
        tb_log_write(TB_LOG_INFO,
                     "serve: model '%s' version %s is ready (%s, one row %.1f us, a row of a batch %.1f us)",
                     e->name, e->live->model->version, b->by_worker ? "worker" : "loop",
                     (double)b->cost_ns[0] * 1e-3, (double)b->row_ns * 1e-3);
    }
    tbi_finish_load(s, waiter, e, st);
}

static bool step(tbi_served *m)
{
    return m->generator ? tbi_generator_step(m->generator) : tbi_batcher_step(m->batcher, COMPUTE_NS);
}

/* True while some queue still holds rows that the loop itself has to run. */
static bool step_batchers(tb_server *s)
{
    bool more = false;
    for (int i = 0; i < s->repository.n_entries; i++)
        if (s->repository.entries[i].live)
            more |= step(s->repository.entries[i].live);
    for (tbi_served *r = s->repository.retired; r; r = r->next) more |= step(r);
    return more;
}

static int64_t deadline_of(const tbi_served *m)
{
    return m->generator ? tbi_generator_next_deadline(m->generator) : tbi_batcher_next_deadline(m->batcher);
}

static int64_t next_deadline(const tb_server *s)
{
    int64_t next = s->next_sweep_ns;
    if (s->drain_ns) {
        int ms = s->config.limits.drain_delay_ms + (s->closing ? s->config.limits.drain_ms : 0);
        int64_t phase_end = s->drain_ns + ms * 1000000LL;
        if (phase_end < next) next = phase_end;
    }
    for (int i = 0; i < s->repository.n_entries; i++) {
        const tbi_served *m = s->repository.entries[i].live;
        if (m && deadline_of(m) < next) next = deadline_of(m);
    }
    for (const tbi_served *m = s->repository.retired; m; m = m->next)
        if (deadline_of(m) < next) next = deadline_of(m);
    return next;
}

static void handle_event(tb_server *s, int fd)
{
    if (fd == s->listen_fd) tbi_conn_accept(s);
    else if (fd == s->drain_fd) s->drains += (int)read_event(fd);
    else if (fd == s->wake_fd) {
        read_event(fd);
        tbi_repository_collect(&s->repository, install, s);
    } else if (fd != MHD_get_daemon_info(s->http, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd) {
        read_event(fd); /* a batcher's worker has finished: step_batchers collects it */
    }
}

/* A model's workers want the cores for themselves, and so do all others where there is one core. */
static bool may_spin(const tb_server *s)
{
    if (s->config.spin_us < 0 || s->n_cores < 2) return false;
    for (int i = 0; i < s->repository.n_entries; i++)
        if (s->repository.entries[i].live && s->repository.entries[i].live->batcher->by_worker) return false;
    return true;
}

static int64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* To wake a core that sleeps takes longer than to answer a request, so for a while after the last one the loop polls,
 * and yields its core to whoever wants it. Returns what epoll_wait does: 0 when that while, or `ns`, is over. */
static int spin(tb_server *s, struct epoll_event *events, int most, int64_t ns)
{
    int64_t now = tb_now_ns(), end = s->active_ns + s->config.spin_us * 1000LL, cpu = 0;
    int n = 0;
    if (now + ns < end) end = now + ns;
    while (now < end && (n = epoll_wait(s->epoll_fd, events, most, 0)) == 0) {
        if (!cpu) cpu = thread_cpu_ns();
        sched_yield();
        now = tb_now_ns();
    }
    if (cpu) s->metrics.spun_ns += thread_cpu_ns() - cpu;
    return n;
}

static void wait_for_events(tb_server *s, bool more)
{
    enum { MOST = 16 };
    struct epoll_event events[MOST];
    struct timespec wait = {0};
    MHD_UNSIGNED_LONG_LONG http_ms;
    int64_t ns = next_deadline(s) - tb_now_ns();
    /* With nobody waiting the library knows whether it holds bytes that it has not looked at; otherwise it
     * always says "at once" because of the waiting ones, and `progressed` answers instead. */
    if (s->n_waiting == 0 && MHD_get_timeout(s->http, &http_ms) == MHD_YES && http_ms == 0) ns = 0;
    if (more || s->progressed) ns = 0;
    int n = ns > 0 && may_spin(s) ? spin(s, events, MOST, ns) : 0;
    if (n == 0) {
        if (ns > 0) ns = next_deadline(s) - tb_now_ns();
        if (ns > 0) {
            wait.tv_sec = ns / 1000000000;
            wait.tv_nsec = ns % 1000000000;
        }
        n = epoll_pwait2(s->epoll_fd, events, MOST, &wait, NULL);
    }
    for (int i = 0; i < n; i++) handle_event(s, events[i].data.fd);
}

static void sweep(tb_server *s)
{
    int64_t now = tb_now_ns();
    if (now < s->next_sweep_ns) return;
    s->next_sweep_ns = now + SWEEP_NS;
    tbi_conn_sweep(s, now);
    tbi_repository_sweep(&s->repository);
    if (!s->closing) tbi_conn_accept(s); /* descriptors may have come free */
}

/* First serve on, telling every client to close and every balancer to go elsewhere; then close the listener,
 * answer what is there, and end when no connection is left. */
static bool drained(tb_server *s, tb_status *st)
{
    int64_t now = tb_now_ns();
    if (s->drains == 0) return false;
    if (s->drain_ns == 0) s->drain_ns = now;
    if (s->drains > 1) {
        *st = TB_FAIL(TB_ERR_CANCELLED, "serve: told to stop twice; %d connections were dropped", s->n_conns);
        return true;
    }
    int64_t elapsed_ms = (now - s->drain_ns) / 1000000;
    if (!s->closing && elapsed_ms >= s->config.limits.drain_delay_ms) {
        tbi_conn_accept(s);
        close(s->listen_fd);
        s->listen_fd = -1;
        s->closing = true;
        s->next_sweep_ns = now;
    }
    if (s->closing && s->n_conns == 0) return true;
    if (elapsed_ms < s->config.limits.drain_delay_ms + s->config.limits.drain_ms) return false;
    for (int i = 0; i < s->config.limits.connections; i++)
        if (s->conns[i].state == TBI_CONN_STREAMING)
            shutdown(s->conns[i].fd, SHUT_RDWR);
        else if (s->conns[i].state == TBI_CONN_WAITING)
            tbi_conn_cut(&s->conns[i], TBI_FAULT_DRAINING, "the server has stopped");
    *st = TB_FAIL(TB_ERR_TIMEOUT, "serve: %d connections were still open %d ms after draining began",
                  s->n_conns, (int)elapsed_ms);
    return true;
}

tb_status tb_server_run(tb_server *s)
{
    tb_status st = TB_OK;
    bool more = false;
    while (!drained(s, &st)) {
        wait_for_events(s, more);
        s->progressed = false;
        MHD_run(s->http);            /* reads and parses everything that is there */
        more = step_batchers(s);
        if (s->progressed) {
            s->progressed = false;
            MHD_run(s->http);        /* answers */
        }
        sweep(s);
    }
    return st;
}
