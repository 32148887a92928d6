/* The schedule container and the table of generators. */
#include "schedule_internal.h"
#include "tb_alloc.h"
#include <stdio.h>
#include <string.h>

#define TB_SCHEDULE_ENTRY(name_) extern TB_SCHEDULE(name_);
#include "tb_schedule_list.inc"
#undef TB_SCHEDULE_ENTRY

static const struct {
    const char *name;
    const tbi_generator *generator;
} generators[] = {
#define TB_SCHEDULE_ENTRY(name_) {#name_, &tbi_schedule_##name_},
#include "tb_schedule_list.inc"
#undef TB_SCHEDULE_ENTRY
};
enum { N_GENERATORS = sizeof generators / sizeof generators[0] };

const char *tb_schedule_name_at(int index)
{
    return index >= 0 && index < N_GENERATORS ? generators[index].name : NULL;
}

bool tb_action_is_message(const tb_action *a) { return a->kind >= TB_SEND_F && a->kind <= TB_RECV_B; }
bool tb_action_is_send(const tb_action *a) { return a->kind == TB_SEND_F || a->kind == TB_SEND_B; }

bool tbi_messages_agree(const tb_action *send, const tb_action *recv)
{
    if (send->microbatch != recv->microbatch) return false;
    if (send->kind == TB_SEND_F) return recv->kind == TB_RECV_F && recv->stage == send->stage + 1;
    return recv->kind == TB_RECV_B && recv->stage + 1 == send->stage;
}

static bool is_name(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return n > 0 && n < TB_SCHEDULE_NAME && name[n] == 0;
}

tb_status tb_schedule_create(const char *name, int ranks, int stages, int microbatches, tb_schedule **out)
{
    *out = NULL;
    if (!is_name(name))
        return TB_FAIL(TB_ERR_INVALID, "schedule: a name is 1..%d of a-z, 0-9 and _", TB_SCHEDULE_NAME - 1);
    if (ranks < 1 || ranks > TB_SCHEDULE_MAX_RANKS || stages < 1 || stages > TB_SCHEDULE_MAX_STAGES ||
        microbatches < 1 || microbatches > TB_SCHEDULE_MAX_MICROBATCHES)
        return TB_FAIL(TB_ERR_INVALID,
                       "schedule %s: %d ranks, %d stages, %d micro-batches; allowed are 1..%d, 1..%d, 1..%d", name,
                       ranks, stages, microbatches, TB_SCHEDULE_MAX_RANKS, TB_SCHEDULE_MAX_STAGES,
                       TB_SCHEDULE_MAX_MICROBATCHES);
    tb_schedule *s = tb_calloc(1, sizeof *s);
    if (!s) return tb_error_code();
    snprintf(s->name, sizeof s->name, "%s", name);
    s->ranks = ranks;
    s->stages = stages;
    s->microbatches = microbatches;
    s->placement = tb_calloc((size_t)stages, sizeof *s->placement);
    s->lists = tb_calloc((size_t)ranks, sizeof *s->lists);
    if (!s->placement || !s->lists) {
        tb_schedule_free(s);
        return tb_error_code();
    }
    for (int i = 0; i < stages; i++) s->placement[i] = i % ranks;
    *out = s;
    return TB_OK;
}

void tb_schedule_free(tb_schedule *s)
{
    if (!s) return;
    for (int r = 0; s->lists && r < s->ranks; r++) tb_free(s->lists[r].at);
    tb_free(s->lists);
    tb_free(s->placement);
    tb_free(s);
}

tb_status tbi_schedule_reserve(tb_action_list *list, int64_t n)
{
    if (n <= list->capacity) return TB_OK;
    tb_action *at = tb_realloc(list->at, (size_t)n * sizeof *at);
    if (!at) return tb_error_code();
    list->at = at;
    list->capacity = n;
    return TB_OK;
}

tb_status tb_schedule_append(tb_schedule *s, int rank, tb_action a)
{
    if (rank < 0 || rank >= s->ranks || a.kind >= TB_ACTION_KINDS || a.stage >= s->stages || a.microbatch < 0 ||
        a.microbatch >= s->microbatches || a.peer >= s->ranks || a.joined > 1)
        return TB_FAIL(TB_ERR_INVALID, "schedule %s: action of rank %d out of range (kind %d, stage %d, micro-batch "
                       "%d, peer %d)", s->name, rank, a.kind, a.stage, (int)a.microbatch, a.peer);
    tb_action_list *list = &s->lists[rank];
    if (list->n == list->capacity) TB_TRY(tbi_schedule_reserve(list, list->capacity ? 2 * list->capacity : 64));
    list->at[list->n++] = a;
    return TB_OK;
}

tb_status tbi_schedule_work(tb_schedule *s, int rank, tb_action_kind kind, int stage, int64_t microbatch)
{
    return tb_schedule_append(s, rank, (tb_action){ .kind = (uint8_t)kind, .stage = (uint16_t)stage,
                                                    .microbatch = (int32_t)microbatch });
}

static tb_status find_generator(const char *name, const tbi_generator **out)
{
    const char *names[N_GENERATORS];
    for (int i = 0; i < N_GENERATORS; i++) {
        names[i] = generators[i].name;
        *out = generators[i].generator;
        if (strcmp(name, names[i]) == 0) return TB_OK;
    }
    const char *near = tb_nearest(name, names, N_GENERATORS);
    return TB_FAIL(TB_ERR_NOT_FOUND, "no schedule '%s'%s%s", name, near ? "; nearest: " : "", near ? near : "");
}

tb_status tb_schedule_make(const char *name, const tb_schedule_config *config, tb_schedule **out)
{
    *out = NULL;
    tb_schedule_config c = *config;
    if (c.chunks == 0) c.chunks = 1;
    if (c.f_ticks == 0) c.f_ticks = 1;
    if (c.i_ticks == 0) c.i_ticks = 1;
    if (c.w_ticks == 0) c.w_ticks = 1;
    const tbi_generator *g;
    TB_TRY(find_generator(name, &g));
    if (c.ranks < 1 || c.microbatches < 1 || c.chunks < 1)
        return TB_FAIL(TB_ERR_INVALID, "schedule %s: %d ranks, %d micro-batches, %d chunks; all must be >= 1", name,
                       c.ranks, c.microbatches, c.chunks);
    if (c.ranks > TB_SCHEDULE_MAX_RANKS || c.chunks > TB_SCHEDULE_MAX_STAGES / c.ranks)
        return TB_FAIL(TB_ERR_INVALID, "schedule %s: %d ranks x %d chunks; at most %d ranks and %d stages", name,
                       c.ranks, c.chunks, TB_SCHEDULE_MAX_RANKS, TB_SCHEDULE_MAX_STAGES);
    if (c.f_ticks < 1 || c.f_ticks > 1000 || c.i_ticks < 1 || c.i_ticks > 1000 || c.w_ticks < 1 || c.w_ticks > 1000)
        return TB_FAIL(TB_ERR_INVALID, "schedule %s: durations %d, %d, %d of F, I, W; all must be in 1..1000", name,
                       c.f_ticks, c.i_ticks, c.w_ticks);
    if (g->refuse) TB_TRY(g->refuse(&c));
    tb_schedule *s;
    TB_TRY(tb_schedule_create(name, c.ranks, c.ranks * c.chunks, c.microbatches, &s));
    tb_status st = g->fill(&c, s);
    if (st == TB_OK) st = tbi_schedule_connect(&c, s);
    if (st != TB_OK) {
        tb_schedule_free(s);
        return st;
    }
    *out = s;
    return TB_OK;
}
