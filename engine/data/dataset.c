/* Data sets: names to files, split, content hashes, pixel statistics. */
#include "tb_data.h"
#include "tb_alloc.h"
#include "tb_file.h"
#include "tb_text.h"
#include <math.h>
#include <string.h>

enum { HELD_OUT = 10, TEXT_CLASSES = 256, MAX_FILES = 4 };

/* Data sets that Debian packages. */
typedef struct known {
    const char *name, *package;
    tb_data_kind kind;
    const char *files[MAX_FILES]; /* images, labels, test images, test labels; or one text */
} known;

#define FASHION "/usr/share/datasets/fashion-mnist/"
static const known known_sets[] = {
    {"fashion-mnist", "dataset-fashion-mnist", TB_DATA_IMAGES,
     {FASHION "train-images-idx3-ubyte.gz", FASHION "train-labels-idx1-ubyte.gz", FASHION "t10k-images-idx3-ubyte.gz",
      FASHION "t10k-labels-idx1-ubyte.gz"}},
    {"jargon", "dict-jargon", TB_DATA_TEXT, {"/usr/share/dictd/jargon.dict.dz"}},
};
enum { KNOWN_SETS = sizeof known_sets / sizeof known_sets[0] };

struct tb_dataset {
    char *name;
    tb_data_kind kind;
    tb_data_part part[TB_SPLITS];
    int64_t classes, height, width;
    double mean, std;
    tb_idx idx[MAX_FILES];
    uint8_t *text;
};

static tb_status hash_part(tb_data_part *p, int64_t row_bytes)
{
    tb_sha256 *h;
    TB_TRY(tb_sha256_open(&h));
    tb_status st = tb_sha256_add(h, p->bytes, (size_t)(p->rows * row_bytes));
    if (st == TB_OK && p->labels) st = tb_sha256_add(h, p->labels, (size_t)p->rows);
    tb_sha256_close(h, p->sha256);
    return st;
}

/* ---- images ---- */
static tb_status check_pair(const tb_dataset *d, int at, const char *const *files)
{
    const tb_idx *images = &d->idx[at], *labels = &d->idx[at + 1], *first = &d->idx[0];
    if (images->rank != 3 || images->dims[1] != first->dims[1] || images->dims[2] != first->dims[2])
        return TB_FAIL(TB_ERR_PARSE, "%s: images must be [n, %lld, %lld], not %s", files[at], (long long)first->dims[1],
                       (long long)first->dims[2], tb_dims_text(images->rank, images->dims));
    if (labels->rank != 1 || labels->dims[0] != images->dims[0])
        return TB_FAIL(TB_ERR_PARSE, "%s: %lld images in %s need as many labels, not %s", files[at + 1],
                       (long long)images->dims[0], files[at], tb_dims_text(labels->rank, labels->dims));
    return TB_OK;
}

/* Exact sums, so that the normalisation is the same everywhere. */
static void measure_pixels(tb_dataset *d)
{
    const tb_data_part *p = &d->part[TB_SPLIT_TRAIN];
    int64_t n = p->rows * d->height * d->width;
    uint64_t sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += p->bytes[i];
        squares += (uint64_t)p->bytes[i] * p->bytes[i];
    }
    double mean = n ? (double)sum / (double)n : 0, variance = n ? (double)squares / (double)n - mean * mean : 0;
    d->mean = mean / 255;
    d->std = variance > 0 ? sqrt(variance) / 255 : 1;
}

static tb_status open_images(tb_dataset *d, const char *const *files, const char *package)
{
    bool has_test = files[2] != NULL;
    for (int i = 0; i < (has_test ? 4 : 2); i++) TB_TRY(tb_idx_read(files[i], package, &d->idx[i]));
    for (int i = 0; i < (has_test ? 4 : 2); i += 2) TB_TRY(check_pair(d, i, files));
    d->height = d->idx[0].dims[1];
    d->width = d->idx[0].dims[2];
    int64_t n = d->idx[0].dims[0], train = has_test ? n : n - n / HELD_OUT;
    d->part[TB_SPLIT_TRAIN] =
        (tb_data_part){.rows = train, .bytes = d->idx[0].elements, .labels = d->idx[1].elements};
    d->part[TB_SPLIT_TEST] = has_test ? (tb_data_part){.rows = d->idx[2].dims[0], .bytes = d->idx[2].elements,
                                                       .labels = d->idx[3].elements}
                                      : (tb_data_part){.rows = n - train,
                                                       .bytes = d->idx[0].elements + train * d->height * d->width,
                                                       .labels = d->idx[1].elements + train};
    for (int s = 0; s < TB_SPLITS; s++)
        for (int64_t i = 0; i < d->part[s].rows; i++)
            if (d->part[s].labels[i] >= d->classes) d->classes = d->part[s].labels[i] + 1;
    measure_pixels(d);
    return TB_OK;
}

