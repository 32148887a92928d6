/* tb ops: every op by dtype with its implementations and its gradient; of one op also attributes and kernels. What is
 * missing has its reason beside it. */
#include "tb_op.h"
#include "tb_text.h"
#include "tb_verb.h"
#include <string.h>

/* ---- implementations of an op for a dtype ---- */
typedef struct implementations {
    bool is_defined, is_cast; /* is_cast: computed in f32 after a cast */
    bool has_ref, has_view;
    bool has_isa[TB_ISAS];
} implementations;

static implementations implementations_of(const tb_op *op, tb_dtype t)
{
    implementations r = {.is_defined = op->dtypes >> t & 1u};
    if (!r.is_defined) return r;
    if (op->promote == TB_PROMOTE_FLOAT && !tb_dtype_is_float(t)) {
        r.is_cast = true;
        return r;
    }
    r.has_ref = op->ref != NULL;
    r.has_view = op->fusion == TB_FUSE_VIEW;
    for (int p = 0; p < TB_MAX_PRIMITIVES && op->primitives[p]; p++)
        for (int k = 0; k < tb_kernel_count(); k++) {
            const tb_kernel *kernel = tb_kernel_at(k);
            if (kernel->dtype == t && strcmp(kernel->primitive, op->primitives[p]) == 0) r.has_isa[kernel->isa] = true;
        }
    return r;
}

static const char isa_letters[TB_ISAS] = {'s', '2', '5', 'v'};

static void cell_of(const tb_op *op, tb_dtype t, char *cell)
{
    implementations r = implementations_of(op, t);
    if (!r.is_defined) *cell++ = '-';
    if (r.is_cast) *cell++ = 'f';
    if (r.has_view) *cell++ = 'w';
    if (r.has_ref) *cell++ = 'r';
    for (int isa = 0; isa < TB_ISAS; isa++)
        if (r.has_isa[isa]) *cell++ = isa_letters[isa];
    *cell = '\0';
}

static void print_table(void)
{
    printf("r reference, w view, s scalar, 2 AVX2, 5 AVX-512, v AVX-512 VNNI kernel, f computed in f32, - not "
           "defined\n\n");
    int width = 2;
    for (int i = 0; i < TB_OP_COUNT; i++)
        if ((int)strlen(tb_op_at(i)->name) > width) width = (int)strlen(tb_op_at(i)->name);
    printf("%-*s", width, "op");
    for (int t = 0; t < TB_DTYPES; t++) printf(" %-5s", tb_dtype_name((tb_dtype)t));
    printf(" gradient\n");
    for (int i = 0; i < TB_OP_COUNT; i++) {
        const tb_op *op = tb_op_at(i);
        printf("%-*s", width, op->name);
        for (int t = 0; t < TB_DTYPES; t++) {
            char cell[8];
            cell_of(op, (tb_dtype)t, cell);
            printf(" %-5s", cell);
        }
        printf(" %s%s", op->grad ? "yes" : "no: ", op->grad ? "" : op->no_grad);
        if (op->dtypes_reason) printf("; - %s", op->dtypes_reason);
        printf("\n");
    }
}

/* ---- one op ---- */
static const char *const attr_types[] = {"integer", "number", "boolean", "dtype", "integers", "text"};

static void print_kernels(const tb_op *op)
{
    for (int p = 0; p < TB_MAX_PRIMITIVES && op->primitives[p]; p++) {
        printf("  kernels of %-12s", op->primitives[p]);
        for (int k = 0; k < tb_kernel_count(); k++)
            if (strcmp(tb_kernel_at(k)->primitive, op->primitives[p]) == 0) printf(" %s", tb_kernel_at(k)->name);
        printf("\n");
    }
}

