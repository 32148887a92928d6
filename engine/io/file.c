/* Whole files: gzip or plain in, atomic replacement out. */
#include "tb_alloc.h"
#include "tb_file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { FIRST_BYTES = 1 << 16 };

static tb_status read_failed(tb_status st, const char *path, const char *package, const char *why)
{
    return package
               ? TB_FAIL(st, "%s: %s; install the Debian package %s (apt-get install %s)", path, why, package, package)
               : TB_FAIL(st, "%s: %s", path, why);
}

static const char *gz_cause(gzFile f)
{
    int code;
    const char *text = gzerror(f, &code);
    if (code == Z_ERRNO) return strerror(errno);
    if (code == Z_BUF_ERROR) return "the file is truncated";
    if (code == Z_DATA_ERROR) return "the compressed data are damaged";
    return code == Z_OK ? NULL : text;
}

tb_status tb_file_read(const char *path, const char *package, uint8_t **data, size_t *bytes)
{
    tb_status st = TB_OK;
    size_t capacity = FIRST_BYTES, size = 0;
    uint8_t *buffer = NULL;
    *data = NULL;
    *bytes = 0;
    gzFile f = gzopen(path, "rb");
    if (!f)
        return read_failed(errno == ENOENT ? TB_ERR_NOT_FOUND : TB_ERR_IO, path, package,
                           strerror(errno ? errno : ENOMEM));
    gzbuffer(f, FIRST_BYTES);
    for (int n = 1; n > 0; size += (size_t)n) {
        if (!buffer || size == capacity) {
            if (buffer) capacity *= 2;
            uint8_t *grown = tb_realloc(buffer, capacity);
            if (!grown) {
                st = TB_ERR_OOM;
                goto cleanup;
            }
            buffer = grown;
        }
        size_t room = capacity - size;
        n = gzread(f, buffer + size, room < (1u << 30) ? (unsigned)room : 1u << 30);
        if (n <= 0 && gz_cause(f)) {
            int code;
            (void)gzerror(f, &code);
            st = read_failed(code == Z_ERRNO ? TB_ERR_IO : TB_ERR_PARSE, path, package, gz_cause(f));
            goto cleanup;
        }
    }
    *data = buffer;
    *bytes = size;
    buffer = NULL;
cleanup:
    gzclose(f);
    tb_free(buffer);
    return st;
}

struct tb_file_writer {
    int fd;
    char *path, *temporary;
};

static tb_status write_failed(const tb_file_writer *w, const char *what)
{
    return TB_FAIL(TB_ERR_IO, "%s: cannot %s: %s", w->temporary, what, strerror(errno));
}

static void writer_free(tb_file_writer *w)
{
    if (w->fd >= 0) close(w->fd);
    tb_free(w->path);
    tb_free(w->temporary);
    tb_free(w);
}

tb_status tb_file_create(const char *path, tb_file_writer **out)
{
    *out = NULL;
    tb_file_writer *w = tb_calloc(1, sizeof *w);
    if (!w) return TB_ERR_OOM;
    w->fd = -1;
    w->path = tb_strdup(path);
    w->temporary = tb_asprintf("%s.tmp-%d", path, (int)getpid());
    tb_status st = w->path && w->temporary ? TB_OK : TB_ERR_OOM;
    if (st == TB_OK && (w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) < 0)
        st = write_failed(w, "create it");
    if (st == TB_OK) *out = w;
    else writer_free(w);
    return st;
}

tb_status tb_file_write(tb_file_writer *w, const void *data, size_t bytes)
{
    for (const char *p = data; bytes > 0;) {
        ssize_t n = write(w->fd, p, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return write_failed(w, "write it");
        p += n;
        bytes -= (size_t)n;
    }
    return TB_OK;
}

/* The rename itself lasts only when the directory is synced, too. */
static tb_status sync_directory(const tb_file_writer *w)
{
    char *slash = strrchr(w->path, '/');
    char *folder = slash ? tb_strndup(w->path, slash == w->path ? 1 : (size_t)(slash - w->path)) : tb_strdup(".");
    if (!folder) return TB_ERR_OOM;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    tb_status st = synced ? TB_OK : TB_FAIL(TB_ERR_IO, "%s: cannot sync the directory: %s", folder, strerror(errno));
    if (fd >= 0) close(fd);
    tb_free(folder);
    return st;
}

tb_status tb_file_commit(tb_file_writer *w)
{
    tb_status st = fsync(w->fd) == 0 ? TB_OK : write_failed(w, "sync it");
    int closed = close(w->fd);
    w->fd = -1;
    if (st == TB_OK && closed != 0) st = write_failed(w, "close it");
    if (st == TB_OK && rename(w->temporary, w->path) != 0) st = write_failed(w, "rename it");
    if (st != TB_OK) {
        unlink(w->temporary);
        writer_free(w);
        return st;
    }
    st = sync_directory(w);
    writer_free(w);
    return st;
}

void tb_file_discard(tb_file_writer *w)
{
    if (!w) return;
    unlink(w->temporary);
    writer_free(w);
}

tb_status tb_file_save(const char *path, const void *data, size_t bytes)
{
    tb_file_writer *w;
    TB_TRY(tb_file_create(path, &w));
    tb_status st = tb_file_write(w, data, bytes);
    if (st == TB_OK) return tb_file_commit(w);
    tb_file_discard(w);
    return st;
}

tb_status tb_file_make_folder(const char *path)
{
    char *part = tb_strdup(path);
    struct stat info;
    tb_status st = part ? TB_OK : TB_ERR_OOM;
    for (char *end = part; st == TB_OK && *end; *end = path[end - part]) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        *end = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            st = TB_FAIL(TB_ERR_IO, "%s: cannot make this folder: %s", part, strerror(errno));
        else if (stat(part, &info) == 0 && !S_ISDIR(info.st_mode))
            st = TB_FAIL(TB_ERR_INVALID, "%s: not a folder", part);
    }
    tb_free(part);
    return st;
}
