/* Processor features, the allowed instruction set, the clock. */
#include "tb_cpu.h"
#include <cpuid.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xmmintrin.h>

static const char *const isa_names[TB_ISAS] = {"scalar", "avx2", "avx512", "avx512vnni"};

const char *tb_isa_name(tb_isa isa) { return (unsigned)isa < TB_ISAS ? isa_names[isa] : "?"; }

tb_status tb_isa_parse(const char *name, tb_isa *out)
{
    for (int i = 0; i < TB_ISAS; i++)
        if (strcmp(name, isa_names[i]) == 0) return *out = (tb_isa)i, TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "unknown instruction set '%s'; known: scalar avx2 avx512 avx512vnni", name);
}

tb_isa tb_isa_detect(void)
{
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && __builtin_cpu_supports("avx512vnni")) return TB_ISA_AVX512VNNI;
    return avx512 ? TB_ISA_AVX512 : avx2 ? TB_ISA_AVX2 : TB_ISA_SCALAR;
}

tb_status tb_isa_allowed(tb_isa *out)
{
    const char *wanted = getenv("TB_ISA");
    tb_isa best = tb_isa_detect();
    *out = best;
    if (!wanted || !*wanted) return TB_OK;
    if (tb_isa_parse(wanted, out) != TB_OK) {
        tb_error_add("the environment's TB_ISA");
        return tb_error_code();
    }
    if (*out <= best) return TB_OK;
    *out = best;
    return TB_FAIL(TB_ERR_UNSUPPORTED, "TB_ISA=%s: this processor runs at most %s", wanted, tb_isa_name(best));
}

/* cpuid traps on virtual machines: what it says is read once. */
static char model_name[64], cpu_id[32];
static bool has_bf16;

static void read_id(void)
{
    unsigned a, b, c, d;
    if (tb_isa_detect() >= TB_ISA_AVX512 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) has_bf16 = a & (1u << 5);
    char vendor[13] = "unknown";
    if (!__get_cpuid(0, &a, &b, &c, &d)) return;
    memcpy(vendor, &b, 4);
    memcpy(vendor + 4, &d, 4);
    memcpy(vendor + 8, &c, 4);
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    unsigned family = a >> 8 & 15, model = a >> 4 & 15; /* extended fields: AMD64 manual volume 3, CPUID Fn0000_0001 */
    if (family == 15 || family == 6) model += (a >> 16 & 15) << 4;
    if (family == 15) family += a >> 20 & 255;
    snprintf(cpu_id, sizeof cpu_id, "%s %u %u", vendor, family, model);
}

static void read_model(void)
{
    unsigned regs[12];
    read_id();
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, regs + 4 * i, regs + 4 * i + 1, regs + 4 * i + 2, regs + 4 * i + 3)) {
            snprintf(model_name, sizeof model_name, "unknown");
            return;
        }
    memcpy(model_name, regs, 48);
    for (size_t n = strlen(model_name); n > 0 && model_name[n - 1] == ' '; n--) model_name[n - 1] = 0;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

const char *tb_cpu_model(void)
{
    pthread_once(&once, read_model);
    return model_name;
}

const char *tb_cpu_id(void)
{
    pthread_once(&once, read_model);
    return cpu_id;
}

bool tb_cpu_has_bf16(void)
{
    pthread_once(&once, read_model);
    return has_bf16;
}

void tb_cpu_denormals_on(void) { _mm_setcsr(_mm_getcsr() & ~0x8040u); /* FTZ is bit 15, DAZ bit 6 */ }

int64_t tb_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
