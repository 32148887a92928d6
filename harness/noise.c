/* Measures the machine's noise (noise.h). */
#include "noise.h"
#include "children.h"
#include "stats.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_topo.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { ROUNDS = 1000, CHAIN = 20000 };

/* Dependent multiplications: about 3 cycles each, no memory, nothing to vectorise. */
static uint64_t fixed_work(uint64_t x)
{
    for (int i = 0; i < CHAIN; i++) x = x * 6364136223846793005u + 1442695040888963407u;
    return x;
}

static tb_status calibrate(tb_noise *out)
{
    double *ns = tb_calloc(ROUNDS, sizeof *ns), square = 0;
    if (!ns) return tb_error_code();
    volatile uint64_t sink = 1;
    for (int i = 0; i < ROUNDS; i++) {
        int64_t start = tb_now_ns();
        sink = fixed_work(sink);
        ns[i] = (double)(tb_now_ns() - start);
    }
    double mean = tb_sample_mean(ns, ROUNDS);
    for (int i = 0; i < ROUNDS; i++) square += (ns[i] - mean) * (ns[i] - mean);
    tb_sort(ns, ROUNDS);
    out->calib_median_ns = tb_median(ns, ROUNDS);
    out->calib_cv = sqrt(square / (ROUNDS - 1)) / mean;
    out->calib_p99_over_p50 = tb_quantile(ns, ROUNDS, 0.99) / out->calib_median_ns;
    tb_free(ns);
    return TB_OK;
}

static void measure_timer(tb_noise *out)
{
    int64_t step = INT64_MAX, start = tb_now_ns(), last = start;
    for (int i = 0; i < 20000; i++) {
        int64_t now = tb_now_ns();
        if (now > last && now - last < step) step = now - last;
        last = now;
    }
    out->timer_ns = (double)step;
    out->timer_overhead_ns = (double)(last - start) / 20000;
}

/* Two threads pass a number to and fro; the answering one ends when it sees the stop value. */
typedef struct ping {
    _Alignas(64) _Atomic int64_t there;
    _Alignas(64) _Atomic int64_t back;
    int core;
} ping;

enum { STOP = -1, TRIPS = 200, BATCHES = 50 };

static void *answer(void *arg)
{
    ping *p = arg;
    if (tb_topo_bind_thread(&p->core, 1) != TB_OK) tb_error_clear();
    for (int64_t last = 0; last != STOP;) {
        int64_t seen = atomic_load_explicit(&p->there, memory_order_acquire);
        if (seen == last) continue;
        atomic_store_explicit(&p->back, seen, memory_order_release);
        last = seen;
    }
    return NULL;
}

typedef struct trip_times {
    ping shared;
    int core;
    double median_ns;
} trip_times;

/* Runs in a thread of its own, so that the caller's binding stays as it is. Gives up after 100 ms. */
static void *ask(void *arg)
{
    trip_times *t = arg;
    ping *p = &t->shared;
    double batch[BATCHES];
    int done = 0;
    int64_t number = 0, give_up = tb_now_ns() + 100000000;
    if (tb_topo_bind_thread(&t->core, 1) != TB_OK) tb_error_clear();
    while (done < BATCHES && tb_now_ns() < give_up) {
        int64_t start = tb_now_ns();
        for (int i = 0; i < TRIPS; i++) {
            atomic_store_explicit(&p->there, ++number, memory_order_release);
            while (atomic_load_explicit(&p->back, memory_order_acquire) != number) continue;
        }
        batch[done++] = (double)(tb_now_ns() - start) / (2 * TRIPS);
    }
    atomic_store(&p->there, STOP);
    tb_sort(batch, done);
    t->median_ns = tb_median(batch, done);
    return NULL;
}

static tb_status measure_core_to_core(tb_noise *out)
{
    out->core_to_core_ns = NAN;
    tb_topo *topo = tb_calloc(1, sizeof *topo);
    trip_times *t = tb_calloc(1, sizeof *t);
    tb_status st = TB_OK;
    pthread_t asking, answering;
    if (!topo || !t) TB_GO(tb_error_code());
    TB_GO(tb_topo_load(topo));
    if (topo->n_cores < 2) goto cleanup;
    t->core = topo->cores[0];
    t->shared.core = topo->cores[1];
    if (pthread_create(&answering, NULL, answer, &t->shared)) goto cleanup; /* no thread, no figure */
    if (pthread_create(&asking, NULL, ask, t))
        atomic_store(&t->shared.there, STOP);
    else
        pthread_join(asking, NULL);
    pthread_join(answering, NULL);
    if (t->median_ns > 0) out->core_to_core_ns = t->median_ns;
cleanup:
    tb_free(topo);
    tb_free(t);
    return st;
}

