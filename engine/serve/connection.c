/* The table of connections: accepting within limits, deadlines that the library does not keep, cutting.
 *
 * The library's own timeout counts inactivity, so one byte a second holds a connection for ever. Here every
 * state has a total deadline; a sweep four times a second ends what is past it. */
#include "server.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h> /* glibc's tcp_info lacks the byte counts */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PEER_HAS_CLOSED = 8, /* TCP_CLOSE_WAIT, which linux/tcp.h does not name */
    MOST_RESERVED = 64 << 20
};

bool tbi_key_equal(const char *given, const char *key)
{
    size_t n = strlen(given), want = strlen(key);
    unsigned difference = n != want;
    for (size_t i = 0; i < n; i++)
        difference |= (unsigned char)given[i] ^ (unsigned char)key[want ? i % want : 0];
    return difference == 0;
}

static bool is_waiting(tbi_conn_state s)
{
    return s == TBI_CONN_WAITING || s == TBI_CONN_READY || s == TBI_CONN_STREAMING;
}

void tbi_conn_state_set(tbi_conn *c, tbi_conn_state state)
{
    c->server->n_waiting += is_waiting(state) - is_waiting(c->state);
    /* A reply on its way needs no further look; an ended request does, if a next one may lie behind it and
     * the library, asked while others wait, would not say so. */
    if (state != TBI_CONN_SENDING && (state != TBI_CONN_IDLE || c->server->n_waiting > 0))
        c->server->progressed = true;
    c->state = state;
    c->since_ns = c->server->active_ns = tb_now_ns();
}

static tbi_conn *free_place(tb_server *s)
{
    for (int i = 0; i < s->config.limits.connections; i++)
        if (s->conns[i].state == TBI_CONN_FREE) return &s->conns[i];
    return NULL;
}

static int from_ip(const tb_server *s, in_addr_t ip)
{
    int n = 0;
    for (int i = 0; i < s->config.limits.connections; i++)
        n += s->conns[i].state != TBI_CONN_FREE && s->conns[i].ip == ip;
    return n;
}

static void write_around(int fd, tbi_fault_code code, const char *message, int retry_after_s)
{
    char text[512];
    tbi_fault fault = {.retry_after_s = retry_after_s};
    tb_text body = {0};
    tbi_fault_set(&fault, code, NULL, "%s", message);
    tbi_fault_write(&fault, NULL, &body);
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\nConnection: "
                     "close\r\nContent-Length: %zu\r\n%s\r\n%s",
                     tbi_fault_status(code), body.size, retry_after_s ? "Retry-After: 1\r\n" : "",
                     tb_text_str(&body));
    if (n > 0 && (size_t)n < sizeof text) (void)!send(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
    tb_text_free(&body);
}

void tbi_conn_cut(tbi_conn *c, tbi_fault_code code, const char *message)
{
    c->server->metrics.replies[code]++;
    write_around(c->fd, code, message, 0);
    shutdown(c->fd, SHUT_RDWR); /* the library sees the end and closes in its own order */
}

static void refuse(tb_server *s, int fd, const char *message)
{
    s->metrics.connections_refused++;
    write_around(fd, TBI_FAULT_TOO_MANY_CONNECTIONS, message, 1);
    close(fd);
}

/* Out of descriptors: one is kept back, so that who waits at the listener can be told, instead of waking the loop
 * again and again. */
static bool refuse_with_spare(tb_server *s)
{
    if (s->spare_fd < 0) return false;
    close(s->spare_fd);
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) refuse(s, fd, "the server is out of descriptors");
    s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0;
}

void tbi_conn_accept(tb_server *s)
{
    for (;;) {
        struct sockaddr_in from;
        socklen_t bytes = sizeof from;
        int fd = accept4(s->listen_fd, (struct sockaddr *)&from, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE) && refuse_with_spare(s)) continue;
        if (fd < 0) return; /* none left; the sweep tries again */
        s->metrics.connections++;
        bool room = s->n_conns < s->config.limits.connections &&
                    from_ip(s, from.sin_addr.s_addr) < s->config.limits.connections_per_ip;
        tbi_conn *c = room ? free_place(s) : NULL;
        if (!c) {
            refuse(s, fd, "the server's limit of connections is reached");
            continue;
        }
        c->server = s;
        c->fd = fd;
        c->ip = from.sin_addr.s_addr;
        c->n_requests = 0;
        c->idle_bytes = 0;
        c->partial_ns = tb_now_ns(); /* the first header counts from here */
        c->http = NULL;
        s->adding = c;
        bool taken = MHD_add_connection(s->http, fd, (struct sockaddr *)&from, bytes) == MHD_YES;
        s->adding = NULL;
        if (!taken && c->state != TBI_CONN_FREE) { /* it closed the socket */
            tbi_conn_state_set(c, TBI_CONN_FREE);
            s->n_conns--;
        }
    }
}

