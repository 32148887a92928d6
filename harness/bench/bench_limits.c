/* What the machine can do: chains of multiply-adds that depend on nothing but themselves, and reading of a
 * buffer. There are enough chains to hide the latency of the instruction (4 to 5 clocks, two a clock). */
#include "tb_alloc.h"
#include "tb_bench.h"
#include "tb_cpu.h"
#include <immintrin.h>
#include <math.h>

enum { CHAINS = 12, BLOCKS = 12, BLOCK_NS = 1500000 };

typedef struct loop {
    void (*run)(int64_t rounds);
    double ops; /* of one round: a multiplication and an addition are two */
} loop;

#define PEAK_LOOP(name, isa, type, start, step)                                                              \
    __attribute__((target(isa))) static void name(int64_t rounds)                                            \
    {                                                                                                        \
        type acc[CHAINS];                                                                                    \
        _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++)                                            \
        {                                                                                                    \
            acc[i] = start;                                                                                  \
            __asm__("" : "+v"(acc[i])); /* equal chains would become one */                                  \
        }                                                                                                    \
        for (int64_t r = 0; r < rounds; r++) {                                                               \
            _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) step;                                  \
        }                                                                                                    \
        _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) __asm__ volatile("" : : "v"(acc[i]));      \
    }

/* x = 0.999 x + 0.001 stays near 1: no denormals, no overflow. */
PEAK_LOOP(f32_scalar, "fma", __m128, _mm_set_ss(1),
          acc[i] = _mm_fmadd_ss(acc[i], _mm_set_ss(0.999f), _mm_set_ss(0.001f)))
PEAK_LOOP(f32_avx2, "avx2,fma", __m256, _mm256_set1_ps(1),
          acc[i] = _mm256_fmadd_ps(acc[i], _mm256_set1_ps(0.999f), _mm256_set1_ps(0.001f)))
PEAK_LOOP(f32_avx512, "avx512f", __m512, _mm512_set1_ps(1),
          acc[i] = _mm512_fmadd_ps(acc[i], _mm512_set1_ps(0.999f), _mm512_set1_ps(0.001f)))
PEAK_LOOP(i8_avx512vnni, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(),
          acc[i] = _mm512_dpbusd_epi32(acc[i], _mm512_set1_epi8(1), _mm512_set1_epi8(1)))

/* Exact on AVX2: 16-bit factors, pairs summed in 32 bits. The product is volatile, lest it leave the loop. */
__attribute__((target("avx2"))) static inline __m256i madd16(__m256i a, __m256i b)
{
    __m256i product;
    __asm__ volatile("vpmaddwd %1, %2, %0" : "=x"(product) : "x"(a), "x"(b));
    return product;
}
PEAK_LOOP(i8_avx2, "avx2", __m256i, _mm256_setzero_si256(),
          acc[i] = _mm256_add_epi32(acc[i], madd16(_mm256_set1_epi16(1), _mm256_set1_epi16(1))))

static void i8_scalar(int64_t rounds)
{
    uint32_t sum[4] = {0}, factor = 3;
    __asm__("" : "+r"(factor));
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < 4; i++) {
            uint32_t product = factor;
            __asm__ volatile("imul %1, %0" : "+r"(product) : "r"(factor) : "cc");
            sum[i] += product;
        }
    for (int i = 0; i < 4; i++) __asm__ volatile("" : : "r"(sum[i]));
}

static loop loop_of(tb_dtype dtype, tb_isa isa)
{
    if (isa > tb_isa_detect()) return (loop){0};
    if (dtype == TB_F32) {
        if (isa >= TB_ISA_AVX512) return (loop){f32_avx512, CHAINS * 32};
        if (isa == TB_ISA_AVX2) return (loop){f32_avx2, CHAINS * 16};
        if (__builtin_cpu_supports("fma")) return (loop){f32_scalar, CHAINS * 2};
    }
    if (dtype == TB_I8) {
        if (isa == TB_ISA_AVX512VNNI) return (loop){i8_avx512vnni, CHAINS * 128};
        return isa == TB_ISA_SCALAR ? (loop){i8_scalar, 4 * 2} : (loop){i8_avx2, CHAINS * 32};
    }
    return (loop){0};
}