/* ---- text ---- */
static tb_status open_text(tb_dataset *d, const char *path, const char *package)
{
    size_t bytes;
    TB_TRY(tb_file_read(path, package, &d->text, &bytes));
    if (bytes < 2 * HELD_OUT) return TB_FAIL(TB_ERR_PARSE, "%s: %zu bytes are too few to learn from", path, bytes);
    int64_t n = (int64_t)bytes, train = n - n / HELD_OUT;
    d->classes = TEXT_CLASSES;
    d->part[TB_SPLIT_TRAIN] = (tb_data_part){.rows = train, .bytes = d->text};
    d->part[TB_SPLIT_TEST] = (tb_data_part){.rows = n - train, .bytes = d->text + train};
    return TB_OK;
}

/* ---- names ---- */
static tb_status open_idx_list(tb_dataset *d, const char *list)
{
    const char *files[MAX_FILES] = {NULL};
    int n = 0;
    char *copy = tb_strdup(list), *rest = copy;
    if (!copy) return TB_ERR_OOM;
    while (rest && n < MAX_FILES) files[n++] = strsep(&rest, ",");
    tb_status st =
        rest || (n != 2 && n != 4)
            ? TB_FAIL(TB_ERR_CONFIG, "data 'idx:%s': give IMAGES,LABELS or IMAGES,LABELS,TEST_IMAGES,TEST_LABELS", list)
            : open_images(d, files, NULL);
    tb_free(copy);
    return st;
}

static tb_status open_by_name(tb_dataset *d, const char *name)
{
    if (strncmp(name, "idx:", 4) == 0) {
        d->kind = TB_DATA_IMAGES;
        return open_idx_list(d, name + 4);
    }
    if (strncmp(name, "text:", 5) == 0) {
        d->kind = TB_DATA_TEXT;
        return open_text(d, name + 5, NULL);
    }
    const char *names[KNOWN_SETS];
    for (int i = 0; i < KNOWN_SETS; i++) {
        const known *k = &known_sets[i];
        names[i] = k->name;
        if (strcmp(k->name, name) != 0) continue;
        d->kind = k->kind;
        return k->kind == TB_DATA_IMAGES ? open_images(d, k->files, k->package)
                                         : open_text(d, k->files[0], k->package);
    }
    const char *near = tb_nearest(name, names, KNOWN_SETS);
    return TB_FAIL(TB_ERR_NOT_FOUND,
                   "no data set '%s'%s%s%s; there are fashion-mnist, jargon, idx:IMAGES,LABELS, text:PATH", name,
                   near ? "; nearest: '" : "", near ? near : "", near ? "'" : "");
}

tb_status tb_dataset_open(const char *name, tb_dataset **out)
{
    *out = NULL;
    tb_dataset *d = tb_calloc(1, sizeof *d);
    if (!d) return TB_ERR_OOM;
    d->name = tb_strdup(name);
    tb_status st = d->name ? open_by_name(d, name) : TB_ERR_OOM;
    int64_t row_bytes = d->kind == TB_DATA_TEXT ? 1 : d->height * d->width;
    for (int s = 0; st == TB_OK && s < TB_SPLITS; s++) st = hash_part(&d->part[s], row_bytes);
    if (st == TB_OK) *out = d;
    else tb_dataset_close(d);
    return st;
}

void tb_dataset_close(tb_dataset *d)
{
    if (!d) return;
    for (int i = 0; i < MAX_FILES; i++) tb_idx_free(&d->idx[i]);
    tb_free(d->text);
    tb_free(d->name);
    tb_free(d);
}

const char *tb_dataset_name(const tb_dataset *d) { return d->name; }
tb_data_kind tb_dataset_kind(const tb_dataset *d) { return d->kind; }
const tb_data_part *tb_dataset_part(const tb_dataset *d, tb_split split) { return &d->part[split]; }
int64_t tb_dataset_classes(const tb_dataset *d) { return d->classes; }
int64_t tb_dataset_height(const tb_dataset *d) { return d->height; }
int64_t tb_dataset_width(const tb_dataset *d) { return d->width; }
double tb_dataset_mean(const tb_dataset *d) { return d->mean; }
double tb_dataset_std(const tb_dataset *d) { return d->std; }
