/* Generated schedules keep every rule and the closed forms of their papers: what each rank holds, how long it idles. */
#include "schedule_grid.h"
#include "tb_alloc.h"
#include "tb_schedule_sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { MAX = 128 };

/* All durations here are sums of small multiples of 1/4: exact. */
static void assert_time(double got, double wanted)
{
    if (got != wanted) fail_msg("%.17g, not %.17g", got, wanted);
}

static tb_schedule *make(const char *name, int p, int m, int v)
{
    tb_schedule *s = NULL;
    if (try_make(name, p, m, v, &s) != TB_OK) fail_msg("%s", tb_error_message());
    return s;
}

/* Activations held by each rank when each stage keeps one unit per micro-batch. */
static void held_units(const tb_schedule *s, int64_t *out)
{
    tb_stage_bytes bytes[MAX];
    tb_rank_peak peaks[MAX];
    for (int i = 0; i < s->stages; i++) bytes[i] = (tb_stage_bytes){ .act = 1, .deferred = 1 };
    tb_schedule_peaks(s, bytes, peaks);
    for (int r = 0; r < s->ranks; r++) {
        out[r] = peaks[r].act_bytes;
        assert_int_equal(peaks[r].held_bytes, peaks[r].act_bytes);
    }
}

static double makespan(const tb_schedule *s, double f, double i, double w, bool streams, tb_sim_rank *ranks)
{
    tb_stage_time times[MAX];
    double ns = 0;
    for (int k = 0; k < s->stages; k++) times[k] = (tb_stage_time){ f, i + w, i, w, 0, 0 };
    if (tb_schedule_simulate(s, &(tb_sim_config){ .times = times, .streams = streams }, ranks, &ns) != TB_OK)
        fail_msg("%s", tb_error_message());
    return ns;
}

static void every_generated_schedule_keeps_every_rule(void **state)
{
    (void)state;
    grid_point g;
    int n = 0;
    for (; grid_at(n, 32, 128, &g); n++) {
        tb_schedule *s = make(g.name, g.ranks, g.microbatches, g.chunks);
        tb_schedule_rule broken;
        if (tb_schedule_check(s, &broken) != TB_OK)
            fail_msg("p=%d m=%d v=%d: %s", g.ranks, g.microbatches, g.chunks, tb_error_message());
        assert_int_equal(broken, TB_RULE_NONE);
        tb_schedule_free(s);
    }
    assert_true(n > 200);
}

static int min_int(int a, int b) { return a < b ? a : b; }

static void each_rank_holds_what_the_closed_form_says(void **state)
{
    (void)state;
    int64_t held[MAX];
    for (int p = 1; p <= 8; p++)
        for (int m = 1; m <= 32; m++) {
            tb_schedule *gpipe = make("gpipe", p, m, 1), *one = make("1f1b", p, m, 1), *zb = make("zb_h1", p, m, 1);
            held_units(gpipe, held);
            for (int r = 0; r < p; r++) assert_int_equal(held[r], m);
            held_units(one, held);
            for (int r = 0; r < p; r++) assert_int_equal(held[r], min_int(m, p - r));
            held_units(zb, held);
            for (int r = 0; r < p; r++) assert_int_equal(held[r], min_int(m, p));
            tb_schedule_free(gpipe);
            tb_schedule_free(one);
            tb_schedule_free(zb);
        }
}

static void interleaved_rank_holds_two_p_minus_r_and_v_minus_one_p(void **state)
{
    (void)state;
    int64_t held[MAX];
    for (int p = 1; p <= 8; p++)
        for (int v = 1; v <= 4; v++)
            for (int m = p; m <= 4 * p; m += p) {
                tb_schedule *s = make("interleaved_1f1b", p, m, v);
                held_units(s, held);
                for (int r = 0; r < p; r++)
                    assert_int_equal(held[r], min_int(m * v, 2 * (p - r - 1) + (v - 1) * p + 1));
                tb_schedule_free(s);
            }
}

static void accumulation_holds_one_micro_batch(void **state)
{
    (void)state;
    int64_t held[MAX];
    tb_schedule *s = make("accumulate", 1, 16, 4);
    held_units(s, held);
    assert_int_equal(held[0], 4); /* its four stages, one micro-batch */
    tb_schedule_free(s);
}

static void makespans_at_8_ranks_and_32_micro_batches(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int v;
        double units;
    } known[] = { { "gpipe", 1, 117 },           { "1f1b", 1, 117 },  { "interleaved_1f1b", 2, 106.5 },
                  { "interleaved_1f1b", 4, 101.25 }, { "zb_h1", 1, 103 } };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        tb_sim_rank ranks[MAX];
        tb_schedule *s = make(known[i].name, 8, 32, known[i].v);
        double unit = 1.0 / known[i].v;
        assert_time(makespan(s, unit, unit, unit, true, ranks), known[i].units);
        for (int r = 0; r < 8; r++) {
            assert_time(ranks[r].busy_ns, 96);
            assert_time(ranks[r].bubble_ns, known[i].units - 96);
        }
        tb_schedule_free(s);
    }
}

