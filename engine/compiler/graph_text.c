/* The text form of a graph.
 *
 *   graph mlp(N) {
 *     %0 : f32[N, 784] = input "x"
 *     %1 : f32[512, 784] = const "fc1.weight"
 *     %2 : f32[N, 512] = linear(%0, %1, _) {act=0}
 *     output %2 "y"
 *   }
 *
 * Inputs come first, a constant before its first use, every attribute is written, in the op's order; a node with
 * several results names them "%3, %4 : type, type = op(...)". Dimensions: 64, N, 4*N, 2*N+3. */
#include "graph_internal.h"
#include "tb_safetensors.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

/* ---- writing ---- */
static void dump_dim(const tb_graph *g, tb_dim d, tb_text *to)
{
    bool any = false;
    for (int s = 0; s < g->n_symbols; s++) {
        if (!d.per[s]) continue;
        if (any) tb_text_add(to, "+");
        if (d.per[s] != 1) tb_text_add(to, "%lld*", (long long)d.per[s]);
        tb_text_add(to, "%s", g->symbols[s]);
        any = true;
    }
    if (!any || d.base) tb_text_add(to, any && d.base > 0 ? "+%lld" : "%lld", (long long)d.base);
}

void tbi_dump_type(const tb_graph *g, const tb_value *v, tb_text *to)
{
    tb_text_add(to, "%s[", tb_dtype_name(v->dtype));
    for (int i = 0; i < v->rank; i++) {
        if (i) tb_text_add(to, ", ");
        dump_dim(g, v->dims[i], to);
    }
    tb_text_add(to, "]");
}

static void dump_integer(const tb_graph *g, const tb_node *n, size_t offset, tb_text *to)
{
    int64_t x;
    for (int i = 0; i < n->n_symbolic; i++)
        if (n->symbolic[i].offset == offset) {
            dump_dim(g, n->symbolic[i].dim, to);
            return;
        }
    memcpy(&x, (const char *)n->attrs + offset, sizeof x);
    tb_text_add(to, "%lld", (long long)x);
}

static void dump_attr(const tb_graph *g, const tb_node *n, const tb_attr *a, tb_text *to)
{
    const char *at = (const char *)n->attrs + a->offset;
    tb_text_add(to, "%s=", a->name);
    switch (a->type) {
    case TB_ATTR_I64: dump_integer(g, n, a->offset, to); break;
    case TB_ATTR_F64: tb_text_add(to, "%.17g", *(const double *)at); break;
    case TB_ATTR_BOOLEAN: tb_text_add(to, *(const bool *)at ? "true" : "false"); break;
    case TB_ATTR_DTYPE_: tb_text_add(to, "%s", tb_dtype_name(*(const tb_dtype *)at)); break;
    case TB_ATTR_INTS:
        tb_text_add(to, "[");
        for (int i = 0; i < ((const tb_ints *)at)->n; i++) {
            if (i) tb_text_add(to, ", ");
            dump_integer(g, n, a->offset + offsetof(tb_ints, at) + (size_t)i * sizeof(int64_t), to);
        }
        tb_text_add(to, "]");
        break;
    case TB_ATTR_CUSTOM: a->print(at, to); break;
    }
}

static void dump_node(const tb_graph *g, const tb_node *n, tb_text *to)
{
    tb_text_add(to, "  ");
    for (int o = 0; o < n->n_out; o++) tb_text_add(to, o ? ", %%%d" : "%%%d", n->out[o]);
    for (int o = 0; o < n->n_out; o++) {
        tb_text_add(to, o ? ", " : " : ");
        tbi_dump_type(g, &g->values[n->out[o]], to);
    }
    tb_text_add(to, " = %s(", n->op->name);
    for (int k = 0; k < n->n_in; k++) {
        if (k) tb_text_add(to, ", ");
        if (n->in[k] == TB_NO_VALUE) tb_text_add(to, "_");
        else tb_text_add(to, "%%%d", n->in[k]);
    }
    tb_text_add(to, ")");
    if (n->attrs && n->op->n_attrs) {
        tb_text_add(to, " {");
        for (int i = 0; i < n->op->n_attrs; i++) {
            if (i) tb_text_add(to, ", ");
            dump_attr(g, n, &n->op->attrs[i], to);
        }
        tb_text_add(to, "}");
    }
    tb_text_add(to, "\n");
}

