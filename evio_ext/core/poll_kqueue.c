/* The poller on kqueue. Its filters report reading and writing apart; the loop is given one record
 * for each descriptor, so that a connection is looked at once a turn. */

#include "poll.h"
#include "sys.h"

#ifdef EVIO_POLL_KQUEUE

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/types.h>

#include <sys/event.h>
#include <sys/time.h>
#include <unistd.h>

/* A tag is slot and generation; both must fit into udata. */
_Static_assert(sizeof(void *) >= sizeof(uint64_t), "the kqueue poller needs 64-bit pointers");

int evio__poll_open(struct evio__poll *poll)
{
    poll->fd = EVIO_SYS(kqueue)();
    if (poll->fd < 0)
        return -errno;
    EVIO_SYS(fcntl)(poll->fd, F_SETFD, FD_CLOEXEC); /* cannot fail on a descriptor that is open */
    return 0;
}

void evio__poll_close(struct evio__poll *poll)
{
    if (poll->fd >= 0)
        EVIO_SYS(close)(poll->fd);
    poll->fd = -1;
}

void evio__poll_abandon(struct evio__poll *poll)
{
    poll->fd = -1; /* a child does not inherit a kqueue; the number may be another's already */
}

static int set_filter(struct evio__poll *poll, int fd, short filter, unsigned bit, unsigned had,
                      unsigned wants, uint64_t tag)
{
    if ((had & bit) == (wants & bit))
        return 0;
    struct kevent change;
    EV_SET(&change, (uintptr_t)fd, filter, (wants & bit) ? EV_ADD : EV_DELETE, 0, 0,
           (void *)(uintptr_t)tag);
    int result;
    do
        result = EVIO_SYS(kevent)(poll->fd, &change, 1, NULL, 0, NULL);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

int evio__poll_set(struct evio__poll *poll, int fd, unsigned had, unsigned wants, uint64_t tag)
{
    int error = set_filter(poll, fd, EVFILT_READ, EVIO__READ, had, wants, tag);
    if (error == 0)
        error = set_filter(poll, fd, EVFILT_WRITE, EVIO__WRITE, had, wants, tag);
    return error;
}

/* Where in `events` a tag's record is, or is to be: open addressing over twice as many places as
 * there can be tags. A place holds an index plus one; 0 is free. */
enum { PLACES = 2 * EVIO__POLL_BATCH };

static struct evio__event *record_for(struct evio__poll *poll, uint16_t *places, int *count,
                                      uint64_t tag)
{
    size_t place = (size_t)(tag * 0x9E3779B97F4A7C15u >> 32) % PLACES; /* Fibonacci hashing */
    for (; places[place] != 0; place = (place + 1) % PLACES) {
        struct evio__event *event = &poll->events[places[place] - 1];
        if (event->tag == tag)
            return event;
    }
    struct evio__event *event = &poll->events[*count];
    *count += 1;
    places[place] = (uint16_t)*count;
    event->tag = tag;
    event->mask = 0;
    return event;
}

int evio__poll_wait(struct evio__poll *poll, int64_t timeout_ns)
{
    enum { NS_PER_S = 1000000000 };
    struct kevent found[EVIO__POLL_BATCH];
    struct timespec timeout, *until = NULL;
    if (timeout_ns >= 0) {
        timeout.tv_sec = (time_t)(timeout_ns / NS_PER_S);
        timeout.tv_nsec = (long)(timeout_ns % NS_PER_S);
        until = &timeout;
    }
    int nfound = EVIO_SYS(kevent)(poll->fd, NULL, 0, found, EVIO__POLL_BATCH, until);
    if (nfound < 0)
        return errno == EINTR ? 0 : -errno;
    uint16_t places[PLACES];
    memset(places, 0, sizeof places);
    int count = 0;
    for (int i = 0; i < nfound; i++) {
        uint64_t tag = (uint64_t)(uintptr_t)found[i].udata;
        unsigned mask = found[i].filter == EVFILT_WRITE ? EVIO__WRITE : EVIO__READ;
        if (found[i].filter == EVFILT_WRITE && (found[i].flags & EV_EOF))
            mask |= EVIO__READ; /* a hang-up, as on every poller */
        record_for(poll, places, &count, tag)->mask |= mask;
    }
    return count;
}

#else
typedef int evio__no_kqueue; /* ISO C wants a declaration in every file */
#endif
