/* resilience: strikes a rank of a training run at a random operation, and looks at what follows.
 *
 * Each fault has a program of its own: `tb run` (or a direct mpirun, and `tb show` of what it leaves) on an experiment
 * of experiments/common/, with launch.fault. A rank that is killed, stops, ends, breaks the rules or is slower than the
 * deadline must be named with what it was doing, all processes must be gone soon after the deadline, the exit code must
 * not be 0, and nothing may be left in shared memory. A rank that is late, but before the deadline, must be named and
 * live. Ranks that are threads of this process (backend thread) only sum. */
#include "flight.h"
#include "struck_program.h"
#include "struck_threads.h"
#include "tb_alloc.h"
#include "tb_driver.h"
#include "tb_rng.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const tb_key keys[] = {
    {"kind", TB_KEY_CHOICE, "", 0, 0, "kill|stop|exit|mismatch|slow|late", "kill", "what happens to the rank"},
    {"work", TB_KEY_CHOICE, "", 0, 0, "ddp|fused|pipeline|sums", "ddp",
     "what the ranks do; fused: ddp whose sums update; sums: of backend thread"},
    {"backend", TB_KEY_CHOICE, "", 0, 0, "shm|mpi|thread", "shm", "what moves the bytes"},
    {"start", TB_KEY_CHOICE, "", 0, 0, "tb_run|mpirun", "tb_run", "who starts the ranks"},
    {"struck_ranks", TB_KEY_INT, "", 2, 64, NULL, "4", "ranks of the training"},
    {"faults", TB_KEY_INT, "", 1, 10000, NULL, "3", "one after the other"},
    {"deadline_s", TB_KEY_NUM, "s", 0.1, 60, NULL, "1", "of every wait of the training"},
};

#define COUNT(name_)                                                                                                   \
    {                                                                                                                  \
        .name = name_, .dir = "none", .kind = "exact", .reduce = "sum", .scope = "measured", .statistic = "total"      \
    }
static const tb_metric metrics[] = {
    COUNT("struck"),
    COUNT("named"),
    {.name = "gone_s",
     .unit = "s",
     .dir = "lower",
     .kind = "trend",
     .reduce = "max",
     .scope = "measured",
     .statistic = "max",
     .margin = 1},
    COUNT("at_start"),
    COUNT("at_gradients"),
    COUNT("at_forward"),
    COUNT("at_backward"),
    COUNT("at_update"),
};
static const char *const phases[] = {"at_start", "at_gradients", "at_forward", "at_backward", "at_update"};
enum { PHASES = sizeof phases / sizeof phases[0] };

/* gone_s counts from the strike; slowest_s, of all faults, from the deadline behind it. */
typedef struct tally {
    int64_t not_struck, not_named, not_ended, left_behind;
    double slowest_s;
    tb_text table;
} tally;

/* Operations of a rank in the whole run, roughly: where a fault may strike. */
static int64_t operations(const char *work)
{
    return strcmp(work, "pipeline") == 0 ? 70 : strcmp(work, "sums") == 0 ? STRUCK_THREAD_OPERATIONS : 50;
}

/* Which part of a step the label tells of ("step 3, 0SEND_F1>1"); an index of `phases`. */
static int phase_of(const char *doing)
{
    const char *label = strstr(doing, "(step ");
    if (!label) return 0;
    if (strstr(label, "gradients")) return 1;
    if (strstr(label, "SEND_F") || strstr(label, "RECV_F")) return 2;
    if (strstr(label, "SEND_B") || strstr(label, "RECV_B")) return 3;
    return 4;
}

static tb_struck_plan plan_of(const tb_run *run, int64_t index)
{
    uint64_t stream = tb_stream_index(tb_stream_name(0, "fault"), (uint64_t)index);
    const char *kind = tb_param_str(run, "kind");
    double deadline_s = tb_param_num(run, "deadline_s");
    tb_struck_plan p = {.work = tb_param_str(run, "work"),
                        .backend = tb_param_str(run, "backend"),
                        .ranks = (int)tb_param_int(run, "struck_ranks"),
                        .deadline_s = deadline_s,
                        .direct = strcmp(tb_param_str(run, "start"), "mpirun") == 0,
                        .lives = strcmp(kind, "late") == 0};
    stream = tb_stream_name(tb_stream_name(tb_stream_name(stream, kind), p.work), p.backend);
    p.victim = (int)tb_random_below(run->seed, stream, 0, (uint64_t)p.ranks);
    int64_t at = 1 + (int64_t)tb_random_below(run->seed, stream, 1, (uint64_t)operations(p.work));
    bool slow = strcmp(kind, "slow") == 0;
    if (slow || p.lives)
        snprintf(p.fault, sizeof p.fault, "slow@%d:%lld:%.0f", p.victim, (long long)at,
                 deadline_s * 1e3 * (slow ? 3 : 0.6));
    else
        snprintf(p.fault, sizeof p.fault, "%s@%d:%lld", kind, p.victim, (long long)at);
    p.disputable = strcmp(kind, "mismatch") == 0 && (p.ranks == 2 || strcmp(p.work, "pipeline") == 0);
    return p;
}

