/* Results as they lie on disk: an HDF5 file, a journal, or a run's folder of both. */
#pragma once
#include "record.h"

typedef struct tb_results {
    tb_result **at;    /* by name of the files */
    int n;
} tb_results;

/* Journals of one point are read together and summarised. Files that cannot be read are told on stderr. */
TB_MUST_USE tb_status tb_results_read(const char *path, tb_results *out);
void tb_results_free(tb_results *results);
