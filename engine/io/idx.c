/* IDX files: header checks, then a view of the elements. */
#include "tb_alloc.h"
#include "tb_file.h"

enum { TYPE_U8 = 0x08 };

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

tb_status tb_idx_parse(const uint8_t *file, size_t bytes, const char *path, tb_idx *out)
{
    *out = (tb_idx){0};
    if (bytes < 4 || file[0] != 0 || file[1] != 0)
        return TB_FAIL(TB_ERR_PARSE, "%s: this is no IDX file (it must start with two zero bytes)", path);
    if (file[2] != TYPE_U8)
        return TB_FAIL(TB_ERR_PARSE, "%s: IDX elements of type 0x%02x; only unsigned bytes (0x08) are read", path,
                       file[2]);
    int rank = file[3];
    size_t header = 4 + 4 * (size_t)rank, count = 1;
    if (rank < 1 || rank > TB_IDX_MAX_RANK || bytes < header)
        return TB_FAIL(TB_ERR_PARSE, "%s: IDX header of %d dimensions in %zu bytes; 1 to %d are read", path, rank,
                       bytes, TB_IDX_MAX_RANK);
    for (int i = 0; i < rank; i++) {
        out->dims[i] = big_endian(file + 4 + 4 * i);
        if (__builtin_mul_overflow(count, (size_t)out->dims[i], &count)) count = SIZE_MAX;
    }
    if (count != bytes - header)
        return TB_FAIL(TB_ERR_PARSE,
                       "%s: the IDX header promises %zu elements, the file holds %zu: truncated or damaged", path,
                       count, bytes - header);
    out->rank = rank;
    out->elements = file + header;
    return TB_OK;
}

tb_status tb_idx_read(const char *path, const char *package, tb_idx *out)
{
    uint8_t *file;
    size_t bytes;
    *out = (tb_idx){0};
    TB_TRY(tb_file_read(path, package, &file, &bytes));
    tb_status st = tb_idx_parse(file, bytes, path, out);
    if (st == TB_OK) {
        out->file = file;
        return TB_OK;
    }
    if (package) tb_error_add("reinstall the Debian package %s", package);
    tb_free(file);
    *out = (tb_idx){0};
    return st;
}

void tb_idx_free(tb_idx *idx)
{
    tb_free(idx->file);
    *idx = (tb_idx){0};
}
