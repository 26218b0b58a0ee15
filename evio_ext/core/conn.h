/* Connections: their states, what is sent and received, and when they have had their time. */

#ifndef EVIO_CONN_H
#define EVIO_CONN_H

#include "buf.h"
#include "clock.h"
#include "config.h"
#include "list.h"
#include "net.h"
#include "poll.h"
#include "wake.h"

enum evio__state {
    EVIO__OPEN,     /* read and written */
    EVIO__FLUSHING, /* written only; then its write side is shut, or if EOF was seen it is closed */
    EVIO__DRAINING, /* read only, and what comes is dropped, until EOF or the linger deadline */
    EVIO__CLOSED,   /* freed at the end of the turn */
};

struct evio_conn {
    struct evio__node node; /* in one of the clocks, or none */
    struct evio__conns *conns;
    uint64_t id;
    int fd;
    uint32_t slot;
    uint32_t generation;
    int error;     /* what sending failed with inside a hook: a negative errno or an evio_end */
    int64_t since; /* when its clock began, in ns */
    uint8_t state; /* an evio__state */
    uint8_t armed; /* what the poller watches: EVIO__READ, EVIO__WRITE */
    bool filled;   /* the last receive filled the loop's buffer: there may be much more */
    bool eof;      /* the peer has sent all it will */
    bool paused;   /* not read, as too much is unsent */
    bool dropped;  /* something came while draining, and stopping */
    struct evio__queue out;
    struct evio_wake *wake; /* made when first asked for */
    evio_user user;
};

/* All connections of a loop. */
struct evio__conns {
    struct evio__poll *poll;
    struct evio__waker *waker;
    const evio_options *options;
    const evio_hooks *hooks;
    void *server;
    struct evio_conn **slots; /* NULL where free */
    uint32_t *free_slots;     /* a stack */
    uint32_t nslots, nfree;
    uint32_t last_generation;
    uint64_t last_id;
    size_t count; /* connections that are not closed */
    struct evio__node
        idle; /* by last activity, the longest silent first; empty without idle_timeout */
    struct evio__node linger; /* FLUSHING and DRAINING at our wish, by the start of their clock */
    struct evio__node dead;   /* CLOSED, to be freed */
    char *buffer;             /* to receive into, and to gather small pieces in */
    int64_t now;              /* the turn's time */
    bool active;              /* something was read, written or woken in this turn */
    bool stop;                /* a hook said EVIO_STOP */
    bool stopping;            /* the loop is closing all connections */
};

/* `conns` is zeroed but for its first five members. */
int evio__conns_init(struct evio__conns *conns);

/* Frees everything. Connections must have been closed. */
void evio__conns_free(struct evio__conns *conns);

/* Takes over an accepted descriptor. Returns 0, or -errno: then it has been closed and no hook was called. */
int evio__conn_accept(struct evio__conns *conns, int fd, const struct evio_peer *peer);

/* An event of the poller; one for a connection that is gone is ignored. */
void evio__conn_event(struct evio__conns *conns, uint64_t tag, unsigned mask);

/* What a wake left for its connection. */
void evio__conn_woken(struct evio__conns *conns, struct evio__woken *woken);

/* Closes the connections whose time is over. */
void evio__conns_expire(struct evio__conns *conns);

/* When the next connection's time is over, in ns, or INT64_MAX. */
int64_t evio__conns_deadline(const struct evio__conns *conns);

/* Begins to close all connections. `calls`: outstanding wakes get their hook first. */
void evio__conns_stop(struct evio__conns *conns, bool calls);

/* Closes all connections now. */
void evio__conns_close(struct evio__conns *conns);

/* In a forked child: closes the descriptors and nothing else. */
void evio__conns_abandon(struct evio__conns *conns);

/* Frees the connections that were closed in this turn. */
void evio__conns_reap(struct evio__conns *conns);

#endif
