/* scripts/plot and scripts/report on result files of every kind: drawn, the same bytes twice, refused in a
 * sentence. TB_PLOT_OUT=DIR keeps the figures. */
#include "h5.h"
#include "journal_fixture.h"
#include "tb_rng.h"
#include "tb_text.h"
#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>

typedef struct plotted {
    const char *experiment, *label, *config, *plots, *scope;
    int launches;
    const char *status;
} plotted;

typedef void (*fill_fn)(tb_journal *j, int launch, const plotted *p, double knob);

static double noise(uint64_t stream, int64_t i) { return tb_random_normal(9, stream, (uint64_t)i); }

static int number; /* of the newest point; its file is <number>.h5 */

static void add_point(const plotted *p, fill_fn fill, double knob)
{
    char paths[10][64], name[32], hash[16];
    const char *list[10];
    snprintf(hash, sizeof hash, "%08x", ++number);
    for (int l = 0; l < p->launches; l++) {
        tb_journal *j;
        snprintf(name, sizeof name, "p%d-%d", number, l);
        list[l] = temporary(paths[l], name);
        assert_ok(tb_journal_create(list[l],
                                    &(tb_point){.experiment = p->experiment,
                                                .driver = "sample",
                                                .hash = hash,
                                                .label = p->label,
                                                .config = p->config,
                                                .scope = p->scope,
                                                .launch = l,
                                                .launches = p->launches,
                                                .ranks = 1,
                                                .threads = 1,
                                                .question = "Does it draw?",
                                                .plots = p->plots,
                                                .utc_ns = l * 1000000000000 + number},
                                    &j));
        assert_ok(tb_journal_fact(j, &(tb_fact){"host/cpu", "Sample CPU", -1}));
        assert_ok(tb_journal_fact(j, &(tb_fact){"host/cores_online", "2", -1}));
        assert_ok(tb_journal_fact(j, &(tb_fact){"build/git_sha", "0123456789abcdef", -1}));
        fill(j, l, p, knob);
        assert_ok(tb_journal_end(j, &(tb_end){.status = p->status, .failed_rank = -1}));
        assert_ok(tb_journal_close(j));
    }
    char out[64];
    tb_result *r;
    assert_ok(tb_result_from_journals(list, p->launches, &r));
    assert_ok(tb_result_summarise(r, 0.99));
    snprintf(name, sizeof name, "%s.h5", hash);
    assert_ok(tb_h5_write(temporary(out, name), r));
    tb_result_free(r);
}

static void fill_training(tb_journal *j, int launch, const plotted *p, double speed)
{
    (void)p;
    static const char *const tags[] = {"param", "grad", "opt", "act", "act_grad", "workspace", "comm"};
    static const double mib[] = {2.1, 2.1, 4.2, 9.5, 1.2, 0.6, 0.4};
    uint64_t stream = (uint64_t)(speed * 10) + (uint64_t)launch;
    assert_ok(tb_journal_metric(j, &(tb_metric){.name = "loss",
                                                .unit = "nats",
                                                .dir = "lower",
                                                .kind = "curve",
                                                .reduce = "rank0",
                                                .statistic = "last"}));
    assert_ok(tb_journal_metric(j, &(tb_metric){.name = "samples_per_s",
                                                .unit = "samples/s",
                                                .dir = "higher",
                                                .kind = "ratio",
                                                .reduce = "min"}));
    double loss[900], rate[40];
    for (int i = 0; i < 900; i++)
        loss[i] = 0.2 + 2.1 * exp(-i / (40.0 + speed / 300)) +
                  0.05 * fabs(noise(stream, i)) * (1 + exp(-i / 100.0));
    for (int i = 0; i < 40; i++)
        rate[i] = speed * (1 + 0.01 * noise(stream + 1000, i) + 0.004 * noise(7, launch));
    assert_ok(tb_journal_samples(j, &(tb_samples){.metric = "loss", .n = 900, .values = loss}));
    assert_ok(tb_journal_samples(j, &(tb_samples){.metric = "samples_per_s", .n = 40, .values = rate}));
    for (int t = 0; t < 7; t++) {
        char name[32];
        snprintf(name, sizeof name, "peak_bytes.%s", tags[t]);
        assert_ok(tb_journal_value(j, &(tb_value){name, "B", 0, mib[t] * 1048576 * (1 + speed / 9000)}));
    }
    assert_ok(tb_journal_value(j, &(tb_value){"bound.alpha_beta", "", 0, 0.985}));
}

