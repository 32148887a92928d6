/* oneDNN: its matmul and convolution primitives. Weights are reordered once into the layout that the primitive
 * asks for; so are images, whose layout stays from one layer of a network to the next. */
#include "tb_peer_library.h"
#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct product {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t matmul;
    dnnl_memory_t src, weights, dst;
} product;

static void gemm_close(void *state)
{
    product *p = state;
    dnnl_memory_destroy(p->src);
    dnnl_memory_destroy(p->weights);
    dnnl_memory_destroy(p->dst);
    dnnl_primitive_destroy(p->matmul);
    dnnl_primitive_desc_destroy(p->desc);
    dnnl_stream_destroy(p->stream);
    dnnl_engine_destroy(p->engine);
    free(p);
}

static int make_matmul(product *p, const dnnl_memory_desc_t *src, const dnnl_memory_desc_t *any,
                       const dnnl_memory_desc_t *dst)
{
    dnnl_matmul_desc_t d;
    return dnnl_matmul_desc_init(&d, src, any, NULL, dst) == dnnl_success &&
           dnnl_primitive_desc_create(&p->desc, &d, NULL, p->engine, NULL) == dnnl_success &&
           dnnl_primitive_create(&p->matmul, p->desc) == dnnl_success;
}

/* The weights in the primitive's own layout, in oneDNN's memory. */
static int reorder_weights(product *p, const dnnl_memory_desc_t *plain, void *w)
{
    const dnnl_memory_desc_t *packed = dnnl_primitive_desc_query_md(p->desc, dnnl_query_weights_md, 0);
    dnnl_memory_t from = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t reorder = NULL;
    int ok = dnnl_memory_create(&from, plain, p->engine, w) == dnnl_success &&
             dnnl_memory_create(&p->weights, packed, p->engine, DNNL_MEMORY_ALLOCATE) == dnnl_success &&
             dnnl_reorder_primitive_desc_create(&desc, plain, p->engine, packed, p->engine, NULL) ==
                 dnnl_success &&
             dnnl_primitive_create(&reorder, desc) == dnnl_success;
    if (ok) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, p->weights}};
        ok = dnnl_primitive_execute(reorder, p->stream, 2, args) == dnnl_success &&
             dnnl_stream_wait(p->stream) == dnnl_success;
    }
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(desc);
    dnnl_memory_destroy(from);
    return ok;
}

static void *gemm_open(tb_peer_gemm *g)
{
    product *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    omp_set_num_threads(g->threads);
    dnnl_dims_t a = {g->m, g->k}, w = {g->k, g->n}, c = {g->m, g->n};
    dnnl_data_type_t in = g->is_i8 ? dnnl_u8 : dnnl_f32, weight = g->is_i8 ? dnnl_s8 : dnnl_f32,
                     out = g->is_i8 ? dnnl_s32 : dnnl_f32;
    dnnl_memory_desc_t src, plain, any, dst;
    int ok =
        dnnl_memory_desc_init_by_tag(&src, 2, a, in, dnnl_ab) == dnnl_success &&
        dnnl_memory_desc_init_by_tag(&plain, 2, w, weight, g->is_i8 ? dnnl_ba : dnnl_ab) == dnnl_success &&
        dnnl_memory_desc_init_by_tag(&any, 2, w, weight, dnnl_format_tag_any) == dnnl_success &&
        dnnl_memory_desc_init_by_tag(&dst, 2, c, out, dnnl_ab) == dnnl_success &&
        dnnl_engine_create(&p->engine, dnnl_cpu, 0) == dnnl_success &&
        dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) == dnnl_success &&
        make_matmul(p, &src, &any, &dst) && reorder_weights(p, &plain, (void *)(uintptr_t)g->w) &&
        dnnl_memory_create(&p->src, &src, p->engine, (void *)(uintptr_t)g->a) == dnnl_success &&
        dnnl_memory_create(&p->dst, &dst, p->engine, g->c) == dnnl_success;
    if (!ok) {
        snprintf(g->detail, sizeof g->detail, "oneDNN cannot make this product");
        gemm_close(p);
        return NULL;
    }
    const dnnl_version_t *v = dnnl_version();
    const char *kernel = "?";
    dnnl_primitive_desc_query(p->desc, dnnl_query_impl_info_str, 0, (void *)&kernel);
    snprintf(g->detail, sizeof g->detail, "oneDNN %d.%d.%d, %s, packed, %d threads", v->major, v->minor,
             v->patch, kernel, omp_get_max_threads());
    return p;
}

static void gemm_run(void *state)
{
    const product *p = state;
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->src}, {DNNL_ARG_WEIGHTS, p->weights}, {DNNL_ARG_DST, p->dst}};
    dnnl_primitive_execute(p->matmul, p->stream, 3, args);
    dnnl_stream_wait(p->stream);
}

/* ---- convolution ---- */
enum { SRC, WEIGHTS, BIAS, DST, OPERANDS };

typedef struct convolution {
    const tb_peer_conv *c;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t conv;
    dnnl_memory_desc_t plain[OPERANDS];
    dnnl_memory_t at[OPERANDS];
} convolution;

static void conv_close(void *state)
{
    convolution *p = state;
    for (int i = 0; i < OPERANDS; i++) dnnl_memory_destroy(p->at[i]);
    dnnl_primitive_destroy(p->conv);
    dnnl_primitive_desc_destroy(p->desc);
    dnnl_stream_destroy(p->stream);
    dnnl_engine_destroy(p->engine);
    free(p);
}

