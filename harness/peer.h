/* A peer: another program that does the same work, asked for one iteration at a time. It prints "ready VERSION" when
 * it can begin, then for every line it reads one with the milliseconds that an iteration took (a server is just there);
 * it ends with its input. Its first line may be "cannot REASON" instead. All else it has to say goes to stderr. */
#pragma once
#include "tb_status.h"
#include <stdint.h>
#include <sys/types.h>

typedef struct tb_peer tb_peer;

/* Runs scripts/peers/<script> with these arguments (NULL at the end). `version` [64]: what it says it is. */
TB_MUST_USE tb_status tb_peer_start(const char *script, char *const *args, tb_peer **out, char version[64]);
TB_MUST_USE tb_status tb_peer_iterate(tb_peer *p, double *ms);
/* The same for a peer that reads from the line how many iterations to time together. */
TB_MUST_USE tb_status tb_peer_repeat(tb_peer *p, int64_t times, double *ms);
/* Holds all its threads still until it is asked again: a pool that spins between calls takes cores from what is timed
 * meanwhile. */
void tb_peer_rest(tb_peer *p);
pid_t tb_peer_pid(const tb_peer *p);
void tb_peer_stop(tb_peer *p); /* waits for its end; NULL is accepted */
