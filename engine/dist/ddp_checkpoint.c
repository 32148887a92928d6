/* Checkpoints of an optimizer that is shared out over the ranks.
 *
 * A rank writes the state of the ranges that it owns, each under its parameter and first element, so what a file holds
 * does not depend on who wrote it: ranks of another number read whatever overlaps their own ranges. The manifest, by
 * rank 0, has what all ranks have (parameters, running averages, the order of gradients, the step) and the hash of each
 * shard. It is replaced last, and shards carry their step's name: a save that is cut off leaves the checkpoint before
 * it whole. */
#include "ddp_internal.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_hash.h"
#include "tb_safetensors.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NOTE_BYTES = 256, NAME_BYTES = 320 };
static const char order_name[] = "ddp/order";
static const char *const state_names[] = {"m", "v"};

/* Consecutive elements of one parameter whose state lies here, from u->state[..][state]. */
typedef struct piece {
    int slot;
    int64_t first, n, state;
} piece;

/* What a rank owns, range by range; returns how many. `out` NULL: counts. */
static int pieces_of(const tb_ddp *d, piece *out)
{
    const ddp_update *u = d->update;
    int n = 0;
    for (int r = 0; r < u->n_ranges; r++) {
        int64_t begin = u->ranges[r].first, end = begin + u->ranges[r].n;
        for (int i = 0; i < d->n; i++) {
            const slot *s = &d->slots[i];
            int64_t from = s->offset > begin ? s->offset : begin;
            int64_t to = s->offset + s->numel < end ? s->offset + s->numel : end;
            if (s->rows > 1 || from >= to) continue;
            if (out) out[n] = (piece){i, from - s->offset, to - from, u->ranges[r].state + from - begin};
            n++;
        }
    }
    return n;
}

static tb_status list_pieces(const tb_ddp *d, int *n, piece **out)
{
    *n = pieces_of(d, NULL);
    *out = tb_calloc((size_t)*n + 1, sizeof **out);
    if (!*out) return TB_ERR_OOM;
    pieces_of(d, *out);
    return TB_OK;
}

static const char *name_of(const tb_ddp *d, int slot_index) { return tb_params_at(d->cfg.params, slot_index)->name; }

static void describe_optimizer(const tb_ddp *d, char out[NOTE_BYTES])
{
    const tb_optim_config *o = &d->update->cfg;
    static const char *const kinds[] = {"sgd", "adam", "adamw"};
    snprintf(out, NOTE_BYTES, "%s decay=%.17g momentum=%.17g nesterov=%d beta=%.17g,%.17g eps=%.17g", kinds[o->kind],
             o->decay, o->momentum, o->nesterov, o->beta1, o->beta2, o->eps);
}

/* ---- files ---- */
static char *manifest_path(const char *folder) { return tb_asprintf("%s/manifest.safetensors", folder); }

static char *shard_path(const char *folder, int64_t step, int shard, int shards)
{
    return tb_asprintf("%s/step-%lld-shard-%d-of-%d.safetensors", folder, (long long)step, shard, shards);
}

/* Items whose names and tensors are their own. */
typedef struct items {
    int n;
    tb_safetensors_item *at;
} items;

static tb_status open_items(items *list, int room)
{
    *list = (items){.at = tb_calloc((size_t)room + 1, sizeof *list->at)};
    return list->at ? TB_OK : TB_ERR_OOM;
}

static tb_status add_item(items *list, char *name, tb_tensor *tensor)
{
    if (!name) return TB_ERR_OOM;
    list->at[list->n++] = (tb_safetensors_item){name, tensor};
    return tb_ctx_take_error(tb_ctx_current());
}

static void close_items(items *list)
{
    for (int i = 0; i < list->n; i++) tb_free((char *)(uintptr_t)list->at[i].name);
    tb_free(list->at);
}

/* ---- saving ---- */
static tb_status write_shard(const tb_ddp *d, const char *path, char hash[TB_SHA256_HEX])
{
    const ddp_update *u = d->update;
    items list = {0};
    piece *pieces = NULL;
    int n = 0;
    tb_scope *scope = tb_scope_open();
    tb_status st = list_pieces(d, &n, &pieces);
    if (st == TB_OK) st = open_items(&list, n * u->n_states);
    for (int i = 0; st == TB_OK && i < n * u->n_states; i++) {
        const piece *p = &pieces[i / u->n_states];
        int k = i % u->n_states;
        tb_tensor *part = tb_tensor_wrap(TB_F32, 1, &p->n, u->state[k] + p->state);
        st = add_item(&list, tb_asprintf("optim/%s/%s/%lld", name_of(d, p->slot), state_names[k], (long long)p->first),
                      part);
    }
    if (st == TB_OK) st = tb_safetensors_save(path, list.n, list.at, 0, NULL);
    if (st == TB_OK) st = tb_sha256_of_file(path, hash);
    tb_scope_close(scope);
    close_items(&list);
    tb_free(pieces);
    return st;
}

