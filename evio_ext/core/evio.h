/* evio: an event loop for stream servers. The public header of the core, which knows no Python.
 *
 * An embedding fills in the hooks and runs a loop on a listening socket. Hooks are called in the
 * thread that runs the loop, one at a time, never nested. Functions return 0 or a negative errno
 * unless they say otherwise. */

#ifndef EVIO_H
#define EVIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct evio_loop evio_loop;
typedef struct evio_conn evio_conn;
typedef struct evio_wake evio_wake;
typedef struct evio_peer evio_peer;

/* What a hook wants to happen next. */
enum evio_verdict {
    EVIO_KEEP,  /* go on */
    EVIO_CLOSE, /* flush the connection, then close it */
    EVIO_FAIL,  /* close the connection now and drop what it has not sent */
    EVIO_STOP,  /* stop the loop, which closes the connection with all others */
};

/* Why a connection ended, in `closed`: 0, a negative errno, or one of these. */
enum evio_end {
    EVIO_END_FAILED = 1, /* a hook said EVIO_FAIL */
    EVIO_END_IDLE,       /* idle_timeout passed without a byte */
    EVIO_END_LINGER,     /* the peer did not take its last replies in time */
    EVIO_END_OVERFLOW,   /* more was queued behind more than max_pending bytes */
};

/* Something to send. If `owner` is set, the bytes stay as they are for as long as it is retained,
 * and the core may retain it instead of copying. */
typedef struct {
    const void *data;
    size_t nbytes;
    void *owner;
} evio_piece;

/* Three words of each connection that belong to the embedding. The core zeroes them at accept and
 * never looks at them again; `closed` is the place to let go of what they hold. */
typedef struct {
    void *id;
    void *decoder;
    void *reason;
} evio_user;

typedef struct {
    /* A client has connected. Returns a verdict. */
    int (*accepted)(void *server, evio_conn *conn, const evio_peer *peer);

    /* `nbytes` > 0 have arrived. If `owner` is set it came from `buffer`, `data` points into it,
     * and the hook now owns it; else `data` is good until the next call of the core. Returns a verdict. */
    int (*data)(void *server, evio_conn *conn, const char *data, size_t nbytes, void *owner);

    /* evio_wake_call was called. Returns a verdict. */
    int (*woken)(void *server, evio_conn *conn);

    /* The connection is gone, its descriptor closed. The last hook to see `conn`, exactly one for
     * each that was accepted. `end` is 0, a negative errno or an evio_end. KEEP or STOP. */
    int (*closed)(void *server, evio_conn *conn, int end);

    /* Once before the first accept, then 1 to 60 times a second. KEEP; CLOSE to stop the loop in
     * good order, so that outstanding wakes are still called; or STOP. */
    int (*tick)(void *server);

    /* The `interrupts` descriptor was readable. KEEP or STOP. */
    int (*interrupted)(void *server);

    /* The loop has been busy for a while without a sleep: a chance to let other threads have the
     * embedding's lock. KEEP or STOP. */
    int (*breathe)(void *server);

    /* Around each sleep. Between the two no hook is called and nothing of the embedding's is touched. */
    void (*sleep)(void *server);
    void (*awake)(void *server);

    /* No connection can be accepted for now, with a negative errno. Once for each episode. KEEP or STOP. */
    int (*accept_paused)(void *server, int error);

    /* A buffer of `nbytes` to receive into: stores where it begins, returns its owner; or NULL,
     * storing nothing, if there is no memory. It comes back through `data`, or through `release` if nothing came. */
    void *(*buffer)(void *server, size_t nbytes, char **data);

    /* The owner of a piece is needed for longer, or no longer. */
    void (*retain)(void *owner);
    void (*release)(void *owner);
} evio_hooks;

typedef struct {
    int listener;      /* listening, non-blocking; stays the caller's */
    int interrupts;    /* a non-blocking socket to drain when readable, or -1; stays the caller's */
    bool ticks;        /* whether `tick` is called at all */
    bool exclusive;    /* whether one thread at a time has the embedding's lock, as with a GIL */
    bool nodelay;      /* TCP_NODELAY */
    int keepalive_s;   /* seconds of silence before TCP keepalive probes; 0: never */
    int64_t idle_ns;   /* idle timeout; 0: never */
    int64_t linger_ns; /* what a closing connection has for its last replies */
    size_t max_conns;  /* 0: no limit */
    size_t max_pending; /* bytes waiting for a client beyond which more is refused */
} evio_options;

/* Makes a loop. `hooks` and `server` must outlive it. */
int evio_loop_new(evio_loop **made, const evio_options *options, const evio_hooks *hooks,
                  void *server);

/* Serves until a hook says EVIO_STOP, then flushes and closes every connection; a second EVIO_STOP
 * while it does so closes what is left at once. Once for each loop. Returns 0, or the negative errno
 * with which polling or the listener failed. */
int evio_loop_run(evio_loop *loop);

/* In a forked child: closes the loop's descriptors and changes nothing that the parent shares. The
 * embedding's hooks must answer EVIO_STOP from here on; `closed` is still called for each connection. */
void evio_loop_abandon(evio_loop *loop);

/* Frees a loop that is not running. */
void evio_loop_free(evio_loop *loop);

/* Unique in its loop, from 1 upward. */
uint64_t evio_conn_id(const evio_conn *conn);

/* The embedding's words. */
evio_user *evio_conn_user(evio_conn *conn);

/* Whether the connection takes replies: it does not after an error or once it is closing. */
bool evio_conn_is_open(const evio_conn *conn);

/* Sends, from within a hook of this connection. What the kernel does not take is kept. An error
 * closes the connection once the hook has returned. */
void evio_conn_send(evio_conn *conn, const evio_piece *pieces, size_t count);

/* From within a hook of this connection, before its last reply is sent and EVIO_CLOSE returned: its wakes answer 0 from
 * here on, and what they have queued goes ahead of that reply. Without it another thread's data may come behind. */
void evio_conn_last(evio_conn *conn);

/* Writes the peer's address, NUL-terminated: "1.2.3.4:567", "[::1]:567", or "" for unix. */
#define EVIO_PEER_TEXT                                                                             \
    96 /* [ + INET6_ADDRSTRLEN 46 + % + IF_NAMESIZE 16 + ]: + 5 digits + NUL, and room */
void evio_peer_text(const evio_peer *peer, char text[EVIO_PEER_TEXT]);

/* A new reference to the connection's wake, which may be kept after the connection and after the
 * loop, or NULL if there is no memory. */
evio_wake *evio_conn_wake(evio_conn *conn);
void evio_wake_release(evio_wake *wake);

/* The rest may be called from any thread. They return 1 if the connection was open, 0 if not. */
int evio_wake_call(evio_wake *wake);
int evio_wake_is_open(evio_wake *wake);

/* Queues a piece; it retains or copies it. Can also return -ENOMEM, with nothing queued. */
int evio_wake_send(evio_wake *wake, const evio_piece *piece);

uint64_t evio_wake_id(const evio_wake *wake);

/* "epoll" or "kqueue". */
const char *evio_poller(void);

#endif
