/* Dynamic reverse-mode differentiation over the dispatch interceptor.
 *
 * Every op call that reads a tensor which requires a gradient records a node: op, attributes, what the op saves, and
 * edges to the nodes of its inputs. The graph hangs on the tensors; several graphs live at once and go backward in
 * any order. Backward runs the ops' gradient rules, which are ops again, so gradients have gradients. Nodes free what
 * they saved as soon as they have run. */
#pragma once
#include "tb_tensor.h"

/* ---- leaves ---- */
/* Makes a leaf whose gradient accumulates (parameters). Floating dtypes only; the tensor must not be an op's result
 * that has a graph. Starts recording in the tensor's context. */
TB_MUST_USE tb_status tb_require_grad(tb_tensor *t);
bool tb_requires_grad(const tb_tensor *t);
/* The accumulated gradient (borrowed; valid until it is cleared), or NULL when there is none. */
tb_tensor *tb_grad(const tb_tensor *leaf);
/* Gradients are written into `buffer` (same shape and dtype, kept by the leaf): a view into a bucket or a shared
 * arena. The first contribution after tb_grad_clear overwrites, later ones add, in place. NULL gives it back.
 *
 * A buffer with one more dimension in front, [n, shape], keeps the uses of the leaf in a graph apart (a tied head): in
 * each backward pass the i-th contribution goes to row i, further ones to the last. Rows are summed over ranks one by
 * one; tb_grad_join() then adds them as one rank would, so the bits do not depend on the ranks. */
TB_MUST_USE tb_status tb_grad_set_buffer(tb_tensor *leaf, tb_tensor *buffer);
/* Adds the rows of such a buffer into its first, which is what tb_grad() gives, and clears the others. Without rows or
 * gradient: nothing. */
TB_MUST_USE tb_status tb_grad_join(tb_tensor *leaf);
void tb_grad_clear(tb_tensor *leaf); /* forgets the gradient; a given buffer stays attached */

/* Called when the leaf's gradient is complete for one backward pass (all its uses have contributed). */
typedef void (*tb_grad_hook)(tb_tensor *leaf, void *arg);
TB_MUST_USE tb_status tb_grad_set_hook(tb_tensor *leaf, tb_grad_hook hook, void *arg); /* NULL removes it */

/* ---- recording ---- */
bool tb_grad_mode(tb_ctx *ctx, bool on); /* off: nothing is recorded; returns the mode before. Default on */
tb_tensor *tb_detach(tb_tensor *t);      /* same storage, no graph */
/* Stands for `t`, which an op made, as the root of its graph and holds none of its bytes: backward may start from it
 * when `t` itself is long gone (a pipeline stage's output that has been sent). Its elements must not be read. */
tb_tensor *tb_graph_root(tb_tensor *t);

/* ---- backward ---- */
typedef struct tb_backward_opts {
    tb_tensor *grad;      /* gradient of the root; NULL: the root is one element, its gradient 1 */
    bool retain_graph;    /* the graph can be walked again */
    bool create_graph;    /* gradients get graphs of their own (implies retain_graph) */
    bool defer_weights;   /* gradients of leaves wait for tb_backward_weights(): zero-bubble schedules' split */
    tb_tensor *input;     /* a leaf that does not wait then: what the root is computed from, not with. NULL: none */
} tb_backward_opts;

/* Accumulates into the leaves below `root`. Takes a pending op error first. */
TB_MUST_USE tb_status tb_backward(tb_tensor *root);
TB_MUST_USE tb_status tb_backward_with(tb_tensor *root, const tb_backward_opts *opts);
/* The part that defer_weights left: gradients of the leaves below `root`, from what the first part kept. Until then no
 * other pass may reach the nodes that keep it. */
TB_MUST_USE tb_status tb_backward_weights(tb_tensor *root);
/* Gradients of `root` with respect to `inputs` (leaves or not), returned in `grads` (current scope; NULL where the
 * root does not depend on it) instead of accumulated. */
TB_MUST_USE tb_status tb_gradients(tb_tensor *root, const tb_backward_opts *opts, int n, tb_tensor *const *inputs,
                                   tb_tensor **grads);

/* ---- recompute: trade time for memory (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016) ---- */
/* y = f(arg, x) keeping only x; f runs again in backward, with the same random streams. Besides x, f may read leaves
 * (63 at most) and what is in no graph; results of recorded ops are refused. */
typedef tb_tensor *(*tb_segment)(void *arg, tb_tensor *x);
tb_tensor *tb_recompute(tb_segment f, void *arg, tb_tensor *x);
/* Whether f is being run again: what each forward pass moves on, like running averages, must then stay. */
bool tb_is_recomputing(const tb_ctx *ctx);

/* ---- anomaly mode ---- */
/* Every op's outputs (forward and backward) are scanned; the first op that makes a NaN from inputs without one fails
 * with its name. Slow. */
TB_MUST_USE tb_status tb_anomaly_mode(tb_ctx *ctx, bool on);

/* ---- gradient check, for tests: compares with central differences in f64 ---- */
typedef tb_tensor *(*tb_scalar_fn)(void *arg, int n, tb_tensor *const *inputs);
/* `inputs` are f64 leaves; relative error at most `tol`. Fails with the input and element that differ. */
TB_MUST_USE tb_status tb_gradcheck(tb_scalar_fn f, void *arg, int n, tb_tensor *const *inputs, double step, double tol);
