/* Result files: all that the journals held comes back, and a file is either whole or not there. */
#include "h5.h"
#include "journal_fixture.h"
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static tb_result *two_launches(void)
{
    char paths[2][64];
    tb_result *r;
    write_sample_journal(temporary(paths[1], "launch0"), 0, 4);
    write_sample_journal(temporary(paths[0], "launch1"), 1, 3); /* fewer iterations; and listed first */
    assert_ok(tb_result_from_journals((const char *const[]){paths[0], paths[1]}, 2, &r));
    assert_ok(tb_result_summarise(r, 0.95));
    return r;
}

static void a_result_reads_back_as_it_was_written(void **state)
{
    (void)state;
    char path[64];
    tb_result *wrote = two_launches(), *read;
    assert_ok(tb_h5_write(temporary(path, "point.h5"), wrote));
    assert_ok(tb_h5_read(path, &read));
    assert_int_equal(read->n_launches, 2);
    for (int i = 0; i < 2; i++) {
        const tb_launch *a = wrote->launches[i], *b = read->launches[i];
        assert_int_equal(a->point.launch, i);
        assert_int_equal(b->point.launch, i);
        assert_int_equal(b->point.seed, -1);
        assert_string_equal(b->point.config, a->point.config);
        assert_string_equal(b->point.source, a->point.source);
        assert_string_equal(b->point.question, "How fast?");
        assert_string_equal(tb_launch_fact(b, "build/git_sha"), "0123abcd");
        assert_int_equal(b->n_metrics, a->n_metrics);
        assert_int_equal(b->n_series, a->n_series);
        for (int k = 0; k < a->n_series; k++) {
            const tb_series *s = &a->series[k], *t = tb_launch_series(b, s->metric, s->rank, s->warmup);
            assert_non_null(t);
            assert_int_equal(t->n, s->n);
            assert_memory_equal(t->values, s->values, sizeof *s->values * (size_t)s->n);
            assert_memory_equal(t->steps, s->steps, sizeof *s->steps * (size_t)s->n);
        }
        assert_int_equal(b->n_values, a->n_values);
        assert_true(tb_launch_value(b, "peak_bytes", 1)->value == 1000);
        assert_string_equal(tb_launch_artefact(b, "log", 0), "epoch 1\nepoch 2\n");
        assert_int_equal(b->n_events, 1);
        assert_int_equal(b->events[0].t1_ns, 9);
        assert_int_equal(b->n_checks, 1);
        assert_string_equal(b->checks[0].name, a->checks[0].name);
        assert_string_equal(b->end.status, "ok");
        assert_int_equal(b->end.utc_ns, 99);
    }
    assert_int_equal(read->n_summaries, wrote->n_summaries);
    const tb_summary *s = tb_result_summary(read, "step_ms");
    assert_true(s->value == tb_result_summary(wrote, "step_ms")->value);
    assert_string_equal(s->method, "launches");
    assert_string_equal(tb_result_status(read), "ok");
    tb_result_free(wrote);
    tb_result_free(read);
}

static void writing_twice_gives_the_same_bytes(void **state)
{
    (void)state;
    char first[64], second[64];
    size_t a_bytes, b_bytes;
    tb_result *r = two_launches();
    assert_ok(tb_h5_write(temporary(first, "a.h5"), r));
    assert_ok(tb_h5_write(temporary(second, "b.h5"), r));
    char *a = read_bytes(first, &a_bytes), *b = read_bytes(second, &b_bytes);
    assert_int_equal(a_bytes, b_bytes);
    assert_memory_equal(a, b, a_bytes);
    free(a);
    free(b);
    tb_result_free(r);
}

static void long_texts_and_many_samples_survive_compression(void **state)
{
    (void)state;
    char path[64], out[64];
    enum { LONG = 300000, MANY = 200000 };
    char *text = malloc(LONG + 1);
    double *values = malloc(MANY * sizeof *values);
    for (int i = 0; i < LONG; i++) text[i] = (char)('a' + i % 23);
    text[LONG] = '\0';
    for (int i = 0; i < MANY; i++) values[i] = sin(i);
    tb_journal *j;
    tb_point point = sample_point(0);
    assert_ok(tb_journal_create(temporary(path, "long"), &point, &j));
    assert_ok(tb_journal_artefact(j, &(tb_artefact){"hwloc_xml", text, -1}));
    assert_ok(tb_journal_artefact(j, &(tb_artefact){"log", "first", 0}));
    assert_ok(tb_journal_artefact(j, &(tb_artefact){"log", "second", 0}));
    assert_ok(tb_journal_samples(j, &(tb_samples){.metric = "x", .rank = 2, .n = MANY, .values = values}));
    assert_ok(tb_journal_close(j));
    tb_result *r;
    assert_ok(tb_result_from_journals((const char *const[]){path}, 1, &r));
    assert_ok(tb_h5_write(temporary(out, "long.h5"), r));
    tb_result_free(r);
    assert_ok(tb_h5_read(out, &r));
    assert_string_equal(tb_launch_artefact(r->launches[0], "hwloc_xml", -1), text);
    assert_int_equal(r->launches[0]->n_artefacts, 3);
    assert_memory_equal(tb_launch_series(r->launches[0], "x", 2, 0)->values, values, MANY * sizeof *values);
    assert_null(tb_launch_series(r->launches[0], "x", 0, 0));
    assert_string_equal(r->launches[0]->end.status, "running");
    tb_result_free(r);
    free(text);
    free(values);
}

static void a_full_disk_leaves_no_file_and_the_journals(void **state)
{
    (void)state;
    char path[64], part[80];
    tb_result *r = two_launches();
    temporary(path, "full.h5");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){4096, 4096});
        tb_status st = tb_h5_write(path, r);
        exit(st == TB_ERR_IO && strstr(tb_error_message(), "the journals stay") ? 42 : 1); /* HDF5's end, too */
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
    snprintf(part, sizeof part, "%s.part", path);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_not_equal(access(part, F_OK), 0);
    tb_result_free(r);
}

static void other_files_are_refused_in_one_sentence(void **state)
{
    (void)state;
    char path[64];
    tb_result *r;
    assert_fails(tb_h5_read("/nonexistent.h5", &r), TB_ERR_NOT_FOUND, "/nonexistent.h5");
    write_bytes(temporary(path, "text.h5"), "hello\n", 6);
    assert_fails(tb_h5_read(path, &r), TB_ERR_PARSE, "not HDF5");
    size_t bytes;
    tb_result *whole = two_launches();
    assert_ok(tb_h5_write(temporary(path, "cut.h5"), whole));
    char *data = read_bytes(path, &bytes);
    write_bytes(path, data, bytes / 2);
    assert_int_not_equal(tb_h5_read(path, &r), TB_OK);
    free(data);
    tb_result_free(whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_result_reads_back_as_it_was_written),
        cmocka_unit_test(writing_twice_gives_the_same_bytes),
        cmocka_unit_test(long_texts_and_many_samples_survive_compression),
        cmocka_unit_test(a_full_disk_leaves_no_file_and_the_journals),
        cmocka_unit_test(other_files_are_refused_in_one_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporaries);
}
