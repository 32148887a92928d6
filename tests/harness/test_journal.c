/* Journals: what was written whole is read, whatever happens to the rest of the file. */
#include "journal_codec.h"
#include "journal_fixture.h"
#include "tb_rng.h"
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static int records_read(const tb_launch *l) /* with write_sample_journal's batches of one sample */
{
    int n = 1 + l->n_facts + l->n_metrics + l->n_values + l->n_artefacts + l->n_events + l->n_checks;
    for (int i = 0; i < l->n_series; i++) {
        bool one_batch = l->series[i].warmup || !strcmp(l->series[i].metric, "accuracy");
        n += one_batch ? 1 : (int)l->series[i].n;
    }
    return n + (strcmp(l->end.status, "running") != 0);
}

static void the_checksum_is_crc_32(void **state)
{
    (void)state;
    assert_int_equal(tb_crc32(0, "123456789", 9), 0xcbf43926); /* the polynomial's standard check value */
    assert_int_equal(tb_crc32(tb_crc32(0, "1234", 4), "56789", 5), 0xcbf43926);
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    char path[64];
    int records = write_sample_journal(temporary(path, "whole"), 1, 4);
    tb_launch *l;
    assert_ok(tb_journal_read(path, &l));
    assert_int_equal(records_read(l), records);
    assert_int_equal(l->torn_bytes, 0);
    assert_int_equal(l->damaged_records, 0);
    assert_string_equal(l->point.experiment, "train_mnist");
    assert_string_equal(l->point.profile, ""); /* NULL was written */
    assert_int_equal(l->point.launch, 1);
    assert_int_equal(l->point.seed, -1);
    assert_string_equal(tb_launch_fact(l, "build/git_sha"), "0123abcd");
    assert_string_equal(tb_launch_fact(l, "no/such"), "");
    const tb_series *s = tb_launch_series(l, "step_ms", 1, 0);
    assert_non_null(s);
    assert_int_equal(s->n, 4);
    assert_int_equal(s->steps[3], 6);
    assert_true(s->values[3] == 5 + 1 + 0.75 + 1);
    assert_int_equal(tb_launch_series(l, "accuracy", 0, 0)->steps[1], 200);
    assert_true(tb_launch_value(l, "peak_bytes", 1)->value == 1000);
    assert_string_equal(tb_launch_artefact(l, "log", 0), "epoch 1\nepoch 2\n");
    assert_string_equal(l->events[0].text, "measure");
    assert_true(l->checks[0].limit == 1e-5);
    assert_string_equal(l->end.status, "ok");
    tb_launch_free(l);
}

/* Record boundaries of an intact journal. */
static int boundaries(const char *data, size_t bytes, size_t *end, int room)
{
    tb_record_scan scan = {.data = (const uint8_t *)data, .bytes = bytes};
    int n = 0;
    while (tb_record_next(&scan)) {
        assert_true(n < room);
        end[n++] = scan.end;
    }
    return n;
}

static void every_truncation_yields_exactly_the_complete_records(void **state)
{
    (void)state;
    char path[64], cut[64];
    size_t bytes, end[64];
    int records = write_sample_journal(temporary(path, "whole"), 0, 3);
    char *data = read_bytes(path, &bytes);
    assert_int_equal(boundaries(data, bytes, end, 64), records);
    assert_int_equal(end[records - 1], bytes);
    temporary(cut, "cut");
    int complete = 0;
    for (size_t length = 0; length <= bytes; length++) {
        while (complete < records && end[complete] <= length) complete++;
        write_bytes(cut, data, length);
        tb_launch *l;
        tb_status st = tb_journal_read(cut, &l);
        if (complete == 0) {
            assert_int_equal(st, TB_ERR_PARSE);
            continue;
        }
        assert_ok(st);
        assert_int_equal(records_read(l), complete);
        assert_int_equal(l->torn_bytes, length - end[complete - 1]);
        assert_int_equal(l->damaged_records, 0);
        tb_launch_free(l);
    }
    free(data);
}

static void a_writer_that_opens_a_torn_journal_goes_on_behind_the_last_record(void **state)
{
    (void)state;
    char path[64], cut[64];
    size_t bytes, end[64];
    int records = write_sample_journal(temporary(path, "whole"), 0, 3);
    char *data = read_bytes(path, &bytes);
    boundaries(data, bytes, end, 64);
    write_bytes(temporary(cut, "cut"), data, end[records - 3] + 11);
    tb_journal *j;
    assert_ok(tb_journal_open(cut, &j));
    assert_ok(
        tb_journal_end(j, &(tb_end){.status = "failed", .reason = "rank 1 died: SIGKILL", .signal = 9}));
    assert_ok(tb_journal_close(j));
    tb_launch *l;
    assert_ok(tb_journal_read(cut, &l));
    assert_int_equal(l->torn_bytes, 0);
    assert_int_equal(l->damaged_records, 0);
    assert_int_equal(records_read(l), records - 2 + 1);
    assert_string_equal(l->end.reason, "rank 1 died: SIGKILL");
    tb_launch_free(l);
    free(data);
}

