/* What the platform has: the only place, besides the poller files, with #if on a system.
 * Every core file includes it first, as it also asks libc for the declarations we use. */

#ifndef EVIO_CONFIG_H
#define EVIO_CONFIG_H

#ifdef __linux__
#define _GNU_SOURCE /* accept4, epoll */
#endif

/* The poller. EVIO_FORCE_KQUEUE lets the kqueue one run on Linux, on top of libkqueue. */
#if defined(__linux__) && !defined(EVIO_FORCE_KQUEUE)
#define EVIO_POLL_EPOLL 1
#define EVIO_POLLER "epoll"
#else
#define EVIO_POLL_KQUEUE 1
#define EVIO_POLLER "kqueue"
#endif

/* A waker of one descriptor instead of a pipe's two. */
#if defined(EVIO_POLL_EPOLL)
#define EVIO_HAVE_EVENTFD 1
#endif

/* accept4 and pipe2 set O_NONBLOCK and FD_CLOEXEC without a moment in between. macOS has neither. */
#ifndef __APPLE__
#define EVIO_HAVE_ACCEPT4 1
#define EVIO_HAVE_PIPE2 1
#endif

/* How a send to a reset connection is kept from raising SIGPIPE: a flag, or an option of the socket. */
#ifdef __APPLE__
#define EVIO_SEND_FLAGS 0
#define EVIO_NOSIGPIPE_OPTION SO_NOSIGPIPE
#else
#define EVIO_SEND_FLAGS MSG_NOSIGNAL
#endif

/* The option for the seconds of silence before the first keepalive probe. */
#ifdef __APPLE__
#define EVIO_TCP_KEEPIDLE TCP_KEEPALIVE
#else
#define EVIO_TCP_KEEPIDLE TCP_KEEPIDLE
#endif

#endif
