/* safetensors: what is written reads back, in Python too; what is damaged is refused with a sentence. */
#include "tb_test.h"
#include "tb_alloc.h"
#include "tb_file.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include "tb_safetensors.h"
#include <stdlib.h>
#include <unistd.h>

static const char path[] = "test_safetensors.tmp";

static void write_file(const char *json, const char *data, size_t data_bytes)
{
    uint64_t n = strlen(json);
    tb_file_writer *w;
    assert_ok(tb_file_create(path, &w));
    assert_ok(tb_file_write(w, &n, sizeof n));
    assert_ok(tb_file_write(w, json, n));
    assert_ok(tb_file_write(w, data, data_bytes));
    assert_ok(tb_file_commit(w));
}

static void refused(const char *json, size_t data_bytes, const char *text)
{
    static const char data[64];
    tb_safetensors *f;
    write_file(json, data, data_bytes);
    tb_status st = tb_safetensors_open(path, &f);
    if (st == TB_OK || !strstr(tb_error_message(), text))
        fail_msg("%s: expected '%s', got: %s", json, text, st == TB_OK ? "ok" : tb_error_message());
    assert_null(f);
}

static void save_two(void)
{
    tb_tensor *a = tb_reshape(tb_arange(TB_F32, 0, 6, 1), 2, (int64_t[]){2, 3});
    tb_safetensors_item items[] = {{"layer.weight", tb_transpose(a, 0, 1)}, {"step \"x\"", tb_scalar(TB_I64, 7)}};
    tb_safetensors_pair notes[] = {{"seed", "1"}, {"model", "mlp:a=\"b\"\n"}};
    assert_ok(tb_safetensors_save(path, 2, items, 2, notes));
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    tb_safetensors *f;
    float got[6];
    int64_t step;
    save_two();
    assert_ok(tb_safetensors_open(path, &f));
    assert_int_equal(tb_safetensors_count(f), 2);
    const tb_safetensors_entry *e = tb_safetensors_find(f, "layer.weight");
    assert_int_equal(e->dims[0], 3);
    assert_ok(tb_safetensors_read(f, e, got));
    assert_memory_equal(got, ((float[]){0, 3, 1, 4, 2, 5}), sizeof got);
    tb_tensor *t = tb_zeros(TB_I64, 0, NULL);
    assert_ok(tb_safetensors_load(f, "step \"x\"", t));
    assert_ok(tb_item_i64(t, &step));
    assert_int_equal(step, 7);
    assert_string_equal(tb_safetensors_note(f, "model"), "mlp:a=\"b\"\n");
    assert_null(tb_safetensors_note(f, "modle"));
    assert_null(tb_safetensors_find(f, "layer.wieght"));
    assert_non_null(strstr(tb_error_message(), "nearest: 'layer.weight'"));
    assert_fails(tb_safetensors_load(f, "layer.weight", t), TB_ERR_SHAPE, "is f32 [3, 2], wanted is i64 []");
    tb_safetensors_close(f);
}

static void python_reads_the_same(void **state)
{
    (void)state;
    save_two();
    assert_int_equal(
        system("/usr/bin/python3 -c '\n"
               "import json, struct\n"
               "b = open(\"test_safetensors.tmp\", \"rb\").read()\n"
               "n = struct.unpack(\"<Q\", b[:8])[0]\n"
               "h = json.loads(b[8:8 + n])\n"
               "assert n % 8 == 0 and h[\"__metadata__\"][\"seed\"] == \"1\"\n"
               "w = h[\"layer.weight\"]\n"
               "assert w[\"dtype\"] == \"F32\" and w[\"shape\"] == [3, 2], w\n"
               "i, j = w[\"data_offsets\"]\n"
               "assert struct.unpack(\"<6f\", b[8 + n + i:8 + n + j]) == (0, 3, 1, 4, 2, 5)\n"
               "assert len(b) == 8 + n + max(v[\"data_offsets\"][1] for k, v in h.items() if k[0] != \"_\")'"),
        0);
}

static void escapes_and_blanks_of_other_writers_are_read(void **state)
{
    (void)state;
    tb_safetensors *f;
    write_file(" { \"__metadata__\":{}, \"\\u00e9\\ud83d\\ude00\\/\" : {\"shape\":[ ],\"data_offsets\":[0, "
               "1],\"dtype\":\"U8\"} }  ",
               "x", 1);
    assert_ok(tb_safetensors_open(path, &f));
    assert_string_equal(tb_safetensors_at(f, 0)->name, "\xc3\xa9\xf0\x9f\x98\x80/");
    tb_safetensors_close(f);
    write_file("{}", "", 0);
    assert_ok(tb_safetensors_open(path, &f));
    assert_int_equal(tb_safetensors_count(f), 0);
    tb_safetensors_close(f);
}

