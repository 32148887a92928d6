/* Deploy artefacts as models of the server. */
#pragma once
#include "tb_serve_model.h"

/* A tb_serve_model_opener for folders that tb_artefact_save wrote. `arg` is unused. The model has a context
 * and sessions of its own, one for every thread that computes at the same time (at most 8, made as they are
 * needed). */
tb_status tb_serve_artefact_open(void *arg, const char *dir, const char *name, const char *version,
                                 tb_serve_model **out);
