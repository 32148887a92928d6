/* safetensors files: opening, reading tensors on demand, writing. */
#include "safetensors_internal.h"
#include "tb_alloc.h"
#include "tb_file.h"
#include "tb_text.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are stored little-endian, as they are in memory");

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100 << 20 }; /* the format's own limit */

struct tb_safetensors {
    int fd;
    char *path;
    size_t data_at;
    st_header header;
};

static tb_status read_at(const tb_safetensors *f, size_t at, void *to, size_t bytes)
{
    for (char *p = to; bytes > 0;) {
        ssize_t n = pread(f->fd, p, bytes, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return TB_FAIL(TB_ERR_IO, "%s: %s", f->path, strerror(errno));
        if (n == 0) return TB_FAIL(TB_ERR_IO, "%s: the file became shorter while it was read", f->path);
        p += n;
        at += (size_t)n;
        bytes -= (size_t)n;
    }
    return TB_OK;
}

static tb_status load_header(tb_safetensors *f)
{
    struct stat info;
    uint64_t n;
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0 || fstat(f->fd, &info) != 0)
        return TB_FAIL(errno == ENOENT ? TB_ERR_NOT_FOUND : TB_ERR_IO, "%s: %s", f->path, strerror(errno));
    size_t size = (size_t)info.st_size;
    if (!S_ISREG(info.st_mode) || size < LENGTH_BYTES)
        return TB_FAIL(TB_ERR_PARSE, "%s: this is no safetensors file (shorter than its 8-byte length)", f->path);
    TB_TRY(read_at(f, 0, &n, sizeof n));
    if (n > MAX_HEADER_BYTES || n > size - LENGTH_BYTES)
        return TB_FAIL(TB_ERR_PARSE,
                       "%s: the safetensors header claims %llu bytes of a file of %zu: truncated or another format",
                       f->path, (unsigned long long)n, size);
    char *json = tb_calloc(n + 1, 1);
    if (!json) return TB_ERR_OOM;
    f->data_at = LENGTH_BYTES + n;
    tb_status st = read_at(f, LENGTH_BYTES, json, n);
    if (st == TB_OK) st = tbi_st_header_parse(json, n, size - f->data_at, f->path, &f->header);
    tb_free(json);
    return st;
}

tb_status tb_safetensors_open(const char *path, tb_safetensors **out)
{
    *out = NULL;
    tb_safetensors *f = tb_calloc(1, sizeof *f);
    if (!f) return TB_ERR_OOM;
    f->fd = -1;
    f->path = tb_strdup(path);
    tb_status st = f->path ? load_header(f) : TB_ERR_OOM;
    if (st == TB_OK) *out = f;
    else tb_safetensors_close(f);
    return st;
}

void tb_safetensors_close(tb_safetensors *f)
{
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    tbi_st_header_free(&f->header);
    tb_free(f->path);
    tb_free(f);
}

int tb_safetensors_count(const tb_safetensors *f) { return f->header.n_entries; }

const tb_safetensors_entry *tb_safetensors_at(const tb_safetensors *f, int index) { return &f->header.entries[index]; }

static const char *nearest_name(const tb_safetensors *f, const char *name)
{
    const char **names = tb_calloc((size_t)f->header.n_entries + 1, sizeof *names);
    for (int i = 0; names && i < f->header.n_entries; i++) names[i] = f->header.entries[i].name;
    const char *near = names ? tb_nearest(name, names, f->header.n_entries) : NULL;
    tb_free(names);
    return near;
}

const tb_safetensors_entry *tb_safetensors_find(const tb_safetensors *f, const char *name)
{
    for (int i = 0; i < f->header.n_entries; i++)
        if (strcmp(f->header.entries[i].name, name) == 0) return &f->header.entries[i];
    const char *near = nearest_name(f, name);
    (void)TB_FAIL(TB_ERR_NOT_FOUND, "%s: holds no tensor '%s'%s%s%s", f->path, name, near ? "; nearest: '" : "",
                  near ? near : "", near ? "'" : "");
    return NULL;
}

const char *tb_safetensors_note(const tb_safetensors *f, const char *key)
{
    for (int i = 0; i < f->header.n_notes; i++)
        if (strcmp(f->header.notes[i].key, key) == 0) return f->header.notes[i].text;
    return NULL;
}

tb_status tb_safetensors_read(const tb_safetensors *f, const tb_safetensors_entry *e, void *host)
{
    return read_at(f, f->data_at + e->begin, host, e->end - e->begin);
}

/* The entry of that name if `into` can take it, else NULL with the record filled. */
static const tb_safetensors_entry *entry_for(const tb_safetensors *f, const char *name, const tb_tensor *into)
{
    const tb_safetensors_entry *e = tb_safetensors_find(f, name);
    if (!e) return NULL;
    int rank = tb_tensor_rank(into);
    if (e->dtype == tb_tensor_dtype(into) && e->rank == rank &&
        memcmp(e->dims, tb_tensor_dims(into), (size_t)rank * sizeof *e->dims) == 0)
        return e;
    (void)TB_FAIL(TB_ERR_SHAPE, "%s: tensor '%s' is %s %s, wanted is %s %s", f->path, name, tb_dtype_name(e->dtype),
                  tb_dims_text(e->rank, e->dims), tb_dtype_name(tb_tensor_dtype(into)), tb_shape_text(into));
    return NULL;
}

