/* The simulator: links, streams, slow ranks, where time goes and when memory is held. */
#include "schedule_grid.h"
#include "tb_schedule_sim.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { MAX = 64 };

typedef struct setup {
    tb_schedule *s;
    tb_stage_time times[MAX];
    tb_stage_bytes bytes[MAX];
    tb_sim_rank ranks[MAX];
    tb_sim_config c;
} setup;

static void open_setup(setup *u, const char *name, int p, int m, int v)
{
    *u = (setup){ 0 };
    assert_int_equal(try_make(name, p, m, v, &u->s), TB_OK);
    for (int i = 0; i < u->s->stages; i++) {
        u->times[i] = (tb_stage_time){ 100, 200, 100, 100, 50, 10 };
        u->bytes[i] = (tb_stage_bytes){ .act = 1000 + i, .deferred = 300, .input = i ? 40 : 0 };
    }
    u->c = (tb_sim_config){ .times = u->times, .bytes = u->bytes, .streams = true };
}

static double simulate(setup *u)
{
    double ns = 0;
    if (tb_schedule_simulate(u->s, &u->c, u->ranks, &ns) != TB_OK) fail_msg("%s", tb_error_message());
    for (int r = 0; r < u->s->ranks; r++) {
        const tb_sim_rank *k = &u->ranks[r];
        assert_true(k->busy_ns >= 0 && k->exposed_ns >= 0 && k->bubble_ns >= -1e-6);
        assert_true(fabs(k->busy_ns + k->exposed_ns + k->bubble_ns - ns) < 1e-6 && k->finish_ns <= ns);
    }
    return ns;
}

/* Two ranks, one micro-batch: every duration stands on the critical path once. */
static void one_micro_batch_takes_the_sum_of_its_path(void **state)
{
    (void)state;
    for (int streams = 0; streams < 2; streams++) {
        setup u;
        open_setup(&u, "1f1b", 2, 1, 1);
        u.c.streams = streams;
        u.c.link = (tb_link){ .latency_ns = 7, .ns_per_byte = 0.5 }; /* 40 bytes: 27 ns */
        assert_true(simulate(&u) == 100 + 27 + 100 + 200 + 27 + 200 + 50 + 10);
        assert_true(u.ranks[0].busy_ns == 310);
        assert_true(u.ranks[0].exposed_ns == (streams ? 27 + 50 : 27 + 27 + 50));
        tb_schedule_free(u.s);
    }
}

static void nodes_use_the_far_link(void **state)
{
    (void)state;
    setup u;
    open_setup(&u, "gpipe", 4, 1, 1);
    double near = simulate(&u);
    u.c.far_link = (tb_link){ .latency_ns = 1000 };
    assert_true(simulate(&u) == near);
    u.c.ranks_per_node = 2;
    assert_true(simulate(&u) == near + 2000); /* one border, crossed forth and back */
    u.c.ranks_per_node = 1;
    assert_true(simulate(&u) == near + 6000);
    tb_schedule_free(u.s);
}

static void streams_hide_messages_behind_work(void **state)
{
    (void)state;
    for (int g = 0; tb_schedule_name_at(g); g++) {
        setup u;
        bool accumulate = strcmp(tb_schedule_name_at(g), "accumulate") == 0;
        open_setup(&u, tb_schedule_name_at(g), accumulate ? 1 : 8, 32, 1);
        u.c.link = (tb_link){ .latency_ns = 20 };
        double beside = simulate(&u), exposed = u.ranks[u.s->ranks / 2].exposed_ns;
        u.c.streams = false;
        double in_line = simulate(&u);
        assert_true(beside <= in_line && exposed <= u.ranks[u.s->ranks / 2].exposed_ns);
        if (strcmp(u.s->name, "zb_h1") == 0) assert_true(beside < in_line);
        tb_schedule_free(u.s);
    }
}

static void slow_rank_sets_the_pace(void **state)
{
    (void)state;
    setup u;
    double slow[4] = { 1, 1, 1.5, 1 };
    open_setup(&u, "1f1b", 4, 64, 1);
    double even = simulate(&u);
    u.c.slowdown = slow;
    double uneven = simulate(&u);
    assert_true(uneven >= 64 * 450 && uneven > 1.4 * even && uneven < 1.5 * even);
    assert_true(u.ranks[2].bubble_ns < u.ranks[1].bubble_ns);
    tb_schedule_free(u.s);
}

