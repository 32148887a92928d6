/* Journals: whole records, written at a known offset, checked when read (journal.h). */
#include "journal.h"
#include "journal_codec.h"
#include "tb_alloc.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct tb_journal {
    int fd; /* -1: memory */
    char *path;
    tb_text bytes; /* memory: all since the last drain; file: the record being written */
    off_t end;     /* of the file's whole records */
    char *failure; /* the sentence of the first failed write */
};

static tb_status read_whole(int fd, const char *path, tb_store *store, const uint8_t **data, size_t *bytes)
{
    struct stat info;
    if (fstat(fd, &info)) return TB_FAIL(TB_ERR_IO, "%s: %s", path, strerror(errno));
    uint8_t *all = tb_store_add(store, (size_t)info.st_size);
    if (!all) return tb_error_code();
    size_t have = 0;
    while (have < (size_t)info.st_size) {
        ssize_t got = pread(fd, all + have, (size_t)info.st_size - have, (off_t)have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return TB_FAIL(TB_ERR_IO, "%s: %s", path, strerror(errno));
        if (got == 0) break; /* it shrank */
        have += (size_t)got;
    }
    *data = all;
    *bytes = have;
    return TB_OK;
}

static tb_status check_is_journal(const char *path, const uint8_t *data, size_t bytes)
{
    tb_record_scan scan = {.data = data, .bytes = bytes};
    while (tb_record_next(&scan))
        if (scan.kind == TB_RECORD_POINT) return TB_OK;
    if (bytes > 3 && !memcmp(data, "TBJ", 3) && data[3] != '1')
        return TB_FAIL(TB_ERR_PARSE, "%s: a journal of format %c; this program reads format 1", path,
                       data[3]);
    return TB_FAIL(TB_ERR_PARSE, "%s: not a journal, or cut off inside its first record", path);
}

tb_status tb_journal_read(const char *path, tb_launch **out)
{
    *out = NULL;
    tb_status st = TB_OK;
    tb_launch *launch = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return TB_FAIL(errno == ENOENT ? TB_ERR_NOT_FOUND : TB_ERR_IO, "%s: %s", path, strerror(errno));
    TB_GO(tb_launch_create(&launch));
    tb_record_scan scan = {0};
    TB_GO(read_whole(fd, path, &launch->store, &scan.data, &scan.bytes));
    TB_GO(check_is_journal(path, scan.data, scan.bytes));
    while (tb_record_next(&scan))
        TB_GO(tb_record_decode(scan.kind, scan.payload, scan.payload_bytes, launch));
    launch->torn_bytes = (int64_t)(scan.bytes - scan.end);
    launch->damaged_records = scan.damaged;
    *out = launch;
    launch = NULL;
cleanup:
    close(fd);
    tb_launch_free(launch);
    return st;
}

static tb_status journal_new(const char *path, int fd, tb_journal **out)
{
    tb_journal *j = tb_calloc(1, sizeof *j);
    char *copy = tb_strdup(path);
    *out = NULL;
    if (!j || !copy) {
        if (fd >= 0) close(fd);
        tb_free(j);
        tb_free(copy);
        return TB_ERR_OOM;
    }
    *j = (tb_journal){.fd = fd, .path = copy};
    *out = j;
    return TB_OK;
}

static void journal_free(tb_journal *j)
{
    if (j->fd >= 0) close(j->fd); /* which releases the lock */
    tb_text_free(&j->bytes);
    tb_free(j->failure);
    tb_free(j->path);
    tb_free(j);
}

static tb_status fail_for_good(tb_journal *j, const char *what, int error)
{
    tb_status st = TB_FAIL(TB_ERR_IO, "%s: %s: %s%s", j->path, what, strerror(error),
                           error == ENOSPC || error == EDQUOT || error == EFBIG
                               ? "; make room and use --resume, all that was written before is kept"
                               : "");
    j->failure = tb_strdup(tb_error_message());
    return st;
}

static tb_status write_out(tb_journal *j, const char *data, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = pwrite(j->fd, data + done, bytes - done, j->end + (off_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            int error = errno;
            if (ftruncate(j->fd, j->end)) error = errno; /* the reader would also pass over the torn record */
            return fail_for_good(j, "write", error);
        }
        done += (size_t)n;
    }
    j->end += (off_t)bytes;
    return TB_OK;
}

static tb_status add(tb_journal *j, tb_record_kind kind, const void *record)
{
    if (j->failure) return TB_FAIL(TB_ERR_IO, "%s", j->failure);
    size_t before = j->fd < 0 ? j->bytes.size : 0;
    j->bytes.size = before;
    tb_status st = tb_record_encode(kind, record, &j->bytes);
    if (st != TB_OK) {
        if (!j->bytes.failed) j->bytes.size = before;
        return st;
    }
    return j->fd < 0 ? TB_OK : write_out(j, j->bytes.data, j->bytes.size);
}

static tb_status open_locked(const char *path, int flags, int *fd)
{
    *fd = open(path, flags | O_RDWR | O_CLOEXEC, 0644);
    if (*fd < 0) return TB_FAIL(TB_ERR_IO, "%s: %s", path, strerror(errno));
    if (flock(*fd, LOCK_EX | LOCK_NB)) {
        int error = errno;
        close(*fd);
        return error == EWOULDBLOCK ? TB_FAIL(TB_ERR_IO, "%s: another process is writing this journal", path)
                                    : TB_FAIL(TB_ERR_IO, "%s: lock: %s", path, strerror(error));
    }
    return TB_OK;
}

tb_status tb_journal_create(const char *path, const tb_point *point, tb_journal **out)
{
    int fd;
    *out = NULL;
    TB_TRY(open_locked(path, O_CREAT | O_EXCL, &fd));
    tb_journal *j;
    TB_TRY(journal_new(path, fd, &j));
    tb_status st = add(j, TB_RECORD_POINT, point);
    if (st == TB_OK) st = tb_journal_sync(j);
    if (st == TB_OK) {
        *out = j;
    } else {
        unlink(path); /* it holds nothing */
        journal_free(j);
    }
    return st;
}

tb_status tb_journal_open(const char *path, tb_journal **out)
{
    int fd;
    *out = NULL;
    TB_TRY(open_locked(path, 0, &fd));
    tb_status st = TB_OK;
    tb_store store = {0};
    tb_record_scan scan = {0};
    tb_journal *j;
    TB_TRY(journal_new(path, fd, &j));
    TB_GO(read_whole(fd, path, &store, &scan.data, &scan.bytes));
    TB_GO(check_is_journal(path, scan.data, scan.bytes));
    while (tb_record_next(&scan)) continue;
    j->end = (off_t)scan.end;
    if (scan.end < scan.bytes && ftruncate(fd, j->end)) TB_GO(fail_for_good(j, "truncate", errno));
    *out = j;
    j = NULL;
cleanup:
    if (j) journal_free(j);
    tb_store_free(&store);
    return st;
}

tb_status tb_journal_memory(tb_journal **out) { return journal_new("memory", -1, out); }

tb_status tb_journal_sync(tb_journal *j)
{
    if (j->failure) return TB_FAIL(TB_ERR_IO, "%s", j->failure);
    if (j->fd >= 0 && fdatasync(j->fd)) return fail_for_good(j, "fdatasync", errno);
    return TB_OK;
}

tb_status tb_journal_close(tb_journal *j)
{
    if (!j) return TB_OK;
    tb_status st = tb_journal_sync(j);
    journal_free(j);
    return st;
}

tb_status tb_journal_fact(tb_journal *j, const tb_fact *r) { return add(j, TB_RECORD_FACT, r); }
tb_status tb_journal_metric(tb_journal *j, const tb_metric *r) { return add(j, TB_RECORD_METRIC, r); }
tb_status tb_journal_samples(tb_journal *j, const tb_samples *r) { return add(j, TB_RECORD_SAMPLES, r); }
tb_status tb_journal_value(tb_journal *j, const tb_value *r) { return add(j, TB_RECORD_VALUE, r); }
tb_status tb_journal_artefact(tb_journal *j, const tb_artefact *r) { return add(j, TB_RECORD_ARTEFACT, r); }
tb_status tb_journal_event(tb_journal *j, const tb_event *r) { return add(j, TB_RECORD_EVENT, r); }
tb_status tb_journal_check(tb_journal *j, const tb_check *r) { return add(j, TB_RECORD_CHECK, r); }
tb_status tb_journal_end(tb_journal *j, const tb_end *r) { return add(j, TB_RECORD_END, r); }

void tb_journal_bytes(const tb_journal *j, const void **data, size_t *bytes)
{
    *data = j->bytes.data;
    *bytes = j->fd < 0 ? j->bytes.size : 0;
}

void tb_journal_drain(tb_journal *j)
{
    if (j->fd < 0) j->bytes.size = 0;
}

tb_status tb_journal_append(tb_journal *j, const void *data, size_t bytes)
{
    if (j->failure) return TB_FAIL(TB_ERR_IO, "%s", j->failure);
    if (bytes == 0) return TB_OK;
    tb_record_scan scan = {.data = data, .bytes = bytes};
    while (tb_record_next(&scan)) continue;
    if (scan.damaged || scan.end != bytes)
        return TB_FAIL(TB_ERR_INVALID, "%s: %zu bytes to append are not whole records", j->path, bytes);
    if (j->fd >= 0) return write_out(j, data, bytes);
    tb_text_add_bytes(&j->bytes, data, bytes);
    return j->bytes.failed ? tb_error_code() : TB_OK;
}
