/* infer: one trained model run four ways (arms.h), interleaved in every iteration. The weights are trained in
 * setup, or by an earlier point that left them in the file `weights`. Before anything is timed the outputs
 * for all test rows are compared: e0 and e1 must have the same bits, e2 too, but for what batch norm in the weights and
 * `fast` round otherwise. e3 is judged by its accuracy.
 *
 * `peers` adds other engines that run the same weights on the same rows, each a process and one more column of every
 * iteration. A speed-up over a slow baseline is worth nothing: where e0 is slower than PyTorch's eager run the launch
 * is invalid. A peer that cannot be had leaves its column empty, and says so. */
#include "arms.h"
#include "infer_peers.h"
#include "tb_alloc.h"
#include "tb_bench.h"
#include "tb_cpu.h"
#include "tb_driver.h"
#include "tb_pool.h"
#include "tb_topo.h"
#include "stats.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const tb_key keys[] = {
    {"model", TB_KEY_STR, "", 0, 0, NULL, "mlp", "a model of images or text, with options"},
    {"data", TB_KEY_STR, "", 0, 0, NULL, "fashion-mnist", "images or text"},
    {"context", TB_KEY_INT, "bytes", 1, 1 << 16, NULL, "128", "text: length of a row"},
    {"form", TB_KEY_CHOICE, "", 0, 0, "whole|step", "whole",
     "text: a call reads whole rows, or the next byte of each with what came before in a cache"},
    {"fast", TB_KEY_BOOL, "", 0, 0, NULL, "false", "e2, e3: also passes that sum in another order (Winograd)"},
    {"batch", TB_KEY_INT, "rows", 1, 4096, NULL, "32", "of every call"},
    {"train_steps", TB_KEY_INT, "", 1, 1e7, NULL, "3000", "before the measurement"},
    {"train_batch", TB_KEY_INT, "rows", 1, 4096, NULL, "64", ""},
    {"rate", TB_KEY_NUM, "", 0, 10, NULL, "0.05", "highest learning rate of the training (cosine)"},
    {"decay", TB_KEY_NUM, "", 0, 10, NULL, "0", "weight decay of the training"},
    {"optimizer", TB_KEY_CHOICE, "", 0, 0, "sgd|adamw", "sgd", "sgd: momentum 0.9, look-ahead"},
    {"train_seed", TB_KEY_INT, "", 0, 1e9, NULL, "1", "of the first weights and the order of images"},
    {"weights", TB_KEY_STR, "", 0, 0, NULL, "",
     "file, from the folder of experiments/ up, that the first point trains and the others read; empty: "
     "train at every launch"},
    {"peers", TB_KEY_STR, "", 0, 0, NULL, "", "other engines beside: torch, torch-best, torch-int8, ort, ort-int8"},
};

#define RATIO .kind = "ratio", .scope = "", .statistic = "median", .margin = 0.05
static const tb_metric metrics[] = {
    {.name = "e0_us", .unit = "us", .dir = "lower", .reduce = "max", RATIO},
    {.name = "e1_us", .unit = "us", .dir = "lower", .reduce = "max", RATIO},
    {.name = "e2_us", .unit = "us", .dir = "lower", .reduce = "max", RATIO},
    {.name = "e3_us", .unit = "us", .dir = "lower", .reduce = "max", RATIO},
    {.name = "e2_tokens_per_s", .unit = "1/s", .dir = "higher", .reduce = "min", RATIO},
    {.name = "e3_tokens_per_s", .unit = "1/s", .dir = "higher", .reduce = "min", RATIO},
    {.name = "peer_tokens_per_s", .unit = "1/s", .dir = "none", .reduce = "min", RATIO},
    {.name = "e1_speedup", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "e2_speedup", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "e3_speedup", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "e3_over_e2", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "peer_us", .unit = "us", .dir = "none", .reduce = "max", RATIO},
    {.name = "e0_over_peer", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "e3_over_peer", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "torch_best_us", .unit = "us", .dir = "none", .reduce = "max", RATIO},
    {.name = "e2_over_torch_best", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "torch_int8_us", .unit = "us", .dir = "none", .reduce = "max", RATIO},
    {.name = "e3_over_torch_int8", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "ort_us", .unit = "us", .dir = "none", .reduce = "max", RATIO},
    {.name = "e2_over_ort", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "ort_int8_us", .unit = "us", .dir = "none", .reduce = "max", RATIO},
    {.name = "e3_over_ort_int8", .unit = "", .dir = "higher", .reduce = "min", RATIO},
};

