/* HDF5 result files: one a point, all launches; layout in results/SCHEMA.md. The only user of HDF5.
 * Files are written whole: to `path`.part, fsync, rename. */
#pragma once
#include "record.h"

TB_MUST_USE tb_status tb_h5_write(const char *path, const tb_result *result); /* summaries must be there */
/* Reads all that the file holds; the caller frees with tb_result_free(). */
TB_MUST_USE tb_status tb_h5_read(const char *path, tb_result **out);
void tb_h5_version(char out[16]); /* "1.10.8", of the library that is loaded */
