/* What the header's reader and the file's reader share. */
#pragma once
#include "tb_safetensors.h"

typedef struct st_note {
    char *key, *text;
} st_note;

/* The parsed header. `data_bytes` follow it in the file. */
typedef struct st_header {
    tb_safetensors_entry *entries;
    int n_entries;
    st_note *notes;
    int n_notes;
} st_header;

/* Parses `bytes` of JSON and checks it against the file: bounds, sizes, duplicates, gaps. Entries come sorted by
 * begin. On failure `h` is empty. `path` is for sentences. */
TB_MUST_USE tb_status tbi_st_header_parse(const char *json, size_t bytes, size_t data_bytes, const char *path,
                                          st_header *h);
void tbi_st_header_free(st_header *h);
const char *tbi_st_dtype(tb_dtype t); /* "F32"; NULL: safetensors has no such dtype */
