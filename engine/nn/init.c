/* Initialisers: distributions and filling. */
#include "tb_alloc.h"
#include "tb_params.h"
#include "tb_rng.h"
#include <math.h>

tb_init tb_init_constant(double value) { return (tb_init){TB_INIT_CONSTANT, value}; }
tb_init tb_init_uniform(double bound) { return (tb_init){TB_INIT_UNIFORM, bound}; }
tb_init tb_init_normal(double std) { return (tb_init){TB_INIT_NORMAL, std}; }

static double kaiming_std(int64_t fan_in, double slope)
{
    return fan_in > 0 ? sqrt(2 / (1 + slope * slope)) / sqrt((double)fan_in) : 0;
}

static double xavier_std(int64_t fan_in, int64_t fan_out, double gain)
{
    return fan_in + fan_out > 0 ? gain * sqrt(2.0 / (double)(fan_in + fan_out)) : 0;
}

/* A uniform distribution on [-b, b) has the standard deviation b / sqrt(3). */
tb_init tb_init_kaiming_uniform(int64_t fan_in, double slope)
{
    return tb_init_uniform(sqrt(3) * kaiming_std(fan_in, slope));
}
tb_init tb_init_kaiming_normal(int64_t fan_in, double slope) { return tb_init_normal(kaiming_std(fan_in, slope)); }
tb_init tb_init_xavier_uniform(int64_t fan_in, int64_t fan_out, double gain)
{
    return tb_init_uniform(sqrt(3) * xavier_std(fan_in, fan_out, gain));
}
tb_init tb_init_xavier_normal(int64_t fan_in, int64_t fan_out, double gain)
{
    return tb_init_normal(xavier_std(fan_in, fan_out, gain));
}

static double draw(tb_init init, uint64_t seed, uint64_t stream, uint64_t index)
{
    if (init.kind == TB_INIT_CONSTANT) return init.value;
    if (init.kind == TB_INIT_NORMAL) return init.value * tb_random_normal(seed, stream, index);
    return init.value * (2 * tb_random_uniform(seed, stream, index) - 1);
}

tb_status tb_init_fill(tb_tensor *t, tb_init init, uint64_t seed, uint64_t stream)
{
    tb_dtype dtype = tb_tensor_dtype(t);
    size_t size = tb_dtype_size(dtype), bytes = tb_tensor_bytes(t);
    char *host = tb_calloc(bytes, 1);
    if (!host) return TB_ERR_OOM;
    for (size_t at = 0, i = 0; at < bytes; at += size, i++) tb_store_f64(dtype, host + at, draw(init, seed, stream, i));
    tb_status st = tb_tensor_write(t, host, bytes);
    tb_free(host);
    return st;
}
