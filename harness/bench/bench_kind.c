/* The kinds by name, and what their shapes, dtypes and peers are called. */
#include "tb_bench.h"
#include "tb_text.h"
#include <stdlib.h>
#include <string.h>

enum { LARGEST_DIM = 1 << 24 };

static const tb_bench *const kinds[] = {
#define TB_BENCH_ENTRY(name) &tb_bench_##name,
#include "tb_bench_list.inc"
#undef TB_BENCH_ENTRY
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

void tb_bench_spell(const tb_bench *kind, char out[TB_BENCH_NAME])
{
    snprintf(out, TB_BENCH_NAME, "%s", kind->name);
    for (char *c = out; *c; c++)
        if (*c == '_') *c = '-';
}

tb_status tb_bench_find(const char *word, const tb_bench **out)
{
    char spelled[N_KINDS][TB_BENCH_NAME];
    const char *names[N_KINDS];
    for (int i = 0; i < N_KINDS; i++) {
        tb_bench_spell(kinds[i], spelled[i]);
        names[i] = spelled[i];
        if (strcmp(word, spelled[i]) == 0) return *out = kinds[i], TB_OK;
    }
    const char *near = tb_nearest(word, names, N_KINDS);
    return TB_FAIL(TB_ERR_CONFIG, "bench: no kind '%s'%s%s.  tb bench --help lists all", word,
                   near ? "; nearest: " : "", near ? near : "");
}

tb_status tb_bench_parse_shape(const tb_bench *kind, const char *word, tb_bench_shape *out)
{
    int wanted = 1;
    if (!kind->shape_form) return TB_FAIL(TB_ERR_CONFIG, "bench %s: takes no shape ('%s')", kind->name, word);
    for (const char *c = kind->shape_form; *c; c++) wanted += *c == 'x';
    const char *at = word;
    *out = (tb_bench_shape){0};
    for (;;) {
        char *end;
        long long d = *at >= '0' && *at <= '9' ? strtoll(at, &end, 10) : 0;
        if (d < 1 || d > LARGEST_DIM || out->n == wanted) break;
        out->at[out->n++] = d;
        if (!*end && out->n == wanted) return TB_OK;
        if (*end != 'x') break;
        at = end + 1;
    }
    return TB_FAIL(TB_ERR_CONFIG, "bench %s: shape '%s' is not %s with sizes from 1 to %d", kind->name, word,
                   kind->shape_form, LARGEST_DIM);
}

tb_status tb_bench_find_peer(const tb_bench *kind, const char *name, const char **out)
{
    int n = 0;
    for (; kind->peers && kind->peers[n]; n++)
        if (strcmp(kind->peers[n], name) == 0) return *out = kind->peers[n], TB_OK;
    tb_text known = {0};
    for (int i = 0; i < n; i++) tb_text_add(&known, " %s", kind->peers[i]);
    tb_status st = TB_FAIL(TB_ERR_CONFIG, "bench %s: no peer '%s'; known:%s", kind->name, name,
                           n ? tb_text_str(&known) : " none");
    tb_text_free(&known);
    return st;
}

tb_status tb_bench_find_dtype(const tb_bench *kind, const char *name, tb_dtype *out)
{
    tb_text known = {0};
    tb_status st = TB_ERR_CONFIG;
    for (int t = TB_DTYPES - 1; t >= 0; t--) {
        if (!(kind->dtypes >> t & 1u)) continue;
        if (!name || strcmp(name, tb_dtype_name((tb_dtype)t)) == 0) {
            *out = (tb_dtype)t;
            st = TB_OK;
        }
        tb_text_add(&known, " %s", tb_dtype_name((tb_dtype)t));
    }
    if (st != TB_OK)
        st = TB_FAIL(TB_ERR_CONFIG, "bench %s: nothing to measure in %s; known:%s", kind->name, name,
                     tb_text_str(&known));
    tb_text_free(&known);
    return st;
}
