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

/* y = conv(x, w) + bias: x [n, c, h, w], w [o, c / groups, k, k], f32, zeros `pad` wide around x; kept by the
 * caller. */
typedef struct tb_peer_conv {
    int64_t n, c, h, w, o, k, stride, pad, groups, oh, ow;
    const float *x, *weight, *bias;
    float *y;
    int threads;
    char detail[TB_PEER_DETAIL];
} tb_peer_conv;

typedef struct tb_peer_library {
    /* Prepares the product, packing W where the library can. NULL: it cannot do this one (detail says why).
     */
    void *(*gemm_open)(tb_peer_gemm *g);
    void (*gemm_run)(void *state);
    void (*gemm_close)(void *state);
    /* The same for a convolution as a layer inside a network: x and y stay in the library's own layout.
     * conv_read puts y into the caller's. NULL: the library has none. */
    void *(*conv_open)(tb_peer_conv *c);
    void (*conv_run)(void *state);
    int (*conv_read)(void *state);
    void (*conv_close)(void *state);
} tb_peer_library;

extern const tb_peer_library tb_peer_entry;
