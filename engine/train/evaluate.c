/* Evaluation over a whole part of a data set. */
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_train.h"

enum { IGNORED = -100 };

typedef struct totals {
    int64_t targets, correct;
    double loss;
} totals;

static int64_t count_correct(const float *logits, const int32_t *labels, int64_t rows, int64_t classes)
{
    int64_t correct = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = logits + r * classes;
        int64_t best = 0;
        for (int64_t c = 1; c < classes; c++)
            if (x[c] > x[best]) best = c;
        correct += labels[r] != IGNORED && best == labels[r];
    }
    return correct;
}

static tb_status add_correct(tb_tensor *logits, tb_tensor *labels, totals *sum)
{
    tb_heap *heap = tb_ctx_heap(tb_ctx_current());
    tb_tensor *x = tb_cast(logits, TB_F32);
    int64_t classes = tb_tensor_dim(x, -1), rows = tb_tensor_numel(labels);
    float *scores = tb_heap_alloc(heap, tb_tensor_bytes(x), TB_MEM_WORKSPACE);
    int32_t *wanted = tb_heap_alloc(heap, tb_tensor_bytes(labels), TB_MEM_WORKSPACE);
    tb_status st = scores && wanted ? tb_tensor_read(x, scores, tb_tensor_bytes(x)) : TB_ERR_OOM;
    if (st == TB_OK) st = tb_tensor_read(labels, wanted, tb_tensor_bytes(labels));
    if (st == TB_OK) sum->correct += count_correct(scores, wanted, rows, classes);
    tb_heap_free(heap, scores);
    tb_heap_free(heap, wanted);
    return st;
}

static tb_status add_batch(const tb_model *m, const tb_batch *batch, totals *sum)
{
    double loss;
    tb_tensor *logits = tb_model_forward(m, batch->x);
    TB_TRY(tb_item_f64(tb_cross_entropy(logits, batch->y, &(tb_ce_opts){.reduction = TB_LOSS_SUM}), &loss));
    sum->loss += loss;
    sum->targets += batch->targets;
    return add_correct(logits, batch->y, sum);
}

static tb_status add_over_ranks(tb_comm *comm, totals *sum)
{
    int64_t counts[2] = {sum->targets, sum->correct};
    if (!comm) return TB_OK;
    TB_TRY(tb_comm_allreduce(comm, counts, 2, TB_I64, TB_REDUCE_SUM, NULL, NULL));
    TB_TRY(tb_comm_allreduce(comm, &sum->loss, 1, TB_F64, TB_REDUCE_SUM, NULL, NULL));
    sum->targets = counts[0];
    sum->correct = counts[1];
    return TB_OK;
}

tb_status tb_evaluate(tb_model *m, const tb_dataset *data, tb_split split, int64_t batch, int64_t context,
                      tb_comm *comm, tb_evaluation *out)
{
    tb_loader *loader;
    tb_ctx *ctx = tb_ctx_current();
    totals sum = {0};
    TB_TRY(tb_loader_open(&(tb_loader_config){.data = data, .split = split, .mode = TB_LOAD_EVAL, .batch = batch,
                                              .context = context, .ahead = 1,
                                              .rank = comm ? tb_comm_rank(comm) : 0,
                                              .ranks = comm ? tb_comm_size(comm) : 1},
                          &loader));
    bool was_training = *tb_params_training(tb_model_params(m)), recorded = tb_grad_mode(ctx, false);
    tb_status st = TB_OK;
    tb_model_set_training(m, false);
    for (int64_t left = 1; st == TB_OK && left > 0;) {
        tb_batch b;
        tb_scope *scope = tb_scope_open();
        st = tb_loader_next(loader, &b);
        left = b.global_rows;
        if (st == TB_OK && b.rows > 0) st = add_batch(m, &b, &sum);
        tb_scope_close(scope);
    }
    tb_model_set_training(m, was_training);
    tb_grad_mode(ctx, recorded);
    tb_loader_close(loader);
    if (st == TB_OK) st = add_over_ranks(comm, &sum);
    if (st == TB_OK && sum.targets == 0) st = TB_FAIL(TB_ERR_INVALID, "%s: nothing to evaluate", tb_dataset_name(data));
    if (st == TB_OK)
        *out = (tb_evaluation){sum.targets, sum.loss / (double)sum.targets, (double)sum.correct / (double)sum.targets};
    return st;
}
