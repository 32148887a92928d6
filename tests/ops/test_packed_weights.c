/* Weights that a kernel keeps in its own layout: whatever way they are looked at, by whichever kernel, from however
 * many threads, a product is that of their present contents. Also run under ThreadSanitizer. */
#include "op_test.h"
#include <pthread.h>

enum { N = 64, USES = 4 /* the second use keeps a layout, later ones find it */ };

/* x W^T in f64. */
static void assert_product(tb_tensor *x, tb_tensor *w)
{
    tb_tensor *want = tb_linear(tb_cast(x, TB_F64), tb_cast(w, TB_F64), NULL);
    for (int i = 0; i < USES; i++) assert_same(tb_linear(x, w, NULL), want, 1e-5);
}

static void views_of_one_weight_have_layouts_of_their_own(void **state)
{
    (void)state;
    tb_tensor *w = randoms(TB_F32, 1, DIMS(N, N)), *x = randoms(TB_F32, 2, DIMS(1, N));
    assert_product(x, w);
    assert_product(x, tb_transpose(w, 0, 1));
    assert_product(randoms(TB_F32, 3, DIMS(1, 2 * N)), tb_reshape(w, DIMS(N / 2, 2 * N)));
    assert_product(x, w);
}

static void instruction_sets_do_not_read_each_others_layouts(void **state)
{
    static const tb_isa order[] = {TB_ISA_AVX512, TB_ISA_AVX2, TB_ISA_SCALAR, TB_ISA_AVX512};
    tb_tensor *w = randoms(TB_F32, 1, DIMS(N, N)), *x = randoms(TB_F32, 2, DIMS(1, N));
    tb_tensor *k = randoms(TB_F32, 3, DIMS(N, 16, 3, 3)), *image = randoms(TB_F32, 4, DIMS(1, 16, 9, 9));
    tb_tensor *want = tb_conv2d(tb_cast(image, TB_F64), tb_cast(k, TB_F64), NULL, NULL);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        tb_ctx_limit_kernels(*state, order[i], false);
        assert_product(x, w);
        for (int use = 0; use < USES; use++) assert_same(tb_conv2d(image, k, NULL, NULL), want, 1e-4);
    }
}

static void changed_contents_are_packed_again(void **state)
{
    (void)state;
    tb_tensor *w = randoms(TB_F32, 1, DIMS(N, N)), *x = randoms(TB_F32, 2, DIMS(1, N));
    for (int step = 0; step < 3; step++) {
        assert_product(x, w);
        tb_accumulate(w, randoms(TB_F32, (uint64_t)step + 5, DIMS(N, N)), step == 1);
    }
}

typedef struct user {
    pthread_t thread;
    tb_tensor *w;
    tb_isa isa;
    pthread_barrier_t *start;
    float y[USES][N];
    tb_status status;
} user;

static void *use(void *arg)
{
    user *u = arg;
    tb_ctx *ctx;
    u->status = tb_ctx_create(&(tb_ctx_config){.threads = 1, .seed = 1}, &ctx);
    pthread_barrier_wait(u->start);
    if (u->status != TB_OK) return NULL;
    tb_ctx_enter(ctx);
    tb_ctx_limit_kernels(ctx, u->isa, false);
    tb_scope *scope = tb_scope_open();
    tb_tensor *x = tb_rand(tb_tensor_from(TB_I64, DIMS(3), (int64_t[]){1, 2, 0}), TB_F32, DIMS(1, N));
    for (int i = 0; i < USES && u->status == TB_OK; i++)
        u->status = tb_tensor_read(tb_linear(x, u->w, NULL), u->y[i], sizeof u->y[i]);
    tb_scope_close(scope);
    if (tb_ctx_destroy(ctx) != 0) u->status = TB_ERR_INTERNAL;
    return NULL;
}

static void threads_may_use_a_weight_for_the_first_time_at_once(void **state)
{
    (void)state;
    enum { USERS = 4, ROUNDS = 30 };
    pthread_barrier_t start;
    assert_int_equal(pthread_barrier_init(&start, NULL, USERS), 0);
    tb_tensor *w = randoms(TB_F32, 1, DIMS(N, N));
    for (int round = 0; round < ROUNDS; round++) {
        user users[USERS];
        tb_tensor_touch(w); /* of a version that nobody has packed */
        for (int i = 0; i < USERS; i++) {
            users[i] = (user){.w = w, .isa = i % 2 ? TB_ISA_AVX512 : TB_ISA_AVX2, .start = &start};
            assert_int_equal(pthread_create(&users[i].thread, NULL, use, &users[i]), 0);
        }
        for (int i = 0; i < USERS; i++) {
            pthread_join(users[i].thread, NULL);
            assert_int_equal(users[i].status, TB_OK);
            for (int k = 0; k < USES; k++) assert_memory_equal(users[i].y[k], users[0].y[0], sizeof users[0].y[0]);
        }
    }
    pthread_barrier_destroy(&start);
}

/* The second layout of a weight is kept beside the first, and a third is not. */
static void places_are_for_two_layouts(void **state)
{
    (void)state;
    tb_tensor *w = randoms(TB_F32, 1, DIMS(N, N));
    static const char kernels[3];
    const void *made[3];
    for (int i = 0; i < 3; i++) {
        tbi_layout layout = {.of = &kernels[i], .bytes = 64};
        assert_int_equal(tbi_packing_pays(w, true), i < 2);
        made[i] = tbi_packed_new(w, layout);
        assert_non_null(made[i]);
        made[i] = tbi_packed_keep(w, (void *)(uintptr_t)made[i]);
    }
    assert_null(made[2]);
    for (int i = 0; i < 3; i++) assert_ptr_equal(tbi_packed(w, (tbi_layout){.of = &kernels[i], .bytes = 64}), made[i]);
    w->storage->version++;
    assert_true(tbi_packing_pays(w, true));
    assert_null(tbi_packed(w, (tbi_layout){.of = &kernels[0], .bytes = 64}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(views_of_one_weight_have_layouts_of_their_own),
        ctx_test(instruction_sets_do_not_read_each_others_layouts),
        ctx_test(changed_contents_are_packed_again),
        ctx_test(threads_may_use_a_weight_for_the_first_time_at_once),
        ctx_test(places_are_for_two_layouts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
