/* Good requests: every form of the protocol gives the model's own bits; metadata, statistics, metrics; also
 * run under ThreadSanitizer. */
#include "live_server.h"
#include <jansson.h>

static void expect_floats(const json_t *array, const float *want, int n)
{
    assert_int_equal(json_array_size(array), (size_t)n);
    for (int i = 0; i < n; i++) {
        float got = (float)json_number_value(json_array_get(array, (size_t)i));
        assert_memory_equal(&got, &want[i], sizeof got);
    }
}

static json_t *parse(const reply *r)
{
    json_error_t error;
    json_t *j = json_loadb(r->body, r->body_bytes, 0, &error);
    if (!j) fail_msg("%s: %s", error.text, r->body);
    return j;
}

static void predict_answers_one_row_flat_and_many_nested(void **state)
{
    (void)state;
    static reply r;
    float rows[2][4] = {{1, 2, 3, 4}, {0.5f, -0.25f, 1e-3f, 0}}, want[2][3];
    for (int i = 0; i < 2; i++) live_expect(&server, "1", rows[i], want[i]);
    assert_int_equal(post(&server, &r, "/v1/predict", "{\"data\":[1,2,3,4]}"), 200);
    json_t *j = parse(&r);
    expect_floats(json_object_get(j, "y"), want[0], 3);
    json_decref(j);
    assert_int_equal(post(&server, &r, "/v1/predict", "{\"data\":[[1,2,3,4],[0.5,-0.25,1e-3,0]]}"), 200);
    j = parse(&r);
    for (int i = 0; i < 2; i++) expect_floats(json_array_get(json_object_get(j, "y"), (size_t)i), want[i], 3);
    json_decref(j);
    assert_non_null(reply_header(&r, "Server-Timing"));
    assert_non_null(reply_header(&r, "X-Request-Id"));
    assert_string_equal(reply_header(&r, "X-Batch-Size"), "2");
    assert_string_equal(reply_header(&r, "X-Model-Version"), "1");
    assert_int_equal(get(&server, &r, "/v2/timeline?last=1"), 200);
    static const char *const stages[] = {"receive_ns", "parse_ns", "queue_ns", "compute_ns", "serialize_ns"};
    for (int i = 0; i < 5; i++)
        if (json_field(r.body, stages[i]) <= 0) fail_msg("no %s in %s", stages[i], r.body);
}

static void infer_answers_json_in_any_order_of_members(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{\"id\":\"q\\u00e9\",\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,"
        "2,3,4]}]}",
        "{\"inputs\":[{\"data\":[[1,2,3,4]],\"datatype\":\"FP32\",\"shape\":[1,4],\"name\":\"x\"}],\"id\":"
        "\"q\\u00e9\"}",
        "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}],\"outputs\":"
        "[{\"name\":\"y\"}],\"id\":\"q\xc3\xa9\"}",
        "{\"parameters\":{\"timeout\":1000000,\"binary_data_output\":false},\"id\":\"q\xc3\xa9\",\"inputs\":["
        "{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\","
        "\"data\":[1,2,3,4]}]}",
    };
    float x[4] = {1, 2, 3, 4}, want[3];
    live_expect(&server, "1", x, want);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        static reply r;
        if (post(&server, &r, "/v2/models/mlp/infer", bodies[i]) != 200)
            fail_msg("%s: %s", bodies[i], r.body);
        json_t *j = parse(&r), *out = json_array_get(json_object_get(j, "outputs"), 0);
        assert_string_equal(json_string_value(json_object_get(j, "model_name")), "mlp");
        assert_string_equal(json_string_value(json_object_get(j, "model_version")), "1");
        assert_string_equal(json_string_value(json_object_get(j, "id")), "q\xc3\xa9");
        assert_string_equal(json_string_value(json_object_get(out, "datatype")), "FP32");
        assert_int_equal(json_integer_value(json_array_get(json_object_get(out, "shape"), 1)), 3);
        expect_floats(json_object_get(out, "data"), want, 3);
        json_decref(j);
    }
}

