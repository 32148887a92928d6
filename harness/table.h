/* Tables of points by metrics, for people: one row a point, one column a metric, as wide as needed. */
#pragma once
#include "record.h"

enum { TB_TABLE_METRICS = 3 };

typedef struct tb_row {
    const char *label;
    const tb_result *result;   /* NULL: nothing measured */
    const char *status, *scope;
} tb_row;

/* "12.3 ms  [11.9, 12.8]"; "-" for NULL */
void tb_format_summary(const tb_summary *s, char *out, size_t bytes);
/* The metrics to show where nobody names them: those that have a direction, in the order of the results. */
int tb_table_metrics(const tb_row *rows, int n, const char *names[TB_TABLE_METRICS]);
/* On stdout, with a last line that says the level of the intervals. */
void tb_table_print(const char *title, const tb_row *rows, int n, const char *const *metrics, int n_metrics);
