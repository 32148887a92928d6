/* From a trained model to a graph that can be deployed, and what the graph is worth on the test data. */
#pragma once
#include "tb_data.h"
#include "tb_exec.h"
#include "tb_model.h"

/* Makes the model that a checkpoint, or a file of tb_weights_save(), names and loads its parameters, in the current
 * context. */
TB_MUST_USE tb_status tb_deploy_open(const char *checkpoint, tb_model **out);

enum { TB_DEPLOY_ROWS = 1 << 20 }; /* of an artefact's batch at most */

/* Names of artefacts stand in their graph's text and in addresses: letters, digits, '_', '-', '.', at most 63. */
TB_MUST_USE tb_status tb_deploy_check_name(const char *name);

/* The data set that --data names; *name NULL becomes the one that the model can read, fashion-mnist or jargon. */
TB_MUST_USE tb_status tb_deploy_data(const tb_model *m, const char **name, tb_dataset **out);

/* The forward pass in evaluation mode with preprocessing in the graph. Images: input "image" u8[N, H*W], pixels 0..255;
 * text: input "tokens" u8[N, context]. Output "logits" f32. Symbol N. */
TB_MUST_USE tb_status tb_deploy_capture(tb_model *m, const tb_dataset *data, int64_t context, const char *name,
                                        tb_graph **out);

/* One step of generation: inputs "token" u8[N], "place" f32[N] (a whole number), "cache.K" f32[N, ..]; outputs "logits"
 * f32[N, classes] and "cache.K.next". `capacity`: tokens of a row at most, not above the model's context. */
TB_MUST_USE tb_status tb_deploy_capture_step(tb_model *m, int64_t capacity, const char *name, tb_graph **out);

/* The ops of that step: token u8[N], place f32[N], cache[tb_model_caches(m)], each replaced by what becomes of it, in
 * the current scope. Logits [N, classes]; poison when an op failed. */
tb_tensor *tb_deploy_step(tb_model *m, int64_t capacity, tb_tensor *token, tb_tensor *place, tb_tensor **cache);

/* Share of the test images whose most likely class is right, in batches of `batch`; predictions[rows] (may be NULL)
 * gets the classes, for paired comparisons. */
TB_MUST_USE tb_status tb_deploy_accuracy(tb_session *s, const tb_dataset *data, int64_t batch, uint8_t *predictions,
                                         double *accuracy);

/* Names of the classes of a known data set; NULL and 0 for others. */
const char *const *tb_deploy_labels(const tb_dataset *data, int *n);
/* What the tokens of a text are, as tb_artefact_info says; NULL for images. */
const char *tb_deploy_vocabulary(const tb_dataset *data);
