/* Data sets and loaders: names, splits, hashes, order, sharding, prefetching, resuming; also run under
 * ThreadSanitizer. */
#include "tb_test.h"
#include "tb_data.h"
#include "tb_file.h"
#include <stdlib.h>
#include <unistd.h>

enum { ROWS = 50, SIDE = 3, PIXELS = SIDE * SIDE };
static const char small[] = "idx:test_data_images.tmp,test_data_labels.tmp";
static const char text_name[] = "text:test_data_text.tmp";

/* Image i holds i in every pixel; its label is i % 7. The text counts up. */
static int make_files(void **state)
{
    uint8_t images[16 + ROWS * PIXELS] = {0, 0, 8, 3, 0, 0, 0, ROWS, 0, 0, 0, SIDE, 0, 0, 0, SIDE};
    uint8_t labels[8 + ROWS] = {0, 0, 8, 1, 0, 0, 0, ROWS}, text[1000];
    for (int i = 0; i < ROWS; i++) {
        memset(images + 16 + i * PIXELS, i, PIXELS);
        labels[8 + i] = (uint8_t)(i % 7);
    }
    for (int i = 0; i < 1000; i++) text[i] = (uint8_t)(i % 251);
    assert_ok(tb_file_save("test_data_images.tmp", images, sizeof images));
    assert_ok(tb_file_save("test_data_labels.tmp", labels, sizeof labels));
    assert_ok(tb_file_save("test_data_text.tmp", text, sizeof text));
    (void)state;
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    unlink("test_data_images.tmp");
    unlink("test_data_labels.tmp");
    unlink("test_data_text.tmp");
    return 0;
}

static tb_dataset *open_data(const char *name)
{
    tb_dataset *d;
    assert_ok(tb_dataset_open(name, &d));
    return d;
}

static tb_loader *open_loader(const tb_loader_config *c)
{
    tb_loader *l;
    assert_ok(tb_loader_open(c, &l));
    return l;
}

/* ---- data sets ---- */
static void fashion_mnist_is_what_its_authors_made(void **state)
{
    (void)state;
    tb_dataset *d = open_data("fashion-mnist");
    assert_int_equal(tb_dataset_part(d, TB_SPLIT_TRAIN)->rows, 60000);
    assert_int_equal(tb_dataset_part(d, TB_SPLIT_TEST)->rows, 10000);
    assert_int_equal(tb_dataset_classes(d), 10);
    assert_int_equal(tb_dataset_height(d), 28);
    assert_true(tb_dataset_mean(d) > 0.2859 && tb_dataset_mean(d) < 0.2861);
    assert_true(tb_dataset_std(d) > 0.3529 && tb_dataset_std(d) < 0.3531);
    assert_int_equal(strlen(tb_dataset_part(d, TB_SPLIT_TEST)->sha256), 64);
    assert_string_not_equal(tb_dataset_part(d, TB_SPLIT_TEST)->sha256, tb_dataset_part(d, TB_SPLIT_TRAIN)->sha256);
    tb_dataset_close(d);
}

static void the_jargon_file_holds_its_last_tenth_out(void **state)
{
    (void)state;
    tb_dataset *d = open_data("jargon");
    const tb_data_part *train = tb_dataset_part(d, TB_SPLIT_TRAIN), *test = tb_dataset_part(d, TB_SPLIT_TEST);
    assert_int_equal(tb_dataset_kind(d), TB_DATA_TEXT);
    assert_int_equal(test->rows, (train->rows + test->rows) / 10);
    assert_ptr_equal(test->bytes, train->bytes + train->rows);
    assert_true(train->rows > 1000000);
    tb_dataset_close(d);
}

static void user_files_hold_their_last_tenth_out(void **state)
{
    (void)state;
    tb_dataset *d = open_data(small);
    assert_int_equal(tb_dataset_part(d, TB_SPLIT_TRAIN)->rows, 45);
    assert_int_equal(tb_dataset_part(d, TB_SPLIT_TEST)->rows, 5);
    assert_int_equal(tb_dataset_part(d, TB_SPLIT_TEST)->bytes[0], 45);
    assert_int_equal(tb_dataset_part(d, TB_SPLIT_TEST)->labels[0], 45 % 7);
    assert_int_equal(tb_dataset_classes(d), 7);
    tb_dataset_close(d);
    d = open_data("idx:test_data_images.tmp,test_data_labels.tmp,test_data_images.tmp,test_data_labels.tmp");
    assert_int_equal(tb_dataset_part(d, TB_SPLIT_TRAIN)->rows, 50);
    assert_int_equal(tb_dataset_part(d, TB_SPLIT_TEST)->rows, 50);
    tb_dataset_close(d);
}

