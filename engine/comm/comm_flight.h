/* The flight recorder's file: a head and a ring of the last operations, written by one rank, read by whoever wants to
 * know what happened. Times are CLOCK_MONOTONIC, the same for all processes of a node. */
#pragma once
#include <stdatomic.h>
#include <stdint.h>

enum { FLIGHT_ENTRIES = 4096 };
enum { FLIGHT_POSTING = 1, FLIGHT_OPEN, FLIGHT_DONE, FLIGHT_FAILED }; /* OPEN: posted, its end is waited for */

typedef struct flight_entry {
    int64_t number;              /* from 1; 0: never used */
    int64_t posted_ns, open_ns, ended_ns; /* open_ns: it waits from then on */
    int32_t peer;                /* -1: a collective */
    int32_t blamed, disputed;    /* FAILED: the rank that the failure names, or -1; whether it may be this one */
    _Atomic int32_t state;
    char what[96], label[96];    /* "allreduce #17 of 1048576 f32", "step 17, bucket 3" */
} flight_entry;

typedef struct flight_head {
    uint64_t magic;
    int32_t rank, size, pid, closed;
    _Atomic int64_t posted;      /* operations so far; entry of number n: n % FLIGHT_ENTRIES */
    _Atomic int64_t excused_ns;  /* since when its waits end for reasons from outside; 0: they do not */
} flight_head;

typedef struct flight {
    flight_head head;
    flight_entry entries[FLIGHT_ENTRIES];
} flight;

static const uint64_t flight_magic = 0x74622d666c790005;
