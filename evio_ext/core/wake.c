/* Wakes. Any thread may queue data or ask for a call; the loop takes what is outstanding between
 * events. The descriptor is written once for each sleep, however many wakes come: it cannot fill
 * up, and a wake cannot block. This file does no input or output on connections. */

#include "wake.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef EVIO_HAVE_EVENTFD
#include <sys/eventfd.h>
#endif

static int open_descriptors(struct evio__waker *waker)
{
#ifdef EVIO_HAVE_EVENTFD
    waker->read_fd = waker->write_fd = EVIO_SYS(eventfd)(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return waker->read_fd < 0 ? -errno : 0;
#else
    int ends[2];
#ifdef EVIO_HAVE_PIPE2
    if (EVIO_SYS(pipe2)(ends, O_NONBLOCK | O_CLOEXEC) < 0)
        return -errno;
#else
    if (EVIO_SYS(pipe)(ends) < 0)
        return -errno;
    for (int i = 0; i < 2; i++) {
        EVIO_SYS(fcntl)(ends[i], F_SETFD, FD_CLOEXEC); /* neither can fail on an open pipe */
        EVIO_SYS(fcntl)(ends[i], F_SETFL, O_NONBLOCK);
    }
#endif
    waker->read_fd = ends[0];
    waker->write_fd = ends[1];
    return 0;
#endif
}

static void close_descriptors(struct evio__waker *waker)
{
    if (waker->read_fd >= 0)
        EVIO_SYS(close)(waker->read_fd);
    if (waker->write_fd != waker->read_fd && waker->write_fd >= 0)
        EVIO_SYS(close)(waker->write_fd);
    waker->read_fd = waker->write_fd = -1;
}

/* The node is the wake's first member. */
static struct evio_wake *first_wake(struct evio__node *list)
{
    return (struct evio_wake *)list->next;
}

/* the loop's side */

int evio__waker_new(struct evio__waker **made, size_t max_pending, const evio_hooks *hooks)
{
    struct evio__waker *waker = EVIO_SYS(calloc)(1, sizeof *waker);
    if (waker == NULL)
        return -ENOMEM;
    int error = open_descriptors(waker);
    if (error != 0) {
        EVIO_SYS(free)(waker);
        return error;
    }
    error = -pthread_mutex_init(&waker->lock, NULL);
    if (error != 0) {
        close_descriptors(waker);
        EVIO_SYS(free)(waker);
        return error;
    }
    atomic_init(&waker->refs, 1);
    waker->max_pending = max_pending;
    waker->hooks = hooks;
    evio__list_init(&waker->ready);
    evio__list_init(&waker->batch);
    *made = waker;
    return 0;
}

/* For the loop's own thread, the only one that makes a waker dead. In a forked child the lock may be
 * held by a thread that does not exist there; but then `dead` keeps every wake out, and none is needed. */
static void lock(struct evio__waker *waker)
{
    if (!atomic_load(&waker->dead))
        pthread_mutex_lock(&waker->lock);
}

static void unlock(struct evio__waker *waker)
{
    if (!atomic_load(&waker->dead))
        pthread_mutex_unlock(&waker->lock);
}

bool evio__waker_sleep(struct evio__waker *waker)
{
    lock(waker);
    waker->asleep = evio__list_empty(&waker->ready);
    bool asleep = waker->asleep;
    unlock(waker);
    return asleep;
}

void evio__waker_awake(struct evio__waker *waker)
{
    lock(waker);
    waker->asleep = false;
    unlock(waker);
}

void evio__waker_drain(struct evio__waker *waker)
{
    uint64_t count;
    while (EVIO_SYS(read)(waker->read_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

void evio__waker_begin(struct evio__waker *waker)
{
    if (!atomic_load_explicit(&waker->any, memory_order_acquire))
        return;
    lock(waker);
    while (!evio__list_empty(&waker->ready)) {
        struct evio__node *node = waker->ready.next;
        evio__list_remove(node);
        evio__list_add(&waker->batch, node);
    }
    atomic_store_explicit(&waker->any, false, memory_order_relaxed);
    unlock(waker);
}

/* With the lock held: takes what is outstanding and leaves every list. What it takes counts as unsent from here on,
 * without a moment in between in which another thread would count neither. */
static void take_locked(struct evio_wake *wake, struct evio__woken *woken)
{
    evio__list_remove(&wake->node);
    woken->conn = wake->conn;
    woken->inbox = wake->inbox;
    woken->call = wake->call;
    woken->overflow = wake->overflow;
    atomic_fetch_add_explicit(&wake->unsent, wake->inbox.nbytes, memory_order_relaxed);
    wake->inbox = (struct evio__queue){0};
    wake->call = false;
    atomic_store_explicit(&wake->queued, false, memory_order_relaxed);
}

bool evio__waker_take(struct evio__waker *waker, struct evio__woken *woken)
{
    if (evio__list_empty(
            &waker->batch)) /* the batch is the loop's own; only its links are shared */
        return false;
    lock(waker);
    take_locked(first_wake(&waker->batch), woken);
    unlock(waker);
    return true;
}

void evio__waker_end(struct evio__waker *waker, bool forked)
{
    if (forked) {
        atomic_store(&waker->dead, true);
        close_descriptors(waker);
        return;
    }
    if (atomic_load(&waker->dead))
        return;
    /* Under the lock, so that no wake is about to write to a descriptor that is not ours any more. */
    pthread_mutex_lock(&waker->lock);
    close_descriptors(waker);
    atomic_store(&waker->dead, true);
    pthread_mutex_unlock(&waker->lock);
}

void evio__waker_release(struct evio__waker *waker)
{
    if (atomic_fetch_sub(&waker->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&waker->lock);
    EVIO_SYS(free)(waker);
}

struct evio_wake *evio__wake_new(struct evio__waker *waker, struct evio_conn *conn, uint64_t id)
{
    struct evio_wake *wake = EVIO_SYS(calloc)(1, sizeof *wake);
    if (wake == NULL)
        return NULL;
    wake->waker = waker;
    atomic_fetch_add(&waker->refs, 1);
    wake->conn = conn;
    wake->id = id;
    wake->open = true;
    atomic_init(&wake->refs, 1);
    return wake;
}

void evio__wake_take_inbox(struct evio_wake *wake, struct evio__queue *queue)
{
    lock(wake->waker);
    evio__queue_move(queue, &wake->inbox);
    atomic_store_explicit(&wake->unsent, queue->nbytes, memory_order_relaxed);
    atomic_store_explicit(&wake->queued, false, memory_order_relaxed);
    unlock(wake->waker);
}

void evio__wake_detach(struct evio_wake *wake, struct evio__woken *woken)
{
    lock(wake->waker);
    wake->open = false;
    take_locked(wake, woken);
    unlock(wake->waker);
}

/* any thread's side */

void evio_wake_release(struct evio_wake *wake)
{
    if (atomic_fetch_sub(&wake->refs, 1) != 1)
        return;
    evio__waker_release(wake->waker);
    EVIO_SYS(free)(wake);
}

uint64_t evio_wake_id(const struct evio_wake *wake)
{
    return wake->id;
}

/* Locks if the wake is open, and tells. */
static bool lock_open(struct evio_wake *wake)
{
    struct evio__waker *waker = wake->waker;
    if (atomic_load(&waker->dead))
        return false;
    pthread_mutex_lock(&waker->lock);
    if (wake->open && !atomic_load(&waker->dead))
        return true;
    pthread_mutex_unlock(&waker->lock);
    return false;
}

/* With the lock held: tells the loop, and unlocks. The write is within the lock so that the
 * descriptor is still the waker's; it cannot block, and there is one for each sleep. */
static void post_and_unlock(struct evio_wake *wake)
{
    struct evio__waker *waker = wake->waker;
    if (wake->node.next == NULL)
        evio__list_add(&waker->ready, &wake->node);
    atomic_store_explicit(&waker->any, true, memory_order_release);
    if (waker->asleep) {
        const uint64_t one = 1;
        waker->asleep = false;
        while (EVIO_SYS(write)(waker->write_fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
    }
    pthread_mutex_unlock(&waker->lock);
}

int evio_wake_is_open(struct evio_wake *wake)
{
    if (!lock_open(wake))
        return 0;
    pthread_mutex_unlock(&wake->waker->lock);
    return 1;
}

int evio_wake_call(struct evio_wake *wake)
{
    if (!lock_open(wake))
        return 0;
    wake->call = true;
    post_and_unlock(wake);
    return 1;
}

int evio_wake_send(struct evio_wake *wake, const evio_piece *piece)
{
    /* Small pieces share chunks in the inbox; the copy of a large one is made outside the lock. */
    enum { SMALL = 4096 };
    const evio_hooks *hooks = wake->waker->hooks;
    struct evio__queue large = {0};
    int error = 0;
    if (piece->nbytes == 0)
        return evio_wake_is_open(wake);
    if (piece->nbytes > SMALL)
        error = evio__queue_append(&large, piece, hooks);
    if (error != 0)
        return error;
    if (!lock_open(wake)) {
        evio__queue_clear(&large, hooks);
        return 0;
    }
    size_t waiting = wake->inbox.nbytes + atomic_load_explicit(&wake->unsent, memory_order_relaxed);
    if (waiting > wake->waker->max_pending) {
        wake->open = false;
        wake->overflow = true;
        post_and_unlock(wake);
        evio__queue_clear(&large, hooks);
        return 0;
    }
    if (large.head != NULL)
        evio__queue_move(&wake->inbox, &large);
    else
        error = evio__queue_append(&wake->inbox, piece, hooks);
    if (error != 0) {
        pthread_mutex_unlock(&wake->waker->lock);
        return error;
    }
    atomic_store_explicit(&wake->queued, true, memory_order_relaxed);
    post_and_unlock(wake);
    return 1;
}
