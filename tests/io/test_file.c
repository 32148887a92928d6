/* Whole files and IDX: gzip by content, truncation and damage told apart, the package to install named. */
#include "tb_test.h"
#include "tb_alloc.h"
#include "tb_file.h"
#include "tb_rng.h"
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char path[] = "test_file.tmp";

static void put(const void *data, size_t bytes) { assert_ok(tb_file_save(path, data, bytes)); }

static void run(const char *command)
{
    if (system(command) != 0) fail_msg("failed: %s", command);
}

static void plain_and_compressed_files_read_the_same(void **state)
{
    (void)state;
    uint8_t *data;
    size_t bytes;
    put("jargon", 6);
    assert_ok(tb_file_read(path, NULL, &data, &bytes));
    assert_int_equal(bytes, 6);
    tb_free(data);
    run("head -c 300000 /dev/urandom >test_file.tmp && gzip -c test_file.tmp >test_file.gz && gzip -dc test_file.gz | "
        "cmp - test_file.tmp");
    uint8_t *again;
    size_t again_bytes;
    assert_ok(tb_file_read(path, NULL, &data, &bytes));
    assert_ok(tb_file_read("test_file.gz", NULL, &again, &again_bytes));
    assert_int_equal(bytes, 300000);
    assert_int_equal(again_bytes, bytes);
    assert_memory_equal(data, again, bytes);
    tb_free(data);
    tb_free(again);
}

static void missing_truncated_and_damaged_files_name_the_package(void **state)
{
    (void)state;
    uint8_t *data;
    size_t bytes;
    assert_fails(tb_file_read("no/file", "dict-jargon", &data, &bytes), TB_ERR_NOT_FOUND,
                 "no/file: No such file or directory; install the Debian package dict-jargon");
    assert_fails(tb_file_read("/", NULL, &data, &bytes), TB_ERR_IO, "/: Is a directory");
    run("head -c 300000 /dev/urandom | gzip -c >test_file.gz && head -c 200000 test_file.gz >test_file.tmp");
    assert_fails(tb_file_read(path, "dict-jargon", &data, &bytes), TB_ERR_PARSE, "truncated; install");
    run("cp test_file.gz test_file.tmp && printf 'xxxx' | dd of=test_file.tmp bs=1 seek=150000 conv=notrunc "
        "status=none");
    assert_fails(tb_file_read(path, "dict-jargon", &data, &bytes), TB_ERR_PARSE, "damaged; install");
    assert_null(data);
}

static void a_discarded_file_never_appears(void **state)
{
    (void)state;
    tb_file_writer *w;
    struct stat info;
    put("old", 3);
    assert_ok(tb_file_create(path, &w));
    assert_ok(tb_file_write(w, "newer", 5));
    tb_file_discard(w);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 3);
    assert_fails(tb_file_create("no/such/folder/x", &w), TB_ERR_IO, "cannot create it: No such file");
}

static const uint8_t good[] = {0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6};

static void folders_are_made_with_those_above_them(void **state)
{
    (void)state;
    char root[] = "/tmp/tb_folder_XXXXXX", deep[64], file[64], below[96], command[128];
    assert_non_null(mkdtemp(root));
    snprintf(deep, sizeof deep, "%s/a//b", root);
    snprintf(file, sizeof file, "%s/a/file", root);
    snprintf(below, sizeof below, "%s/c", file);
    assert_ok(tb_file_make_folder(deep));
    assert_ok(tb_file_make_folder(deep));
    assert_ok(tb_file_save(file, "x", 1));
    assert_fails(tb_file_make_folder(file), TB_ERR_INVALID, "a/file: not a folder");
    assert_fails(tb_file_make_folder(below), TB_ERR_INVALID, "a/file: not a folder");
    snprintf(command, sizeof command, "rm -r %s", root);
    run(command);
}

static void idx_files_give_dimensions_and_elements(void **state)
{
    (void)state;
    tb_idx idx;
    put(good, sizeof good);
    assert_ok(tb_idx_read(path, NULL, &idx));
    assert_int_equal(idx.rank, 2);
    assert_int_equal(idx.dims[0], 2);
    assert_int_equal(idx.dims[1], 3);
    assert_memory_equal(idx.elements, good + 12, 6);
    tb_idx_free(&idx);
}

static void wrong_idx_files_are_refused(void **state)
{
    (void)state;
    tb_idx idx;
    put(good, sizeof good - 1);
    assert_fails(tb_idx_read(path, "dataset-fashion-mnist", &idx), TB_ERR_PARSE,
                 "promises 6 elements, the file holds 5: truncated or damaged (reinstall the Debian package dataset-");
    assert_fails(tb_idx_parse((const uint8_t *)"\0\0\x0d\1\0\0\0\0", 8, "f", &idx), TB_ERR_PARSE, "type 0x0d");
    assert_fails(tb_idx_parse((const uint8_t *)"PK\3\4", 4, "f", &idx), TB_ERR_PARSE, "no IDX file");
    assert_fails(tb_idx_parse((const uint8_t *)"\0\0\x08\3\0\0", 6, "f", &idx), TB_ERR_PARSE,
                 "3 dimensions in 6 bytes");
}

static void mutated_idx_files_stay_in_bounds(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 20000; round++) {
        uint8_t changed[sizeof good];
        tb_idx idx;
        size_t bytes = tb_random_below(1, round, 0, sizeof good + 1);
        memcpy(changed, good, sizeof good);
        for (uint64_t k = 0; k < 2; k++)
            changed[tb_random_below(1, round, 1 + k, 12)] = (uint8_t)tb_random_u32(2, round, k);
        if (tb_idx_parse(changed, bytes, "mutated", &idx) != TB_OK) continue;
        int64_t count = 1;
        for (int i = 0; i < idx.rank; i++) count *= idx.dims[i];
        assert_true(idx.elements + count == changed + bytes);
    }
}

static int remove_files(void **state)
{
    (void)state;
    unlink(path);
    unlink("test_file.gz");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_and_compressed_files_read_the_same),
        cmocka_unit_test(missing_truncated_and_damaged_files_name_the_package),
        cmocka_unit_test(a_discarded_file_never_appears),
        cmocka_unit_test(folders_are_made_with_those_above_them),
        cmocka_unit_test(idx_files_give_dimensions_and_elements),
        cmocka_unit_test(wrong_idx_files_are_refused),
        cmocka_unit_test(mutated_idx_files_stay_in_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, remove_files);
}
