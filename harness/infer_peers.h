/* The peers of the driver infer: other engines that run a point's weights on its rows, each a process that rests while
 * another is timed, and a column of every iteration. */
#pragma once
#include "peer.h"
#include "tb_driver.h"
#include <stdbool.h>

enum { TB_INFER_TORCH, TB_INFER_PEERS = 5 }; /* the first, PyTorch's eager run, is the judge of the baseline */

typedef struct tb_infer_peers {
    tb_peer *at[TB_INFER_PEERS]; /* NULL: not asked for, or not to be had */
} tb_infer_peers;

/* Names with commas between them; one that is not there is an error that lists those that are. */
TB_MUST_USE tb_status tb_infer_peers_parse(const char *names, bool asked[TB_INFER_PEERS]);
/* Starts those asked for on a file (tb_arms_save) and puts them to rest. Each emits the fact "peer/NAME": what it says
 * it is, or "none" for one that cannot be had, which is logged and leaves its column empty. */
void tb_infer_peers_start(const tb_run *run, const bool asked[TB_INFER_PEERS], char *path, tb_infer_peers *out);
/* A call of every peer, in an order that turns with the iterations. Emits its time and its time over that of the arm
 * that does what it does (us[], of the same iteration). *torch_us: of the first; 0 where it is not there. */
TB_MUST_USE tb_status tb_infer_peers_run(const tb_run *run, tb_infer_peers *p, int64_t iteration, const double *us,
                                         double *torch_us);
void tb_infer_peers_stop(tb_infer_peers *p);
