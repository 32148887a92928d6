/* Random networks of integer ops, compiled, against loops over the formulas of engine/ops/quantized.c, add_u8.c,
 * mean_u8.c: the same bits on every ISA, at every batch, from two threads at once. */
#include "tb_test.h"
#include "tb_exec.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include "tb_rng.h"
#include <pthread.h>
#include <stdlib.h>

enum { GRAPHS = 40, MAX_LAYERS = 8, MAX_ROWS = 13, MAX_VALUE = 1 << 18 };

typedef enum layer_kind { CONV, DEPTHWISE, ADD, POOL, MEAN, FLATTEN, LINEAR } layer_kind;

typedef struct layer {
    layer_kind kind;
    int64_t in[3], out[3]; /* height, width, channels; 1, 1, channels of what is flat */
    int64_t kernel[2], stride[2], pad[2], dilation[2];
    int64_t x_zero, zero, low;
    int other;               /* add: the earlier value, 0 the input */
    double a_scale, b_scale; /* add; mean: a_scale */
    int64_t depth;           /* terms of a channel's sum */
    int8_t *weight;          /* [O, P, Q, C / groups] */
    int32_t *offset;
    float *scale;
    tb_tensor *tensor[3];
} layer;

typedef struct network {
    uint64_t seed, drawn;
    int n;
    layer at[MAX_LAYERS];
    bool is_f32; /* the last linear layer's result */
} network;

/* ---- drawing ---- */
static int64_t draw(network *g, int64_t below)
{
    return (int64_t)tb_random_below(7, g->seed, g->drawn++, (uint64_t)below);
}

static int64_t draw_byte(network *g) /* the ends are as likely as all between */
{
    int64_t which = draw(g, 4);
    return which == 0 ? 0 : which == 1 ? 255 : draw(g, 256);
}

/* Powers of two give ties; the others all that lies around `size`, and what is far from it. */
static double draw_scale(network *g, double size)
{
    static const double far[] = {0x1p-100, 0x1p-12, 0x1p12, 0x1p19};
    int64_t which = draw(g, 8);
    if (which == 0) return far[draw(g, 4)];
    if (which < 4) return exp2(floor(log2(size)) + (double)draw(g, 4) - 1);
    return size * (0.3 + 2 * (double)draw(g, 1000) / 1000);
}

static void draw_weights(network *g, layer *l)
{
    int64_t o = l->out[2], n = o * l->depth, kind = draw(g, 3);
    l->weight = malloc((size_t)n);
    l->offset = malloc((size_t)o * sizeof *l->offset);
    l->scale = malloc((size_t)o * sizeof *l->scale);
    for (int64_t i = 0; i < n; i++)
        l->weight[i] = (int8_t)(kind == 0 ? draw(g, 2) * 254 - 127 : kind == 1 ? draw(g, 255) - 127 : draw(g, 3) - 1);
    double spread = sqrt((double)l->depth) * (kind == 2 ? 100 : 8000);
    for (int64_t j = 0; j < o; j++) {
        int64_t most = draw(g, 6) == 0 ? INT32_MAX - 255 * 127 * l->depth : (int64_t)spread + 1;
        l->offset[j] = (int32_t)(draw(g, 2 * most + 1) - most);
        l->scale[j] = (float)draw_scale(g, 100 / spread);
    }
}

static int64_t draw_channels(network *g)
{
    static const int64_t channels[] = {1, 2, 3, 7, 8, 13, 16, 17, 31, 32, 37, 64, 67};
    return channels[draw(g, sizeof channels / sizeof *channels)];
}

static void draw_window(network *g, layer *l)
{
    for (int i = 0; i < 2; i++) {
        bool pools = l->kind == POOL, is_small = draw(g, 3) == 0;
        l->kernel[i] = is_small ? 1 : l->kind == DEPTHWISE && draw(g, 2) ? 3 : 1 + draw(g, pools ? 3 : 4);
        l->stride[i] = 1 + draw(g, 2);
        l->dilation[i] = pools || draw(g, 4) ? 1 : 2;
        l->pad[i] = pools ? draw(g, l->kernel[i] / 2 + 1) : draw(g, 3);
        int64_t covers = l->dilation[i] * (l->kernel[i] - 1) + 1;
        if (covers > l->in[i] + 2 * l->pad[i]) l->kernel[i] = covers = 1;
        if (pools && l->pad[i] > l->kernel[i] / 2) l->pad[i] = l->kernel[i] / 2;
        l->out[i] = (l->in[i] + 2 * l->pad[i] - covers) / l->stride[i] + 1;
    }
}

/* The earlier values of the shape of the last; at random one, or -1. */
static int draw_alike(network *g, const layer *l)
{
    int found[MAX_LAYERS], n = 0;
    for (int i = 0; i <= g->n; i++) {
        const int64_t *dims = i ? g->at[i - 1].out : g->at[0].in;
        if (i < g->n && memcmp(dims, l->in, sizeof l->in) == 0) found[n++] = i;
    }
    return n ? found[draw(g, n)] : -1;
}

