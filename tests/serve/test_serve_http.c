/* Broken and odd framing against a live server: what HTTP/1.1 forbids gets its status and costs the connection, what it
 * allows is answered, and the server is well after it. Also run under ThreadSanitizer. */
#include "live_server.h"

#define BODY18          "{\"data\":[1,2,3,4]}"
#define POST18(headers) "POST /v1/predict HTTP/1.1\r\n" headers "\r\n" BODY18

static void broken_framing_is_refused_and_the_connection_closed(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int status;
        const char *code; /* NULL: the HTTP library's own reply, without a code */
    } cases[] = {
        {POST18("Host: t\r\nContent-Length: 18\r\nTransfer-Encoding: chunked\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nContent-Length: 18\r\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nContent-Length: 18\r\nContent-Length: 4\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nContent-Length: -18\r\n"), 400, NULL},
        {POST18("Host: t\r\nContent-Length: +18\r\n"), 400, NULL},
        {POST18("Host: t\r\nContent-Length: 18446744073709551634\r\n"), 413, NULL},
        {POST18("Host: t\r\nContent-Length: 1000000000000000000\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nContent-Length: 100000000000000000\r\n"), 413, "body_too_large"},
        {POST18("Host: t\r\nTransfer-Encoding: gzip\r\n"), 501, "unsupported_transfer_coding"},
        {POST18("Host: t\r\nTransfer-Encoding: gzip, chunked\r\n"), 501, "unsupported_transfer_coding"},
        {POST18("Host: t\r\nTransfer-Encoding: xchunked\r\n"), 501, "unsupported_transfer_coding"},
        {POST18("Host: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\n"), 411, "length_required"},
        {POST18("Content-Length: 18\r\n"), 400, NULL},
        {POST18("Host: t\r\nHost: u\r\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nContent-Length : 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nX-A: one\r\n two\r\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nX-A: one\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nX-A: a\x01z\r\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nX(A): a\r\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nExpect: magic\r\nContent-Length: 18\r\n"), 417, "expectation_failed"},
        {POST18("Host: t\r\nContent-Encoding: gzip\r\nContent-Length: 18\r\n"), 415, "unsupported_media_type"},
        {"POST /v1/predict HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_framing"},
        {"POST /v1/predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, NULL},
        {"POST /v1/predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 413, NULL},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, NULL},
        {"GET /v2 HTTP/9.9\r\nHost: t\r\n\r\n", 505, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static reply r;
        int fd = dial(&server);
        send_all(fd, cases[i].text, strlen(cases[i].text));
        int status = read_reply(fd, &r);
        if (status != cases[i].status || (cases[i].code && !has_code(&r, cases[i].code)))
            fail_msg("%s\n -> %d %s, not %d %s", cases[i].text, status, r.body, cases[i].status,
                     cases[i].code ? cases[i].code : "");
        if (!peer_closed(fd)) fail_msg("kept open after %s", cases[i].text);
        close(fd);
        check_well(&server, cases[i].text);
    }
}

static void nul_in_a_header_value_is_refused(void **state)
{
    (void)state;
    static reply r;
    static const char text[] = "POST /v1/predict HTTP/1.1\r\nHost: t\r\nX-A: a\0b\r\nContent-Length: 18\r\n\r\n" BODY18;
    int fd = dial(&server);
    send_all(fd, text, sizeof text - 1);
    assert_int_equal(read_reply(fd, &r), 400);
    close(fd);
    check_well(&server, "NUL");
}

static void what_is_not_http_is_dropped(void **state)
{
    (void)state;
    static const char *const texts[] = {"GET /v2\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                                        "\r\n\r\n\r\n", "A"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        static reply r;
        int fd = dial(&server);
        send_all(fd, texts[i], strlen(texts[i]));
        shutdown(fd, SHUT_WR);
        int status = read_reply(fd, &r);
        if (status != 0 && status < 400) fail_msg("%s: %d", texts[i], status);
        close(fd);
        check_well(&server, "no HTTP");
    }
}

static void paths_and_methods(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path;
        int status;
        const char *code;
    } cases[] = {
        {"GET", "/nope", 404, "not_found"},
        {"GET", "/v2/", 404, "not_found"},
        {"GET", "/v2/models/nope", 404, "unknown_model"},
        {"POST", "/v2/models/nope/infer", 404, "unknown_model"},
        {"POST", "/v2/models/mlp/versions/9/infer", 404, "unknown_version"},
        {"GET", "/v2/models/mlp/versions/9", 404, "unknown_version"},
        {"GET", "/v2/models/%6dlp", 404, "not_found"},
        {"GET", "/v2/models/mlp%00", 404, "not_found"},
        {"GET", "/v2/models/mlp%2fready", 404, "not_found"},
        {"GET", "/v2/models/../health/live", 404, "not_found"},
        {"GET", "/v2/models/%2e%2e/x", 404, "not_found"},
        {"GET", "/../../etc/passwd", 404, "not_found"},
        {"POST", "/v2/repository/models/../load", 404, "not_found"},
        {"POST", "/v2/repository/models/nope/load", 404, "unknown_model"},
        {"POST", "/v2/repository/models/nope/unload", 404, "unknown_model"},
        {"GET", "http://other/v2", 404, "not_found"},
        {"GET", "/v1/predict", 405, "method_not_allowed"},
        {"PUT", "/v1/predict", 405, "method_not_allowed"},
        {"OPTIONS", "/v1/predict", 405, "method_not_allowed"},
        {"BREW", "/v1/predict", 405, "method_not_allowed"},
        {"POST", "/v2", 405, "method_not_allowed"},
        {"DELETE", "/v2/models/mlp", 405, "method_not_allowed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static reply r;
        int status = fetch(&server, &r, cases[i].method, cases[i].path, "", "{}", 2);
        if (status != cases[i].status || !has_code(&r, cases[i].code))
            fail_msg("%s %s -> %d %s, not %d %s", cases[i].method, cases[i].path, status, r.body, cases[i].status,
                     cases[i].code);
        if (status == 405) assert_non_null(reply_header(&r, "Allow"));
    }
    check_well(&server, "paths");
}

static void too_large_headers_and_paths_are_refused(void **state)
{
    (void)state;
    static reply r;
    static char text[60000];
    static const struct {
        int fields, field_bytes, uri_bytes, status;
    } cases[] = {{1, 40000, 1, 431}, {100, 10, 1, 431}, {500, 10, 1, 431}, {0, 0, 3000, 414}, {0, 0, 40000, 414}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = (size_t)snprintf(text, sizeof text, "GET /");
        memset(text + n, 'a', (size_t)cases[i].uri_bytes);
        n += (size_t)cases[i].uri_bytes;
        n += (size_t)snprintf(text + n, sizeof text - n, " HTTP/1.1\r\nHost: t\r\n");
        for (int f = 0; f < cases[i].fields; f++) {
            n += (size_t)snprintf(text + n, sizeof text - n, "X-%d: ", f);
            memset(text + n, 'v', (size_t)cases[i].field_bytes);
            n += (size_t)cases[i].field_bytes;
            n += (size_t)snprintf(text + n, sizeof text - n, "\r\n");
        }
        n += (size_t)snprintf(text + n, sizeof text - n, "\r\n");
        int fd = dial(&server);
        send_all(fd, text, n);
        if (read_reply(fd, &r) != cases[i].status) fail_msg("case %zu: %d %s", i, r.status, r.body);
        close(fd);
    }
    check_well(&server, "large headers");
}

static const char chunked[] = "POST /v1/predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";

/* Legal, though unusual: answered, and what follows on the connection is read as the next request. */
static void unusual_but_legal_requests_are_answered(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int status;
    } cases[] = {
        {POST18("Host: t\r\nContent-Length: 18\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
                "HTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
         200},
        {"GET /v2 HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200},
        {"POST /v2/repository/index HTTP/1.1\r\nHost: t\r\n\r\n", 200}, /* no length: no body */
        {"GET /v2 HTTP/1.1\r\nHost: t\r\nContent-Length: 18\r\n\r\n" BODY18, 200},
        {"GET /v2 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200},
        {"POST /v1/predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
         "12;name=value;quoted=\"a;b\"\r\n" BODY18 "\r\n0;last\r\n\r\n",
         200},
        {"POST /v1/predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
         "12\r\n" BODY18 "\r\n0\r\nX-Sum: 1\r\n\r\n",
         200},
        /* a trailer frames nothing: neither a length nor a coding nor a key counts there */
        {"POST /v1/predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
         "12\r\n" BODY18 "\r\n0\r\nContent-Length: 500\r\nX-Request-Timeout-Ms: 1\r\n\r\n",
         200},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static reply r;
        static const char next[] = "GET /v2/health/live HTTP/1.1\r\nHost: t\r\nX-Request-Id: next\r\n\r\n";
        int fd = dial(&server);
        send_all(fd, cases[i].text, strlen(cases[i].text));
        send_all(fd, next, strlen(next));
        if (read_reply(fd, &r) != cases[i].status) fail_msg("%s\n -> %d %s", cases[i].text, r.status, r.body);
        if (read_reply(fd, &r) != 200 || strcmp(reply_header(&r, "X-Request-Id"), "next") != 0)
            fail_msg("behind %s\n -> %d %s", cases[i].text, r.status, r.body);
        close(fd);
        check_well(&server, cases[i].text);
    }
}

static void http_1_0_is_answered_and_closed(void **state)
{
    (void)state;
    static reply r;
    static const char text[] = "POST /v1/predict HTTP/1.0\r\nContent-Length: 18\r\n\r\n" BODY18;
    int fd = dial(&server);
    send_all(fd, text, strlen(text));
    assert_int_equal(read_reply(fd, &r), 200);
    assert_true(peer_closed(fd));
    close(fd);
    check_well(&server, "HTTP/1.0");
}

/* A GET's body counts as a body: above the bound it is not read to its end. */
static void a_large_body_of_a_get_is_refused(void **state)
{
    (void)state;
    static reply r;
    static const char text[] = "GET /v2 HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n";
    int fd = dial(&server);
    send_all(fd, text, strlen(text));
    assert_int_equal(read_reply(fd, &r), 413);
    assert_true(has_code(&r, "body_too_large"));
    assert_true(peer_closed(fd));
    close(fd);
    check_well(&server, "a large GET");
}

static void endless_extensions_and_trailers_are_cut(void **state)
{
    (void)state;
    for (int trailer = 0; trailer < 2; trailer++) {
        static reply r;
        char many[1000];
        int fd = dial(&server);
        memset(many, 'x', sizeof many);
        send_all(fd, chunked, strlen(chunked));
        if (trailer)
            send_all(fd, "12\r\n" BODY18 "\r\n0\r\nX: ", 30);
        else
            send_all(fd, "1;", 2);
        for (int i = 0; i < 1000 && send_all(fd, many, sizeof many); i++) {
        }
        int status = read_reply(fd, &r); /* 408: no byte of the body came for a second */
        if (status != 0 && status != 408 && status != 413 && status != 431) fail_msg("%d: %d", trailer, status);
        assert_true(peer_closed(fd));
        close(fd);
        check_well(&server, "an endless line");
    }
}

static void too_many_chunks_and_endless_bodies_are_cut(void **state)
{
    (void)state;
    static reply r;
    int fd = dial(&server);
    send_all(fd, chunked, strlen(chunked));
    for (int i = 0; i < 65537 && send_all(fd, "1\r\n \r\n", 6); i++) {
    }
    assert_int_equal(read_reply(fd, &r), 413);
    assert_true(peer_closed(fd));
    close(fd);
    check_well(&server, "chunks");
}

static void an_error_does_not_spoil_the_next_request_on_the_connection(void **state)
{
    (void)state;
    static reply r;
    static const char text[] = "POST /v1/predict HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\n{x}"
                               "GET /nope HTTP/1.1\r\nHost: t\r\n\r\n"
                               "POST /v1/predict HTTP/1.1\r\nHost: t\r\nContent-Length: 18\r\n\r\n" BODY18;
    int fd = dial(&server);
    send_all(fd, text, strlen(text));
    assert_int_equal(read_reply(fd, &r), 400);
    assert_int_equal(read_reply(fd, &r), 404);
    assert_int_equal(read_reply(fd, &r), 200);
    close(fd);
}

static void mutated_requests_never_hurt(void **state)
{
    (void)state;
    static const char seed[] =
        "POST /v2/models/mlp/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 86\r\nX-Request-Id: abc\r\n\r\n"
        "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}],\"id\":"
        "\"abc\"}";
    int rounds = getenv("TB_TEST_FULL") ? 50000 : 1000;
    for (int i = 0; i < rounds; i++) {
        static reply r;
        char text[sizeof seed];
        memcpy(text, seed, sizeof seed);
        for (int e = 0; e < 3; e++)
            text[tb_random_below(5, 1, (uint64_t)(3 * i + e), sizeof seed - 1)] =
                (char)tb_random_below(5, 2, (uint64_t)(3 * i + e), 256);
        int fd = dial(&server);
        send_all(fd, text, sizeof seed - 1);
        bool answers =
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 15) == 1; /* a mutant may want more bytes */
        int status = answers ? read_reply(fd, &r) : 0;
        if (status != 0 && status != 200 && (status < 400 || status > 505)) fail_msg("status %d", status);
        if (status == 500) fail_msg("%s", r.body);
        close(fd);
    }
    check_well(&server, "mutation");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_framing_is_refused_and_the_connection_closed),
        cmocka_unit_test(nul_in_a_header_value_is_refused),
        cmocka_unit_test(what_is_not_http_is_dropped),
        cmocka_unit_test(paths_and_methods),
        cmocka_unit_test(too_large_headers_and_paths_are_refused),
        cmocka_unit_test(unusual_but_legal_requests_are_answered),
        cmocka_unit_test(http_1_0_is_answered_and_closed),
        cmocka_unit_test(a_large_body_of_a_get_is_refused),
        cmocka_unit_test(endless_extensions_and_trailers_are_cut),
        cmocka_unit_test(too_many_chunks_and_endless_bodies_are_cut),
        cmocka_unit_test(an_error_does_not_spoil_the_next_request_on_the_connection),
        cmocka_unit_test(mutated_requests_never_hurt),
    };
    return cmocka_run_group_tests(tests, server_setup, server_teardown);
}