typedef struct infer_state {
    tb_ctx *ctx;
    tb_arms *arms;
    tb_infer_peers peers;
    double *e0_over_torch; /* of the iterations, for the median */
    int64_t iteration, room;
} infer_state;

static void show_training(void *arg, int64_t step, int64_t steps) { tb_run_phase(arg, "training", step, steps); }

/* Weights and images go over in a file that is gone when the peers have read it. */
static tb_status start_peers(const tb_run *run, infer_state *s, const bool asked[TB_INFER_PEERS])
{
    char path[] = "/tmp/tb_infer_XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return TB_FAIL(TB_ERR_IO, "infer: cannot make a file in /tmp for the peers");
    close(fd);
    tb_status st = tb_arms_save(s->arms, path);
    if (st == TB_OK) tb_infer_peers_start(run, asked, path, &s->peers);
    unlink(path);
    return st;
}

static bool is_stepped(const tb_run *run) { return strcmp(tb_param_str(run, "form"), "step") == 0; }

static tb_status setup(const tb_run *run, void **out)
{
    infer_state *s = *out = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    uint64_t seed = (uint64_t)tb_param_int(run, "train_seed");
    const char *weights = tb_param_str(run, "weights");
    tb_ctx_config c = {.threads = run->threads,
                       .seed = seed,
                       .device = run->device};
    bool asked[TB_INFER_PEERS];
    if (run->ranks != 1) return TB_FAIL(TB_ERR_CONFIG, "infer: inference runs on one rank; set launch.ranks to 1");
    TB_TRY(tb_infer_peers_parse(tb_param_str(run, "peers"), asked));
    TB_TRY(tb_ctx_create(&c, &s->ctx));
    tb_ctx_enter(s->ctx);
    tb_arms_config config = {.ctx = s->ctx,
                             .context = tb_param_int(run, "context"),
                             .model = tb_param_str(run, "model"),
                             .data = tb_param_str(run, "data"),
                             .is_stepped = is_stepped(run),
                             .is_fast = tb_param_bool(run, "fast"),
                             .batch = tb_param_int(run, "batch"),
                             .train_steps = tb_param_int(run, "train_steps"),
                             .train_batch = tb_param_int(run, "train_batch"),
                             .rate = tb_param_num(run, "rate"),
                             .decay = tb_param_num(run, "decay"),
                             .adamw = strcmp(tb_param_str(run, "optimizer"), "adamw") == 0,
                             .weights = weights[0] ? weights : NULL,
                             .seed = seed,
                             .progress = show_training,
                             .arg = (void *)(uintptr_t)run};
    TB_TRY(tb_arms_create(&config, &s->arms));
    for (int arm = 1; arm < TB_ARMS; arm++) {
        static const char *const names[TB_ARMS] = {NULL, "graph_e1", "graph_e2", "graph_e3"};
        char *text = tb_arms_text(s->arms, arm);
        if (text) tb_emit_text(run, names[arm], text);
        tb_free(text);
    }
    tb_emit_fact(run, "isa", tb_isa_name(tb_ctx_isa(s->ctx)));
    /* A peer inherits where this thread may run: all of the point's cores. Then each thread here gets one. */
    if (run->cores) TB_TRY(tb_topo_bind_thread(run->cores, run->n_cores));
    if (tb_param_str(run, "peers")[0]) TB_TRY(start_peers(run, s, asked));
    return run->cores ? tb_pool_bind(tb_ctx_pool(s->ctx), run->cores, run->n_cores) : TB_OK;
}

/* Products are what fusion cannot save: e0_us / e2_products_us bounds e2_speedup. */
static tb_status emit_layers(const tb_run *run, infer_state *s, int arm, const char *name)
{
    tb_layer_times t;
    char key[128];
    TB_TRY(tb_arms_layer_times(s->arms, arm, &t));
    for (int i = 0; i < t.n; i++) {
        snprintf(key, sizeof key, "layer_us.%s.%s", name, t.at[i].name);
        tb_emit_value(run, key, "us", t.at[i].us);
    }
    if (arm == TB_ARM_FUSED) tb_emit_value(run, "e2_products_us", "us", t.products_us);
    return TB_OK;
}

