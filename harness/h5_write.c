/* Writing a result file (h5.h, results/SCHEMA.md). A writer notes its first failure and goes on doing
 * nothing, so that the code reads like the file; ids that HDF5 refused only make the next call fail. */
#include "h5.h"
#include "record_types.h"
#include "tb_alloc.h"
#include "tb_text.h"
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <libgen.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

typedef struct writer {
    const tb_result *result;
    hid_t file;
    bool failed, no_memory;
} writer;

/* One row of a table: a record and the launch (row of /launches) that it belongs to. */
typedef struct row {
    int64_t launch;
    const char *record;
} row;

static void check(writer *w, herr_t status) { w->failed |= status < 0; }

static void *scratch(writer *w, size_t count, size_t size)
{
    void *block = w->failed ? NULL : tb_calloc(count ? count : 1, size);
    if (!block) w->failed = w->no_memory = true;
    return block;
}

static hid_t text_type(size_t width)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, width ? width : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static hid_t open_group(writer *w, hid_t parent, const char *name)
{
    hid_t group;
    if (H5Lexists(parent, name, H5P_DEFAULT) > 0) {
        group = H5Gopen2(parent, name, H5P_DEFAULT);
    } else {
        hid_t plist = H5Pcreate(H5P_GROUP_CREATE);
        H5Pset_obj_track_times(plist, false);
        group = H5Gcreate2(parent, name, H5P_DEFAULT, plist, H5P_DEFAULT);
        H5Pclose(plist);
    }
    check(w, group < 0 ? -1 : 0);
    return group;
}

/* Chunks of at most about 1 MiB, cut along the leading dimensions. */
static void set_chunks(hid_t plist, int rank, const hsize_t *dims, size_t element_bytes)
{
    hsize_t chunk[3], bytes = element_bytes;
    for (int i = 0; i < rank; i++) bytes *= chunk[i] = dims[i];
    for (int i = 0; i < rank; i++)
        for (; chunk[i] > 1 && bytes > (1 << 20); chunk[i] = (chunk[i] + 1) / 2) bytes /= 2;
    H5Pset_chunk(plist, rank, chunk);
}

/* Writes `data`, which lies in memory as in the file; what is worth it is compressed. */
static hid_t write_dataset(writer *w, hid_t parent, const char *name, hid_t type, int rank,
                           const hsize_t *dims, const void *data)
{
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(rank, dims, NULL);
    H5Pset_obj_track_times(plist, false);
    if ((size_t)H5Sget_simple_extent_npoints(space) * H5Tget_size(type) > 4096) {
        set_chunks(plist, rank, dims, H5Tget_size(type));
        if (H5Tget_class(type) == H5T_FLOAT || H5Tget_class(type) == H5T_INTEGER) H5Pset_shuffle(plist);
        H5Pset_deflate(plist, 4);
    }
    hid_t set = H5Dcreate2(parent, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    check(w, H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data));
    H5Sclose(space);
    H5Pclose(plist);
    return set;
}

static void attribute(writer *w, hid_t object, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t at = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    check(w, H5Awrite(at, type, value));
    H5Aclose(at);
    H5Sclose(space);
}

static void text_attribute(writer *w, hid_t object, const char *name, const char *value)
{
    hid_t type = text_type(strlen(value));
    attribute(w, object, name, type, value);
    H5Tclose(type);
}

static void int_attribute(writer *w, hid_t object, const char *name, int64_t value)
{
    attribute(w, object, name, H5T_NATIVE_INT64, &value);
}

static void write_text(writer *w, hid_t parent, const char *name, const char *value, hid_t *set)
{
    hid_t type = text_type(strlen(value));
    *set = write_dataset(w, parent, name, type, 1, (hsize_t[]){1}, value);
    H5Tclose(type);
}

static const char *text_member(const char *record, const tb_field *f)
{
    return *(const char *const *)(const void *)(record + f->offset);
}

