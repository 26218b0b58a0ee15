/* Connections. A connection is OPEN, then FLUSHING, then perhaps DRAINING, then CLOSED, never
 * backwards (docs/design.md has the table). Closing unlinks at once and frees at the end of the
 * turn, so a pointer that a caller holds stays good until then. */

#include "conn.h"
#include "sys.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What one receive takes at most: into the loop's buffer, and, for a connection that fills it, into one of the
 * embedding's. Larger ones fall out of the CPU's caches between the receive and the send. */
#define BUFFER_SIZE ((size_t)64 * 1024)
#define READ_MAX ((size_t)256 * 1024)

/* What one connection may send in one go before others have their turn. */
#define SEND_MAX ((size_t)1024 * 1024)

/* Parts of one sendmsg: more brings nothing, and these fit the stack. */
#define PARTS_MAX 64

/* Unsent bytes beyond which a connection is not read. Half of it, and it is read again. */
#define HIGH_WATER ((size_t)256 * 1024)

/* the slot table */

static uint64_t tag_of(const struct evio_conn *conn)
{
    return (uint64_t)conn->generation << 32 | conn->slot;
}

static struct evio_conn *find(const struct evio__conns *conns, uint64_t tag)
{
    uint32_t slot = (uint32_t)tag;
    if (slot >= conns->nslots || conns->slots[slot] == NULL)
        return NULL; /* closed earlier in this batch */
    struct evio_conn *conn = conns->slots[slot];
    return conn->generation == tag >> 32 ? conn : NULL;
}

static int grow(struct evio__conns *conns)
{
    enum { FIRST = 64 };
    if (conns->nslots > UINT32_MAX / 2)
        return -ENOMEM;
    uint32_t nslots = conns->nslots == 0 ? FIRST : conns->nslots * 2;
    struct evio_conn **slots = EVIO_SYS(realloc)(conns->slots, nslots * sizeof *slots);
    if (slots == NULL)
        return -ENOMEM;
    conns->slots = slots;
    uint32_t *free_slots = EVIO_SYS(realloc)(conns->free_slots, nslots * sizeof *free_slots);
    if (free_slots == NULL)
        return -ENOMEM;
    conns->free_slots = free_slots;
    for (uint32_t slot = nslots; slot-- > conns->nslots;) {
        slots[slot] = NULL;
        free_slots[conns->nfree++] = slot;
    }
    conns->nslots = nslots;
    return 0;
}

int evio__conns_init(struct evio__conns *conns)
{
    evio__list_init(&conns->idle);
    evio__list_init(&conns->linger);
    evio__list_init(&conns->dead);
    conns->buffer = EVIO_SYS(malloc)(BUFFER_SIZE);
    return conns->buffer == NULL ? -ENOMEM : 0;
}

void evio__conns_free(struct evio__conns *conns)
{
    assert(conns->count == 0);
    evio__conns_reap(conns);
    EVIO_SYS(free)(conns->slots);
    EVIO_SYS(free)(conns->free_slots);
    EVIO_SYS(free)(conns->buffer);
}

void evio__conns_reap(struct evio__conns *conns)
{
    while (!evio__list_empty(&conns->dead)) {
        struct evio_conn *conn =
            (struct evio_conn *)conns->dead.next; /* the node is its first member */
        evio__list_remove(&conn->node);
        conns->free_slots[conns->nfree++] = conn->slot;
        if (conn->wake != NULL)
            evio_wake_release(conn->wake);
        EVIO_SYS(free)(conn);
    }
}

/* closing */

static void close_conn(struct evio_conn *conn, int end)
{
    struct evio__conns *conns = conn->conns;
    assert(conn->state != EVIO__CLOSED);
    conn->state = EVIO__CLOSED;
    conns->slots[conn->slot] = NULL;
    conns->count--;
    evio__list_remove(&conn->node);
    evio__list_add(&conns->dead, &conn->node);
    if (conn->wake != NULL) {
        struct evio__woken woken;
        evio__wake_detach(conn->wake, &woken);
        evio__queue_move(&conn->out, &woken.inbox);
    }
    if (conn->fd >= 0) {
        /* A forked child may still hold the socket: then closing does not take it out of the poller. */
        if (conn->armed != 0)
            (void)evio__poll_set(conns->poll, conn->fd, conn->armed, 0, tag_of(conn));
        evio__close(conn->fd);
        conn->fd = -1;
    }
    evio__queue_clear(&conn->out, conns->hooks);
    if (conns->hooks->closed(conns->server, conn, conns->stopping ? 0 : end) == EVIO_STOP)
        conns->stop = true;
}

