/* Programs of pointwise ops: what the compiler's fusion pass writes and fused_pointwise.c runs. */
#pragma once
#include "pointwise.h"
#include "tb_text.h"

enum { TB_PROGRAM_STEPS = 24, TB_PROGRAM_INPUTS = TB_MAX_STREAMS };

typedef struct tb_step {
    int16_t op;         /* tb_op_at() */
    uint8_t operand[3]; /* < TB_PROGRAM_INPUTS: input; else result of step operand - TB_PROGRAM_INPUTS */
} tb_step;

typedef struct tb_program {
    int n;
    tb_step step[TB_PROGRAM_STEPS];
} tb_program;

bool tbi_can_fuse(const tb_op *op); /* pointwise by family, no attributes, keeps its dtype */
void tbi_program_print(const void *attr, tb_text *to);
tb_status tbi_program_parse(const char **at, const char *end, void *attr);
