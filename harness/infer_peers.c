/* Which peers there are, and one turn of them. */
#include "infer_peers.h"
#include "arms.h"
#include "tb_log.h"
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Each with the arm that does what it does. */
static const struct {
    const char *name, *script, *form, *fact, *time;
    int arm;
    const char *ratio; /* its time over the arm's */
} peers[TB_INFER_PEERS] = {
    {"torch", "torch_infer.py", "eager", "peer/torch", "peer_us", TB_ARM_INT8, "e3_over_peer"},
    {"torch-best", "torch_infer.py", "best", "peer/torch-best", "torch_best_us", TB_ARM_FUSED, "e2_over_torch_best"},
    {"torch-int8", "torch_infer.py", "int8", "peer/torch-int8", "torch_int8_us", TB_ARM_INT8, "e3_over_torch_int8"},
    {"ort", "ort_infer.py", "f32", "peer/ort", "ort_us", TB_ARM_FUSED, "e2_over_ort"},
    {"ort-int8", "ort_infer.py", "int8", "peer/ort-int8", "ort_int8_us", TB_ARM_INT8, "e3_over_ort_int8"},
};

tb_status tb_infer_peers_parse(const char *names, bool asked[TB_INFER_PEERS])
{
    for (int i = 0; i < TB_INFER_PEERS; i++) asked[i] = false;
    for (const char *at = names; *at;) {
        size_t n = strcspn(at, ",");
        int i = 0;
        while (i < TB_INFER_PEERS && !(strlen(peers[i].name) == n && strncmp(peers[i].name, at, n) == 0)) i++;
        if (i == TB_INFER_PEERS)
            return TB_FAIL(TB_ERR_CONFIG,
                           "infer: no peer '%.*s' in params.peers; there are torch, torch-best, "
                           "torch-int8, ort, ort-int8, with commas between them",
                           (int)n, at);
        asked[i] = true;
        at += n + (at[n] == ',');
    }
    return TB_OK;
}

static void start(const tb_run *run, int i, char *path, tb_peer **out)
{
    char rows[32], threads[32], version[64];
    snprintf(rows, sizeof rows, "%lld", (long long)tb_param_int(run, "batch"));
    snprintf(threads, sizeof threads, "%d", run->threads);
    char *args[] = {path, rows, threads, (char *)(uintptr_t)peers[i].form, NULL};
    if (tb_peer_start(peers[i].script, args, out, version) == TB_OK) {
        tb_peer_rest(*out);
    } else {
        tb_log_write(TB_LOG_WARN, "no peer %s, its column stays empty: %s", peers[i].name, tb_error_message());
        tb_error_clear();
        tb_peer_stop(*out);
        *out = NULL;
        snprintf(version, sizeof version, "none");
    }
    tb_emit_fact(run, peers[i].fact, version);
}

void tb_infer_peers_start(const tb_run *run, const bool asked[TB_INFER_PEERS], char *path, tb_infer_peers *out)
{
    for (int i = 0; i < TB_INFER_PEERS; i++)
        if (asked[i]) start(run, i, path, &out->at[i]);
}

tb_status tb_infer_peers_run(const tb_run *run, tb_infer_peers *p, int64_t iteration, const double *us,
                             double *torch_us)
{
    *torch_us = 0;
    for (int turn = 0; turn < TB_INFER_PEERS; turn++) {
        int i = (int)((turn + iteration) % TB_INFER_PEERS);
        double ms;
        if (!p->at[i]) continue;
        TB_TRY(tb_peer_iterate(p->at[i], &ms));
        tb_peer_rest(p->at[i]);
        tb_emit_sample(run, peers[i].time, iteration, ms * 1e3);
        tb_emit_sample(run, peers[i].ratio, iteration, ms * 1e3 / us[peers[i].arm]);
        if (i == TB_INFER_TORCH) *torch_us = ms * 1e3;
    }
    return TB_OK;
}

void tb_infer_peers_stop(tb_infer_peers *p)
{
    for (int i = 0; i < TB_INFER_PEERS; i++) tb_peer_stop(p->at[i]);
    *p = (tb_infer_peers){0};
}
