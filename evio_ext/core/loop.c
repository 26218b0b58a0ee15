/* The loop: waits, hands out what is ready, keeps the time, accepts, and stops. What happens to a
 * connection is conn.c's affair. */

#include "clock.h"
#include "config.h"
#include "conn.h"
#include "evio.h"
#include "net.h"
#include "poll.h"
#include "sys.h"
#include "wake.h"

#include <errno.h>
#include <stdlib.h>

/* Tags of the loop's own descriptors; those of connections have a generation, so are above 2^32. */
enum { TAG_LISTENER, TAG_WAKER, TAG_INTERRUPTS };

/* Clients accepted in one turn: a flood of them must not keep the others waiting. */
#define ACCEPT_BURST 64

/* How long the listener rests when there is no descriptor or memory for another client. */
#define ACCEPT_PAUSE (EVIO__NS_PER_S / 4)

/* Between two ticks, while there is something to do and while there is not. */
#define TICK_BUSY (EVIO__NS_PER_S / 60)
#define TICK_IDLE EVIO__NS_PER_S

/* A loop that never sleeps lets others have the embedding's lock this often. */
#define BREATHE_EVERY EVIO__NS_PER_MS

/* Getting the embedding's lock back takes well under a microsecond, or, when another thread is
 * computing, a whole slice of time (5 ms in CPython). Where the last sleep showed the latter, it
 * is cheaper to wait a moment for the next event with the lock kept than to let go of it. Where threads have it
 * side by side, the wait was for something that wants none of them to, such as a garbage collection: it would be in its way. */
#define CONTENDED_AFTER (EVIO__NS_PER_MS / 2)
#define HOLD EVIO__NS_PER_MS

/* A wait with the lock kept that brings nothing was in the way of others, perhaps of those who would have brought it,
 * as other loops in other threads are: the next ones are left out, twice as many each time, up to this many. */
#define HOLDS_LEFT_OUT 63

struct evio_loop {
    struct evio__conns conns;
    struct evio__poll poll;
    struct evio__waker *waker;
    evio_options options;
    const evio_hooks *hooks;
    void *server;
    int64_t last_tick;
    int64_t last_active; /* when something was last read, written or woken */
    int64_t last_breath;
    int64_t accept_again; /* when a paused listener is tried again, or 0 */
    int64_t stop_by;      /* when the last connections are cut, once the loop is stopping */
    int error;            /* a negative errno that ends the loop */
    bool listening;       /* the poller watches the listener */
    bool starved;         /* accept has failed and the backlog has not been emptied since */
    bool interrupted;     /* the next tick is due at once */
    bool contended;       /* others want the embedding's lock */
    unsigned left_out;    /* how many waits with the lock kept were left out since the last one */
    unsigned leave_out;   /* how many are to be */
    bool orderly;         /* it is the ticker that wants to stop; nothing has failed */
    bool abandoned;
};

int evio_loop_new(evio_loop **made, const evio_options *options, const evio_hooks *hooks,
                  void *server)
{
    struct evio_loop *loop = EVIO_SYS(calloc)(1, sizeof *loop);
    if (loop == NULL)
        return -ENOMEM;
    loop->options = *options;
    loop->hooks = hooks;
    loop->server = server;
    int error = evio__poll_open(&loop->poll);
    if (error != 0)
        goto no_poll;
    error = evio__waker_new(&loop->waker, options->max_pending, hooks);
    if (error != 0)
        goto no_waker;
    loop->conns.poll = &loop->poll;
    loop->conns.waker = loop->waker;
    loop->conns.options = &loop->options;
    loop->conns.hooks = hooks;
    loop->conns.server = server;
    error = evio__conns_init(&loop->conns);
    if (error != 0)
        goto no_conns;
    *made = loop;
    return 0;

no_conns:
    evio__waker_end(loop->waker, false);
    evio__waker_release(loop->waker);
no_waker:
    evio__poll_close(&loop->poll);
no_poll:
    EVIO_SYS(free)(loop);
    return error;
}

void evio_loop_free(evio_loop *loop)
{
    evio__conns_free(&loop->conns);
    evio__waker_end(loop->waker, false);
    evio__waker_release(loop->waker);
    evio__poll_close(&loop->poll);
    EVIO_SYS(free)(loop);
}

void evio_loop_abandon(evio_loop *loop)
{
    loop->abandoned = true;
    loop->conns.stop = true;
    evio__waker_end(loop->waker, true);
    evio__conns_abandon(&loop->conns);
    evio__poll_abandon(&loop->poll);
}

