/* Batch norm over planes (Ioffe, Szegedy: "Batch Normalization", 2015), a channel at a time, so that all
 * passes over it but the first find it in cache. Sums over a channel: 32 lanes along a plane that go on from
 * image to image of a block, then the tree over the blocks. */
#pragma once
#include "lanes.h"
#include "sizes.h"
#include "tb_kernel.h"

/* What one pass over a channel adds up. */
typedef struct channel_sums {
    float first, second;
} channel_sums;

VEC float tree_sum(float *block, int blocks)
{
    for (int step = 1; step < blocks; step *= 2)
        for (int b = 0; b < blocks; b += 2 * step) block[b] += block[b + step];
    return block[0];
}

VEC float channel_value(const void *values, int64_t channel, float otherwise)
{
    return values ? ((const float *)values)[channel] : otherwise;
}

VEC float deviation_inverse(const tb_batch_norm_args *p, float var)
{
    return 1.0f / first_of(vf_sqrt(vf_set1(var + (float)p->eps)));
}

/* Sum over a channel of x - mean, or of its square. */
VEC float sum_of_powers(const tb_batch_norm_args *p, const float *x, float mean, bool squares)
{
    float block[8] = {0};
    int64_t images = div_up(p->n, p->tree);
    for (int b = 0; b < p->tree; b++) {
        lanes s = lanes_set1(0.0f);
        for (int64_t image = b * images; image < min_i64((b + 1) * images, p->n); image++) {
            const float *row = x + image * p->image;
            FOR_LANES(i, q, left, p->plane)
            {
                vf d = vf_sub(load_filled(row + i, left, mean), vf_set1(mean));
                s.v[q] = squares ? vf_fma(d, d, s.v[q]) : vf_add(s.v[q], d);
            }
        }
        block[b] = lanes_sum(s);
    }
    return tree_sum(block, p->tree);
}

/* What a channel's values become: (x - mean) scale + beta. */
typedef struct channel_map {
    float mean, scale, beta;
} channel_map;

VEC channel_map map_of(const tb_batch_norm_args *p, int64_t channel, float mean, float rstd)
{
    return (channel_map){mean, rstd * channel_value(p->gamma, channel, 1.0f), channel_value(p->beta, channel, 0.0f)};
}

VEC void normalise(const channel_map *m, const float *x, float *y, int64_t plane)
{
    vf mean = vf_set1(m->mean), scale = vf_set1(m->scale), beta = vf_set1(m->beta);
    int64_t i = 0;
    for (; i + VL <= plane; i += VL) vf_store(y + i, vf_fma(vf_sub(vf_load(x + i), mean), scale, beta));
    if (i == plane) return;
    int left = (int)(plane - i);
    vf_store_n(y + i, vf_fma(vf_sub(vf_load_n(x + i, left), mean), scale, beta), left);
}

static void run_batch_norm(const void *args)
{
    const tb_batch_norm_args *p = args;
    float count = (float)(p->n * p->plane);
    for (int64_t c = 0; c < p->c; c++) {
        const float *x = (const float *)p->x + c * p->plane;
        float mean = sum_of_powers(p, x, 0.0f, false) / count, var = sum_of_powers(p, x, mean, true) / count;
        channel_map map = map_of(p, c, mean, deviation_inverse(p, var));
        for (int64_t image = 0; image < p->n; image++)
            normalise(&map, x + image * p->image, (float *)p->out + c * p->plane + image * p->image, p->plane);
        ((float *)p->mean_out)[c] = mean;
        ((float *)p->var_out)[c] = var;
    }
}

/* In the order of memory: nothing is read twice. */
static void run_batch_norm_eval(const void *args)
{
    enum { MAPS = 256 };
    const tb_batch_norm_args *p = args;
    channel_map maps[MAPS];
    for (int64_t first = 0; first < p->c; first += MAPS) {
        int64_t n = min_i64(p->c - first, MAPS), at = first * p->plane;
        for (int64_t c = first; c < first + n; c++) {
            float rstd = deviation_inverse(p, ((const float *)p->var)[c]);
            maps[c - first] = map_of(p, c, ((const float *)p->mean)[c], rstd);
        }
        for (int64_t image = 0; image < p->n; image++)
            for (int64_t c = 0; c < n; c++) {
                int64_t plane = at + image * p->image + c * p->plane;
                normalise(&maps[c], (const float *)p->x + plane, (float *)p->out + plane, p->plane);
            }
    }
}

/* Sums of g h and of g. */
VEC channel_sums gradient_sums(const tb_batch_norm_args *p, int64_t at, float mean, float rstd)
{
    float block_gh[8] = {0}, block_g[8] = {0};
    int64_t images = div_up(p->n, p->tree);
    for (int b = 0; b < p->tree; b++) {
        lanes sum_gh = lanes_set1(0.0f), sum_g = sum_gh;
        for (int64_t image = b * images; image < min_i64((b + 1) * images, p->n); image++) {
            const float *x = (const float *)p->x + at + image * p->image,
                        *g = (const float *)p->g + at + image * p->image;
            FOR_LANES(i, q, left, p->plane)
            {
                vf h = vf_mul(vf_sub(load_filled(x + i, left, mean), vf_set1(mean)), vf_set1(rstd));
                vf gi = load_filled(g + i, left, 0.0f);
                sum_gh.v[q] = vf_fma(gi, h, sum_gh.v[q]);
                sum_g.v[q] = vf_add(sum_g.v[q], gi);
            }
        }
        block_gh[b] = lanes_sum(sum_gh);
        block_g[b] = lanes_sum(sum_g);
    }
    return (channel_sums){tree_sum(block_gh, p->tree), tree_sum(block_g, p->tree)};
}

static void run_batch_norm_grad(const void *args)
{
    const tb_batch_norm_args *p = args;
    float count = (float)(p->n * p->plane);
    for (int64_t c = 0; c < p->c; c++) {
        float mean = ((const float *)p->mean)[c], rstd = deviation_inverse(p, ((const float *)p->var)[c]);
        channel_sums sums = gradient_sums(p, c * p->plane, mean, rstd);
        vf m = vf_set1(mean), r = vf_set1(rstd), scale = vf_set1(rstd * channel_value(p->gamma, c, 1.0f)),
           mean_gh = vf_set1(sums.first / count), mean_g = vf_set1(sums.second / count);
        for (int64_t image = 0; image < p->n; image++) {
            int64_t at = image * p->image + c * p->plane;
            const float *x = (const float *)p->x + at, *g = (const float *)p->g + at;
            float *dx = (float *)p->out + at;
            for (int64_t i = 0; i < p->plane; i += VL) {
                int64_t left = p->plane - i;
                vf h = vf_mul(vf_sub(vf_load_part(x + i, left), m), r);
                vf centred = vf_sub(vf_load_part(g + i, left), mean_g);
                vf_store_part(dx + i, vf_mul(scale, vf_fnma(h, mean_gh, centred)), left);
            }
        }
        ((float *)p->dgamma)[c] = sums.first;
        ((float *)p->dbeta)[c] = sums.second;
    }
}