static void restart_clock(struct evio_conn *conn, struct evio__node *clock, int64_t now)
{
    conn->since = now;
    evio__list_remove(&conn->node);
    evio__list_add(clock, &conn->node);
}

/* Something was read or written. */
static void touch(struct evio_conn *conn)
{
    struct evio__conns *conns = conn->conns;
    conns->active = true;
    if (conns->options->idle_ns > 0)
        restart_clock(conn, &conns->idle, conns->now);
}

/* Lets the poller watch what the state asks for. May close the connection. */
static void rearm(struct evio_conn *conn)
{
    struct evio__conns *conns = conn->conns;
    unsigned wants = 0;
    switch (conn->state) {
    case EVIO__OPEN: {
        size_t high =
            conns->options->max_pending < HIGH_WATER ? conns->options->max_pending : HIGH_WATER;
        if (conn->out.nbytes > high)
            conn->paused = true;
        else if (conn->out.nbytes <= high / 2)
            conn->paused = false;
        wants = (conn->paused ? 0 : EVIO__READ) | (conn->out.nbytes > 0 ? EVIO__WRITE : 0);
        break;
    }
    case EVIO__FLUSHING:
        wants = EVIO__WRITE;
        break;
    case EVIO__DRAINING:
        wants = EVIO__READ;
        break;
    }
    if (wants == conn->armed)
        return;
    int error = evio__poll_set(conns->poll, conn->fd, conn->armed, wants, tag_of(conn));
    if (error != 0)
        close_conn(conn, error);
    else
        conn->armed = (uint8_t)wants;
}

/* sending */

/* The wake counts what is unsent as well. */
static void tell_unsent(struct evio_conn *conn)
{
    if (conn->wake != NULL)
        atomic_store_explicit(&conn->wake->unsent, conn->out.nbytes, memory_order_relaxed);
}

/* Sends from the queue once. A failure goes into conn->error. */
static void push(struct evio_conn *conn)
{
    struct iovec parts[PARTS_MAX];
    int count = evio__queue_peek(&conn->out, parts, PARTS_MAX, SEND_MAX);
    ssize_t n = evio__send_parts(conn->fd, parts, count);
    if (n >= 0) {
        evio__queue_advance(&conn->out, (size_t)n, conn->conns->hooks);
        tell_unsent(conn);
    } else if (!evio__would_block(n))
        conn->error = (int)n;
}

/* Sends pieces that nothing waits before. Returns how many bytes were taken, or -errno. */
static ssize_t send_pieces(struct evio_conn *conn, const evio_piece *pieces, size_t count,
                           size_t total)
{
    char *buffer = conn->conns->buffer;
    size_t sent = 0;
    if (count == 1)
        return evio__send(conn->fd, pieces->data, total < SEND_MAX ? total : SEND_MAX);
    if (total <= BUFFER_SIZE) { /* one copy costs less than the kernel's walk over many parts */
        for (size_t i = 0; i < count; i++) {
            if (pieces[i].nbytes == 0)
                continue; /* its data may be NULL, which memcpy must not see */
            memcpy(buffer + sent, pieces[i].data, pieces[i].nbytes);
            sent += pieces[i].nbytes;
        }
        return evio__send(conn->fd, buffer, total);
    }
    size_t next = 0; /* the first piece that has not been offered */
    while (sent < total && sent < SEND_MAX) {
        struct iovec parts[PARTS_MAX];
        size_t offered = 0;
        int nparts = 0;
        for (; next < count && nparts < PARTS_MAX && offered < SEND_MAX; next++) {
            size_t room = SEND_MAX - offered; /* a piece cut short is the last one offered */
            parts[nparts].iov_base = (char *)pieces[next].data;
            parts[nparts].iov_len = pieces[next].nbytes < room ? pieces[next].nbytes : room;
            offered += parts[nparts++].iov_len;
        }
        ssize_t n = evio__send_parts(conn->fd, parts, nparts);
        if (n < 0)
            return sent > 0 && evio__would_block(n) ? (ssize_t)sent : n;
        sent += (size_t)n;
        if ((size_t)n < offered)
            break;
    }
    return (ssize_t)sent;
}

