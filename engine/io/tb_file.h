/* Files as a whole: reading plain or gzip-compressed contents (the only user of zlib), replacing a file atomically,
 * and the IDX format. A missing, cut or damaged file fails with one sentence that names the path and, where the
 * caller knows it, the Debian package that holds it. */
#pragma once
#include "tb_status.h"
#include <stddef.h>
#include <stdint.h>

/* Reads all of `path` into *data (caller frees with tb_free), decompressing gzip (.gz, dictzip's .dict.dz) by
 * content, not by name. `package` (or NULL) is the Debian package named in the sentence when this fails. */
TB_MUST_USE tb_status tb_file_read(const char *path, const char *package, uint8_t **data, size_t *bytes);

/* A file that appears under its name only when it is complete: written as `path`.tmp-<pid>, synced, renamed. */
typedef struct tb_file_writer tb_file_writer;
TB_MUST_USE tb_status tb_file_create(const char *path, tb_file_writer **out);
TB_MUST_USE tb_status tb_file_write(tb_file_writer *w, const void *data, size_t bytes);
/* Syncs file and directory and renames; frees `w` also when it fails (the old file then stays as it was). */
TB_MUST_USE tb_status tb_file_commit(tb_file_writer *w);
void tb_file_discard(tb_file_writer *w); /* removes the temporary file; NULL is accepted */
/* All three in one: `path` has these bytes, or stays as it was. */
TB_MUST_USE tb_status tb_file_save(const char *path, const void *data, size_t bytes);

/* The folder and those above it, where they are missing; something else of that name is an error. */
TB_MUST_USE tb_status tb_file_make_folder(const char *path);

/* IDX (LeCun's MNIST page): big-endian magic {0, 0, type, rank}, rank x u32 dims, row-major elements. Only unsigned
 * bytes (type 0x08) are read. */
enum { TB_IDX_MAX_RANK = 4 };
typedef struct tb_idx {
    int rank;
    int64_t dims[TB_IDX_MAX_RANK];
    const uint8_t *elements; /* dims[0] * ... * dims[rank - 1], inside `file` */
    uint8_t *file;
} tb_idx;
/* IDX or IDX.gz. The file must be exactly as long as its header says. */
TB_MUST_USE tb_status tb_idx_read(const char *path, const char *package, tb_idx *out);
TB_MUST_USE tb_status tb_idx_parse(const uint8_t *file, size_t bytes, const char *path, tb_idx *out); /* borrows */
void tb_idx_free(tb_idx *idx);
