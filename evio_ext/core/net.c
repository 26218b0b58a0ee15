/* Sockets: one function for each system call, with negative errnos. No state, no policy but the
 * reading of errors. */

#include "net.h"
#include "sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int evio__accept(int listener, struct evio_peer *peer)
{
    struct sockaddr *address = (struct sockaddr *)&peer->address;
    int fd;
    do {
        peer->nbytes = sizeof peer->address;
        address->sa_family = AF_UNSPEC; /* an unnamed unix peer may leave it unset */
#ifdef EVIO_HAVE_ACCEPT4
        fd = EVIO_SYS(accept4)(listener, address, &peer->nbytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
        fd = EVIO_SYS(accept)(listener, address, &peer->nbytes);
#endif
    } while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return -errno;
#ifndef EVIO_HAVE_ACCEPT4
    if (EVIO_SYS(fcntl)(fd, F_SETFD, FD_CLOEXEC) < 0 ||
        EVIO_SYS(fcntl)(fd, F_SETFL, O_NONBLOCK) < 0) {
        int error = -errno;
        EVIO_SYS(close)(fd);
        return error;
    }
#endif
#ifdef EVIO_NOSIGPIPE_OPTION
    int on = 1;
    EVIO_SYS(setsockopt)(fd, SOL_SOCKET, EVIO_NOSIGPIPE_OPTION, &on,
                         sizeof on); /* fails on a dead peer only */
#endif
    return fd;
}

enum evio__accept_error evio__accept_error(int error)
{
    switch (-error) {
    case EAGAIN:
#if EAGAIN != EWOULDBLOCK
    case EWOULDBLOCK:
#endif
        return EVIO__ACCEPT_EMPTY;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ENOSPC: /* of epoll: the user's share of watches is used up */
        return EVIO__ACCEPT_EXHAUSTED;
    case EBADF:
    case EFAULT:
    case EINVAL:
    case ENOTSOCK:
        return EVIO__ACCEPT_BROKEN;
    default: /* ECONNABORTED, EPROTO and the network errors that accept(2) says to treat like EAGAIN */
        return EVIO__ACCEPT_SKIP;
    }
}

static void set_option(int fd, int level, int name, int value)
{
    /* The only way these fail on a TCP socket is that the peer has reset it: reading will tell. */
    (void)EVIO_SYS(setsockopt)(fd, level, name, &value, sizeof value);
}

void evio__tune(int fd, const struct evio_peer *peer, bool nodelay, int keepalive_s)
{
    enum {
        PROBES = 3
    }; /* after a third of the silence each, as Redis does: dead in twice the time */
    if (peer->address.ss_family != AF_INET && peer->address.ss_family != AF_INET6)
        return;
    if (nodelay)
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (keepalive_s > 0) {
        set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
        set_option(fd, IPPROTO_TCP, EVIO_TCP_KEEPIDLE, keepalive_s);
        set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, keepalive_s > PROBES ? keepalive_s / PROBES : 1);
        set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES);
    }
}

ssize_t evio__recv(int fd, void *data, size_t nbytes)
{
    ssize_t n;
    do
        n = EVIO_SYS(recv)(fd, data, nbytes, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t evio__send(int fd, const void *data, size_t nbytes)
{
    ssize_t n;
    do
        n = EVIO_SYS(send)(fd, data, nbytes, EVIO_SEND_FLAGS);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t evio__send_parts(int fd, struct iovec *parts, int count)
{
    if (count == 1)
        return evio__send(fd, parts->iov_base, parts->iov_len);
    struct msghdr message = {.msg_iov = parts};
    message.msg_iovlen =
        (__typeof__(message.msg_iovlen))count; /* int or size_t, as the system likes */
    ssize_t n;
    do
        n = EVIO_SYS(sendmsg)(fd, &message, EVIO_SEND_FLAGS);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

size_t evio__available(int fd)
{
    int nbytes = 0;
    return EVIO_SYS(ioctl)(fd, FIONREAD, &nbytes) == 0 && nbytes > 0 ? (size_t)nbytes : 0;
}

bool evio__would_block(ssize_t error)
{
    /* ENOBUFS is how some systems say that a socket's buffer is full. */
    return error == -EAGAIN || error == -EWOULDBLOCK || error == -ENOBUFS;
}

int evio__shutdown_write(int fd)
{
    return EVIO_SYS(shutdown)(fd, SHUT_WR) < 0 ? -errno : 0;
}

void evio__close(int fd)
{
    EVIO_SYS(close)(
        fd); /* never again on EINTR: the descriptor is gone, and may be somebody else's already */
}

void evio_peer_text(const evio_peer *peer, char text[EVIO_PEER_TEXT])
{
    char host[INET6_ADDRSTRLEN];
    if (peer->address.ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&peer->address;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(text, EVIO_PEER_TEXT, "%s:%u", host, (unsigned)ntohs(v4->sin_port));
        return;
    }
    if (peer->address.ss_family != AF_INET6) {
        text[0] = '\0';
        return;
    }
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&peer->address;
    unsigned port = ntohs(v6->sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
        inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], host, sizeof host);
        snprintf(text, EVIO_PEER_TEXT, "%s:%u", host, port);
        return;
    }
    inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
    char zone[IF_NAMESIZE + 1] = "";
    if (v6->sin6_scope_id != 0) {
        zone[0] = '%';
        if (EVIO_SYS(if_indextoname)(v6->sin6_scope_id, zone + 1) ==
            NULL) /* the interface is gone: its number, then */
            snprintf(zone + 1, sizeof zone - 1, "%u", (unsigned)v6->sin6_scope_id);
    }
    snprintf(text, EVIO_PEER_TEXT, "[%s%s]:%u", host, zone, port);
}
