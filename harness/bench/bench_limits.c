/* What the machine can do: chains of multiply-adds that depend on nothing but themselves, and reading of a
 * buffer. There are enough chains to hide the latency of the instruction (4 to 6 clocks, two a clock). */
#include "tb_alloc.h"
#include "tb_bench.h"
#include "tb_cpu.h"
#include <immintrin.h>
#include <math.h>

enum { CHAINS = 12, MORE_CHAINS = 24 /* AVX-512 has the registers */, BLOCKS = 24, BLOCK_NS = 1500000 };

typedef struct loop {
    void (*run)(int64_t rounds);
    double ops; /* of one round: a multiplication and an addition are two */
} loop;

#define PEAK_LOOP(name, chains, isa, type, start, step)                                                      \
    __attribute__((target(isa))) static void name(int64_t rounds)                                            \
    {                                                                                                        \
        type acc[chains];                                                                                    \
        _Pragma("GCC unroll 32") for (int i = 0; i < chains; i++)                                            \
        {                                                                                                    \
            acc[i] = start;                                                                                  \
            __asm__("" : "+v"(acc[i])); /* equal chains would become one */                                  \
        }                                                                                                    \
        for (int64_t r = 0; r < rounds; r++) {                                                               \
            _Pragma("GCC unroll 32") for (int i = 0; i < chains; i++)                                        \
            {                                                                                                \
                step;                                                                                        \
                __asm__("" : "+v"(acc[i])); /* GCC would keep copies on the stack */                         \
            }                                                                                                \
        }                                                                                                    \
        _Pragma("GCC unroll 32") for (int i = 0; i < chains; i++) __asm__ volatile("" : : "v"(acc[i]));      \
    }

/* x = 0.999 x + 0.001 stays near 1: no denormals, no overflow. */
PEAK_LOOP(f32_scalar, CHAINS, "fma", __m128, _mm_set_ss(1),
          acc[i] = _mm_fmadd_ss(acc[i], _mm_set_ss(0.999f), _mm_set_ss(0.001f)))
PEAK_LOOP(f32_avx2, CHAINS, "avx2,fma", __m256, _mm256_set1_ps(1),
          acc[i] = _mm256_fmadd_ps(acc[i], _mm256_set1_ps(0.999f), _mm256_set1_ps(0.001f)))
PEAK_LOOP(f32_avx512, MORE_CHAINS, "avx512f", __m512, _mm512_set1_ps(1),
          acc[i] = _mm512_fmadd_ps(acc[i], _mm512_set1_ps(0.999f), _mm512_set1_ps(0.001f)))
PEAK_LOOP(bf16_avx512, MORE_CHAINS, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(),
          acc[i] = _mm512_dpbf16_ps(acc[i], (__m512bh)_mm512_set1_epi16(0x3f80), (__m512bh)_mm512_set1_epi16(0)))
PEAK_LOOP(i8_avx512vnni, MORE_CHAINS, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(),
          acc[i] = _mm512_dpbusd_epi32(acc[i], _mm512_set1_epi8(1), _mm512_set1_epi8(1)))

/* Exact on AVX2: 16-bit factors, pairs summed in 32 bits. The product is volatile, lest it leave the loop. */
__attribute__((target("avx2"))) static inline __m256i madd16(__m256i a, __m256i b)
{
    __m256i product;
    __asm__ volatile("vpmaddwd %1, %2, %0" : "=x"(product) : "x"(a), "x"(b));
    return product;
}
PEAK_LOOP(i8_avx2, CHAINS, "avx2", __m256i, _mm256_setzero_si256(),
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
        if (isa >= TB_ISA_AVX512) return (loop){f32_avx512, MORE_CHAINS * 32};
        if (isa == TB_ISA_AVX2) return (loop){f32_avx2, CHAINS * 16};
        if (__builtin_cpu_supports("fma")) return (loop){f32_scalar, CHAINS * 2};
    }
    if (dtype == TB_BF16) { /* without the instruction, products are widened */
        if (isa >= TB_ISA_AVX512 && tb_cpu_has_bf16()) return (loop){bf16_avx512, MORE_CHAINS * 64};
        return loop_of(TB_F32, isa > TB_ISA_AVX2 ? TB_ISA_AVX2 : isa);
    }
    if (dtype == TB_I8) {
        if (isa == TB_ISA_AVX512VNNI) return (loop){i8_avx512vnni, MORE_CHAINS * 128};
        return isa == TB_ISA_SCALAR ? (loop){i8_scalar, 4 * 2} : (loop){i8_avx2, CHAINS * 32};
    }
    return (loop){0};
}

/* ---- blocks ---- */
/* Work that a thread does so many times; blocks of it run on all threads of a pool at once. */
typedef struct block {
    void (*run)(const struct block *b, int thread);
    int64_t times;
    loop l; /* of multiply-adds */
    void (*read)(const char *p, size_t bytes);
    const char *data; /* to be read: [threads][part] */
    size_t part;
} block;

static void run_block(void *arg, int64_t begin, int64_t end, int thread)
{
    const block *b = arg;
    (void)end, (void)thread;
    b->run(b, (int)begin);
}

static double timed(tb_pool *pool, block *b)
{
    int64_t start = tb_now_ns();
    tb_pool_run(pool, tb_pool_threads(pool), run_block, b);
    return (double)(tb_now_ns() - start);
}

/* How often makes a block, found on the calling thread alone: a helper that the system lets wait must not
 * make blocks of next to no work. */
static void set_times(block *b)
{
    for (b->times = 1;; b->times *= 2) {
        double least = timed(NULL, b);
        for (int i = 0; i < 2; i++) least = fmin(least, timed(NULL, b));
        if (least >= BLOCK_NS / 2) return;
    }
}

/* The least nanoseconds that the pool's threads took for `times` each. */
static double least_ns(tb_pool *pool, block *b)
{
    double least = INFINITY;
    set_times(b);
    for (int i = 0; i < BLOCKS; i++) least = fmin(least, timed(pool, b));
    return least;
}

static void run_loop(const block *b, int thread)
{
    (void)thread;
    b->l.run(b->times * 1000);
}

double tb_limit_flops(tb_dtype dtype, tb_isa isa, tb_pool *pool)
{
    block b = {.run = run_loop, .l = loop_of(dtype, isa)};
    if (!b.l.run) return 0;
    double ns = least_ns(pool, &b);
    return b.l.ops * 1000 * (double)b.times * tb_pool_threads(pool) / ns * 1e9;
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

static void run_read(const block *b, int thread)
{
    for (int64_t i = 0; i < b->times; i++) b->read(b->data + (size_t)thread * b->part, b->part);
}

double tb_limit_read(size_t bytes, tb_isa isa, tb_pool *pool)
{
    size_t threads = (size_t)tb_pool_threads(pool), part = (bytes / threads + 511) & ~(size_t)511;
    char *data = tb_calloc(part * threads, 1);
    if (!data) return (double)NAN;
    if (isa > tb_isa_detect()) isa = tb_isa_detect();
    block b = {.run = run_read, .data = data, .part = part};
    b.read = isa >= TB_ISA_AVX512 ? read_avx512 : isa == TB_ISA_AVX2 ? read_avx2 : read_sse2;
    double ns = least_ns(pool, &b);
    tb_free(data);
    return (double)(part * threads) * (double)b.times / ns * 1e9;
}
