/* What passes share. */
#pragma once
#include "graph_internal.h"
#include "tb_pass.h"

struct tb_pass_run {
    const tb_compile_opts *opts;
    tb_compile_report *report; /* or NULL */
    int64_t rewrites; /* of this pass */
    int64_t left;     /* of the limit; INT64_MAX without one */
};

/* Why `user` and the node that makes its operand `k` do not become one: NULL: the pass does not look at such pairs;
 * "": nothing stands against it. The passes act on it, tbi_explain() prints it. */
const char *tbi_channels_refusal(const tb_graph *g, int user, int k);
const char *tbi_attention_refusal(const tb_graph *g, int user, int k);
const char *tbi_epilogue_refusal(const tb_graph *g, int user, int k);
const char *tbi_pooling_refusal(const tb_graph *g, int user, int k);
const char *tbi_pointwise_refusal(const tb_graph *g, int user, int k);
/* A line for every edge between two nodes that compute, views left out, with the reason why it is still there. */
void tbi_explain(const tb_graph *g, tb_text *to);

/* The node that makes `value`, if it is of this op (NULL: any) and, where `single_use`, if nothing else uses the
 * value; -1 otherwise. Multi-use is the classic miscompile of epilogue fusion, so rewriters ask here. */
int tbi_producer(const tb_graph *g, int value, const tb_op *op, bool single_use);
bool tbi_is_constant(const tb_graph *g, int value);
/* A name for a new constant: the stem, with a number behind it where that is taken. */
void tbi_unique_name(const tb_graph *g, const char *stem, char *name, size_t size);
/* The activation in a node's attributes (tb_epilogue_act); none where it has no such attribute. */
int64_t tbi_act_of(const tb_node *n);

extern const tb_pass tbi_pass_simplify, tbi_pass_fold, tbi_pass_cse, tbi_pass_bias, tbi_pass_channels,
    tbi_pass_attention, tbi_pass_epilogue, tbi_pass_winograd, tbi_pass_fuse;
