/* The pass manager. */
#include "pass_internal.h"
#include "tb_file.h"

static const tb_pass *const passes[] = {
    &tbi_pass_simplify,  &tbi_pass_fold,     &tbi_pass_cse,      &tbi_pass_bias, &tbi_pass_channels,
    &tbi_pass_attention, &tbi_pass_epilogue, &tbi_pass_winograd, &tbi_pass_fuse,
};

int tb_pass_count(void) { return (int)(sizeof passes / sizeof passes[0]); }

const tb_pass *tb_pass_at(int index) { return passes[index]; }

static void count(tb_compile_report *report, const char *name)
{
    int i = 0, most = (int)(sizeof report->rewrite / sizeof report->rewrite[0]);
    while (i < report->n_rewrites && strcmp(report->rewrite[i].name, name) != 0) i++;
    if (i == most) return;
    report->rewrite[i].name = name;
    report->rewrite[i].n++;
    if (i == report->n_rewrites) report->n_rewrites++;
}

bool tb_pass_may_rewrite(tb_pass_run *r, const char *name)
{
    if (r->left == 0) return false;
    if (r->left != INT64_MAX) r->left--;
    r->rewrites++;
    if (r->report) count(r->report, name);
    return true;
}

int tbi_producer(const tb_graph *g, int value, const tb_op *op, bool single_use)
{
    if (value == TB_NO_VALUE) return -1;
    int node = g->values[value].producer;
    if (node < 0 || (op && g->nodes[node].op != op) || (single_use && tb_graph_uses(g, value) != 1)) return -1;
    return node;
}

bool tbi_is_constant(const tb_graph *g, int value) { return value != TB_NO_VALUE && g->values[value].constant; }

void tbi_unique_name(const tb_graph *g, const char *stem, char *name, size_t size)
{
    snprintf(name, size, "%s", stem);
    for (int n = 1;; n++) {
        bool taken = false;
        for (int i = 0; i < g->n_values && !taken; i++)
            taken = g->values[i].constant && strcmp(g->values[i].name, name) == 0;
        if (!taken) return;
        snprintf(name, size, "%.50s%d", stem, n);
    }
}

static tb_status dump(const tb_graph *g, const tb_compile_opts *opts, int index, const char *pass)
{
    char *path = tb_asprintf("%s/%02d-%s.tbir", opts->dump_dir, index, pass);
    tb_text text = {0};
    tb_graph_dump(g, &text);
    tb_status st = path && !text.failed ? tb_file_save(path, text.data, text.size) : TB_ERR_OOM;
    tb_text_free(&text);
    tb_free(path);
    return st;
}

tb_status tb_compile(tb_graph *g, const tb_compile_opts *opts, tb_compile_report *report)
{
    static const tb_compile_opts defaults = {0};
    if (!opts) opts = &defaults;
    tb_pass_run r = {.opts = opts, .report = report, .left = opts->max_rewrites ? opts->max_rewrites : INT64_MAX};
    if (report) *report = (tb_compile_report){0};
    if (opts->dump_dir) {
        TB_TRY(tb_file_make_folder(opts->dump_dir));
        TB_TRY(dump(g, opts, 0, "captured"));
    }
    for (int i = 0; i < tb_pass_count() + (opts->also != NULL); i++) {
        const tb_pass *p = i < tb_pass_count() ? passes[i] : opts->also;
        if (p->is_inexact && opts->strict) continue;
        if ((p->is_fast && !opts->fast) || (p->is_fusion && opts->no_fusion)) continue;
        r.rewrites = 0;
        tb_status st = p->run(g, &r);
        if (st == TB_OK) st = tb_graph_compact(g);
        if (st == TB_OK) st = tb_graph_verify(g);
        if (st != TB_OK) {
            tb_error_add("after pass %s", p->name);
            return st;
        }
        if (opts->dump_dir) TB_TRY(dump(g, opts, i + 1, p->name));
        if (!report) continue;
        report->pass[report->n_passes].pass = p->name;
        report->pass[report->n_passes].rewrites = r.rewrites;
        report->pass[report->n_passes++].nodes_after = g->n_nodes;
    }
    if (opts->why) tbi_explain(g, opts->why);
    return TB_OK;
}
