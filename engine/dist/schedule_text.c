/* The text form. There is exactly one spelling of a schedule, so that what parses is written back byte for byte:
 *
 *     tb-schedule 1
 *     name 1f1b
 *     ranks 2
 *     stages 2
 *     microbatches 2
 *     placement 0 1
 *     rank 0: 0F0 0SEND_F0>1 0F1 [0SEND_F1>1 0RECV_B0<1] 0B0 0RECV_B1<1 0B1 0REDUCE 0OPT
 *     rank 1: ...
 */
#include "schedule_internal.h"
#include <string.h>

static const char *const kind_text[TB_ACTION_KINDS] = { "F",      "B",      "I",      "W",      "SEND_F",
                                                        "RECV_F", "SEND_B", "RECV_B", "REDUCE", "OPT" };

const char *tb_action_format(const tb_action *a, char out[TB_ACTION_TEXT])
{
    if (a->kind == TB_DO_REDUCE || a->kind == TB_DO_OPT)
        snprintf(out, TB_ACTION_TEXT, "%d%s", a->stage, kind_text[a->kind]);
    else if (!tb_action_is_message(a))
        snprintf(out, TB_ACTION_TEXT, "%d%s%d", a->stage, kind_text[a->kind], (int)a->microbatch);
    else
        snprintf(out, TB_ACTION_TEXT, "%d%s%d%c%d", a->stage, kind_text[a->kind], (int)a->microbatch,
                 tb_action_is_send(a) ? '>' : '<', a->peer);
    return out;
}

static void write_rank(const tb_action_list *list, int rank, tb_text *out)
{
    char text[TB_ACTION_TEXT];
    tb_text_add(out, "rank %d:", rank);
    for (int64_t i = 0; i < list->n; i++) {
        bool joined = list->at[i].joined && i > 0;
        bool more = i + 1 < list->n && list->at[i + 1].joined;
        tb_text_add(out, " %s%s%s", !joined && more ? "[" : "", tb_action_format(&list->at[i], text),
                    joined && !more ? "]" : "");
    }
    tb_text_add(out, "\n");
}

tb_status tb_schedule_write(const tb_schedule *s, tb_text *out)
{
    tb_text_add(out, "tb-schedule 1\nname %s\nranks %d\nstages %d\nmicrobatches %d\nplacement", s->name, s->ranks,
                s->stages, s->microbatches);
    for (int i = 0; i < s->stages; i++) tb_text_add(out, " %d", s->placement[i]);
    tb_text_add(out, "\n");
    for (int r = 0; r < s->ranks; r++) write_rank(&s->lists[r], r, out);
    return out->failed ? tb_error_code() : TB_OK;
}

typedef struct cursor {
    const char *at, *end, *line_start;
    int line;
} cursor;

static tb_status bad(const cursor *c, const char *what)
{
    return TB_FAIL(TB_ERR_PARSE, "schedule text, line %d, column %d: %s", c->line, (int)(c->at - c->line_start) + 1,
                   what);
}

static bool take(cursor *c, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n) != 0) return false;
    c->at += n;
    return true;
}

static tb_status expect(cursor *c, const char *word)
{
    if (take(c, word)) return TB_OK;
    char what[64];
    snprintf(what, sizeof what, "expected '%s'", word);
    return bad(c, what);
}

static tb_status end_line(cursor *c)
{
    if (!take(c, "\n")) return bad(c, "expected the end of the line");
    c->line++;
    c->line_start = c->at;
    return TB_OK;
}

/* A decimal number without sign or leading zeros, in [min, max]. */
static tb_status number(cursor *c, int min, int max, int *out)
{
    const char *p = c->at;
    int64_t value = 0;
    for (; p < c->end && *p >= '0' && *p <= '9' && value <= max; p++) value = 10 * value + (*p - '0');
    if (p == c->at) return bad(c, "expected a number");
    if (*c->at == '0' && p - c->at > 1) return bad(c, "a number must not begin with 0");
    if (value < min || value > max) {
        char what[64];
        snprintf(what, sizeof what, "number out of range %d..%d", min, max);
        return bad(c, what);
    }
    c->at = p;
    *out = (int)value;
    return TB_OK;
}

static tb_status field(cursor *c, const char *key, int max, int *out)
{
    TB_TRY(expect(c, key));
    TB_TRY(number(c, 1, max, out));
    return end_line(c);
}

