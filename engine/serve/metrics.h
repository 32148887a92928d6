/* What the server counts. Only the loop thread writes and reads. */
#pragma once
#include "batcher.h"
#include "fault.h"
#include "tb_histogram.h"

enum { TBI_RECENT = 4096, TBI_BUCKETS = 20 };

/* The stages of an answered inference, in order; their sum is first byte of the request to reply handed over.
 */
typedef enum tbi_stage {
    TBI_RECEIVE,
    TBI_PARSE,
    TBI_QUEUE,
    TBI_COMPUTE,
    TBI_SERIALIZE,
    TBI_STAGES
} tbi_stage;

typedef struct tbi_recent {
    int64_t first_ns;
    int32_t stage_ns[TBI_STAGES];
    uint16_t status;
    int16_t rows, batch_rows;
} tbi_recent;

typedef struct tbi_metrics {
    int64_t started_ns;
    uint64_t requests;                    /* whose header was complete */
    uint64_t replies[TBI_FAULTS];         /* by code; [NONE]: 2xx */
    int64_t spun_ns;                      /* CPU time of polling with nothing to do */
    uint64_t connections, connections_refused, cut_slow, disconnected;
    uint64_t inferences, rows;            /* answered */
    uint64_t buckets[TBI_STAGES][TBI_BUCKETS + 1];
    int64_t stage_sum_ns[TBI_STAGES];
    tb_histogram latency;                 /* of answered inferences, first byte to reply handed over */
    uint64_t generations, tokens;         /* texts that were completed; tokens drawn for any */
    uint64_t first_tokens;                /* texts that have begun, and what their first token took in all */
    int64_t first_token_ns;
    tbi_recent recent[TBI_RECENT];        /* ring: inferences of any outcome */
    uint64_t n_recent;
} tbi_metrics;

extern const char *const tbi_stage_names[TBI_STAGES];

void tbi_request_stages(const tbi_request *r, int32_t ns[TBI_STAGES]);
void tbi_metrics_record(tbi_metrics *m, const tbi_request *r, int status); /* an inference was answered */

struct tb_server;
void tbi_metrics_prometheus(const struct tb_server *s, tb_text *out);   /* GET /metrics */
void tbi_metrics_timeline(const tbi_metrics *m, int last, tb_text *out); /* GET /v2/timeline?last=N */
void tbi_metrics_page(const struct tb_server *s, tb_text *out);          /* what the page polls */