static void wrong_names_and_files_are_told(void **state)
{
    (void)state;
    tb_dataset *d;
    assert_fails(tb_dataset_open("fashion-mnits", &d), TB_ERR_NOT_FOUND, "nearest: 'fashion-mnist'");
    assert_fails(tb_dataset_open("idx:one", &d), TB_ERR_CONFIG, "IMAGES,LABELS");
    assert_fails(tb_dataset_open("text:/no/such/file", &d), TB_ERR_NOT_FOUND, "/no/such/file: No such file");
    assert_fails(tb_dataset_open("idx:test_data_labels.tmp,test_data_labels.tmp", &d), TB_ERR_PARSE, "must be [n,");
    assert_fails(tb_dataset_open("idx:test_data_images.tmp,test_data_images.tmp", &d), TB_ERR_PARSE, "as many labels");
    assert_null(d);
}

/* ---- loaders ---- */
static int pixel_to_row(const tb_dataset *d, float pixel)
{
    return (int)(0.5 + 255 * ((double)pixel * tb_dataset_std(d) + tb_dataset_mean(d)));
}

/* Rows of the batches `first` .. in the order they come. */
static void rows_of(const tb_dataset *d, const tb_loader_config *c, int batches, int *rows)
{
    tb_loader *l = open_loader(c);
    for (int i = 0; i < batches; i++) {
        tb_batch b;
        float x[ROWS * PIXELS];
        int32_t y[ROWS];
        tb_scope *s = tb_scope_open();
        assert_ok(tb_loader_next(l, &b));
        assert_ok(tb_tensor_read(b.x, x, tb_tensor_bytes(b.x)));
        assert_ok(tb_tensor_read(b.y, y, tb_tensor_bytes(b.y)));
        for (int64_t r = 0; r < b.rows; r++) {
            *rows++ = pixel_to_row(d, x[r * PIXELS + 4]);
            assert_int_equal(y[r], rows[-1] % 7);
        }
        tb_scope_close(s);
    }
    tb_loader_close(l);
}

static void an_epoch_is_a_permutation_and_the_next_one_another(void **state)
{
    (void)state;
    tb_dataset *d = open_data(small);
    tb_loader_config c = {.data = d, .batch = 9, .seed = 3};
    int rows[90], seen[ROWS] = {0}, same = 0;
    rows_of(d, &c, 10, rows);
    for (int i = 0; i < 90; i++) seen[rows[i]]++;
    for (int i = 0; i < 45; i++) {
        assert_int_equal(seen[i], 2);
        same += rows[i] == rows[45 + i];
    }
    assert_true(same < 10);
    tb_dataset_close(d);
}

static void ranks_share_each_global_batch_in_row_order(void **state)
{
    (void)state;
    tb_dataset *d = open_data(small);
    int whole[48], part[3][16];
    rows_of(d, &(tb_loader_config){.data = d, .batch = 12, .seed = 3}, 4, whole);
    for (int r = 0; r < 3; r++)
        rows_of(d, &(tb_loader_config){.data = d, .batch = 12, .seed = 3, .rank = r, .ranks = 3, .ahead = 2}, 4,
                part[r]);
    for (int i = 0; i < 48; i++) assert_int_equal(whole[i], part[i % 12 / 4][i / 12 * 4 + i % 4]);
    tb_dataset_close(d);
}

static void prefetching_and_seeking_change_nothing(void **state)
{
    (void)state;
    tb_dataset *d = open_data(small);
    int plain[81], ahead[81], later[36];
    tb_loader_config c = {.data = d, .batch = 9, .seed = 8};
    rows_of(d, &c, 9, plain);
    c.ahead = 3;
    rows_of(d, &c, 9, ahead);
    assert_memory_equal(plain, ahead, sizeof plain);
    tb_loader *l = open_loader(&c);
    tb_batch b;
    assert_ok(tb_loader_seek(l, 5));
    for (int i = 0; i < 4; i++) {
        float x[9 * PIXELS];
        assert_ok(tb_loader_next(l, &b));
        assert_ok(tb_tensor_read(b.x, x, sizeof x));
        for (int r = 0; r < 9; r++) later[i * 9 + r] = pixel_to_row(d, x[r * PIXELS]);
    }
    assert_int_equal(tb_loader_position(l), 9);
    assert_int_equal(b.epoch, 1);
    assert_memory_equal(later, plain + 45, sizeof later);
    tb_loader_close(l);
    tb_dataset_close(d);
}

static void pieces_cut_the_same_batches(void **state)
{
    (void)state;
    tb_dataset *d = open_data(small);
    int whole[48], pieces[48];
    rows_of(d, &(tb_loader_config){.data = d, .batch = 8, .seed = 3}, 6, whole);
    rows_of(d, &(tb_loader_config){.data = d, .batch = 8, .seed = 3, .pieces = 4, .ahead = 2}, 24, pieces);
    assert_memory_equal(whole, pieces, sizeof whole);
    tb_dataset_close(d);
}

static void evaluation_sees_every_row_once_in_order(void **state)
{
    (void)state;
    tb_dataset *d = open_data(small);
    int rows[45];
    tb_loader_config c = {.data = d, .batch = 10, .mode = TB_LOAD_EVAL, .ahead = 1};
    rows_of(d, &c, 6, rows); /* the sixth holds nothing */
    for (int i = 0; i < 45; i++) assert_int_equal(rows[i], i);
    tb_dataset_close(d);
}