static double bubble(const char *name, int p, int m, int v, int f, int i, int w, bool streams)
{
    tb_sim_rank ranks[MAX];
    tb_schedule *s = NULL;
    tb_schedule_config c = { p, m, v, f, i, w };
    assert_int_equal(tb_schedule_make(name, &c, &s), TB_OK);
    assert_int_equal(tb_schedule_check(s, NULL), TB_OK);
    double ns = makespan(s, f, i, w, streams, ranks) - (double)(m * v * (f + i + w));
    tb_schedule_free(s);
    return ns;
}

static void bubbles_follow_their_formulas(void **state)
{
    (void)state;
    static const int shapes[][3] = { { 1, 1, 1 }, { 2, 2, 1 }, { 3, 3, 2 }, { 1, 2, 1 } };
    for (int k = 0; k < 4; k++)
        for (int p = 1; p <= 8; p++)
            for (int m = 2 * p; m <= 4 * p; m += p) {
                int f = shapes[k][0], i = shapes[k][1], w = shapes[k][2];
                double all = (p - 1) * (f + i + w);
                assert_time(bubble("gpipe", p, m, 1, f, i, w, true), all);
                assert_time(bubble("1f1b", p, m, 1, f, i, w, true), all);
                assert_time(bubble("interleaved_1f1b", p, m, 2, f, i, w, true), all); /* of chunks half as long */
                assert_time(bubble("zb_h1", p, m, 1, f, i, w, true), (p - 1) * (f + i - w));
            }
}

/* Where work and messages share one line, the exchanges of 1F1B and GPipe still meet without waiting. */
static void one_line_costs_gpipe_and_1f1b_nothing(void **state)
{
    (void)state;
    for (int p = 1; p <= 8; p++) {
        assert_time(bubble("gpipe", p, 4 * p, 1, 1, 1, 1, false), 3 * (p - 1));
        assert_time(bubble("1f1b", p, 4 * p, 1, 1, 1, 1, false), 3 * (p - 1));
    }
}

static void refuses_what_does_not_exist(void **state)
{
    (void)state;
    tb_schedule *s;
    assert_int_equal(try_make("1fib", 2, 2, 1, &s), TB_ERR_NOT_FOUND);
    assert_non_null(strstr(tb_error_message(), "1f1b"));
    assert_null(s);
    assert_int_equal(try_make("interleaved_1f1b", 4, 6, 2, &s), TB_ERR_INVALID);
    assert_int_equal(try_make("accumulate", 2, 2, 1, &s), TB_ERR_INVALID);
    assert_int_equal(try_make("gpipe", 2, 2, 2, &s), TB_ERR_INVALID);
    assert_int_equal(try_make("gpipe", 0, 2, 1, &s), TB_ERR_INVALID);
    assert_int_equal(try_make("gpipe", 2, 0, 1, &s), TB_ERR_INVALID);
    assert_int_equal(
        tb_schedule_make("gpipe", &(tb_schedule_config){.ranks = 2, .microbatches = 2, .f_ticks = 1001}, &s),
        TB_ERR_INVALID);
    assert_int_equal(try_make("interleaved_1f1b", 4096, 4096, 17, &s), TB_ERR_INVALID);
}

/* Whichever allocation fails: a status, no leak, no schedule. */
static void survives_every_failed_allocation(void **state)
{
    (void)state;
    for (int64_t n = 1;; n++) {
        tb_mem_stats before, after;
        tb_schedule *s = NULL;
        tb_heap_stats(tb_heap_process(), &before);
        tb_heap_fail_at(tb_heap_process(), n);
        tb_status st = try_make("interleaved_1f1b", 3, 6, 2, &s);
        if (st == TB_OK) st = tb_schedule_check(s, NULL);
        tb_heap_fail_at(tb_heap_process(), 0);
        tb_schedule_free(s);
        tb_heap_stats(tb_heap_process(), &after);
        assert_int_equal(before.live_blocks, after.live_blocks);
        if (st == TB_OK) {
            assert_true(n > 20);
            return;
        }
        assert_int_equal(st, TB_ERR_OOM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_generated_schedule_keeps_every_rule),
        cmocka_unit_test(each_rank_holds_what_the_closed_form_says),
        cmocka_unit_test(interleaved_rank_holds_two_p_minus_r_and_v_minus_one_p),
        cmocka_unit_test(accumulation_holds_one_micro_batch),
        cmocka_unit_test(makespans_at_8_ranks_and_32_micro_batches),
        cmocka_unit_test(bubbles_follow_their_formulas),
        cmocka_unit_test(one_line_costs_gpipe_and_1f1b_nothing),
        cmocka_unit_test(refuses_what_does_not_exist),
        cmocka_unit_test(survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
