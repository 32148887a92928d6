/* Hostile and broken bodies against a live server: each gets its status and code, and the server is well after it.
 * Framing is tested in test_serve_http.c, clients and surroundings that fail in test_serve_life.c and
 * test_serve_faults.c. Also run under ThreadSanitizer. */
#include "live_server.h"

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
    check_well(&server, path);
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
        {"{\"inputs\":[],\"inputs\":[]}", 400, "malformed_json"},
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
    static const char nul[] = "{\"da\0ta\":[1,2,3,4]}";
    assert_int_equal(fetch(&server, &r, "POST", "/v1/predict", "", nul, sizeof nul - 1), 400);
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
    check_well(&server, "limits");
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
    check_well(&server, "binary");
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

/* ---- two inputs, and bodies of more than a megabyte ---- */

static live pair = {.pair = true, .max_batch = 4096};

static void two_inputs_must_both_be_there_and_fit_together(void **state)
{
    (void)state;
    static const struct {
        const char *pixel, *shape; /* the image's first element; the other input's shape */
        int scales;                /* how often that input is given */
        const char *code;          /* NULL: answered */
    } cases[] = {
        {"7", "1,2", 1, NULL},
        {"255", "1,2", 1, NULL},
        {"256", "1,2", 1, "number_range"},
        {"-1", "1,2", 1, "number_range"},
        {"0.5", "1,2", 1, "dtype_mismatch"},
        {"4294967296", "1,2", 1, "number_range"},
        {"18446744073709551616", "1,2", 1, "number_range"},
        {"true", "1,2", 1, "dtype_mismatch"},
        {"7", "2,1", 1, "shape_mismatch"},
        {"7", "2,2", 1, "shape_mismatch"},
        {"7", "1,2", 0, "bad_request"},
        {"7", "1,2", 2, "bad_request"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static reply r;
        char body[600];
        size_t n = (size_t)snprintf(body, sizeof body,
                                    "{\"inputs\":[{\"name\":\"image\",\"shape\":[1,16],\"datatype\":\"UINT8\","
                                    "\"data\":[%s,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
                                    cases[i].pixel);
        for (int k = 0; k < cases[i].scales; k++)
            n += (size_t)snprintf(body + n, sizeof body - n,
                                  ",{\"name\":\"scale\",\"shape\":[%s],\"datatype\":\"FP32\",\"data\":[2,1]}",
                                  cases[i].shape);
        snprintf(body + n, sizeof body - n, "]}");
        int status = post(&pair, &r, "/v2/models/mlp/infer", body);
        if (status != (cases[i].code ? 400 : 200) || (cases[i].code && !has_code(&r, cases[i].code)))
            fail_msg("%s\n -> %d %s", body, status, r.body);
    }
}

/* Binary tensors follow each other, so what overlaps is what claims more bytes than the body has. */
static void binary_inputs_must_not_overlap(void **state)
{
    (void)state;
    static const struct {
        const char *image, *scale; /* declared sizes; NULL: as JSON */
        int extra;                 /* bytes behind the JSON */
        const char *code;          /* NULL: answered */
    } cases[] = {
        {"16", "8", 24, NULL},
        {"16", NULL, 16, NULL},
        {NULL, "8", 8, NULL},
        {"16", "8", 16, "shape_mismatch"},
        {"24", "8", 24, "shape_mismatch"},
        {"16", "24", 24, "shape_mismatch"},
        {"16", "8", 23, "shape_mismatch"},
        {"16", "8", 25, "shape_mismatch"},
        {"16", NULL, 24, "shape_mismatch"},
        {NULL, NULL, 24, "shape_mismatch"},
        {"16", "9223372036854775807", 24, "number_range"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static reply r;
        char image[128] = "\"data\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", scale[128] = "\"data\":[2,1]";
        char body[600] = {0}, headers[80];
        if (cases[i].image) snprintf(image, sizeof image, "\"parameters\":{\"binary_data_size\":%s}", cases[i].image);
        if (cases[i].scale) snprintf(scale, sizeof scale, "\"parameters\":{\"binary_data_size\":%s}", cases[i].scale);
        int n = snprintf(body, sizeof body,
                         "{\"inputs\":[{\"name\":\"image\",\"shape\":[1,16],\"datatype\":\"UINT8\",%s},"
                         "{\"name\":\"scale\",\"shape\":[1,2],\"datatype\":\"FP32\",%s}]}",
                         image, scale);
        snprintf(headers, sizeof headers, "Inference-Header-Content-Length: %d\r\n", n);
        int status = fetch(&pair, &r, "POST", "/v2/models/mlp/infer", headers, body, (size_t)(n + cases[i].extra));
        if (status != (cases[i].code ? 400 : 200) || (cases[i].code && !has_code(&r, cases[i].code)))
            fail_msg("case %zu: %d %s", i, status, r.body);
    }
    static reply r;
    static const char raw[24];
    assert_int_equal(
        fetch(&pair, &r, "POST", "/v2/models/mlp/infer", "Inference-Header-Content-Length: 0\r\n", raw, sizeof raw),
        400); /* one tensor for two inputs */
    assert_true(has_code(&r, "bad_request"));
}

static void a_hundred_thousand_levels_and_a_megabyte_of_id_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *path, *before;
        char fill;
        size_t n;
        const char *code;
    } cases[] = {{"/v2/models/mlp/infer", "{\"inputs\":", '[', 100000, "bad_request"}, /* before the depth is */
                 {"/v2/models/mlp/infer", "", '[', 1 << 20, "bad_request"},
                 {"/v2/repository/index", "", '[', 60000, "malformed_json"},
                 {"/v2/models/mlp/infer", "{\"id\":\"", 'a', 1 << 20, "malformed_json"}};
    static char body[(1 << 20) + 32];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static reply r;
        size_t n = (size_t)snprintf(body, sizeof body, "%s", cases[i].before);
        memset(body + n, cases[i].fill, cases[i].n);
        int status = fetch(&pair, &r, "POST", cases[i].path, "", body, n + cases[i].n);
        if (status != 400 || !has_code(&r, cases[i].code)) fail_msg("case %zu: %d %s", i, status, r.body);
    }
}

static int setup_both(void **state)
{
    live_start(&pair);
    return server_setup(state);
}

static int teardown_both(void **state)
{
    live_stop(&pair);
    return server_teardown(state);
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
        cmocka_unit_test(two_inputs_must_both_be_there_and_fit_together),
        cmocka_unit_test(binary_inputs_must_not_overlap),
        cmocka_unit_test(a_hundred_thousand_levels_and_a_megabyte_of_id_are_refused),
    };
    return cmocka_run_group_tests(tests, setup_both, teardown_both);
}
