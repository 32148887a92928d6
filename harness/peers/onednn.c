/* oneDNN: its matmul primitive, with the weights reordered once into the layout that the primitive asks for.
 */
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

const tb_peer_library tb_peer_entry = {gemm_open, gemm_run, gemm_close};