static void dump_leaf(const tb_graph *g, int id, const char *kind, tb_text *to)
{
    tb_text_add(to, "  %%%d : ", id);
    tbi_dump_type(g, &g->values[id], to);
    tb_text_add(to, " = %s \"%s\"\n", kind, g->values[id].name);
}

void tb_graph_dump(const tb_graph *g, tb_text *to)
{
    int next_constant = 0;
    tb_text_add(to, "graph %s(", g->name);
    for (int s = 0; s < g->n_symbols; s++) tb_text_add(to, s ? ", %s" : "%s", g->symbols[s]);
    tb_text_add(to, ") {\n");
    for (int i = 0; i < g->n_inputs; i++) dump_leaf(g, g->inputs[i], "input", to);
    for (int i = 0; i < g->n_nodes; i++) {
        int first = g->nodes[i].n_out ? g->nodes[i].out[0] : 0;
        for (; next_constant < first; next_constant++)
            if (g->values[next_constant].constant) dump_leaf(g, next_constant, "const", to);
        dump_node(g, &g->nodes[i], to);
    }
    for (; next_constant < g->n_values; next_constant++)
        if (g->values[next_constant].constant) dump_leaf(g, next_constant, "const", to);
    for (int i = 0; i < g->n_outputs; i++)
        tb_text_add(to, "  output %%%d \"%s\"\n", g->outputs[i], g->values[g->outputs[i]].name);
    tb_text_add(to, "}\n");
}

/* ---- reading ---- */
typedef struct reader {
    const char *file, *at, *end;
    int line;
    tb_graph *g;
    tb_constant_source source;
    void *arg;
} reader;

static tb_status bad(const reader *r, const char *what)
{
    return TB_FAIL(TB_ERR_PARSE, "%s:%d: %s", r->file, r->line, what);
}

static void blanks(reader *r)
{
    for (; r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t'); r->at++) r->line += *r->at == '\n';
}

static bool accept(reader *r, const char *token)
{
    blanks(r);
    size_t n = strlen(token);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, token, n) != 0) return false;
    r->at += n;
    return true;
}

static tb_status expect(reader *r, const char *token)
{
    if (accept(r, token)) return TB_OK;
    return TB_FAIL(TB_ERR_PARSE, "%s:%d: expected '%s'", r->file, r->line, token);
}

static tb_status word(reader *r, char *out, size_t size)
{
    size_t n = 0;
    blanks(r);
    for (; r->at < r->end && (isalnum((unsigned char)*r->at) || *r->at == '_' || *r->at == '-' || *r->at == '.');
         r->at++) {
        if (n + 1 == size) return bad(r, "a word is too long");
        out[n++] = *r->at;
    }
    out[n] = 0;
    return n ? TB_OK : bad(r, "expected a word");
}

static tb_status string(reader *r, char *out, size_t size)
{
    size_t n = 0;
    TB_TRY(expect(r, "\""));
    for (; r->at < r->end && *r->at != '"' && *r->at != '\n'; r->at++) {
        if (n + 1 == size) return bad(r, "a name is too long");
        out[n++] = *r->at;
    }
    out[n] = 0;
    return expect(r, "\"");
}

static tb_status integer(reader *r, int64_t *out)
{
    char digits[32];
    size_t n = 0;
    blanks(r);
    if (r->at < r->end && *r->at == '-') digits[n++] = *r->at++;
    while (r->at < r->end && isdigit((unsigned char)*r->at) && n < sizeof digits - 1) digits[n++] = *r->at++;
    digits[n] = 0;
    errno = 0;
    *out = strtoll(digits, NULL, 10);
    return n > (digits[0] == '-') && !errno ? TB_OK : bad(r, "expected an integer");
}