static tb_status name_field(cursor *c, char out[TB_SCHEDULE_NAME])
{
    TB_TRY(expect(c, "name "));
    size_t n = 0;
    while (c->at + n < c->end && n < TB_SCHEDULE_NAME && c->at[n] != '\n') n++;
    if (n == TB_SCHEDULE_NAME || memchr(c->at, 0, n)) return bad(c, "name too long, or not text");
    memcpy(out, c->at, n);
    out[n] = 0;
    c->at += n;
    return end_line(c);
}

/* No name begins another, so the first that fits is the one. */
static tb_status kind(cursor *c, uint8_t *out)
{
    for (int k = TB_ACTION_KINDS - 1; k >= 0; k--) {
        if (!take(c, kind_text[k])) continue;
        *out = (uint8_t)k;
        return TB_OK;
    }
    return bad(c, "expected F, B, I, W, SEND_F, RECV_F, SEND_B, RECV_B, REDUCE or OPT");
}

static tb_status action(cursor *c, const tb_schedule *s, tb_action *out)
{
    int value;
    *out = (tb_action){ 0 };
    TB_TRY(number(c, 0, s->stages - 1, &value));
    out->stage = (uint16_t)value;
    TB_TRY(kind(c, &out->kind));
    if (out->kind == TB_DO_REDUCE || out->kind == TB_DO_OPT) return TB_OK;
    TB_TRY(number(c, 0, s->microbatches - 1, &value));
    out->microbatch = value;
    if (!tb_action_is_message(out)) return TB_OK;
    TB_TRY(expect(c, tb_action_is_send(out) ? ">" : "<"));
    TB_TRY(number(c, 0, s->ranks - 1, &value));
    out->peer = (uint16_t)value;
    return TB_OK;
}

static tb_status rank_line(cursor *c, tb_schedule *s, int rank)
{
    int value;
    TB_TRY(expect(c, "rank "));
    TB_TRY(number(c, 0, s->ranks - 1, &value));
    if (value != rank) return bad(c, "ranks must come in order, one line each");
    TB_TRY(expect(c, ":"));
    for (int in_group = 0; take(c, " ");) {
        bool opens = !in_group && take(c, "[");
        tb_action a;
        TB_TRY(action(c, s, &a));
        a.joined = in_group > 0;
        TB_TRY(tb_schedule_append(s, rank, a));
        if (opens || in_group) in_group++;
        if (in_group && take(c, "]")) {
            if (in_group < 2) return bad(c, "a group needs two actions");
            in_group = 0;
        } else if (in_group && (c->at == c->end || *c->at != ' ')) {
            return bad(c, "expected ']' or another action");
        }
    }
    return end_line(c);
}

static tb_status placement(cursor *c, tb_schedule *s)
{
    TB_TRY(expect(c, "placement"));
    for (int i = 0; i < s->stages; i++) {
        TB_TRY(expect(c, " "));
        TB_TRY(number(c, 0, s->ranks - 1, &s->placement[i]));
    }
    return end_line(c);
}

tb_status tb_schedule_parse(const char *text, size_t bytes, tb_schedule **out)
{
    *out = NULL;
    cursor c = { .at = text, .end = text + bytes, .line_start = text, .line = 1 };
    char name[TB_SCHEDULE_NAME];
    int ranks, stages, microbatches;
    TB_TRY(expect(&c, "tb-schedule 1\n"));
    c.line++;
    c.line_start = c.at;
    TB_TRY(name_field(&c, name));
    TB_TRY(field(&c, "ranks ", TB_SCHEDULE_MAX_RANKS, &ranks));
    TB_TRY(field(&c, "stages ", TB_SCHEDULE_MAX_STAGES, &stages));
    TB_TRY(field(&c, "microbatches ", TB_SCHEDULE_MAX_MICROBATCHES, &microbatches));
    tb_schedule *s;
    tb_status st;
    TB_TRY(tb_schedule_create(name, ranks, stages, microbatches, &s));
    TB_GO(placement(&c, s));
    for (int r = 0; r < ranks; r++) TB_GO(rank_line(&c, s, r));
    if (c.at != c.end) TB_GO(bad(&c, "expected the end of the text"));
cleanup:
    if (st != TB_OK) {
        tb_schedule_free(s);
        return st;
    }
    *out = s;
    return TB_OK;
}