static void jitter_depends_on_the_seed_alone(void **state)
{
    (void)state;
    setup u;
    open_setup(&u, "zb_h1", 4, 16, 1);
    u.c.jitter = 0.2;
    u.c.seed = 1;
    double a = simulate(&u), b = simulate(&u);
    u.c.seed = 2;
    assert_true(a == b && simulate(&u) != a);
    tb_schedule_free(u.s);
}

static void count_bytes(void *arg, int rank, double at, int64_t held)
{
    (void)at;
    int64_t *last = arg;
    assert_true(held >= 0);
    last[rank] = held;
}

/* In one line the memory over time peaks where the list says, and all is given back. */
static void memory_timeline_agrees_with_the_exact_peaks(void **state)
{
    (void)state;
    grid_point g;
    for (int n = 0; grid_at(n, 8, 16, &g); n += 3) {
        setup u;
        int64_t last[MAX] = { 0 };
        tb_rank_peak peaks[MAX];
        open_setup(&u, g.name, g.ranks, g.microbatches, g.chunks);
        u.c.streams = false;
        u.c.on_memory = count_bytes;
        u.c.arg = last;
        simulate(&u);
        tb_schedule_peaks(u.s, u.bytes, peaks);
        for (int r = 0; r < u.s->ranks; r++) {
            assert_int_equal(last[r], 0);
            assert_int_equal(u.ranks[r].peak_bytes, peaks[r].inside_bytes);
        }
        u.c.streams = true;
        simulate(&u);
        for (int r = 0; r < u.s->ranks; r++) assert_int_equal(last[r], 0);
        tb_schedule_free(u.s);
    }
}

static void count_actions(void *arg, int rank, int64_t index, double start, double end)
{
    (void)rank;
    (void)index;
    assert_true(start <= end);
    ++*(int64_t *)arg;
}

static void every_action_is_observed_once(void **state)
{
    (void)state;
    setup u;
    int64_t seen = 0, all = 0;
    open_setup(&u, "interleaved_1f1b", 4, 8, 2);
    u.c.on_action = count_actions;
    u.c.arg = &seen;
    simulate(&u);
    for (int r = 0; r < 4; r++) all += u.s->lists[r].n;
    assert_int_equal(seen, all);
    tb_schedule_free(u.s);
}

static void schedule_that_cannot_end_is_refused(void **state)
{
    (void)state;
    setup u;
    double ns;
    open_setup(&u, "1f1b", 2, 2, 1);
    u.s->lists[1].n = 1;
    assert_int_equal(tb_schedule_simulate(u.s, &u.c, u.ranks, &ns), TB_ERR_INVALID);
    assert_non_null(strstr(tb_error_message(), "rank 0"));
    tb_schedule_free(u.s);
}

static void ring_moves_two_n_minus_one_over_n_of_the_bytes(void **state)
{
    (void)state;
    tb_link link = { .latency_ns = 10, .ns_per_byte = 2 };
    assert_true(tb_link_ring_ns(&link, 4, 100) == 6 * 10 + 1.5 * 100 * 2);
    assert_true(tb_link_ring_ns(&link, 1, 100) == 0);
}

/* A rank computes the 1024-rank, 4096-micro-batch case in seconds; here a tenth of it, to stay short. */
static void large_cases_keep_the_closed_form(void **state)
{
    (void)state;
    tb_schedule *s;
    static tb_stage_time times[256];
    static tb_sim_rank ranks[256];
    double ns;
    assert_int_equal(try_make("1f1b", 256, 1024, 1, &s), TB_OK);
    for (int i = 0; i < 256; i++) times[i] = (tb_stage_time){ .f_ns = 1, .b_ns = 2 };
    assert_int_equal(tb_schedule_simulate(s, &(tb_sim_config){ .times = times, .streams = true }, ranks, &ns), TB_OK);
    assert_true(ns == 3 * (1024 + 255));
    tb_schedule_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_micro_batch_takes_the_sum_of_its_path),
        cmocka_unit_test(nodes_use_the_far_link),
        cmocka_unit_test(streams_hide_messages_behind_work),
        cmocka_unit_test(slow_rank_sets_the_pace),
        cmocka_unit_test(jitter_depends_on_the_seed_alone),
        cmocka_unit_test(memory_timeline_agrees_with_the_exact_peaks),
        cmocka_unit_test(every_action_is_observed_once),
        cmocka_unit_test(schedule_that_cannot_end_is_refused),
        cmocka_unit_test(ring_moves_two_n_minus_one_over_n_of_the_bytes),
        cmocka_unit_test(large_cases_keep_the_closed_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
