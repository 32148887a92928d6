/* fused_pointwise: a straight-line program of pointwise ops run tile by tile, so that everything between its inputs
 * and its result stays in L1. The compiler makes it; every step uses the kernel that the op alone would use, on
 * values rounded to the dtype alike, so the result has the bits of the separate ops. Operands of a step: a0..a11 are
 * the op's inputs, t0..t23 results of earlier steps; the last step is the result. */
#include "fused_pointwise.h"
#include <ctype.h>
#include <stdlib.h>

static const tb_attr fused_attr_table[] = {
    {.name = "program", .type = TB_ATTR_CUSTOM, .doc = "steps: op and operands", .print = tbi_program_print,
     .parse = tbi_program_parse},
};

/* ---- text: [mul a0 a1; relu t0] ---- */
void tbi_program_print(const void *attr, tb_text *to)
{
    const tb_program *p = attr;
    tb_text_add(to, "[");
    for (int i = 0; i < p->n; i++) {
        const tb_step *s = &p->step[i];
        tb_text_add(to, "%s%s", i ? "; " : "", tb_op_at(s->op)->name);
        for (int k = 0; k < tb_op_at(s->op)->n_in; k++)
            tb_text_add(to, " %c%d", s->operand[k] < TB_PROGRAM_INPUTS ? 'a' : 't',
                        s->operand[k] < TB_PROGRAM_INPUTS ? s->operand[k] : s->operand[k] - TB_PROGRAM_INPUTS);
    }
    tb_text_add(to, "]");
}

static void skip_blanks(const char **at, const char *end)
{
    while (*at < end && (**at == ' ' || **at == '\n')) ++*at;
}

static tb_status parse_step(const char **at, const char *end, tb_program *p)
{
    char name[40];
    size_t n = 0;
    tb_step *s = &p->step[p->n];
    skip_blanks(at, end);
    while (*at < end && (isalnum((unsigned char)**at) || **at == '_') && n + 1 < sizeof name) name[n++] = *(*at)++;
    name[n] = 0;
    const tb_op *op = tb_op_find(name);
    if (!op) return TB_ERR_PARSE;
    if (!tbi_can_fuse(op)) return TB_FAIL(TB_ERR_PARSE, "op %s cannot be a step of a fused program", name);
    s->op = (int16_t)op->id;
    for (int k = 0; k < op->n_in; k++) {
        skip_blanks(at, end);
        bool is_input = *at < end && **at == 'a';
        if (*at == end || (!is_input && **at != 't'))
            return TB_FAIL(TB_ERR_PARSE, "step %d: expected an operand", p->n);
        char digits[4] = {0};
        ++*at;
        for (int d = 0; d < 3 && *at < end && isdigit((unsigned char)**at); d++) digits[d] = *(*at)++;
        int number = atoi(digits);
        if (!digits[0] || number >= (is_input ? TB_PROGRAM_INPUTS : p->n))
            return TB_FAIL(TB_ERR_PARSE, "step %d: operand out of range", p->n);
        s->operand[k] = (uint8_t)(is_input ? number : TB_PROGRAM_INPUTS + number);
    }
    p->n++;
    return TB_OK;
}

tb_status tbi_program_parse(const char **at, const char *end, void *attr)
{
    tb_program *p = attr;
    p->n = 0;
    if (*at == end || *(*at)++ != '[') return TB_FAIL(TB_ERR_PARSE, "a program starts with '['");
    for (;;) {
        if (p->n == TB_PROGRAM_STEPS) return TB_FAIL(TB_ERR_PARSE, "a program has at most %d steps", TB_PROGRAM_STEPS);
        TB_TRY(parse_step(at, end, p));
        skip_blanks(at, end);
        if (*at == end) return TB_FAIL(TB_ERR_PARSE, "the text ends inside a program");
        char c = *(*at)++;
        if (c == ']') return TB_OK;
        if (c != ';') return TB_FAIL(TB_ERR_PARSE, "expected ';' or ']' after step %d", p->n - 1);
    }
}

