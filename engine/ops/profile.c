/* The profiler: an interceptor that notes start, end, kernel and cost of every call. */
#include "tb_profile.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_op.h"
#include <stdlib.h>

typedef struct event {
    const char *name;   /* an op's, or a span's */
    const char *kernel; /* NULL: a span */
    int64_t start_ns, end_ns, inside_ns; /* inside: in calls that this one made */
    double flops, bytes;
    tb_dtype dtype; /* of the first result */
    int rank;
    int64_t dims[3]; /* the last three at most */
} event;

struct tb_profile {
    tb_interceptor base;
    tb_ctx *ctx;
    event *events;
    int64_t n, capacity, dropped;
    int64_t inside_ns; /* time of finished calls inside the one that runs */
};

static void note_work(event *e, const tb_op_call *c)
{
    const tb_tensor *t = c->out[0];
    tb_cost cost = {0};
    if (c->op->cost) {
        c->op->cost(c, &cost);
    } else if (!c->spec[0].is_view) {
        cost.flops = (double)t->numel;
        cost.bytes = (double)tb_tensor_bytes(t);
        for (int i = 0; i < c->n_in; i++) cost.bytes += c->in[i] ? (double)tb_tensor_bytes(c->in[i]) : 0;
    }
    e->flops = cost.flops, e->bytes = cost.bytes;
    e->dtype = (tb_dtype)t->dtype;
    e->rank = t->rank;
    int shown = t->rank < 3 ? t->rank : 3;
    memcpy(e->dims, t->dims + t->rank - shown, sizeof *e->dims * (size_t)shown);
}

static tb_status around(tb_interceptor *self, tb_op_call *c)
{
    tb_profile *p = (tb_profile *)self;
    int64_t outer_inside = p->inside_ns, start = tb_now_ns();
    p->inside_ns = 0;
    tb_status st = tb_dispatch_next(self, c);
    int64_t end = tb_now_ns(), inside = p->inside_ns;
    p->inside_ns = outer_inside + end - start;
    if (st != TB_OK) return st;
    if (p->n == p->capacity) {
        p->dropped++;
        return st;
    }
    event *e = &p->events[p->n++];
    *e = (event){.name = c->op->name, .kernel = c->kernel ? c->kernel : "ref", .start_ns = start, .end_ns = end,
                 .inside_ns = inside};
    note_work(e, c);
    return st;
}

tb_status tb_profile_create(tb_ctx *ctx, int64_t capacity, tb_profile **out)
{
    *out = NULL;
    if (capacity < 1) return TB_FAIL(TB_ERR_INVALID, "profile: room for %lld events; at least 1", (long long)capacity);
    tb_profile *p = tb_calloc(1, sizeof *p);
    event *events = tb_calloc((size_t)capacity, sizeof *events);
    if (!p || !events) {
        tb_free(p);
        tb_free(events);
        return TB_ERR_OOM;
    }
    *p = (tb_profile){.base = {.name = "profile", .order = TB_ORDER_TRACE, .around = around},
                      .ctx = ctx,
                      .events = events,
                      .capacity = capacity};
    *out = p;
    return TB_OK;
}

void tb_profile_destroy(tb_profile *p)
{
    if (!p) return;
    tb_profile_on(p, false);
    tb_free(p->events);
    tb_free(p);
}

void tb_profile_on(tb_profile *p, bool on)
{
    if (on) tb_interceptor_add(p->ctx, &p->base);
    else tb_interceptor_remove(p->ctx, &p->base);
}

void tb_profile_span(tb_profile *p, const char *name, int64_t start_ns, int64_t end_ns)
{
    if (p->n == p->capacity) p->dropped++;
    else p->events[p->n++] = (event){.name = name, .start_ns = start_ns, .end_ns = end_ns};
}

int64_t tb_profile_events(const tb_profile *p) { return p->n; }
int64_t tb_profile_dropped(const tb_profile *p) { return p->dropped; }

/* ---- the trace ---- */
static void shape_text(const event *e, char *out, size_t bytes)
{
    int shown = e->rank < 3 ? e->rank : 3, at = snprintf(out, bytes, "%s[%s", tb_dtype_name(e->dtype),
                                                         e->rank > 3 ? ".., " : "");
    for (int i = 0; i < shown && at < (int)bytes; i++)
        at += snprintf(out + at, bytes - (size_t)at, "%s%lld", i ? ", " : "", (long long)e->dims[i]);
    if (at < (int)bytes) snprintf(out + at, bytes - (size_t)at, "]");
}

