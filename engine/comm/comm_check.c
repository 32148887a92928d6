/* Ranks compare what they are about to do before data moves: 64 bytes from everybody to everybody. Messages of one
 * fixed size cannot mismatch themselves, so ranks that call different collectives learn it instead of hanging. */
#include "comm_internal.h"

typedef struct fingerprint {
    int64_t count;
    int32_t kind, dtype, reduction, root;
    char label[40]; /* shown, not compared */
} fingerprint;

static const char *kind_name(int kind)
{
    static const char *const names[] = {"allreduce", "reduce_scatter", "allgather", "bcast", "barrier"};
    return kind >= 0 && kind < 5 ? names[kind] : "?";
}

static bool same(const void *one, const void *other)
{
    const fingerprint *a = one, *b = other;
    return a->count == b->count && a->kind == b->kind && a->dtype == b->dtype && a->reduction == b->reduction &&
           a->root == b->root;
}

bool tbi_find_odd(const void *all, size_t stride, int ranks, bool (*agree)(const void *one, const void *other),
                  int *most, int *odd)
{
    int largest = 0, others = 0;
    *most = 0;
    *odd = -1;
    for (int r = 0; r < ranks; r++) {
        int party = 0;
        for (int k = 0; k < ranks; k++)
            party += agree((const char *)all + (size_t)k * stride, (const char *)all + (size_t)r * stride);
        if (party > largest) largest = party, *most = r;
    }
    for (int r = 0; r < ranks; r++) {
        if (agree((const char *)all + (size_t)r * stride, (const char *)all + (size_t)*most * stride)) continue;
        if (*odd < 0) *odd = r;
        others += agree((const char *)all + (size_t)r * stride, (const char *)all + (size_t)*odd * stride);
    }
    return *odd >= 0 && others == largest;
}

/* Most ranks are right; where as many say one thing as another, each blames the other. */
static tb_status compare(tb_comm *c, const fingerprint *all)
{
    int most, odd;
    c->disputed = tbi_find_odd(all, sizeof *all, c->size, same, &most, &odd);
    if (odd < 0) return TB_OK;
    c->blamed = c->disputed && same(&all[c->rank], &all[odd]) ? most : odd;
    const fingerprint *a = &all[most], *b = &all[odd];
    return TB_FAIL(TB_ERR_COMM,
                   "rank %d calls %s of %lld %s (%.40s) where rank %d calls %s of %lld %s (%.40s): ranks must call the "
                   "same in the same order",
                   most, kind_name(a->kind), (long long)a->count, tb_dtype_name((tb_dtype)a->dtype), a->label, odd,
                   kind_name(b->kind), (long long)b->count, tb_dtype_name((tb_dtype)b->dtype), b->label);
}

static tb_status check_collective(tb_comm *c, const tbi_collective *what, tb_request *out)
{
    fingerprint mine = {.count = what->count,
                        .kind = (int32_t)what->kind,
                        .dtype = (int32_t)what->dtype,
                        .reduction = (int32_t)what->reduction,
                        .root = what->root};
    snprintf(mine.label, sizeof mine.label, "%.39s", c->label);
    fingerprint *all = tb_calloc((size_t)c->size, sizeof *all);
    if (!all) return tb_error_code();
    tb_status st = tbi_pass_collective(
        c, &(tbi_collective){.kind = TBI_ALLGATHER, .data = &mine, .out = all, .count = sizeof mine, .dtype = TB_U8},
        out);
    if (st == TB_OK) st = compare(c, all);
    tb_free(all);
    return st == TB_OK ? tbi_pass_collective(c, what, out) : st;
}

tb_status tb_comm_add_check(tb_comm *c)
{
    static const tbi_comm_backend check = {
        .close = tbi_comm_unwrap,
        .send = tbi_pass_send,
        .recv = tbi_pass_recv,
        .poll = tbi_pass_poll,
        .missing = tbi_pass_missing,
        .abort = tbi_pass_abort,
        .collective = check_collective,
        .alloc = tbi_pass_alloc,
        .free = tbi_pass_free,
    };
    if (tb_comm_get_caps(c).cooperative) return TB_OK; /* compares by itself */
    return tbi_comm_wrap(c, &check, NULL);
}