/* p = 4 stages, m = 8 micro-batches; backward takes twice as long. knob 0: all forwards first; 1: 1F1B. */
static void fill_pipeline(tb_journal *j, int launch, const plotted *p, double knob)
{
    (void)launch, (void)p;
    enum { STAGES = 4, MICRO = 8 };
    double forward[STAGES][MICRO], backward[STAGES][MICRO], free_at[STAGES] = {0};
    for (int s = 0; s < STAGES; s++)
        for (int m = 0; m < MICRO; m++) forward[s][m] = backward[s][m] = -1;
    int f[STAGES] = {0}, b[STAGES] = {0};
    for (int placed = 0; placed < 2 * STAGES * MICRO;)
        for (int s = 0; s < STAGES; s++) {
            int in_flight = knob > 0 ? STAGES - s : MICRO;
            bool back = b[s] < f[s] && (f[s] == MICRO || f[s] - b[s] >= in_flight);
            int m = back ? b[s] : f[s];
            if (!back && f[s] == MICRO) continue;
            double ready = 0;
            if (back && s < STAGES - 1) ready = backward[s + 1][m];
            if (!back && s > 0) ready = forward[s - 1][m];
            if (ready < 0) continue;
            double start = fmax(ready, free_at[s]);
            free_at[s] = start + (back ? 2 : 1);
            (back ? backward : forward)[s][m] = free_at[s];
            back ? b[s]++ : f[s]++;
            placed++;
            assert_ok(tb_journal_event(j, &(tb_event){.name = back ? "backward" : "forward",
                                                      .rank = s,
                                                      .index = m,
                                                      .t0_ns = (int64_t)(start * 1e6),
                                                      .t1_ns = (int64_t)(free_at[s] * 1e6)}));
        }
}

static void fill_serving(tb_journal *j, int launch, const plotted *p, double rate)
{
    (void)p;
    double latency[2000], load = rate / 1500;
    for (int i = 0; i < 2000; i++)
        latency[i] =
            2.5 - log(1 - tb_random_uniform(5, (uint64_t)(rate + launch), (uint64_t)i)) * 1.4 / (1 - load);
    assert_ok(tb_journal_metric(
        j, &(tb_metric){
               .name = "latency_ms", .unit = "ms", .dir = "lower", .kind = "ratio", .statistic = "p95"}));
    assert_ok(tb_journal_samples(j, &(tb_samples){.metric = "latency_ms", .n = 2000, .values = latency}));
    assert_ok(tb_journal_metric(j, &(tb_metric){.name = "p95_ms", .unit = "ms", .dir = "lower", .kind = "ratio"}));
    assert_ok(tb_journal_samples(j, &(tb_samples){.metric = "p95_ms", .n = 4, .values = latency}));
    assert_ok(tb_journal_value(j, &(tb_value){"max_rate_per_s", "1/s", 0, 1300}));
    static const double at[] = {0.5, 0.9, 0.99, 0.999};
    for (int k = 0; k < 4; k++) {
        char name[64];
        snprintf(name, sizeof name, "corrected_ms.%g", at[k]);
        assert_ok(tb_journal_value(j, &(tb_value){name, "ms", 0, (k + 1) * load}));
        snprintf(name, sizeof name, "uncorrected_ms.%g", at[k]);
        assert_ok(tb_journal_value(j, &(tb_value){name, "ms", 0, k + 1}));
        static const char *const stages[] = {"receive", "parse", "compute", "serialize"};
        snprintf(name, sizeof name, "stage_us.%s", stages[k]);
        assert_ok(tb_journal_value(j, &(tb_value){name, "us", 0, rate / 100 + k}));
        snprintf(name, sizeof name, "batch.%d", 1 << k);
        assert_ok(tb_journal_value(j, &(tb_value){name, "requests", 0, rate / (k + 1)}));
    }
}