bool tb_noise_cores_moved(double before_ns, double after_ns)
{
    enum { LEAST_NS = 100, LEAST_FACTOR = 2 };
    double near = fmin(before_ns, after_ns), far = fmax(before_ns, after_ns);
    if (isnan(before_ns) || isnan(after_ns)) return false;
    return far - near > LEAST_NS && far > LEAST_FACTOR * near;
}

static double pressure(void)
{
    double percent = NAN;
    FILE *f = fopen("/proc/pressure/cpu", "re");
    if (f && fscanf(f, "some avg10=%lf", &percent) != 1) percent = NAN;
    if (f) fclose(f);
    return percent;
}

/* ---- who used the cores ---- */

static double ticks_as_s(double ticks) { return ticks / (double)sysconf(_SC_CLK_TCK); }

double tb_noise_busy_s(const int *cores, int n)
{
    FILE *f = fopen("/proc/stat", "re");
    double ticks = 0;
    char line[512];
    int found = 0;
    while (f && fgets(line, sizeof line, f)) {
        int core;
        unsigned long long user, nice, system, irq, softirq, stolen;
        if (sscanf(line, "cpu%d %llu %llu %llu %*u %*u %llu %llu %llu", &core, &user, &nice, &system, &irq, &softirq,
                   &stolen) != 7)
            continue;
        for (int i = 0; i < n; i++) {
            if (cores[i] != core) continue;
            ticks += (double)(user + nice + system + irq + softirq + stolen);
            found++;
        }
    }
    if (f) fclose(f);
    if (found != n) return NAN;
    return ticks_as_s(ticks);
}

/* Of a child that runs, and of those that it waited for; 0 when it is gone. */
static double child_s(pid_t pid)
{
    char path[64], line[1024] = "";
    unsigned long long user = 0, system = 0, waited_user = 0, waited_system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    const char *behind_name = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    if (f) fclose(f);
    int n = behind_name ? sscanf(behind_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu",
                                 &user, &system, &waited_user, &waited_system)
                        : 0;
    if (n != 4) return 0;
    return ticks_as_s((double)(user + system + waited_user + waited_system));
}

static double running_children_s(void)
{
    pid_t children[64];
    double seconds = 0;
    int n = tb_children(children, 64);
    for (int i = 0; i < n; i++) seconds += child_s(children[i]);
    return seconds;
}

double tb_noise_own_s(void)
{
    struct rusage own, waited;
    getrusage(RUSAGE_SELF, &own);
    getrusage(RUSAGE_CHILDREN, &waited);
    const struct timeval times[] = {own.ru_utime, own.ru_stime, waited.ru_utime, waited.ru_stime};
    double seconds = running_children_s();
    for (int i = 0; i < 4; i++) seconds += (double)times[i].tv_sec + (double)times[i].tv_usec * 1e-6;
    return seconds;
}

double tb_noise_others_percent(const tb_result *r)
{
    double most = 0;
    for (int i = 0; r && i < r->n_launches; i++) {
        const tb_value *v = tb_launch_value(r->launches[i], "noise.others_percent", -1);
        if (v) most = fmax(most, v->value);
    }
    return most;
}

tb_status tb_noise_measure(tb_noise *out)
{
    struct rusage before, after;
    *out = (tb_noise){.psi_some_percent = pressure()};
    if (getloadavg(&out->load_1min, 1) != 1) out->load_1min = NAN;
    getrusage(RUSAGE_THREAD, &before);
    measure_timer(out);
    TB_TRY(calibrate(out));
    getrusage(RUSAGE_THREAD, &after);
    out->involuntary_switches = (double)(after.ru_nivcsw - before.ru_nivcsw);
    return measure_core_to_core(out);
}

tb_status tb_noise_write(tb_journal *j, const char *when, const tb_noise *n)
{
    const struct {
        const char *name, *unit;
        double value;
    } members[] = {
        {"calib_median_ns", "ns", n->calib_median_ns},
        {"calib_cv", "", n->calib_cv},
        {"calib_p99_over_p50", "", n->calib_p99_over_p50},
        {"psi_some_percent", "%", n->psi_some_percent},
        {"load_1min", "", n->load_1min},
        {"timer_ns", "ns", n->timer_ns},
        {"timer_overhead_ns", "ns", n->timer_overhead_ns},
        {"core_to_core_ns", "ns", n->core_to_core_ns},
        {"involuntary_switches", "", n->involuntary_switches},
    };
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        char name[64];
        snprintf(name, sizeof name, "noise.%s.%s", when, members[i].name);
        if (!isnan(members[i].value))
            TB_TRY(tb_journal_value(j, &(tb_value){name, members[i].unit, -1, members[i].value}));
    }
    return TB_OK;
}
