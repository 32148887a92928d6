/* Hostile and broken requests against a live server: each gets its status and code, and the server is well
 * after it. Also run under ThreadSanitizer. */
#include "live_server.h"

static void check_well(const char *after)
{
    static reply r;
    if (post(&server, &r, "/v1/predict", "{\"data\":[1,2,3,4]}") != 200)
        fail_msg("after %s: %d %s", after, r.status, r.body);
}

/* ---- bodies ---- */

typedef struct {
    const char *body;
    int status;
    const char *code;
} bad_body;

static void check_bodies(const char *path, const bad_body *cases, size_t n)
{
    static reply r;
    int fd = dial(&server); /* one connection: a refused body does not cost it */
    for (size_t i = 0; i < n; i++) {
        int status = request(fd, &r, "POST", path, "", cases[i].body, strlen(cases[i].body));
        if (status != cases[i].status || !has_code(&r, cases[i].code))
            fail_msg("%s\n -> %d %s, not %d %s", cases[i].body, status, r.body, cases[i].status,
                     cases[i].code);
        assert_int_equal((int)json_field(r.body, "status"), cases[i].status);
        assert_non_null(reply_header(&r, "X-Request-Id"));
    }
    close(fd);
    check_well(path);
}

static void predict_refuses_what_is_not_its_json(void **state)
{
    (void)state;
    static const bad_body cases[] = {
        {"", 400, "malformed_json"},
        {"{\"data\":[1,2,3,4]} x", 400, "malformed_json"},
        {"{\"data\":[1,2,3,4]}{}", 400, "malformed_json"},
        {"{\"data\":[1,2,3,4],\"data\":[1,2,3,4]}", 400, "malformed_json"},
        {"{\"data\":[1,2,3,4],\"extra\":1}", 400, "bad_request"},
        {"[1,2,3,4]", 400, "bad_request"},
        {"{}", 400, "bad_request"},
        {"{\"data\":\"1,2,3,4\"}", 400, "dtype_mismatch"},
        {"{\"data\":null}", 400, "dtype_mismatch"},
        {"{\"data\":{}}", 400, "dtype_mismatch"},
        {"{\"data\":1}", 400, "dtype_mismatch"},
        {"{\"data\":[1,2,3,\"4\"]}", 400, "dtype_mismatch"},
        {"{\"data\":[1,2,3,null]}", 400, "dtype_mismatch"},
        {"{\"data\":[]}", 400, "shape_mismatch"},
        {"{\"data\":[1,2,3]}", 400, "shape_mismatch"},
        {"{\"data\":[1,2,3,4,5]}", 400, "shape_mismatch"},
        {"{\"data\":[[1,2,3,4],[1,2,3]]}", 400, "shape_mismatch"},
        {"{\"data\":[[1,2,3],[1,2,3]]}", 400, "shape_mismatch"},
        {"{\"data\":[[1,2,3,4],1,2,3,4]}", 400, "shape_mismatch"},
        {"{\"data\":[1,2,3,NaN]}", 400, "malformed_json"},
        {"{\"data\":[1,2,3,Infinity]}", 400, "malformed_json"},
        {"{\"data\":[1,2,3,1e400]}", 400, "number_range"},
        {"{\"data\":[1,2,3,-4e38]}", 400, "number_range"},
        {"{\"data\":[1,2,3,04]}", 400, "malformed_json"},
        {"{\"data\":[1,2,3,+4]}", 400, "malformed_json"},
        {"{\"data\":[1,2,3,4.]}", 400, "malformed_json"},
        {"{\"data\":[1,2,3,.4]}", 400, "malformed_json"},
        {"{\"data\":[1,2,3,0x4]}", 400, "malformed_json"},
        {"{\"data\":[1,2,3,4]/**/}", 400, "malformed_json"},
        {"\xef\xbb\xbf{\"data\":[1,2,3,4]}", 400, "malformed_json"},
        {"{\"d\xc0\xaf\":1}", 400, "bad_utf8"},
        {"{\"d\xed\xa0\x80\":1}", 400, "bad_utf8"},
        {"{\"d\xe2\x82\":1}", 400, "bad_utf8"},
        {"{\"d\\u0000\":1}", 400, "malformed_json"},
        {"{\"data\":[[[[[[[[[1]]]]]]]]]}", 400, "malformed_json"},
    };
    check_bodies("/v1/predict", cases, sizeof cases / sizeof *cases);
}

