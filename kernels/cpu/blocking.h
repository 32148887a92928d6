/* Blocking sizes of the gemm family, one line per dtype and ISA; each number says where it comes from.
 *
 *   MR x NV   register tile: MR rows of C by NV vectors. Wanted: MR * NV accumulators + NV vectors of B + 1 of A fit
 *             the register file (16 on AVX2, 32 on AVX-512), and >= latency * issue (4 * 2) accumulators.
 *   KC        K range of one pass. The A rows of a tile (MR * KC floats) and one panel of B (NV * VL * KC) pass
 *             through L1; longer passes cost fewer reloads of the tile.
 *   NC        columns of B packed at once: KC * NC floats are to stay in half of L2 (three quarters on AVX-512), where
 *             the tiles stream them. Shorter passes take as many more columns.
 *   MC        rows of C that reuse a packed block: its packing costs about 1/MC of the arithmetic.
 *   DIRECT_M  up to this many rows B is read where it lies: packing it would cost as much as the arithmetic. */
#pragma once

#define BLOCKING(mr, nv, kc, nc, mc, direct_m)                                                                        \
    enum { MR = mr, NV = nv, KC = kc, NC = nc, MC = mc, DIRECT_M = direct_m }

#define BLOCKING_F32_SCALAR BLOCKING(4, 4, 256, 256, 1024, 4)
#define BLOCKING_F32_AVX2 BLOCKING(6, 2, 256, 256, 1024, 12)
/* Half as many passes as with KC = 256, NC = 512, and less of C in flight: 512 and 1024 cubed gain 3 and 2 %, on two
 * threads up to 11 %. NC = 256 reads A more often: 2 % behind at 1024 and 2048 cubed. */
#define BLOCKING_F32_AVX512      BLOCKING(14, 2, 512, 384, 1024, 28)
/* Products of bf16: a float is a pair. Without vdpbf16ps both halves of a pair need registers. */
#define BLOCKING_BF16_SCALAR BLOCKING(4, 4, 256, 256, 1024, 4)
#define BLOCKING_BF16_AVX2 BLOCKING(4, 2, 256, 256, 1024, 12)
#define BLOCKING_BF16_AVX512BF16 BLOCKING(14, 2, 512, 256, 1024, 28)

/* What the floating gemms choose by, whatever the dtype and ISA:
 *   PACKED_ELEMENT_MACS  packing an element of B whose columns lie along memory (transposed in registers) takes about
 *                        as long as so many multiply-adds; the transposed product, which packs A, is weighed
 *                        against it. So does what a thread reads or packs of an operand that all share
 *   A_GAP                floats between rows of A that are copied: a line, so that rows a power of two apart do not
 *                        share the sets of L1
 *   SHARED_SETS_FLOATS   rows of A so far apart (or a multiple) share them: 64 sets of 64 bytes are 4096 bytes
 *   SET_PANELS           copying such rows pays where so many panels of B at least read the copy
 *   ROWS_MARGIN          threads share out rows even where that is 1/16 more work than columns
 *   TINY_MACS            products of at most so many multiply-adds (a tenth of a microsecond) run without a plan
 *   TINY_K               and of at most so many steps: a copied B stays in 4 KiB */
enum {
    PACKED_ELEMENT_MACS = 8,
    A_GAP = 16,
    SHARED_SETS_FLOATS = 1024,
    SET_PANELS = 4,
    ROWS_MARGIN = 16,
    TINY_MACS = 4096,
    TINY_K = 64
};

/* What the convolutions cut images by. L2 is 1 MiB.
 *   WASTE_PERCENT        lanes beyond the ends of rows that cost less than packing: 12 of 16, or 24 of 32, in use do
 *   CONV_ROWS_INSIDE     up to so many rows of weights a packed panel is used by all of them while it is in L1; the
 *                        weights come from L2
 *   BAND_FLOATS          of the frame of a band of rows of a direct convolution: an eighth of L2, beside its weights
 *   WEIGHT_GRAD_K        steps of k in a block of the weights' gradient: the copied part of the frame stays in L2
 *   PIXELS_K             taps of all channels of a panel of pixels that stays in L1: 32 KiB where it is 32 wide
 *   WINOGRAD_FLOATS      transformed inputs and products of a unit: 3/8 of L2, beside the weights and the frame
 *   FRAME_CELLS          of a chunk of an integer convolution: an eighth of L2 where a cell is a byte
 *   MIN_CHUNK_PIXELS     pixels of a chunk that are worth its frame
 *   DEPTHWISE_*          rows (of so many lanes) x vectors of sums: at most half of the registers; 3x3: with a row of
 *                        the image at its three places and the weights they fill 32 */
enum {
    WASTE_PERCENT = 34,
    CONV_ROWS_INSIDE = 1024,
    BAND_FLOATS = 32 << 10,
    WEIGHT_GRAD_K = 256,
    PIXELS_K = 256,
    WINOGRAD_FLOATS = 96 << 10,
    FRAME_CELLS = 128 << 10,
    MIN_CHUNK_PIXELS = 64,
    DEPTHWISE_VECTORS = 4,
    DEPTHWISE_ROWS_16 = 4,
    DEPTHWISE_ROWS_8 = 2,
    DEPTHWISE_3X3_ROWS = 4,
    DEPTHWISE_3X3_VECTORS = 2
};

/* The integer kernel reads A where it lies and passes over K once. BLOCK_BYTES of weights stay in half of L2; up to
 * DIRECT_M rows, A stays there instead and the weights are read once. */
#define BLOCKING_U8S8_AVX512VNNI enum { MR = 14, BLOCK_BYTES = 512 << 10, DIRECT_M = 56 }

/* A thread is worth its hand-over (about a microsecond) from this many multiply-adds on; VNNI does four times as many
 * in that time. */
enum { MACS_PER_THREAD = 1 << 17, MACS_PER_THREAD_VNNI = 1 << 19 };
