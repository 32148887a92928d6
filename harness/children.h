/* The processes that this one has to wait for: those it started, and, of a subreaper, those whose parents ended. */
#pragma once
#include <sys/types.h>

/* The first `most` of them, in any order; returns how many. */
int tb_children(pid_t *out, int most);
