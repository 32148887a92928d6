/* Trained weights that points of an experiment share: the first of them trains and writes the file, the
 * others read it. Floats are kept in f16, so that a file stays small enough for a repository; who trained
 * reads them back, so that all points run the same weights. Running averages stay f32. */
#pragma once
#include "tb_model.h"
#include "tb_safetensors.h"

/* What weights depend on besides the model; written into their file and compared with it. */
typedef struct tb_weights_origin {
    const char *training; /* how they were trained, as text */
    const char *data;     /* SHA-256 of the training rows */
} tb_weights_origin;

/* *found is false where there is no file. A file of another model, training or data is an error that tells both.
 * *loss: of the last training step. */
TB_MUST_USE tb_status tb_weights_load(tb_model *m, const char *path, const tb_weights_origin *origin, bool *found,
                                      double *loss);
/* The same of any file with the model's tensors, in f16 or their own dtypes. */
TB_MUST_USE tb_status tb_weights_read(tb_model *m, const tb_safetensors *f);
TB_MUST_USE tb_status tb_weights_save(const tb_model *m, const char *path, const tb_weights_origin *origin,
                                      double loss);
/* A path of the experiments' folder tree: a relative one starts at its root. The caller frees it with
 * tb_free. */
char *tb_weights_path(const char *path);
