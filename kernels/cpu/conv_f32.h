/* conv2d f32 and its gradient for the input: an implicit gemm per image and group, in gemm's canonical order.
 *
 *     forward      y[o, p]  = sum over k = (c, kh, kw) of weight[o, k] frame(x)[k, p]
 *     input grad   dx[c, p] = sum over k = (o, kh, kw) of weight'[c, k] frame(g)[k, p]
 * The second is the first on the gradient, with its pixels `stride` apart, the taps flipped, and the weights' first
 * two dimensions swapped (weight', made once a call).
 *
 * Where the rows of an image fill vectors well, the tile reads its operand from the frame as it lies (is_scattered): a
 * vector is a piece of one output row, rounded up, so columns are counted as if rows were whole vectors. Else panels
 * are packed. */
#pragma once
#include "conv_image.h"

TILES(scattered_tiles, true)

typedef struct conv_problem {
    const tb_conv_args *a;
    frame f;
    const float *image, *weight;        /* [n, groups, f.channels, ..], [groups, m, k] */
    float *out;                         /* [n, groups, m, f.out_h, f.out_w] */
    bool swap_weight, accumulate;
    const float *bias;
    tb_epilogue_act act;
    int64_t m, k, passes, kc, block_n, chunks; /* chunks of outputs an image is cut into */
    bool rows_inside, is_scattered;
    int64_t columns;                    /* of the gemm: outputs of an image, or with rows rounded up to vectors */
    int64_t shared_floats, image_floats, b_floats, slot_floats;
} conv_problem;

static void conv_blocks(conv_problem *p)
{
    int64_t threads = tb_pool_threads(p->a->pool), row = round_up(p->f.out_w, VL);
    p->is_scattered = !p->f.plain && row <= p->f.out_w + p->f.out_w * WASTE_PERCENT / 100;
    p->columns = p->f.out_h * (p->is_scattered ? row : p->f.out_w);
    int64_t panels = div_up(p->columns, NR);
    int64_t images = max_i64(p->a->n * p->a->groups, 1);
    p->k = p->f.channels * p->f.kh * p->f.kw;
    p->passes = max_i64(div_up(p->k, KC), 1);
    p->kc = div_up(p->k, p->passes);
    p->chunks = max_i64(div_up(panels, NC / NR), 1);
    if (images * p->chunks < threads) p->chunks = max_i64(min_i64(panels, div_up(threads, images)), 1);
    p->block_n = div_up(panels, p->chunks) * NR;
    p->chunks = max_i64(div_up(p->columns, p->block_n), 1);
    p->rows_inside = p->m <= (p->is_scattered ? DIRECT_M : CONV_ROWS_INSIDE);
    p->shared_floats = p->swap_weight ? round_up(p->a->groups * p->m * p->k, 16) : 0;
    p->image_floats = frame_floats(&p->f, p->f.channels);
    p->b_floats = p->is_scattered ? 0 : (p->rows_inside ? 4 * NR : p->block_n) * p->kc;
    p->slot_floats = block_slot_floats(p->m, p->block_n, p->passes, 1);
}

static conv_problem conv_forward(const tb_conv_args *a)
{
    conv_problem p = {.a = a,
                      .image = a->x,
                      .weight = a->weight,
                      .out = a->out,
                      .bias = a->bias,
                      .act = a->act,
                      .m = a->o / a->groups,
                      .f = {.channels = a->c / a->groups,
                            .in_h = a->h,
                            .in_w = a->w,
                            .top = a->pad[0],
                            .left = a->pad[1],
                            .insert_h = 1,
                            .insert_w = 1,
                            .step_h = a->stride[0],
                            .step_w = a->stride[1],
                            .phases = a->stride[1],
                            .out_h = a->oh,
                            .out_w = a->ow,
                            .kh = a->kh,
                            .kw = a->kw,
                            .dilation_h = a->dilation[0],
                            .dilation_w = a->dilation[1]}};
    frame_layout(&p.f);
    conv_blocks(&p);
    return p;
}

