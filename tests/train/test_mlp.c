/* A real model on real data: the mlp learns Fashion-MNIST. */
#include "tb_test.h"
#include "tb_train.h"

static void mlp_learns_in_a_hundred_steps(void **state)
{
    (void)state;
    tb_dataset *data;
    tb_model *model;
    tb_trainer *trainer;
    tb_evaluation before, after;
    assert_ok(tb_dataset_open("fashion-mnist", &data));
    assert_ok(tb_model_create("mlp", TB_F32, &model));
    assert_ok(tb_evaluate(model, data, TB_SPLIT_TEST, 500, 0, NULL, &before));
    assert_int_equal(before.targets, 10000);
    assert_true(before.accuracy < 0.25);
    assert_ok(tb_trainer_create(&(tb_trainer_config){.model = model, .data = data, .batch = 64, .seed = 1, .ahead = 2,
                                                     .optim = {.kind = TB_OPTIM_SGD, .momentum = 0.9},
                                                     .schedule = {.rate = 0.05}},
                                &trainer));
    double first = 0, loss = 0;
    for (int i = 0; i < 100; i++) {
        assert_ok(tb_trainer_step(trainer, &loss));
        if (i == 0) first = loss;
    }
    assert_ok(tb_evaluate(model, data, TB_SPLIT_TEST, 500, 0, NULL, &after));
    print_message("loss %.3f -> %.3f, test accuracy %.3f -> %.3f\n", first, loss, before.accuracy, after.accuracy);
    assert_true(first > 2.1 && first < 2.6);
    assert_true(after.accuracy > 0.7);
    tb_trainer_destroy(trainer);
    tb_model_destroy(model);
    tb_dataset_close(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(mlp_learns_in_a_hundred_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
