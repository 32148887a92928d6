/* A deploy artefact behind the server's model interface, and what may happen to its files while it is served. Also run
 * under ThreadSanitizer. */
#include "live_server.h"
#include "tb_artefact.h"
#include "tb_ops.h"
#include "tb_serve_artefact.h"

enum { WIDE = 12, OUT = 3, MOST = 48 };

static tb_tensor *forward(void *arg, int n, tb_tensor *const *in)
{
    (void)n;
    return tb_softmax(tb_linear(in[0], arg, NULL), -1);
}

/* Writes the artefact to FOLDER/net/VERSION, where nothing is yet; weights by the seed. */
static void write_artefact(const char *folder, int version, uint64_t seed)
{
    float w[OUT * WIDE];
    char dir[96];
    tb_graph *g;
    tb_capture_input input = {.name = "x", .dtype = TB_F32, .rank = 2, .dims = {-1, WIDE}};
    tb_artefact_info info = {.name = "net", .max_batch = MOST};
    for (int i = 0; i < OUT * WIDE; i++) w[i] = (float)tb_random_normal(seed, 2, (uint64_t)i);
    tb_tensor *weight = tb_tensor_from(TB_F32, 2, (int64_t[]){OUT, WIDE}, w);
    tb_tensor_set_name(weight, "w");
    assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1, &input, forward, weight, &g));
    snprintf(dir, sizeof dir, "%s/net//%d", folder, version);
    assert_ok(tb_artefact_save(g, &info, 4, dir));
    tb_graph_free(g);
}

