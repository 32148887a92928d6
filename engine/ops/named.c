/* A call of an op that is known by its name only: for bindings of other languages and importers. Attributes are
 * numbers and go through the op's table, so that every op is reachable without knowing its structure. */
#include "tb_op.h"

enum { MAX_ATTR_BYTES = 1024 };

static tb_status check(const tb_op *op, const tb_attr *to, const tb_named_attr *from)
{
    bool is_list = to->type == TB_ATTR_INTS;
    if (is_list ? from->n < 0 || from->n > TB_MAX_RANK : from->n != 1)
        return TB_FAIL(TB_ERR_INVALID, "%s: attribute '%s' takes %s, not %d values", op->name, to->name,
                       is_list ? "up to 8 values" : "one value", from->n);
    for (int i = 0; i < from->n && to->type != TB_ATTR_F64; i++) {
        double x = from->value[i];
        if (!(x >= -0x1p53 && x <= 0x1p53) || x != (double)(int64_t)x)
            return TB_FAIL(TB_ERR_INVALID, "%s: attribute '%s' is an integer, not %g", op->name, to->name, x);
    }
    if (to->type == TB_ATTR_DTYPE_ && !(from->value[0] >= 0 && from->value[0] < TB_DTYPES))
        return TB_FAIL(TB_ERR_INVALID, "%s: no dtype has the number %g", op->name, from->value[0]);
    return TB_OK;
}

static void set(const tb_attr *to, const tb_named_attr *from, void *attrs)
{
    void *field = (char *)attrs + to->offset;
    double x = from->n ? from->value[0] : 0;
    switch (to->type) {
    case TB_ATTR_I64: *(int64_t *)field = (int64_t)x; break;
    case TB_ATTR_F64: *(double *)field = x; break;
    case TB_ATTR_BOOLEAN: *(bool *)field = x != 0; break;
    case TB_ATTR_DTYPE_: *(tb_dtype *)field = (tb_dtype)x; break;
    case TB_ATTR_INTS:
        ((tb_ints *)field)->n = from->n;
        for (int i = 0; i < from->n; i++) ((tb_ints *)field)->at[i] = (int64_t)from->value[i];
        break;
    case TB_ATTR_CUSTOM: break;
    }
}

static const tb_attr *find(const tb_op *op, const char *name)
{
    for (int i = 0; i < op->n_attrs; i++)
        if (strcmp(op->attrs[i].name, name) == 0) return &op->attrs[i];
    (void)TB_FAIL(TB_ERR_NOT_FOUND, "%s has no attribute '%s'", op->name, name);
    return NULL;
}

static tb_status fill(const tb_op *op, int n, const tb_named_attr *given, void *attrs)
{
    if (op->attrs_bytes > MAX_ATTR_BYTES)
        return TB_FAIL(TB_ERR_INTERNAL, "%s: %zu bytes of attributes", op->name, op->attrs_bytes);
    for (int i = 0; i < op->n_attrs; i++) {
        const tb_attr *to = &op->attrs[i];
        if (to->type == TB_ATTR_CUSTOM)
            return TB_FAIL(TB_ERR_UNSUPPORTED, "%s: attribute '%s' has a text form only", op->name, to->name);
        set(to, &(tb_named_attr){to->name, to->type != TB_ATTR_INTS, {to->default_value}}, attrs);
    }
    for (int i = 0; i < n; i++) {
        const tb_attr *to = find(op, given[i].name);
        if (!to) return TB_ERR_NOT_FOUND;
        TB_TRY(check(op, to, &given[i]));
        set(to, &given[i], attrs);
    }
    return TB_OK;
}

tb_status tb_call_named(const char *name, int n_attrs, const tb_named_attr *attrs, int n_in,
                        tb_tensor *const *in, tb_tensor **out)
{
    uint64_t filled[MAX_ATTR_BYTES / sizeof(uint64_t)] = {0};
    const tb_op *op = tb_op_find(name);
    if (!op) return TB_ERR_NOT_FOUND;
    TB_TRY(fill(op, n_attrs, attrs, filled));
    tb_status st = tb_dispatch(op, op->attrs_bytes ? filled : NULL, in, n_in, out);
    return st != TB_OK && tbi_ctx() ? tb_ctx_take_error(tbi_ctx()) : st;
}
