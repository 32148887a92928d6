/* How often this process has asked the C library for memory: the program `tb` replaces malloc and its kin by wrappers
 * that count. 0 in programs that do not link malloc_count.c (tests) and under sanitizers. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

__attribute__((weak)) int64_t tb_malloc_calls(void);

static inline bool tb_malloc_is_counted(void) { return tb_malloc_calls != NULL; }