/* What the arms do, and what the machine can do with the threads they have: multiply-adds in f32 and of u8 x s8, and
 * reading what fits half of L2 and what no cache holds. */
static tb_status emit_roofline(const tb_run *run, const infer_state *s)
{
    static const char *const names[TB_ARMS] = {"roofline.bytes.e0", "roofline.bytes.e1", "roofline.bytes.e2",
                                               "roofline.bytes.e3"};
    tb_pool *pool = tb_ctx_pool(s->ctx);
    tb_isa isa = tb_ctx_isa(s->ctx);
    tb_topo topo;
    TB_TRY(tb_topo_load(&topo));
    tb_emit_value(run, "roofline.flop", "FLOP", tb_arms_work_of(s->arms, 1).flop);
    for (int arm = 0; arm < TB_ARMS; arm++) tb_emit_value(run, names[arm], "B", tb_arms_work_of(s->arms, arm).bytes);
    size_t l2 = topo.l2_bytes > 0 ? (size_t)topo.l2_bytes / 2 * (size_t)run->threads : 512 << 10,
           memory = topo.l3_bytes > 0 ? 4 * (size_t)topo.l3_bytes : 256 << 20;
    tb_emit_value(run, "roofline.peak_gflops.f32", "GFLOP/s", tb_limit_flops(TB_F32, isa, pool) * 1e-9);
    tb_emit_value(run, "roofline.peak_gflops.i8", "GFLOP/s", tb_limit_flops(TB_I8, isa, pool) * 1e-9);
    tb_emit_value(run, "roofline.peak_gb_per_s.l2", "GB/s", tb_limit_read(l2, isa, pool) * 1e-9);
    tb_emit_value(run, "roofline.peak_gb_per_s.memory", "GB/s", tb_limit_read(memory, isa, pool) * 1e-9);
    return TB_OK;
}

static tb_status check(const tb_run *run, void *state)
{
    infer_state *s = state;
    tb_arms_facts f;
    TB_TRY(tb_arms_check(s->arms, &f));
    tb_emit_fact(run, "model/spec", f.model_spec);
    tb_emit_fact(run, "data/test/sha256", f.test_sha256);
    tb_emit_value(run, "train_loss", "nats", f.train_loss);
    tb_emit_value(run, "accuracy_f32", "", f.accuracy_f32);
    tb_emit_value(run, "accuracy_int8", "", f.accuracy_int8);
    tb_emit_value(run, "loss_f32", "nats", f.loss_f32);
    tb_emit_value(run, "loss_int8", "nats", f.loss_int8);
    tb_emit_value(run, "int8_drop_low", "", f.drop_low);
    tb_emit_value(run, "int8_drop_high", "", f.drop_high);
    tb_emit_value(run, "int8_mac_share", "", f.int8_mac_share);
    tb_emit_value(run, "plan_bytes", "B", f.plan_bytes);
    tb_emit_value(run, "plan_bound_bytes", "B", f.plan_bound_bytes);
    tb_emit_value(run, "plan_naive_bytes", "B", f.plan_naive_bytes);
    tb_emit_value(run, "plan_over_bound", "", f.plan_bound_bytes > 0 ? f.plan_bytes / f.plan_bound_bytes : 1);
    tb_emit_check(run, "parity.graph_difference", "parity", f.difference, 0,
                  "the captured graph gives other bits than eager execution");
    tb_emit_check(run, "parity.fused_difference", "parity", f.fused_difference, 1e-4,
                  "the fused graph gives other logits than eager execution");
    tb_emit_check(run, "parity.int8_accuracy_drop", "parity", f.accuracy_f32 - f.accuracy_int8, 0.005,
                  "integers lose more than 0.5 points of accuracy");
    TB_TRY(emit_roofline(run, s));
    TB_TRY(emit_layers(run, s, TB_ARM_FUSED, "e2"));
    return emit_layers(run, s, TB_ARM_INT8, "e3");
}

static tb_status keep(infer_state *s, double e0_over_torch)
{
    if (s->iteration == s->room) {
        int64_t room = s->room ? 2 * s->room : 1024;
        double *more = tb_realloc(s->e0_over_torch, (size_t)room * sizeof *more);
        if (!more) return TB_ERR_OOM;
        s->e0_over_torch = more;
        s->room = room;
    }
    s->e0_over_torch[s->iteration] = e0_over_torch;
    return TB_OK;
}

