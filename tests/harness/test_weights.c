/* Files of weights: read back as they were rounded, refused where they belong to something else; those of the tree were
 * trained on the data that is installed. */
#include "tb_test.h"
#include "tb_data.h"
#include "tb_model.h"
#include "tb_safetensors.h"
#include "weights.h"
#include <unistd.h>

static const char path[] = "/tmp/tb_test_weights.safetensors", spec[] = "mlp:widths=6-4-2";
static const tb_weights_origin origin = {"3 steps", "ab12"};

static tb_model *make(const char *of)
{
    tb_model *m;
    assert_ok(tb_model_create(of, TB_F32, &m));
    return m;
}

static void weights_are_read_back_to_the_digits_of_f16(void **state)
{
    (void)state;
    tb_model *a = make(spec), *b = make(spec);
    float w[24], r[24];
    double loss = 0;
    bool found;
    tb_tensor *of_a = tb_params_at(tb_model_params(a), 0)->tensor, *of_b = tb_params_at(tb_model_params(b), 0)->tensor;
    assert_ok(tb_weights_load(b, path, &origin, &found, &loss));
    assert_false(found);
    assert_ok(tb_weights_save(a, path, &origin, 0.25));
    assert_ok(tb_weights_load(b, path, &origin, &found, &loss));
    assert_true(found && loss == 0.25);
    assert_ok(tb_tensor_read(of_a, w, tb_tensor_bytes(of_a)));
    assert_ok(tb_tensor_read(of_b, r, tb_tensor_bytes(of_b)));
    for (int i = 0; i < 24; i++) assert_near(r[i], w[i], 0x1p-11 * fabs((double)w[i]));
    tb_model_destroy(a);
    tb_model_destroy(b);
}

static void weights_of_something_else_are_refused_with_both(void **state)
{
    (void)state;
    tb_model *m = make(spec), *other = make("mlp:widths=6-5-2");
    double loss;
    bool found;
    assert_ok(tb_weights_save(m, path, &origin, 0));
    assert_fails(tb_weights_load(other, path, &origin, &found, &loss), TB_ERR_CONFIG, "weights of another model");
    assert_fails(tb_weights_load(m, path, &(tb_weights_origin){"4 steps", "ab12"}, &found, &loss), TB_ERR_CONFIG,
                 "another training ('3 steps', this point has '4 steps')");
    assert_fails(tb_weights_load(m, path, &(tb_weights_origin){"3 steps", "cd34"}, &found, &loss), TB_ERR_CONFIG,
                 "another data ('ab12', this point has 'cd34')");
    tb_model_destroy(other);
    tb_model_destroy(m);
}

static void the_weights_of_the_tree_belong_to_the_installed_data(void **state)
{
    (void)state;
    static const char *const names[] = {"mlp", "cnn", "dscnn", "vit"};
    tb_dataset *data;
    assert_ok(tb_dataset_open("fashion-mnist", &data));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char file[512];
        tb_safetensors *f;
        double loss;
        bool found;
        snprintf(file, sizeof file, "%s/results/weights/%s.safetensors", TB_SOURCE_DIR, names[i]);
        assert_ok(tb_safetensors_open(file, &f));
        tb_weights_origin now = {tb_safetensors_note(f, "training"), tb_dataset_part(data, TB_SPLIT_TRAIN)->sha256};
        tb_model *m = make(tb_safetensors_note(f, "model"));
        assert_ok(tb_weights_load(m, file, &now, &found, &loss));
        assert_true(found && loss > 0);
        tb_model_destroy(m);
        tb_safetensors_close(f);
    }
    tb_dataset_close(data);
}

static int remove_file(void **state)
{
    unlink(path);
    return test_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(weights_are_read_back_to_the_digits_of_f16, test_setup, remove_file),
        cmocka_unit_test_setup_teardown(weights_of_something_else_are_refused_with_both, test_setup, remove_file),
        ctx_test(the_weights_of_the_tree_belong_to_the_installed_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
