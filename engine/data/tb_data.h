/* Data sets by name, and loaders that turn them into batches.
 *
 * A loader's batches are a pure function of (data, seed, position): the order of an epoch is a permutation keyed by
 * (seed, epoch), rank r of p takes rows r*B/p .. (r+1)*B/p of each piece of B rows. So a position, one integer, is
 * all that a checkpoint needs. A thread fills host buffers ahead; a steady step allocates nothing here.
 *
 * A data set is read only and may serve many loaders on many threads; a loader belongs to one context's thread. */
#pragma once
#include "tb_hash.h"
#include "tb_tensor.h"

typedef enum tb_data_kind { TB_DATA_IMAGES, TB_DATA_TEXT } tb_data_kind;
typedef enum tb_split { TB_SPLIT_TRAIN, TB_SPLIT_TEST, TB_SPLITS } tb_split;

typedef struct tb_dataset tb_dataset;

/* One half of a data set. Images: rows x height x width bytes and a label byte each. Text: bytes. */
typedef struct tb_data_part {
    int64_t rows;          /* images, or bytes of text */
    const uint8_t *bytes;
    const uint8_t *labels; /* images only */
    char sha256[TB_SHA256_HEX]; /* of the bytes, then the labels */
} tb_data_part;

/* "fashion-mnist", "jargon" (Debian packages dataset-fashion-mnist, dict-jargon);
 * "idx:IMAGES,LABELS[,TEST_IMAGES,TEST_LABELS]", "text:PATH": files of the user, plain or gzip. Where no test part is
 * given, the last tenth is held out. Errors: one sentence with the path and the package to install. */
TB_MUST_USE tb_status tb_dataset_open(const char *name, tb_dataset **out);
void tb_dataset_close(tb_dataset *d); /* NULL is accepted */
const char *tb_dataset_name(const tb_dataset *d);
tb_data_kind tb_dataset_kind(const tb_dataset *d);
const tb_data_part *tb_dataset_part(const tb_dataset *d, tb_split split);
int64_t tb_dataset_classes(const tb_dataset *d); /* images: 1 + the largest label; text: 256 */
int64_t tb_dataset_height(const tb_dataset *d);  /* images; 0 for text */
int64_t tb_dataset_width(const tb_dataset *d);
/* Of the training part's pixels / 255; batches are normalised with them. */
double tb_dataset_mean(const tb_dataset *d);
double tb_dataset_std(const tb_dataset *d);

/* ---- loaders ---- */
typedef struct tb_loader tb_loader;

typedef enum tb_loader_mode {
    TB_LOAD_TRAIN, /* shuffled, endless, full batches only */
    TB_LOAD_EVAL   /* every row once, in order; the last batch may be short; then batches of 0 rows */
} tb_loader_mode;

typedef struct tb_loader_config {
    const tb_dataset *data; /* must outlive the loader */
    tb_split split;
    tb_loader_mode mode;
    int64_t batch;          /* rows of a global batch; TRAIN: a multiple of ranks * pieces */
    int pieces;             /* TRAIN: each batch comes in this many equal pieces (micro-batches); 0 means 1 */
    int64_t context;        /* text: tokens of a row */
    uint64_t seed;
    int rank, ranks;        /* 0, 0 means 0, 1 */
    bool raw;               /* images stay u8 instead of (pixel/255 - mean) / std in f32 */
    int ahead;              /* pieces filled ahead by a thread; 0: filled when asked for */
} tb_loader_config;

/* Images: x [rows, 1, H, W] f32 (or u8), y [rows] i32. Text: x [rows, T] i32 bytes, y [rows, T] i32 the byte that
 * follows each; -100 (ignored by tb_cross_entropy) past the end. Owned by the scope that was current. */
typedef struct tb_batch {
    tb_tensor *x, *y;
    int64_t rows;        /* here */
    int64_t first_row;   /* of these in the piece */
    int64_t global_rows; /* of the piece, over all ranks */
    int64_t targets;     /* labels that count, here */
    int64_t epoch;
} tb_batch;

TB_MUST_USE tb_status tb_loader_open(const tb_loader_config *config, tb_loader **out);
void tb_loader_close(tb_loader *l); /* NULL is accepted */
TB_MUST_USE tb_status tb_loader_next(tb_loader *l, tb_batch *out);
int64_t tb_loader_position(const tb_loader *l);                       /* pieces handed out so far */
TB_MUST_USE tb_status tb_loader_seek(tb_loader *l, int64_t position); /* what is handed out next */
int64_t tb_loader_batches(const tb_loader *l);                        /* whole ones in an epoch */
