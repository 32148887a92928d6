/* The inference server: Open Inference Protocol v2 over HTTP/1.1, natural batching, bounded queues,
 * deadlines, hot reload, metrics and a built-in page. libmicrohttpd speaks HTTP; see README.md for the
 * endpoints and limits.
 *
 * A server is created, run by one thread until it is drained, and destroyed. tb_server_drain() may be called
 * from any thread and from a signal handler; everything else belongs to the thread that runs it. */
#pragma once
#include "tb_serve_model.h"
#include <stdbool.h>

typedef enum tb_serve_mode {
    TB_SERVE_AUTO,  /* by measured model time against the measured cost of a hand-over */
    TB_SERVE_LOOP,  /* the I/O thread runs the model */
    TB_SERVE_WORKER /* worker threads run it */
} tb_serve_mode;

/* 0 in any field takes the default in brackets. */
typedef struct tb_serve_limits {
    int connections;            /* [512] at once; more are told 503 and closed */
    int connections_per_ip;     /* [connections] */
    int requests_per_connection;/* [1000] then "Connection: close" */
    int header_bytes;           /* [16384] */
    int header_fields;          /* [64] */
    int uri_bytes;              /* [2048] */
    int64_t body_bytes;         /* [16 MiB]; a model's own bound (24 bytes an element + 4 KiB) holds too */
    int header_ms;              /* [5000] from the first byte of a request to the end of its header */
    int body_ms;                /* [10000] from there to the end of the body */
    int body_bytes_per_s;       /* [1024] slower bodies are cut off after the first second */
    int send_ms;                /* [10000] for the client to take the reply */
    int idle_ms;                /* [60000] between requests */
    int queue_rows;             /* [4 x max_batch] waiting, per model */
    int max_timeout_ms;         /* [60000] no request waits longer than this */
    int quota_per_s;            /* [none] inferences a second; more are told 429 */
    int drain_delay_ms;         /* [500] serve on, not ready, every reply closing its connection */
    int drain_ms;               /* [10000] then what still waits is told 503 */
} tb_serve_limits;

/* Images for the page: n of rows x cols bytes, labels, names of the classes. All borrowed while the server
 * lives. */
typedef struct tb_serve_samples {
    int n, rows, cols, n_classes;
    const uint8_t *pixels, *labels;
    const char *const *class_names;
} tb_serve_samples;

typedef struct tb_serve_config {
    const char *repository; /* DIR: models are DIR/<name>/<version>/; the highest version number is served */
    const char *bind;           /* [127.0.0.1] IPv4 address */
    int port;                   /* 0: any free port */
    const char *api_key;        /* NULL: none. Required beyond loopback unless `insecure` */
    bool insecure;
    tb_serve_mode mode;
    int workers;                /* [1] threads per model in worker mode */
    int spin_us;                /* [4000] after the last request the loop polls this long before it sleeps; -1: never.
                                   Models with workers, or a single core, do without */
    tb_serve_model_opener open; /* required */
    void *open_arg;
    tb_serve_limits limits;
    const tb_serve_samples *samples; /* NULL: none */
} tb_serve_config;

typedef struct tb_server tb_server;

/* Listens; models load in the background, and requests for them are told 503 loading until they are ready. */
TB_MUST_USE tb_status tb_server_create(const tb_serve_config *config, tb_server **out);
int tb_server_port(const tb_server *s);
/* Serves until drained. TB_OK: every accepted request was answered. TB_ERR_CANCELLED: drained twice, ended at
 * once. TB_ERR_TIMEOUT: requests were still open when limits.drain_ms had passed. */
TB_MUST_USE tb_status tb_server_run(tb_server *s);
void tb_server_drain(tb_server *s); /* the first call drains, a second one ends at once */
void tb_server_destroy(tb_server *s); /* NULL is accepted */
