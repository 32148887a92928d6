/* The loop: dispatch what is due, read what is there. Waking a sleeping thread takes as long as a fast server takes to
 * answer, so an open loop sleeps only while nothing is in flight and no arrival is near; else it polls, and yields its
 * core to whoever wants it (unless told to sleep). A closed loop, whose latencies nobody reads, sleeps when it can. */
#include "client.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
    EARLY_NS = 80000,   /* a sleeping thread is woken 40 to 70 us late: wake before, then poll */
    REDIAL_NS = 1000000 /* between looks at connections that were lost */
};

static int64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The generator's own lateness: from when it could have sent to when it did. */
static void record_lag(load_run *r, int64_t arrival)
{
    const tb_load_column *col = &r->result->columns[arrival];
    int64_t possible = col->intended_ns > r->freed_ns ? col->intended_ns : r->freed_ns;
    tb_histogram_add(&r->result->lag, col->dispatch_ns - possible);
    tb_histogram_add(&r->result->wait, possible - col->intended_ns);
}

static tb_load_column unsent(int64_t intended_ns)
{
    return (tb_load_column){.intended_ns = intended_ns, .dispatch_ns = -1, .done_ns = -1, .status = -1};
}

static void dispatch_due(load_run *r, int64_t now)
{
    bool closed = r->schedule->kind == TB_ARRIVALS_CLOSED;
    while (r->next < r->n && r->free_first && (closed || r->at_ns[r->next] <= now)) {
        load_connection *c = r->free_first;
        int64_t arrival = r->next++;
        r->free_first = c->next_free;
        if (!r->free_first) r->free_last = NULL;
        if (closed) r->result->columns[arrival] = unsent(now);
        load_dispatch(r, c, arrival);
        if (!closed) record_lag(r, arrival);
    }
}

static bool is_told_to_end(const load_run *r) { return r->config->until && atomic_load(r->config->until); }

/* An open loop ends early: what is due by now is still sent and waited for, or the worst latencies would be left out.
 */
static void end_arrivals(load_run *r, int64_t now)
{
    int64_t due = r->next;
    while (due < r->n && r->at_ns[due] <= now) due++;
    r->n = due;
    r->ended_ns = now;
}

static int64_t next_due(const load_run *r)
{
    return r->at_ns && r->next < r->n ? r->at_ns[r->next] : INT64_MAX;
}

static void redial(load_run *r, int64_t now)
{
    for (int i = 0; i < r->n_connections; i++)
        if (r->connections[i].state == LOAD_CLOSED && r->connections[i].retry_ns <= now)
            load_dial(r, &r->connections[i]);
}

static void loop(load_run *r, int64_t stop_ns, int64_t end_ns)
{
    struct epoll_event events[64];
    int64_t spun = 0, idle_cpu = 0, reconnects = -1, redial_ns = 0;
    for (;;) {
        int64_t now = load_now(r);
        bool closed = r->schedule->kind == TB_ARRIVALS_CLOSED, ends = closed && (now >= stop_ns || is_told_to_end(r));
        if (!closed && !r->ended_ns && is_told_to_end(r)) {
            end_arrivals(r, now);
            end_ns = now + (int64_t)(r->config->timeout_s * 1e9);
        }
        if (!ends) dispatch_due(r, now);
        if (ends && !r->ended_ns) r->ended_ns = now;
        bool all_sent = closed ? ends : r->next == r->n;
        if ((all_sent && r->answered == r->next) || now >= end_ns) break;
        int64_t gap = r->free_first ? next_due(r) - load_now(r) : 10000000;
        bool spin = !closed && !r->config->sleeps && (gap < EARLY_NS || r->answered < r->next);
        if (gap > 10000000) gap = 10000000;
        int64_t sleep = spin || gap <= 0 ? 0 : gap > EARLY_NS ? gap - EARLY_NS : gap;
        int n = epoll_pwait2(r->epoll_fd, events, 64, &(struct timespec){.tv_nsec = sleep}, NULL);
        for (int i = 0; i < n; i++) load_ready(r, events[i].data.ptr, events[i].events);
        if (spin && n <= 0) {
            sched_yield();
            int64_t cpu = thread_cpu_ns();
            if (idle_cpu) spun += cpu - idle_cpu;
            idle_cpu = cpu;
        } else {
            idle_cpu = 0;
        }
        if (reconnects != r->result->reconnects || now >= redial_ns) {
            redial(r, load_now(r));
            reconnects = r->result->reconnects;
            redial_ns = now + REDIAL_NS;
        }
    }
    r->result->spin_cpu = (double)spun;
}