static int symbol_at(reader *r)
{
    for (int s = 0; s < r->g->n_symbols; s++) {
        size_t n = strlen(r->g->symbols[s]);
        if ((size_t)(r->end - r->at) > n && memcmp(r->at, r->g->symbols[s], n) == 0 &&
            !isalnum((unsigned char)r->at[n]) && r->at[n] != '_') {
            r->at += n;
            return s;
        }
    }
    return -1;
}

/* term { ("+" term) | negative number }, term = [integer "*"] symbol | integer */
static tb_status dim(reader *r, tb_dim *out)
{
    *out = (tb_dim){0};
    do {
        int64_t factor = 1;
        blanks(r);
        int s = symbol_at(r);
        if (s < 0) {
            TB_TRY(integer(r, &factor));
            s = accept(r, "*") ? symbol_at(r) : -2;
            if (s == -1) return bad(r, "unknown symbol in a dimension");
        }
        if (s == -2) out->base += factor;
        else out->per[s] += factor;
        blanks(r);
    } while (accept(r, "+") || (r->at < r->end && *r->at == '-'));
    return TB_OK;
}

static tb_status type(reader *r, tb_value *v)
{
    char name[16];
    *v = (tb_value){0};
    TB_TRY(word(r, name, sizeof name));
    if (!tb_dtype_parse(name, &v->dtype)) return bad(r, "unknown dtype");
    TB_TRY(expect(r, "["));
    while (!accept(r, "]")) {
        if (v->rank == TB_MAX_RANK) return bad(r, "more than 8 dimensions");
        TB_TRY(dim(r, &v->dims[v->rank++]));
        if (!accept(r, ",")) {
            TB_TRY(expect(r, "]"));
            break;
        }
    }
    return TB_OK;
}

static tb_status value_id(reader *r, int *out)
{
    int64_t id;
    *out = 0;
    TB_TRY(expect(r, "%"));
    TB_TRY(integer(r, &id));
    if (id < 0 || id > INT32_MAX) return bad(r, "value number out of range");
    *out = (int)id;
    return TB_OK;
}

static bool same_type(const tb_value *a, const tb_value *b)
{
    bool same = a->dtype == b->dtype && a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++) same = tb_dim_equal(a->dims[i], b->dims[i]);
    return same;
}

/* What the text says of the values of `who`, and what they are. */
static tb_status must_be_typed(const reader *r, const char *who, const tb_value *said, const char *is,
                               const tb_value *v)
{
    tb_text a = {0}, b = {0};
    if (same_type(said, v)) return TB_OK;
    tbi_dump_type(r->g, said, &a);
    tbi_dump_type(r->g, v, &b);
    tb_status st = TB_FAIL(TB_ERR_PARSE, "%s:%d: '%s' is written as %s, but %s %s", r->file, r->line, who,
                           tb_text_str(&a), is, tb_text_str(&b));
    tb_text_free(&a);
    tb_text_free(&b);
    return st;
}

static tb_status integer_attr(reader *r, tb_node *n, size_t offset)
{
    tb_dim d;
    TB_TRY(dim(r, &d));
    bool is_symbolic = false;
    for (int s = 0; s < TB_MAX_SYMBOLS; s++) is_symbolic |= d.per[s] != 0;
    if (!is_symbolic) {
        memcpy((char *)n->attrs + offset, &d.base, sizeof d.base);
        return TB_OK;
    }
    int64_t sizes[TB_MAX_SYMBOLS];
    tbi_symbol_sizes(-1, sizes);
    int64_t at_base = tb_dim_at(d, sizes);
    memcpy((char *)n->attrs + offset, &at_base, sizeof at_base);
    n->symbolic[n->n_symbolic++] = (tb_symbolic){offset, d};
    return TB_OK;
}

