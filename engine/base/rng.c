/* Philox4x32-10 and what is derived from it (Salmon et al., SC11, figure 2 and table 2 for the constants). */
#include "tb_rng.h"
#include <math.h>

void tb_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* golden ratio and sqrt(3) - 1: the paper's Weyl sequence */
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Four numbers per block: block = index / 4, lane = index % 4. */
static void block_at(uint64_t seed, uint64_t stream, uint64_t block, uint32_t out[4])
{
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    tb_philox4x32(counter, key, out);
}

uint64_t tb_stream_index(uint64_t parent, uint64_t index)
{
    uint32_t out[4];
    block_at(parent, UINT64_C(0x7374726d), index, out);
    return (uint64_t)out[1] << 32 | out[0];
}

uint64_t tb_stream_name(uint64_t parent, const char *label)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a, then mixed by Philox */
    for (const unsigned char *p = (const unsigned char *)label; *p; p++) h = (h ^ *p) * UINT64_C(0x100000001b3);
    return tb_stream_index(parent ^ UINT64_C(0x6e616d65), h);
}

uint32_t tb_random_u32(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t out[4];
    block_at(seed, stream, index >> 2, out);
    return out[index & 3];
}

double tb_random_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return tb_random_u32(seed, stream, index) * 0x1p-32;
}

double tb_random_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t out[4];
    block_at(seed, stream, index >> 2, out);
    const uint32_t *pair = out + (index & 2);
    double radius = sqrt(-2.0 * log((pair[0] + 0.5) * 0x1p-32));
    double angle = 6.283185307179586476925 * (pair[1] * 0x1p-32);
    return radius * ((index & 1) ? sin(angle) : cos(angle));
}

uint64_t tb_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n)
{
    uint32_t out[4];
    block_at(seed, stream, index, out);
    uint64_t word = (uint64_t)out[1] << 32 | out[0];
    return (uint64_t)(((unsigned __int128)word * n) >> 64);
}

void tb_random_permutation(uint64_t seed, uint64_t stream, int64_t n, int64_t *order)
{
    for (int64_t i = 0; i < n; i++) order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)tb_random_below(seed, stream, (uint64_t)i, (uint64_t)i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}
