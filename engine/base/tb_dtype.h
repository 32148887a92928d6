/* Element types and their conversions. bf16 is the upper half of f32; f16 is IEEE 754 binary16; both are stored as
 * uint16_t. Conversions round to nearest even, keep NaN as NaN and overflow to infinity. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum tb_dtype { TB_F32, TB_F64, TB_BF16, TB_F16, TB_I8, TB_U8, TB_I32, TB_I64, TB_BOOL, TB_DTYPES } tb_dtype;

const char *tb_dtype_name(tb_dtype t);              /* "f32", ..., "bool" */
bool tb_dtype_parse(const char *name, tb_dtype *t); /* false: no such dtype */
inline size_t tb_dtype_size(tb_dtype t) /* bytes per element */
{
    static const uint8_t bytes[TB_DTYPES] = {4, 8, 2, 2, 1, 1, 4, 8, 1};
    return bytes[t];
}
bool tb_dtype_is_float(tb_dtype t);
double tb_dtype_eps(tb_dtype t);                    /* distance from 1 to the next larger value; 0 for integers */
/* The dtype both convert to without surprise, as torch.promote_types does. */
tb_dtype tb_dtype_promote(tb_dtype a, tb_dtype b);

float tb_bf16_to_f32(uint16_t x);
uint16_t tb_f32_to_bf16(float x);
float tb_f16_to_f32(uint16_t x);
uint16_t tb_f32_to_f16(float x);
uint16_t tb_f64_to_bf16(double x); /* rounds once, not through f32 */
uint16_t tb_f64_to_f16(double x);

/* One element as double / int64_t. Stores round (floats) or truncate towards zero and wrap (integers, as C does for
 * in-range values; out of range and NaN give the dtype's minimum). bool stores x != 0. */
double tb_load_f64(tb_dtype t, const void *p);
void tb_store_f64(tb_dtype t, void *p, double x);
int64_t tb_load_i64(tb_dtype t, const void *p);
void tb_store_i64(tb_dtype t, void *p, int64_t x);
