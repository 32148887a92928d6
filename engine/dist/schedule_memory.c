/* The bytes that actions take and give back, and the exact peaks of a rank that performs its list in order. */
#include "schedule_internal.h"

/* The boundary tensor between stage-1 and stage; nothing enters the first stage or leaves the last. */
static int64_t edge(const tb_schedule *s, const tb_stage_bytes *bytes, int stage)
{
    return stage > 0 && stage < s->stages ? bytes[stage].input : 0;
}

tbi_action_bytes tbi_action_cost_bytes(const tb_schedule *s, const tb_stage_bytes *bytes, const tb_action *a)
{
    const tb_stage_bytes *b = &bytes[a->stage];
    int64_t in = edge(s, bytes, a->stage), out = edge(s, bytes, a->stage + 1);
    switch ((tb_action_kind)a->kind) {
    case TB_DO_F: return (tbi_action_bytes){ .take_act = b->act, .take_edge = out, .give_edge = in };
    case TB_DO_B:
        return (tbi_action_bytes){ .take_edge = in, .give_act = b->act, .give_edge = out, .inside = b->rebuilt };
    case TB_DO_I: /* negative give: W needs more than the forward pass had kept */
        return (tbi_action_bytes){ .take_edge = in, .give_act = b->act - b->deferred, .give_edge = out,
                                   .inside = b->rebuilt };
    case TB_DO_W: return (tbi_action_bytes){ .give_act = b->deferred };
    case TB_SEND_F: return (tbi_action_bytes){ .give_edge = out };
    case TB_RECV_F: return (tbi_action_bytes){ .take_edge = in };
    case TB_SEND_B: return (tbi_action_bytes){ .give_edge = in };
    case TB_RECV_B: return (tbi_action_bytes){ .take_edge = out };
    case TB_DO_REDUCE:
    case TB_DO_OPT:
    case TB_ACTION_KINDS: break;
    }
    return (tbi_action_bytes){ 0 };
}

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* A group is one step: all its buffers exist while it is posted. */
static void rank_peak(const tb_schedule *s, const tb_stage_bytes *bytes, int rank, tb_rank_peak *out)
{
    const tb_action_list *list = &s->lists[rank];
    int64_t act = 0, edges = 0;
    *out = (tb_rank_peak){ .held_at = -1 };
    for (int64_t i = 0; i < list->n; i++) {
        int64_t give_act = 0, give_edge = 0, inside = 0;
        for (bool more = true; more; i += more) {
            tbi_action_bytes c = tbi_action_cost_bytes(s, bytes, &list->at[i]);
            act += c.take_act;
            edges += c.take_edge;
            give_act += c.give_act;
            give_edge += c.give_edge;
            inside += c.inside;
            more = i + 1 < list->n && list->at[i + 1].joined;
        }
        out->inside_bytes = max64(out->inside_bytes, act + edges + inside);
        act -= give_act;
        edges -= give_edge;
        out->act_bytes = max64(out->act_bytes, act);
        if (out->held_at >= 0 && act + edges <= out->held_bytes) continue;
        out->held_bytes = act + edges;
        out->held_at = i;
    }
}

void tb_schedule_peaks(const tb_schedule *s, const tb_stage_bytes *bytes, tb_rank_peak *peaks)
{
    for (int r = 0; r < s->ranks; r++) rank_peak(s, bytes, r, &peaks[r]);
}