/* A compound dataset: the launch (unless `launch_column` is false) and the record's members. */
static void write_table(writer *w, const tb_record_type *t, const row *rows, int64_t n, bool launch_column)
{
    size_t at[32], width[32], size = launch_column ? 8 : 0;
    for (int f = 0; f < t->n_fields; f++) {
        at[f] = size;
        width[f] = t->fields[f].type == TB_FIELD_SHARED ? 0 : 8;
        if (t->fields[f].type == TB_FIELD_STR) width[f] = 1;
        for (int64_t i = 0; i < n && t->fields[f].type == TB_FIELD_STR; i++) {
            size_t length = strlen(text_member(rows[i].record, &t->fields[f]));
            if (length > width[f]) width[f] = length;
        }
        size += width[f];
    }
    char *table = scratch(w, (size_t)n, size);
    if (!table) return;
    hid_t type = H5Tcreate(H5T_COMPOUND, size);
    if (launch_column) H5Tinsert(type, "launch", 0, H5T_NATIVE_INT64);
    for (int f = 0; f < t->n_fields; f++) {
        const tb_field *field = &t->fields[f];
        if (!width[f]) continue;
        hid_t member = field->type == TB_FIELD_STR
                           ? text_type(width[f])
                           : H5Tcopy(field->type == TB_FIELD_INT ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE);
        check(w, H5Tinsert(type, field->name, at[f], member));
        H5Tclose(member);
    }
    for (int64_t i = 0; i < n; i++) {
        char *to = table + (size_t)i * size;
        if (launch_column) memcpy(to, &rows[i].launch, 8);
        for (int f = 0; f < t->n_fields; f++) {
            if (t->fields[f].type == TB_FIELD_STR) {
                const char *text = text_member(rows[i].record, &t->fields[f]);
                memcpy(to + at[f], text, strlen(text));
            } else {
                memcpy(to + at[f], rows[i].record + t->fields[f].offset, width[f]);
            }
        }
    }
    H5Dclose(write_dataset(w, w->file, t->name, type, 1, (hsize_t[]){(hsize_t)n}, table));
    H5Tclose(type);
    tb_free(table);
}

/* The table of one kind of record over all launches. */
static void write_records(writer *w, tb_record_kind kind)
{
    const tb_record_type *t = &tb_record_types[kind];
    int64_t n = 0;
    for (int pass = 0; pass < 2; pass++) {
        row *rows = pass ? scratch(w, (size_t)n, sizeof *rows) : NULL;
        if (pass && !rows) return;
        n = 0;
        for (int l = 0; l < w->result->n_launches; l++) {
            const char *launch = (const char *)w->result->launches[l];
            int count = t->count_at ? *(const int *)(const void *)(launch + t->count_at) : 1;
            const char *list =
                t->count_at ? *(const char *const *)(const void *)(launch + t->at) : launch + t->at;
            for (int i = 0; i < count; i++, n++)
                if (pass) rows[n] = (row){l, list + (size_t)i * t->size};
        }
        if (pass) write_table(w, t, rows, n, t->count_at != 0);
        tb_free(rows);
    }
}

static void write_summary(writer *w)
{
    row *rows = scratch(w, (size_t)w->result->n_summaries, sizeof *rows);
    for (int i = 0; rows && i < w->result->n_summaries; i++)
        rows[i] = (row){0, (const char *)&w->result->summaries[i]};
    if (rows) write_table(w, &tb_summary_type, rows, w->result->n_summaries, false);
    tb_free(rows);
}

static void write_artefacts(writer *w)
{
    hid_t all = open_group(w, w->file, "text"), set;
    for (int l = 0; l < w->result->n_launches; l++) {
        const tb_launch *launch = w->result->launches[l];
        for (int i = 0; i < launch->n_artefacts && !w->failed; i++) {
            const tb_artefact *a = &launch->artefacts[i];
            char link[160];
            int length = snprintf(link, sizeof link, "%d.%lld.%s", l, (long long)a->rank, a->name);
            for (int k = 2; H5Lexists(all, link, H5P_DEFAULT) > 0; k++)
                snprintf(link + length, sizeof link - (size_t)length, ".%d", k);
            write_text(w, all, link, a->text, &set);
            int_attribute(w, set, "launch", l);
            int_attribute(w, set, "rank", a->rank);
            text_attribute(w, set, "name", a->name);
            H5Dclose(set);
        }
    }
    H5Gclose(all);
}

