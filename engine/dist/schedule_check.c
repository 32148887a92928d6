/* The rules of a schedule (tb_schedule_rule). Those that one list can break are checked list by list: what an action
 * needs must stand before it on the same rank, since results of other ranks arrive only by messages on that list.
 * Then the zero-buffering run decides matching and deadlock. */
#include "schedule_run.h"
#include "tb_alloc.h"

/* What has happened to one (stage, micro-batch) on the stage's owner. */
enum {
    GOT_F = 1,    /* input received */
    DID_F = 2,
    SENT_F = 4,
    GOT_B = 8,    /* gradient of the output received */
    DID_BACK = 16,/* B or I */
    DID_WEIGHT = 32,
    SENT_B = 64
};

typedef struct check {
    const tb_schedule *s;
    uint8_t *did;           /* [stages * microbatches] of the flags above */
    int32_t *weights_added; /* [stages]: weight gradients so far, which is also the next micro-batch */
    uint8_t *reduced, *updated;
    int rank;
    int64_t index;
    tb_schedule_rule broken;
} check;

static tb_status fail(check *c, tb_schedule_rule rule, const char *why)
{
    char text[TB_ACTION_TEXT];
    c->broken = rule;
    return TB_FAIL(TB_ERR_INVALID, "schedule %s: rank %d, action %lld, %s: %s", c->s->name, c->rank,
                   (long long)c->index, tb_action_format(&c->s->lists[c->rank].at[c->index], text), why);
}

static uint8_t *cell(const check *c, int stage, int64_t microbatch)
{
    return &c->did[(int64_t)stage * c->s->microbatches + microbatch];
}

/* A neighbouring stage: absent, on the same rank, or on another. */
typedef enum place { NOWHERE, HERE, ELSEWHERE } place;
static place where(const tb_schedule *s, int stage, int rank)
{
    if (stage < 0 || stage >= s->stages) return NOWHERE;
    return s->placement[stage] == rank ? HERE : ELSEWHERE;
}

static tb_status check_forward(check *c, const tb_action *a, uint8_t *did)
{
    if (*did & DID_F) return fail(c, TB_RULE_ONCE, "this forward has been done before");
    place before = where(c->s, a->stage - 1, c->rank);
    if (before == ELSEWHERE && !(*did & GOT_F)) return fail(c, TB_RULE_DEPENDENCY, "its input has not been received");
    if (before == HERE && !(*cell(c, a->stage - 1, a->microbatch) & DID_F))
        return fail(c, TB_RULE_DEPENDENCY, "the stage before it has not done this micro-batch");
    *did |= DID_F;
    return TB_OK;
}

static tb_status check_backward(check *c, const tb_action *a, uint8_t *did)
{
    if (*did & DID_BACK) return fail(c, TB_RULE_ONCE, "this backward has been done before");
    if (!(*did & DID_F)) return fail(c, TB_RULE_DEPENDENCY, "its forward has not been done");
    place after = where(c->s, a->stage + 1, c->rank);
    if (after == ELSEWHERE && !(*did & GOT_B))
        return fail(c, TB_RULE_DEPENDENCY, "the gradient of its output has not been received");
    if (after == HERE && !(*cell(c, a->stage + 1, a->microbatch) & DID_BACK))
        return fail(c, TB_RULE_DEPENDENCY, "the stage after it has not done its backward");
    *did |= DID_BACK;
    return TB_OK;
}

static tb_status check_weight(check *c, const tb_action *a, uint8_t *did)
{
    if (*did & DID_WEIGHT) return fail(c, TB_RULE_ONCE, "this weight gradient has been added before");
    if (!(*did & DID_BACK)) return fail(c, TB_RULE_DEPENDENCY, "its input gradient (I) has not been done");
    if (a->microbatch != c->weights_added[a->stage])
        return fail(c, TB_RULE_ORDER, "weight gradients must be added over micro-batches in ascending order");
    c->weights_added[a->stage]++;
    *did |= DID_WEIGHT;
    return TB_OK;
}

static tb_status check_message(check *c, const tb_action *a, uint8_t *did)
{
    bool send = tb_action_is_send(a), forward = a->kind == TB_SEND_F || a->kind == TB_RECV_F;
    int neighbour = send == forward ? a->stage + 1 : a->stage - 1;
    if (where(c->s, neighbour, c->rank) != ELSEWHERE) return fail(c, TB_RULE_FORM, "no other rank is its other end");
    if (c->s->placement[neighbour] != a->peer) return fail(c, TB_RULE_FORM, "its stage lives on another rank");
    int flag = send ? (forward ? SENT_F : SENT_B) : forward ? GOT_F : GOT_B;
    if (*did & flag) return fail(c, TB_RULE_ONCE, "this message has been posted before");
    if (send && !(*did & (forward ? DID_F : DID_BACK)))
        return fail(c, TB_RULE_DEPENDENCY, "what it sends has not been computed");
    *did = (uint8_t)(*did | flag);
    return TB_OK;
}

