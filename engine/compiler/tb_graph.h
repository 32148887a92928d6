/* The graph: what the compiler works on.
 *
 * A value is typed (dtype, dimensions) and made once: by a node, as an input, or as a constant. A node points at an op
 * descriptor; there is no second list of operations. Dimensions, and integers in attributes, may be affine in a few
 * named symbols (the batch): base + sum of coefficient * symbol. Nodes stand in an order in which every operand is
 * made before it is used. A graph owns everything in it. */
#pragma once
#include "tb_op.h"
#include "tb_text.h"

enum { TB_MAX_SYMBOLS = 2, TB_NO_VALUE = -1 };

typedef struct tb_dim {
    int64_t base, per[TB_MAX_SYMBOLS];
} tb_dim;
static inline tb_dim tb_dim_of(int64_t n)
{
    tb_dim d = {n, {0, 0}};
    return d;
}
int64_t tb_dim_at(tb_dim d, const int64_t *sizes); /* its value where symbol s has sizes[s] */
bool tb_dim_equal(tb_dim a, tb_dim b);

typedef struct tb_value {
    tb_dtype dtype;
    int rank;
    tb_dim dims[TB_MAX_RANK];
    int producer, output;   /* node and which of its results; producer -1: input or constant */
    tb_tensor *constant;    /* held, or NULL */
    bool is_input;
    char name[64];          /* inputs, outputs and constants have one, unique among constants */
} tb_value;

/* An integer of a node's attributes that depends on symbols: at `offset` in the op's structure. */
typedef struct tb_symbolic {
    size_t offset;
    tb_dim dim;
} tb_symbolic;

typedef struct tb_node {
    const tb_op *op;        /* NULL: deleted, gone at the next tb_graph_compact() */
    void *attrs;            /* op->attrs_bytes, or NULL if the op has none */
    int n_symbolic;
    tb_symbolic *symbolic;
    int n_in, n_out;
    int *in;                /* value ids; TB_NO_VALUE: absent optional */
    int out[TB_MAX_OUT];
} tb_node;

typedef struct tb_graph {
    char name[64];
    int n_symbols;
    char symbols[TB_MAX_SYMBOLS][16];
    tb_value *values;
    int n_values, values_capacity;
    tb_node *nodes;
    int n_nodes, nodes_capacity;
    int *inputs, *outputs;  /* value ids */
    int n_inputs, n_outputs;
} tb_graph;

TB_MUST_USE tb_status tb_graph_create(const char *name, tb_graph **out);
void tb_graph_free(tb_graph *g); /* NULL is accepted */

/* ---- building; ids are returned through `out` ---- */
TB_MUST_USE tb_status tb_graph_input(tb_graph *g, const char *name, tb_dtype dtype, int rank, const tb_dim *dims,
                                     int *out);
TB_MUST_USE tb_status tb_graph_constant(tb_graph *g, const char *name, tb_tensor *t, int *out); /* retains t */
/* Appends a node; its results get ids in out[0 .. op->n_out) with types by the op's shape rule, tried at two sizes of
 * every symbol and unified. `in` holds value ids. `attrs` is copied. */
TB_MUST_USE tb_status tb_graph_node(tb_graph *g, const tb_op *op, const void *attrs, int n_symbolic,
                                    const tb_symbolic *symbolic, int n_in, const int *in, int *out);
TB_MUST_USE tb_status tb_graph_output(tb_graph *g, int value, const char *name);

/* ---- changing ---- */
void tb_graph_replace(tb_graph *g, int value, int by);   /* in every operand and among the outputs */
int tb_graph_uses(const tb_graph *g, int value);         /* operands plus outputs */
/* Puts nodes into a valid order and drops deleted nodes and values nobody uses. */
TB_MUST_USE tb_status tb_graph_compact(tb_graph *g);

/* ---- text: parse(dump(g)) = g byte for byte; constants are names, their data lies beside (tb_graph_save) ---- */
void tb_graph_dump(const tb_graph *g, tb_text *to);
/* `constant` resolves names; it returns a tensor of the current scope (poison on failure). */
typedef tb_tensor *(*tb_constant_source)(void *arg, const char *name);
TB_MUST_USE tb_status tb_graph_parse(const char *text, size_t bytes, const char *file, tb_constant_source source,
                                     void *arg, tb_graph **out);
/* DIR/graph.tbir and DIR/weights.safetensors; the folder must exist. */
TB_MUST_USE tb_status tb_graph_save(const tb_graph *g, const char *dir);
TB_MUST_USE tb_status tb_graph_load(const char *dir, tb_graph **out);

/* Order, ids, types re-inferred and equal, names, symbols in range. The sentence names the node. */
TB_MUST_USE tb_status tb_graph_verify(const tb_graph *g);

/* ---- capture ---- */
typedef struct tb_capture_input {
    const char *name;
    tb_dtype dtype;
    int rank;
    int64_t dims[TB_MAX_RANK]; /* -1 - s: symbol s */
} tb_capture_input;
/* Runs `f` on inputs of the given types at two sizes of every symbol, records what it calls, and unifies the two
 * records. Reading a tensor's value inside f is an error. f returns its result (one output, named "y"). Tensors that
 * exist before become constants, named by tb_tensor_name or c<N>. Gradients are not recorded meanwhile. */
typedef tb_tensor *(*tb_captured)(void *arg, int n, tb_tensor *const *inputs);
TB_MUST_USE tb_status tb_capture(const char *name, int n_symbols, const char *const *symbols, int n_inputs,
                                 const tb_capture_input *inputs, tb_captured f, void *arg, tb_graph **out);
/* The same with n_outputs results (at most TB_MAX_GRAPH_OUTPUTS), which f puts into out[] in the order of their
 * names. */
enum { TB_MAX_GRAPH_OUTPUTS = 64 };
typedef void (*tb_captured_several)(void *arg, int n, tb_tensor *const *inputs, tb_tensor **out);
TB_MUST_USE tb_status tb_capture_several(const char *name, int n_symbols, const char *const *symbols, int n_inputs,
                                         const tb_capture_input *inputs, int n_outputs, const char *const *outputs,
                                         tb_captured_several f, void *arg, tb_graph **out);
