/* What fails around a server: descriptors, memory, clients that vanish, the clock. It says so where it can, and is well
 * afterwards. Also run under ThreadSanitizer. */
#include "live_server.h"
#include <sys/resource.h>
#include <sys/syscall.h>

static const char predict_request[] =
    "POST /v1/predict HTTP/1.1\r\nHost: t\r\nContent-Length: 18\r\n\r\n{\"data\":[1,2,3,4]}";

/* ---- a wall clock that jumps: whoever in this process asks for the time gets a wrong one ---- */

static atomic_llong clock_step_s, wall_clock_reads;

time_t time(time_t *out)
{
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &t);
    time_t now = t.tv_sec + (time_t)atomic_load(&clock_step_s);
    atomic_fetch_add(&wall_clock_reads, 1);
    if (out) *out = now;
    return now;
}

static void a_step_of_the_clock_changes_nothing(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    static const long long steps[] = {86400, -86400, 20LL * 365 * 86400, -20LL * 365 * 86400, 0};
    live_start(&l);
    int fd = dial(&l);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        atomic_store(&clock_step_s, steps[i]);
        for (int k = 0; k < 5; k++) {
            assert_int_equal(
                request(fd, &r, "POST", "/v1/predict", "X-Request-Timeout-Ms: 5000\r\n", "{\"data\":[1,2,3,4]}", 18),
                200);
            usleep(100000); /* longer than a sweep in all: no deadline may have moved */
        }
        check_well(&l, "a step of the clock");
    }
    close(fd);
    assert_true(atomic_load(&wall_clock_reads) > 0); /* the Date header */
    live_stop(&l);
}

/* ---- descriptors ---- */

/* A connection that is the only one of its server, once what asked before has left. */
static int only_connection(const live *l)
{
    static reply r;
    int fd = dial(l);
    do assert_int_equal(request(fd, &r, "GET", "/metrics", "", NULL, 0), 200);
    while (!strstr(r.body, "\ntensorbrain_open_connections 1\n"));
    return fd;
}

enum { DIALLED = 12, LEFT = 4, MOST_FDS = 256 };

static void out_of_descriptors_is_told_and_passes(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    struct rlimit before, low;
    int client[DIALLED], filler[MOST_FDS], n_filler = 0, refused = 0, served = 0;
    struct timeval limit = {.tv_sec = 10};
    live_start(&l);
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)l.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int stays = only_connection(&l);
    for (int i = 0; i < DIALLED; i++) {
        assert_true((client[i] = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
        setsockopt(client[i], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    }
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = before;
    low.rlim_cur = MOST_FDS;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    while (n_filler < MOST_FDS && (filler[n_filler] = dup(client[0])) >= 0) n_filler++;
    assert_true(n_filler >= LEFT);
    for (int i = 0; i < LEFT; i++) close(filler[--n_filler]);
    for (int i = 0; i < DIALLED; i++) assert_int_equal(connect(client[i], (struct sockaddr *)&at, sizeof at), 0);
    for (int i = 0; i < DIALLED; i++) { /* who is refused is told without having asked */
        bool told = poll(&(struct pollfd){.fd = client[i], .events = POLLIN}, 1, i ? 0 : 500) == 1;
        if (!told) assert_true(send_all(client[i], predict_request, strlen(predict_request)));
        int status = read_reply(client[i], &r);
        if (told)
            refused++, assert_int_equal(status, 503), assert_true(has_code(&r, "too_many_connections"));
        else
            served++, assert_int_equal(status, 200);
    }
    assert_int_equal(served, LEFT);
    assert_int_equal(refused, DIALLED - LEFT);
    for (int i = 0; i < n_filler; i++) close(filler[i]);
    for (int i = 0; i < DIALLED; i++) close(client[i]);
    close(stays);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    check_well(&l, "descriptors");
    live_stop(&l);
}

/* ---- memory ---- */

/* One request on a server that has served nothing yet, whose n-th request of memory from then on fails. Returns false
 * when it asked for less. */
static bool fails_at(const char *path, const char *body, size_t bytes, int64_t n, void (*fail_at)(int64_t),
                     bool (*has_failed)(void))
{
    static const int allowed[] = {0, 200, 400, 500, 503};
    live l = {.max_batch = 64};
    static reply r;
    live_start(&l);
    server.thread = l.thread; /* the one that fails */
    fail_at(n);
    int status = fetch(&l, &r, body ? "POST" : "GET", path, "", body, bytes);
    bool failed = has_failed();
    fail_at(0);
    bool known = false;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) known |= status == allowed[i];
    if (!known || (!failed && status != 200)) fail_msg("%s, %lld: %d %s", path, (long long)n, status, r.body);
    check_well(&l, path);
    live_stop(&l);
    return failed;
}

static const char *many_rows(void)
{
    static char body[1024];
    size_t n = (size_t)snprintf(body, sizeof body, "{\"data\":[[1,2,3,4]");
    for (int i = 1; i < 64; i++) n += (size_t)snprintf(body + n, sizeof body - n, ",[1,2,3,4]");
    snprintf(body + n, sizeof body - n, "]}");
    return body;
}

static void each_request_fails_alone(void (*fail_at)(int64_t), bool (*has_failed)(void), int most)
{
    const struct {
        const char *path, *body;
    } cases[] = {{"/v1/predict", many_rows()},    {"/v1/predict", "{\"data\":[1,2,3,4]}"},
                 {"/v2/models/mlp/config", NULL}, {"/metrics", NULL},
                 {"/v2/timeline?last=10", NULL},  {"/v2/repository/models/mlp/load", "{}"}};
    int fired = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int64_t n = 1; n <= most; n++) {
            if (!fails_at(cases[i].path, cases[i].body, cases[i].body ? strlen(cases[i].body) : 0, n, fail_at,
                          has_failed))
                break;
            fired++;
        }
    assert_true(fired > 5);
}