/* All samples of one metric: value and step [launch, iter, rank], count [launch, rank]. */
static void write_metric(writer *w, hid_t parent, const char *metric, int64_t warmup)
{
    const tb_result *r = w->result;
    hsize_t dims[3] = {(hsize_t)r->n_launches, 0, 0};
    for (int l = 0; l < r->n_launches; l++)
        for (int i = 0; i < r->launches[l]->n_series; i++) {
            const tb_series *s = &r->launches[l]->series[i];
            if (s->warmup != warmup || strcmp(s->metric, metric)) continue;
            if ((hsize_t)s->n > dims[1]) dims[1] = (hsize_t)s->n;
            if ((hsize_t)s->rank + 1 > dims[2]) dims[2] = (hsize_t)s->rank + 1;
        }
    size_t cells = dims[0] * dims[1] * dims[2];
    double *value = scratch(w, cells, sizeof *value);
    int64_t *step = scratch(w, cells, sizeof *step), *count = scratch(w, dims[0] * dims[2], sizeof *count);
    for (size_t i = 0; i < cells && count; i++) value[i] = NAN, step[i] = -1;
    for (int l = 0; l < r->n_launches && count; l++)
        for (int i = 0; i < r->launches[l]->n_series; i++) {
            const tb_series *s = &r->launches[l]->series[i];
            if (s->warmup != warmup || strcmp(s->metric, metric)) continue;
            count[(size_t)l * dims[2] + (size_t)s->rank] = s->n;
            for (int64_t k = 0; k < s->n; k++) {
                size_t cell = ((size_t)l * dims[1] + (size_t)k) * dims[2] + (size_t)s->rank;
                value[cell] = s->values[k];
                step[cell] = s->steps[k];
            }
        }
    if (count) {
        hid_t group = open_group(w, parent, metric);
        H5Dclose(write_dataset(w, group, "value", H5T_NATIVE_DOUBLE, 3, dims, value));
        H5Dclose(write_dataset(w, group, "step", H5T_NATIVE_INT64, 3, dims, step));
        H5Dclose(write_dataset(w, group, "count", H5T_NATIVE_INT64, 2, (hsize_t[]){dims[0], dims[2]}, count));
        H5Gclose(group);
    }
    tb_free(value);
    tb_free(step);
    tb_free(count);
}

static bool series_seen_before(const tb_result *r, int launch, int at)
{
    const tb_series *s = &r->launches[launch]->series[at];
    for (int l = 0; l <= launch; l++)
        for (int i = 0; i < (l < launch ? r->launches[l]->n_series : at); i++)
            if (r->launches[l]->series[i].warmup == s->warmup &&
                !strcmp(r->launches[l]->series[i].metric, s->metric))
                return true;
    return false;
}

static void write_samples(writer *w)
{
    hid_t steady = open_group(w, w->file, "samples"), warmup = open_group(w, w->file, "warmup");
    for (int l = 0; l < w->result->n_launches; l++)
        for (int i = 0; i < w->result->launches[l]->n_series && !w->failed; i++) {
            const tb_series *s = &w->result->launches[l]->series[i];
            if (!series_seen_before(w->result, l, i))
                write_metric(w, s->warmup ? warmup : steady, s->metric, s->warmup);
        }
    H5Gclose(steady);
    H5Gclose(warmup);
}

