/* The conditions of experiments: --where, sweep.exclude, valid.
 *
 *   params.model == gpt && (launch.ranks <= 2 || !params.overlap)
 *
 * Values are numbers, true and false, and text (quoted or a bare word without a dot). A word that the lookup
 * knows is its value; a dotted word that it does not know is an error, never text. Unequal types compare as
 * unequal; < <= > >= want two numbers. || binds weakest, then &&, then comparisons, then !. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>

typedef enum tb_expr_type { TB_EXPR_BOOL, TB_EXPR_NUM, TB_EXPR_TEXT } tb_expr_type;
typedef struct tb_expr_value {
    tb_expr_type type;
    bool flag;
    double number;
    char text[256];
} tb_expr_value;

/* Fills `out` and returns true when it knows `name`. When not, it may copy a known name that is near to
 * `near` (256 bytes, "" before the call). */
typedef bool (*tb_expr_lookup)(const void *arg, const char *name, tb_expr_value *out, char *near);

/* The whole must be a bool. On failure the sentence shows the expression and the column. */
TB_MUST_USE tb_status tb_expr_test(const char *text, tb_expr_lookup lookup, const void *arg, bool *out);

/* For messages and records: where `text` is one comparison of two numbers, their values; false otherwise. */
bool tb_expr_sides(const char *text, tb_expr_lookup lookup, const void *arg, double *left, double *right);
