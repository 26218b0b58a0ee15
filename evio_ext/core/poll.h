/* The poller: which descriptors are ready. Level-triggered. One file for each system implements
 * this interface; config.h chooses. */

#ifndef EVIO_POLL_H
#define EVIO_POLL_H

#include "config.h"

#include <stdint.h>

enum { EVIO__READ = 1, EVIO__WRITE = 2 };

/* Events taken from the kernel at a time: enough that a busy server makes few calls, few enough
 * that timers are looked at often. */
#define EVIO__POLL_BATCH 256

/* A descriptor that is ready, named by the tag it was registered with. Hang-ups and errors are
 * told as both READ and WRITE: the call that fails says what happened. */
struct evio__event {
    uint64_t tag;
    unsigned mask;
};

struct evio__poll {
    int fd;
    struct evio__event events[EVIO__POLL_BATCH];
};

int evio__poll_open(struct evio__poll *poll);
void evio__poll_close(struct evio__poll *poll);

/* In a forked child: lets go of the parent's poller, as far as the child has got it. */
void evio__poll_abandon(struct evio__poll *poll);

/* Changes what is watched of a descriptor from the mask `had` to `wants`; 0 is not at all. */
int evio__poll_set(struct evio__poll *poll, int fd, unsigned had, unsigned wants, uint64_t tag);

/* Waits for at most `timeout_ns` (-1: for ever; rounded up to what the system counts in). Fills
 * `events` with at most one record for each descriptor. Returns how many, or -errno; EINTR is 0. */
int evio__poll_wait(struct evio__poll *poll, int64_t timeout_ns);

#endif