static void fill_kernels(tb_journal *j, int launch, const plotted *p, double rate)
{
    (void)launch, (void)p;
    assert_ok(
        tb_journal_metric(j, &(tb_metric){.name = "gflop_per_s", .unit = "GFLOP/s", .dir = "higher", .kind = "ratio"}));
    assert_ok(tb_journal_samples(j, &(tb_samples){.metric = "gflop_per_s", .n = 1, .values = &rate}));
    assert_ok(tb_journal_value(j, &(tb_value){"roofline.flop", "FLOP", 0, 2.7e8}));
    assert_ok(tb_journal_value(j, &(tb_value){"roofline.bytes", "B", 0, rate * 1e5}));
    assert_ok(tb_journal_value(j, &(tb_value){"roofline.peak_gflops", "GFLOP/s", 0, 71}));
    assert_ok(tb_journal_value(j, &(tb_value){"roofline.peak_gb_per_s", "GB/s", 0, 16.2}));
}

static void fill_arms(tb_journal *j, int launch, const plotted *p, double unused)
{
    (void)launch, (void)p, (void)unused;
    for (int i = 0; i < 12; i++) {
        char key[64];
        snprintf(key, sizeof key, "layer_us.%s.block.%d.fc", i % 2 ? "e3" : "e2", i / 2);
        assert_ok(tb_journal_value(j, &(tb_value){key, "us", 0, 100 - 7 * i}));
    }
    for (int arm = 2; arm < 4; arm++) {
        char name[32], bytes[32];
        double us = 240 / (arm - 1);
        snprintf(name, sizeof name, "e%d_us", arm);
        snprintf(bytes, sizeof bytes, "roofline.bytes.e%d", arm);
        assert_ok(tb_journal_metric(j, &(tb_metric){.name = name, .unit = "us", .dir = "lower", .kind = "ratio"}));
        assert_ok(tb_journal_samples(j, &(tb_samples){.metric = name, .n = 1, .values = &us}));
        assert_ok(tb_journal_value(j, &(tb_value){bytes, "B", 0, 3e6 / (arm - 1)}));
    }
    assert_ok(tb_journal_value(j, &(tb_value){"roofline.flop", "FLOP", 0, 4e7}));
    assert_ok(tb_journal_value(j, &(tb_value){"roofline.peak_gflops.f32", "GFLOP/s", 0, 260}));
    assert_ok(tb_journal_value(j, &(tb_value){"roofline.peak_gflops.i8", "GFLOP/s", 0, 1040}));
    assert_ok(tb_journal_value(j, &(tb_value){"roofline.peak_gb_per_s.l2", "GB/s", 0, 250}));
    assert_ok(tb_journal_value(j, &(tb_value){"roofline.peak_gb_per_s.memory", "GB/s", 0, 45}));
}

