/* Ranks as threads, one of them struck. */
#include "struck_threads.h"
#include "flight.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RANKS_MAX = 16, COUNT = 3000, BUCKETS = 2 };

typedef struct rank_thread {
    const tb_struck_plan *plan;
    const tb_comm_id *id;
    const char *prefix;
    int rank;
    pthread_t thread;
    tb_status status;
    char message[512];
} rank_thread;

static tb_status sum(tb_comm *c)
{
    float x[COUNT];
    for (int64_t i = 0; i < STRUCK_THREAD_OPERATIONS; i++) {
        for (int k = 0; k < COUNT; k++) x[k] = (float)(tb_comm_rank(c) + k);
        tb_comm_label(c, "step %lld, gradients, bucket %lld of %d", (long long)i / BUCKETS, (long long)i % BUCKETS,
                      BUCKETS);
        TB_TRY(tb_comm_allreduce(c, x, COUNT, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    }
    return TB_OK;
}

static void *run_rank(void *arg)
{
    rank_thread *r = arg;
    tb_comm *c = NULL;
    tb_comm_options options = {.deadline_ns = (int64_t)(r->plan->deadline_s * 1e9)};
    tb_error_clear();
    r->status = tb_comm_open("thread", r->rank, r->plan->ranks, r->id, &options, &c);
    if (r->status == TB_OK) r->status = tb_comm_add_check(c);
    if (r->status == TB_OK) r->status = tb_comm_add_fault(c, r->plan->fault);
    if (r->status == TB_OK) r->status = tb_comm_add_recorder(c, r->prefix);
    if (r->status == TB_OK) r->status = sum(c);
    snprintf(r->message, sizeof r->message, "%s", tb_error_message());
    tb_comm_close(c);
    return NULL;
}

static void examine(const tb_struck_plan *p, const rank_thread *ranks, const char *prefix, int64_t end_ns,
                    tb_struck *out)
{
    tb_text report = {0};
    tb_culprit culprit;
    char sentence[256];
    out->ended = true;
    for (int r = 0; r < p->ranks; r++) out->ended &= ranks[r].status != TB_OK;
    if (tb_flight_tell(prefix, &report, sentence, sizeof sentence, &culprit)) {
        bool right = culprit.rank == p->victim || (p->disputable && culprit.other == p->victim);
        out->struck = culprit.rank >= 0;
        out->named = right && *culprit.doing;
        out->gone_s = (double)(end_ns - culprit.since_ns) * 1e-9 - p->deadline_s;
        snprintf(out->doing, sizeof out->doing, "%s", culprit.doing);
        snprintf(out->sentence, sizeof out->sentence, "%s; %.360s", sentence, ranks[p->victim == 0].message);
    }
    tb_text_free(&report);
}

tb_status tb_struck_threads(const tb_struck_plan *plan, tb_struck *out)
{
    char folder[] = "/tmp/tb-struck-XXXXXX", prefix[64];
    rank_thread ranks[RANKS_MAX] = {0};
    tb_comm_id id;
    int started = 0;
    *out = (tb_struck){0};
    if (plan->ranks > RANKS_MAX)
        return TB_FAIL(TB_ERR_CONFIG, "resilience: at most %d ranks are threads, not %d", RANKS_MAX, plan->ranks);
    TB_TRY(tb_comm_make_id("thread", plan->ranks, &id));
    if (!mkdtemp(folder)) return TB_FAIL(TB_ERR_IO, "%s: %s", folder, strerror(errno));
    snprintf(prefix, sizeof prefix, "%s/flight", folder);
    for (; started < plan->ranks; started++) {
        rank_thread *r = &ranks[started];
        *r = (rank_thread){.plan = plan, .id = &id, .prefix = prefix, .rank = started};
        if (pthread_create(&r->thread, NULL, run_rank, r) != 0) break; /* the others leave at their deadline */
    }
    for (int r = 0; r < started; r++) pthread_join(ranks[r].thread, NULL);
    if (started == plan->ranks) examine(plan, ranks, prefix, tb_now_ns(), out);
    for (int r = 0; r < plan->ranks; r++) {
        char path[96];
        snprintf(path, sizeof path, "%s.%d", prefix, r);
        unlink(path);
    }
    rmdir(folder);
    return started == plan->ranks ? TB_OK : TB_FAIL(TB_ERR_OOM, "resilience: cannot start a thread for each rank");
}
