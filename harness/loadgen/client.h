/* One run's state: connections, the line of arrivals, the clock. Shared by client.c (the loop), wire.c
 * (bytes) and stream.c (replies that grow). */
#pragma once
#include "tb_load.h"

enum { TBI_LOAD_BUFFER = 1 << 16 };

typedef enum load_state { LOAD_CLOSED, LOAD_CONNECTING, LOAD_FREE, LOAD_BUSY } load_state;

typedef struct load_connection {
    int fd, index;
    load_state state;
    int64_t retry_ns;          /* CLOSED: when to dial again */
    int64_t arrival;           /* BUSY: which column */
    int64_t send_at, send_end; /* of requests->text */
    bool watching_out;
    size_t received, head_bytes, body_bytes;
    int status, batch;
    int64_t json_bytes;
    bool close;                /* the server will, after this reply */
    /* stream.c: a reply in chunked coding */
    bool is_chunked, is_last_chunk, is_whole;
    size_t raw, plain, event; /* of the buffer: framing taken away up to, body up to, events taken up to */
    size_t chunk_left;        /* with its line end */
    int64_t tokens, token_ns; /* so far, and when the last one came */
    bool is_done, is_wrong;   /* the end was told; something else than what is expected came */
    struct load_connection *next_free;
    char buffer[TBI_LOAD_BUFFER + 1];
} load_connection;

typedef struct load_run {
    const tb_load_config *config;
    const tb_load_schedule *schedule;
    tb_load_requests *requests;
    tb_load_result *result;
    const int64_t *at_ns;
    int64_t n, next;           /* arrivals; the next to dispatch: [next, due) wait in line */
    int64_t answered;          /* done, whatever the outcome */
    int epoll_fd;
    load_connection *connections;
    int n_connections;
    load_connection *free_first, *free_last; /* in turn, so that all are used alike */
    int64_t begin_ns;          /* tb_now_ns() of time 0 */
    int64_t ended_ns;          /* when it stopped sending: a closed loop, or an open one that was told to end */
    int64_t freed_ns;          /* since when some connection has been free */
} load_run;

int64_t load_now(const load_run *r);
void load_dial(load_run *r, load_connection *c);
void load_dispatch(load_run *r, load_connection *c, int64_t arrival);
void load_ready(load_run *r, load_connection *c, uint32_t events); /* bytes may move */
void load_put_free(load_run *r, load_connection *c);
void load_drop(load_run *r, load_connection *c); /* the connection is gone; its request has failed */
bool load_stream_read(load_run *r, load_connection *c); /* true: the body is whole */
void load_summarize(load_run *r); /* summary.c: from the columns to the result */