/* Between the caller's layout and the primitive's. */
static int reorder(const convolution *p, dnnl_memory_t from, dnnl_memory_t to)
{
    const dnnl_memory_desc_t *from_desc, *to_desc;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    int ok = dnnl_memory_get_memory_desc(from, &from_desc) == dnnl_success &&
             dnnl_memory_get_memory_desc(to, &to_desc) == dnnl_success &&
             dnnl_reorder_primitive_desc_create(&desc, from_desc, p->engine, to_desc, p->engine, NULL) ==
                 dnnl_success &&
             dnnl_primitive_create(&primitive, desc) == dnnl_success;
    if (ok) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
        ok = dnnl_primitive_execute(primitive, p->stream, 2, args) == dnnl_success &&
             dnnl_stream_wait(p->stream) == dnnl_success;
    }
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(desc);
    return ok;
}

static int make_operand(convolution *p, int operand, dnnl_query_t query, const void *data)
{
    const dnnl_memory_desc_t *own = dnnl_primitive_desc_query_md(p->desc, query, operand == BIAS ? 1 : 0);
    dnnl_memory_t from = NULL;
    int ok = dnnl_memory_create(&p->at[operand], own, p->engine, DNNL_MEMORY_ALLOCATE) == dnnl_success;
    if (ok && data)
        ok = dnnl_memory_create(&from, &p->plain[operand], p->engine, (void *)(uintptr_t)data) == dnnl_success &&
             reorder(p, from, p->at[operand]);
    dnnl_memory_destroy(from);
    return ok;
}

static int make_conv(convolution *p)
{
    const tb_peer_conv *c = p->c;
    int is_grouped = c->groups > 1;
    dnnl_dims_t x = {c->n, c->c, c->h, c->w}, y = {c->n, c->o, c->oh, c->ow}, bias = {c->o};
    dnnl_dims_t w = {c->o, c->c, c->k, c->k};
    dnnl_dims_t grouped = {c->groups, c->o / c->groups, c->c / c->groups, c->k, c->k};
    dnnl_dims_t stride = {c->stride, c->stride}, pad = {c->pad, c->pad};
    dnnl_dims_t after = {(c->oh - 1) * c->stride + c->k - c->h - c->pad,
                         (c->ow - 1) * c->stride + c->k - c->w - c->pad};
    dnnl_memory_desc_t any[OPERANDS];
    dnnl_convolution_desc_t d;
    const struct {
        int rank;
        const int64_t *dims;
        dnnl_format_tag_t plain;
    } of[OPERANDS] = {{4, x, dnnl_nchw},
                      {is_grouped ? 5 : 4, is_grouped ? grouped : w, is_grouped ? dnnl_goihw : dnnl_oihw},
                      {1, bias, dnnl_a},
                      {4, y, dnnl_nchw}};
    for (int i = 0; i < OPERANDS; i++) {
        dnnl_memory_desc_t *const to[] = {&p->plain[i], &any[i]};
        for (int is_any = 0; is_any < 2; is_any++)
            if (dnnl_memory_desc_init_by_tag(to[is_any], of[i].rank, of[i].dims, dnnl_f32,
                                             is_any ? dnnl_format_tag_any : of[i].plain) != dnnl_success)
                return 0;
    }
    dnnl_status_t made = dnnl_convolution_forward_desc_init(&d, dnnl_forward_inference, dnnl_convolution_direct,
                                                            &any[SRC], &any[WEIGHTS], &any[BIAS], &any[DST], stride,
                                                            pad, after);
    return made == dnnl_success && dnnl_primitive_desc_create(&p->desc, &d, NULL, p->engine, NULL) == dnnl_success &&
           dnnl_primitive_create(&p->conv, p->desc) == dnnl_success &&
           make_operand(p, SRC, dnnl_query_src_md, c->x) &&
           make_operand(p, WEIGHTS, dnnl_query_weights_md, c->weight) &&
           make_operand(p, BIAS, dnnl_query_weights_md, c->bias) && make_operand(p, DST, dnnl_query_dst_md, NULL);
}

static void *conv_open(tb_peer_conv *c)
{
    convolution *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->c = c;
    omp_set_num_threads(c->threads);
    if (dnnl_engine_create(&p->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) != dnnl_success || !make_conv(p)) {
        snprintf(c->detail, sizeof c->detail, "oneDNN cannot make this convolution");
        conv_close(p);
        return NULL;
    }
    const dnnl_version_t *v = dnnl_version();
    const char *kernel = "?";
    dnnl_primitive_desc_query(p->desc, dnnl_query_impl_info_str, 0, (void *)&kernel);
    snprintf(c->detail, sizeof c->detail, "oneDNN %d.%d.%d, %s, own layout, %d threads", v->major, v->minor, v->patch,
             kernel, omp_get_max_threads());
    return p;
}

static void conv_run(void *state)
{
    const convolution *p = state;
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->at[SRC]}, {DNNL_ARG_WEIGHTS, p->at[WEIGHTS]},
                              {DNNL_ARG_BIAS, p->at[BIAS]}, {DNNL_ARG_DST, p->at[DST]}};
    dnnl_primitive_execute(p->conv, p->stream, OPERANDS, args);
    dnnl_stream_wait(p->stream);
}

static int conv_read(void *state)
{
    const convolution *p = state;
    dnnl_memory_t to = NULL;
    int ok = dnnl_memory_create(&to, &p->plain[DST], p->engine, p->c->y) == dnnl_success && reorder(p, p->at[DST], to);
    dnnl_memory_destroy(to);
    return ok;
}

const tb_peer_library tb_peer_entry = {gemm_open, gemm_run,  gemm_close, conv_open,
                                       conv_run,  conv_read, conv_close};
