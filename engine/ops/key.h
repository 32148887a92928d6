/* Keys of random ops: a tensor i64[3] = {seed, stream, first sample}. Element i of a result draws number
 * first_sample * (elements of a sample) + i of the stream, a sample being one index of axis 0: the draws of a
 * sample do not depend on how the batch was sharded. */
#pragma once
#include "tb_op.h"
#include "tb_rng.h"

typedef struct tbi_key {
    uint64_t seed, stream, first_sample;
} tbi_key;

static inline tb_status tbi_key_check(const tb_op_call *c, const tb_tensor *k)
{
    if (k->dtype == TB_I64 && k->rank == 1 && k->dims[0] == 3) return TB_OK;
    return TB_FAIL(TB_ERR_SHAPE, "%s: a key is i64 [3] (tb_next_key), not %s %s", c->op->name,
                   tb_dtype_name((tb_dtype)k->dtype), tb_shape_text(k));
}

static inline tbi_key tbi_key_read(const tb_tensor *t)
{
    const int64_t *k = tb_op_data(t);
    int64_t step = t->strides[0];
    return (tbi_key){(uint64_t)k[0], (uint64_t)k[step], (uint64_t)k[2 * step]};
}

/* Number in the stream of the first element of `t`. */
static inline uint64_t tbi_key_first(tbi_key k, const tb_tensor *t)
{
    return t->rank > 0 && t->dims[0] > 0 ? k.first_sample * (uint64_t)(t->numel / t->dims[0]) : 0;
}