static bool draw_layer(network *g, bool *is_flat)
{
    layer *l = &g->at[g->n];
    if (g->n > 0)
        memcpy(l->in, g->at[g->n - 1].out, sizeof l->in);
    else
        l->in[0] = 1 + draw(g, 13), l->in[1] = 1 + draw(g, 13), l->in[2] = draw_channels(g);
    memcpy(l->out, l->in, sizeof l->out);
    l->kind = *is_flat ? LINEAR : (layer_kind)draw(g, 6);
    if (l->kind == CONV && g->n && draw(g, 3) == 0) l->kind = ADD;
    l->x_zero = draw_byte(g), l->zero = draw_byte(g);
    l->low = draw(g, 2) ? l->zero : 0;
    l->a_scale = draw_scale(g, 1), l->b_scale = draw_scale(g, 0.7);
    if (l->kind == ADD && (l->other = draw_alike(g, l)) < 0) l->kind = CONV, l->other = 0;
    if (l->kind <= DEPTHWISE || l->kind == POOL) draw_window(g, l);
    if (l->kind == CONV) l->out[2] = draw_channels(g), l->depth = l->kernel[0] * l->kernel[1] * l->in[2];
    if (l->kind == DEPTHWISE) l->depth = l->kernel[0] * l->kernel[1];
    if (l->kind == LINEAR) l->out[2] = draw_channels(g), l->depth = l->in[2];
    if (l->kind == MEAN) l->out[0] = l->out[1] = 1;
    if (l->kind == FLATTEN) l->out[2] *= l->out[0] * l->out[1], l->out[0] = l->out[1] = 1;
    *is_flat |= l->kind == MEAN || l->kind == FLATTEN;
    if (l->depth > 66000 / 2 || MAX_ROWS * l->out[0] * l->out[1] * l->out[2] > MAX_VALUE) return false;
    if (l->depth) draw_weights(g, l);
    g->n++;
    return true;
}

static void draw_network(network *g, uint64_t seed)
{
    bool is_flat = false;
    *g = (network){.seed = seed};
    int64_t n = 1 + draw(g, MAX_LAYERS);
    while (g->n < n && draw_layer(g, &is_flat)) continue;
    assert_true(g->n > 0);
    g->is_f32 = g->at[g->n - 1].depth && draw(g, 2);
}

static void free_network(network *g)
{
    for (int i = 0; i < g->n; i++) {
        free(g->at[i].weight);
        free(g->at[i].offset);
        free(g->at[i].scale);
    }
}

/* ---- the network as a graph ---- */
static tb_tensor *forward(void *arg, int n, tb_tensor *const *in)
{
    network *g = arg;
    tb_tensor *values[MAX_LAYERS + 1] = {in[0]};
    (void)n;
    for (int i = 0; i < g->n; i++) {
        layer *l = &g->at[i];
        tb_tensor *x = values[i], **y = &values[i + 1], **t = l->tensor;
        bool to_u8 = i + 1 < g->n || !g->is_f32, is_depthwise = l->kind == DEPTHWISE;
        tb_conv2d_opts window = {.groups = is_depthwise ? l->in[2] : 1};
        tb_pool2d_opts pool = {0};
        memcpy(window.stride, l->stride, sizeof l->stride), memcpy(window.pad, l->pad, sizeof l->pad);
        memcpy(window.dilation, l->dilation, sizeof l->dilation), memcpy(pool.kernel, l->kernel, sizeof l->kernel);
        memcpy(pool.stride, l->stride, sizeof l->stride), memcpy(pool.pad, l->pad, sizeof l->pad);
        if (l->kind == CONV || is_depthwise)
            *y = tb_conv2d_u8s8(x, t[0], t[1], t[2], &window, &(tb_u8s8_opts){l->x_zero, to_u8, l->zero, l->low});
        else if (l->kind == ADD)
            *y = tb_add_u8(x, values[l->other],
                           &(tb_add_u8_opts){l->a_scale, l->b_scale, l->x_zero, 255 - l->x_zero, l->zero, l->low});
        else if (l->kind == POOL)
            *y = tb_max_pool2d_u8(x, &pool);
        else if (l->kind == MEAN)
            *y = tb_mean_u8(x, &(tb_mean_u8_opts){l->a_scale, l->x_zero, l->zero});
        else if (l->kind == FLATTEN)
            *y = tb_reshape(x, 2, (int64_t[]){tb_tensor_dim(x, 0), l->out[2]});
        else
            *y = tb_linear_u8s8(x, t[0], t[1], t[2], to_u8, l->zero, l->low);
    }
    return values[g->n];
}