static void binary_tensors_go_both_ways(void **state)
{
    (void)state;
    static reply r;
    char body[512], headers[128];
    float x[8] = {1, 2, 3, 4, -1, 0.5f, 2, 9}, want[6];
    for (int i = 0; i < 2; i++) live_expect(&server, "1", x + 4 * i, want + 3 * i);
    int json = snprintf(body, sizeof body,
                        "{\"inputs\":[{\"name\":\"x\",\"shape\":[2,4],\"datatype\":\"FP32\",\"parameters\":{"
                        "\"binary_data_size\":32}}],"
                        "\"outputs\":[{\"name\":\"y\",\"parameters\":{\"binary_data\":true}}]}");
    memcpy(body + json, x, sizeof x);
    snprintf(headers, sizeof headers, "Inference-Header-Content-Length: %d\r\n", json);
    assert_int_equal(
        fetch(&server, &r, "POST", "/v2/models/mlp/versions/1/infer", headers, body, (size_t)json + sizeof x),
        200);
    size_t head = (size_t)atoi(reply_header(&r, "Inference-Header-Content-Length"));
    assert_int_equal(r.body_bytes, head + sizeof want);
    assert_memory_equal(r.body + head, want, sizeof want);
    assert_non_null(strstr(r.body, "\"binary_data_size\":24"));

    /* a raw body is one tensor; its reply is binary */
    assert_int_equal(fetch(&server, &r, "POST", "/v2/models/mlp/infer",
                           "Inference-Header-Content-Length: 0\r\n", x, sizeof x),
                     200);
    head = (size_t)atoi(reply_header(&r, "Inference-Header-Content-Length"));
    assert_memory_equal(r.body + head, want, sizeof want);
}

static void bodies_may_come_in_pieces_and_chunks(void **state)
{
    (void)state;
    static reply r;
    static const char body[] = "{\"data\":[ 1.0 , 2e0 ,3.00, 4]}";
    float x[4] = {1, 2, 3, 4}, want[3];
    live_expect(&server, "1", x, want);
    for (int chunked = 0; chunked < 2; chunked++) {
        int fd = dial(&server);
        char head[256];
        snprintf(head, sizeof head, "POST /v1/predict HTTP/1.1\r\nHost: t\r\n%s%s\r\n\r\n",
                 chunked ? "Transfer-Encoding: chunked" : "Content-Length: ", chunked ? "" : "30");
        assert_int_equal(strlen(body), 30);
        send_all(fd, head, strlen(head));
        for (size_t i = 0; i < strlen(body); i++) {
            char piece[16];
            int n = chunked ? snprintf(piece, sizeof piece, "1\r\n%c\r\n", body[i])
                            : snprintf(piece, sizeof piece, "%c", body[i]);
            assert_true(send_all(fd, piece, (size_t)n));
            if (i % 7 == 0) usleep(1000);
        }
        if (chunked) send_all(fd, "0\r\n\r\n", 5);
        if (read_reply(fd, &r) != 200) fail_msg("%s", r.body);
        json_t *j = parse(&r);
        expect_floats(json_object_get(j, "y"), want, 3);
        json_decref(j);
        close(fd);
    }
}

static void a_connection_serves_many_requests_pipelined_ones_in_order(void **state)
{
    (void)state;
    static reply r;
    char all[16384];
    size_t n = 0;
    for (int i = 0; i < 50; i++) {
        char body[64];
        int b = snprintf(body, sizeof body, "{\"data\":[%d,0,0,0]}", i);
        n += (size_t)snprintf(
            all + n, sizeof all - n,
            "POST /v1/predict HTTP/1.1\r\nHost: t\r\nX-Request-Id: r%d\r\nContent-Length: %d\r\n\r\n%s", i, b,
            body);
    }
    int fd = dial(&server);
    assert_true(send_all(fd, all, n));
    for (int i = 0; i < 50; i++) {
        char id[16];
        float x[4] = {(float)i}, want[3];
        snprintf(id, sizeof id, "r%d", i);
        live_expect(&server, "1", x, want);
        assert_int_equal(read_reply(fd, &r), 200);
        assert_string_equal(reply_header(&r, "X-Request-Id"), id);
        json_t *j = parse(&r);
        expect_floats(json_object_get(j, "y"), want, 3);
        json_decref(j);
    }
    close(fd);
}