static void odd_but_valid_numbers_are_taken(void **state)
{
    (void)state;
    static reply r;
    static const char *const bodies[] = {"{\"data\":[-0,1e-400,1e-42,0.1]}",
                                         "{\"data\":[1E2,1e+2,-1.5e-3,123456789012345678901234567890]}",
                                         "\r\n\t {\"d\\u0061ta\" : [ 1 ,2\n,3,4 ] } \n"};
    for (size_t i = 0; i < 3; i++)
        if (post(&server, &r, "/v1/predict", bodies[i]) != 200) fail_msg("%s: %s", bodies[i], r.body);
}

static void a_body_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    static reply r;
    static const char body[] = "{\"id\":\"a\",\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":"
                               "\"FP32\",\"data\":[1,2.5,-3e1,4]}]}";
    int fd = dial(&server);
    for (size_t n = 0; n < strlen(body); n++)
        if (request(fd, &r, "POST", "/v2/models/mlp/infer", "", body, n) != 400)
            fail_msg("%zu bytes: %d", n, r.status);
    assert_int_equal(request(fd, &r, "POST", "/v2/models/mlp/infer", "", body, strlen(body)), 200);
    close(fd);
}

#define INPUT(shape, dtype, data)                                                                            \
    "{\"inputs\":[{\"name\":\"x\",\"shape\":" shape ",\"datatype\":\"" dtype "\",\"data\":" data "}]}"

static void infer_refuses_what_is_not_the_models(void **state)
{
    (void)state;
    static const bad_body cases[] = {
        {"{\"inputs\":[]}", 400, "bad_request"},
        {"{\"id\":\"x\"}", 400, "bad_request"},
        {"{\"inputs\":{}}", 400, "bad_request"},
        {"{\"inputs\":[1]}", 400, "bad_request"},
        {"{\"inputs\":[{\"name\":\"x\"}]}", 400, "bad_request"},
        {"{\"inputs\":[{\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}]}", 400, "bad_request"},
        {"{\"inputs\":[{\"name\":\"z\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}]}", 400,
         "bad_request"},
        {"{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"data\":[1,2,3,4]}]}", 400, "bad_request"},
        {"{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"data\":[1,2,3,4]}]}", 400, "bad_request"},
        {"{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]},{\"name\":"
         "\"x\"}]}",
         400, "bad_request"},
        {INPUT("[1,4]", "FP16", "[1,2,3,4]"), 400, "dtype_mismatch"},
        {INPUT("[1,4]", "BF16", "[1,2,3,4]"), 400, "dtype_mismatch"},
        {INPUT("[1,4]", "INT64", "[1,2,3,4]"), 400, "dtype_mismatch"},
        {INPUT("[1,4]", "fp32", "[1,2,3,4]"), 400, "dtype_mismatch"},
        {INPUT("[1,4]", "BOOL", "[2,0,0,0]"), 400, "dtype_mismatch"},
        {INPUT("[4]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[1,2,2]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[1,5]", "FP32", "[1,2,3,4,5]"), 400, "shape_mismatch"},
        {INPUT("[0,4]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[-1,4]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[1.5,4]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[1e0,4]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[9,4]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[9223372036854775808,4]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[4294967296,4294967296]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[1,\"4\"]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[[1,4]]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[2,4]", "FP32", "[1,2,3,4]"), 400, "shape_mismatch"},
        {INPUT("[1,4]", "FP32", "[[1,2],[3,4]]"), 400, "shape_mismatch"},
        {INPUT("[2,4]", "FP32", "[[1,2,3,4,5,6,7,8]]"), 400, "shape_mismatch"},
        {"{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}],"
         "\"outputs\":[{\"name\":\"nope\"}]}",
         400, "bad_request"},
        {"{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}],"
         "\"outputs\":[{\"name\":\"y\"},{\"name\":\"y\"}]}",
         400, "bad_request"},
        {"{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"parameters\":{\"binary_data_"
         "size\":16}}]}",
         400, "bad_request"},
        {"{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"parameters\":{\"shared_memory_"
         "region\":\"r\"}}]}",
         400, "bad_request"},
        {"{\"parameters\":{\"timeout\":-1},\"inputs\":[]}", 400, "number_range"},
        {"{\"parameters\":{\"timeout\":1.5},\"inputs\":[]}", 400, "number_range"},
        {"{\"parameters\":{\"priority\":1},\"inputs\":[]}", 400, "bad_request"},
        {"{\"id\":7}", 400, "bad_request"},
    };
    check_bodies("/v2/models/mlp/infer", cases, sizeof cases / sizeof *cases);
}

