/* Text read a byte at a time: by a model, op by op, or by a graph of tb_deploy_capture_step, with what it keeps of the
 * bytes before. */
#pragma once
#include "tb_exec.h"
#include "tb_model.h"

typedef struct tb_stepper tb_stepper;

/* `session` of such a graph of the model, or NULL: op by op, in the current context. Both are borrowed. `rows`: of a
 * call, at most; `capacity`: bytes of a row. */
TB_MUST_USE tb_status tb_stepper_create(tb_model *m, tb_session *session, int64_t capacity, int64_t rows,
                                        tb_stepper **out);
void tb_stepper_destroy(tb_stepper *s); /* NULL is accepted */
/* Reads the byte at `place` of n rows of text, which lie `row_bytes` apart; logits[n * classes] of what follows it. The
 * calls before have read the places before of the same rows; place 0 begins others, and n may change there. */
TB_MUST_USE tb_status tb_stepper_run(tb_stepper *s, int64_t n, const uint8_t *text, int64_t row_bytes, int64_t place,
                                     float *logits);
