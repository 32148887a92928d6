/* train-step: the steady step of the zoo's models on real data: a prefetched batch, forward, loss, backward,
 * update. Beside its time stand calls of malloc and minor page faults a step, over 100 steps that are not
 * timed; a steady step makes none. The bound counts matrix products alone.
 *
 * The check makes one step with SGD on a few rows twice, through kernels and through reference
 * implementations, and compares loss and weights. bf16: products of linear layers in bf16, beside torch's autocast; its
 * step may be off by what rounding the operands to 8 bits does. */
#include "bench_torch.h"
#include "malloc_count.h"
#include "tb_alloc.h"
#include "tb_kernel.h"
#include "tb_train.h"
#include <math.h>
#include <sys/resource.h>

enum { COUNTED_STEPS = 100, WARMUP_STEPS = 10, CONTEXT = 128, CHECKED_CONTEXT = 16 };

typedef struct workload {
    const char *name, *model, *data;
    int64_t batch, checked_rows;
    tb_optim_config optim;
    double
        flops; /* of a step: a linear layer takes 2 M K N forward and as much for each of its two gradients */
} workload;

#define MLP_WEIGHTS  (784.0 * 512 + 512 * 256 + 256 * 10)
#define MLP_FLOPS    (6 * MLP_WEIGHTS - 2 * 784.0 * 512)
#define CNN_PRODUCTS (24.0 * 24 * 32 * 25 + 8.0 * 8 * 64 * 800 + 1024.0 * 512 + 512 * 10)
#define GPT_WEIGHTS  (4 * 12 * 256.0 * 256 + 256 * 256)
static const workload workloads[] = {
    {"mlp", "mlp", "fashion-mnist", 64, 8, {.kind = TB_OPTIM_SGD}, 64 * MLP_FLOPS},
    {"mlp_b256", "mlp", "fashion-mnist", 256, 8, {.kind = TB_OPTIM_SGD}, 256 * MLP_FLOPS},
    {"cnn",
     "cnn",
     "fashion-mnist",
     64,
     2,
     {.kind = TB_OPTIM_SGD},
     64 * (6 * CNN_PRODUCTS - 2 * 24.0 * 24 * 32 * 25)},
    {"gpt",
     "gpt",
     "jargon",
     8,
     1,
     {.kind = TB_OPTIM_ADAMW, .decay = 0.01},
     8 * (6 * GPT_WEIGHTS * CONTEXT +
          3 * 4 * 2.0 * CONTEXT * CONTEXT * 256)}, /* causal: half of the scores */
};

typedef struct training {
    tb_dataset *data;
    tb_model *model;
    tb_trainer *trainer;
    const workload *work;
} training;

static void close_training(training *t)
{
    tb_trainer_destroy(t->trainer);
    tb_model_destroy(t->model);
    tb_dataset_close(t->data);
    *t = (training){0};
}

static tb_status open_training(const workload *w, int64_t batch, int64_t context, bool checked, training *t)
{
    *t = (training){.work = w};
    TB_TRY(tb_dataset_open(w->data, &t->data));
    TB_TRY(tb_model_create(w->model, TB_F32, &t->model));
    tb_trainer_config c = {.model = t->model,
                           .data = t->data,
                           .batch = batch,
                           .seed = 1,
                           .optim = w->optim,
                           .schedule = {.kind = TB_LR_CONSTANT, .rate = checked ? 0.1 : 1e-3}};
    c.context = tb_dataset_kind(t->data) == TB_DATA_TEXT ? context : 0;
    if (checked)
        c.optim = (tb_optim_config){.kind = TB_OPTIM_SGD}; /* AdamW's first step is the gradient's sign */
    else
        c.ahead = 2;
    return tb_trainer_create(&c, &t->trainer);
}

/* ---- check ---- */
/* All weights, one after the other, to be freed. */
static tb_status read_weights(const training *t, float **out)
{
    const tb_params *ps = tb_model_params(t->model);
    float *at = *out = tb_calloc((size_t)tb_params_numel(ps), sizeof **out);
    if (!at) return TB_ERR_OOM;
    for (int i = 0; i < tb_params_count(ps); i++) {
        tb_tensor *p = tb_params_at(ps, i)->tensor;
        TB_TRY(tb_tensor_read(p, at, tb_tensor_bytes(p)));
        at += tb_tensor_numel(p);
    }
    return TB_OK;
}

typedef struct one_step {
    double loss;
    float *before, *after;
    int64_t n;
} one_step;

