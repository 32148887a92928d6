/* SHA-256 (FIPS 180-4, by GnuTLS) for content identity: configurations, data sets, weights, binaries. */
#pragma once
#include "tb_status.h"
#include <stddef.h>

typedef struct tb_sha256 tb_sha256;
enum { TB_SHA256_HEX = 65 }; /* 64 lower-case digits and the terminating zero */

TB_MUST_USE tb_status tb_sha256_open(tb_sha256 **out);
TB_MUST_USE tb_status tb_sha256_add(tb_sha256 *h, const void *data, size_t bytes);
void tb_sha256_close(tb_sha256 *h, char hex[TB_SHA256_HEX]); /* frees h; NULL h leaves hex empty */

TB_MUST_USE tb_status tb_sha256_of(const void *data, size_t bytes, char hex[TB_SHA256_HEX]);
TB_MUST_USE tb_status tb_sha256_of_file(const char *path, char hex[TB_SHA256_HEX]);