typedef struct loop_job {
    loop l;
    int64_t rounds;
} loop_job;

static void run_loop(void *arg, int64_t begin, int64_t end, int thread)
{
    loop_job *j = arg;
    (void)begin, (void)end, (void)thread;
    j->l.run(j->rounds);
}

double tb_limit_flops(tb_dtype dtype, tb_isa isa, tb_pool *pool)
{
    int threads = tb_pool_threads(pool);
    loop_job j = {.l = loop_of(dtype, isa), .rounds = 1000};
    double best = 0;
    if (!j.l.run) return 0;
    for (int block = 0; block < BLOCKS;) {
        int64_t start = tb_now_ns();
        tb_pool_run(pool, threads, run_loop, &j);
        double ns = (double)(tb_now_ns() - start);
        if (ns < BLOCK_NS / 2) { /* still looking for the length of a block */
            j.rounds *= 2;
            continue;
        }
        best = fmax(best, j.l.ops * (double)j.rounds * threads / ns * 1e9);
        block++;
    }
    return best;
}

/* ---- reading ---- */
#define READ_LOOP(name, isa, type, zero, join, load)                                                         \
    __attribute__((target(isa))) static void name(const char *p, size_t bytes)                               \
    {                                                                                                        \
        type sum[8];                                                                                         \
        _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) sum[i] = zero;                                   \
        for (size_t at = 0; at + 8 * sizeof(type) <= bytes; at += 8 * sizeof(type)) {                        \
            _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) sum[i] =                                     \
                join(sum[i], load((const type *)(p + at) + i));                                              \
        }                                                                                                    \
        _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) __asm__ volatile("" : : "v"(sum[i]));            \
    }
READ_LOOP(read_sse2, "sse2", __m128i, _mm_setzero_si128(), _mm_or_si128, _mm_load_si128)
READ_LOOP(read_avx2, "avx2", __m256i, _mm256_setzero_si256(), _mm256_or_si256, _mm256_load_si256)
READ_LOOP(read_avx512, "avx512f", __m512i, _mm512_setzero_si512(), _mm512_or_si512, _mm512_load_si512)

typedef struct read_job {
    void (*read)(const char *p, size_t bytes);
    const char *data;
    size_t part; /* of one thread */
    int64_t times;
} read_job;

static void run_read(void *arg, int64_t begin, int64_t end, int thread)
{
    read_job *j = arg;
    (void)end, (void)thread;
    for (int64_t i = 0; i < j->times; i++) j->read(j->data + (size_t)begin * j->part, j->part);
}

double tb_limit_read(size_t bytes, tb_isa isa, tb_pool *pool)
{
    int threads = tb_pool_threads(pool);
    if (isa > tb_isa_detect()) isa = tb_isa_detect();
    size_t part = (bytes / (size_t)threads + 511) & ~(size_t)511;
    char *data = tb_calloc(part * (size_t)threads, 1);
    double best = 0;
    if (!data) return NAN;
    read_job j = {isa >= TB_ISA_AVX512 ? read_avx512
                  : isa == TB_ISA_AVX2 ? read_avx2
                                       : read_sse2,
                  data, part, 1};
    for (int block = 0; block < BLOCKS;) {
        int64_t start = tb_now_ns();
        tb_pool_run(pool, threads, run_read, &j);
        double ns = (double)(tb_now_ns() - start);
        if (ns < BLOCK_NS / 2) {
            j.times *= 2;
            continue;
        }
        best = fmax(best, (double)part * threads * (double)j.times / ns * 1e9);
        block++;
    }
    tb_free(data);
    return best;
}