static void limits_of_json_hold_on_the_wire(void **state)
{
    (void)state;
    static reply r;
    static char big[1100000];
    size_t n = (size_t)snprintf(big, sizeof big, "{\"data\":[1,2,3,");
    memset(big + n, '9', 400);
    snprintf(big + n + 400, sizeof big - n - 400, "]}");
    assert_int_equal(post(&server, &r, "/v1/predict", big), 400);
    assert_true(has_code(&r, "number_range"));
    n = (size_t)snprintf(big, sizeof big, "{\"data\":");
    memset(big + n, '[', 4000);
    big[n + 4000] = 0;
    assert_int_equal(post(&server, &r, "/v1/predict", big), 400);
    assert_true(has_code(&r, "malformed_json"));
    n = (size_t)snprintf(big, sizeof big, "{\"id\":\"");
    memset(big + n, 'a', 3000);
    snprintf(big + n + 3000, sizeof big - n - 3000, "\"}");
    assert_int_equal(post(&server, &r, "/v2/models/mlp/infer", big), 400);
    assert_true(has_code(&r, "malformed_json"));
    memset(big, ' ', sizeof big - 1); /* 8 rows of 4 elements bound the body to 4864 bytes */
    assert_int_equal(post(&server, &r, "/v2/models/mlp/infer", big), 413);
    assert_true(has_code(&r, "body_too_large"));
    static char many[4096];
    n = (size_t)snprintf(
        many, sizeof many,
        "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}");
    for (int i = 0; i < 1000 && n < 4000; i++) n += (size_t)snprintf(many + n, sizeof many - n, ",{}");
    snprintf(many + n, sizeof many - n, "]}");
    assert_int_equal(post(&server, &r, "/v2/models/mlp/infer", many), 400);
    assert_true(has_code(&r, "bad_request"));
    check_well("limits");
}

static void binary_tensors_must_fit_exactly(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        int extra;            /* bytes after the JSON */
        const char *length;   /* Inference-Header-Content-Length; NULL: right */
        const char *code;
    } cases[] = {
        {"16", 16, NULL, NULL},
        {"15", 16, NULL, "shape_mismatch"},
        {"17", 16, NULL, "shape_mismatch"},
        {"16", 15, NULL, "shape_mismatch"},
        {"16", 17, NULL, "shape_mismatch"},
        {"16", 0, NULL, "shape_mismatch"},
        {"-16", 16, NULL, "number_range"},
        {"1.6e1", 16, NULL, "number_range"},
        {"\"16\"", 16, NULL, "bad_request"},
        {"18446744073709551632", 16, NULL, "number_range"},
        {"16", 16, "99999", "bad_request"},
        {"16", 16, "-1", "bad_request"},
        {"16", 16, "abc", "bad_request"},
        {"16", 16, "10", "malformed_json"},
        {"16", 16, "50\r\nInference-Header-Content-Length: 50", "bad_framing"},
        {"16", 15, "0", "shape_mismatch"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static reply r;
        char body[512] = {0}, headers[256], length[16];
        int n = snprintf(body, sizeof body,
                         "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"parameters\":{"
                         "\"binary_data_size\":%s}}]}",
                         cases[i].json);
        snprintf(length, sizeof length, "%d", n);
        snprintf(headers, sizeof headers, "Inference-Header-Content-Length: %s\r\n",
                 cases[i].length ? cases[i].length : length);
        int status =
            fetch(&server, &r, "POST", "/v2/models/mlp/infer", headers, body, (size_t)(n + cases[i].extra));
        if (status != (cases[i].code ? 400 : 200) || (cases[i].code && !has_code(&r, cases[i].code)))
            fail_msg("case %zu: %d %s", i, status, r.body);
    }
    check_well("binary");
}