static void print_op(const tb_op *op)
{
    printf("%s: %s\n", op->name, op->doc);
    if (op->n_in < 0) printf("  inputs                %d or more\n", op->n_in_min);
    else if (op->n_in != op->n_in_min) printf("  inputs                %d to %d\n", op->n_in_min, op->n_in);
    else printf("  inputs                %d\n", op->n_in);
    printf("  outputs               %d%s\n", op->n_out - op->n_hidden, op->n_hidden ? ", and hidden ones" : "");
    for (int i = 0; i < op->n_attrs; i++)
        printf("  %-12s %-8s %g  %s\n", op->attrs[i].name, attr_types[op->attrs[i].type], op->attrs[i].default_value,
               op->attrs[i].doc);
    printf("  dtypes               ");
    for (int t = 0; t < TB_DTYPES; t++)
        if (op->dtypes >> t & 1u) printf(" %s", tb_dtype_name((tb_dtype)t));
    printf("%s%s%s\n", op->dtypes_reason ? " (" : "", op->dtypes_reason ? op->dtypes_reason : "",
           op->dtypes_reason ? ")" : "");
    print_kernels(op);
    printf("  gradient              %s%s\n", op->grad ? "yes" : "no: ", op->grad ? "" : op->no_grad);
    if (op->tol.exact) printf("  tolerance             exact\n");
    else printf("  tolerance             %g eps sqrt(terms)\n", op->tol.c);
}

/* ---- JSON ---- */
static void put_implementations(tb_json *j, const tb_op *op, tb_dtype t)
{
    implementations r = implementations_of(op, t);
    tb_json_key(j, tb_dtype_name(t));
    if (!r.is_defined) {
        tb_json_raw(j, "null");
        return;
    }
    tb_json_open(j, '[');
    if (r.is_cast) tb_json_str(j, "f32");
    if (r.has_view) tb_json_str(j, "view");
    if (r.has_ref) tb_json_str(j, "ref");
    for (int isa = 0; isa < TB_ISAS; isa++)
        if (r.has_isa[isa]) tb_json_str(j, tb_isa_name((tb_isa)isa));
    tb_json_close(j, ']');
}

static void put_op(tb_json *j, const tb_op *op)
{
    tb_json_open(j, '{');
    tb_json_put_str(j, "op", op->name);
    tb_json_put_str(j, "doc", op->doc);
    tb_json_key(j, "dtypes");
    tb_json_open(j, '{');
    for (int t = 0; t < TB_DTYPES; t++) put_implementations(j, op, (tb_dtype)t);
    tb_json_close(j, '}');
    tb_json_put_str(j, "dtypes_reason", op->dtypes_reason);
    tb_json_put_bool(j, "gradient", op->grad != NULL);
    tb_json_put_str(j, "gradient_reason", op->grad ? NULL : op->no_grad);
    tb_json_put_int(j, "inputs_min", op->n_in_min);
    tb_json_key(j, "inputs_max"); /* null: any number */
    if (op->n_in < 0) tb_json_raw(j, "null");
    else tb_json_int(j, op->n_in);
    tb_json_put_int(j, "outputs", op->n_out);
    tb_json_put_int(j, "hidden_outputs", op->n_hidden);
    tb_json_put_bool(j, "random", op->is_random);
    tb_json_key(j, "tolerance"); /* times eps sqrt(terms); 0: exact */
    tb_json_num(j, op->tol.exact ? 0 : op->tol.c);
    tb_json_key(j, "attributes");
    tb_json_open(j, '[');
    for (int i = 0; i < op->n_attrs; i++) {
        tb_json_open(j, '{');
        tb_json_put_str(j, "name", op->attrs[i].name);
        tb_json_put_str(j, "type", attr_types[op->attrs[i].type]);
        tb_json_put_str(j, "doc", op->attrs[i].doc);
        tb_json_close(j, '}');
    }
    tb_json_close(j, ']');
    tb_json_close(j, '}');
}

static int ops(const tb_args *args)
{
    const tb_op *one = args->n_words ? tb_op_find(args->words[0]) : NULL;
    if (args->n_words && !one) return tb_report(stderr);
    if (!tb_args_has(args, "json")) {
        if (one) print_op(one);
        else print_table();
        return 0;
    }
    tb_text text = {0};
    tb_json j = {.to = &text, .pretty = true};
    tb_json_open(&j, '[');
    for (int i = 0; i < TB_OP_COUNT; i++)
        if (!one || one == tb_op_at(i)) put_op(&j, tb_op_at(i));
    tb_json_close(&j, ']');
    printf("%s", tb_text_str(&text));
    bool failed = text.failed;
    tb_text_free(&text);
    return failed ? tb_status_exit_code(TB_ERR_OOM) : 0;
}

static const tb_option options[] = {{"json", 0, NULL, "as JSON"}};

TB_VERB(ops, .group = TB_VERB_MODEL, .args = "[OP]", .min_args = 0, .max_args = 1,
        .doc = "The ops: dtypes, implementations, gradients; of one OP its attributes and kernels", .options = options,
        .n_options = 1, .run = ops);
