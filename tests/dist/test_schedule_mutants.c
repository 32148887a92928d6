/* The checker says of a schedule exactly what happens when threads run it without any buffering: on generated
 * schedules and on mutants of them (actions swapped, dropped, doubled, retagged, groups joined and split).
 * TB_MUTANTS=N asks for N mutants of each verdict from schedules of up to 32 ranks and 128 micro-batches. */
#include "rendezvous.h"
#include "schedule_grid.h"
#include "tb_rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { MAX_STAGES = 256 };
static const int64_t second = 1000000000;

static void fill_bytes(const tb_schedule *s, tb_stage_bytes *bytes)
{
    for (int i = 0; i < s->stages; i++)
        bytes[i] =
            (tb_stage_bytes){.act = 512 + 8 * i, .deferred = 64 + 8 * (i % 3), .input = i ? 32 + 8 * (i % 5) : 0};
}

/* Runs it, compares with the checker; true: valid. */
static bool agree(const tb_schedule *s, bool streams, const char *what)
{
    tb_stage_bytes bytes[MAX_STAGES];
    rendezvous_result ran;
    tb_schedule_rule broken;
    fill_bytes(s, bytes);
    bool valid = tb_schedule_check(s, &broken) == TB_OK;
    rendezvous_run(s, bytes, (rendezvous_options){ .streams = streams, .deadline_ns = 60 * second }, &ran);
    if (valid != (ran.verdict == RAN) || (broken == TB_RULE_DEADLOCK && ran.verdict != STUCK)) {
        tb_text text = { 0 };
        if (tb_schedule_write(s, &text) == TB_OK) print_message("%s", tb_text_str(&text));
        fail_msg("%s: checker: %s; threads: %s", what, valid ? "valid" : tb_error_message(),
                 ran.verdict == RAN ? "ran" : ran.why);
    }
    if (valid && !streams) {
        tb_rank_peak peaks[64];
        tb_schedule_peaks(s, bytes, peaks);
        for (int r = 0; r < s->ranks; r++) {
            assert_int_equal(peaks[r].held_bytes, ran.held_bytes[r]);
            assert_int_equal(peaks[r].inside_bytes, ran.inside_bytes[r]);
        }
    }
    return valid;
}

static void generated_schedules_run_and_hold_the_predicted_bytes(void **state)
{
    (void)state;
    grid_point g;
    for (int n = 0; grid_at(n, 8, 16, &g); n++) {
        tb_schedule *s;
        assert_int_equal(try_make(g.name, g.ranks, g.microbatches, g.chunks, &s), TB_OK);
        assert_true(agree(s, false, g.name));
        if (n % 3 == 0) assert_true(agree(s, true, g.name));
        tb_schedule_free(s);
    }
}

typedef struct dice {
    uint64_t seed, at;
} dice;
static int64_t roll(dice *d, int64_t n) { return (int64_t)tb_random_below(d->seed, 0, d->at++, (uint64_t)n); }

static void retag(dice *d, const tb_schedule *s, tb_action *a)
{
    int64_t by = roll(d, 2) ? 1 : -1;
    switch (roll(d, 4)) {
    case 0: a->microbatch = (int32_t)((a->microbatch + by + s->microbatches) % s->microbatches); break;
    case 1: a->stage = (uint16_t)((a->stage + by + s->stages) % s->stages); break;
    case 2: a->peer = (uint16_t)((a->peer + by + s->ranks) % s->ranks); break;
    default: a->kind = (uint8_t)roll(d, TB_ACTION_KINDS);
    }
    if (!tb_action_is_message(a)) a->peer = 0;
    if (a->kind >= TB_DO_REDUCE) a->microbatch = 0;
}