static tb_status attr_value(reader *r, tb_node *n, const tb_attr *a)
{
    char *at = (char *)n->attrs + a->offset, text[64];
    if (a->type == TB_ATTR_I64) return integer_attr(r, n, a->offset);
    if (a->type == TB_ATTR_INTS) {
        tb_ints *list = (tb_ints *)at;
        TB_TRY(expect(r, "["));
        while (!accept(r, "]")) {
            if (list->n == TB_MAX_RANK) return bad(r, "a list has more than 8 entries");
            TB_TRY(integer_attr(r, n, a->offset + offsetof(tb_ints, at) + (size_t)list->n * sizeof(int64_t)));
            list->n++;
            if (!accept(r, ",")) {
                TB_TRY(expect(r, "]"));
                break;
            }
        }
        return TB_OK;
    }
    size_t used = 0;
    blanks(r);
    if (a->type == TB_ATTR_CUSTOM) {
        if (a->parse(&r->at, r->end, at) == TB_OK) return TB_OK;
        tb_error_add("%s:%d", r->file, r->line);
        return TB_ERR_PARSE;
    }
    while (r->at < r->end && (isalnum((unsigned char)*r->at) || strchr("+-.", *r->at)) && used + 1 < sizeof text)
        text[used++] = *r->at++;
    text[used] = 0;
    if (a->type == TB_ATTR_F64) {
        char *end;
        *(double *)at = strtod(text, &end);
        return used && !*end ? TB_OK : bad(r, "expected a number");
    }
    if (a->type == TB_ATTR_DTYPE_) return tb_dtype_parse(text, (tb_dtype *)at) ? TB_OK : bad(r, "unknown dtype");
    *(bool *)at = strcmp(text, "true") == 0;
    return *(bool *)at || strcmp(text, "false") == 0 ? TB_OK : bad(r, "expected true or false");
}

static tb_status attributes(reader *r, tb_node *n)
{
    if (!accept(r, "{")) {
        n->attrs = NULL;
        return TB_OK;
    }
    for (int i = 0; i < n->op->n_attrs; i++) {
        char name[64];
        if (i) TB_TRY(expect(r, ","));
        TB_TRY(word(r, name, sizeof name));
        if (strcmp(name, n->op->attrs[i].name) != 0) return bad(r, "attributes are not those of the op, in its order");
        TB_TRY(expect(r, "="));
        TB_TRY(attr_value(r, n, &n->op->attrs[i]));
    }
    return expect(r, "}");
}

static tb_status node(reader *r, const char *op_name, int first_id, int n_ids, const tb_value *types)
{
    uint64_t attrs[MAX_ATTR_WORDS] = {0};
    tb_symbolic symbolic[MAX_ATTR_WORDS];
    int in[MAX_OPERANDS], out[TB_MAX_OUT];
    tb_node n = {.op = tb_op_find(op_name), .attrs = attrs, .symbolic = symbolic};
    if (!n.op) {
        tb_error_add("%s:%d", r->file, r->line);
        return TB_ERR_PARSE;
    }
    if (n.op->attrs_bytes > sizeof attrs || n_ids != n.op->n_out) return bad(r, "the op has another number of results");
    TB_TRY(expect(r, "("));
    while (!accept(r, ")")) {
        if (n.n_in == MAX_OPERANDS) return bad(r, "too many operands");
        if (accept(r, "_")) in[n.n_in] = TB_NO_VALUE;
        else {
            TB_TRY(value_id(r, &in[n.n_in]));
            if (in[n.n_in] >= r->g->n_values) return bad(r, "an operand is used before it is made");
        }
        n.n_in++;
        if (!accept(r, ",")) {
            TB_TRY(expect(r, ")"));
            break;
        }
    }
    TB_TRY(attributes(r, &n));
    int most = n.op->n_in < 0 ? MAX_OPERANDS : n.op->n_in;
    if (n.n_in < n.op->n_in_min || n.n_in > most) return bad(r, "the op takes another number of operands");
    for (int i = 0; i < n.op->n_in_min; i++)
        if (in[i] == TB_NO_VALUE) return bad(r, "an operand that the op needs is absent");
    if (!n.attrs && n.op->attrs_bytes && n.op->n_attrs) return bad(r, "the op's attributes are missing");
    if (first_id != r->g->n_values) return bad(r, "values are not numbered in order");
    TB_TRY(tb_graph_node(r->g, n.op, n.attrs, n.n_symbolic, symbolic, n.n_in, in, out));
    tb_status st = TB_OK;
    for (int o = 0; o < n_ids && st == TB_OK; o++)
        st = must_be_typed(r, n.op->name, &types[o], "makes", &r->g->values[out[o]]);
    return st;
}

