/* The conditions of experiments: --where, sweep.exclude, valid.
 *
 *   params.model == gpt && (launch.ranks <= 2 || !params.overlap)
 *
 * Values are numbers, true and false, and text (quoted or a bare word without a dot). A word that the lookup
 * knows is its value; one that it does not know is text, and an error where it has a dot or is compared with
 * anything but text that is known: it is misspelt. Text that is a number equals that number; other unequal
 * types compare as unequal; < <= > >= want two numbers. || binds weakest, then &&, then comparisons, then !. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>

/* TB_EXPR_ANY: what only a run will tell; any comparison with it is well formed. */
typedef enum tb_expr_type { TB_EXPR_BOOL, TB_EXPR_NUM, TB_EXPR_TEXT, TB_EXPR_ANY } tb_expr_type;
typedef struct tb_expr_value {
    tb_expr_type type;
    bool flag;
    double number;
    char text[256];
    bool is_unknown; /* text: a bare word that the lookup does not know */
    char near[64];   /* and the known one that is near to it, or "" */
} tb_expr_value;

/* Fills `out` and returns true when it knows `name`. When not, it may copy a known name that is near to
 * `near` (256 bytes, "" before the call). */
typedef bool (*tb_expr_lookup)(const void *arg, const char *name, tb_expr_value *out, char *near);

/* The whole must be a bool. On failure the sentence shows the expression and the column. */
TB_MUST_USE tb_status tb_expr_test(const char *text, tb_expr_lookup lookup, const void *arg, bool *out);

/* For messages and records: where `text` is one comparison of two numbers, their values; false otherwise. */
bool tb_expr_sides(const char *text, tb_expr_lookup lookup, const void *arg, double *left, double *right);
