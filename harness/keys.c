/* The tables of keys that every experiment has, and reading a resolved configuration in expressions. */
#include "experiment.h"
#include "tb_alloc.h"
#include "tb_text.h"
#include <stdlib.h>
#include <string.h>

const tb_key tb_launch_keys[] = {
    {"ranks", TB_KEY_INT, "", 1, 4096, NULL, "1", "processes started by mpirun"},
    {"threads", TB_KEY_INT, "", 1, 1024, NULL, "1", "threads of each rank, bound to cores of its own"},
    {"device", TB_KEY_CHOICE, "", 0, 0, "cpu", "cpu", "where tensors live"},
    {"timeout_s", TB_KEY_NUM, "s", 1, 1e6, NULL, "600", "a launch that takes longer is ended and marked"},
    {"deadline_s", TB_KEY_NUM, "s", 0, 1e6, NULL, "0", "of every wait among ranks; 0: as the driver thinks fit"},
    {"fault", TB_KEY_STR, "", 0, 0, NULL, "", "kind@rank:operation[:ms], to see what follows (see tb_comm_add_fault)"},
};
const int tb_n_launch_keys = sizeof tb_launch_keys / sizeof tb_launch_keys[0];

const tb_key tb_measure_keys[] = {
    {"launches", TB_KEY_INT, "", 1, 1000, NULL, "3",
     "independent launches of each point; intervals come from them"},
    {"min_iters", TB_KEY_INT, "", 1, 1e9, NULL, "30", "timed iterations of a launch, at least"},
    {"min_s", TB_KEY_NUM, "s", 0, 1e5, NULL, "1", "timed seconds of a launch, at least"},
    {"warmup_iters", TB_KEY_INT, "", 0, 1e9, NULL, "10", "iterations before timing, at least; kept apart"},
    {"warmup_s", TB_KEY_NUM, "s", 0, 1e5, NULL, "0.5", "seconds before timing, at least"},
    {"warmup_max_s", TB_KEY_NUM, "s", 0, 1e5, NULL, "20",
     "not steady after this: timed all the same, and told"},
    {"steady_tol", TB_KEY_NUM, "", 0, 10, NULL, "0.1", "steady: medians of three windows of 10 within this"},
    {"level", TB_KEY_NUM, "", 0.5, 0.9999, NULL, "0.95", "level of intervals"},
    {"order", TB_KEY_CHOICE, "", 0, 0, "interleaved|given", "interleaved",
     "interleaved: every round launches all points once, in random order"},
    {"seed", TB_KEY_INT, "", 0, 9e15, NULL, "1", "root of all random streams, the order included"},
};
const int tb_n_measure_keys = sizeof tb_measure_keys / sizeof tb_measure_keys[0];

const tb_key tb_metric_keys[] = {
    {"dir", TB_KEY_CHOICE, "", 0, 0, "lower|higher|none", "none", "which way is better"},
    {"class", TB_KEY_CHOICE, "", 0, 0, "ratio|exact|curve|parity|trend", "trend", "how results are compared"},
    {"reduce", TB_KEY_CHOICE, "", 0, 0, "max|min|sum|mean|rank0", "max", "over ranks, per iteration"},
    {"statistic", TB_KEY_CHOICE, "", 0, 0, "median|last|max|min|p95|p99|total", "median", "over iterations"},
    {"scope", TB_KEY_CHOICE, "", 0, 0, "point|measured|oversubscribed|emulated|modelled", "point",
     "what the number is"},
    {"margin", TB_KEY_NUM, "", 0, 10, NULL, "0.05", "relative change that counts as one"},
};
const int tb_n_metric_keys = sizeof tb_metric_keys / sizeof tb_metric_keys[0];

/* Dotted names of all scalars below `node`. */
typedef struct names {
    char **at;
    int n;
} names;

static void collect(const tb_conf *node, const char *prefix, names *out)
{
    for (int i = 0; node->kind == TB_CONF_MAP && i < node->n_items; i++) {
        char *name = tb_asprintf("%s%s%s", prefix, *prefix ? "." : "", node->keys[i]);
        char **grown = name ? tb_realloc(out->at, sizeof *grown * (size_t)(out->n + 1)) : NULL;
        if (!grown) {
            tb_free(name);
            return;
        }
        out->at = grown;
        out->at[out->n++] = name;
        collect(node->items[i], name, out);
    }
}

static void find_near(const tb_conf *tree, const char *name, char *near)
{
    names all = {0};
    collect(tree, "", &all);
    const char *best = strchr(name, '.') ? tb_nearest(name, (const char *const *)all.at, all.n) : NULL;
    if (best) snprintf(near, 256, "%s", best);
    for (int i = 0; i < all.n; i++) tb_free(all.at[i]);
    tb_free(all.at);
}

bool tb_conf_lookup(const void *arg, const char *name, tb_expr_value *out, char *near)
{
    const tb_conf *tree = arg, *node = tb_conf_find(tree, name);
    if (!node || node->kind != TB_CONF_SCALAR) {
        find_near(tree, name, near);
        return false;
    }
    char *end;
    double number = strtod(node->text, &end);
    if (!node->quoted && *node->text && !*end) {
        *out = (tb_expr_value){.type = TB_EXPR_NUM, .number = number};
    } else if (!node->quoted && (strcmp(node->text, "true") == 0 || strcmp(node->text, "false") == 0)) {
        *out = (tb_expr_value){.type = TB_EXPR_BOOL, .flag = node->text[0] == 't'};
    } else {
        *out = (tb_expr_value){.type = TB_EXPR_TEXT};
        snprintf(out->text, sizeof out->text, "%s", node->text);
    }
    return true;
}