static int write_samples(void **state)
{
    (void)state;
    static const char *const training =
        "[{\"kind\":\"curve\",\"series\":[\"params.model\",\"launch.ranks\"],\"reference\":{\"unigram\":2.1}}"
        ","
        "{\"kind\":\"throughput\",\"x\":\"params.model\",\"series\":\"launch.ranks\"},{\"kind\":\"memory\"},"
        "{\"kind\":\"efficiency\",\"series\":\"params.model\",\"bound\":\"alpha_beta\"},"
        "{\"kind\":\"ratio\",\"base\":{\"launch.ranks\":1},\"series\":\"params.model\"},"
        "{\"kind\":\"geomean\",\"metric\":[\"samples_per_s\"],\"series\":\"launch.ranks\","
        "\"of\":[{\"params.model\":\"mlp\"},{\"params.model\":\"cnn\"}]},"
        "{\"kind\":\"histogram\",\"metric\":\"samples_per_s\",\"series\":[\"params.model\",\"launch.ranks\"]},"
        "{\"kind\":\"tradeoff\",\"panel\":\"params.model\",\"rows\":\"launch.ranks\",\"where\":{\"launch.ranks\":1},"
        "\"time\":{\"samples_per_s\":\"bound.alpha_beta\"}}"
        "]";
    static const char *const serving =
        "[{\"kind\":\"latency\",\"metric\":\"latency_ms\",\"slo\":25},{\"kind\":\"spectrum\"},{\"kind\":\"batches\"},{"
        "\"kind\":\"stages\"},"
        "{\"kind\":\"latency\",\"name\":\"percentiles\",\"metric\":[\"p95_ms\"],\"knee\":\"max_rate_per_s\"}]";
    static const double speed[2][3] = {{5200, 9950, 11900}, {1400, 2710, 3100}};
    for (int model = 0; model < 2; model++)
        for (int k = 0; k < 3; k++) {
            char label[64], config[160];
            snprintf(label, sizeof label, "%s ranks=%d", model ? "cnn" : "mlp", 1 << k);
            snprintf(config, sizeof config,
                     "{\"launch\":{\"ranks\":%d},\"params\":{"
                     "\"model\":\"%s\"}}",
                     1 << k, model ? "cnn" : "mlp");
            add_point(
                &(plotted){"training", label, config, training, k == 2 ? "oversubscribed" : "measured", 10, "ok"},
                fill_training, speed[model][k]);
        }
    for (int k = 0; k < 2; k++)
        add_point(&(plotted){"pipeline", k ? "1f1b p=4 m=8" : "gpipe p=4 m=8", "{}", "[{\"kind\":\"gantt\"}]",
                             "modelled", 1, "ok"},
                  fill_pipeline, k);
    for (int rate = 200; rate <= 1400; rate += 200) {
        char label[32], config[64];
        snprintf(label, sizeof label, "rate=%d", rate);
        snprintf(config, sizeof config, "{\"params\":{\"rate\":%d}}", rate);
        add_point(&(plotted){"serving", label, config, serving, "measured", 8, "ok"}, fill_serving, rate);
    }
    add_point(&(plotted){"kernels", "avx2", "{}", "[{\"kind\":\"roofline\"}]", "measured", 1, "ok"}, fill_kernels, 58);
    add_point(&(plotted){"training", "mlp ranks=8", "{\"launch\":{\"ranks\":8},\"params\":{\"model\":\"mlp\"}}",
                         training, "measured", 1, "invalid"},
              fill_training, 20000); /* 00000011.h5 */
    add_point(&(plotted){"inference", "mlp", "{}",
                         "[{\"kind\":\"layers\",\"arms\":{\"e2\":\"fused\",\"e3\":\"INT8\"}},"
                         "{\"kind\":\"roofline\",\"arms\":{\"e2\":\"fused\",\"e3\":\"INT8\"}}]",
                         "measured", 1, "ok"},
              fill_arms, 0);
    return 0;
}

