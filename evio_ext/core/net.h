/* Sockets: every call on a listener or a connection goes through here. */

#ifndef EVIO_NET_H
#define EVIO_NET_H

#include "config.h"
#include "evio.h"

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

struct evio_peer {
    struct sockaddr_storage address;
    socklen_t nbytes;
};

/* What an accept that did not give a connection means, or a failure to watch the listener. */
enum evio__accept_error {
    EVIO__ACCEPT_EMPTY,     /* the backlog is empty */
    EVIO__ACCEPT_SKIP,      /* that client is gone, the next one may be there */
    EVIO__ACCEPT_EXHAUSTED, /* no descriptors, memory or watches: try again later */
    EVIO__ACCEPT_BROKEN,    /* the listener is not one any more */
};
enum evio__accept_error evio__accept_error(int error);

/* Accepts a client: non-blocking, close-on-exec. Returns the descriptor, which is the caller's, or -errno. */
int evio__accept(int listener, struct evio_peer *peer);

/* Sets the options of an accepted TCP connection; nothing on any other. A peer that has already gone is no error. */
void evio__tune(int fd, const struct evio_peer *peer, bool nodelay, int keepalive_s);

/* Receive and send once. Return what the kernel took, 0 at the end of the stream, or -errno. EINTR is retried. */
ssize_t evio__recv(int fd, void *data, size_t nbytes);
ssize_t evio__send(int fd, const void *data, size_t nbytes);
ssize_t evio__send_parts(int fd, struct iovec *parts, int count);

/* How many bytes a receive would find, 0 where that cannot be told. */
size_t evio__available(int fd);

/* Whether an error means: not now, but when the poller says so. */
bool evio__would_block(ssize_t error);

/* Tells the peer that nothing more will come. */
int evio__shutdown_write(int fd);

void evio__close(int fd);

#endif
