/* What the readers of a request share. */
#pragma once
#include "infer.h"

/* Refusals: they set the fault and return false. */
bool tbi_infer_bad(tbi_infer *q, const char *field, const char *what);
bool tbi_infer_batch_refused(tbi_infer *q, const char *field);
bool tbi_infer_no_memory(tbi_infer *q);

/* Takes what the scanner finds; `arg` is the tbi_infer. */
bool tbi_infer_event(void *arg, tbi_json_event e, const char *text, size_t bytes);