static void make_tensors(network *g)
{
    for (int i = 0; i < g->n; i++) {
        layer *l = &g->at[i];
        int64_t o = l->out[2], conv[4] = {o, l->kernel[0], l->kernel[1], l->kind == CONV ? l->in[2] : 1};
        if (!l->depth) continue;
        l->tensor[0] = l->kind == LINEAR ? tb_tensor_from(TB_I8, 2, (int64_t[]){o, l->depth}, l->weight)
                                         : tb_tensor_from(TB_I8, 4, conv, l->weight);
        l->tensor[1] = tb_tensor_from(TB_I32, 1, &o, l->offset);
        l->tensor[2] = tb_tensor_from(TB_F32, 1, &o, l->scale);
    }
}

/* ---- the formulas ---- */
static uint8_t to_byte(float y, int64_t zero, int64_t low)
{
    float q = rintf(y) + (float)zero; /* ties to even, whatever the zero point */
    return (uint8_t)(q < (float)low ? (float)low : q > 255 ? 255 : q);
}

static int64_t window_sum(const layer *l, const uint8_t *x, int64_t i, int64_t j, int64_t o)
{
    bool is_depthwise = l->kind == DEPTHWISE, is_flat = l->kind == LINEAR;
    int64_t height = is_flat ? 1 : l->kernel[0], width = is_flat ? 1 : l->kernel[1], c = is_depthwise ? 1 : l->in[2];
    int64_t sum = l->offset[o];
    for (int64_t p = 0; p < height; p++)
        for (int64_t q = 0; q < width; q++)
            for (int64_t k = 0; k < c; k++) {
                int64_t y = is_flat ? 0 : i * l->stride[0] - l->pad[0] + p * l->dilation[0];
                int64_t z = is_flat ? 0 : j * l->stride[1] - l->pad[1] + q * l->dilation[1];
                bool inside = y >= 0 && y < l->in[0] && z >= 0 && z < l->in[1];
                int64_t pixel = inside ? x[(y * l->in[1] + z) * l->in[2] + (is_depthwise ? o : k)] : l->x_zero;
                sum += pixel * l->weight[((o * height + p) * width + q) * c + k];
            }
    return sum;
}

static int64_t window_max(const layer *l, const uint8_t *x, int64_t i, int64_t j, int64_t o)
{
    int64_t best = 0;
    for (int64_t y = i * l->stride[0] - l->pad[0]; y < i * l->stride[0] - l->pad[0] + l->kernel[0]; y++)
        for (int64_t z = j * l->stride[1] - l->pad[1]; z < j * l->stride[1] - l->pad[1] + l->kernel[1]; z++)
            if (y >= 0 && y < l->in[0] && z >= 0 && z < l->in[1] && x[(y * l->in[1] + z) * l->in[2] + o] > best)
                best = x[(y * l->in[1] + z) * l->in[2] + o];
    return best;
}

/* One row. `b` is an addition's other operand, `real` takes what stays f32. */
static void run_layer(const layer *l, const uint8_t *x, const uint8_t *b, uint8_t *out, float *real)
{
    int64_t places = l->in[0] * l->in[1];
    for (int64_t at = 0; at < l->out[0] * l->out[1] * l->out[2]; at++) {
        int64_t o = at % l->out[2], j = at / l->out[2] % l->out[1], i = at / l->out[2] / l->out[1], sum = 0;
        if (l->depth) {
            float y = (float)window_sum(l, x, i, j, o) * l->scale[o];
            if (real)
                real[at] = y;
            else
                out[at] = to_byte(y, l->zero, l->low);
        } else if (l->kind == ADD) {
            float left = (float)(x[at] - l->x_zero) * (float)l->a_scale,
                  right = (float)(b[at] - (255 - l->x_zero)) * (float)l->b_scale;
            out[at] = to_byte(left + right, l->zero, l->low);
        } else if (l->kind == MEAN) {
            for (int64_t p = 0; p < places; p++) sum += x[p * l->in[2] + o] - l->x_zero;
            out[at] = to_byte((float)sum * (float)(l->a_scale / (double)places), l->zero, 0);
        } else {
            out[at] = l->kind == POOL ? (uint8_t)window_max(l, x, i, j, o) : x[at];
        }
    }
}

static int64_t elements(const int64_t *dims) { return dims[0] * dims[1] * dims[2]; }

static void expect(const network *g, int64_t rows, const uint8_t *x, void *y)
{
    static uint8_t values[MAX_LAYERS + 1][MAX_VALUE];
    for (int64_t r = 0; r < rows; r++) {
        memcpy(values[0], x + r * elements(g->at[0].in), (size_t)elements(g->at[0].in));
        for (int i = 0; i < g->n; i++) {
            const layer *l = &g->at[i];
            bool is_last = i + 1 == g->n;
            run_layer(l, values[i], values[l->other], values[i + 1],
                      is_last && g->is_f32 ? (float *)y + r * elements(l->out) : NULL);
            if (is_last && !g->is_f32)
                memcpy((uint8_t *)y + r * elements(l->out), values[i + 1], (size_t)elements(l->out));
        }
    }
}

