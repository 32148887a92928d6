/* A library as a peer of `tb bench`: one shared object tb_peer_<name>.so, loaded on demand, so that the
 * program itself links none of them. It exports tb_peer_entry. */
#pragma once
#include <stdint.h>

enum { TB_PEER_DETAIL = 64 };

/* C[M,N] = A[M,K] W: f32 with W [K,N], or u8 x s8 -> s32 with W [N,K]; dense, row-major, kept by the caller.
 */
typedef struct tb_peer_gemm {
    int is_i8;
    int64_t m, k, n;
    const void *a, *w;
    void *c;
    int threads;                 /* that the library is to use */
    char detail[TB_PEER_DETAIL]; /* filled by open: version, kernel, settings */
} tb_peer_gemm;

typedef struct tb_peer_library {
    /* Prepares the product, packing W where the library can. NULL: it cannot do this one (detail says why).
     */
    void *(*gemm_open)(tb_peer_gemm *g);
    void (*gemm_run)(void *state);
    void (*gemm_close)(void *state);
} tb_peer_library;

extern const tb_peer_library tb_peer_entry;