const char *evio_poller(void)
{
    return EVIO_POLLER;
}

/* the listener */

static void pause_listener(struct evio_loop *loop, int error)
{
    loop->accept_again = evio__now() + ACCEPT_PAUSE;
    if (loop->starved)
        return;
    loop->starved = true;
    if (loop->hooks->accept_paused(loop->server, error) == EVIO_STOP)
        loop->conns.stop = true;
}

/* Lets the poller watch the listener while there is room for a client. */
static void watch_listener(struct evio_loop *loop)
{
    size_t most = loop->options.max_conns;
    bool wants = !loop->conns.stop && !loop->conns.stopping && loop->accept_again == 0 &&
                 (most == 0 || loop->conns.count < most);
    if (wants == loop->listening)
        return;
    int error =
        evio__poll_set(&loop->poll, loop->options.listener, loop->listening ? EVIO__READ : 0,
                       wants ? EVIO__READ : 0, TAG_LISTENER);
    if (error == 0)
        loop->listening = wants;
    else if (evio__accept_error(error) == EVIO__ACCEPT_EXHAUSTED)
        pause_listener(loop, error);
    else
        loop->error = error;
}

static void accept_burst(struct evio_loop *loop)
{
    size_t most = loop->options.max_conns;
    for (int i = 0; i < ACCEPT_BURST && !loop->conns.stop; i++) {
        if (most != 0 && loop->conns.count >= most)
            return;
        struct evio_peer peer;
        int fd = evio__accept(loop->options.listener, &peer);
        if (fd < 0) {
            switch (evio__accept_error(fd)) {
            case EVIO__ACCEPT_SKIP:
                continue;
            case EVIO__ACCEPT_EMPTY:
                loop->starved = false;
                return;
            case EVIO__ACCEPT_EXHAUSTED:
                pause_listener(loop, fd);
                return;
            case EVIO__ACCEPT_BROKEN:
                loop->error = fd;
                return;
            }
        }
        int error = evio__conn_accept(&loop->conns, fd, &peer);
        if (error != 0) {
            pause_listener(loop, error);
            return;
        }
    }
}

/* time */

static void tick(struct evio_loop *loop)
{
    loop->last_tick = evio__now();
    loop->interrupted = false;
    int verdict = loop->hooks->tick(loop->server);
    if (verdict != EVIO_KEEP)
        loop->conns.stop = true;
    loop->orderly = verdict == EVIO_CLOSE;
}

static int64_t tick_due(const struct evio_loop *loop)
{
    bool busy = loop->interrupted || loop->conns.now - loop->last_active < EVIO__NS_PER_S;
    return loop->last_tick + (busy ? TICK_BUSY : TICK_IDLE);
}

/* When the loop has something to do even if nothing happens. */
static int64_t deadline(const struct evio_loop *loop)
{
    int64_t first = evio__conns_deadline(&loop->conns);
    if (loop->conns.stopping)
        return loop->stop_by < first ? loop->stop_by : first;
    if (loop->options.ticks && tick_due(loop) < first)
        first = tick_due(loop);
    if (loop->accept_again != 0 && loop->accept_again < first)
        first = loop->accept_again;
    return first;
}

static void keep_time(struct evio_loop *loop, bool saw_all)
{
    struct evio__conns *conns = &loop->conns;
    if (conns->active) {
        conns->active = false;
        loop->last_active = conns->now;
    }
    if (saw_all) /* else some connection's bytes may be waiting to be seen */
        evio__conns_expire(conns);
    if (conns->stop || conns->stopping)
        return;
    if (loop->options.ticks && tick_due(loop) <= conns->now)
        tick(loop);
    if (loop->accept_again != 0 && loop->accept_again <= conns->now)
        loop->accept_again = 0;
}

/* waiting */

/* Sleeps with the embedding's lock let go. */
static int sleep_until_event(struct evio_loop *loop, int64_t timeout)
{
    loop->hooks->sleep(loop->server);
    int count = evio__poll_wait(&loop->poll, timeout);
    int64_t woke = evio__now();
    loop->hooks->awake(loop->server);
    loop->last_breath = evio__now();
    loop->contended = loop->options.exclusive && loop->last_breath - woke > CONTENDED_AFTER;
    return count;
}

