/* What the schedule files share: the generators' contract, and the bytes and virtual time of single actions. */
#pragma once
#include "tb_schedule.h"

/* A generator fills the lists of an empty schedule with F, B, I and W in the order each rank runs them; messages,
 * REDUCE and OPT are put in afterwards, the same way for all (schedule_connect.c). One file each:
 *     TB_SCHEDULE(name) = { .fill = ..., .refuse = ... };                                                           */
typedef struct tbi_generator {
    tb_status (*refuse)(const tb_schedule_config *c); /* fails with a sentence where the schedule does not exist */
    tb_status (*fill)(const tb_schedule_config *c, tb_schedule *s);
} tbi_generator;

#define TB_SCHEDULE(name_) const tbi_generator tbi_schedule_##name_

/* Appends one F, B, I or W. */
TB_MUST_USE tb_status tbi_schedule_work(tb_schedule *s, int rank, tb_action_kind kind, int stage, int64_t microbatch);
TB_MUST_USE tb_status tbi_schedule_reserve(tb_action_list *list, int64_t n);
TB_MUST_USE tb_status tbi_schedule_connect(const tb_schedule_config *c, tb_schedule *s);

/* Bytes that an action takes when it begins and gives back when it ends, boundary tensors counted apart. */
typedef struct tbi_action_bytes {
    int64_t take_act, take_edge, give_act, give_edge, inside;
} tbi_action_bytes;
tbi_action_bytes tbi_action_cost_bytes(const tb_schedule *s, const tb_stage_bytes *bytes, const tb_action *a);

/* Does the send of one rank carry what the receive of the other expects? */
bool tbi_messages_agree(const tb_action *send, const tb_action *recv);

static inline bool tbi_is_weight_grad(int kind) { return kind == TB_DO_B || kind == TB_DO_W; }