static void non_finite_binary_input_is_422(void **state)
{
    (void)state;
    static reply r;
    uint32_t bad[] = {0x7fc00000, 0x7f800000, 0xff800000};
    for (int i = 0; i < 3; i++) {
        uint32_t x[4] = {0, 0, 0, bad[i]};
        assert_int_equal(fetch(&server, &r, "POST", "/v2/models/mlp/infer",
                               "Inference-Header-Content-Length: 0\r\n", x, sizeof x),
                         422);
        assert_true(has_code(&r, "non_finite"));
    }
    uint32_t denormal[4] = {1, 0x807fffff, 0, 0};
    assert_int_equal(fetch(&server, &r, "POST", "/v2/models/mlp/infer",
                           "Inference-Header-Content-Length: 0\r\n", denormal, sizeof denormal),
                     200);
}

/* ---- HTTP ---- */

#define BODY18 "{\"data\":[1,2,3,4]}"
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
        {POST18("Host: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400,
         "bad_framing"},
        {POST18("Host: t\r\n"), 411, "length_required"},
        {POST18("Content-Length: 18\r\n"), 400, NULL},
        {POST18("Host: t\r\nHost: u\r\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nContent-Length : 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nX-A: one\r\n two\r\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nX-A: one\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nX-A: a\x01z\r\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nX(A): a\r\nContent-Length: 18\r\n"), 400, "bad_framing"},
        {POST18("Host: t\r\nExpect: magic\r\nContent-Length: 18\r\n"), 417, "expectation_failed"},
        {POST18("Host: t\r\nContent-Encoding: gzip\r\nContent-Length: 18\r\n"), 415,
         "unsupported_media_type"},
        {"POST /v1/predict HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_framing"},
        {"POST /v1/predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, NULL},
        {"POST /v1/predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
         413, NULL},
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
        check_well(cases[i].text);
    }
}

static void nul_in_a_header_value_is_refused(void **state)
{
    (void)state;
    static reply r;
    static const char text[] =
        "POST /v1/predict HTTP/1.1\r\nHost: t\r\nX-A: a\0b\r\nContent-Length: 18\r\n\r\n" BODY18;
    int fd = dial(&server);
    send_all(fd, text, sizeof text - 1);
    assert_int_equal(read_reply(fd, &r), 400);
    close(fd);
    check_well("NUL");
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
        check_well("no HTTP");
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
            fail_msg("%s %s -> %d %s, not %d %s", cases[i].method, cases[i].path, status, r.body,
                     cases[i].status, cases[i].code);
        if (status == 405) assert_non_null(reply_header(&r, "Allow"));
    }
    check_well("paths");
}

static void too_large_headers_and_paths_are_refused(void **state)
{
    (void)state;
    static reply r;
    static char text[60000];
    static const struct {
        int fields, field_bytes, uri_bytes, status;
    } cases[] = {
        {1, 40000, 1, 431}, {100, 10, 1, 431}, {500, 10, 1, 431}, {0, 0, 3000, 414}, {0, 0, 40000, 414}};
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
    check_well("large headers");
}

static void too_many_chunks_and_endless_bodies_are_cut(void **state)
{
    (void)state;
    static reply r;
    static const char head[] = "POST /v1/predict HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    int fd = dial(&server);
    send_all(fd, head, strlen(head));
    for (int i = 0; i < 65537 && send_all(fd, "1\r\n \r\n", 6); i++) {}
    assert_int_equal(read_reply(fd, &r), 413);
    assert_true(peer_closed(fd));
    close(fd);
    check_well("chunks");
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
    check_well("mutation");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(predict_refuses_what_is_not_its_json),
        cmocka_unit_test(odd_but_valid_numbers_are_taken),
        cmocka_unit_test(a_body_cut_at_any_byte_is_refused),
        cmocka_unit_test(infer_refuses_what_is_not_the_models),
        cmocka_unit_test(limits_of_json_hold_on_the_wire),
        cmocka_unit_test(binary_tensors_must_fit_exactly),
        cmocka_unit_test(non_finite_binary_input_is_422),
        cmocka_unit_test(broken_framing_is_refused_and_the_connection_closed),
        cmocka_unit_test(nul_in_a_header_value_is_refused),
        cmocka_unit_test(what_is_not_http_is_dropped),
        cmocka_unit_test(paths_and_methods),
        cmocka_unit_test(too_large_headers_and_paths_are_refused),
        cmocka_unit_test(too_many_chunks_and_endless_bodies_are_cut),
        cmocka_unit_test(an_error_does_not_spoil_the_next_request_on_the_connection),
        cmocka_unit_test(mutated_requests_never_hurt),
    };
    return cmocka_run_group_tests(tests, server_setup, server_teardown);
}
