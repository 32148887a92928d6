/* Loading peers. A loaded library stays loaded: OpenMP runtimes do not survive being unloaded. */
#include "bench_library.h"
#include <dlfcn.h>
#include <libgen.h>
#include <stdlib.h>
#include <unistd.h>

static void path_of(const char *name, char *out, size_t bytes)
{
    char program[4096] = "";
    const char *folder = getenv("TB_PEERS");
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0) program[0] = '\0';
    if (folder)
        snprintf(out, bytes, "%s/tb_peer_%s.so", folder, name);
    else
        snprintf(out, bytes, "%s/peers/tb_peer_%s.so", dirname(program), name);
}

/* OpenBLAS's name for the processor whose kernels fit an instruction set. Left to itself it takes processors newer than
 * it for some old one. */
static const char *openblas_core(tb_isa isa)
{
    if (isa >= TB_ISA_AVX512) return tb_cpu_has_bf16() ? "Cooperlake" : "SkylakeX";
    return isa == TB_ISA_AVX2 ? "Haswell" : "Prescott";
}

static tb_status load(tb_bench_library *l, const char *name, tb_isa isa, int threads)
{
    char path[4200];
    path_of(name, path, sizeof path);
    setenv("OPENBLAS_CORETYPE", openblas_core(isa), 1);
    if (threads > 1) setenv("OMP_PROC_BIND", "true", 1); /* a core for each of its threads, as ours have */
    l->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!l->handle)
        return TB_FAIL(TB_ERR_NOT_FOUND,
                       "peer %s: %s; it is built where its development package (libdnnl-dev, "
                       "libopenblas-dev) is installed",
                       name, dlerror());
    l->library = dlsym(l->handle, "tb_peer_entry");
    if (!l->library) return TB_FAIL(TB_ERR_INVALID, "peer %s: %s has no tb_peer_entry", name, path);
    return TB_OK;
}

tb_status tb_bench_library_gemm(tb_bench_library *l, const char *name, tb_isa isa, const tb_peer_gemm *gemm)
{
    TB_TRY(load(l, name, isa, gemm->threads));
    l->gemm = *gemm;
    l->run = l->library->gemm_run;
    l->close = l->library->gemm_close;
    l->state = l->library->gemm_open(&l->gemm);
    if (!l->state) return TB_FAIL(TB_ERR_INVALID, "peer %s: %s", name, l->gemm.detail);
    return TB_OK;
}

tb_status tb_bench_library_conv(tb_bench_library *l, const char *name, tb_isa isa, const tb_peer_conv *conv)
{
    TB_TRY(load(l, name, isa, conv->threads));
    if (!l->library->conv_open) return TB_FAIL(TB_ERR_CONFIG, "peer %s: has no convolution", name);
    l->conv = *conv;
    l->run = l->library->conv_run;
    l->close = l->library->conv_close;
    l->state = l->library->conv_open(&l->conv);
    if (!l->state) return TB_FAIL(TB_ERR_INVALID, "peer %s: %s", name, l->conv.detail);
    return TB_OK;
}

void tb_bench_library_close(tb_bench_library *l)
{
    if (l->state) l->close(l->state);
    l->state = NULL;
}

tb_status tb_bench_library_run(void *self, int64_t times, double *ns)
{
    tb_bench_library *l = self;
    (void)ns;
    for (int64_t t = 0; t < times; t++) l->run(l->state);
    return TB_OK;
}
