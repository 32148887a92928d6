/* The open-loop load generator: arrivals fixed before the run, latency counted from the intended time.
 *
 * An arrival that finds no free connection waits in line while the clock runs on; nothing is ever skipped, so
 * a stall of the server is seen by every request that it would have delayed ("coordinated omission", Tene
 * 2013). The generator measures its own lateness and calls a run void when it, not the server, was the limit.
 */
#pragma once
#include "tb_histogram.h"
#include "tb_status.h"
#include "tb_text.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- schedules ---- */

typedef enum tb_arrivals {
    TB_ARRIVALS_CONSTANT, /* every 1/rate seconds */
    TB_ARRIVALS_POISSON,  /* exponential gaps */
    TB_ARRIVALS_GAMMA,    /* gamma gaps: shape < 1 is burstier than Poisson, > 1 smoother */
    TB_ARRIVALS_BURSTS,   /* Poisson, and `factor` times the rate for `burst_s` in every `period_s` */
    TB_ARRIVALS_RAMP,     /* Poisson from 0 to the rate, linearly over the duration */
    TB_ARRIVALS_REPLAY,   /* times from a file: one number of nanoseconds a line, ascending */
    TB_ARRIVALS_CLOSED    /* no schedule: every connection sends again when answered. Not comparable with the
                             others */
} tb_arrivals;

typedef struct tb_load_schedule {
    tb_arrivals kind;
    double rate;          /* a second; of BURSTS: outside bursts */
    double duration_s;
    uint64_t seed;
    double shape;         /* GAMMA [0.5] */
    double factor, burst_s, period_s; /* BURSTS [5, 0.2, 1] */
    const char *file;     /* REPLAY */
} tb_load_schedule;

const char *tb_arrivals_name(tb_arrivals kind);
TB_MUST_USE tb_status tb_arrivals_parse(const char *name, tb_arrivals *out);
/* The arrival times from 0 in ns, ascending; the caller frees *at_ns with tb_free(). A function of the
 * schedule alone. */
TB_MUST_USE tb_status tb_load_schedule_make(const tb_load_schedule *s, int64_t **at_ns, int64_t *n);

/* ---- requests: prebuilt, with known answers ---- */

typedef enum tb_load_form {
    TB_LOAD_PREDICT,
    TB_LOAD_JSON,
    TB_LOAD_BINARY,
    TB_LOAD_TEXT /* a prompt; the reply is a stream of tokens */
} tb_load_form;

typedef struct tb_load_samples {
    int n;                 /* distinct samples; arrival i uses sample i mod n */
    bool u8;               /* else f32 */
    int64_t elements;      /* a sample */
    int rank;              /* of a sample, batch left out */
    int64_t shape[6];
    const void *rows;      /* [n, elements] */
    int64_t answer_elements;
    const float *answers;  /* [n, answer_elements], or NULL: only statuses are checked */
    const char *input_name, *output_name;
    int64_t n_tokens;      /* TEXT: rows are prompts of ASCII characters, u8; this many tokens are asked for */
    const uint8_t *tokens; /* [n, n_tokens] */
} tb_load_samples;

typedef struct tb_load_requests {
    tb_load_form form;
    int n;
    char *text;            /* all requests, head and body */
    int64_t *begin;        /* [n + 1] */
    const tb_load_samples *samples;
    char *known; /* [n, known_room] the last reply text that was verified for a sample: no memory is asked
                    for while requests run */
    size_t known_room, *known_bytes; /* [n] 0: none yet */
} tb_load_requests;

TB_MUST_USE tb_status tb_load_requests_make(const tb_load_samples *samples, tb_load_form form,
                                            const char *host, const char *path, const char *api_key,
                                            tb_load_requests **out);
void tb_load_requests_free(tb_load_requests *r); /* NULL is accepted */
/* True when the reply body holds the sample's answer to the last bit (or no answer is known). */
bool tb_load_verify(tb_load_requests *r, int sample, const char *body, size_t bytes, int64_t json_bytes);

/* ---- a run ---- */

typedef struct tb_load_config {
    const char *host;      /* IPv4 address */
    int port;
    int connections;       /* [64] */
    double timeout_s;      /* [10] after the last arrival */
    double slo_ms;         /* [25] for goodput and for the rule about lateness */
    bool sleeps;           /* an open loop, too, waits without polling: for a server that wants all cores */
    bool keep_columns;
    atomic_int *in_flight; /* holds the requests sent and not yet answered, for other threads to read; may be NULL */
    const atomic_bool *until; /* when this is set, no arrival is made any more, and what is due by then is answered;
                                 may be NULL */
    void (*edge)(void *arg, bool end); /* called when the clock starts and after the last answer, for counters of the
                                          run alone; may be NULL */
    void *edge_arg;
} tb_load_config;

