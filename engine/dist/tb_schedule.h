/* A pipeline schedule is data: for every rank, the list of actions it performs in one step, in order.
 *
 * The model is cut into `stages`; placement[s] is the rank that holds stage s; the batch is cut into `microbatches`.
 * Per (stage s, micro-batch i) the owner runs
 *     F  forward                    needs the output of stage s-1
 *     B  whole backward, or I and W I = gradient of the stage's input, W = gradient of its weights, which may wait
 * and where a neighbouring stage lives on another rank, messages carry the boundary:
 *     sSEND_Fi>q  stage s's output to rank q        matches  (s+1)RECV_Fi<p
 *     sSEND_Bi>q  gradient of stage s's input       matches  (s-1)RECV_Bi<p
 * and per stage one REDUCE (sum of its gradients over data-parallel replicas; nothing to do with one replica) and one
 * OPT (update). Messages between two ranks match in order per direction, never by tag. Actions in brackets are posted
 * together and the rank goes on when all are done (ncclGroupStart/End, MPI_Waitall): a rank may send and receive at
 * once. A message needs both sides posted: nothing is buffered.
 *
 * Sources: GPipe (Huang et al. 2019), 1F1B = PipeDream-Flush (Narayanan et al. 2021), interleaved 1F1B (Narayanan et
 * al., "Efficient large-scale language model training", 2021), ZB-H1 (Qi et al., "Zero bubble pipeline parallelism",
 * 2023). All functions may be called from any thread; a schedule is used by one thread while it changes. */
#pragma once
#include "tb_status.h"
#include "tb_text.h"
#include <stdbool.h>
#include <stdint.h>

typedef enum tb_action_kind {
    TB_DO_F,
    TB_DO_B,
    TB_DO_I,
    TB_DO_W,
    TB_SEND_F,
    TB_RECV_F,
    TB_SEND_B,
    TB_RECV_B,
    TB_DO_REDUCE,
    TB_DO_OPT,
    TB_ACTION_KINDS
} tb_action_kind;

typedef struct tb_action {
    int32_t microbatch; /* 0 for REDUCE and OPT */
    uint16_t stage;
    uint16_t peer;      /* the other rank of a message; 0 otherwise */
    uint8_t kind;       /* tb_action_kind */
    uint8_t joined;     /* 1: posted together with the action before it */
} tb_action;

typedef struct tb_action_list {
    tb_action *at;
    int64_t n, capacity;
} tb_action_list;

enum { TB_SCHEDULE_NAME = 32, TB_SCHEDULE_MAX_RANKS = 4096, TB_SCHEDULE_MAX_STAGES = 65535,
       TB_SCHEDULE_MAX_MICROBATCHES = 1 << 24 };

typedef struct tb_schedule {
    char name[TB_SCHEDULE_NAME]; /* [a-z0-9_]+ */
    int ranks, stages, microbatches;
    int *placement;              /* [stages] */
    tb_action_list *lists;       /* [ranks] */
} tb_schedule;

bool tb_action_is_message(const tb_action *a);
bool tb_action_is_send(const tb_action *a);

/* ---- making one ---- */
typedef struct tb_schedule_config {
    int ranks;        /* >= 1 */
    int microbatches; /* >= 1 */
    int chunks;       /* stages per rank; 0 means 1. Stage s lives on rank s mod ranks. */
    /* Durations of F, I and W relative to each other, at most 1000; 0 means 1. B takes I + W. They decide only when
     * messages are sent: the closer to the measured ones, the less a message waits behind another. */
    int f_ticks, i_ticks, w_ticks;
} tb_schedule_config;

/* Names of the generators ("1f1b", "accumulate", "gpipe", ...); NULL at index >= their number. */
const char *tb_schedule_name_at(int index);
/* Runs a generator. NOT_FOUND: no such name. INVALID: the schedule does not exist for these numbers; the sentence says
 * what it asks for. The caller frees the result. */
