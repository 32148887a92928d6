/* Text, token by token: requests of a model that steps, run together. A step model takes one token of every row and
 * what it keeps of earlier ones: inputs "token" u8, "place" f32 and states, an input S beside an output "S.next";
 * output "logits" f32.
 *
 * Iteration-level batching (Yu et al., "Orca", OSDI 2022): the batch is made anew for every step. A request takes a
 * slot when one is free, reads its prompt there one token a step, and leaves after its last token, whatever the others
 * do. A slot's states stay in place from step to step: inputs and outputs are one buffer. Which token is drawn depends
 * on the row's logits, the request's seed and the token's number alone, so a text is the same in any company. */
#pragma once
#include "batcher.h"

typedef struct tbi_prompt { /* what a request asks for */
    char id[TBI_JSON_STRING + 1];
    uint8_t text[TBI_JSON_STRING + 1];
    int bytes;
    int64_t max_tokens;    /* 0: not said */
    double temperature;    /* 0: the most likely token */
    int64_t seed, timeout_us;
    char stop[TBI_JSON_STRING + 1]; /* ends behind this text; "": nothing does */
    /* the reader's own */
    tbi_fault *fault;
    int depth, member;
    unsigned seen;
} tbi_prompt;

/* Reading {"text_input": .., "id": .., "parameters": {"max_tokens", "temperature", "seed", "stop", "timeout"}}. */
void tbi_prompt_open(tbi_prompt *p, tbi_json *scan, tbi_fault *fault);
bool tbi_prompt_finish(tbi_prompt *p, tbi_json *scan);

typedef enum tbi_finish_reason { TBI_UNFINISHED, TBI_BY_LENGTH, TBI_BY_STOP } tbi_finish_reason;

typedef struct tbi_generation {
    const tbi_prompt *prompt;
    int max_tokens;
    int64_t deadline_ns;   /* INT64_MAX: none */
    int n;                 /* tokens drawn */
    uint8_t last;          /* of them */
    tbi_finish_reason reason;
    int64_t queued_ns, first_ns; /* asked for; first token drawn */
    /* the generator's own */
    int fed, slot, matched; /* tokens read; -1: queued; bytes at the end of the text that begin `stop` */
    struct tbi_generation *next;
} tbi_generation;

/* A token was drawn (`last`, `reason`), or the generation failed: the fault says why. After a reason or a fault the
 * generation is over and no longer known here. */
typedef void (*tbi_generated)(void *arg, tbi_generation *g, const tbi_fault *fault);

enum { TBI_MAX_STATES = TB_SERVE_MAX_TENSORS - 2 };

typedef struct tbi_generator {
    tbi_batcher *batcher;      /* borrowed: times, the worker */
    tbi_batch *batch;          /* its or its worker's; row r of the states is slot r's */
    tbi_generation **slots;    /* [max_batch]; [0, n_slots) run, NULL: cancelled */
    int n_slots, capacity;     /* capacity: tokens of a row */
    tbi_generation *head, *tail;
    int n_queued, limit;
    bool is_running;           /* by the worker */
    int n_states, state_in[TBI_MAX_STATES], state_out[TBI_MAX_STATES];
    int token, place, logits;  /* which input, input, output */
    tbi_generated generated;
    void *arg;
} tbi_generator;

bool tbi_model_steps(const tb_serve_model *m); /* has states */
TB_MUST_USE tb_status tbi_generator_create(tbi_batcher *b, int limit, tbi_generator **out);
void tbi_generator_destroy(tbi_generator *g); /* before its batcher; NULL is accepted */
/* Takes the generation (prompt, deadline_ns filled) or refuses it. */
bool tbi_generator_admit(tbi_generator *g, tbi_generation *r, int64_t now_ns, tbi_fault *fault);
void tbi_generator_cancel(tbi_generator *g, tbi_generation *r);
/* One step at most. True while the loop itself has a next one to run. */
bool tbi_generator_step(tbi_generator *g);
int64_t tbi_generator_next_deadline(const tbi_generator *g); /* of the queued; INT64_MAX: none */