static void no_batch_size_allocates_and_a_row_is_the_same_in_all(void **state)
{
    (void)state;
    char folder[] = "/tmp/tb_served_XXXXXX", dir[96], command[64];
    static float x[MOST * WIDE], y[MOST * OUT], first[OUT];
    const void *in[] = {x};
    void *out[] = {y};
    tb_serve_model *m;
    tb_mem_stats before, after;
    assert_non_null(mkdtemp(folder));
    write_artefact(folder, 1, 1);
    snprintf(dir, sizeof dir, "%s/net/1", folder);
    assert_ok(tb_serve_artefact_open(NULL, dir, "net", "1", &m));
    assert_int_equal(m->max_batch, MOST);
    assert_int_equal(m->inputs[0].elements, WIDE);
    assert_ok(m->check(m));
    for (int i = 0; i < MOST * WIDE; i++) x[i] = (float)tb_random_normal(3, 4, (uint64_t)i);
    assert_ok(m->run(m, MOST, in, out, NULL)); /* the largest batch needs the most memory */
    memcpy(first, y, sizeof first);
    tb_heap_stats(tb_heap_process(), &before);
    for (int n = MOST; n >= 1; n--) {
        assert_ok(m->run(m, n, in, out, NULL));
        assert_memory_equal(y, first, sizeof first);
    }
    tb_heap_stats(tb_heap_process(), &after);
    assert_int_equal(after.requests, before.requests);
    m->destroy(m);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* ---- memory that ends ---- */

/* Opens, checks and runs, each again where it failed: the second time it has what it needs. `fault` is of the contexts
 * that are made in that step, NULL: of none. */
static int fails_of(const char *dir, const char *fault, int step, const void *x, void *y)
{
    tb_serve_model *m;
    int failures = 0;
    if (fault && step == 0) assert_int_equal(setenv("TB_FAULT", fault, 1), 0);
    for (; tb_serve_artefact_open(NULL, dir, "net", "1", &m) != TB_OK; failures++) {
        if (tb_error_code() != TB_ERR_OOM) fail_msg("%s", tb_error_message());
        unsetenv("TB_FAULT");
    }
    if (fault && step == 1) assert_int_equal(setenv("TB_FAULT", fault, 1), 0);
    for (; m->check(m) != TB_OK; failures++) {
        if (tb_error_code() != TB_ERR_OOM) fail_msg("%s", tb_error_message());
        unsetenv("TB_FAULT");
    }
    for (; m->run(m, MOST, &x, &y, NULL) != TB_OK; failures++) assert_int_equal(tb_error_code(), TB_ERR_OOM);
    m->destroy(m);
    return failures;
}

static void a_model_opens_after_any_failed_allocation(void **state)
{
    (void)state;
    char folder[] = "/tmp/tb_served_XXXXXX", dir[96], command[64], fault[32];
    static float x[MOST * WIDE], y[MOST * OUT], first[MOST * OUT];
    tb_mem_stats before, after;
    assert_non_null(mkdtemp(folder));
    write_artefact(folder, 1, 1);
    snprintf(dir, sizeof dir, "%s/net/1", folder);
    for (int i = 0; i < MOST * WIDE; i++) x[i] = (float)tb_random_normal(3, 4, (uint64_t)i);
    assert_int_equal(fails_of(dir, NULL, 0, x, first), 0);
    for (int which = 0; which < 3; which++) { /* the process's memory, then that of contexts: of weights, of a run */
        int failures = 0, last = 1;
        for (int n = 1; last > 0; n++, failures += last) {
            tb_heap_stats(tb_heap_process(), &before);
            snprintf(fault, sizeof fault, "alloc:%d", n);
            if (which == 0) tb_heap_fail_at(tb_heap_process(), n);
            last = fails_of(dir, which ? fault : NULL, which - 1, x, y);
            tb_heap_fail_at(tb_heap_process(), 0);
            unsetenv("TB_FAULT");
            tb_heap_stats(tb_heap_process(), &after);
            if (after.live_blocks != before.live_blocks)
                fail_msg("heap %d, request %d: %lld blocks stay", which, n,
                         (long long)(after.live_blocks - before.live_blocks));
            assert_memory_equal(y, first, sizeof first);
        }
        assert_true(failures > 0);
    }
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* ---- files that change under a running server ---- */

static const char row[] = "{\"data\":[1,2,3,4,5,6,7,8,9,10,11,12]}";

static char *path_in(const live *l, const char *file)
{
    static char path[160];
    snprintf(path, sizeof path, "%s/net/%s", l->dir, file);
    return path;
}

static void start_artefact(live *l)
{
    tb_serve_config config = {.open = tb_serve_artefact_open, .limits = {.drain_delay_ms = 1}};
    snprintf(l->dir, sizeof l->dir, "/tmp/tb_served_XXXXXX");
    assert_non_null(mkdtemp(l->dir));
    write_artefact(l->dir, 1, 1);
    live_start_with(l, &config);
    wait_ready(l);
}

static void flip_byte(const char *path, long at)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    int c = fgetc(f);
    assert_int_equal(fseek(f, -1, SEEK_CUR), 0);
    assert_int_equal(fputc(c ^ 0x40, f), c ^ 0x40);
    assert_int_equal(fclose(f), 0);
}

static void run_command(const char *verb, const live *l)
{
    char command[256];
    snprintf(command, sizeof command, "cd %s/net && %s", l->dir, verb);
    assert_int_equal(system(command), 0);
}

/* The running model goes on with the same answer; the broken one is refused, and the index says why. */
static void expect_refused(const live *l, const char *what, const char *answer)
{
    static reply r;
    if (post(l, &r, "/v2/repository/models/net/load", "") != 400) fail_msg("%s: %d %s", what, r.status, r.body);
    assert_int_equal(post(l, &r, "/v2/repository/index", ""), 200);
    assert_non_null(strstr(r.body, "\"version\":\"1\",\"state\":\"READY\""));
    assert_null(strstr(r.body, "\"reason\":\"\""));
    assert_null(strstr(r.body, l->dir)); /* where on the disk is nobody's business */
    assert_int_equal(post(l, &r, "/v1/predict", row), 200);
    assert_string_equal(r.body, answer);
}

static void a_reload_without_memory_leaves_the_running_one(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    char answer[512];
    int refused = 0;
    start_artefact(&l);
    assert_int_equal(post(&l, &r, "/v1/predict", row), 200);
    snprintf(answer, sizeof answer, "%s", r.body);
    for (int n = 1; n < 1000; n += 1 + n / 4) {
        tb_heap_fail_at(tb_heap_process(), n);
        refused += post(&l, &r, "/v2/repository/models/net/load", "") != 200;
        tb_heap_fail_at(tb_heap_process(), 0);
        assert_int_equal(post(&l, &r, "/v2/repository/index", ""), 200);
        assert_non_null(strstr(r.body, "\"version\":\"1\",\"state\":\"READY\""));
        assert_int_equal(post(&l, &r, "/v1/predict", row), 200);
        assert_string_equal(r.body, answer);
    }
    assert_true(refused > 5);
    live_stop(&l);
}

static void a_damaged_artefact_is_refused_and_the_running_one_serves_on(void **state)
{
    (void)state;
    static const char *const files[] = {"graph.tbir", "weights.safetensors", "golden.safetensors", "model.yaml"};
    live l = {0};
    static reply r;
    char answer[512], command[160];
    start_artefact(&l);
    assert_int_equal(post(&l, &r, "/v1/predict", row), 200);
    snprintf(answer, sizeof answer, "%s", r.body);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char file[64];
        snprintf(file, sizeof file, "1/%s", files[i]);
        run_command("cp -r 1 kept", &l);
        assert_int_equal(truncate(path_in(&l, file), 20), 0); /* the file that is being served */
        expect_refused(&l, file, answer);
        assert_int_equal(truncate(path_in(&l, file), 0), 0);
        expect_refused(&l, file, answer);
        assert_int_equal(unlink(path_in(&l, file)), 0);
        expect_refused(&l, file, answer);
        snprintf(command, sizeof command, "mkdir %s", file);
        run_command(command, &l);
        expect_refused(&l, file, answer);
        run_command("rm -r 1 && mv kept 1", &l);
    }
    run_command("cp -r 1 kept", &l);
    flip_byte(path_in(&l, "1/weights.safetensors"), -4); /* a low bit: no answer need differ by much */
    expect_refused(&l, "a changed weight", answer);
    run_command("rm -r 1 && cp -r kept 1", &l);
    flip_byte(path_in(&l, "1/weights.safetensors"), -2); /* a high one, with the hash that goes with it */
    run_command("sed -i \"/weights.safetensors/s/[0-9a-f]\\{64\\}/"
                "$(sha256sum < 1/weights.safetensors | cut -c1-64)/\" 1/model.yaml",
                &l);
    expect_refused(&l, "other answers than the stored ones", answer);
    run_command("rm -r 1 && mv kept 1", &l);
    assert_int_equal(post(&l, &r, "/v2/repository/models/net/load", ""), 200);
    assert_int_equal(post(&l, &r, "/v1/predict", row), 200);
    assert_string_equal(r.body, answer);
    live_stop(&l);
}