static int64_t engine_fails_at;

static void fail_engine_at(int64_t n)
{
    tb_mem_stats heap;
    tb_heap_stats(tb_heap_process(), &heap);
    if (n) engine_fails_at = heap.requests + n;
    tb_heap_fail_at(tb_heap_process(), n);
}

static bool engine_has_failed(void)
{
    tb_mem_stats heap;
    tb_heap_stats(tb_heap_process(), &heap);
    return heap.requests >= engine_fails_at;
}

static void the_engines_heap_may_fail_at_any_request(void **state)
{
    (void)state;
    each_request_fails_alone(fail_engine_at, engine_has_failed, 40);
}

/* Sanitizers have their own malloc. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static atomic_llong malloc_countdown;

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);

static bool malloc_fails(void)
{
    if (atomic_load(&malloc_countdown) <= 0 || !pthread_equal(pthread_self(), server.thread)) return false;
    return atomic_fetch_sub(&malloc_countdown, 1) == 1;
}

void *malloc(size_t bytes) { return malloc_fails() ? NULL : __libc_malloc(bytes); }
void *calloc(size_t n, size_t bytes) { return malloc_fails() ? NULL : __libc_calloc(n, bytes); }

static void fail_malloc_at(int64_t n) { atomic_store(&malloc_countdown, n); }
static bool malloc_has_failed(void) { return atomic_load(&malloc_countdown) == 0; }

/* The HTTP library's, in the loop's thread. */
static void malloc_may_fail_at_any_call(void **state)
{
    (void)state;
    each_request_fails_alone(fail_malloc_at, malloc_has_failed, 40);
}
#else
static void malloc_may_fail_at_any_call(void **state)
{
    (void)state;
    skip();
}
#endif

static void a_server_starts_or_says_that_there_is_no_memory(void **state)
{
    (void)state;
    int started = 0, refused = 0;
    for (int64_t n = 1; n < 60; n++) {
        live l = {0};
        static reply r;
        tb_serve_config config = {.open = live_open, .limits = {.drain_delay_ms = 1, .connections = 8}};
        snprintf(l.dir, sizeof l.dir, "/tmp/tb_serve_XXXXXX");
        assert_non_null(mkdtemp(l.dir));
        live_add_version(&l, "mlp", "1");
        l.in = 4, l.hidden = 8, l.out = 3, l.max_batch = 2;
        config.repository = l.dir;
        config.open_arg = &l;
        tb_heap_fail_at(tb_heap_process(), n);
        tb_status st = tb_server_create(&config, &l.server);
        if (st == TB_OK) {
            l.port = tb_server_port(l.server);
            assert_int_equal(pthread_create(&l.thread, NULL, live_run, &l), 0);
            int status = get(&l, &r, "/v2/health/live");
            if (status != 200) assert_int_equal(status, 500); /* what failed was the reply */
            for (int i = 0; i < 2000 && get(&l, &r, "/v2/health/ready") == 503 && has_code(&r, "loading"); i++)
                usleep(2000);
            tb_heap_fail_at(tb_heap_process(), 0);
            assert_int_equal(post(&l, &r, "/v2/repository/models/mlp/load", ""), 200); /* memory is back */
            check_well(&l, "a start without memory");
            live_stop(&l);
            started++;
        } else {
            tb_heap_fail_at(tb_heap_process(), 0);
            assert_int_equal(st, TB_ERR_OOM);
            tb_error_clear();
            char command[128];
            snprintf(command, sizeof command, "rm -rf %s", l.dir);
            assert_int_equal(system(command), 0);
            refused++;
        }
    }
    assert_true(started > 0 && refused > 0);
}

