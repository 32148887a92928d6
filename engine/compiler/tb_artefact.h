/* The deploy artefact: a folder that runs without any training code.
 *
 *   graph.tbir            the compiled graph, preprocessing included
 *   weights.safetensors   its constants
 *   golden.safetensors    inputs and the outputs the graph gave when it was written: the self-check
 *   model.yaml            name, types of inputs and outputs, largest batch, labels, vocabulary, where it came from,
 *                         SHA-256 of the others
 *
 * The graph has one symbol, N (the batch), which is the first dimension of every input and output. */
#pragma once
#include "tb_exec.h"

typedef struct tb_artefact_info {
    char name[64];
    int64_t max_batch;
    int n_labels;              /* of classes; 0 when it is no classifier */
    const char *const *labels; /* as many as the first output's last dimension */
    const char *vocabulary;    /* what tokens are: "bytes" (token t is byte t); NULL: it takes none */
    int n_facts;               /* provenance: "checkpoint/sha256", "data", "accuracy", ... */
    const char *const *facts;  /* key, value, key, value, ... */
} tb_artefact_info;

/* Writes `g` into `dir` (made if missing), runs it on `n_golden` deterministic random rows (u8: 0..255, f32:
 * normal) for the self-check. Borrows `g`. */
TB_MUST_USE tb_status tb_artefact_save(const tb_graph *g, const tb_artefact_info *info, int64_t n_golden,
                                       const char *dir);

typedef struct tb_artefact tb_artefact;
/* Loads the folder and compares its files with their hashes; weights belong to the current context, which must outlive
 * the artefact. */
TB_MUST_USE tb_status tb_artefact_load(const char *dir, tb_artefact **out);
void tb_artefact_free(tb_artefact *a); /* its sessions first; NULL is accepted */
tb_exec *tb_artefact_exec(const tb_artefact *a);
const tb_artefact_info *tb_artefact_info_of(const tb_artefact *a);
/* Runs the golden rows in `s` and compares: differences up to 1e-3 of the largest output pass, since exp and its kin
 * may differ in the last bits from one instruction set to the next. Fails with TB_ERR_PARITY. */
TB_MUST_USE tb_status tb_artefact_check(const tb_artefact *a, tb_session *s);