static void raw_images_stay_bytes(void **state)
{
    (void)state;
    tb_dataset *d = open_data(small);
    tb_loader *l = open_loader(&(tb_loader_config){.data = d, .batch = 5, .mode = TB_LOAD_EVAL, .raw = true});
    tb_batch b;
    uint8_t x[5 * PIXELS];
    assert_ok(tb_loader_next(l, &b));
    assert_int_equal(tb_tensor_dtype(b.x), TB_U8);
    assert_ok(tb_tensor_read(b.x, x, sizeof x));
    assert_int_equal(x[4 * PIXELS + 8], 4);
    tb_loader_close(l);
    tb_dataset_close(d);
}

static void windows_of_text_are_followed_by_their_targets(void **state)
{
    (void)state;
    tb_dataset *d = open_data(text_name);
    tb_loader *l = open_loader(&(tb_loader_config){.data = d, .batch = 4, .context = 16, .seed = 2, .ahead = 1});
    int32_t x[64], y[64];
    assert_int_equal(tb_loader_batches(l), (900 - 16) / 16 / 4);
    for (int i = 0; i < 40; i++) {
        tb_batch b;
        assert_ok(tb_loader_next(l, &b));
        assert_ok(tb_tensor_read(b.x, x, sizeof x));
        assert_ok(tb_tensor_read(b.y, y, sizeof y));
        assert_int_equal(b.targets, 64);
        for (int k = 0; k < 64; k++) {
            assert_int_equal(y[k], (x[k] + 1) % 251);
            if (k % 16) assert_int_equal(x[k], y[k - 1]);
        }
    }
    tb_loader_close(l);
    tb_dataset_close(d);
}

static void held_out_text_is_predicted_byte_by_byte(void **state)
{
    (void)state;
    tb_dataset *d = open_data(text_name);
    tb_loader *l = open_loader(&(tb_loader_config){
        .data = d, .split = TB_SPLIT_TEST, .batch = 4, .context = 16, .mode = TB_LOAD_EVAL});
    int64_t targets = 0;
    int32_t next = 901 % 251;
    for (tb_batch b = {.rows = 1}; b.rows > 0;) {
        int32_t y[64];
        assert_ok(tb_loader_next(l, &b));
        assert_ok(tb_tensor_read(b.y, y, tb_tensor_bytes(b.y)));
        targets += b.targets;
        for (int64_t k = 0; k < b.rows * 16; k++) {
            if (y[k] == -100) continue;
            assert_int_equal(y[k], next);
            next = (next + 1) % 251;
        }
    }
    assert_int_equal(targets, 99);
    tb_loader_close(l);
    tb_dataset_close(d);
}

static void impossible_batches_are_refused(void **state)
{
    (void)state;
    tb_dataset *d = open_data(small), *t = open_data(text_name);
    tb_loader *l;
    assert_fails(tb_loader_open(&(tb_loader_config){.data = d, .batch = 10, .ranks = 3}, &l), TB_ERR_CONFIG,
                 "batch 10 cannot be cut into 1 pieces for 3 ranks");
    assert_fails(tb_loader_open(&(tb_loader_config){.data = d, .batch = 46}, &l), TB_ERR_CONFIG, "epoch of 45 rows");
    assert_fails(tb_loader_open(&(tb_loader_config){.data = t, .batch = 1, .context = 500}, &l), TB_ERR_CONFIG,
                 "context of 500");
    tb_dataset_close(d);
    tb_dataset_close(t);
}

static void steady_batches_allocate_nothing(void **state)
{
    tb_dataset *d = open_data(small);
    tb_loader *l = open_loader(&(tb_loader_config){.data = d, .batch = 9, .seed = 3, .ahead = 2});
    tb_mem_stats heap[2], process[2];
    for (int i = 0; i < 60; i++) {
        tb_batch b;
        tb_scope *s = tb_scope_open();
        assert_ok(tb_loader_next(l, &b));
        tb_scope_close(s);
        if (i == 20 || i == 59) {
            tb_heap_stats(tb_ctx_heap(*state), &heap[i / 59]);
            tb_heap_stats(tb_heap_process(), &process[i / 59]);
        }
    }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_int_equal(heap[0].system_calls, heap[1].system_calls);
#endif
    assert_int_equal(process[0].requests, process[1].requests);
    tb_loader_close(l);
    tb_dataset_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(fashion_mnist_is_what_its_authors_made), ctx_test(the_jargon_file_holds_its_last_tenth_out),
        ctx_test(user_files_hold_their_last_tenth_out), ctx_test(wrong_names_and_files_are_told),
        ctx_test(an_epoch_is_a_permutation_and_the_next_one_another),
        ctx_test(ranks_share_each_global_batch_in_row_order), ctx_test(prefetching_and_seeking_change_nothing),
        ctx_test(pieces_cut_the_same_batches),
        ctx_test(evaluation_sees_every_row_once_in_order), ctx_test(raw_images_stay_bytes),
        ctx_test(windows_of_text_are_followed_by_their_targets), ctx_test(held_out_text_is_predicted_byte_by_byte),
        ctx_test(impossible_batches_are_refused), ctx_test(steady_batches_allocate_nothing),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