static tb_status take_step(tb_ctx *ctx, const workload *w, bool ref_only, one_step *s)
{
    training t;
    tb_status st = open_training(w, w->checked_rows, CHECKED_CONTEXT, true, &t);
    if (st == TB_OK) st = read_weights(&t, &s->before);
    tb_ctx_limit_kernels(ctx, tb_ctx_isa(ctx), ref_only);
    if (st == TB_OK) st = tb_trainer_step(t.trainer, &s->loss);
    tb_ctx_limit_kernels(ctx, tb_ctx_isa(ctx), false);
    if (st == TB_OK) st = read_weights(&t, &s->after);
    if (st == TB_OK) s->n = tb_params_numel(tb_model_params(t.model));
    close_training(&t);
    return st;
}

static tb_status check(void *self)
{
    const training *t = self;
    one_step ref = {0}, fast = {0};
    double largest = 0, worst = 0;
    bool is_bf16 = tb_ctx_bf16_products(tb_ctx_current());
    tb_status st = take_step(tb_ctx_current(), t->work, true, &ref);
    if (st == TB_OK) st = take_step(tb_ctx_current(), t->work, false, &fast);
    for (int64_t i = 0; st == TB_OK && i < ref.n; i++)
        largest = fmax(largest, fabs((double)ref.after[i] - (double)ref.before[i]));
    for (int64_t i = 0; st == TB_OK && i < ref.n; i++) {
        double error = fabs((double)fast.after[i] - (double)ref.after[i]) / ((is_bf16 ? 5e-2 : 1e-3) * largest);
        if (!(error <= worst)) worst = error;
    }
    if (!(fabs(fast.loss - ref.loss) <= (is_bf16 ? 5e-3 : 1e-5) * ref.loss)) worst = INFINITY;
    tb_free(ref.before), tb_free(ref.after), tb_free(fast.before), tb_free(fast.after);
    return st == TB_OK ? tb_bench_judge(t->work->name, worst) : st;
}

/* ---- measure ---- */
static tb_status run_steps(void *self, int64_t times, double *ns)
{
    const training *t = self;
    (void)ns;
    for (int64_t i = 0; i < times; i++) {
        double loss;
        TB_TRY(tb_trainer_step(t->trainer, &loss));
        if (!isfinite(loss)) return TB_FAIL(TB_ERR_PARITY, "%s: the loss is %g", t->work->name, loss);
    }
    return TB_OK;
}

static int64_t page_faults(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_minflt;
}

static tb_status count_requests(tb_bench_run *run, training *t)
{
    TB_TRY(run_steps(t, WARMUP_STEPS, NULL));
    int64_t calls = tb_malloc_is_counted() ? tb_malloc_calls() : 0, faults = page_faults();
    TB_TRY(run_steps(t, COUNTED_STEPS, NULL));
    faults = page_faults() - faults;
    double mallocs =
        tb_malloc_is_counted() ? (double)(tb_malloc_calls() - calls) / COUNTED_STEPS : (double)NAN;
    tb_bench_extra_add(run, "mallocs_per_step", mallocs);
    tb_bench_extra_add(run, "page_faults_per_step", (double)faults / COUNTED_STEPS);
    return TB_OK;
}

static tb_status run_train_step(tb_bench_run *run)
{
    const tb_kernel *found[8], *gemm; /* most of the time is its; it stands for all */
    bool is_bf16 = run->dtype == TB_BF16;
    gemm = tb_kernel_find(is_bf16 ? "gemm_bf16" : "gemm", TB_F32, tb_ctx_isa(run->ctx), found, 8) ? found[0] : NULL;
    tb_ctx_set_bf16_products(run->ctx, is_bf16);
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++) {
        const workload *w = &workloads[i];
        training t;
        char torch[32];
        if (!tb_bench_wants(run, w->name)) continue;
        tb_status st = open_training(w, w->batch, CONTEXT, false, &t);
        tb_bench_case c = {.op = w->name,
                           .kernel = gemm ? gemm->name : "ref",
                           .isa = tb_ctx_isa(run->ctx),
                           .ours = {run_steps, &t},
                           .check = check,
                           .flops = w->flops};
        snprintf(c.shape, sizeof c.shape, "b%lld", (long long)w->batch);
        snprintf(torch, sizeof torch, "train_step %s %lld %s", w->model, (long long)w->batch,
                 tb_dtype_name(run->dtype));
        if (st == TB_OK) st = tb_bench_measure_beside_torch(run, torch, &c);
        if (st == TB_OK) st = count_requests(run, &t);
        close_training(&t);
        TB_TRY(st);
    }
    return TB_OK;
}

static const char *const peers[] = {"torch", NULL};

TB_BENCH(train_step, .doc = "a steady training step of mlp (64 and 256 rows), cnn and gpt",
         .dtypes = 1u << TB_F32 | 1u << TB_BF16,
         .peers = peers, .run = run_train_step);