bool tbi_can_fuse(const tb_op *op)
{
    const tb_pointwise *p = op->family;
    return op->fusion == TB_FUSE_POINTWISE && op->shape == tbi_pointwise_shape && op->attrs_bytes == 0 && p &&
           !p->to_bool && op->n_in >= 1 && op->n_in <= 3;
}

/* ---- the op ---- */
static tb_status fused_shape(tb_op_call *c)
{
    const tb_program *p = c->attrs;
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < tb_op_at(p->step[i].op)->n_in; k++)
            if (p->step[i].operand[k] < TB_PROGRAM_INPUTS && p->step[i].operand[k] >= c->n_in)
                return TB_FAIL(TB_ERR_INVALID, "fused_pointwise: step %d reads input %d of %d", i,
                               p->step[i].operand[k], c->n_in);
    if (c->n_in > TB_MAX_STREAMS || p->n < 1)
        return TB_FAIL(TB_ERR_INVALID, "fused_pointwise: %d inputs, %d steps", c->n_in, p->n);
    for (int i = 1; i < c->n_in; i++)
        if (c->in[i]->dtype != c->in[0]->dtype)
            return TB_FAIL(TB_ERR_DTYPE, "fused_pointwise: inputs are %s and %s",
                           tb_dtype_name((tb_dtype)c->in[0]->dtype), tb_dtype_name((tb_dtype)c->in[i]->dtype));
    return tbi_pointwise_shape(c);
}

static tb_status fused_ref(tb_op_call *c)
{
    const tb_program *p = c->attrs;
    tb_dtype t = c->spec[0].dtype;
    size_t size = tb_dtype_size(t);
    tb_walk w[TB_MAX_STREAMS];
    for (int k = 0; k < c->n_in; k++) {
        tb_walk_init(&w[k], c->spec[0].rank, c->spec[0].dims);
        tb_walk_add(&w[k], c->in[k]);
    }
    char *out = tb_op_data(c->out[0]);
    for (int64_t i = 0; i < c->out[0]->numel; i++) {
        double value[TB_PROGRAM_INPUTS + TB_PROGRAM_STEPS], x[3];
        for (int k = 0; k < c->n_in; k++)
            value[k] = tb_load_f64(t, (const char *)tb_op_data(c->in[k]) + w[k].at[0] * (int64_t)size);
        for (int s = 0; s < p->n; s++) {
            const tb_op *op = tb_op_at(p->step[s].op);
            const tb_pointwise *f = op->family;
            uint64_t rounded = 0;
            for (int k = 0; k < 3; k++) x[k] = k < op->n_in ? value[p->step[s].operand[k]] : 0;
            tb_store_f64(t, &rounded, f->f(x[0], x[1], x[2], NULL));
            value[TB_PROGRAM_INPUTS + s] = tb_load_f64(t, &rounded);
        }
        tb_store_f64(t, out + i * (int64_t)size, value[TB_PROGRAM_INPUTS + p->n - 1]);
        for (int k = 0; k < c->n_in; k++) tb_walk_next(&w[k]);
    }
    return TB_OK;
}

/* ---- the tile interpreter ---- */
enum { TILE = 1024 /* floats: 8 slots of 4 KiB fill an L1 of 32 KiB */, SLOTS = 8 };

typedef struct compiled {
    const tb_program *program;
    const tb_kernel *kernel[TB_PROGRAM_STEPS];
    int8_t slot[TB_PROGRAM_STEPS];
} compiled;

/* Slots for temporaries by last use; false when more than SLOTS are live at once. */
static bool assign_slots(const tb_program *p, int8_t *slot)
{
    int last[TB_PROGRAM_STEPS] = {0};
    bool busy[SLOTS] = {0};
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < tb_op_at(p->step[i].op)->n_in; k++)
            if (p->step[i].operand[k] >= TB_PROGRAM_INPUTS) last[p->step[i].operand[k] - TB_PROGRAM_INPUTS] = i;
    for (int i = 0; i < p->n; i++) {
        int free_slot = 0;
        for (int d = 0; d < i; d++)
            if (last[d] == i) busy[slot[d]] = false; /* a kernel may write where it reads */
        while (free_slot < SLOTS && busy[free_slot]) free_slot++;
        if (free_slot == SLOTS) return false;
        slot[i] = (int8_t)free_slot;
        busy[free_slot] = true;
    }
    return true;
}