/* Exit status; what it printed, both streams, lies in `out`. */
static int shell(tb_text *out, const char *fmt, ...) TB_PRINTF(2, 3);
static int shell(tb_text *out, const char *fmt, ...)
{
    char command[1024], block[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(command, sizeof command, fmt, args);
    va_end(args);
    strncat(command, " 2>&1", sizeof command - strlen(command) - 1);
    FILE *p = popen(command, "re");
    assert_non_null(p);
    for (size_t n; (n = fread(block, 1, sizeof block, p)) > 0;) tb_text_add_bytes(out, block, n);
    int status = pclose(p);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void every_kind_is_drawn_and_twice_the_same(void **state)
{
    (void)state;
    static const char *const figures[] = {
        "training-curve",      "training-throughput", "training-memory",   "training-efficiency", "training-ratio",
        "training-histogram",  "training-geomean",    "training-tradeoff", "pipeline-gantt",      "serving-latency",
        "serving-percentiles", "serving-spectrum",    "serving-batches",   "serving-stages",      "kernels-roofline",
        "inference-layers",    "inference-roofline"};
    char a[64], b[64], path[128];
    tb_text out = {0};
    const char *kept = getenv("TB_PLOT_OUT");
    temporary(a, "figures");
    temporary(b, "again");
    int exit_code =
        shell(&out, TB_SOURCE_DIR "/scripts/plot --out %s %s", kept ? kept : a, temporary_folder());
    if (exit_code != 0) fail_msg("%s", tb_text_str(&out));
    assert_int_equal(shell(&out, TB_SOURCE_DIR "/scripts/plot --out %s %s", b, temporary_folder()), 0);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        for (int svg = 0; svg < 2; svg++) {
            size_t n, m;
            snprintf(path, sizeof path, "%s/%s.%s", kept ? kept : a, figures[i], svg ? "svg" : "png");
            char *first = read_bytes(path, &n);
            snprintf(path, sizeof path, "%s/%s.%s", b, figures[i], svg ? "svg" : "png");
            char *second = read_bytes(path, &m);
            assert_int_equal(n, m);
            assert_memory_equal(first, second, n);
            free(first);
            free(second);
        }
    tb_text_free(&out);
}

static void what_cannot_be_drawn_is_said_in_one_sentence(void **state)
{
    (void)state;
    tb_text out = {0};
    assert_int_equal(shell(&out, TB_SOURCE_DIR "/scripts/plot /nonexistent"), 3);
    assert_non_null(strstr(tb_text_str(&out), "plot: /nonexistent"));
    assert_null(strstr(tb_text_str(&out), "Traceback"));
    out.size = 0;
    assert_int_equal(shell(&out, TB_SOURCE_DIR "/scripts/plot --kind gantt --out %s %s/00000001.h5",
                           temporary_folder(), temporary_folder()),
                     3);
    assert_non_null(strstr(tb_text_str(&out), "gantt"));
    assert_null(strstr(tb_text_str(&out), "Traceback"));
    out.size = 0;
    assert_int_equal(shell(&out, TB_SOURCE_DIR "/scripts/plot --kind geomean --out %s/none %s/00000001.h5",
                           temporary_folder(), temporary_folder()),
                     0);
    assert_string_equal(tb_text_str(&out), "training: no figure geomean: a point of each mean is missing or not ok\n");
    out.size = 0;
    add_point(&(plotted){"misspelt", "mlp", "{}", "[{\"kind\":\"curve\",\"serie\":[]}]", "measured", 1, "ok"},
              fill_training, 1);
    assert_int_equal(shell(&out, TB_SOURCE_DIR "/scripts/plot --out %s %s/%08x.h5", temporary_folder(),
                           temporary_folder(), (unsigned)number),
                     3);
    assert_non_null(
        strstr(tb_text_str(&out), "misspelt: plot 'curve' has no key 'serie'; nearest: 'series'"));
    tb_text_free(&out);
}

/* A program in the scratch copy that says what the experiment's file asks for: points 1 to n. */
static void write_program(const char *root, int n)
{
    char path[128];
    tb_text out = {0};
    tb_text_add(&out, "#!/bin/sh\ncat <<END\n{\"plots\": [], \"points\": [");
    for (int i = 1; i <= n; i++)
        tb_text_add(&out, "%s{\"hash\": \"%08x\", \"label\": \"point %d\"}", i > 1 ? ", " : "", (unsigned)i, i);
    tb_text_add(&out, "]}\nEND\n");
    snprintf(path, sizeof path, "%s/build", root);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/build/tb", root);
    write_bytes(path, tb_text_str(&out), out.size);
    assert_int_equal(chmod(path, 0755), 0);
    tb_text_free(&out);
}

/* In a scratch copy of scripts/, which then owns a results/headline of its own. */
static void a_readme_quotes_what_the_results_say(void **state)
{
    (void)state;
    char path[128];
    const char *root = temporary_folder();
    tb_text out = {0};
    static const char text[] =
        "Before.\n<!-- tb:training metrics=samples_per_s -->\nstale\n<!-- /tb -->\nAfter.\n"
        "<!-- tb:training table=compared -->\n<!-- /tb -->\n"
        "In a line <!-- tb:training metrics=samples_per_s where=params.model:mlp,launch.ranks:2 -->0<!-- /tb -->, "
        "of <!-- tb:training beside=launch.ranks where=params.model:mlp,launch.ranks:2 --><!-- /tb --> ranks.\n";
    static const char vague[] =
        "<!-- tb:training table=compared where=params.model:mlp,launch.ranks:1|2 -->0<!-- /tb -->\n";
    assert_int_equal(
        shell(&out, "cp -r " TB_SOURCE_DIR "/scripts %s/scripts && mkdir %s/results", root, root), 0);
    snprintf(path, sizeof path, "%s/README.md", root);
    write_bytes(path, text, sizeof text - 1);
    write_program(root, 6);
    int exit_code = shell(&out, "cd %s && scripts/report --headline 0000000[1-6].h5 00000011.h5", root);
    if (exit_code != 0) fail_msg("%s", tb_text_str(&out));
    assert_int_equal(shell(&out, "%s/scripts/report --check", root), 1); /* stale */
    assert_int_equal(shell(&out, "%s/scripts/report --write", root), 0);
    assert_int_equal(shell(&out, "%s/scripts/report --check", root), 0);
    size_t bytes;
    char *filled = read_bytes(path, &bytes);
    filled[bytes] = '\0';
    assert_non_null(strstr(filled, "Before.\n<!-- tb:training"));
    assert_non_null(strstr(filled, "| mlp ranks=2 | 9,"));
    assert_non_null(strstr(filled, "| mlp ranks=4 | - |")); /* oversubscribed: no time is quoted */
    assert_non_null(strstr(filled, "| mlp ranks=8 (invalid) | - |")); /* named, without a number */
    assert_non_null(strstr(filled, "99.8 % interval"));
    assert_non_null(strstr(filled, "| training | efficiency in samples per s |"));
    assert_non_null(strstr(filled, "| mlp, ranks 2 | 0.9"));
    assert_null(strstr(filled, "ranks 8"));
    assert_non_null(strstr(filled, "<!-- /tb -->\nAfter.\n"));
    assert_non_null(strstr(filled, "where=params.model:mlp,launch.ranks:2 -->9,"));
    assert_non_null(strstr(filled, "where=params.model:mlp,launch.ranks:2 -->2<!-- /tb --> ranks"));
    free(filled);
    write_bytes(path, vague, sizeof vague - 1);
    assert_int_equal(shell(&out, "%s/scripts/report --write", root), 3);
    assert_non_null(strstr(tb_text_str(&out), "a figure within a line wants one value"));
    tb_text_free(&out);
}

static void a_run_that_lacks_points_is_not_quoted(void **state)
{
    (void)state;
    const char *root = temporary_folder();
    tb_text out = {0};
    write_program(root, 8);
    assert_int_equal(shell(&out, "cd %s && scripts/report --headline 0000000[1-6].h5", root), 3);
    if (!strstr(tb_text_str(&out), "training: cannot be quoted: 2 of its 8 points are missing (point 7, point 8); "
                                   "tb run training --resume measures them"))
        fail_msg("%s", tb_text_str(&out));
    write_program(root, 2);
    out.size = 0;
    assert_int_equal(shell(&out, "cd %s && scripts/report --headline 0000000[2-3].h5", root), 3);
    if (!strstr(tb_text_str(&out), "1 of its 2 points are missing (point 1); 1 of this run are of another version"))
        fail_msg("%s", tb_text_str(&out));
    tb_text_free(&out);
}

static void experiments_ask_for_plots_that_exist(void **state)
{
    (void)state;
    tb_text out = {0};
    if (shell(&out, "TB_BUILD_DIR=" TB_BINARY_DIR " " TB_SOURCE_DIR "/scripts/plot --check"))
        fail_msg("%s", tb_text_str(&out));
    tb_text_free(&out);
}

static void results_that_do_not_hold_up_are_not_quoted(void **state)
{
    (void)state;
    static const struct {
        const char *status, *sha, *dirty, *profile, *why;
    } cases[] = {{"failed", "0123", "0", "", "no point of it is ok"},
                 {"ok", "0123", "1", "", "not clean"},
                 {"ok", "", "0", "", "unknown"},
                 {"ok", "0123", "0", "smoke", "profile 'smoke'"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char journal[64], file[64];
        tb_text out = {0};
        tb_journal *j;
        tb_result *r;
        unlink(temporary(journal, "unfit"));
        assert_ok(tb_journal_create(
            journal,
            &(tb_point){.experiment = "unfit", .hash = "u", .scope = "measured", .profile = cases[i].profile},
            &j));
        if (cases[i].sha[0]) assert_ok(tb_journal_fact(j, &(tb_fact){"build/git_sha", cases[i].sha, -1}));
        assert_ok(tb_journal_fact(j, &(tb_fact){"build/git_dirty", cases[i].dirty, -1}));
        assert_ok(tb_journal_end(j, &(tb_end){.status = cases[i].status}));
        assert_ok(tb_journal_close(j));
        assert_ok(tb_result_from_journals((const char *const[]){journal}, 1, &r));
        assert_ok(tb_result_summarise(r, 0.99));
        assert_ok(tb_h5_write(temporary(file, "unfit.hdf5"), r));
        tb_result_free(r);
        assert_int_equal(shell(&out, TB_SOURCE_DIR "/scripts/report --headline %s", file), 3);
        if (!strstr(tb_text_str(&out), cases[i].why)) fail_msg("%s", tb_text_str(&out));
        tb_text_free(&out);
    }
}

static void altered_results_are_refused(void **state)
{
    (void)state;
    char journal[64], file[64];
    tb_text out = {0};
    tb_journal *j;
    tb_result *r;
    assert_ok(tb_journal_create(temporary(journal, "altered"), &(tb_point){.experiment = "altered", .hash = "a"}, &j));
    assert_ok(tb_journal_metric(j, &(tb_metric){.name = "x", .dir = "lower", .kind = "ratio", .reduce = "max"}));
    assert_ok(tb_journal_samples(j, &(tb_samples){.metric = "x", .n = 3, .values = (double[]){4, 5, 6}}));
    assert_ok(tb_journal_end(j, &(tb_end){.status = "ok", .failed_rank = -1}));
    assert_ok(tb_journal_close(j));
    assert_ok(tb_result_from_journals((const char *const[]){journal}, 1, &r));
    assert_ok(tb_result_summarise(r, 0.99));
    assert_ok(tb_h5_write(temporary(file, "altered.hdf5"), r));
    assert_int_equal(shell(&out, TB_SOURCE_DIR "/scripts/report %s", file), 0);
    r->summaries[0].value = 2.5;
    assert_ok(tb_h5_write(file, r));
    out.size = 0;
    assert_int_equal(shell(&out, TB_SOURCE_DIR "/scripts/report %s", file), 3);
    assert_non_null(strstr(tb_text_str(&out), "its summary says x 2.5, but its samples give 5"));
    tb_result_free(r);
    tb_text_free(&out);
}

static void the_committed_readme_quotes_the_committed_results(void **state)
{
    (void)state;
    tb_text out = {0};
    if (shell(&out, TB_SOURCE_DIR "/scripts/report --check")) fail_msg("%s", tb_text_str(&out));
    tb_text_free(&out);
}

int main(void)
{
    if (system("/usr/bin/python3 -c 'import h5py, matplotlib' 2>/dev/null"))
        return 77; /* skipped, and counted so */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_drawn_and_twice_the_same),
        cmocka_unit_test(what_cannot_be_drawn_is_said_in_one_sentence),
        cmocka_unit_test(a_readme_quotes_what_the_results_say),
        cmocka_unit_test(a_run_that_lacks_points_is_not_quoted),
        cmocka_unit_test(experiments_ask_for_plots_that_exist),
        cmocka_unit_test(results_that_do_not_hold_up_are_not_quoted),
        cmocka_unit_test(altered_results_are_refused),
        cmocka_unit_test(the_committed_readme_quotes_the_committed_results),
    };
    return cmocka_run_group_tests(tests, write_samples, remove_temporaries);
}
