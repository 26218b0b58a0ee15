/* Wakes: how any thread reaches a connection of a running loop. */

#ifndef EVIO_WAKE_H
#define EVIO_WAKE_H

#include "buf.h"
#include "config.h"
#include "list.h"

#include <pthread.h>
#include <stdatomic.h>

/* One for each loop, shared with every wake. The lock guards it and all wakes' fields; it is held
 * for a few instructions and one write at most, never across a hook. */
struct evio__waker {
    pthread_mutex_t lock;
    atomic_uint refs;
    atomic_bool dead; /* the loop has ended, or this is a forked child: no wake does anything */
    atomic_bool any;  /* whether `ready` has members; a hint that needs no lock */
    bool asleep;      /* the loop may be in the kernel: a wake must write */
    int read_fd, write_fd; /* an eventfd is both */
    size_t max_pending;
    const evio_hooks *hooks;
    struct evio__node ready; /* wakes with something outstanding, in the order of the first call */
    struct evio__node batch; /* those that the loop is working on */
};

/* What a connection and the embedding's handles on it share. */
struct evio_wake {
    struct evio__node node; /* in `ready` or `batch`, or nowhere: then next is NULL */
    struct evio__waker *waker;
    struct evio_conn *conn; /* for the loop alone, and only while the wake is in a list */
    uint64_t id;
    struct evio__queue inbox; /* what evio_wake_send has queued */
    atomic_size_t unsent;     /* the connection's own queue, so that both count together */
    atomic_uint refs;
    atomic_bool queued; /* whether the inbox holds anything; a hint that needs no lock */
    bool open;          /* wakes still answer True */
    bool call;          /* evio_wake_call is outstanding */
    bool overflow;      /* a piece was refused: the connection is to be closed */
};

/* What was outstanding on a wake. The inbox is the receiver's now. */
struct evio__woken {
    struct evio_conn *conn;
    struct evio__queue inbox;
    bool call;
    bool overflow;
};

int evio__waker_new(struct evio__waker **made, size_t max_pending, const evio_hooks *hooks);

/* The loop is about to sleep: false if it must not, as something is outstanding. */
bool evio__waker_sleep(struct evio__waker *waker);
void evio__waker_awake(struct evio__waker *waker);

/* Empties the descriptor that the poller reported. */
void evio__waker_drain(struct evio__waker *waker);

/* Takes what is outstanding now as a batch, then one of the batch after the other. `take` stores
 * into `woken` and returns true, or false at the end of the batch. */
void evio__waker_begin(struct evio__waker *waker);
bool evio__waker_take(struct evio__waker *waker, struct evio__woken *woken);

/* The loop has ended: no wake touches it, or a descriptor, any more. In a forked child, where some
 * thread of the parent may have held the lock, `forked` leaves the lock alone. */
void evio__waker_end(struct evio__waker *waker, bool forked);

/* Gives up one reference. */
void evio__waker_release(struct evio__waker *waker);

/* A wake for a connection, with one reference. NULL if there is no memory. */
struct evio_wake *evio__wake_new(struct evio__waker *waker, struct evio_conn *conn, uint64_t id);

/* Moves the inbox behind the end of `queue`, the connection's own. */
void evio__wake_take_inbox(struct evio_wake *wake, struct evio__queue *queue);

/* From here on the wake answers False; what is outstanding is taken. */
void evio__wake_detach(struct evio_wake *wake, struct evio__woken *woken);

#endif