/* Keeps what is behind the first `sent` bytes of the pieces. */
static int keep_rest(struct evio_conn *conn, const evio_piece *pieces, size_t count, size_t sent)
{
    for (size_t i = 0; i < count; i++) {
        if (sent >= pieces[i].nbytes) {
            sent -= pieces[i].nbytes;
            continue;
        }
        evio_piece rest = {(const char *)pieces[i].data + sent, pieces[i].nbytes - sent,
                           pieces[i].owner};
        int error = evio__queue_append(&conn->out, &rest, conn->conns->hooks);
        if (error != 0)
            return error;
        sent = 0;
    }
    tell_unsent(conn);
    return 0;
}

bool evio_conn_is_open(const evio_conn *conn)
{
    return conn->state == EVIO__OPEN && conn->error == 0;
}

void evio_conn_send(evio_conn *conn, const evio_piece *pieces, size_t count)
{
    size_t total = 0, sent = 0;
    for (size_t i = 0; i < count; i++)
        total += pieces[i].nbytes;
    if (total == 0 || !evio_conn_is_open(conn))
        return;
    conn->conns->active = true;
    if (conn->wake != NULL && atomic_load_explicit(&conn->wake->queued, memory_order_relaxed))
        evio__wake_take_inbox(conn->wake, &conn->out); /* queued earlier, so sent earlier */
    if (conn->out.nbytes > conn->conns->options->max_pending) {
        conn->error = EVIO_END_OVERFLOW;
        return;
    }
    bool first = conn->out.nbytes == 0;
    if (first) {
        ssize_t n = send_pieces(conn, pieces, count, total);
        if (n < 0 && !evio__would_block(n)) {
            conn->error = (int)n;
            return;
        }
        sent = n > 0 ? (size_t)n : 0;
    }
    if (sent > 0)
        touch(conn);
    if (sent < total)
        conn->error = keep_rest(conn, pieces, count, sent);
    if (conn->error == 0 && !first && !(conn->armed & EVIO__WRITE)) {
        size_t before = conn->out.nbytes;
        push(conn); /* only the inbox was before it, which nobody has tried to send */
        if (conn->out.nbytes < before)
            touch(conn);
    }
}

void evio_conn_last(evio_conn *conn)
{
    struct evio__woken woken;
    if (conn->wake == NULL)
        return;
    evio__wake_detach(conn->wake, &woken);
    evio__queue_move(&conn->out, &woken.inbox);
    tell_unsent(conn);
    if (woken.overflow && conn->error == 0)
        conn->error = EVIO_END_OVERFLOW;
}

/* states */

static void drain(struct evio_conn *conn)
{
    ssize_t n = evio__recv(conn->fd, conn->conns->buffer, BUFFER_SIZE);
    if (n > 0) {
        conn->dropped = true;
        rearm(conn);
    } else if (n == 0 || !evio__would_block(n))
        close_conn(conn,
                   0); /* every reply has been handed over: a reset now takes nothing from anyone */
    else if (conn->conns->stopping && !conn->dropped)
        close_conn(conn, 0); /* nothing unread, so closing does not reset what is on its way */
    else
        rearm(conn);
}

static void flushed(struct evio_conn *conn)
{
    if (conn->eof) {
        close_conn(conn, 0);
        return;
    }
    if (evio__shutdown_write(conn->fd) < 0) { /* ENOTCONN: reset a moment ago */
        close_conn(conn, -ECONNRESET);
        return;
    }
    conn->state = EVIO__DRAINING;
    restart_clock(conn, &conn->conns->linger, evio__now());
    if (conn->conns->stopping)
        drain(conn);
    else
        rearm(conn);
}

/* Sends what waits, and goes on to the next state when that was the last of it. */
static void flush(struct evio_conn *conn)
{
    size_t before = conn->out.nbytes;
    if (before > 0)
        push(conn);
    if (conn->error != 0) {
        close_conn(conn, conn->error);
        return;
    }
    if (conn->out.nbytes < before) {
        if (conn->state == EVIO__FLUSHING && (!conn->eof || conn->conns->stopping)) {
            conn->conns->active = true;
            restart_clock(conn, &conn->conns->linger, evio__now());
        } else
            touch(conn);
    }
    if (conn->state == EVIO__FLUSHING && conn->out.nbytes == 0)
        flushed(conn);
    else
        rearm(conn);
}

