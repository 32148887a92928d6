/* The counted allocator. Every byte the engine holds comes from a heap: a per-context caching pool of 64-byte
 * aligned blocks that counts what is live, by purpose, and what the peak was. A freed block goes to a free list of
 * its size class and is handed out again without touching the system, so a steady training step neither calls
 * malloc nor takes a page fault. "live" counts requested bytes; "cached" what the heap holds beyond that.
 *
 * A heap is used by one thread at a time (its context's); tb_heap_process() has a lock and serves everything that
 * belongs to no context (configuration, files, pools). */
#pragma once
#include "tb_status.h"
#include <stddef.h>
#include <stdint.h>

typedef enum tb_mem_tag {
    TB_MEM_PARAM,
    TB_MEM_GRAD,
    TB_MEM_OPT,
    TB_MEM_ACT,
    TB_MEM_ACT_GRAD,
    TB_MEM_BOUNDARY,
    TB_MEM_WORKSPACE,
    TB_MEM_COMM,
    TB_MEM_OTHER,
    TB_MEM_TAGS
} tb_mem_tag;

const char *tb_mem_tag_name(tb_mem_tag tag); /* "param", "grad", ... */

typedef struct tb_mem_stats {
    int64_t live_bytes;                 /* sum over tags */
    int64_t peak_bytes;                 /* highest live_bytes since the last tb_heap_reset_peak */
    int64_t live_by_tag[TB_MEM_TAGS];
    int64_t at_peak_by_tag[TB_MEM_TAGS];/* how peak_bytes was made up */
    int64_t peak_by_tag[TB_MEM_TAGS];   /* each tag's own highest value */
    int64_t cached_bytes;               /* held from the system, in no live block */
    int64_t live_blocks;
    int64_t requests;                   /* allocations asked for, ever */
    int64_t system_calls;               /* of those, the ones that had to go to the system */
} tb_mem_stats;

typedef struct tb_heap tb_heap;

tb_heap *tb_heap_create(void);          /* NULL when the system has no memory; record filled */
/* Gives everything back. Returns how many blocks were still live: 0 unless something leaked. NULL is accepted. */
int64_t tb_heap_destroy(tb_heap *heap);
tb_heap *tb_heap_process(void);

/* 64-byte aligned, not zeroed; NULL with the record filled (TB_ERR_OOM) on failure. 0 bytes gives a valid block. */
void *tb_heap_alloc(tb_heap *heap, size_t bytes, tb_mem_tag tag);
void tb_heap_free(tb_heap *heap, void *block);                   /* NULL is accepted */
void tb_heap_retag(tb_heap *heap, void *block, tb_mem_tag tag);  /* moves the block's bytes to another purpose */
size_t tb_heap_block_bytes(const void *block);                   /* as requested */
tb_mem_tag tb_heap_block_tag(const void *block);
void tb_heap_stats(const tb_heap *heap, tb_mem_stats *out);
void tb_heap_reset_peak(tb_heap *heap);
void tb_heap_trim(tb_heap *heap);                                /* cached blocks go back to the system */
/* Counts bytes that are accounted but not held: the meta device's way to predict memory. */
void *tb_heap_alloc_meta(tb_heap *heap, size_t bytes, tb_mem_tag tag);

/* Fault injection: the n-th request from now (1 = the next) fails once; 0 switches it off. Heaps made while the
 * environment holds TB_FAULT=alloc:N start with that n. */
void tb_heap_fail_at(tb_heap *heap, int64_t n);

/* Zeroed memory of the process heap, tag `other`, for plain C structures. */
void *tb_calloc(size_t count, size_t size);
void *tb_realloc(void *block, size_t bytes); /* NULL block allocates; contents kept, growth not zeroed */
char *tb_strdup(const char *s);
char *tb_strndup(const char *s, size_t n);
char *tb_asprintf(const char *fmt, ...) TB_PRINTF(1, 2);
void tb_free(void *block);                   /* NULL is accepted */
