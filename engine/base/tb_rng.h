/* Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as
 * 1, 2, 3", SC11). A number is a pure function of (seed, stream, index): the same on every rank, at any thread
 * count, in any order. Streams are derived from names and indices (step, micro-batch, layer), never from a rank. */
#pragma once
#include <stdint.h>

void tb_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* A stream id from a parent stream and a label or number; distinct inputs give distinct ids with overwhelming odds. */
uint64_t tb_stream_name(uint64_t parent, const char *label);
uint64_t tb_stream_index(uint64_t parent, uint64_t index);

uint32_t tb_random_u32(uint64_t seed, uint64_t stream, uint64_t index);
double tb_random_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* [0, 1), 32 random bits */
double tb_random_normal(uint64_t seed, uint64_t stream, uint64_t index);  /* Box-Muller, one of the pair */
uint64_t tb_random_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n); /* [0, n): multiply-shift */

/* Fills `order` with a permutation of 0..n-1 (Fisher-Yates). */
void tb_random_permutation(uint64_t seed, uint64_t stream, int64_t n, int64_t *order);
