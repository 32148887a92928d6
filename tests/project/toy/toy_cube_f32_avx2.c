/* toy_cube, f32, AVX2: a kernel added by one file. */
#include "tb_kernel.h"
#include <immintrin.h>

static void run(const void *args)
{
    const tb_pointwise_args *a = args;
    const float *x = a->in[0];
    float *y = a->out;
    int64_t i = 0;
    for (; a->step[0] == 1 && i + 8 <= a->n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(v, v), v));
    }
    for (; i < a->n; i++) {
        float v = x[i * a->step[0]];
        y[i] = v * v * v;
    }
}

TB_KERNEL(toy_cube_f32_avx2) = {.name = "toy_cube_f32_avx2", .primitive = "toy_cube", .dtype = TB_F32,
                                .isa = TB_ISA_AVX2, .run = run};
