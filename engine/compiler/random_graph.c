/* Random graphs, for `tb verify --random` and the tests of passes. */
#include "tb_verify.h"
#include "tb_ops.h"
#include "tb_rng.h"

enum { WIDTH = TB_RANDOM_GRAPH_WIDTH, MAX_VALUES = 48 };

typedef struct generator {
    tb_graph *g;
    uint64_t seed, at;         /* of the draws */
    int values[MAX_VALUES], n; /* of shape [N, WIDTH] */
    tb_status st;              /* the first failure; nothing happens after it */
} generator;

static int roll(generator *r, int n) { return (int)tb_random_below(r->seed, 5, r->at++, (uint64_t)n); }
static int any_value(generator *r) { return r->values[roll(r, r->n)]; }

static int constant(generator *r, const char *prefix, int rank, const int64_t *dims)
{
    float x[WIDTH * WIDTH];
    char name[16];
    int id = 0;
    if (r->st != TB_OK) return 0;
    for (int i = 0; i < WIDTH * WIDTH; i++) x[i] = (float)tb_random_normal(r->seed, 9, r->at * 64 + (uint64_t)i);
    r->at++;
    snprintf(name, sizeof name, "%s%d", prefix, r->g->n_values);
    tb_scope *s = tb_scope_open();
    r->st = tb_graph_constant(r->g, name, tb_tensor_from(TB_F32, rank, dims, x), &id);
    tb_scope_close(s);
    return id;
}

/* A row, a 1 x 1 matrix or a number: they broadcast. */
static int small_constant(generator *r)
{
    switch (roll(r, 3)) {
    case 0:
        return constant(r, "k", 1, (int64_t[]){WIDTH});
    case 1:
        return constant(r, "k", 2, (int64_t[]){1, 1});
    default:
        return constant(r, "k", 0, NULL);
    }
}

static int node(generator *r, const tb_op *op, int n_in, const int *in)
{
    int out[TB_MAX_OUT] = {0};
    if (r->st == TB_OK) r->st = tb_graph_node(r->g, op, NULL, 0, NULL, n_in, in, out);
    return out[0];
}

static const tb_op *unary(generator *r)
{
    static const tb_op *const ops[] = {&tb_op_neg, &tb_op_neg,       &tb_op_relu,   &tb_op_tanh,
                                       &tb_op_exp, &tb_op_gelu_tanh, &tb_op_sigmoid}; /* two negations are none */
    return ops[roll(r, 7)];
}

static const tb_op *binary(generator *r)
{
    static const tb_op *const ops[] = {&tb_op_add, &tb_op_sub, &tb_op_mul, &tb_op_maximum};
    return ops[roll(r, 4)];
}

/* Linear, often followed by a constant, by a residual, by an activation. */
static int layer(generator *r, int x)
{
    int w = constant(r, "w", 2, (int64_t[]){WIDTH, WIDTH});
    int bias = roll(r, 2) ? constant(r, "w", 1, (int64_t[]){WIDTH}) : TB_NO_VALUE;
    int h = node(r, &tb_op_linear, 3, (int[]){x, w, bias});
    if (roll(r, 4) == 0) {
        int k = small_constant(r);
        h = node(r, binary(r), 2, roll(r, 4) ? (int[]){h, k} : (int[]){k, h});
    }
    if (roll(r, 2)) {
        int other = any_value(r);
        h = node(r, &tb_op_add, 2, roll(r, 2) ? (int[]){h, other} : (int[]){other, h});
    }
    return roll(r, 2) ? node(r, roll(r, 2) ? &tb_op_relu : &tb_op_gelu_tanh, 1, (int[]){h}) : h;
}

/* There and back through another shape. */
static int reshaped(generator *r, int x)
{
    tb_ints flat = {1, {7 * WIDTH}}, back = {2, {7, WIDTH}};
    size_t at = offsetof(tb_ints, at);
    int out[TB_MAX_OUT] = {0};
    if (r->st == TB_OK)
        r->st = tb_graph_node(r->g, &tb_op_reshape, &flat, 1, &(tb_symbolic){at, {.per = {WIDTH}}}, 1, &x, out);
    x = out[0];
    if (r->st == TB_OK)
        r->st = tb_graph_node(r->g, &tb_op_reshape, &back, 1, &(tb_symbolic){at, {.per = {1}}}, 1, &x, out);
    return out[0];
}

/* A column [N, 1] beside a value, or beside a row, where both broadcast. */
static int column(generator *r, int x)
{
    int w = constant(r, "w", 2, (int64_t[]){1, WIDTH});
    int h = node(r, unary(r), 1, (int[]){node(r, &tb_op_linear, 3, (int[]){x, w, TB_NO_VALUE})});
    int other = roll(r, 2) ? any_value(r) : constant(r, "k", 1, (int64_t[]){WIDTH});
    const tb_op *op = binary(r);
    return node(r, op, 2, roll(r, 2) ? (int[]){h, other} : (int[]){other, h});
}

static int next_value(generator *r)
{
    int a = any_value(r), b = any_value(r), k;
    const tb_op *op;
    switch (roll(r, 9)) {
    case 0:
    case 1:
        return node(r, unary(r), 1, (int[]){a});
    case 2:
        return node(r, binary(r), 2, (int[]){a, b});
    case 3:
        k = small_constant(r);
        return node(r, binary(r), 2, roll(r, 4) ? (int[]){a, k} : (int[]){k, a});
    case 4:
        return layer(r, a);
    case 5:
        return reshaped(r, a);
    case 6: /* constants only: folded */
        k = node(r, &tb_op_neg, 1, (int[]){small_constant(r)});
        k = node(r, &tb_op_add, 2, (int[]){k, small_constant(r)});
        return node(r, &tb_op_mul, 2, (int[]){k, a});
    case 7: /* the same thing twice: merged */
        op = unary(r);
        k = node(r, op, 1, (int[]){a});
        return node(r, &tb_op_add, 2, (int[]){k, node(r, op, 1, (int[]){a})});
    default:
        return column(r, a);
    }
}

tb_status tb_random_graph(uint64_t seed, tb_graph **out)
{
    const tb_dim dims[2] = {{.per = {1}}, {.base = WIDTH}};
    generator r = {.seed = seed, .n = 1};
    *out = NULL;
    TB_TRY(tb_graph_create("random", &r.g));
    r.g->n_symbols = 1;
    snprintf(r.g->symbols[0], sizeof r.g->symbols[0], "N");
    r.st = tb_graph_input(r.g, "x", TB_F32, 2, dims, &r.values[0]);
    for (int steps = 3 + roll(&r, 12); steps > 0; steps--) {
        int value = next_value(&r);
        r.values[r.n++] = value;
    }
    if (r.st == TB_OK) r.st = tb_graph_output(r.g, r.values[r.n - 1], "y");
    if (r.st == TB_OK && roll(&r, 2)) r.st = tb_graph_output(r.g, r.values[roll(&r, r.n - 1) + 1], "z");
    if (r.st == TB_OK) r.st = tb_graph_compact(r.g);
    if (r.st == TB_OK)
        *out = r.g;
    else
        tb_graph_free(r.g);
    return r.st;
}