static conv_problem conv_input_grad(const tb_conv_args *a)
{
    conv_problem p = {
        .a = a, .image = a->g, .weight = a->weight, .out = a->out, .accumulate = a->accumulate, .swap_weight = true,
        .m = a->c / a->groups,
        .f = {.channels = a->o / a->groups, .in_h = a->oh, .in_w = a->ow,
              .top = (a->kh - 1) * a->dilation[0] - a->pad[0],
              .left = (a->kw - 1) * a->dilation[1] - a->pad[1], .insert_h = a->stride[0], .insert_w = a->stride[1],
              .step_h = 1, .step_w = 1, .phases = 1, .out_h = a->h, .out_w = a->w, .kh = a->kh, .kw = a->kw,
              .dilation_h = a->dilation[0], .dilation_w = a->dilation[1], .flipped = true}};
    frame_layout(&p.f);
    conv_blocks(&p);
    return p;
}

static size_t conv_scratch(const conv_problem *p)
{
    int64_t threads = tb_pool_threads(p->a->pool), each = p->image_floats + p->b_floats + p->slot_floats;
    return (size_t)(p->shared_floats + threads * each) * sizeof(float);
}

/* What a block works on. */
typedef struct conv_work {
    const conv_problem *p;
    const float *origin, *weight; /* the frame of its image, the weights of its group */
    float *out;
    const float *bias;
    int64_t taps[KC]; /* of the rows of the current pass */
} conv_work;

static void conv_pass(gemm_block *w)
{
    conv_work *c = w->problem;
    w->k0 = min_i64(w->pass * c->p->kc, w->k);
    w->k1 = min_i64(w->k0 + c->p->kc, w->k);
    find_taps(&c->p->f, w->k0, w->k1, c->taps);
}

static void conv_a(const gemm_block *w, tile_job *t, int64_t tile, bool first_use)
{
    (void)first_use;
    t->a = ((const conv_work *)w->problem)->weight + tile_begin(w, tile) * w->k + w->k0;
    t->a_row = w->k;
    t->a_k = 1;
}

static void conv_b_scattered(const gemm_block *w, tile_job *t, int64_t panel, int count)
{
    const conv_work *c = w->problem;
    const frame *f = &c->p->f;
    int64_t row = round_up(f->out_w, VL), last = c->p->columns - VL;
    t->b = c->origin;
    t->b_row_at = c->taps;
    for (int v = 0; v < count * NV; v++) {
        int64_t at = min_i64(w->j0 + panel * NR + v * VL, last); /* vectors behind the image's end: any */
        t->b_vector_at[v] = (int32_t)(at / row * f->step_h * f->row + at % row);
    }
}

static void conv_b(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use)
{
    const conv_work *c = w->problem;
    int64_t k = w->k1 - w->k0;
    if (c->p->is_scattered) {
        conv_b_scattered(w, t, panel, count);
        return;
    }
    float *pack = w->b_pack + (w->rows_inside ? 0 : panel * NR * k);
    t->b = pack;
    t->b_k = NR;
    t->b_panel = k * NR;
    for (int q = 0; q < count && first_use; q++)
        pack_b_image(pack + q * k * NR, &c->p->f, c->origin, c->taps, k, w->j0 + (panel + q) * NR,
                     (int)min_i64(w->n - (panel + q) * NR, NR));
}

/* The residual of the output at `out`, or NULL. */
static const float *conv_residual(const conv_problem *p, const float *out)
{
    return p->a->residual ? (const float *)p->a->residual + (out - p->out) : NULL;
}

static float *conv_target(const gemm_block *w, tile_job *t, int64_t i, int64_t j, int cols)
{
    const conv_work *c = w->problem;
    (void)cols;
    t->out_row = c->p->f.out_h * c->p->f.out_w;
    bool is_in_rows = !c->p->is_scattered || c->p->columns == t->out_row; /* as C has them */
    bool is_plain = !c->p->accumulate && !c->bias && !c->p->a->residual && c->p->act == TB_ACT_NONE;
    return is_in_rows && is_plain ? c->out + i * t->out_row + j : NULL;
}

