/* Reading a result file (h5.h, results/SCHEMA.md). Members that a file does not have read as "" or 0; what
 * this program does not know is passed over. */
#include "h5.h"
#include "record_types.h"
#include "tb_alloc.h"
#include <errno.h>
#include <hdf5.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

typedef struct reader {
    tb_result *result;
    hid_t file;
    const char *path;
    tb_status status;
} reader;

static void lacks(reader *r, const char *what)
{
    if (r->status == TB_OK)
        r->status = TB_FAIL(TB_ERR_PARSE, "%s: %s is missing or cannot be read", r->path, what);
}

static void *room(reader *r, size_t bytes)
{
    void *block = r->status == TB_OK ? tb_store_add(&r->result->store, bytes) : NULL;
    if (!block && r->status == TB_OK) r->status = tb_error_code();
    return block;
}

static hid_t memory_text(hid_t stored, size_t *bytes) /* zero-terminated */
{
    *bytes = H5Tget_size(stored) + 1;
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, *bytes);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static int64_t int_attribute(reader *r, hid_t object, const char *name)
{
    int64_t value = 0;
    hid_t at = H5Aopen(object, name, H5P_DEFAULT);
    if (H5Aread(at, H5T_NATIVE_INT64, &value) < 0) lacks(r, name);
    H5Aclose(at);
    return value;
}

static const char *text_attribute(reader *r, hid_t object, const char *name)
{
    size_t bytes;
    hid_t at = H5Aopen(object, name, H5P_DEFAULT), stored = H5Aget_type(at),
          type = memory_text(stored, &bytes);
    char *text = at < 0 ? NULL : room(r, bytes);
    if (!text || H5Aread(at, type, text) < 0) lacks(r, name);
    H5Tclose(type);
    H5Tclose(stored);
    H5Aclose(at);
    return text ? text : "";
}

static const char *dataset_text(reader *r, hid_t set, const char *what)
{
    size_t bytes;
    hid_t stored = H5Dget_type(set), type = memory_text(stored, &bytes);
    char *text = set < 0 ? NULL : room(r, bytes);
    if (!text || H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0) lacks(r, what);
    H5Tclose(type);
    H5Tclose(stored);
    return text ? text : "";
}

static hsize_t extent(hid_t set, int rank, hsize_t *dims) /* elements; 0 when it has another rank */
{
    hid_t space = H5Dget_space(set);
    hsize_t n = 1;
    bool fits =
        H5Sget_simple_extent_ndims(space) == rank && H5Sget_simple_extent_dims(space, dims, NULL) >= 0;
    H5Sclose(space);
    for (int i = 0; i < rank && fits; i++) n *= dims[i];
    return fits ? n : 0;
}

/* The memory type for a table: the members that both the file and the record type have. at[f] is SIZE_MAX for
 * the rest; at[n_fields] is the launch column. */
static hid_t table_type(hid_t stored, const tb_record_type *t, size_t *at, size_t *size)
{
    hid_t members[33];
    *size = 0;
    for (int f = 0; f <= t->n_fields; f++) {
        int index = H5Tget_member_index(stored, f < t->n_fields ? t->fields[f].name : "launch");
        bool used =
            index >= 0 && (f == t->n_fields ? t->count_at != 0 : t->fields[f].type != TB_FIELD_SHARED);
        at[f] = SIZE_MAX;
        if (!used) continue;
        size_t bytes = 8;
        if (f < t->n_fields && t->fields[f].type == TB_FIELD_STR) {
            hid_t text = H5Tget_member_type(stored, (unsigned)index);
            members[f] = memory_text(text, &bytes);
            H5Tclose(text);
        } else {
            members[f] = H5Tcopy(f < t->n_fields && t->fields[f].type == TB_FIELD_NUM ? H5T_NATIVE_DOUBLE
                                                                                      : H5T_NATIVE_INT64);
        }
        at[f] = *size;
        *size += bytes;
    }
    hid_t type = H5Tcreate(H5T_COMPOUND, *size ? *size : 1);
    for (int f = 0; f <= t->n_fields; f++) {
        if (at[f] == SIZE_MAX) continue;
        H5Tinsert(type, f < t->n_fields ? t->fields[f].name : "launch", at[f], members[f]);
        H5Tclose(members[f]);
    }
    return type;
}

