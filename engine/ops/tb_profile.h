/* A profile of operations: which op ran when, by which kernel, on what shape, beside the work it is known to do.
 *
 * The profiler is an interceptor: while it is switched on it sees every call of its context. Events go into memory that
 * is allocated when the profile is made, so that profiling allocates nothing while the profiled code runs; when the
 * memory is full, further events are counted and dropped. A profile belongs to the thread that has entered its
 * context. */
#pragma once
#include "tb_tensor.h"
#include "tb_text.h"

typedef struct tb_profile tb_profile;

/* Room for `capacity` events (96 bytes each). Starts switched off. Destroy it before its context. */
TB_MUST_USE tb_status tb_profile_create(tb_ctx *ctx, int64_t capacity, tb_profile **out);
void tb_profile_destroy(tb_profile *p); /* NULL: nothing */

void tb_profile_on(tb_profile *p, bool on);

/* A span of the caller's own around calls (a step, a phase): `name` is not copied; times as tb_now_ns() tells them. */
void tb_profile_span(tb_profile *p, const char *name, int64_t start_ns, int64_t end_ns);

int64_t tb_profile_events(const tb_profile *p);
int64_t tb_profile_dropped(const tb_profile *p);

/* The events as JSON in the Trace Event Format ("X" events, microseconds from the first one), which Perfetto and
 * chrome://tracing open. `rank` is told as the process. A text that ran out of memory has its .failed set. */
void tb_profile_trace(const tb_profile *p, int rank, tb_text *to);

/* One line an op and kernel, most time first: calls, own time (without calls made inside), its share, GFLOP/s, GB/s. */
TB_MUST_USE tb_status tb_profile_table(const tb_profile *p, tb_text *to);