tb_status tb_safetensors_check(const tb_safetensors *f, const char *name, const tb_tensor *into)
{
    return entry_for(f, name, into) ? TB_OK : tb_error_code();
}

tb_status tb_safetensors_load(const tb_safetensors *f, const char *name, tb_tensor *into)
{
    const tb_safetensors_entry *e = entry_for(f, name, into);
    if (!e) return tb_error_code();
    void *host = tb_calloc(e->end - e->begin, 1);
    if (!host) return TB_ERR_OOM;
    tb_status st = tb_safetensors_read(f, e, host);
    if (st == TB_OK) st = tb_tensor_write(into, host, e->end - e->begin);
    tb_free(host);
    return st;
}

/* ---- writing ---- */
static void add_shape(tb_json *j, const tb_tensor *t)
{
    tb_json_key(j, "shape");
    tb_json_open(j, '[');
    for (int d = 0; d < tb_tensor_rank(t); d++) tb_json_int(j, tb_tensor_dim(t, d));
    tb_json_close(j, ']');
}

static void add_header(tb_text *text, int n, const tb_safetensors_item *items, int n_notes,
                       const tb_safetensors_pair *notes)
{
    tb_json j = {.to = text};
    int64_t at = 0;
    tb_json_open(&j, '{');
    if (n_notes) {
        tb_json_key(&j, "__metadata__");
        tb_json_open(&j, '{');
        for (int i = 0; i < n_notes; i++) {
            tb_json_put_str(&j, notes[i].key, notes[i].text);
        }
        tb_json_close(&j, '}');
    }
    for (int i = 0; i < n; i++) {
        int64_t bytes = (int64_t)tb_tensor_bytes(items[i].tensor);
        tb_json_key(&j, items[i].name);
        tb_json_open(&j, '{');
        tb_json_put_str(&j, "dtype", tbi_st_dtype(tb_tensor_dtype(items[i].tensor)));
        add_shape(&j, items[i].tensor);
        tb_json_key(&j, "data_offsets");
        tb_json_open(&j, '[');
        tb_json_int(&j, at);
        tb_json_int(&j, at += bytes);
        tb_json_close(&j, ']');
        tb_json_close(&j, '}');
    }
    tb_json_close(&j, '}');
    while (text->size % 8 && !text->failed) tb_text_add_bytes(text, " ", 1); /* data start aligned */
}

static tb_status check_names(const char *path, int n, const tb_safetensors_item *items)
{
    for (int i = 0; i < n; i++) {
        if (!items[i].name[0] || strcmp(items[i].name, "__metadata__") == 0)
            return TB_FAIL(TB_ERR_INVALID, "%s: a tensor cannot be named '%s'", path, items[i].name);
        if (tb_is_poison(items[i].tensor))
            return TB_FAIL(TB_ERR_INVALID, "%s: tensor '%s' is the result of an op that failed", path, items[i].name);
        for (int k = 0; k < i; k++)
            if (strcmp(items[i].name, items[k].name) == 0)
                return TB_FAIL(TB_ERR_INVALID, "%s: two tensors are named '%s'", path, items[i].name);
    }
    return TB_OK;
}

static tb_status write_data(tb_file_writer *w, int n, const tb_safetensors_item *items)
{
    size_t most = 0;
    for (int i = 0; i < n; i++)
        if (tb_tensor_bytes(items[i].tensor) > most) most = tb_tensor_bytes(items[i].tensor);
    void *host = tb_calloc(most, 1);
    if (!host) return TB_ERR_OOM;
    tb_status st = TB_OK;
    for (int i = 0; st == TB_OK && i < n; i++) {
        size_t bytes = tb_tensor_bytes(items[i].tensor);
        st = tb_tensor_read(items[i].tensor, host, bytes);
        if (st == TB_OK) st = tb_file_write(w, host, bytes);
    }
    tb_free(host);
    return st;
}

tb_status tb_safetensors_save(const char *path, int n, const tb_safetensors_item *items, int n_notes,
                              const tb_safetensors_pair *notes)
{
    tb_file_writer *w = NULL;
    tb_text header = {0};
    TB_TRY(check_names(path, n, items));
    add_header(&header, n, items, n_notes, notes);
    tb_status st = header.failed ? TB_ERR_OOM : tb_file_create(path, &w);
    uint64_t length = header.size;
    if (st == TB_OK) st = tb_file_write(w, &length, sizeof length);
    if (st == TB_OK) st = tb_file_write(w, header.data, header.size);
    if (st == TB_OK) st = write_data(w, n, items);
    tb_text_free(&header);
    if (st == TB_OK) return tb_file_commit(w);
    tb_file_discard(w);
    return st;
}