/* Leaves OPEN at our wish. */
static void begin_close(struct evio_conn *conn)
{
    conn->state = EVIO__FLUSHING;
    restart_clock(conn, &conn->conns->linger, evio__now());
    evio_conn_last(conn);
    if (conn->error != 0)
        close_conn(conn, conn->error);
    else
        flush(conn);
}

/* Does what a hook of this connection has decided. Returns whether the connection is still OPEN. */
static bool obey(struct evio_conn *conn, int verdict)
{
    if (verdict == EVIO_STOP)
        conn->conns->stop = true;
    if (verdict == EVIO_FAIL)
        close_conn(conn, EVIO_END_FAILED);
    else if (conn->error != 0)
        close_conn(conn, conn->error);
    else if (verdict == EVIO_CLOSE)
        begin_close(conn);
    else
        rearm(conn);
    return conn->state == EVIO__OPEN;
}

/* Does what wakes have left: their data first, then the call. */
void evio__conn_woken(struct evio__conns *conns, struct evio__woken *woken)
{
    struct evio_conn *conn = woken->conn;
    bool behind = conn->out.nbytes > 0;
    evio__queue_move(&conn->out, &woken->inbox);
    conns->active = true;
    tell_unsent(conn);
    if (woken->overflow) {
        close_conn(conn, EVIO_END_OVERFLOW);
        return;
    }
    if (conn->out.nbytes > 0 && !behind)
        flush(conn);
    else
        rearm(conn);
    if (woken->call && conn->state == EVIO__OPEN)
        obey(conn, conns->hooks->woken(conns->server, conn));
}

/* Does what is outstanding on the wake, and lets it answer False from here on, so that no True is
 * broken when the connection leaves OPEN. Returns whether it is still OPEN. */
static bool settle_wake(struct evio_conn *conn, bool calls)
{
    struct evio__woken woken;
    if (conn->wake == NULL)
        return true;
    evio__wake_detach(conn->wake, &woken);
    woken.call = woken.call && calls;
    if (woken.call || woken.overflow || woken.inbox.nbytes > 0)
        evio__conn_woken(conn->conns, &woken);
    return conn->state == EVIO__OPEN;
}

static void end_of_stream(struct evio_conn *conn)
{
    conn->eof = true;
    if (settle_wake(conn, true)) {
        conn->state = EVIO__FLUSHING;
        flush(conn);
    }
}

/* receiving */

static void receive(struct evio_conn *conn)
{
    struct evio__conns *conns = conn->conns;
    const evio_hooks *hooks = conns->hooks;
    size_t size = BUFFER_SIZE;
    char *data = conns->buffer;
    void *owner = NULL;
    if (conn->filled) { /* a buffer of the right size: one that is cut afterwards keeps malloc from reusing it */
        size_t large = evio__available(conn->fd);
        large = large < READ_MAX ? large : READ_MAX;
        if (large > BUFFER_SIZE && (owner = hooks->buffer(conns->server, large, &data)) != NULL)
            size = large; /* else there is little, or no memory for more */
    }
    ssize_t n = evio__recv(conn->fd, data, size);
    if (n <= 0) {
        if (owner != NULL)
            hooks->release(owner);
        if (n == 0)
            end_of_stream(conn);
        else if (!evio__would_block(n))
            close_conn(conn, (int)n);
        return;
    }
    conn->filled = (size_t)n >= BUFFER_SIZE;
    touch(conn);
    obey(conn, hooks->data(conns->server, conn, data, (size_t)n, owner));
}

void evio__conn_event(struct evio__conns *conns, uint64_t tag, unsigned mask)
{
    struct evio_conn *conn = find(conns, tag);
    if (conn == NULL)
        return;
    if ((mask & EVIO__WRITE) && conn->state <= EVIO__FLUSHING && conn->out.nbytes > 0)
        flush(conn);
    if (!(mask & EVIO__READ))
        return;
    if (conn->state == EVIO__OPEN && !conn->paused)
        receive(conn);
    else if (conn->state == EVIO__DRAINING)
        drain(conn);
}

