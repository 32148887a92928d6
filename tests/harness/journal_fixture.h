/* A journal with every kind of record, in a private folder. */
#pragma once
#include "journal.h"
#include "tb_test.h"
#include <ftw.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

static inline char *temporary_folder(void)
{
    static char folder[32];
    if (!folder[0]) {
        strcpy(folder, "/tmp/tb_record_XXXXXX");
        assert_non_null(mkdtemp(folder));
    }
    return folder;
}

static inline int remove_file(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info, (void)type, (void)at;
    return remove(path);
}

static inline int remove_temporaries(void **state) /* group teardown */
{
    (void)state;
    return nftw(temporary_folder(), remove_file, 8, FTW_DEPTH | FTW_PHYS);
}

static inline const char *temporary(char path[64], const char *name)
{
    snprintf(path, 64, "%s/%s", temporary_folder(), name);
    return path;
}

static inline tb_point sample_point(int64_t launch)
{
    return (tb_point){.experiment = "train_mnist",
                      .driver = "train",
                      .hash = "5d41",
                      .label = "mlp ranks=2",
                      .config = "{\"launch\":{\"ranks\":2}}",
                      .source = "driver: train\n",
                      .scope = "measured",
                      .launch = launch,
                      .launches = 2,
                      .ranks = 2,
                      .threads = 1,
                      .seed = -1,
                      .question = "How fast?",
                      .plots = "[]",
                      .utc_ns = 77};
}

/* Two ranks, `n` samples a rank after three warm-up samples; ends with status ok. Returns the number of
 * records. */
static inline int write_sample_journal(const char *path, int64_t launch, int n)
{
    tb_journal *j;
    tb_point point = sample_point(launch);
    int records = 1;
    unlink(path);
    assert_ok(tb_journal_create(path, &point, &j));
    assert_ok(tb_journal_fact(j, &(tb_fact){"build/git_sha", "0123abcd", -1}));
    assert_ok(tb_journal_metric(j, &(tb_metric){.name = "step_ms",
                                                .unit = "ms",
                                                .dir = "lower",
                                                .kind = "ratio",
                                                .reduce = "max",
                                                .statistic = "median",
                                                .margin = 0.05}));
    assert_ok(tb_journal_metric(j, &(tb_metric){.name = "peak_bytes",
                                                .unit = "B",
                                                .dir = "lower",
                                                .kind = "exact",
                                                .reduce = "sum",
                                                .deterministic = 1}));
    records += 3;
    for (int rank = 0; rank < 2; rank++) {
        assert_ok(tb_journal_samples(
            j, &(tb_samples){
                   .metric = "step_ms", .rank = rank, .warmup = 1, .n = 3, .values = (double[]){9, 8, 7}}));
        for (int i = 0; i < n; i++) {
            double value = 5 + rank + 0.25 * i + (double)launch;
            assert_ok(tb_journal_samples(
                j, &(tb_samples){
                       .metric = "step_ms", .rank = rank, .first_step = 3 + i, .n = 1, .values = &value}));
        }
        assert_ok(tb_journal_value(j, &(tb_value){"peak_bytes", "B", rank, 1000}));
        records += n + 2;
    }
    assert_ok(tb_journal_samples(j, &(tb_samples){.metric = "accuracy",
                                                  .n = 2,
                                                  .steps = (int64_t[]){100, 200},
                                                  .values = (double[]){0.5, 0.75}}));
    assert_ok(tb_journal_artefact(j, &(tb_artefact){"log", "epoch 1\nepoch 2\n", 0}));
    assert_ok(tb_journal_event(j, &(tb_event){.name = "phase", .text = "measure", .t0_ns = 5, .t1_ns = 9}));
    assert_ok(tb_journal_check(j, &(tb_check){.name = "parity.max_rel_err <= 1e-5",
                                              .kind = "parity",
                                              .value = 1e-7,
                                              .limit = 1e-5,
                                              .pass = 1}));
    assert_ok(tb_journal_end(j, &(tb_end){.status = "ok", .reason = "", .failed_rank = -1, .utc_ns = 99}));
    assert_ok(tb_journal_close(j));
    return records + 5;
}

static inline char *read_bytes(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*bytes + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *bytes, f), *bytes);
    fclose(f);
    return data;
}

static inline void write_bytes(const char *path, const char *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
}
