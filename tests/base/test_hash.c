/* SHA-256 against the examples of FIPS 180-4, in one piece, in pieces, and from a file. */
#include "tb_hash.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static const char *const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char *const million_a = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

static void known_digests_come_out(void **state)
{
    (void)state;
    char hex[TB_SHA256_HEX];
    assert_int_equal(tb_sha256_of("abc", 3, hex), TB_OK);
    assert_string_equal(hex, abc);
    assert_int_equal(tb_sha256_of("", 0, hex), TB_OK);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void pieces_hash_like_the_whole(void **state)
{
    (void)state;
    tb_sha256 *h = NULL;
    char hex[TB_SHA256_HEX];
    assert_int_equal(tb_sha256_open(&h), TB_OK);
    for (int i = 0; i < 1000000; i += 1000) {
        char piece[1000];
        memset(piece, 'a', sizeof piece);
        assert_int_equal(tb_sha256_add(h, piece, sizeof piece), TB_OK);
    }
    tb_sha256_close(h, hex);
    assert_string_equal(hex, million_a);
}

static void a_file_hashes_like_its_bytes(void **state)
{
    (void)state;
    char path[] = "/tmp/tb-hash-XXXXXX", hex[TB_SHA256_HEX];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "abc", 3), 3);
    close(fd);
    assert_int_equal(tb_sha256_of_file(path, hex), TB_OK);
    assert_string_equal(hex, abc);
    unlink(path);
    assert_int_equal(tb_sha256_of_file(path, hex), TB_ERR_NOT_FOUND);
    assert_non_null(strstr(tb_error_message(), path));
    assert_string_equal(hex, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_digests_come_out),
        cmocka_unit_test(pieces_hash_like_the_whole),
        cmocka_unit_test(a_file_hashes_like_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
