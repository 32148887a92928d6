/* The server that serve_load measures: ours in this process, behind it a trained model; or a peer in a
 * process of its own, behind it nothing; or a bare echo. All listen on loopback and answer POST /v1/predict. */
#pragma once
#include "arms.h"
#include "tb_serve.h"

typedef struct tb_serving tb_serving;

typedef struct tb_serving_config {
    const char *server;  /* "tensorbrain", "fastapi-pydantic", "fastapi-raw", "echo" */
    const tb_arms *arms; /* tensorbrain: one of them is exported and served as "model"; borrowed */
    int arm;
    int64_t max_batch;
    tb_serve_limits limits;
} tb_serving_config;

/* Returns when requests are answered. `version` [64]: of the peer, "" for ours. */
TB_MUST_USE tb_status tb_serving_start(const tb_serving_config *config, tb_serving **out, char version[64]);
int tb_serving_port(const tb_serving *s);
/* CPU time so far of everything but the calling thread (ours), of the peer's process; polling left out. Not while a
 * server drains. */
TB_MUST_USE tb_status tb_serving_cpu_ns(const tb_serving *s, int64_t *ns);
/* Ours only: mean time of a stage over all inferences answered so far; the stages are receive, parse, queue, compute,
 * serialize, as /metrics names them. */
TB_MUST_USE tb_status tb_serving_stage_us(const tb_serving *s, const char *stage, double *us);
/* Ours only. Reload: the model's files are read, checked and put in place of the running model. Drain: the
 * server says it is not ready, answers what comes for half a second, closes. Restart: waits for a drained
 * server's end, tells how it ended, and starts another. */
/* The model's time for a row of the batch that is best per row, as the server measured it. */
TB_MUST_USE tb_status tb_serving_row_us(const tb_serving *s, double *us);
TB_MUST_USE tb_status tb_serving_reload(tb_serving *s);
TB_MUST_USE tb_status tb_serving_drain(tb_serving *s);
TB_MUST_USE tb_status tb_serving_restart(tb_serving *s);
void tb_serving_stop(tb_serving *s); /* NULL is accepted */
