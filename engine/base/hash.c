/* SHA-256 by GnuTLS, the only user of it. */
#include "tb_alloc.h"
#include "tb_hash.h"
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>

enum { DIGEST_BYTES = 32, FILE_BLOCK = 1 << 16 };

struct tb_sha256 {
    gnutls_hash_hd_t state;
};

tb_status tb_sha256_open(tb_sha256 **out)
{
    *out = NULL;
    tb_sha256 *h = tb_calloc(1, sizeof *h);
    if (!h) return TB_ERR_OOM;
    int rc = gnutls_hash_init(&h->state, GNUTLS_DIG_SHA256);
    if (rc < 0) {
        tb_free(h);
        return TB_FAIL(TB_ERR_INTERNAL, "sha256: GnuTLS cannot start a hash: %s", gnutls_strerror(rc));
    }
    *out = h;
    return TB_OK;
}

tb_status tb_sha256_add(tb_sha256 *h, const void *data, size_t bytes)
{
    int rc = gnutls_hash(h->state, data, bytes);
    if (rc < 0) return TB_FAIL(TB_ERR_INTERNAL, "sha256: %s", gnutls_strerror(rc));
    return TB_OK;
}

void tb_sha256_close(tb_sha256 *h, char hex[TB_SHA256_HEX])
{
    hex[0] = '\0';
    if (!h) return;
    unsigned char digest[DIGEST_BYTES];
    gnutls_hash_deinit(h->state, digest);
    tb_free(h);
    for (int i = 0; i < DIGEST_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

tb_status tb_sha256_of(const void *data, size_t bytes, char hex[TB_SHA256_HEX])
{
    tb_sha256 *h = NULL;
    tb_status st = tb_sha256_open(&h);
    if (st == TB_OK) st = tb_sha256_add(h, data, bytes);
    tb_sha256_close(h, hex);
    return st;
}

tb_status tb_sha256_of_file(const char *path, char hex[TB_SHA256_HEX])
{
    tb_status st = TB_OK;
    tb_sha256 *h = NULL;
    char *block = NULL;
    hex[0] = '\0';
    FILE *file = fopen(path, "rb");
    if (!file)
        return TB_FAIL(errno == ENOENT ? TB_ERR_NOT_FOUND : TB_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    block = tb_calloc(1, FILE_BLOCK);
    if (!block) {
        st = TB_ERR_OOM;
        goto cleanup;
    }
    TB_GO(tb_sha256_open(&h));
    for (size_t n; (n = fread(block, 1, FILE_BLOCK, file)) > 0;) TB_GO(tb_sha256_add(h, block, n));
    if (ferror(file)) st = TB_FAIL(TB_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
cleanup:
    tb_sha256_close(h, hex);
    if (st != TB_OK) hex[0] = '\0';
    tb_free(block);
    fclose(file);
    return st;
}
