/* limits: what the machine itself does, which the other kinds are held against: multiply-adds by instruction
 * set, reading by level of memory, and how long a cache line takes from core to core. */
#include "tb_bench.h"
#include "tb_cpu.h"
#include "tb_topo.h"
#include <math.h>

static tb_status add_peaks(tb_bench_run *run, tb_dtype dtype)
{
    static const tb_isa isas[] = {TB_ISA_SCALAR, TB_ISA_AVX2, TB_ISA_AVX512, TB_ISA_AVX512VNNI};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        bool is_own = dtype == TB_F32    ? isas[i] != TB_ISA_AVX512VNNI
                      : dtype == TB_BF16 ? isas[i] == TB_ISA_AVX512 && tb_cpu_has_bf16()
                                         : isas[i] != TB_ISA_AVX512;
        double flops = is_own ? tb_limit_flops(dtype, isas[i], tb_ctx_pool(run->ctx)) : 0;
        if (flops == 0) continue;
        tb_bench_row *r = tb_bench_row_add(run, "multiply_add", tb_dtype_name(dtype));
        if (!r) return TB_ERR_OOM;
        r->dtype = tb_dtype_name(dtype);
        r->gflops = flops * 1e-9;
        snprintf(r->isa, sizeof r->isa, "%s", tb_isa_name(isas[i]));
        snprintf(r->kernel, sizeof r->kernel, "%s chains", tb_isa_name(isas[i]));
    }
    return TB_OK;
}

/* Half of each level, of all threads together where each has its own; and four times the last. */
static tb_status add_reads(tb_bench_run *run)
{
    tb_topo topo;
    TB_TRY(tb_topo_load(&topo));
    const struct {
        const char *level;
        int64_t bytes;
    } sizes[] = {{"L1", topo.l1d_bytes / 2 * run->threads},
                 {"L2", topo.l2_bytes / 2 * run->threads},
                 {"L3", topo.l3_bytes / 2},
                 {"DRAM", topo.l3_bytes > 0 ? 4 * topo.l3_bytes : 256 << 20}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char shape[64];
        if (sizes[i].bytes == 0) continue;
        double read = tb_limit_read((size_t)sizes[i].bytes, tb_ctx_isa(run->ctx), tb_ctx_pool(run->ctx));
        snprintf(shape, sizeof shape, "%s %lld KiB", sizes[i].level, (long long)(sizes[i].bytes >> 10));
        tb_bench_row *r = tb_bench_row_add(run, "read", shape);
        if (!r) return TB_ERR_OOM;
        snprintf(r->kernel, sizeof r->kernel, "read loop");
        r->median_ns = (double)sizes[i].bytes / read * 1e9;
        tb_bench_extra_add(run, "gb_per_s", read * 1e-9);
    }
    return TB_OK;
}

static tb_status run_limits(tb_bench_run *run)
{
    TB_TRY(add_peaks(run, TB_F32));
    TB_TRY(add_peaks(run, TB_BF16));
    TB_TRY(add_peaks(run, TB_I8));
    TB_TRY(add_reads(run));
    if (isnan(run->core_to_core_ns)) return TB_OK;
    tb_bench_row *r = tb_bench_row_add(run, "core_to_core", "one way");
    if (!r) return TB_ERR_OOM;
    snprintf(r->kernel, sizeof r->kernel, "ping-pong");
    r->median_ns = run->core_to_core_ns;
    return TB_OK;
}

TB_BENCH(limits, .doc = "what this machine can do", .dtypes = 1u << TB_F32, .is_whole = true, .run = run_limits);
