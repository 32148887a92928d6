/* The graph: nodes hang on the tensors they made; a list in order of creation is the order that backward walks. */
#pragma once
#include "tb_autograd.h"
#include "tb_op.h"
#include "tb_ops.h"

typedef struct node node;

/* Where the gradient of one input goes: to a leaf, to an output of another node, or nowhere. */
typedef struct edge {
    node *to;         /* counted reference */
    int output;
    tb_tensor *leaf;  /* counted reference */
} edge;

/* A recomputed segment stands in the graph as one node with one input (x) and further edges to the leaves it read. */
typedef struct segment {
    tb_segment run;
    void *arg;
    uint64_t stream, stream_uses;
    int64_t first_sample;
} segment;

struct node {
    tb_ctx *ctx;
    int refs;
    node *older, *newer;          /* all nodes of the context, by creation */
    const tb_op *op;              /* NULL for a recomputed segment */
    segment segment;
    void *attrs;
    int n_in, n_out;
    edge *edges;                  /* [n_in] */
    struct origin *origins;       /* [n_out] what the outputs know of this node */
    tb_out_spec *in_spec, *out_spec;
    tb_tensor **saved_in, **saved_out;
    uint32_t *version;            /* of saved_in, then saved_out, when they were saved */
    tb_tensor **grads;            /* [n_out] what has arrived in the running backward */
    tb_tensor **result;           /* [n_in] */
    uint64_t mark;                /* backward pass that reaches this node */
    bool is_useful;               /* leads to a wanted input (tb_gradients) */
    bool is_freed, is_deferred;
};

/* What a tensor knows: the node that made it (which the tensor holds a reference to), or that it is a leaf. */
typedef struct origin {
    node *made_by;     /* NULL: leaf */
    int output;
} origin;

typedef struct leaf {
    origin origin;     /* first: tb_tensor.autograd points to it */
    tb_tensor *grad;   /* NULL when nothing has arrived */
    tb_tensor *buffer; /* given by the user */
    int rows;          /* of the buffer; 0: it has the leaf's shape */
    uint64_t filled;   /* rows that hold something */
    tb_grad_hook hook;
    void *hook_arg;
    uint64_t mark;     /* backward pass in which `uses` counts */
    int uses;          /* contributions still to come */
    int arrived;       /* contributions of that pass so far */
    bool is_input;     /* defer_weights does not put its gradient off */
} leaf;

typedef struct tape {
    tb_interceptor interceptor;
    tb_ctx *ctx;
    bool is_on;
    node *newest;
    uint64_t passes;            /* marks handed out */
    bool runs_again;            /* a segment is being recomputed */
    node *collecting;           /* a segment being recorded: notes the leaves that are read */
    const tb_op *backward_op;   /* whose rule is running, for messages */
    tb_interceptor anomaly;
} tape;

tape *tbi_tape(tb_ctx *ctx);    /* made on first use; NULL on failure */
static inline const origin *origin_of(const tb_tensor *t) { return t->autograd; } /* NULL: in no graph */
static inline bool tbi_is_leaf(const tb_tensor *t) { return t->autograd && !origin_of(t)->made_by; }
static inline leaf *leaf_of(const tb_tensor *t) { return t->autograd; } /* of a leaf */
/* Gives `t` (an output of `n`) its place in the graph. */
void tbi_node_attach(node *n, int output, tb_tensor *t);
node *tbi_node_new(tape *tp, int n_in, int n_out, size_t attrs_bytes);
void tbi_edge_set(node *n, int i, tb_tensor *in);
void tbi_node_retain(node *n);
void tbi_node_release(node *n);
void tbi_node_free_saved(node *n);
bool tbi_needs_grad(const tb_tensor *t);
tb_status tbi_anomaly_around(tb_interceptor *self, tb_op_call *c);
/* Row i of a leaf's buffer, in the current scope; NULL: no memory. */
tb_tensor *tbi_grad_row(tb_tensor *buffer, int i);
/* The backward of a segment inside the pass that runs it: that pass counts the uses of leaves. */
tb_status tbi_backward_inside(tb_tensor *root, tb_tensor *grad);
/* Adds `g` to the leaf's gradient; counts one use done when `mark` is the running pass. */
tb_status tbi_leaf_receive(tb_tensor *leaf, tb_tensor *g, uint64_t mark);
tb_status tbi_run_segment(tape *tp, node *n);
