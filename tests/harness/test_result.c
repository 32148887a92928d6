/* The summary of a point: which launches count, what the interval is taken over, and what is never hidden. */
#include "journal_fixture.h"
#include <math.h>

typedef struct launch_spec {
    const char *status;
    double first; /* step_ms of the launch: first, first + 1, first + 2 on rank 0; rank 1 is 1 slower */
    double peak;
    int parity_holds;
} launch_spec;

static tb_result *result_of(const launch_spec *specs, int n)
{
    char paths[10][64], name[16];
    const char *list[10];
    for (int l = 0; l < n; l++) {
        tb_journal *j;
        tb_point point = sample_point(l);
        snprintf(name, sizeof name, "r%d", l);
        list[l] = temporary(paths[l], name);
        unlink(list[l]);
        assert_ok(tb_journal_create(list[l], &point, &j));
        assert_ok(tb_journal_metric(j, &(tb_metric){.name = "step_ms", .unit = "ms", .reduce = "max"}));
        assert_ok(tb_journal_metric(j, &(tb_metric){.name = "peak", .reduce = "sum", .deterministic = 1}));
        assert_ok(tb_journal_metric(j, &(tb_metric){.name = "loss", .reduce = "rank0", .statistic = "last"}));
        for (int rank = 0; rank < 2; rank++) {
            double x = specs[l].first + rank, values[] = {x, x + 1, x + 2};
            assert_ok(tb_journal_samples(
                j, &(tb_samples){.metric = "step_ms", .rank = rank, .n = 3, .values = values}));
            assert_ok(tb_journal_samples(
                j, &(tb_samples){
                       .metric = "step_ms", .rank = rank, .n = 1, .warmup = 1, .values = (double[]){99}}));
            assert_ok(tb_journal_value(j, &(tb_value){"peak", "B", rank, specs[l].peak}));
        }
        assert_ok(tb_journal_samples(
            j, &(tb_samples){.metric = "loss", .n = 3, .values = (double[]){2.3, 1.1, 0.4}}));
        assert_ok(tb_journal_check(
            j, &(tb_check){.name = "parity", .kind = "parity", .pass = specs[l].parity_holds}));
        assert_ok(tb_journal_end(j, &(tb_end){.status = specs[l].status, .failed_rank = -1}));
        assert_ok(tb_journal_close(j));
    }
    tb_result *r;
    assert_ok(tb_result_from_journals(list, n, &r));
    assert_ok(tb_result_summarise(r, 0.95));
    return r;
}

static void the_interval_is_taken_over_launches(void **state)
{
    (void)state;
    launch_spec specs[8];
    for (int i = 0; i < 8; i++) specs[i] = (launch_spec){"ok", 10 + i, 500, 1};
    tb_result *r = result_of(specs, 8);
    const tb_summary *s = tb_result_summary(r, "step_ms");
    assert_int_equal(s->n_launches, 8);
    assert_int_equal(s->n_samples, 24);
    assert_int_equal(s->n_warmup, 8);
    assert_true(s->value == 15.5); /* launch medians, slowest rank: 12 .. 19 */
    assert_true(s->lo == 12 && s->hi == 19);
    assert_true(fabs(s->level - (1 - 2 / 256.0)) < 1e-12);
    assert_string_equal(s->method, "launches");
    assert_string_equal(s->scope, "measured");
    assert_true(s->min == 11 && s->max == 20);
    assert_true(tb_result_summary(r, "loss")->value == 0.4);
    assert_string_equal(tb_result_status(r), "ok");
    tb_result_free(r);
}

static void one_launch_has_an_interval_over_iterations_that_says_so(void **state)
{
    (void)state;
    tb_result *r = result_of(&(launch_spec){"ok", 10, 500, 1}, 1);
    const tb_summary *s = tb_result_summary(r, "step_ms");
    assert_string_equal(s->method, "iterations");
    assert_true(s->level == 0.75); /* three samples are no 95 % */
    assert_string_equal(tb_result_summary(r, "loss")->method, "none");
    tb_result_free(r);
}

static void failed_launches_give_no_number(void **state)
{
    (void)state;
    const launch_spec specs[] = {
        {"ok", 10, 500, 1}, {"failed", 1, 500, 1}, {"ok", 1, 500, 0}, {"timeout", 1, 500, 1}};
    tb_result *r = result_of(specs, 4);
    assert_int_equal(tb_result_summary(r, "step_ms")->n_launches,
                     1); /* not the one with the wrong result either */
    assert_string_equal(tb_result_status(r), "failed");
    tb_result_free(r);
    r = result_of(specs + 2, 1);
    assert_null(tb_result_summary(r, "step_ms"));
    assert_string_equal(tb_result_status(r), "invalid");
    tb_result_free(r);
}

static void a_deterministic_metric_that_differs_makes_the_point_invalid(void **state)
{
    (void)state;
    const launch_spec same[] = {{"ok", 10, 500, 1}, {"ok", 11, 500, 1}},
                      other[] = {{"ok", 10, 500, 1}, {"ok", 11, 501, 1}};
    tb_result *r = result_of(same, 2);
    assert_string_equal(tb_result_summary(r, "peak")->method, "exact");
    assert_true(tb_result_summary(r, "peak")->value == 1000);
    assert_true(tb_result_summary(r, "peak")->level == 1);
    tb_result_free(r);
    r = result_of(other, 2);
    assert_string_equal(tb_result_summary(r, "peak")->method, "differs");
    assert_string_equal(tb_result_status(r), "invalid");
    tb_result_free(r);
}

static void journals_of_two_points_do_not_mix(void **state)
{
    (void)state;
    char paths[2][64];
    tb_journal *j;
    tb_point point = sample_point(0);
    assert_ok(tb_journal_create(temporary(paths[0], "p0"), &point, &j));
    assert_ok(tb_journal_close(j));
    point.hash = "other";
    assert_ok(tb_journal_create(temporary(paths[1], "p1"), &point, &j));
    assert_ok(tb_journal_close(j));
    tb_result *r;
    assert_fails(tb_result_from_journals((const char *const[]){paths[0], paths[1]}, 2, &r), TB_ERR_INVALID,
                 "different points");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_interval_is_taken_over_launches),
        cmocka_unit_test(one_launch_has_an_interval_over_iterations_that_says_so),
        cmocka_unit_test(failed_launches_give_no_number),
        cmocka_unit_test(a_deterministic_metric_that_differs_makes_the_point_invalid),
        cmocka_unit_test(journals_of_two_points_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporaries);
}
