/* What serve_load does with a server in one iteration, by scenario: plain load, texts token by token, the search for
 * the largest rate, overload, a storm of bad requests, reloads, drain. The driver's file says what each is. */
#pragma once
#include "serving.h"
#include "storm.h"
#include "tb_data.h"
#include "tb_driver.h"
#include "tb_load.h"

enum {
    TB_LARGEST_BATCH = 256,
    TB_IN_FLIGHT = 64,       /* at least, when a reload or a drain begins */
    TB_DRAIN_DELAY_MS = 1000 /* in which a draining server still serves whoever comes */
};

typedef struct tb_serve_state {
    tb_ctx *ctx;
    tb_dataset *data;
    tb_arms *arms; /* NULL: a peer */
    int arm;       /* the one that is served */
    tb_serving *serving;
    float *answers;
    uint8_t *prompts, *tokens; /* text: what is sent, and what must come back */
    tb_load_samples samples;
    tb_load_requests *requests;
    tb_histogram *latency, *service; /* of all measured iterations of `load` */
    int64_t verified, wrong, failed, late;
    int64_t server_cpu_ns; /* of the last open loop */
    tb_slo slo;
    bool may_refuse; /* refusals are answers in this scenario */
    bool generator_limited;
    uint64_t batches[TB_LARGEST_BATCH + 1];
    int64_t actions; /* reloads or drains done */
    int least_in_flight; /* when one of them was asked for */
    int64_t allocations; /* of the engine's process heap, in measured iterations of `load` */
    tb_storm_result storm;
} tb_serve_state;

bool tb_scenario_is(const tb_run *run, const char *name);
/* Iteration i; emits its samples, adds to the tallies. */
TB_MUST_USE tb_status tb_scenario_measure(const tb_run *run, tb_serve_state *s, int64_t i);
static inline double tb_histogram_ms(const tb_histogram *h, double q)
{
    return (double)tb_histogram_quantile(h, q) / 1e6;
}