static void event_json(tb_json *j, const event *e, int64_t origin_ns, int rank)
{
    char shape[96];
    tb_json_open(j, '{');
    tb_json_put_str(j, "name", e->name);
    tb_json_put_str(j, "cat", e->kernel ? "op" : "span");
    tb_json_put_str(j, "ph", "X");
    tb_json_put_int(j, "pid", rank);
    tb_json_put_int(j, "tid", 0);
    tb_json_put_num(j, "ts", (double)(e->start_ns - origin_ns) * 1e-3);
    tb_json_put_num(j, "dur", (double)(e->end_ns - e->start_ns) * 1e-3);
    if (e->kernel) {
        shape_text(e, shape, sizeof shape);
        tb_json_key(j, "args"), tb_json_open(j, '{');
        tb_json_put_str(j, "kernel", e->kernel);
        tb_json_put_str(j, "result", shape);
        tb_json_put_num(j, "flops", e->flops);
        tb_json_put_num(j, "bytes", e->bytes);
        tb_json_close(j, '}');
    }
    tb_json_close(j, '}');
}

void tb_profile_trace(const tb_profile *p, int rank, tb_text *to)
{
    tb_json j = {.to = to};
    int64_t origin = p->n ? p->events[0].start_ns : 0;
    for (int64_t i = 0; i < p->n; i++) /* a span is noted after the calls in it */
        if (p->events[i].start_ns < origin) origin = p->events[i].start_ns;
    tb_json_open(&j, '{');
    tb_json_put_str(&j, "displayTimeUnit", "ns");
    tb_json_put_int(&j, "dropped_events", p->dropped);
    tb_json_key(&j, "traceEvents"), tb_json_open(&j, '[');
    for (int64_t i = 0; i < p->n; i++) event_json(&j, &p->events[i], origin, rank);
    tb_json_close(&j, ']');
    tb_json_close(&j, '}');
}

/* ---- the table ---- */
typedef struct row {
    const char *name, *kernel;
    int64_t calls, own_ns;
    double flops, bytes;
} row;

static int by_names(const void *a, const void *b)
{
    const row *x = a, *y = b;
    int names = strcmp(x->name, y->name);
    return names ? names : strcmp(x->kernel, y->kernel);
}

static int by_time(const void *a, const void *b)
{
    int64_t x = ((const row *)a)->own_ns, y = ((const row *)b)->own_ns;
    return x == y ? by_names(a, b) : x < y ? 1 : -1;
}

static int64_t make_rows(const tb_profile *p, row *rows)
{
    int64_t n = 0, merged = 0;
    for (int64_t i = 0; i < p->n; i++) {
        const event *e = &p->events[i];
        if (e->kernel)
            rows[n++] = (row){e->name, e->kernel, 1, e->end_ns - e->start_ns - e->inside_ns, e->flops, e->bytes};
    }
    qsort(rows, (size_t)n, sizeof *rows, by_names);
    for (int64_t i = 0; i < n; i++) {
        row *last = merged ? &rows[merged - 1] : NULL;
        if (last && by_names(last, &rows[i]) == 0) {
            last->calls++, last->own_ns += rows[i].own_ns;
            last->flops += rows[i].flops, last->bytes += rows[i].bytes;
        } else {
            rows[merged++] = rows[i];
        }
    }
    qsort(rows, (size_t)merged, sizeof *rows, by_time);
    return merged;
}

tb_status tb_profile_table(const tb_profile *p, tb_text *to)
{
    row *rows = tb_calloc(p->n ? (size_t)p->n : 1, sizeof *rows);
    if (!rows) return TB_ERR_OOM;
    int64_t n = make_rows(p, rows), total = 0;
    for (int64_t i = 0; i < n; i++) total += rows[i].own_ns;
    tb_text_add(to, "%-26s %-28s %8s %11s %7s %10s %8s\n", "op", "kernel", "calls", "own us", "share", "GFLOP/s",
                "GB/s");
    for (int64_t i = 0; i < n; i++) {
        const row *r = &rows[i];
        double ns = r->own_ns > 0 ? (double)r->own_ns : 1;
        tb_text_add(to, "%-26s %-28s %8lld %11.1f %6.1f%% %10.2f %8.2f\n", r->name, r->kernel, (long long)r->calls,
                    ns * 1e-3, 100 * ns / (double)(total ? total : 1), r->flops / ns, r->bytes / ns);
    }
    if (p->dropped)
        tb_text_add(to, "%lld further calls found no room and are not in the table\n", (long long)p->dropped);
    tb_free(rows);
    return to->failed ? TB_ERR_OOM : TB_OK;
}
