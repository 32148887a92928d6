/* A storm of bad requests beside a load: each with the answer it must get. */
#pragma once
#include "tb_status.h"
#include <stdint.h>

typedef struct tb_storm tb_storm;

typedef struct tb_storm_result {
    int64_t sent;
    int64_t unexpected; /* another status than the request deserves, or none */
    char example[160];  /* the first of them */
} tb_storm_result;

/* `rate` bad requests a second to http://127.0.0.1:port/v1/predict from a thread of its own, each on a new
 * connection, case after case, until tb_storm_stop(). */
TB_MUST_USE tb_status tb_storm_start(int port, double rate, tb_storm **out);
void tb_storm_stop(tb_storm *s, tb_storm_result *out); /* joins and frees; NULL gives zeros */
