/* What the files of the compiler share about graphs. */
#pragma once
#include "tb_graph.h"

enum { MAX_OPERANDS = 64, MAX_ATTR_WORDS = 128, SYMBOL_STEP = 12 };

/* Operand `t` as the shape rules and kernels see it: contiguous, without storage. */
void tbi_describe(const tb_value *v, const int64_t *sizes, tb_tensor *t);
/* A value's type as the text has it: "f32[N, 64]". */
void tbi_dump_type(const tb_graph *g, const tb_value *v, tb_text *to);
/* The node's attributes with symbolic integers filled in; `attrs` has room for MAX_ATTR_WORDS words. */
void tbi_attrs_at(const tb_node *n, const int64_t *sizes, void *attrs);
/* The shape rule at given sizes; spec has TB_MAX_OUT entries. */
tb_status tbi_infer(const tb_graph *g, const tb_node *n, const int64_t *sizes, tb_out_spec *spec);
/* Sizes of a trial: the base, with symbol `moved` (-1: none) moved by SYMBOL_STEP. */
void tbi_symbol_sizes(int moved, int64_t *sizes);
/* The affine form through the value at the base sizes and at_moved[s] where symbol s moved; false: none with integer
 * coefficients. */
bool tbi_unify(int64_t at_base, const int64_t *at_moved, int n_symbols, tb_dim *out);