static void run_tiles(const tb_runs *r, int64_t n, void *out, const void *const *in)
{
    const compiled *c = r->what;
    const tb_program *p = c->program;
    _Alignas(64) float temp[SLOTS][TILE];
    for (int64_t from = 0; from < n; from += TILE) {
        int64_t length = n - from < TILE ? n - from : TILE;
        for (int i = 0; i < p->n; i++) {
            tb_pointwise_args a = {.n = length, .out = i == p->n - 1 ? (float *)out + from : temp[c->slot[i]]};
            for (int k = 0; k < tb_op_at(p->step[i].op)->n_in; k++) {
                int o = p->step[i].operand[k];
                bool is_input = o < TB_PROGRAM_INPUTS;
                a.step[k] = is_input ? r->step[o] : 1;
                a.in[k] = is_input ? (const float *)in[o] + from * r->step[o] : temp[c->slot[o - TB_PROGRAM_INPUTS]];
            }
            c->kernel[i]->run(&a);
        }
    }
}

static tb_status fused_fast(tb_op_call *c)
{
    tb_runs r;
    compiled k = {.program = c->attrs};
    if (c->spec[0].dtype != TB_F32 || !assign_slots(k.program, k.slot)) return TB_ERR_UNSUPPORTED;
    for (int i = 0; i < k.program->n; i++) {
        tb_op_call step = {.op = tb_op_at(k.program->step[i].op), .ctx = c->ctx};
        const tb_pointwise_args probe = {.n = TILE, .step = {1, 1, 1}};
        k.kernel[i] = tb_call_kernel(&step, 0, TB_F32, &probe);
        if (!k.kernel[i]) return TB_ERR_UNSUPPORTED;
    }
    TB_TRY(tbi_runs_prepare(&r, c));
    r.what = &k;
    r.body = run_tiles;
    c->kernel = "tile_interpreter";
    tbi_runs_execute(&r, c);
    return TB_OK;
}

static void fused_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_program *p = c->attrs;
    double n = 1, read = 0, size = (double)tb_dtype_size((tb_dtype)c->in[0]->dtype);
    for (int i = 0; i < c->spec[0].rank; i++) n *= (double)c->spec[0].dims[i];
    for (int k = 0; k < c->n_in; k++) read += (double)c->in[k]->numel;
    *out = (tb_cost){.flops = n * p->n, .bytes = (n + read) * size, .k = 1};
}

static void fused_samples(tb_samples *to)
{
    enum { A = 0, T = TB_PROGRAM_INPUTS };
    tb_program p = {.n = 4, .step = {{TB_OP_ID_mul, {A, A + 1}}, {TB_OP_ID_tanh, {T}}, {TB_OP_ID_add, {T + 1, A}},
                                     {TB_OP_ID_relu, {T + 2}}}};
    tb_sample(to, &p, 2, (tb_sample_in[]){{TB_SHAPE(3, 5)}, {TB_SHAPE(3, 5)}});
    tb_sample(to, &p, 2, (tb_sample_in[]){{TB_SHAPE(7, 3001)}, {TB_SHAPE(3001)}});
    tb_sample(to, &p, 2, (tb_sample_in[]){{TB_SHAPE(0, 5)}, {TB_SHAPE(1)}});
}

TB_OP(fused_pointwise, .doc = "a program of pointwise ops in one pass", .n_in_min = 1, .n_in = TB_MAX_STREAMS,
      .n_out = 1, .dtypes = TB_FLOATS, .dtypes_reason = "fusion is for floats", .attrs = fused_attr_table, .n_attrs = 1,
      .attrs_bytes = sizeof(tb_program), .shape = fused_shape, .ref = fused_ref, .fast = fused_fast,
      .no_grad = "made by the compiler for inference", .fusion = TB_FUSE_POINTWISE, .cost = fused_cost,
      .family = &(const tb_pointwise){.to_bool = false}, .samples = fused_samples, .tol = TB_TOL(8));
