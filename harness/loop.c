/* The timed loop. Decisions (steady, enough, stop) are rank 0's and are the same on every rank; nothing is
 * recorded inside what is timed. */
#include "loop.h"
#include "group.h"
#include "stats.h"
#include "tb_cpu.h"

enum { BLOCK = 10 };

typedef struct loop {
    const tb_run *run;
    const tb_driver *driver;
    void *state;
    int64_t per_sample;    /* iterations in one sample: short ones are timed together */
    int64_t step;          /* samples so far, warm-up included */
    int64_t synced_ns;
    double block_ms[BLOCK];
    bool stop;
} loop;

static double conf_num(const loop *l, const char *key)
{
    double value = 0;
    tb_status st = tb_conf_num(tb_conf_find(l->run->config, key), key, 0, 1e18, &value);
    return st == TB_OK ? value : 0; /* the point was checked when it was planned */
}

static tb_status time_iterations(const loop *l, int64_t n, double *ms)
{
    int64_t t0 = tb_now_ns();
    for (int64_t i = 0; i < n; i++) TB_TRY(l->driver->run_once(l->run, l->state));
    *ms = (double)(tb_now_ns() - t0) * 1e-6 / (double)n;
    return TB_OK;
}

/* A sample lasts at least a thousand ticks of the clock: the smallest power of two that does, agreed by all
 * ranks. */
static tb_status choose_per_sample(loop *l)
{
    const double enough_ms = 0.03;
    tb_run_phase(l->run, "calibrate", -1, 0);
    for (l->per_sample = 1;; l->per_sample *= 2) {
        double ms;
        TB_TRY(tb_run_barrier(l->run));
        TB_TRY(time_iterations(l, l->per_sample, &ms));
        int64_t total_ns = (int64_t)(ms * (double)l->per_sample * 1e6);
        TB_TRY(tb_group_max(l->run->group, &total_ns));
        if ((double)total_ns >= enough_ms * 1e6) break;
    }
    if (l->run->rank == 0) tb_emit_value(l->run, "iters_per_sample", "", (double)l->per_sample);
    return TB_OK;
}

static tb_status run_block(loop *l, const char *phase, int64_t done, int64_t total)
{
    tb_run_phase(l->run, phase, done, total);
    TB_TRY(tb_run_barrier(l->run));
    int64_t first = l->step;
    for (int i = 0; i < BLOCK; i++) {
        tb_run_phase(l->run, phase, done + i, total);
        TB_TRY(time_iterations(l, l->per_sample, &l->block_ms[i]));
    }
    for (int i = 0; i < BLOCK; i++) tb_emit_sample(l->run, "iter_ms", first + i, l->block_ms[i]);
    l->step += BLOCK;
    tb_run_headline(l->run, "iter", l->block_ms[BLOCK - 1], "ms");
    return TB_OK;
}

/* Behind each block every rank takes rank 0's decision, and about once a second the records are brought
 * together. */
static tb_status settle(loop *l, int *decision)
{
    int64_t now_ns = tb_now_ns();
    int rank0[2] = {*decision, now_ns - l->synced_ns > 1000000000};
    TB_TRY(tb_group_broadcast(l->run->group, rank0, sizeof rank0));
    *decision = rank0[0];
    if (!rank0[1]) return TB_OK;
    l->synced_ns = now_ns;
    return tb_run_sync(l->run, &l->stop);
}

static tb_status warm_up(loop *l, bool *steady)
{
    tb_warmup w = {.min_iters = (int64_t)conf_num(l, "measure.warmup_iters"),
                   .min_s = conf_num(l, "measure.warmup_s"),
                   .tol = conf_num(l, "measure.steady_tol"),
                   .max_s = conf_num(l, "measure.warmup_max_s")};
    int state = TB_WARMING;
    tb_run_warming(l->run, true);
    while (state == TB_WARMING && !l->stop) {
        TB_TRY(run_block(l, "warm-up", w.n, 0));
        for (int i = 0; i < BLOCK && state == TB_WARMING; i++)
            state = (int)tb_warmup_add(&w, l->block_ms[i], l->block_ms[i] * 1e-3 * (double)l->per_sample);
        TB_TRY(settle(l, &state));
    }
    tb_run_warming(l->run, false);
    *steady = state == TB_STEADY;
    return TB_OK;
}

tb_status tb_loop_run(const tb_run *run, const tb_driver *driver, void *state, bool *steady, bool *stopped)
{
    loop l = {.run = run, .driver = driver, .state = state, .synced_ns = tb_now_ns()};
    TB_TRY(choose_per_sample(&l));
    TB_TRY(warm_up(&l, steady));
    int64_t min_samples = (int64_t)conf_num(&l, "measure.min_iters"), begin_ns = tb_now_ns(), n = 0;
    int64_t min_ns = (int64_t)(conf_num(&l, "measure.min_s") * 1e9);
    for (int more = 1; more && !l.stop;) {
        TB_TRY(run_block(&l, "measure", n, min_samples));
        n += BLOCK;
        more = n < min_samples || tb_now_ns() - begin_ns < min_ns;
        TB_TRY(settle(&l, &more));
    }
    *stopped = l.stop;
    return TB_OK;
}