static void conv_finish(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows,
                        int cols)
{
    const conv_work *c = w->problem;
    int64_t width = c->p->f.out_w, outputs = c->p->f.out_h * width, row = round_up(width, VL);
    for (int64_t from = j; from < j + cols;) { /* runs of neighbours in C */
        int64_t to = j + cols, at = from, n = cols;
        if (c->p->is_scattered) {
            to = min_i64((from / row + 1) * row, to);
            at = from / row * width + from % row;
            n = min_i64(to - from, width - from % row);
        }
        for (int r = 0; r < rows; r++) {
            float *out = c->out + (i + r) * outputs + at;
            epilogue_row(sum + r * sum_row + from - j, out, (int)n, c->p->accumulate, c->bias ? c->bias + i + r : NULL,
                         0, conv_residual(c->p, out), c->p->act);
        }
        from = to;
    }
}

static const gemm_source image_source = {conv_pass, conv_a, conv_b, conv_target, conv_finish};

/* Chunks of images [begin, end), in the order image, group, chunk; an image's frame is filled when it changes. */
static void conv_run_chunks(void *arg, int64_t begin, int64_t end, int thread)
{
    const conv_problem *p = arg;
    const frame *f = &p->f;
    float *scratch =
        (float *)p->a->scratch + p->shared_floats + thread * (p->image_floats + p->b_floats + p->slot_floats);
    const float *weight = p->swap_weight ? p->a->scratch : p->weight;
    int64_t outputs = f->out_h * f->out_w, framed = -1;
    conv_work c = {.p = p};
    for (int64_t at = begin; at < end; at++) {
        int64_t image = at / p->chunks, group = image % p->a->groups, j0 = at % p->chunks * p->block_n;
        if (image != framed)
            c.origin = frame_fill(f, scratch, p->image + image * f->channels * f->in_h * f->in_w, 0, f->channels);
        framed = image;
        c.weight = weight + group * p->m * p->k;
        c.bias = p->bias ? p->bias + group * p->m : NULL;
        c.out = p->out + image * p->m * outputs;
        gemm_block w = {.source = &image_source, .problem = &c, .j0 = j0, .m = p->m,
                        .n = min_i64(p->block_n, p->columns - j0),
                        .tiles = p->is_scattered ? scattered_tiles : NULL,
                        .k = p->k, .tree_block = max_i64(p->k, 1), .tree = 1, .passes = p->passes,
                        .rows_inside = p->rows_inside, .b_pack = scratch + p->image_floats,
                        .slots = scratch + p->image_floats + p->b_floats};
        run_block(&w);
    }
}

/* weight[o, c, taps] -> [c, o, taps] of each group */
static void conv_swap_weight(void *arg, int64_t begin, int64_t end, int thread)
{
    const conv_problem *p = arg;
    int64_t taps = p->f.kh * p->f.kw, o = p->f.channels, c = p->m;
    (void)thread;
    for (int64_t at = begin; at < end; at++) { /* (group, c) */
        float *dst = (float *)p->a->scratch + at * o * taps;
        const float *src = p->weight + (at / c * o * c + at % c) * taps;
        for (int64_t q = 0; q < o; q++) memcpy(dst + q * taps, src + q * c * taps, (size_t)taps * sizeof(float));
    }
}

static void conv_run(conv_problem *p)
{
    int64_t images = p->a->n * p->a->groups;
    if (images == 0 || p->m == 0 || p->f.out_h * p->f.out_w == 0) return;
    if (p->swap_weight) tb_pool_run(p->a->pool, p->a->groups * p->m, conv_swap_weight, p);
    tb_pool_run(p->a->pool, images * p->chunks, conv_run_chunks, p);
}

static size_t conv2d_scratch_bytes(const void *args)
{
    conv_problem p = conv_forward(args);
    return conv_scratch(&p);
}
static void run_conv2d(const void *args)
{
    conv_problem p = conv_forward(args);
    conv_run(&p);
}
static size_t conv2d_input_grad_scratch_bytes(const void *args)
{
    conv_problem p = conv_input_grad(args);
    return conv_scratch(&p);
}
static void run_conv2d_input_grad(const void *args)
{
    conv_problem p = conv_input_grad(args);
    conv_run(&p);
}

#define CONV_KERNEL(op)                                                                                               \
    {                                                                                                                 \
        .name = #op "_f32_" VEC_ISA_NAME, .primitive = #op, .dtype = TB_F32, .isa = VEC_ISA, .run = run_##op,         \
        .scratch_bytes = op##_scratch_bytes                                                                           \
    }