void tbi_conn_release_request(tbi_conn *c)
{
    if (c->generates) tbi_generator_cancel(c->served->generator, &c->generation);
    else if (c->state == TBI_CONN_WAITING && c->served) tbi_batcher_cancel(c->served->batcher, &c->request);
    if (c->state == TBI_CONN_WAITING && !c->served) tbi_repository_forget(&c->server->repository, c);
    c->generates = false;
    if (c->served) c->served->users--;
    c->served = NULL;
    c->idle_bytes = 0;
    c->partial_ns = 0;
    tbi_conn_state_set(c, TBI_CONN_IDLE);
}

void tbi_conn_free_buffers(tbi_conn *c)
{
    for (int i = 0; i < TB_SERVE_MAX_TENSORS; i++) tb_free(c->in[i].data);
    tb_text_free(&c->body);
    tb_text_free(&c->text);
}

/* The lowest places are taken first, so where rows are large those are the ones that get memory. A place that is in
 * use keeps what it has where it is, and grows when it must. */
void tbi_conn_reserve(tb_server *s, const tb_serve_model *m)
{
    size_t reply = tbi_infer_reply_most(m), left = MOST_RESERVED;
    for (int i = 0; i < s->config.limits.connections; i++) {
        tbi_conn *c = &s->conns[i];
        size_t bytes = reply;
        for (int k = 0; k < m->n_inputs; k++) bytes += tbi_row_bytes(&m->inputs[k]);
        if (bytes > left) return;
        left -= bytes;
        if (c->state != TBI_CONN_FREE && c->state != TBI_CONN_IDLE) continue;
        bool good = tb_text_reserve(&c->body, reply);
        for (int k = 0; k < m->n_inputs && good; k++) good = tbi_rows_reserve(&c->in[k], tbi_row_bytes(&m->inputs[k]));
        if (!good) { /* requests ask again, and say so */
            c->body.failed = false;
            tb_error_clear();
            return;
        }
    }
}

static bool tcp_state(const tbi_conn *c, struct tcp_info *out)
{
    socklen_t size = sizeof *out;
    memset(out, 0, sizeof *out);
    return getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, out, &size) == 0;
}

/* A header that trickles in leaves no trace in the library's interface, nor does a client that has
 * half-closed after its last request; the kernel knows of both. */
static void sweep_idle(tbi_conn *c, int64_t now)
{
    const tb_serve_limits *limit = &c->server->config.limits;
    struct tcp_info tcp;
    if (!tcp_state(c, &tcp)) return;
    uint64_t bytes = tcp.tcpi_bytes_received + 1;
    if (c->idle_bytes == 0) c->idle_bytes = bytes;
    else if (bytes != c->idle_bytes && !c->partial_ns) c->partial_ns = now;
    if (c->partial_ns && now - c->partial_ns > limit->header_ms * 1000000LL) {
        c->server->metrics.cut_slow++;
        tbi_conn_cut(c, TBI_FAULT_SLOW_REQUEST, "the header did not come in time");
    } else if (now - c->since_ns > limit->idle_ms * 1000000LL || tcp.tcpi_state == PEER_HAS_CLOSED) {
        shutdown(c->fd, SHUT_RDWR);
    }
}

static void sweep_body(tbi_conn *c, int64_t now)
{
    const tb_serve_limits *limit = &c->server->config.limits;
    int64_t ms = (now - c->since_ns) / 1000000;
    struct tcp_info tcp;
    if (ms > 500 && tcp_state(c, &tcp) && tcp.tcpi_state == PEER_HAS_CLOSED) { /* the rest will never come */
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    if (ms <= limit->body_ms && (ms <= 1000 || c->body_bytes * 1000 >= ms * limit->body_bytes_per_s)) return;
    c->server->metrics.cut_slow++;
    tbi_conn_cut(c, TBI_FAULT_SLOW_REQUEST, "the body came too slowly");
}

/* The library reads nothing while a request waits, so only a reset reaches it by itself. Who closes before the answer
 * has left; a client that only half-closes has its answer unless it waits for longer than this. */
static void sweep_waiting(const tbi_conn *c, int64_t now)
{
    struct tcp_info tcp;
    if (now - c->since_ns > 500000000 && tcp_state(c, &tcp) && tcp.tcpi_state == PEER_HAS_CLOSED)
        shutdown(c->fd, SHUT_RDWR);
}

void tbi_conn_sweep(tb_server *s, int64_t now)
{
    for (int i = 0; i < s->config.limits.connections; i++) {
        tbi_conn *c = &s->conns[i];
        if (c->state == TBI_CONN_IDLE) {
            if (s->closing) shutdown(c->fd, SHUT_RDWR);
            else sweep_idle(c, now);
        } else if (c->state == TBI_CONN_BODY || c->state == TBI_CONN_DISCARD) {
            sweep_body(c, now);
        } else if (c->state == TBI_CONN_WAITING) {
            sweep_waiting(c, now);
        } else if (c->state == TBI_CONN_SENDING && now - c->since_ns > s->config.limits.send_ms * 1000000LL) {
            s->metrics.cut_slow++;
            shutdown(c->fd, SHUT_RDWR);
        }
    }
}