/* One change; swaps of neighbours (which often harm nothing) more often than the rest. */
static const char *mutate(dice *d, tb_schedule *s)
{
    int rank = (int)roll(d, s->ranks);
    tb_action_list *list = &s->lists[rank];
    int64_t i = roll(d, list->n), j = i;
    tb_action a = list->at[i];
    switch (roll(d, 9)) {
    case 0:
        memmove(&list->at[i], &list->at[i + 1], (size_t)(list->n - i - 1) * sizeof a);
        list->n--;
        return "drop";
    case 1:
        if (tb_schedule_append(s, rank, a) != TB_OK) fail();
        j = roll(d, list->n);
        memmove(&list->at[j + 1], &list->at[j], (size_t)(list->n - j - 1) * sizeof a);
        list->at[j] = a;
        return "double";
    case 2:
    case 3: retag(d, s, &list->at[i]); return "retag";
    case 4:
        if (i) list->at[i].joined ^= 1;
        return "join or split";
    case 5: j = roll(d, list->n); break;
    default: j = i + 1 < list->n ? i + 1 : i;
    }
    if (roll(d, 2)) { /* either the actions move and groups stay where they were, or groups move along */
        uint8_t joined = list->at[i].joined;
        list->at[i].joined = list->at[j].joined;
        list->at[j].joined = joined;
        a = list->at[i];
    }
    list->at[i] = list->at[j];
    list->at[j] = a;
    list->at[0].joined = 0;
    return "swap";
}

static void mutants_get_the_verdict_of_the_threads(void **state)
{
    (void)state;
    const char *longer = getenv("TB_MUTANTS");
    int64_t wanted = longer ? strtoll(longer, NULL, 10) : 300, counts[2] = { 0 };
    dice d = { .seed = 11 };
    grid_point g = { 0 };
    int points = 0, quick = 0;
    while (grid_at(points, 32, 128, &g)) points++;
    while (counts[0] < wanted || counts[1] < wanted) {
        bool small = !longer || roll(&d, 10) > 0;
        do grid_at((int)roll(&d, points), 32, 128, &g);
        while (small && (g.ranks > 5 || g.microbatches > 8 || g.ranks * g.microbatches == 1));
        tb_schedule *s;
        assert_int_equal(try_make(g.name, g.ranks, g.microbatches, g.chunks, &s), TB_OK);
        const char *what = mutate(&d, s);
        if (roll(&d, 4) == 0) what = mutate(&d, s);
        if (counts[tb_schedule_check(s, NULL) == TB_OK] < wanted) counts[agree(s, quick++ % 4 == 3, what)]++;
        tb_schedule_free(s);
    }
    print_message("%d valid and %d broken mutants agree\n", (int)counts[1], (int)counts[0]);
}

/* Two ranks that both send first: the checker names both, and the threads leave at their deadline. */
static void deadlock_is_found_by_the_deadline_too(void **state)
{
    (void)state;
    static const char text[] = "tb-schedule 1\nname cross\nranks 2\nstages 2\nmicrobatches 2\nplacement 0 1\n"
                               "rank 0: 0F0 0SEND_F0>1 0F1 0SEND_F1>1 0RECV_B0<1 0B0 0RECV_B1<1 0B1 0REDUCE 0OPT\n"
                               "rank 1: 1RECV_F0<0 1F0 1B0 1SEND_B0>0 1RECV_F1<0 1F1 1B1 1SEND_B1>0 1REDUCE 1OPT\n";
    tb_schedule *s;
    tb_schedule_rule broken;
    assert_int_equal(tb_schedule_parse(text, sizeof text - 1, &s), TB_OK);
    assert_int_equal(tb_schedule_check(s, &broken), TB_ERR_INVALID);
    assert_int_equal(broken, TB_RULE_DEADLOCK);
    assert_string_equal(
        tb_error_message(),
        "schedule cross deadlocks: rank 0 at action 3, 0SEND_F1>1, waits for rank 1; rank 1 at action 3, "
        "1SEND_B0>0, waits for rank 0. Post opposite messages together, or in the same order on both ranks");
    tb_stage_bytes bytes[2] = { { .act = 64, .deferred = 16 }, { .act = 64, .deferred = 16, .input = 16 } };
    for (int streams = 0; streams < 2; streams++) {
        rendezvous_result ran;
        int64_t before = tb_now_ns();
        rendezvous_run(s, bytes, (rendezvous_options){ .streams = streams, .only_deadline = true,
                                                       .deadline_ns = second / 5 }, &ran);
        assert_int_equal(ran.verdict, STUCK);
        assert_non_null(strstr(ran.why, "deadline"));
        assert_true(tb_now_ns() - before >= second / 5);
    }
    tb_schedule_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generated_schedules_run_and_hold_the_predicted_bytes),
        cmocka_unit_test(mutants_get_the_verdict_of_the_threads),
        cmocka_unit_test(deadlock_is_found_by_the_deadline_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