/* hashes: [ranks][TB_SHA256_HEX] */
static tb_status write_manifest(const tb_ddp *d, const char *path, const char *hashes)
{
    const ddp_update *u = d->update;
    int ranks = tb_comm_size(d->cfg.comm);
    char optimizer[NOTE_BYTES], step[32], shards[32];
    tb_safetensors_pair *notes = tb_calloc((size_t)ranks + 3, sizeof *notes);
    char(*keys)[32] = tb_calloc((size_t)ranks, sizeof *keys);
    int64_t n = d->n;
    int n_buffers = tb_params_buffer_count(d->cfg.params);
    items list = {0};
    tb_scope *scope = tb_scope_open();
    tb_status st = notes && keys ? open_items(&list, d->n * (1 + u->n_states) + n_buffers + 1) : TB_ERR_OOM;
    if (st == TB_OK) st = add_item(&list, tb_strdup(order_name), tb_tensor_from(TB_I32, 1, &n, d->order));
    for (int i = 0; st == TB_OK && i < d->n; i++) st = add_item(&list, tb_strdup(name_of(d, i)), d->slots[i].leaf);
    for (int i = 0; st == TB_OK && i < n_buffers; i++) {
        const tb_param *buffer = tb_params_buffer_at(d->cfg.params, i);
        st = add_item(&list, tb_strdup(buffer->name), buffer->tensor);
    }
    for (int i = 0; st == TB_OK && i < d->n * u->n_states; i++) {
        if (!u->whole[i]) continue;
        const char *name = name_of(d, i / u->n_states);
        st = add_item(&list, tb_asprintf("optim/%s/%s", name, state_names[i % u->n_states]), u->whole[i]);
    }
    if (st == TB_OK) {
        describe_optimizer(d, optimizer);
        snprintf(step, sizeof step, "%lld", (long long)u->t);
        snprintf(shards, sizeof shards, "%d", ranks);
        notes[0] = (tb_safetensors_pair){"optimizer", optimizer};
        notes[1] = (tb_safetensors_pair){"steps", step};
        notes[2] = (tb_safetensors_pair){"shards", shards};
        for (int r = 0; r < ranks; r++) {
            snprintf(keys[r], sizeof keys[r], "sha256_of_shard_%d", r);
            notes[3 + r] = (tb_safetensors_pair){keys[r], hashes + r * TB_SHA256_HEX};
        }
        st = tb_safetensors_save(path, list.n, list.at, ranks + 3, notes);
    }
    tb_scope_close(scope);
    close_items(&list);
    tb_free(keys);
    tb_free(notes);
    return st;
}

/* Shards of other steps, which no manifest names any more. */
static void remove_old_shards(const char *folder, int64_t step)
{
    char keep[48];
    int n = snprintf(keep, sizeof keep, "step-%lld-shard-", (long long)step);
    DIR *dir = opendir(folder);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        if (strncmp(e->d_name, "step-", 5) != 0 || strncmp(e->d_name, keep, (size_t)n) == 0) continue;
        char *path = tb_asprintf("%s/%s", folder, e->d_name);
        if (path) unlink(path);
        tb_free(path);
    }
    if (dir) closedir(dir);
}

static tb_status must_share_out(const tb_ddp *d)
{
    if (d->update) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "this ddp shares out no optimizer: save the caller's, on one rank");
}