int evio__conn_accept(struct evio__conns *conns, int fd, const struct evio_peer *peer)
{
    int error = conns->nfree > 0 ? 0 : grow(conns);
    struct evio_conn *conn = error == 0 ? EVIO_SYS(calloc)(1, sizeof *conn) : NULL;
    if (conn == NULL) {
        evio__close(fd);
        return -ENOMEM;
    }
    if (++conns->last_generation == 0)
        conns->last_generation = 1; /* 0 marks the loop's own descriptors */
    conn->conns = conns;
    conn->fd = fd;
    conn->generation = conns->last_generation;
    conn->slot = conns->free_slots[conns->nfree - 1];
    error = evio__poll_set(conns->poll, fd, 0, EVIO__READ, tag_of(conn));
    if (error != 0) {
        evio__close(fd);
        EVIO_SYS(free)(conn);
        return error;
    }
    conn->armed = EVIO__READ;
    conn->id = ++conns->last_id;
    conns->nfree--;
    conns->slots[conn->slot] = conn;
    conns->count++;
    touch(conn);
    evio__tune(fd, peer, conns->options->nodelay, conns->options->keepalive_s);
    obey(conn, conns->hooks->accepted(conns->server, conn, peer));
    return 0;
}

/* clocks */

static struct evio_conn *first(const struct evio__node *clock)
{
    return evio__list_empty(clock) ? NULL : (struct evio_conn *)clock->next;
}

int64_t evio__conns_deadline(const struct evio__conns *conns)
{
    int64_t deadline = INT64_MAX;
    const struct evio_conn *idle = first(&conns->idle), *linger = first(&conns->linger);
    if (idle != NULL)
        deadline = idle->since + conns->options->idle_ns;
    if (linger != NULL && linger->since + conns->options->linger_ns < deadline)
        deadline = linger->since + conns->options->linger_ns;
    return deadline;
}

/* The poller tells late of room in a nearly full buffer. Whether the peer has taken something after
 * all, which has restarted the connection's clock, or closed the connection. */
static bool has_moved(struct evio_conn *conn)
{
    size_t before = conn->out.nbytes;
    if (before == 0)
        return false;
    flush(conn);
    return conn->state == EVIO__CLOSED || conn->out.nbytes < before;
}

void evio__conns_expire(struct evio__conns *conns)
{
    struct evio_conn *conn;
    while ((conn = first(&conns->idle)) != NULL &&
           conn->since + conns->options->idle_ns <= conns->now)
        if (!has_moved(conn))
            close_conn(conn, EVIO_END_IDLE);
    while ((conn = first(&conns->linger)) != NULL &&
           conn->since + conns->options->linger_ns <= conns->now)
        if (!has_moved(conn))
            close_conn(conn, conn->state == EVIO__FLUSHING ? EVIO_END_LINGER : 0);
}

/* stopping */

void evio__conns_stop(struct evio__conns *conns, bool calls)
{
    conns->stopping = true;
    for (uint32_t slot = 0; slot < conns->nslots && !conns->stop; slot++) {
        struct evio_conn *conn = conns->slots[slot];
        if (conn == NULL)
            continue;
        if (conn->state == EVIO__OPEN) {
            if (settle_wake(conn, calls))
                begin_close(conn);
        } else if (conn->state == EVIO__FLUSHING) {
            if (conn->eof) /* idle_timeout has no say any more */
                restart_clock(conn, &conns->linger, evio__now());
            flush(conn); /* the poller tells late of room */
        } else {
            conn->dropped = false; /* what came before is read, and no reason to wait */
            drain(conn);
        }
    }
}

void evio__conns_close(struct evio__conns *conns)
{
    conns->stopping = true;
    for (uint32_t slot = 0; slot < conns->nslots; slot++)
        if (conns->slots[slot] != NULL)
            close_conn(conns->slots[slot], 0);
}

void evio__conns_abandon(struct evio__conns *conns)
{
    for (uint32_t slot = 0; slot < conns->nslots; slot++) {
        if (conns->slots[slot] != NULL && conns->slots[slot]->fd >= 0) {
            evio__close(conns->slots[slot]->fd);
            conns->slots[slot]->fd = -1;
        }
    }
}

/* for the embedding */

uint64_t evio_conn_id(const evio_conn *conn)
{
    return conn->id;
}

evio_user *evio_conn_user(evio_conn *conn)
{
    return &conn->user;
}

evio_wake *evio_conn_wake(evio_conn *conn)
{
    if (conn->wake == NULL)
        conn->wake = evio__wake_new(conn->conns->waker, conn, conn->id);
    if (conn->wake != NULL)
        atomic_fetch_add(&conn->wake->refs, 1);
    tell_unsent(conn);
    return conn->wake;
}