/* One call of every arm on the same rows; the order turns with the iterations. Each is timed in its second call, as
 * peers time themselves: what ran before has filled the caches. */
static tb_status run_once(const tb_run *run, void *state)
{
    static const char *const time_names[TB_ARMS] = {"e0_us", "e1_us", "e2_us", "e3_us"};
    static const char *const ratio_names[TB_ARMS] = {NULL, "e1_speedup", "e2_speedup", "e3_speedup"};
    infer_state *s = state;
    double us[TB_ARMS], torch_us;
    for (int turn = 0; turn < TB_ARMS; turn++) {
        int arm = (int)((turn + s->iteration) % TB_ARMS);
        TB_TRY(tb_arms_run(s->arms, arm, s->iteration));
        int64_t start = tb_now_ns();
        TB_TRY(tb_arms_run(s->arms, arm, s->iteration));
        us[arm] = (double)(tb_now_ns() - start) / 1e3;
    }
    for (int arm = 0; arm < TB_ARMS; arm++) tb_emit_sample(run, time_names[arm], s->iteration, us[arm]);
    for (int arm = 1; arm < TB_ARMS; arm++) tb_emit_sample(run, ratio_names[arm], s->iteration, us[0] / us[arm]);
    tb_emit_sample(run, "e3_over_e2", s->iteration, us[2] / us[3]);
    TB_TRY(tb_infer_peers_run(run, &s->peers, s->iteration, us, &torch_us));
    double tokens = (double)tb_arms_tokens(s->arms);
    if (tokens > 0) {
        tb_emit_sample(run, "e2_tokens_per_s", s->iteration, tokens * 1e6 / us[TB_ARM_FUSED]);
        tb_emit_sample(run, "e3_tokens_per_s", s->iteration, tokens * 1e6 / us[TB_ARM_INT8]);
        if (torch_us > 0) tb_emit_sample(run, "peer_tokens_per_s", s->iteration, tokens * 1e6 / torch_us);
    }
    if (torch_us > 0) {
        tb_emit_sample(run, "e0_over_peer", s->iteration, torch_us / us[0]);
        TB_TRY(keep(s, us[0] / torch_us));
    }
    s->iteration++;
    return TB_OK;
}

static tb_status finish(const tb_run *run, void *state)
{
    infer_state *s = state;
    if (!s->peers.at[TB_INFER_TORCH] || s->iteration == 0) return TB_OK;
    tb_sort(s->e0_over_torch, s->iteration);
    tb_emit_check(run, "baseline.slower_than_peer", "baseline", tb_median(s->e0_over_torch, s->iteration), 1,
                  "eager execution takes longer than PyTorch's: speed-ups over it would flatter");
    return TB_OK;
}

static void teardown(void *state)
{
    infer_state *s = state;
    if (!s) return;
    tb_infer_peers_stop(&s->peers);
    tb_free(s->e0_over_torch);
    tb_arms_destroy(s->arms);
    tb_ctx_destroy(s->ctx);
    tb_free(s);
}

/* Beside the metrics. */
static const char *const emits[] = {"graph_e1",
                                    "graph_e2",
                                    "graph_e3",
                                    "train_loss",
                                    "accuracy_f32",
                                    "accuracy_int8",
                                    "int8_drop_low",
                                    "int8_drop_high",
                                    "int8_mac_share",
                                    "plan_bytes",
                                    "plan_bound_bytes",
                                    "plan_naive_bytes",
                                    "plan_over_bound",
                                    "layer_us.*",
                                    "e2_products_us",
                                    "roofline.flop",
                                    "roofline.bytes.*",
                                    "roofline.peak_gflops.*",
                                    "roofline.peak_gb_per_s.*",
                                    "parity.graph_difference",
                                    "parity.fused_difference",
                                    "parity.int8_accuracy_drop",
                                    "baseline.slower_than_peer",
                                    NULL};

TB_DRIVER(infer, .version = 2, .doc = "Inference four ways, interleaved: eager, graph, fused, INT8", .keys = keys,
          .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics, .n_metrics = sizeof metrics / sizeof metrics[0],
          .emits = emits, .setup = setup, .check = check, .run_once = run_once, .finish = finish, .teardown = teardown);