TB_MUST_USE tb_status tb_schedule_make(const char *name, const tb_schedule_config *c, tb_schedule **out);

/* An empty schedule with stage s placed on rank s mod ranks. INVALID: a number is out of range, or a bad name. */
TB_MUST_USE tb_status tb_schedule_create(const char *name, int ranks, int stages, int microbatches, tb_schedule **out);
void tb_schedule_free(tb_schedule *s); /* NULL is accepted */
/* Appends to a rank's list. INVALID: rank, stage, micro-batch, peer or kind out of range. */
TB_MUST_USE tb_status tb_schedule_append(tb_schedule *s, int rank, tb_action a);

/* ---- text: one line a field, then one line a rank; one spelling, so text -> schedule -> text is identity ---- */
enum { TB_ACTION_TEXT = 48 };
const char *tb_action_format(const tb_action *a, char out[TB_ACTION_TEXT]); /* "2SEND_F0>3"; returns out */
TB_MUST_USE tb_status tb_schedule_write(const tb_schedule *s, tb_text *out);
/* PARSE: the sentence names line and column. Checks spelling and ranges; tb_schedule_check() checks meaning. */
TB_MUST_USE tb_status tb_schedule_parse(const char *text, size_t bytes, tb_schedule **out);

/* ---- checking one ---- */
typedef enum tb_schedule_rule {
    TB_RULE_NONE, /* all kept */
    TB_RULE_FORM, /* a rank without stage order, a message to the wrong rank, work on a rank that lacks the stage */
    TB_RULE_ONCE, /* each (stage, micro-batch): one F, one B or one I and W; each message once */
    TB_RULE_DEPENDENCY, /* needs come earlier in the same list */
    TB_RULE_MATCH,      /* the k-th send from a to b is what b's k-th receive from a expects */
    TB_RULE_DEADLOCK,   /* no cycle of ranks that wait for each other with nothing buffered */
    TB_RULE_ORDER,      /* weight gradients are added over micro-batches ascending: the order of plain accumulation */
    TB_RULE_UPDATE      /* REDUCE after the stage's last weight gradient, OPT after REDUCE, both once */
} tb_schedule_rule;

/* Checks every rule; TB_OK means that the schedule runs to its end and gives what plain accumulation gives, with no
 * buffering at all and so with any amount of it. INVALID: the sentence names rank and action, for a deadlock the
 * shortest cycle. `broken` (may be NULL) gets the rule.
 *
 * The same verdict holds for two streams per rank, one for work and one in-order stream for messages: every path from
 * one rank to another enters and leaves it through messages, and messages keep their order in both ways of running. */
TB_MUST_USE tb_status tb_schedule_check(const tb_schedule *s, tb_schedule_rule *broken);

/* ---- memory ---- */
typedef struct tb_stage_bytes {
    int64_t act;      /* kept for the backward pass: from F to the end of B, or of I */
    int64_t deferred; /* kept for W: from I to the end of W */
    int64_t input;    /* the boundary tensor that enters the stage; its gradient is as large. 0 for stage 0. */
    int64_t rebuilt;  /* exists only inside B or I: what recomputation makes again */
} tb_stage_bytes;

typedef struct tb_rank_peak {
    int64_t held_bytes;   /* most that is held between two actions: activations and boundary tensors */
    int64_t held_at;      /* index of the action after which it is first reached; -1 for an empty list */
    int64_t act_bytes;    /* the same without boundary tensors: the quantity of the closed forms */
    int64_t inside_bytes; /* most that exists at any time, actions' own `rebuilt` included */
} tb_rank_peak;

/* Exact peaks of each rank when it performs its list in order: bytes[stages] in, peaks[ranks] out. An output tensor
 * lives from F until it is sent (or consumed by the next stage on the same rank), a received one until F or B has used
 * it. Valid schedules only. */
void tb_schedule_peaks(const tb_schedule *s, const tb_stage_bytes *bytes, tb_rank_peak *peaks);