/* Calls `add` with each row as a record of type t; strings point into memory that the result owns. */
static void read_table(reader *r, const tb_record_type *t,
                       void (*add)(reader *r, const tb_record_type *t, int64_t launch, const void *record))
{
    size_t at[33], size;
    hsize_t n;
    hid_t set = H5Dopen2(r->file, t->name, H5P_DEFAULT), stored = H5Dget_type(set);
    hid_t type = table_type(stored, t, at, &size);
    char *rows = set >= 0 ? room(r, size * extent(set, 1, &n)) : NULL, *record = NULL;
    if (!rows || H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows) < 0)
        lacks(r, t->name);
    else
        record = room(r, t->size);
    for (hsize_t i = 0; record && i < n && r->status == TB_OK; i++) {
        char *in = rows + i * size;
        int64_t launch = (int64_t)i;
        memset(record, 0, t->size);
        for (int f = 0; f < t->n_fields; f++) {
            bool text = t->fields[f].type <= TB_FIELD_SHARED;
            const char *value = at[f] == SIZE_MAX ? "" : in + at[f];
            if (text)
                memcpy(record + t->fields[f].offset, &value, sizeof value);
            else if (at[f] != SIZE_MAX)
                memcpy(record + t->fields[f].offset, value, 8);
        }
        if (at[t->n_fields] != SIZE_MAX) memcpy(&launch, in + at[t->n_fields], 8);
        add(r, t, launch, record);
    }
    H5Tclose(type);
    H5Tclose(stored);
    H5Dclose(set);
}

static tb_launch *launch_at(reader *r, int64_t launch)
{
    if (launch >= 0 && launch < r->result->n_launches) return r->result->launches[launch];
    lacks(r, "a launch that a record belongs to");
    return NULL;
}

static void add_launch(reader *r, const tb_record_type *t, int64_t launch, const void *record)
{
    (void)t;
    tb_launch **more = tb_realloc(r->result->launches, sizeof *more * (size_t)(launch + 1));
    if (more) r->result->launches = more;
    if (!more || tb_launch_create(&more[launch]) != TB_OK) {
        r->status = tb_error_code();
        return;
    }
    r->result->n_launches++;
    more[launch]->point = *(const tb_point *)record;
}

static void add_record(reader *r, const tb_record_type *t, int64_t launch, const void *record)
{
    tb_launch *l = launch_at(r, launch);
    if (l) r->status = tb_launch_add(l, (tb_record_kind)(t - tb_record_types), record);
}

static void add_summary(reader *r, const tb_record_type *t, int64_t launch, const void *record)
{
    (void)launch;
    tb_result *result = r->result;
    tb_summary *more = tb_realloc(result->summaries, t->size * (size_t)(result->n_summaries + 1));
    if (!more) {
        r->status = tb_error_code();
        return;
    }
    result->summaries = more;
    memcpy(&more[result->n_summaries++], record, t->size);
}

static herr_t read_artefact(hid_t group, const char *link, const H5L_info_t *info, void *arg)
{
    (void)info;
    reader *r = arg;
    hid_t set = H5Dopen2(group, link, H5P_DEFAULT);
    tb_artefact a = {.text = dataset_text(r, set, link)};
    a.name = text_attribute(r, set, "name");
    a.rank = int_attribute(r, set, "rank");
    tb_launch *l = r->status == TB_OK ? launch_at(r, int_attribute(r, set, "launch")) : NULL;
    if (l && r->status == TB_OK) r->status = tb_launch_add(l, TB_RECORD_ARTEFACT, &a);
    H5Dclose(set);
    return r->status == TB_OK ? 0 : -1;
}