/* ---- runs ---- */
static const int64_t batches[] = {1, 0, MAX_ROWS, 2, 7};
enum { BATCHES = sizeof batches / sizeof *batches };

typedef struct runner {
    tb_exec *exec;
    tb_isa isa;
    int threads;
    size_t bytes;           /* of a row's result */
    const void *x, *wanted; /* of MAX_ROWS rows */
    int64_t differs;        /* the batch that did, or -1 */
    tb_status status;
} runner;

static void *run_batches(void *arg)
{
    static _Thread_local char y[MAX_VALUE * sizeof(float)];
    runner *r = arg;
    tb_ctx *ctx = NULL;
    tb_session *s = NULL;
    r->differs = -1;
    r->status = tb_ctx_create(&(tb_ctx_config){.threads = r->threads}, &ctx);
    if (r->status == TB_OK) {
        tb_ctx_limit_kernels(ctx, r->isa, false);
        r->status = tb_session_create(r->exec, ctx, &s);
    }
    for (int i = 0; i < BATCHES && r->status == TB_OK; i++) {
        memset(y, 0xAA, sizeof y);
        r->status = tb_session_run(s, &batches[i], &r->x, (void *[]){y});
        if (memcmp(y, r->wanted, r->bytes * (size_t)batches[i]) != 0) r->differs = batches[i];
    }
    tb_session_free(s);
    tb_ctx_destroy(ctx);
    return NULL;
}

static void describe(const network *g)
{
    static const char *const names[] = {"conv", "depthwise", "add", "pool", "mean", "flatten", "linear"};
    for (int i = 0; i < g->n; i++) {
        const layer *l = &g->at[i];
        print_message("  %s %lldx%lldx%lld -> %lldx%lldx%lld kernel %lldx%lld zero %lld %lld low %lld\n",
                      names[l->kind], (long long)l->in[0], (long long)l->in[1], (long long)l->in[2],
                      (long long)l->out[0], (long long)l->out[1], (long long)l->out[2], (long long)l->kernel[0],
                      (long long)l->kernel[1], (long long)l->x_zero, (long long)l->zero, (long long)l->low);
    }
}

static void check(network *g, bool compiles)
{
    static uint8_t x[MAX_VALUE];
    static float wanted[MAX_VALUE];
    const int64_t *dims = g->at[0].in, *last = g->at[g->n - 1].out;
    int64_t kind = draw(g, 3), n = elements(dims) * MAX_ROWS;
    tb_graph *graph;
    tb_exec *e;
    for (int64_t i = 0; i < n; i++) x[i] = (uint8_t)(kind == 0 ? draw(g, 2) * 255 : draw(g, 256));
    expect(g, MAX_ROWS, x, wanted);
    tb_scope *scope = tb_scope_open();
    make_tensors(g);
    assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1,
                         &(tb_capture_input){"x", TB_U8, 4, {-1, dims[0], dims[1], dims[2]}}, forward, g, &graph));
    if (compiles) assert_ok(tb_compile(graph, NULL, NULL));
    assert_ok(tb_exec_create(graph, &e));
    for (int isa = TB_ISA_SCALAR; isa <= (int)tb_isa_detect(); isa++) {
        runner r[2];
        pthread_t other;
        for (int k = 0; k < 2; k++)
            r[k] = (runner){e, (tb_isa)isa, 1 + k, (size_t)elements(last) * (g->is_f32 ? 4 : 1), x, wanted, -1, TB_OK};
        assert_int_equal(pthread_create(&other, NULL, run_batches, &r[1]), 0);
        run_batches(&r[0]);
        pthread_join(other, NULL);
        for (int k = 0; k < 2; k++)
            if (r[k].status != TB_OK || r[k].differs >= 0) {
                describe(g);
                fail_msg("network %llu, %s, %d threads, batch %lld: %s", (unsigned long long)g->seed,
                         tb_isa_name((tb_isa)isa), 1 + k, (long long)r[k].differs,
                         r[k].status == TB_OK ? "other integers" : tb_error_message());
            }
    }
    tb_exec_free(e);
    tb_scope_close(scope);
}

static void networks_have_the_integers_of_their_formulas(void **state)
{
    static network g;
    const char *n = getenv("TB_TEST_GRAPHS");
    (void)state;
    for (uint64_t seed = 0; seed < (n ? strtoull(n, NULL, 10) : GRAPHS); seed++) {
        draw_network(&g, seed);
        check(&g, seed % 2);
        free_network(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(networks_have_the_integers_of_their_formulas)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
