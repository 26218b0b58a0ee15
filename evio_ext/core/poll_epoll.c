/* The poller on epoll. */

#include "poll.h"
#include "sys.h"

#ifdef EVIO_POLL_EPOLL

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <unistd.h>

int evio__poll_open(struct evio__poll *poll)
{
    poll->fd = EVIO_SYS(epoll_create1)(EPOLL_CLOEXEC);
    return poll->fd < 0 ? -errno : 0;
}

void evio__poll_close(struct evio__poll *poll)
{
    if (poll->fd >= 0)
        EVIO_SYS(close)(poll->fd);
    poll->fd = -1;
}

void evio__poll_abandon(struct evio__poll *poll)
{
    evio__poll_close(poll);
}

int evio__poll_set(struct evio__poll *poll, int fd, unsigned had, unsigned wants, uint64_t tag)
{
    struct epoll_event event = {.data.u64 = tag};
    if (wants & EVIO__READ)
        event.events |= EPOLLIN;
    if (wants & EVIO__WRITE)
        event.events |= EPOLLOUT;
    int op = had == 0 ? EPOLL_CTL_ADD : wants == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    return EVIO_SYS(epoll_ctl)(poll->fd, op, fd, &event) < 0 ? -errno : 0;
}

int evio__poll_wait(struct evio__poll *poll, int64_t timeout_ns)
{
    enum { NS_PER_MS = 1000000 };
    struct epoll_event found[EVIO__POLL_BATCH];
    int timeout_ms = -1;
    if (timeout_ns >= 0) {
        int64_t ms = (timeout_ns + NS_PER_MS - 1) / NS_PER_MS;
        timeout_ms = ms < INT_MAX ? (int)ms : INT_MAX;
    }
    int count = EVIO_SYS(epoll_wait)(poll->fd, found, EVIO__POLL_BATCH, timeout_ms);
    if (count < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < count; i++) {
        unsigned mask = 0;
        if (found[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
            mask |= EVIO__READ;
        if (found[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
            mask |= EVIO__WRITE;
        poll->events[i].tag = found[i].data.u64;
        poll->events[i].mask = mask;
    }
    return count;
}

#else
typedef int evio__no_epoll; /* ISO C wants a declaration in every file */
#endif