static void *read_array(reader *r, hid_t group, const char *name, hid_t type, int rank, hsize_t *dims)
{
    hid_t set = H5Dopen2(group, name, H5P_DEFAULT);
    hsize_t n = set < 0 ? 0 : extent(set, rank, dims);
    void *data = tb_calloc(n + 1, 8);
    if (!data)
        r->status = tb_error_code();
    else if (set < 0 || H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        lacks(r, name);
    H5Dclose(set);
    return data;
}

static void add_series(reader *r, const char *metric, int64_t warmup, const hsize_t *dims,
                       const double *value, const int64_t *step, const int64_t *count)
{
    double *values = tb_calloc(dims[1] + 1, sizeof *values);
    int64_t *steps = tb_calloc(dims[1] + 1, sizeof *steps);
    for (hsize_t cell = 0; cell < dims[0] * dims[2] && r->status == TB_OK; cell++) {
        hsize_t l = cell / dims[2], rank = cell % dims[2];
        if (count[cell] == 0) continue;
        tb_launch *launch = launch_at(r, (int64_t)l);
        if (!values || !steps)
            r->status = tb_error_code();
        else if (count[cell] < 0 || (hsize_t)count[cell] > dims[1])
            lacks(r, metric);
        if (r->status != TB_OK) break;
        for (int64_t k = 0; k < count[cell]; k++) {
            values[k] = value[(l * dims[1] + (hsize_t)k) * dims[2] + rank];
            steps[k] = step[(l * dims[1] + (hsize_t)k) * dims[2] + rank];
        }
        r->status = tb_launch_add(launch, TB_RECORD_SAMPLES,
                                  &(tb_samples){.metric = metric,
                                                .rank = (int64_t)rank,
                                                .warmup = warmup,
                                                .n = count[cell],
                                                .steps = steps,
                                                .values = values});
    }
    tb_free(values);
    tb_free(steps);
}

static void read_series(reader *r, hid_t group, const char *link, int64_t warmup)
{
    hsize_t dims[3] = {0}, same[3] = {0}, counts[2] = {0};
    hid_t metric = H5Gopen2(group, link, H5P_DEFAULT);
    char *name = room(r, strlen(link) + 1);
    if (name) memcpy(name, link, strlen(link) + 1);
    double *value = read_array(r, metric, "value", H5T_NATIVE_DOUBLE, 3, dims);
    int64_t *step = read_array(r, metric, "step", H5T_NATIVE_INT64, 3, same);
    int64_t *count = read_array(r, metric, "count", H5T_NATIVE_INT64, 2, counts);
    if (memcmp(dims, same, sizeof dims) || counts[0] != dims[0] || counts[1] != dims[2]) lacks(r, link);
    if (r->status == TB_OK) add_series(r, name, warmup, dims, value, step, count);
    tb_free(value);
    tb_free(step);
    tb_free(count);
    H5Gclose(metric);
}

static herr_t read_steady(hid_t group, const char *link, const H5L_info_t *info, void *arg)
{
    (void)info;
    reader *r = arg;
    read_series(r, group, link, 0);
    return r->status == TB_OK ? 0 : -1;
}

static herr_t read_warmup(hid_t group, const char *link, const H5L_info_t *info, void *arg)
{
    (void)info;
    reader *r = arg;
    read_series(r, group, link, 1);
    return r->status == TB_OK ? 0 : -1;
}

static void each_link(reader *r, const char *name, H5L_iterate_t visit)
{
    hid_t group = H5Gopen2(r->file, name, H5P_DEFAULT);
    if (r->status == TB_OK && H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, NULL, visit, r) < 0)
        lacks(r, name);
    H5Gclose(group);
}

/* The long texts that all launches share: /config/resolved, source, ... */
static void read_shared(reader *r)
{
    const tb_record_type *t = &tb_record_types[TB_RECORD_POINT];
    for (int f = 0; f < t->n_fields; f++) {
        char name[64];
        if (t->fields[f].type != TB_FIELD_SHARED) continue;
        snprintf(name, sizeof name, "config/%s", t->fields[f].name);
        if (H5Lexists(r->file, name, H5P_DEFAULT) <= 0) continue;
        hid_t set = H5Dopen2(r->file, name, H5P_DEFAULT);
        const char *text = dataset_text(r, set, name);
        for (int l = 0; l < r->result->n_launches; l++)
            memcpy((char *)&r->result->launches[l]->point + t->fields[f].offset, &text, sizeof text);
        H5Dclose(set);
    }
}

static void read_file(reader *r)
{
    if (strcmp(text_attribute(r, r->file, "schema"), "tensorbrain.result"))
        lacks(r, "the attribute 'schema'");
    int64_t major = int_attribute(r, r->file, "schema_major");
    if (r->status != TB_OK) return;
    if (major != TB_RESULT_SCHEMA_MAJOR) {
        r->status = TB_FAIL(TB_ERR_PARSE, "%s: written with schema %lld; this program reads schema %d",
                            r->path, (long long)major, TB_RESULT_SCHEMA_MAJOR);
        return;
    }
    read_table(r, &tb_record_types[TB_RECORD_POINT], add_launch);
    read_shared(r);
    static const tb_record_kind kinds[] = {TB_RECORD_END,   TB_RECORD_FACT,  TB_RECORD_METRIC,
                                           TB_RECORD_VALUE, TB_RECORD_EVENT, TB_RECORD_CHECK};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        read_table(r, &tb_record_types[kinds[i]], add_record);
    each_link(r, "text", read_artefact);
    each_link(r, "samples", read_steady);
    each_link(r, "warmup", read_warmup);
    read_table(r, &tb_summary_type, add_summary);
}

tb_status tb_h5_read(const char *path, tb_result **out)
{
    *out = NULL;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    reader r = {.path = path, .result = tb_calloc(1, sizeof(tb_result))};
    if (!r.result) return tb_error_code();
    r.file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (r.file < 0) {
        tb_free(r.result);
        if (access(path, R_OK) == 0) return TB_FAIL(TB_ERR_PARSE, "%s: not HDF5, or cut off", path);
        return TB_FAIL(errno == ENOENT ? TB_ERR_NOT_FOUND : TB_ERR_IO, "%s: %s", path, strerror(errno));
    }
    read_file(&r);
    H5Fclose(r.file);
    if (r.status == TB_OK)
        *out = r.result;
    else
        tb_result_free(r.result);
    return r.status;
}
