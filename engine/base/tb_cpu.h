/* What this processor can run, and what kernels may use. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stdint.h>

/* Ordered: a kernel of a lower ISA runs wherever a higher one is allowed. */
typedef enum tb_isa { TB_ISA_SCALAR, TB_ISA_AVX2, TB_ISA_AVX512, TB_ISA_AVX512VNNI, TB_ISAS } tb_isa;

const char *tb_isa_name(tb_isa isa);                                 /* "scalar", "avx2", "avx512", "avx512vnni" */
TB_MUST_USE tb_status tb_isa_parse(const char *name, tb_isa *out);
tb_isa tb_isa_detect(void);                                          /* the best this machine runs */
/* tb_isa_detect() unless the environment's TB_ISA names a lower one. An unknown or unsupported name fails. */
TB_MUST_USE tb_status tb_isa_allowed(tb_isa *out);
bool tb_cpu_has_bf16(void);                                          /* AVX512_BF16 (vdpbf16ps) */
const char *tb_cpu_model(void);                                      /* as the processor spells it */
const char *tb_cpu_id(void);                                         /* "AuthenticAMD 26 2": vendor, family, model */

/* Denormals are kept (FTZ and DAZ off) on every thread the engine makes; this sets the calling one so. */
void tb_cpu_denormals_on(void);
int64_t tb_now_ns(void);                                             /* CLOCK_MONOTONIC */