static void every_flipped_bit_costs_one_record_and_is_counted(void **state)
{
    (void)state;
    char path[64], bad[64];
    size_t bytes, end[64];
    int records = write_sample_journal(temporary(path, "whole"), 0, 2);
    char *data = read_bytes(path, &bytes);
    boundaries(data, bytes, end, 64);
    temporary(bad, "bad");
    for (size_t bit = 8 * end[0]; bit < 8 * bytes;
         bit += 11) { /* behind the point record; 11: every bit position */
        data[bit / 8] ^= (char)(1 << bit % 8);
        write_bytes(bad, data, bytes);
        tb_launch *l;
        assert_ok(tb_journal_read(bad, &l));
        assert_int_equal(records_read(l), records - 1);
        assert_true(l->damaged_records + (l->torn_bytes > 0) == 1);
        tb_launch_free(l);
        data[bit / 8] ^= (char)(1 << bit % 8);
    }
    free(data);
}

static void no_bytes_crash_the_reader(void **state)
{
    (void)state;
    char path[64], bad[64];
    size_t bytes;
    write_sample_journal(temporary(path, "whole"), 0, 2);
    char *data = read_bytes(path, &bytes), *fuzzed = malloc(bytes);
    assert_non_null(fuzzed);
    temporary(bad, "bad");
    for (uint64_t round = 0; round < 3000; round++) {
        memcpy(fuzzed, data, bytes);
        uint64_t edits = 1 + tb_random_below(1, round, 0, 8);
        for (uint64_t e = 0; e < edits; e++)
            fuzzed[tb_random_below(2, round, e, bytes)] = (char)tb_random_u32(3, round, e);
        write_bytes(bad, fuzzed,
                    tb_random_below(4, round, 0, 4) ? bytes : tb_random_below(5, round, 0, bytes));
        tb_launch *l;
        tb_status st = tb_journal_read(bad, &l);
        if (st == TB_OK)
            tb_launch_free(l);
        else
            assert_int_equal(st, TB_ERR_PARSE);
    }
    free(fuzzed);
    free(data);
}

static void well_summed_but_malformed_payloads_are_refused(void **state)
{
    (void)state;
    uint8_t payload[64];
    int refused = 0;
    for (uint64_t round = 0; round < 20000; round++) {
        size_t bytes = tb_random_below(6, round, 0, sizeof payload + 1);
        for (size_t i = 0; i < bytes; i++) {
            uint32_t r = tb_random_u32(7, round, i);
            payload[i] = r & 0x300 ? (uint8_t)(r & 3) : (uint8_t)r; /* mostly small, so that lengths fit */
        }
        tb_launch *l;
        assert_ok(tb_launch_create(&l));
        tb_status st = tb_record_decode((tb_record_kind)(1 + round % 12), payload, bytes, l);
        assert_true(st == TB_OK || st == TB_ERR_PARSE);
        refused += st != TB_OK;
        tb_launch_free(l);
    }
    assert_in_range(refused, 1000, 19000); /* both ways were taken */
}

static void a_full_disk_is_one_clear_error_and_keeps_what_was_written(void **state)
{
    (void)state;
    char path[64];
    temporary(path, "full");
    unlink(path);
    pid_t child = fork(); /* the limit cannot be taken back */
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){4096, 4096});
        tb_journal *j;
        tb_point point = sample_point(0);
        if (tb_journal_create(path, &point, &j) != TB_OK) _exit(1);
        double values[30] = {0};
        int batches = 0;
        while (tb_journal_samples(j, &(tb_samples){.metric = "m", .n = 30, .values = values}) == TB_OK)
            batches++;
        if (!strstr(tb_error_message(), path) || !strstr(tb_error_message(), "make room")) _exit(2);
        if (tb_journal_value(j, &(tb_value){.name = "small"}) == TB_OK)
            _exit(3); /* no gaps: failed for good */
        if (tb_journal_close(j) == TB_OK) _exit(4);
        char nothing[80];
        snprintf(nothing, sizeof nothing, "%s.2", path);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){16, 4096});
        if (tb_journal_create(nothing, &point, &j) == TB_OK) _exit(5);
        if (access(nothing, F_OK) == 0) _exit(6); /* a file without a record would be in the way of the next launch */
        _exit(100 + batches);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) > 100);
    tb_launch *l;
    assert_ok(tb_journal_read(path, &l));
    assert_int_equal(l->torn_bytes, 0); /* the part of a record that still fitted was taken back */
    assert_int_equal(tb_launch_series(l, "m", 0, 0)->n, 30 * (WEXITSTATUS(status) - 100));
    tb_launch_free(l);
}

/* The child writes numbered samples and tells each that is complete through a pipe; it is killed at an
 * arbitrary moment. All that it told must be in the file. */