static void count(const tb_run *run, int64_t i, const tb_struck_plan *p, const tb_struck *s, tally *t)
{
    double end_s = s->gone_s < 0 ? 0 : s->gone_s;
    t->not_struck += !s->struck;
    t->not_named += !s->named;
    t->not_ended += !s->ended;
    t->left_behind += s->left_behind;
    if (end_s > t->slowest_s) t->slowest_s = end_s;
    tb_emit_sample(run, "struck", i, s->struck);
    tb_emit_sample(run, "named", i, s->named);
    if (!p->lives) tb_emit_sample(run, "gone_s", i, s->gone_s + p->deadline_s);
    int phase = phase_of(s->doing);
    for (int k = 0; k < PHASES; k++) tb_emit_sample(run, phases[k], i, s->struck && k == phase);
    tb_text_add(&t->table, "%-20s %s%s%s%s  %.2f s behind the deadline; %s\n    %s\n", p->fault,
                s->struck ? "" : "NOT STRUCK ", s->named ? "" : "NOT NAMED ", s->ended ? "" : "NOT ENDED ",
                s->left_behind ? "LEFT BEHIND " : "", end_s, s->doing, s->sentence);
}

static tb_status run_faults(const tb_run *run, void *state)
{
    (void)state;
    tally t = {0};
    tb_status st = TB_OK;
    bool stop = false, threads = strcmp(tb_param_str(run, "backend"), "thread") == 0;
    int64_t faults = tb_param_int(run, "faults");
    const char *kind = tb_param_str(run, "kind");
    if (threads != (strcmp(tb_param_str(run, "work"), "sums") == 0))
        return TB_FAIL(TB_ERR_CONFIG, "params.backend thread and params.work sums belong together");
    if (threads && strcmp(kind, "mismatch") != 0 && strcmp(kind, "slow") != 0)
        return TB_FAIL(TB_ERR_CONFIG, "params.kind %s strikes processes; backend thread has none", kind);
    for (int64_t i = 0; st == TB_OK && i < faults && !stop; i++) {
        tb_struck_plan plan = plan_of(run, i);
        tb_struck struck;
        tb_run_phase(run, "fault", i, faults);
        st = threads ? tb_struck_threads(&plan, &struck) : tb_struck_program(&plan, &struck);
        if (st != TB_OK) break;
        count(run, i, &plan, &struck, &t);
        st = tb_run_sync(run, &stop);
    }
    if (st == TB_OK) {
        tb_emit_value(run, "not_struck", "", (double)t.not_struck);
        tb_emit_value(run, "not_named", "", (double)t.not_named);
        tb_emit_value(run, "not_ended", "", (double)t.not_ended);
        tb_emit_value(run, "left_behind", "", (double)t.left_behind);
        tb_emit_value(run, "slowest_s", "s", t.slowest_s);
        tb_emit_text(run, "faults", tb_text_str(&t.table));
    }
    tb_text_free(&t.table);
    return st;
}

static tb_status setup(const tb_run *run, void **out)
{
    *out = NULL;
    if (run->ranks == 1) return TB_OK;
    return TB_FAIL(TB_ERR_CONFIG, "resilience starts its ranks itself: launch.ranks is 1; params.struck_ranks");
}

static void teardown(void *state) { (void)state; }

/* Beside the metrics. */
static const char *const emits[] = {"not_struck", "not_named", "not_ended", "left_behind", "slowest_s", "faults", NULL};

TB_DRIVER(resilience, .version = 1, .doc = "a rank fails: who names it, and how soon is everybody gone", .keys = keys,
          .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics, .n_metrics = sizeof metrics / sizeof metrics[0],
          .emits = emits, .setup = setup, .run = run_faults, .teardown = teardown);