tb_status tb_ddp_save(const tb_ddp *d, const char *folder)
{
    tb_comm *c = d->cfg.comm;
    bool first = tb_comm_rank(c) == 0;
    char mine[TB_SHA256_HEX] = "";
    tb_status st = must_share_out(d);
    if (st != TB_OK) return st;
    if (!d->has_seen) return TB_FAIL(TB_ERR_INVALID, "ddp: there is no optimizer state before the first step");
    char *hashes = tb_calloc((size_t)tb_comm_size(c), TB_SHA256_HEX), *manifest = manifest_path(folder);
    char *shard = shard_path(folder, d->update->t, tb_comm_rank(c), tb_comm_size(c));
    if (!hashes || !shard || !manifest)
        st = TB_ERR_OOM;
    else if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        st = TB_FAIL(TB_ERR_IO, "%s: %s", folder, strerror(errno));
    if (st == TB_OK) st = write_shard(d, shard, mine);
    st = tb_comm_agree(c, st);
    if (st == TB_OK) st = tb_comm_allgather(c, mine, hashes, TB_SHA256_HEX, NULL, NULL);
    if (st == TB_OK) st = tb_comm_agree(c, first ? write_manifest(d, manifest, hashes) : TB_OK);
    if (st == TB_OK && first) remove_old_shards(folder, d->update->t);
    tb_free(manifest);
    tb_free(shard);
    tb_free(hashes);
    return st;
}

/* ---- loading ---- */
static tb_status note_int(const tb_safetensors *f, const char *path, const char *key, int64_t least, int64_t *out)
{
    const char *text = tb_safetensors_note(f, key);
    char *end = NULL;
    *out = text ? strtoll(text, &end, 10) : 0;
    if (text && end != text && !*end && *out >= least) return TB_OK;
    return TB_FAIL(TB_ERR_PARSE, "%s: this is no manifest of shards ('%s' is missing or no number)", path, key);
}

static tb_status read_order(const tb_ddp *d, const tb_safetensors *f, const char *path, int *order)
{
    const tb_safetensors_entry *e = tb_safetensors_find(f, order_name);
    if (!e) return tb_error_code();
    if (e->dtype != TB_I32 || e->end - e->begin != (size_t)d->n * sizeof *order)
        return TB_FAIL(TB_ERR_CONFIG, "%s: is of another model: its order is not of %d parameters", path, d->n);
    TB_TRY(tb_safetensors_read(f, e, order));
    for (int i = 0; i < d->n; i++) { /* each once */
        bool found = false;
        for (int k = 0; k < d->n; k++) found |= order[k] == i;
        if (!found) return TB_FAIL(TB_ERR_PARSE, "%s: '%s' lacks parameter %d", path, order_name, i);
    }
    return TB_OK;
}

/* Parameters, and the layout that goes with their order; state is empty then. */
static tb_status read_manifest(tb_ddp *d, const tb_safetensors *f, const char *path, int64_t *shards)
{
    ddp_update *u = d->update;
    char optimizer[NOTE_BYTES];
    const char *theirs = tb_safetensors_note(f, "optimizer");
    int *order = tb_calloc((size_t)d->n + 1, sizeof *order);
    tb_status st = order ? TB_OK : TB_ERR_OOM;
    describe_optimizer(d, optimizer);
    if (st == TB_OK && (!theirs || strcmp(theirs, optimizer) != 0))
        st = TB_FAIL(TB_ERR_CONFIG, "%s: cannot go on: its optimizer is '%s', this run's is '%s'", path,
                     theirs ? theirs : "(missing)", optimizer);
    if (st == TB_OK) st = note_int(f, path, "steps", 1, &u->t);
    if (st == TB_OK) st = note_int(f, path, "shards", 1, shards);
    if (st == TB_OK) st = read_order(d, f, path, order);
    for (int i = 0; st == TB_OK && i < d->n; i++) st = tb_safetensors_load(f, name_of(d, i), d->slots[i].leaf);
    for (int i = 0; st == TB_OK && i < tb_params_buffer_count(d->cfg.params); i++) {
        const tb_param *buffer = tb_params_buffer_at(d->cfg.params, i);
        st = tb_safetensors_load(f, buffer->name, buffer->tensor);
    }
    if (st == TB_OK) st = tbi_ddp_take_order(d, order);
    if (st == TB_OK) st = tbi_ddp_update_place(d);
    for (int i = 0; st == TB_OK && i < d->n * u->n_states; i++) {
        char name[NAME_BYTES];
        if (!u->whole[i]) continue;
        snprintf(name, sizeof name, "optim/%s/%s", name_of(d, i / u->n_states), state_names[i % u->n_states]);
        st = tb_safetensors_load(f, name, u->whole[i]);
    }
    d->step = u->t - 1;
    tb_free(order);
    return st;
}

