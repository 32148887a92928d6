/* Shared by experiment.c (the file), sweep.c (its points) and checks.c. */
#pragma once
#include "experiment.h"

/* The key that a dotted path names ("params.batch"), from the tables; NULL with a sentence (nearest name)
 * when there is none. `node` says where the path stands. */
const tb_key *tbi_experiment_key(const tb_experiment *e, const tb_conf *node, const char *path);
TB_MUST_USE tb_status tbi_experiment_expand(tb_experiment *e, const char *where);
/* Grammar and keys of one entry of `checks`. */
TB_MUST_USE tb_status tbi_check_validate(const tb_experiment *e, const tb_conf *node);