static void a_version_swapped_by_symlink_is_loaded_whole_or_refused(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    char answer[512];
    start_artefact(&l);
    assert_int_equal(post(&l, &r, "/v1/predict", row), 200);
    snprintf(answer, sizeof answer, "%s", r.body);
    run_command("ln -s nowhere 2", &l);
    expect_refused(&l, "a link to nowhere", answer);
    run_command("ln -sfn /proc/self 2", &l);
    expect_refused(&l, "a link to a folder that is no artefact", answer);
    run_command("ln -sfn 2 2", &l);
    expect_refused(&l, "a link to itself", answer);
    run_command("rm 2", &l);
    write_artefact(l.dir, 3, 7);
    run_command("mv 3 other && ln -s other/model.yaml 2", &l);
    expect_refused(&l, "a link to a file", answer);
    run_command("rm 2 && cp -r 1 2 && cp other/weights.safetensors 2/", &l);
    expect_refused(&l, "the weights of another model", answer);
    run_command("rm -r 2 && ln -s other 2", &l);
    assert_int_equal(post(&l, &r, "/v2/repository/models/net/load", ""), 200);
    run_command("rm 2", &l); /* what is loaded needs its files no more */
    assert_int_equal(post(&l, &r, "/v1/predict", row), 200);
    assert_string_equal(reply_header(&r, "X-Model-Version"), "2");
    assert_string_not_equal(r.body, answer);
    live_stop(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(no_batch_size_allocates_and_a_row_is_the_same_in_all),
        ctx_test(a_model_opens_after_any_failed_allocation),
        ctx_test(a_reload_without_memory_leaves_the_running_one),
        ctx_test(a_damaged_artefact_is_refused_and_the_running_one_serves_on),
        ctx_test(a_version_swapped_by_symlink_is_loaded_whole_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
