/* safetensors: named tensors in one file, readable by every framework's `safetensors`.
 *
 * Layout: u64 little-endian N; N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...,
 * "__metadata__": {"key": "text"}}; then the tensors' bytes, row-major, little-endian, without gaps or overlaps
 * (https://huggingface.co/docs/safetensors, "Format"). Everything is checked when a file is opened: bounds, sizes
 * against shapes, duplicates, overlaps, gaps. Files are replaced atomically. */
#pragma once
#include "tb_tensor.h"

typedef struct tb_safetensors tb_safetensors;

typedef struct tb_safetensors_entry {
    char *name;
    tb_dtype dtype;
    int rank;
    int64_t dims[TB_MAX_RANK];
    size_t begin, end; /* bytes, from the end of the header */
} tb_safetensors_entry;

/* Reads and checks the header; data are read when asked for. */
TB_MUST_USE tb_status tb_safetensors_open(const char *path, tb_safetensors **out);
void tb_safetensors_close(tb_safetensors *f); /* NULL is accepted */
int tb_safetensors_count(const tb_safetensors *f);
const tb_safetensors_entry *tb_safetensors_at(const tb_safetensors *f, int index); /* in file order of the data */
/* NULL with the record filled; the sentence holds the nearest name. */
const tb_safetensors_entry *tb_safetensors_find(const tb_safetensors *f, const char *name);
const char *tb_safetensors_note(const tb_safetensors *f, const char *key); /* of __metadata__; NULL when absent */

/* `host` takes end - begin bytes. */
TB_MUST_USE tb_status tb_safetensors_read(const tb_safetensors *f, const tb_safetensors_entry *e, void *host);
/* Whether the file holds what `into` can take: name, dtype and shape must agree. */
TB_MUST_USE tb_status tb_safetensors_check(const tb_safetensors *f, const char *name, const tb_tensor *into);
/* Into an existing contiguous tensor, after that check. */
TB_MUST_USE tb_status tb_safetensors_load(const tb_safetensors *f, const char *name, tb_tensor *into);

typedef struct tb_safetensors_item {
    const char *name;
    tb_tensor *tensor;
} tb_safetensors_item;
typedef struct tb_safetensors_pair {
    const char *key, *text;
} tb_safetensors_pair;
/* Writes the items in this order. Names must be distinct, not empty and not "__metadata__". */
TB_MUST_USE tb_status tb_safetensors_save(const char *path, int n, const tb_safetensors_item *items, int n_notes,
                                          const tb_safetensors_pair *notes);