static tb_status check_update(check *c, const tb_action *a)
{
    if (a->kind == TB_DO_REDUCE) {
        if (c->weights_added[a->stage] < c->s->microbatches)
            return fail(c, TB_RULE_UPDATE, "weight gradients of the stage are still to come");
        if (c->reduced[a->stage]++) return fail(c, TB_RULE_UPDATE, "the stage has been reduced before");
        return TB_OK;
    }
    if (!c->reduced[a->stage]) return fail(c, TB_RULE_UPDATE, "the stage has not been reduced");
    if (c->updated[a->stage]++) return fail(c, TB_RULE_UPDATE, "the stage has been updated before");
    return TB_OK;
}

static tb_status check_action(check *c, const tb_action *a)
{
    uint8_t *did = cell(c, a->stage, a->microbatch);
    if (c->s->placement[a->stage] != c->rank) return fail(c, TB_RULE_FORM, "the stage lives on another rank");
    if (a->joined && (c->index == 0 || !tb_action_is_message(a) || !tb_action_is_message(a - 1)))
        return fail(c, TB_RULE_FORM, "only messages can be posted together");
    switch ((tb_action_kind)a->kind) {
    case TB_DO_F: return check_forward(c, a, did);
    case TB_DO_I: return check_backward(c, a, did);
    case TB_DO_B: TB_TRY(check_backward(c, a, did)); return check_weight(c, a, did);
    case TB_DO_W: return check_weight(c, a, did);
    case TB_SEND_F:
    case TB_RECV_F:
    case TB_SEND_B:
    case TB_RECV_B: return check_message(c, a, did);
    case TB_DO_REDUCE:
    case TB_DO_OPT: return check_update(c, a);
    case TB_ACTION_KINDS: break;
    }
    return fail(c, TB_RULE_FORM, "no such kind of action");
}

static tb_status check_complete(check *c)
{
    const tb_schedule *s = c->s;
    for (int stage = 0; stage < s->stages; stage++) {
        int rank = s->placement[stage];
        int all = DID_F | DID_BACK | DID_WEIGHT;
        if (where(s, stage - 1, rank) == ELSEWHERE) all |= GOT_F | SENT_B;
        if (where(s, stage + 1, rank) == ELSEWHERE) all |= GOT_B | SENT_F;
        for (int i = 0; i < s->microbatches; i++) {
            int missing = all & ~*cell(c, stage, i);
            if (!missing) continue;
            c->broken = TB_RULE_ONCE;
            return TB_FAIL(TB_ERR_INVALID, "schedule %s: rank %d lacks %s of stage %d, micro-batch %d", s->name, rank,
                           missing & DID_F        ? "F"
                           : missing & DID_BACK   ? "B or I"
                           : missing & DID_WEIGHT ? "W"
                           : missing & SENT_F     ? "SEND_F"
                           : missing & SENT_B     ? "SEND_B"
                           : missing & GOT_F      ? "RECV_F"
                                                  : "RECV_B",
                           stage, i);
        }
        if (c->updated[stage]) continue;
        c->broken = TB_RULE_UPDATE;
        return TB_FAIL(TB_ERR_INVALID, "schedule %s: rank %d lacks %s of stage %d", s->name, rank,
                       c->reduced[stage] ? "OPT" : "REDUCE and OPT", stage);
    }
    return TB_OK;
}

static tb_status check_lists(check *c)
{
    for (c->rank = 0; c->rank < c->s->ranks; c->rank++) {
        const tb_action_list *list = &c->s->lists[c->rank];
        for (c->index = 0; c->index < list->n; c->index++) TB_TRY(check_action(c, &list->at[c->index]));
    }
    return check_complete(c);
}

static tb_status check_run(check *c)
{
    tbi_run run;
    tb_status st = tbi_run_open(&run, c->s, NULL, NULL);
    if (st == TB_OK) {
        tbi_run_go(&run);
        st = tbi_run_verdict(&run, &c->broken);
    }
    tbi_run_close(&run);
    return st;
}

/* Refuses, before anything is allocated for them, numbers that the lists cannot fill: F and B of every cell. */
static tb_status check_size(check *c)
{
    int64_t actions = 0, cells = (int64_t)c->s->stages * c->s->microbatches;
    for (int r = 0; r < c->s->ranks; r++) actions += c->s->lists[r].n;
    if (actions >= 2 * cells) return TB_OK;
    c->broken = TB_RULE_ONCE;
    return TB_FAIL(TB_ERR_INVALID, "schedule %s: %lld actions cannot cover %d stages x %d micro-batches", c->s->name,
                   (long long)actions, c->s->stages, c->s->microbatches);
}

tb_status tb_schedule_check(const tb_schedule *s, tb_schedule_rule *broken)
{
    size_t stages = (size_t)s->stages;
    check c = { .s = s };
    tb_status st;
    TB_GO(check_size(&c));
    c.did = tb_calloc(stages * (size_t)s->microbatches, 1);
    c.weights_added = tb_calloc(stages, sizeof *c.weights_added);
    c.reduced = tb_calloc(stages, 1);
    c.updated = tb_calloc(stages, 1);
    if (!c.did || !c.weights_added || !c.reduced || !c.updated) {
        st = tb_error_code();
        goto cleanup;
    }
    TB_GO(check_lists(&c));
    TB_GO(check_run(&c));
cleanup:
    if (broken) *broken = c.broken;
    tb_free(c.did);
    tb_free(c.weights_added);
    tb_free(c.reduced);
    tb_free(c.updated);
    return st;
}