#define TENSOR(name, shape, begin, end)                                                                               \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void damaged_headers_are_refused(void **state)
{
    (void)state;
    refused("{" TENSOR("a", "[2]", "0", "8") "}", 4, "truncated or damaged");
    refused("{" TENSOR("a", "[2]", "0", "4") "}", 8, "truncated or damaged");
    refused("{" TENSOR("a", "[1]", "0", "4") "}", 8, "4 bytes of data belong to no tensor");
    refused("{" TENSOR("a", "[1]", "0", "4") "," TENSOR("b", "[1]", "2", "6") "}", 6, "'b'");
    refused("{" TENSOR("a", "[1]", "0", "4") "," TENSOR("a", "[1]", "4", "8") "}", 8, "'a' stands there twice");
    refused("{" TENSOR("a", "[4611686018427387904]", "0", "0") "}", 0, "too large");
    refused("{" TENSOR("a", "[18446744073709551616]", "0", "0") "}", 0, "too large");
    refused("{" TENSOR("a", "[-1]", "0", "4") "}", 4, "whole number");
    refused("{" TENSOR("a", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "8 dimensions");
    refused("{" TENSOR("a", "[1]", "0", "4") "} x", 4, "after the header's end");
    refused("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "F8_E4M3");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "without dtype, shape or data_offsets");
    refused("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 1, "repeated member");
    refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "twice");
    refused("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "twice");
    refused("{\"a\\ud800\":{}}", 0, "surrogate");
    refused("{\"a", 0, "without end");
    refused("", 0, "'{' is missing");
}

static void missing_and_foreign_files_are_named(void **state)
{
    (void)state;
    tb_safetensors *f;
    assert_fails(tb_safetensors_open("no/such.safetensors", &f), TB_ERR_NOT_FOUND, "no/such.safetensors: No such file");
    assert_ok(tb_file_save(path, "PK\3\4 a zip file", 15));
    assert_fails(tb_safetensors_open(path, &f), TB_ERR_PARSE, "truncated or another format");
}

static void names_that_cannot_be_saved_leave_the_old_file(void **state)
{
    (void)state;
    save_two();
    tb_tensor *t = tb_scalar(TB_F32, 1);
    tb_safetensors_item twice[] = {{"a", t}, {"a", t}}, reserved[] = {{"__metadata__", t}};
    assert_fails(tb_safetensors_save(path, 2, twice, 0, NULL), TB_ERR_INVALID, "two tensors are named 'a'");
    assert_fails(tb_safetensors_save(path, 1, reserved, 0, NULL), TB_ERR_INVALID, "__metadata__");
    tb_safetensors *f;
    assert_ok(tb_safetensors_open(path, &f));
    assert_int_equal(tb_safetensors_count(f), 2);
    tb_safetensors_close(f);
}

/* Bytes of a good file changed at random: opened and read in full, or refused; never a crash. */
static void mutated_files_never_crash(void **state)
{
    (void)state;
    uint8_t *good, changed[1024];
    size_t bytes;
    int refused_count = 0;
    save_two();
    assert_ok(tb_file_read(path, NULL, &good, &bytes));
    assert_true(bytes < sizeof changed);
    for (uint64_t round = 0; round < 3000; round++) {
        memcpy(changed, good, bytes);
        for (uint64_t k = 0; k <= round % 3; k++)
            changed[tb_random_below(5, round, 2 * k, bytes)] = (uint8_t)tb_random_u32(5, round, 1000 + k);
        size_t length = round % 5 ? bytes : tb_random_below(6, round, 0, bytes);
        FILE *out = fopen(path, "wb");
        assert_int_equal(fwrite(changed, 1, length, out), length);
        fclose(out);
        tb_safetensors *f;
        if (tb_safetensors_open(path, &f) != TB_OK) {
            refused_count++;
            continue;
        }
        for (int i = 0; i < tb_safetensors_count(f); i++) {
            const tb_safetensors_entry *e = tb_safetensors_at(f, i);
            char data[1024];
            assert_ok(tb_safetensors_read(f, e, data));
        }
        tb_safetensors_close(f);
    }
    assert_in_range(refused_count, 1000, 2999);
    tb_free(good);
}

static int remove_file(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(what_is_written_reads_back), ctx_test(python_reads_the_same),
        ctx_test(escapes_and_blanks_of_other_writers_are_read), ctx_test(damaged_headers_are_refused),
        ctx_test(missing_and_foreign_files_are_named), ctx_test(names_that_cannot_be_saved_leave_the_old_file),
        ctx_test(mutated_files_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