/* All connections stand before the clock starts. */
static tb_status connect_all(load_run *r)
{
    struct epoll_event events[64];
    int64_t give_up = tb_now_ns() + 5000000000LL;
    r->begin_ns = tb_now_ns();
    for (int i = 0; i < r->n_connections; i++) load_dial(r, &r->connections[i]);
    for (;;) {
        int free = 0;
        for (int i = 0; i < r->n_connections; i++) free += r->connections[i].state == LOAD_FREE;
        if (free == r->n_connections) return TB_OK;
        if (tb_now_ns() > give_up)
            return TB_FAIL(TB_ERR_IO, "load: only %d of %d connections to %s port %d could be made", free,
                           r->n_connections, r->config->host, r->config->port);
        int n = epoll_wait(r->epoll_fd, events, 64, 20);
        for (int i = 0; i < n; i++) load_ready(r, events[i].data.ptr, events[i].events);
        redial(r, load_now(r));
    }
}

static tb_status open_run(load_run *r, const tb_load_config *config, int64_t n)
{
    r->result = tb_calloc(1, sizeof *r->result);
    r->n_connections = config->connections;
    r->connections = tb_calloc((size_t)r->n_connections, sizeof *r->connections);
    if (!r->result || !r->connections) return tb_error_code();
    r->result->columns = tb_calloc((size_t)n, sizeof *r->result->columns);
    if (!r->result->columns) return tb_error_code();
    for (int64_t i = 0; r->at_ns && i < n; i++) r->result->columns[i] = unsent(r->at_ns[i]);
    r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (r->epoll_fd < 0) return TB_FAIL(TB_ERR_IO, "load: no epoll");
    tb_histogram *all[] = {&r->result->latency, &r->result->service,     &r->result->lag,      &r->result->wait,
                           &r->result->refusal, &r->result->first_token, &r->result->token_gap};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tb_histogram_clear(all[i]);
    return TB_OK;
}

static void close_run(load_run *r)
{
    for (int i = 0; r->connections && i < r->n_connections; i++)
        if (r->connections[i].state != LOAD_CLOSED && r->connections[i].fd > 0) close(r->connections[i].fd);
    if (r->epoll_fd > 0) close(r->epoll_fd);
    tb_free(r->connections);
}

tb_status tb_load_run(const tb_load_config *given, const tb_load_schedule *schedule, tb_load_requests *requests,
                      tb_load_result **out)
{
    enum { CLOSED_MOST = 20000000 };
    tb_status st;
    tb_load_config config = *given;
    int64_t *at_ns = NULL;
    if (config.connections <= 0) config.connections = 64;
    if (config.timeout_s <= 0) config.timeout_s = 10;
    if (config.slo_ms <= 0) config.slo_ms = 25;
    load_run r = {.config = &config, .schedule = schedule, .requests = requests};
    TB_GO(tb_load_schedule_make(schedule, &at_ns, &r.n));
    bool closed = schedule->kind == TB_ARRIVALS_CLOSED;
    r.at_ns = at_ns;
    if (closed)
        r.n = schedule->duration_s * 200000 < CLOSED_MOST ? (int64_t)(schedule->duration_s * 200000) + 1
                                                          : CLOSED_MOST;
    TB_GO(open_run(&r, &config, r.n));
    r.result->planned = r.n;
    prctl(PR_SET_TIMERSLACK, 1L, 0L, 0L, 0L);
    TB_GO(connect_all(&r));
    int64_t cpu = thread_cpu_ns(), stop_ns = (int64_t)(schedule->duration_s * 1e9);
    int64_t last = closed ? stop_ns : at_ns[r.n - 1];
    r.begin_ns = tb_now_ns();
    r.freed_ns = 0;
    if (config.edge) config.edge(config.edge_arg, false);
    loop(&r, stop_ns, last + (int64_t)(config.timeout_s * 1e9));
    if (config.edge) config.edge(config.edge_arg, true);
    r.result->wall_s = (double)load_now(&r) * 1e-9;
    r.result->spin_cpu *= 1e-9 / r.result->wall_s;
    r.result->generator_cpu = (double)(thread_cpu_ns() - cpu) * 1e-9 / r.result->wall_s - r.result->spin_cpu;
    if (closed) r.n = r.result->planned = r.next;
    load_summarize(&r);
    if (!config.keep_columns) {
        tb_free(r.result->columns);
        r.result->columns = NULL;
    }
    *out = r.result;
    r.result = NULL;
cleanup:
    close_run(&r);
    tb_load_result_free(r.result);
    tb_free(at_ns);
    return st;
}

void tb_load_result_free(tb_load_result *r)
{
    if (!r) return;
    tb_free(r->columns);
    tb_free(r);
}
