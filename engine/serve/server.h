/* The server's own structures, shared by its files: server.c (life and loop), connection.c (the table of connections,
 * their deadlines), http.c (the library's callbacks), framing.c (what the library lets through), route.c (paths),
 * inference.c (to the batcher and back), reply.c, stream.c (text, token by token), endpoints.c (other replies). All of
 * it belongs to the loop thread. */
#pragma once
#include "metrics.h"
#include "repository.h"
#include <microhttpd.h>
#include <netinet/in.h>

typedef enum tbi_endpoint {
    TBI_NO_ENDPOINT,
    TBI_PAGE,
    TBI_PAGE_STATE,
    TBI_PAGE_SAMPLES,
    TBI_SERVER_METADATA,
    TBI_LIVE,
    TBI_READY,
    TBI_MODEL,
    TBI_MODEL_READY_,
    TBI_MODEL_CONFIG,
    TBI_MODEL_STATS,
    TBI_INFER,
    TBI_GENERATE,
    TBI_GENERATE_STREAM,
    TBI_PREDICT,
    TBI_INDEX,
    TBI_LOAD,
    TBI_UNLOAD,
    TBI_METRICS,
    TBI_TIMELINE,
    TBI_DECISIONS
} tbi_endpoint;

/* A parsed request path. Pieces point into it and live as long as the request. */
typedef struct tbi_route {
    tbi_endpoint endpoint;
    const char *model, *version; /* NULL: not in the path; not zero-terminated */
    size_t model_bytes, version_bytes;
    int last;                    /* ?last=N */
} tbi_route;

tbi_route tbi_route_parse(const char *uri);
bool tbi_route_takes(tbi_endpoint e, const char *method); /* is this method allowed there */
bool tbi_route_is_post(tbi_endpoint e);

typedef enum tbi_conn_state {
    TBI_CONN_FREE,
    TBI_CONN_IDLE,    /* no request whose header is complete */
    TBI_CONN_BODY,    /* reading a body */
    TBI_CONN_DISCARD, /* reading a body that will not be used: fault is set */
    TBI_CONN_WAITING, /* queued, running, or for a load */
    TBI_CONN_READY,   /* the reply is written, the library has not taken it */
    TBI_CONN_STREAMING, /* the reply has begun and grows */
    TBI_CONN_SENDING
} tbi_conn_state;

enum { TBI_REQUEST_ID = 64 };

/* One connection and the one request it may have at a time. Its buffers stay for the next connection in its
 * place. */
typedef struct tbi_conn {
    tbi_request request; /* first: the batcher hands this back */
    struct tb_server *server;
    struct MHD_Connection *http;
    tbi_conn_state state;
    int fd;
    in_addr_t ip;
    int64_t since_ns;          /* of the state */
    uint64_t idle_bytes;       /* received when the sweeper first saw it idle; 0: not yet */
    int64_t partial_ns;        /* when a partial header was first seen; 0: none */
    int n_requests;
    bool close;                /* after this reply */
    tbi_route route;
    bool uri_too_long;
    char request_id[TBI_REQUEST_ID + 1];
    int64_t body_limit, content_length, body_bytes; /* content_length -1: chunked */
    int pieces;                /* of a chunked body */
    bool timeout_in_header;
    tbi_served *served;        /* held while the request needs it */
    tbi_fault fault;
    tbi_infer infer;
    tbi_rows in[TB_SERVE_MAX_TENSORS];
    tbi_prompt prompt;
    tbi_generation generation; /* of `prompt` */
    bool generates;            /* it is known to the generator */
    tb_text text;              /* generated, where it is answered as a whole */
    tb_text body;              /* the reply */
    int status;
    const char *content_type;
    const void *fixed; size_t fixed_bytes; /* a reply that is constant instead of `body` */
    int64_t json_bytes;        /* Inference-Header-Content-Length of the reply; -1: none */
    bool inferred;             /* the reply holds an answer: stage headers apply */
} tbi_conn;