static void write_root(writer *w)
{
    const tb_point *p = &w->result->launches[0]->point;
    int64_t torn = 0, damaged = 0;
    for (int l = 0; l < w->result->n_launches; l++) {
        torn += w->result->launches[l]->torn_bytes;
        damaged += w->result->launches[l]->damaged_records;
    }
    text_attribute(w, w->file, "schema", "tensorbrain.result");
    int_attribute(w, w->file, "schema_major", TB_RESULT_SCHEMA_MAJOR);
    int_attribute(w, w->file, "schema_minor", TB_RESULT_SCHEMA_MINOR);
    text_attribute(w, w->file, "experiment", p->experiment);
    text_attribute(w, w->file, "driver", p->driver);
    text_attribute(w, w->file, "profile", p->profile);
    text_attribute(w, w->file, "point_hash", p->hash);
    text_attribute(w, w->file, "label", p->label);
    text_attribute(w, w->file, "scope", p->scope);
    text_attribute(w, w->file, "status", tb_result_status(w->result));
    int_attribute(w, w->file, "torn_bytes", torn);
    int_attribute(w, w->file, "damaged_records", damaged);
}

/* The long texts that all launches share: /config/resolved, source, ... */
static void write_shared(writer *w)
{
    const tb_record_type *t = &tb_record_types[TB_RECORD_POINT];
    hid_t config = open_group(w, w->file, "config"), set;
    for (int f = 0; f < t->n_fields; f++) {
        if (t->fields[f].type != TB_FIELD_SHARED) continue;
        write_text(w, config, t->fields[f].name,
                   text_member((const char *)&w->result->launches[0]->point, &t->fields[f]), &set);
        H5Dclose(set);
    }
    H5Gclose(config);
}

static bool write_file(writer *w, const char *path)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* failures are told by our sentence */
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
    H5Pset_obj_track_times(create, false);
    w->file = H5Fcreate(path, H5F_ACC_TRUNC, create, access);
    H5Pclose(access);
    H5Pclose(create);
    if (w->file < 0) return false;
    write_root(w);
    write_shared(w);
    write_records(w, TB_RECORD_POINT);
    write_records(w, TB_RECORD_END);
    write_records(w, TB_RECORD_FACT);
    write_records(w, TB_RECORD_METRIC);
    write_records(w, TB_RECORD_VALUE);
    write_records(w, TB_RECORD_EVENT);
    write_records(w, TB_RECORD_CHECK);
    write_artefacts(w);
    write_samples(w);
    write_summary(w);
    check(w, H5Fclose(w->file));
    return !w->failed;
}

static tb_status sync_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    int error = errno;
    if (fd >= 0) close(fd);
    return synced ? TB_OK : TB_FAIL(TB_ERR_IO, "%s: fsync: %s", path, strerror(error));
}

tb_status tb_h5_write(const char *path, const tb_result *result)
{
    if (result->n_launches < 1) return TB_FAIL(TB_ERR_INVALID, "%s: a result without a launch", path);
    tb_status st = TB_OK;
    writer w = {.result = result};
    char *part = tb_asprintf("%s.part", path), *folder = tb_strdup(path);
    if (!part || !folder) TB_GO(tb_error_code());
    H5dont_atexit(); /* a file that could not be written stays open in HDF5, which would fall over it at exit */
    errno = 0;
    if (!write_file(&w, part))
        TB_GO(w.no_memory ? tb_error_code()
                          : TB_FAIL(TB_ERR_IO, "%s: HDF5 cannot write it%s%s; the journals stay as they are",
                                    part, errno ? ": " : "", errno ? strerror(errno) : ""));
    TB_GO(sync_path(part, O_RDWR));
    if (rename(part, path)) TB_GO(TB_FAIL(TB_ERR_IO, "%s: rename: %s", part, strerror(errno)));
    TB_GO(sync_path(dirname(folder), O_RDONLY | O_DIRECTORY));
cleanup:
    if (st != TB_OK && part) unlink(part);
    tb_free(part);
    tb_free(folder);
    return st;
}

void tb_h5_version(char out[16])
{
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    snprintf(out, 16, "%u.%u.%u", major % 1000, minor % 1000, release % 1000);
}