/* Returns how many events there are, or -errno. */
static int wait_for_events(struct evio_loop *loop)
{
    int count = evio__poll_wait(&loop->poll, 0);
    if (count != 0)
        return count;
    int64_t until = deadline(loop);
    int64_t timeout = until == INT64_MAX ? -1 : until - evio__now();
    if ((until != INT64_MAX && timeout <= 0) || !evio__waker_sleep(loop->waker))
        return 0;
    if (loop->contended && loop->left_out++ >= loop->leave_out) {
        count = evio__poll_wait(&loop->poll, timeout >= 0 && timeout < HOLD ? timeout : HOLD);
        loop->left_out = 0;
        loop->leave_out = count != 0 ? 0 : loop->leave_out * 2 + 1;
        if (loop->leave_out > HOLDS_LEFT_OUT)
            loop->leave_out = HOLDS_LEFT_OUT;
    }
    if (count == 0) {
        if (until != INT64_MAX) {
            timeout = until - evio__now();
            timeout = timeout > 0 ? timeout : 0;
        }
        count = sleep_until_event(loop, timeout);
    }
    evio__waker_awake(loop->waker);
    return count;
}

static void interrupts(struct evio_loop *loop)
{
    char bytes[64]; /* signal numbers, which the embedding knows better */
    while (evio__recv(loop->options.interrupts, bytes, sizeof bytes) > 0)
        ;
    loop->interrupted = true;
    if (loop->hooks->interrupted(loop->server) == EVIO_STOP)
        loop->conns.stop = true;
}

static void turn(struct evio_loop *loop)
{
    struct evio__conns *conns = &loop->conns;
    int count = wait_for_events(loop);
    conns->now = evio__now();
    if (count < 0) {
        loop->error = count;
        return;
    }
    for (int i = 0; i < count && !conns->stop; i++) {
        struct evio__event event = loop->poll.events[i];
        if (event.tag > UINT32_MAX)
            evio__conn_event(conns, event.tag, event.mask);
        else if (event.tag == TAG_LISTENER && loop->listening)
            accept_burst(loop);
        else if (event.tag == TAG_WAKER)
            evio__waker_drain(loop->waker);
        else if (event.tag == TAG_INTERRUPTS)
            interrupts(loop);
    }
    evio__waker_begin(loop->waker);
    struct evio__woken woken;
    while (!conns->stop && evio__waker_take(loop->waker, &woken))
        evio__conn_woken(conns, &woken);
    if (!conns->stop)
        keep_time(loop, count < EVIO__POLL_BATCH);
    if (!conns->stop && conns->now - loop->last_breath > BREATHE_EVERY) {
        loop->last_breath = conns->now;
        if (loop->hooks->breathe(loop->server) == EVIO_STOP)
            conns->stop = true;
    }
    evio__conns_reap(conns);
    watch_listener(loop);
}

/* running */

static void start(struct evio_loop *loop)
{
    loop->conns.now = loop->last_breath = evio__now();
    loop->last_active = loop->conns.now - EVIO__NS_PER_S;
    loop->error = evio__poll_set(&loop->poll, loop->waker->read_fd, 0, EVIO__READ, TAG_WAKER);
    if (loop->error == 0 && loop->options.interrupts >= 0)
        loop->error =
            evio__poll_set(&loop->poll, loop->options.interrupts, 0, EVIO__READ, TAG_INTERRUPTS);
    if (loop->error == 0 && loop->options.ticks)
        tick(loop);
    if (loop->error == 0)
        watch_listener(loop);
}

/* A `stop` from here on is a second one: what is left is cut. So it is if polling fails (again). */
static void stop(struct evio_loop *loop)
{
    struct evio__conns *conns = &loop->conns;
    int error = loop->error;
    if (loop->abandoned)
        return;
    loop->error = 0;
    conns->stop = false;
    conns->stopping = true;
    loop->stop_by = evio__now() + loop->options.linger_ns;
    watch_listener(loop);
    evio__conns_stop(conns, loop->orderly);
    while (conns->count > 0 && !conns->stop && loop->error == 0 && evio__now() < loop->stop_by)
        turn(loop);
    if (error != 0)
        loop->error = error;
}

int evio_loop_run(evio_loop *loop)
{
    start(loop);
    while (!loop->conns.stop && loop->error == 0)
        turn(loop);
    stop(loop);
    evio__conns_close(&loop->conns);
    evio__conns_reap(&loop->conns);
    evio__waker_end(loop->waker, loop->abandoned);
    evio__poll_close(&loop->poll);
    return loop->abandoned ? 0 : loop->error;
}
