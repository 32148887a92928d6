/* Shared by the tests of kernels; see kernel_test.h. */
#include "kernel_test.h"
#include "tb_pool.h"
#include "tb_rng.h"
#include <sys/mman.h>
#include <unistd.h>

extern const tb_kernel *const emulated_kernels[];

int kernel_test_find(const char *primitive, tb_dtype dtype, const tb_kernel **out, int max)
{
    tb_isa here = tb_isa_detect();
    int n = tb_kernel_find(primitive, dtype, here, out, max);
    for (const tb_kernel *const *k = emulated_kernels; *k; k++)
        if ((*k)->isa > here && (*k)->dtype == dtype && strcmp((*k)->primitive, primitive) == 0 && n < max)
            out[n++] = *k;
    if (n == 0) fail_msg("no kernel implements %s for %s", primitive, tb_dtype_name(dtype));
    return n;
}

int three_threads(void **state) { return tb_pool_create(3, (tb_pool **)state) == TB_OK ? 0 : -1; }

int no_threads(void **state)
{
    tb_pool_destroy(*state);
    return 0;
}

enum { MAX_BLOCKS = 512 };
static struct {
    void *at;
    size_t bytes;
} blocks[MAX_BLOCKS];
static int n_blocks;

void *guarded(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    assert_true(n_blocks < MAX_BLOCKS);
    char *at = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    assert_int_equal(mprotect(at + body, page, PROT_NONE), 0);
    blocks[n_blocks].at = at;
    blocks[n_blocks++].bytes = body + page;
    memset(at, 0xA5, body);
    return at + body - bytes;
}

void guarded_free_all(void)
{
    while (n_blocks > 0) {
        n_blocks--;
        assert_int_equal(munmap(blocks[n_blocks].at, blocks[n_blocks].bytes), 0);
    }
}

float *guarded_uniform(int64_t n, uint64_t seed, float lo, float hi)
{
    float *x = guarded((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) x[i] = lo + (hi - lo) * (float)tb_random_uniform(seed, 7, (uint64_t)i);
    return x;
}

float *guarded_random(int64_t n, uint64_t seed) { return guarded_uniform(n, seed, -1.0f, 1.0f); }

double ulp_error(float got, double exact)
{
    if (isnan(exact)) return isnan(got) ? 0 : INFINITY;
    if (isinf((float)exact)) return got == (float)exact || (double)fabsf(got) >= (double)FLT_MAX ? 0 : INFINITY;
    if (!isfinite(got)) return INFINITY;
    int exponent = exact == 0 ? -126 : ilogb(exact);
    return fabs((double)got - exact) / ldexp(1, (exponent < -126 ? -126 : exponent) - 23);
}

bool same_bits(const float *a, const float *b, int64_t n) { return memcmp(a, b, (size_t)n * sizeof(float)) == 0; }

void assert_near(const tb_kernel *k, const char *what, int64_t index, double got, double want, double abs_tol,
                 double rel_tol)
{
    if (isnan(got) && isnan(want)) return;
    if (got == want || fabs(got - want) <= abs_tol + rel_tol * fabs(want)) return;
    fail_msg("%s: %s[%lld] is %.9g, must be %.9g", k->name, what, (long long)index, got, want);
}
