/* conv2d_u8s8 in plain loops. */
#include "gemm_u8s8.h"

typedef uint8_t cell;
typedef int8_t wcell;
enum { TILE_ROWS = 4, PANELS = 1 };
static inline int64_t packed_place(int64_t column, int64_t k) { return column * 4 + k; }
#include "conv_u8s8.h"

static void tile(const tile_job *t, int rows, int panels, const tb_gemm_u8s8_args *out, int64_t i, int64_t j)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < panels * PANEL && j + c < out->n; c++) {
            const wcell *w = t->w + c / PANEL * t->panel_cells + c % PANEL * 4;
            int32_t sum = 0;
            for (int64_t y = 0; y < t->kh; y++)
                for (int64_t x = 0; x < t->kw; x++) {
                    const cell *at = t->row[r] + y * t->step_h + x * t->step_w;
                    for (int64_t q = 0; q < t->quads; q++, at += 4, w += PANEL * 4)
                        for (int k = 0; k < 4; k++) sum += (int32_t)at[k] * w[k];
                }
            u8s8_store(out, i + r, j + c, sum);
        }
}

TB_KERNEL(conv2d_u8s8_scalar) = CONV_U8S8_KERNEL(TB_ISA_SCALAR, "scalar");