/* "optim/fc1.weight/m/4096": of which parameter and state, from which element on. */
static bool parse_name(const tb_ddp *d, const char *name, int *slot_index, int *state, int64_t *first)
{
    for (int i = 0; i < d->n * d->update->n_states; i++) {
        char prefix[NAME_BYTES], *end;
        *slot_index = i / d->update->n_states;
        *state = i % d->update->n_states;
        int n = snprintf(prefix, sizeof prefix, "optim/%s/%s/", name_of(d, *slot_index), state_names[*state]);
        if (strncmp(name, prefix, (size_t)n) != 0) continue;
        *first = strtoll(name + n, &end, 10);
        return end != name + n && !*end && *first >= 0;
    }
    return false;
}

/* What of an entry is this rank's goes to its place; *taken grows by so many elements. */
static tb_status take(tb_ddp *d, const tb_safetensors *f, const tb_safetensors_entry *e, int n_pieces,
                      const piece *pieces, int64_t *taken)
{
    int slot_index, state;
    int64_t first, n = e->rank == 1 ? e->dims[0] : 0;
    float *values = NULL;
    if (e->dtype != TB_F32 || !parse_name(d, e->name, &slot_index, &state, &first))
        return TB_FAIL(TB_ERR_CONFIG, "'%s' is no state of this model's optimizer", e->name);
    for (int i = 0; i < n_pieces; i++) {
        const piece *p = &pieces[i];
        int64_t from = p->first > first ? p->first : first;
        int64_t to = p->first + p->n < first + n ? p->first + p->n : first + n;
        if (p->slot != slot_index || from >= to) continue;
        if (!values) {
            values = tb_calloc((size_t)n, sizeof *values);
            tb_status st = values ? tb_safetensors_read(f, e, values) : TB_ERR_OOM;
            if (st != TB_OK) {
                tb_free(values);
                return st;
            }
        }
        memcpy(d->update->state[state] + p->state + from - p->first, values + (from - first),
               (size_t)(to - from) * sizeof *values);
        *taken += to - from;
    }
    tb_free(values);
    return TB_OK;
}

static tb_status read_shard(tb_ddp *d, const char *path, const char *hash, int n_pieces, const piece *pieces,
                            int64_t *taken)
{
    char found[TB_SHA256_HEX];
    tb_safetensors *f = NULL;
    tb_status st = TB_OK;
    TB_TRY(tb_sha256_of_file(path, found));
    if (!hash || strcmp(hash, found) != 0)
        return TB_FAIL(TB_ERR_PARSE, "%s: is not the shard that the manifest names (its hash differs)", path);
    TB_GO(tb_safetensors_open(path, &f));
    for (int i = 0; i < tb_safetensors_count(f); i++)
        TB_GO(take(d, f, tb_safetensors_at(f, i), n_pieces, pieces, taken));
cleanup:
    if (st != TB_OK && f) tb_error_add("%s", path);
    tb_safetensors_close(f);
    return st;
}

static tb_status read_all(tb_ddp *d, const char *folder)
{
    char *path = manifest_path(folder);
    tb_safetensors *f = NULL;
    piece *pieces = NULL;
    int n = 0;
    int64_t shards = 0, taken = 0, wanted = 0;
    tb_status st = path ? tb_safetensors_open(path, &f) : TB_ERR_OOM;
    if (st == TB_OK) st = read_manifest(d, f, path, &shards);
    if (st == TB_OK) st = list_pieces(d, &n, &pieces);
    for (int i = 0; st == TB_OK && i < n; i++) wanted += pieces[i].n * d->update->n_states;
    for (int r = 0; st == TB_OK && r < shards; r++) {
        char key[32], *shard = shard_path(folder, d->update->t, r, (int)shards);
        snprintf(key, sizeof key, "sha256_of_shard_%d", r);
        st = shard ? read_shard(d, shard, tb_safetensors_note(f, key), n, pieces, &taken) : TB_ERR_OOM;
        tb_free(shard);
    }
    if (st == TB_OK && taken != wanted)
        st = TB_FAIL(TB_ERR_PARSE, "%s: its shards hold %lld elements of state for this rank, which has %lld", path,
                     (long long)taken, (long long)wanted);
    tb_free(pieces);
    tb_safetensors_close(f);
    tb_free(path);
    return st;
}

tb_status tb_ddp_load(tb_ddp *d, const char *folder)
{
    tb_status st = must_share_out(d);
    if (st != TB_OK) return st;
    if (d->step >= 0) return TB_FAIL(TB_ERR_INVALID, "ddp: a checkpoint is loaded before the first step");
    bool recorded = tb_grad_mode(tb_ctx_current(), false);
    st = read_all(d, folder);
    tb_grad_mode(tb_ctx_current(), recorded);
    return tb_comm_agree(d->cfg.comm, st);
}
