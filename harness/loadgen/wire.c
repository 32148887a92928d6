/* One client connection: dialling, sending, reading a reply. Speaks as much HTTP/1.1 as servers answer
 * inference with: a status, Content-Length, Connection: close. */
#include "client.h"
#include "tb_cpu.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int64_t load_now(const load_run *r) { return tb_now_ns() - r->begin_ns; }

void load_put_free(load_run *r, load_connection *c)
{
    c->state = LOAD_FREE;
    c->next_free = NULL;
    if (r->free_last) r->free_last->next_free = c;
    else r->free_first = c, r->freed_ns = load_now(r);
    r->free_last = c;
}

static void take_out(load_run *r, const load_connection *c) /* of the free ones */
{
    load_connection *before = NULL;
    for (load_connection *f = r->free_first; f; before = f, f = f->next_free) {
        if (f != c) continue;
        if (before) before->next_free = f->next_free;
        else r->free_first = f->next_free;
        if (r->free_last == f) r->free_last = before;
        return;
    }
}

static void watch(load_run *r, load_connection *c, bool out)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0), .data.ptr = c};
    if (out != c->watching_out) epoll_ctl(r->epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    c->watching_out = out;
}

void load_dial(load_run *r, load_connection *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)r->config->port)};
    int on = 1;
    inet_pton(AF_INET, r->config->host, &to.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    c->state = LOAD_CONNECTING;
    c->received = 0;
    if (c->fd >= 0) {
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP, .data.ptr = c};
        c->watching_out = true;
        bool started = connect(c->fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS;
        if (started && epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, c->fd, &e) == 0) return;
        close(c->fd);
    }
    c->state = LOAD_CLOSED;
    c->retry_ns = load_now(r) + 10000000;
}

static void finish(load_run *r, load_connection *c, int status)
{
    tb_load_column *col = &r->result->columns[c->arrival];
    col->done_ns = load_now(r);
    col->status = (int16_t)status;
    col->batch = (int16_t)c->batch;
    if (status == 200) {
        int sample = (int)(c->arrival % r->requests->n);
        col->wrong = c->is_chunked ? c->is_wrong
                                   : !tb_load_verify(r->requests, sample, c->buffer + c->head_bytes, c->body_bytes,
                                                     c->json_bytes);
    }
    r->answered++;
    if (r->config->in_flight) atomic_fetch_sub(r->config->in_flight, 1);
}

void load_drop(load_run *r, load_connection *c)
{
    if (c->state == LOAD_BUSY) {
        c->batch = 0;
        finish(r, c, 0);
    }
    if (c->state == LOAD_FREE) take_out(r, c);
    close(c->fd);
    bool refused = c->state == LOAD_CONNECTING;
    c->state = LOAD_CLOSED;
    c->retry_ns = load_now(r) + (refused ? 10000000 : 0);
    r->result->reconnects++;
}

static void push(load_run *r, load_connection *c)
{
    while (c->send_at < c->send_end) {
        ssize_t k =
            send(c->fd, r->requests->text + c->send_at, (size_t)(c->send_end - c->send_at), MSG_NOSIGNAL);
        if (k < 0 && errno == EAGAIN) break;
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return; /* the reading side sees what has happened, perhaps after an early reply */
        c->send_at += k;
    }
    watch(r, c, c->send_at < c->send_end);
}

void load_dispatch(load_run *r, load_connection *c, int64_t arrival)
{
    int sample = (int)(arrival % r->requests->n);
    c->state = LOAD_BUSY;
    c->arrival = arrival;
    c->send_at = r->requests->begin[sample];
    c->send_end = r->requests->begin[sample + 1];
    c->received = c->head_bytes = 0;
    if (r->config->in_flight) atomic_fetch_add(r->config->in_flight, 1);
    r->result->columns[arrival].dispatch_ns = load_now(r);
    push(r, c);
}

static bool field(const char *line, const char *name, const char **value)
{
    size_t n = strlen(name);
    if (strncasecmp(line, name, n) != 0) return false;
    for (line += n; *line == ' '; line++) {}
    *value = line;
    return true;
}

/* Reads the head once it is whole. */
static bool parse_head(load_connection *c)
{
    const char *value;
    c->buffer[c->received] = 0;
    char *end = strstr(c->buffer, "\r\n\r\n");
    if (!end) return false;
    c->head_bytes = (size_t)(end + 4 - c->buffer);
    c->status = c->received > 12 ? atoi(c->buffer + 9) : 0;
    c->body_bytes = 0;
    c->batch = 0;
    c->json_bytes = -1;
    c->close = c->is_chunked = c->is_last_chunk = c->is_whole = c->is_done = c->is_wrong = false;
    c->raw = c->plain = c->event = c->head_bytes;
    c->chunk_left = 0;
    c->tokens = 0;
    for (const char *line = c->buffer; line < end; line = strstr(line, "\r\n") + 2) {
        switch (*line | 32) {
        case 'c':
            if (field(line, "content-length:", &value)) c->body_bytes = (size_t)atoll(value);
            else if (field(line, "connection:", &value)) c->close = strncasecmp(value, "close", 5) == 0;
            break;
        case 'x':
            if (field(line, "x-batch-size:", &value)) c->batch = atoi(value);
            break;
        case 't':
            if (field(line, "transfer-encoding:", &value)) c->is_chunked = strncasecmp(value, "chunked", 7) == 0;
            break;
        case 'i':
            if (field(line, "inference-header-content-length:", &value)) c->json_bytes = atoll(value);
            break;
        default: break;
        }
    }
    return true;
}

static void pull(load_run *r, load_connection *c)
{
    for (;;) {
        ssize_t k = recv(c->fd, c->buffer + c->received, TBI_LOAD_BUFFER - c->received, 0);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0 && errno == EAGAIN) return;
        if (k <= 0) {
            load_drop(r, c);
            return;
        }
        c->received += (size_t)k;
        if (c->state != LOAD_BUSY || c->received == TBI_LOAD_BUFFER) {
            load_drop(r, c); /* a reply that nobody asked for, or one that is too large */
            return;
        }
        if (!c->head_bytes && !parse_head(c)) continue;
        if (c->is_chunked ? !load_stream_read(r, c) : c->received < c->head_bytes + c->body_bytes) continue;
        finish(r, c, c->status);
        c->received = c->head_bytes = 0;
        c->state = LOAD_FREE; /* in the line of free ones only if it stays open */
        if (c->close) load_drop(r, c);
        else load_put_free(r, c);
        return;
    }
}

void load_ready(load_run *r, load_connection *c, uint32_t events)
{
    if (c->state == LOAD_CONNECTING) {
        if (events & (EPOLLERR | EPOLLHUP)) load_drop(r, c);
        else if (events & EPOLLOUT) {
            watch(r, c, false);
            load_put_free(r, c);
        }
        return;
    }
    if (c->state == LOAD_BUSY && events & EPOLLOUT) push(r, c);
    if (c->state != LOAD_CLOSED && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) pull(r, c);
}