/* ---- clients that vanish ---- */

static void reset(int fd)
{
    struct linger now = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

static void resets_at_any_byte_of_a_request_and_in_its_reply_hurt_nobody(void **state)
{
    (void)state;
    live l = {0};
    live_start(&l);
    for (size_t n = 1; n <= strlen(predict_request); n++) {
        int fd = dial(&l);
        assert_true(send_all(fd, predict_request, n));
        if (n % 3 == 0) usleep(1000); /* what was sent is being read */
        reset(fd);
    }
    for (int bytes = 1; bytes < 60; bytes += 7) {
        char some[64];
        int fd = dial(&l);
        assert_true(send_all(fd, predict_request, strlen(predict_request)));
        assert_true(recv(fd, some, (size_t)bytes, 0) > 0);
        reset(fd);
    }
    check_well(&l, "resets");
    await_metric(&l, "open_connections 1");
    live_stop(&l);
}

static void a_connection_whose_request_timed_out_serves_the_next_one(void **state)
{
    (void)state;
    live l = {.max_batch = 1};
    tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1}};
    static reply r;
    live_start_with(&l, &config);
    wait_ready(&l);
    int first = dial(&l), fd = dial(&l);
    live_hold(&l);
    assert_true(send_all(first, predict_request, strlen(predict_request)));
    await_stopped(&l);
    assert_int_equal(request(fd, &r, "POST", "/v1/predict", "X-Request-Timeout-Ms: 50\r\n", "{\"data\":[1,2,3,4]}", 18),
                     504);
    live_release(&l);
    assert_int_equal(read_reply(first, &r), 200);
    assert_int_equal(request(fd, &r, "POST", "/v1/predict", "", "{\"data\":[1,2,3,4]}", 18), 200);
    close(first);
    close(fd);
    live_stop(&l);
}

static void six_hundred_connections_meet_a_limit_of_512(void **state)
{
    (void)state;
    enum { DIAL = 600, MOST = 512 };
    live l = {0};
    static reply r;
    static int fd[DIAL];
    struct rlimit limit;
    int refused = 0;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < 2 * DIAL + 50 && limit.rlim_max >= 2 * DIAL + 50) {
        limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    }
    live_start(&l);
    int stays = only_connection(&l);
    for (int i = 0; i < DIAL; i++) fd[i] = dial(&l);
    for (int i = 0; i < DIAL; i++) {
        (void)!send(fd[i], predict_request, strlen(predict_request), MSG_NOSIGNAL);
        int status = read_reply(fd[i], &r);
        if (status != 200) refused++; /* 503, or a reset that overtakes it */
        if (status && status != 200) assert_true(has_code(&r, "too_many_connections"));
    }
    assert_int_equal(refused, DIAL - MOST + 1);
    close(stays);
    for (int i = 0; i < DIAL; i++) close(fd[i]);
    await_metric(&l, "open_connections 1");
    check_well(&l, "600 connections");
    live_stop(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_of_the_clock_changes_nothing),
        cmocka_unit_test(out_of_descriptors_is_told_and_passes),
        cmocka_unit_test(the_engines_heap_may_fail_at_any_request),
        cmocka_unit_test(malloc_may_fail_at_any_call),
        cmocka_unit_test(a_server_starts_or_says_that_there_is_no_memory),
        cmocka_unit_test(resets_at_any_byte_of_a_request_and_in_its_reply_hurt_nobody),
        cmocka_unit_test(a_connection_whose_request_timed_out_serves_the_next_one),
        cmocka_unit_test(six_hundred_connections_meet_a_limit_of_512),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