static void metadata_health_and_statistics_tell_the_truth(void **state)
{
    (void)state;
    static reply r;
    assert_int_equal(get(&server, &r, "/v2"), 200);
    assert_non_null(strstr(r.body, "\"name\":\"tensorbrain\""));
    assert_int_equal(get(&server, &r, "/v2/health/live"), 200);
    assert_int_equal(get(&server, &r, "/v2/models/mlp"), 200);
    assert_non_null(strstr(r.body, "\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[-1,4]}]"));
    assert_int_equal(get(&server, &r, "/v2/models/mlp/versions/1/ready"), 200);
    assert_int_equal(get(&server, &r, "/v2/models/mlp/config"), 200);
    assert_int_equal((int)json_field(r.body, "max_batch_size"), 8);
    assert_int_equal(get(&server, &r, "/v2/models/mlp/stats"), 200);
    double before = json_field(r.body, "inference_count");
    assert_int_equal(post(&server, &r, "/v1/predict", "{\"data\":[[1,2,3,4],[1,2,3,4],[1,2,3,4]]}"), 200);
    assert_int_equal(get(&server, &r, "/v2/models/stats"), 200);
    assert_int_equal((int)(json_field(r.body, "inference_count") - before), 3);
    assert_int_equal(post(&server, &r, "/v2/repository/index", ""), 200);
    assert_non_null(strstr(r.body, "\"name\":\"mlp\",\"version\":\"1\",\"state\":\"READY\""));
    assert_int_equal(get(&server, &r, "/v2/timeline?last=2"), 200);
    assert_non_null(strstr(r.body, "\"status\":200,\"rows\":3,\"batch_rows\":3"));
    assert_int_equal(get(&server, &r, "/v2/decisions?last=5"), 200);
    assert_non_null(strstr(r.body, "predicted_ns"));
    assert_int_equal(get(&server, &r, "/metrics"), 200);
    assert_non_null(strstr(r.body, "tensorbrain_batches_total{model=\"mlp\",version=\"1\",rows=\"3\"}"));
    assert_int_equal(get(&server, &r, "/"), 200);
    assert_non_null(strstr(r.body, "<!doctype html>"));
    assert_int_equal(get(&server, &r, "/page/state"), 200);
    assert_int_equal(fetch(&server, &r, "HEAD", "/v2/health/live", "", NULL, 0), 200);
}

/* Every place of the table of connections takes its first requests ever, as many at once as there are places: there is
 * no warm-up that one could forget. */
static void requests_of_one_row_allocate_nothing_from_the_first_on(void **state)
{
    (void)state;
    enum { PLACES = 100 };
    live l = {.in = 40, .hidden = 8, .out = 30};
    tb_serve_config config = {.limits = {.drain_delay_ms = 1, .connections = PLACES, .queue_rows = PLACES}};
    static reply r;
    static float x[40];
    static char json[1024], predict[512];
    int fd[PLACES - 1];
    size_t n = (size_t)snprintf(json, sizeof json,
                                "{\"id\":\"%0250d\",\"inputs\":[{\"name\":\"x\",\"shape\":[1,40],"
                                "\"datatype\":\"FP32\",\"data\":[0",
                                0);
    size_t p = (size_t)snprintf(predict, sizeof predict, "{\"data\":[0");
    for (int i = 1; i < 40; i++) {
        n += (size_t)snprintf(json + n, sizeof json - n, ",0.%d", i);
        p += (size_t)snprintf(predict + p, sizeof predict - p, ",0.%d", i);
    }
    n += (size_t)snprintf(json + n, sizeof json - n, "]}]}");
    p += (size_t)snprintf(predict + p, sizeof predict - p, "]}");
    const struct {
        const char *path, *headers;
        const void *body;
        size_t bytes;
        int status;
    } forms[] = {{"/v1/predict", "", predict, p, 200},
                 {"/v2/models/mlp/infer", "", json, n, 200},
                 {"/v2/models/mlp/infer", "Inference-Header-Content-Length: 0\r\n", x, sizeof x, 200},
                 {"/v1/predict", "", predict, p - 1, 400}};
    live_start_with(&l, &config);
    wait_ready(&l);
    int reader = dial(&l);
    allocations(reader, &r); /* the text of the metrics is long: its place grows once */
    uint64_t before = allocations(reader, &r);
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        for (int i = 0; i < PLACES - 1; i++) {
            char head[256];
            int k = snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: t\r\n%sContent-Length: %zu\r\n\r\n",
                             forms[f].path, forms[f].headers, forms[f].bytes);
            if (f == 0) fd[i] = dial(&l);
            assert_true(send_all(fd[i], head, (size_t)k) && send_all(fd[i], forms[f].body, forms[f].bytes));
        }
        for (int i = 0; i < PLACES - 1; i++)
            if (read_reply(fd[i], &r) != forms[f].status) fail_msg("form %zu: %d %s", f, r.status, r.body);
    }
    assert_int_equal(allocations(reader, &r), before);
    for (int i = 0; i < PLACES - 1; i++) close(fd[i]);
    close(reader);
    live_stop(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(predict_answers_one_row_flat_and_many_nested),
        cmocka_unit_test(infer_answers_json_in_any_order_of_members),
        cmocka_unit_test(binary_tensors_go_both_ways),
        cmocka_unit_test(bodies_may_come_in_pieces_and_chunks),
        cmocka_unit_test(a_connection_serves_many_requests_pipelined_ones_in_order),
        cmocka_unit_test(metadata_health_and_statistics_tell_the_truth),
        cmocka_unit_test(requests_of_one_row_allocate_nothing_from_the_first_on),
    };
    return cmocka_run_group_tests(tests, server_setup, server_teardown);
}