static tb_status leaf(reader *r, bool is_input, int id, const tb_value *t)
{
    char name[64];
    int got;
    if (id != r->g->n_values) return bad(r, "values are not numbered in order");
    TB_TRY(string(r, name, sizeof name));
    if (is_input) return tb_graph_input(r->g, name, t->dtype, t->rank, t->dims, &got);
    tb_scope *scope = tb_scope_open();
    tb_tensor *c = r->source(r->arg, name);
    tb_status st = tb_is_poison(c) ? tb_ctx_take_error(tb_ctx_current()) : tb_graph_constant(r->g, name, c, &got);
    tb_scope_close(scope);
    return st == TB_OK ? must_be_typed(r, name, t, "the weights hold", &r->g->values[got]) : st;
}

static tb_status statement(reader *r)
{
    int id[TB_MAX_OUT], n = 0, value;
    tb_value types[TB_MAX_OUT];
    char name[64];
    if (accept(r, "output")) {
        TB_TRY(value_id(r, &value));
        TB_TRY(string(r, name, sizeof name));
        if (value >= r->g->n_values) return bad(r, "an output names a value that is not made");
        return tb_graph_output(r->g, value, name);
    }
    do {
        if (n == TB_MAX_OUT) return bad(r, "too many results");
        TB_TRY(value_id(r, &id[n]));
        if (n && id[n] != id[0] + n) return bad(r, "values are not numbered in order");
        n++;
    } while (accept(r, ","));
    TB_TRY(expect(r, ":"));
    for (int o = 0; o < n; o++) {
        if (o) TB_TRY(expect(r, ","));
        TB_TRY(type(r, &types[o]));
    }
    TB_TRY(expect(r, "="));
    TB_TRY(word(r, name, sizeof name));
    if (strcmp(name, "input") == 0 || strcmp(name, "const") == 0)
        return n == 1 ? leaf(r, name[0] == 'i', id[0], &types[0]) : bad(r, "one value each");
    return node(r, name, id[0], n, types);
}

static tb_status graph(reader *r)
{
    TB_TRY(expect(r, "graph"));
    TB_TRY(word(r, r->g->name, sizeof r->g->name));
    TB_TRY(expect(r, "("));
    while (!accept(r, ")")) {
        if (r->g->n_symbols == TB_MAX_SYMBOLS) return bad(r, "too many symbols");
        TB_TRY(word(r, r->g->symbols[r->g->n_symbols++], sizeof r->g->symbols[0]));
        if (!accept(r, ",")) {
            TB_TRY(expect(r, ")"));
            break;
        }
    }
    TB_TRY(expect(r, "{"));
    while (!accept(r, "}")) {
        if (r->at == r->end) return bad(r, "expected a value, an output or '}'");
        TB_TRY(statement(r));
    }
    blanks(r);
    if (r->at != r->end) return bad(r, "text after the graph");
    return tb_graph_verify(r->g);
}

tb_status tb_graph_parse(const char *text, size_t bytes, const char *file, tb_constant_source source, void *arg,
                         tb_graph **out)
{
    reader r = {.file = file, .at = text, .end = text + bytes, .line = 1, .source = source, .arg = arg};
    *out = NULL;
    TB_TRY(tb_graph_create("", &r.g));
    tb_status st = graph(&r);
    if (st != TB_OK && r.at == r.end) tb_error_add("the text ends inside the graph: truncated?");
    if (st != TB_OK) tb_graph_free(r.g);
    else *out = r.g;
    return st;
}