typedef struct tb_server {
    tb_serve_config config;    /* with defaults filled in */
    struct MHD_Daemon *http;
    int listen_fd, epoll_fd, wake_fd, drain_fd;
    int spare_fd; /* kept for when there are no others */
    int port;
    tbi_conn *conns;           /* [limits.connections] */
    int n_conns;               /* in use */
    tbi_conn *adding;          /* while the library takes a new connection over */
    tbi_repository repository;
    tbi_metrics metrics;
    uint64_t next_id, id_salt;
    double quota; int64_t quota_ns; /* token bucket */
    int drains;                /* tb_server_drain calls seen */
    int64_t drain_ns;          /* when the first was */
    bool closing;              /* the listener is closed */
    int64_t next_sweep_ns;
    int n_waiting;             /* connections in state WAITING or READY */
    bool progressed;           /* a callback did something since this was cleared */
    int64_t active_ns;         /* when a connection last changed its state */
    int n_cores;               /* that the process may use */
} tb_server;

/* connection.c */
void tbi_conn_accept(tb_server *s);                       /* everything that waits at the listener */
void tbi_conn_free_buffers(tbi_conn *c);
/* Gives every place that is between requests the memory that a request of one row of this model needs. */
void tbi_conn_reserve(tb_server *s, const tb_serve_model *model);
void tbi_conn_state_set(tbi_conn *c, tbi_conn_state state);
/* Replies around the library and ends the connection: for faults in the middle of a header or body. */
void tbi_conn_cut(tbi_conn *c, tbi_fault_code code, const char *message);
void tbi_conn_sweep(tb_server *s, int64_t now_ns);        /* closes what is past its deadline */
void tbi_conn_release_request(tbi_conn *c);               /* cancels and forgets; the connection goes idle */
bool tbi_key_equal(const char *given, const char *key);   /* in time that does not depend on where they differ */

/* http.c */
TB_MUST_USE tb_status tbi_http_start(tb_server *s);
const char *tbi_header(tbi_conn *c, const char *name); /* of the request, without regard to case; NULL: absent */

/* reply.c */
void tbi_reply_fault(tbi_conn *c);           /* the reply is c->fault; state READY */
enum MHD_Result tbi_send_reply(tbi_conn *c); /* of a connection that is READY */

/* inference.c. A false: c->fault is set. */
bool tbi_header_number(tbi_conn *c, const char *name, int64_t min, int64_t max, int64_t *out);
bool tbi_find_served(tbi_conn *c); /* holds the model that the path names */
bool tbi_quota_left(tb_server *s, int64_t now, tbi_fault *fault);
bool tbi_begin_inference(tbi_conn *c); /* by its header alone */
void tbi_end_inference(tbi_conn *c);   /* its body is complete: to the batcher, or the reply is a fault */
void tbi_finish_inference(void *server, tbi_request *r, const tbi_fault *fault, const void *const *out);
void tbi_begin_load(tbi_conn *c);
void tbi_finish_load(void *server, void *waiter, tbi_entry *e, tb_status st);

/* stream.c */
bool tbi_begin_generation(tbi_conn *c);                   /* what the header decides; false with the fault set */
void tbi_end_generation(tbi_conn *c);                     /* the body is there */
void tbi_generated_token(void *server, tbi_generation *r, const tbi_fault *fault);
struct MHD_Response *tbi_stream_response(tbi_conn *c);
bool tbi_is_stream(const tbi_conn *c);                    /* this reply is sent while it grows */

/* framing.c: false with the fault set when the library accepted what HTTP/1.1 does not allow or limits
 * forbid. */
bool tbi_framing_check(tbi_conn *c, const char *version);

/* endpoints.c: fills the reply of everything but inference and load. */
void tbi_endpoint_reply(tbi_conn *c);
extern const char tbi_page_html[];
extern const size_t tbi_page_html_bytes;
bool tbi_server_ready(const tb_server *s);