static void a_kill_at_any_moment_loses_no_complete_record(void **state)
{
    (void)state;
    char path[64];
    temporary(path, "killed");
    for (uint64_t round = 0; round < 20; round++) {
        unlink(path);
        int told[2];
        assert_int_equal(pipe(told), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            tb_journal *j;
            tb_point point = sample_point(0);
            if (tb_journal_create(path, &point, &j) != TB_OK) _exit(1);
            for (int64_t i = 0;; i++) {
                double value = (double)i;
                if (tb_journal_samples(
                        j, &(tb_samples){.metric = "m", .first_step = i, .n = 1, .values = &value}) ||
                    write(told[1], &i, sizeof i) != sizeof i)
                    _exit(1);
            }
        }
        close(told[1]);
        int64_t last = -1, i, until = (int64_t)tb_random_below(8, round, 0, 2000);
        while (last < until && read(told[0], &i, sizeof i) == sizeof i) last = i;
        kill(child, SIGKILL);
        while (read(told[0], &i, sizeof i) == sizeof i) last = i;
        waitpid(child, NULL, 0);
        close(told[0]);
        assert_true(last >= until);
        tb_launch *l;
        assert_ok(tb_journal_read(path, &l));
        const tb_series *s = tb_launch_series(l, "m", 0, 0);
        assert_true(s && s->n >= last + 1);
        for (int64_t k = 0; k < s->n; k++) assert_true(s->steps[k] == k && s->values[k] == (double)k);
        assert_string_equal(l->end.status, "running");
        tb_launch_free(l);
    }
}

static void one_journal_has_one_writer_and_is_never_overwritten(void **state)
{
    (void)state;
    char path[64];
    temporary(path, "locked");
    unlink(path);
    tb_journal *first, *second;
    tb_point point = sample_point(0);
    assert_ok(tb_journal_create(path, &point, &first));
    assert_int_equal(tb_journal_open(path, &second), TB_ERR_IO);
    assert_non_null(strstr(tb_error_message(), "another process"));
    assert_int_equal(tb_journal_create(path, &point, &second), TB_ERR_IO);
    assert_ok(tb_journal_close(first));
    assert_ok(tb_journal_open(path, &second));
    assert_ok(tb_journal_close(second));
}

static void other_ranks_records_travel_as_bytes(void **state)
{
    (void)state;
    char path[64];
    temporary(path, "gathered");
    unlink(path);
    tb_journal *file, *other;
    tb_point point = sample_point(0);
    const void *bytes;
    size_t size;
    assert_ok(tb_journal_create(path, &point, &file));
    assert_ok(tb_journal_memory(&other));
    assert_ok(tb_journal_value(other, &(tb_value){"x", "", 1, 42}));
    assert_ok(tb_journal_value(other, &(tb_value){"y", "", 1, 43}));
    tb_journal_bytes(other, &bytes, &size);
    assert_int_equal(tb_journal_append(file, bytes, size - 1), TB_ERR_INVALID); /* lost on the way */
    assert_ok(tb_journal_append(file, bytes, size));
    tb_journal_drain(other);
    tb_journal_bytes(other, &bytes, &size);
    assert_int_equal(size, 0);
    assert_ok(tb_journal_append(file, bytes, size));
    assert_ok(tb_journal_close(other));
    assert_ok(tb_journal_close(file));
    tb_launch *l;
    assert_ok(tb_journal_read(path, &l));
    assert_int_equal(l->n_values, 2);
    assert_true(tb_launch_value(l, "y", 1)->value == 43);
    tb_launch_free(l);
}

static void files_that_are_no_journals_say_so(void **state)
{
    (void)state;
    char path[64];
    tb_launch *l;
    tb_journal *j;
    assert_int_equal(tb_journal_read("/nonexistent/journal", &l), TB_ERR_NOT_FOUND);
    write_bytes(temporary(path, "text"), "hello, world\n", 13);
    assert_int_equal(tb_journal_read(path, &l), TB_ERR_PARSE);
    assert_non_null(strstr(tb_error_message(), "not a journal"));
    assert_int_equal(tb_journal_open(path, &j), TB_ERR_PARSE); /* and is not cut to nothing */
    size_t bytes;
    free(read_bytes(path, &bytes));
    assert_int_equal(bytes, 13);
    write_bytes(path, "TBJ2............", 16);
    assert_int_equal(tb_journal_read(path, &l), TB_ERR_PARSE);
    assert_non_null(strstr(tb_error_message(), "format 2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_checksum_is_crc_32),
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(every_truncation_yields_exactly_the_complete_records),
        cmocka_unit_test(a_writer_that_opens_a_torn_journal_goes_on_behind_the_last_record),
        cmocka_unit_test(every_flipped_bit_costs_one_record_and_is_counted),
        cmocka_unit_test(no_bytes_crash_the_reader),
        cmocka_unit_test(well_summed_but_malformed_payloads_are_refused),
        cmocka_unit_test(a_full_disk_is_one_clear_error_and_keeps_what_was_written),
        cmocka_unit_test(a_kill_at_any_moment_loses_no_complete_record),
        cmocka_unit_test(one_journal_has_one_writer_and_is_never_overwritten),
        cmocka_unit_test(other_ranks_records_travel_as_bytes),
        cmocka_unit_test(files_that_are_no_journals_say_so),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporaries);
}
