/* What the files of data parallelism share: the arena's layout and a step's state. */
#pragma once
#include "tb_ddp.h"

typedef struct slot { /* a parameter */
    tb_ddp *d;
    tb_tensor *leaf;
    tb_tensor *view;     /* of the arena: [rows, shape], or as the leaf where rows is 1 */
    bool decays;
    int rows;            /* one for each use of the parameter: a shared one's are summed over the ranks apart */
    int64_t numel, room; /* of all rows; room: with padding to ALIGN_BYTES */
    int64_t offset;
    int bucket;
    bool is_complete, has_grad; /* of this step; has_grad: known when its bucket starts */
} slot;

typedef struct bucket {
    tb_ddp *d;
    int64_t offset, numel;
    int first_slot;       /* in `order` */
    int n_slots, missing; /* of this step */
    tb_request request;
} bucket;

struct tb_ddp {
    tb_ddp_config cfg;
    int n;
    slot *slots;
    int *order;         /* [n] slots as they lie in the arena */
    int *seen, n_seen;  /* order of completion in this step; room for one number more */
    int with_gradients; /* which parameters got one in the last step; -1: there was none */
    bool has_seen;      /* the arena lies in the order of the first step */
    void *memory;
    tb_tensor *arena;
    bucket *buckets;
    int n_buckets, started;
    bool syncing;
    int64_t step;       /* from 0 */
    tb_status status;   /* first failure in a hook */
    int64_t sum_ns;
    struct ddp_update *update; /* NULL: the optimizer is the caller's */
};

enum { MOST_STATES = 2 };

typedef struct range { /* of the arena, owned here */
    int64_t first, n;
    int64_t state; /* where its state begins */
} range;

typedef struct ddp_update {
    tb_optim_config cfg;
    int n_states;
    int64_t t; /* the step that is being made, from 1 */
    const tb_kernel *kernel;
    range *ranges;
    int n_ranges;
    int64_t numel; /* of all ranges */
    float *state[MOST_STATES];
    void *memory;             /* the other arena: parameters between steps */
    tb_tensor *arena, **view; /* [parameter] */
    tb_tensor **whole;        /* [parameter * n_states]: state of those that every rank updates, or NULL */
} ddp_update;

/* ddp.c */
tb_status tbi_ddp_make_arena(const tb_ddp *d, int64_t numel, void **memory, tb_tensor **arena);
tb_tensor *tbi_ddp_view(const slot *s, tb_tensor *arena); /* of a slot's rows; the caller releases it */
tb_status tbi_ddp_adopt_order(tb_ddp *d);
tb_status tbi_ddp_take_order(tb_ddp *d, const int *order); /* the arena lies in it from now on */
tb_status tbi_ddp_start_rest(tb_ddp *d);
tb_status tbi_ddp_check_gradients(tb_ddp *d); /* of the step whose sums are done */

/* ddp_update.c: the optimizer that runs on sums. */
tb_status tbi_ddp_update_open(tb_ddp *d);
void tbi_ddp_update_close(tb_ddp *d);
tb_status tbi_ddp_update_place(tb_ddp *d); /* the order is known: empty state, parameters in the second arena */
void tbi_ddp_update_begin(tb_ddp *d); /* a step of it */
void tbi_ddp_update_map(void *bucket, int64_t first, int64_t n, void *values); /* a tb_comm_map */