/* One arrival. Times in ns from the start of the run; -1: did not happen. */
typedef struct tb_load_column {
    int64_t intended_ns, dispatch_ns, done_ns;
    int16_t status;        /* HTTP; 0: the connection failed; -1: never sent, or no reply in time */
    int16_t batch;         /* X-Batch-Size; 0: not told */
    bool wrong;            /* the answer was not the expected one */
} tb_load_column;

typedef struct tb_load_result {
    tb_arrivals kind;
    int64_t planned; /* arrivals; above n where the run was told to end before all were due. Closed: n */
    int64_t n, answered, ok, refused, failed, wrong; /* refused: 429 and 503; failed: no or another status */
    int64_t expired;       /* of the failed: 504, taken and then too late */
    double offered_per_s, achieved_per_s, goodput_per_s; /* goodput: ok within the SLO */
    double wall_s;
    tb_histogram latency;  /* done - intended, of ok */
    tb_histogram service;  /* done - dispatch, of ok: what a closed-loop tool would report */
    tb_histogram lag;      /* the generator's own lateness: dispatch - max(intended, a connection was free) */
    tb_histogram wait;     /* for a free connection: the server's (or --connections') doing */
    tb_histogram refusal;  /* done - intended, of refused */
    int64_t tokens;        /* of streams */
    tb_histogram first_token;                     /* from the intended send time */
    tb_histogram token_gap;                       /* from a token to the next of its text */
    double first_third_p50_ns, last_third_p50_ns; /* a growing backlog shows here */
    double generator_cpu;  /* cores used, spinning left out */
    double spin_cpu;
    int64_t reconnects;
    uint64_t batches[257]; /* replies by X-Batch-Size */
    tb_load_column *columns; /* [n] when kept */
    char void_reason[160]; /* "" : valid */
} tb_load_result;

/* Runs the arrivals against the server. TB_OK also when replies failed: the result says so. */
TB_MUST_USE tb_status tb_load_run(const tb_load_config *config, const tb_load_schedule *schedule,
                                  tb_load_requests *requests, tb_load_result **out);
void tb_load_result_free(tb_load_result *r); /* NULL is accepted */
void tb_load_result_json(const tb_load_result *r, double slo_ms, tb_json *j); /* one object */
void tb_load_result_print(const tb_load_result *r, double slo_ms);

/* ---- the largest rate that holds an SLO ---- */

typedef struct tb_slo {
    double quantile;       /* 0.95 */
    double limit_ms;
    double start_rate;     /* [500] */
    double point_s;        /* [2] length of a run */
    int confirm;           /* [5] runs at the end */
} tb_slo;

typedef struct tb_slo_point {
    double rate, achieved, quantile_ms, p50_ms;
    bool holds;
    char why[160];         /* not, or void */
} tb_slo_point;

typedef struct tb_slo_result {
    int n;
    tb_slo_point points[64];
    double rate;           /* median of the confirming runs' achieved rates; 0: no rate held */
    double rate_min;
    bool generator_limited;/* the search ended because the generator was late, so `rate` is a lower bound */
    bool stopped;          /* by config->until, before there was a result: `rate` is 0 */
} tb_slo_result;

/* "p95:25": quantile 0.95 within 25 ms. */
TB_MUST_USE tb_status tb_slo_parse(const char *text, tb_slo *out);
/* True when the run meets the SLO: quantile within the limit, every request answered well, achieved >= 99.5 %
 * of offered (what comes within the limit after the last arrival counts), no growing backlog. `why` (160 bytes) says
 * what does not hold. */
bool tb_slo_holds(const tb_load_result *r, const tb_slo *slo, char *why);
/* Doubles to the first failure, bisects to 3 %, confirms. `progress` may be NULL. */
TB_MUST_USE tb_status tb_slo_search(const tb_load_config *config, const tb_load_schedule *schedule,
                                    tb_load_requests *requests, const tb_slo *slo,
                                    void (*progress)(const tb_slo_point *), tb_slo_result *out);

/* ---- what the generator itself can do ---- */

/* A bare epoll loop on loopback, in a thread that never sleeps. It answers every JSON body, whose end it takes to be a
 * '}' at the end of what it has read, with the same bytes: below its latency no server can be seen. */
typedef struct tb_echo tb_echo;
TB_MUST_USE tb_status tb_echo_start(tb_echo **out);
int tb_echo_port(const tb_echo *e);
int64_t tb_echo_busy_ns(const tb_echo *e); /* spent on requests so far, polling left out */
void tb_echo_stop(tb_echo *e);             /* NULL is accepted */

typedef struct tb_load_ceiling {
    double closed_per_s;       /* closed loop */
    double client_us, server_us;   /* time a request, each side */
    double open_per_s, lag_p99_us; /* open loop at half of that */
    double rate, p50_us, p95_us;   /* open loop at a rate that leaves both sides idle: the floor of any latency */
    bool open_valid;               /* both open loops */
} tb_load_ceiling;
TB_MUST_USE tb_status tb_load_self_test(int connections, double rate, double seconds, tb_load_ceiling *out);
