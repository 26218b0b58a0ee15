/* A kernel of our own below the core: descriptors, clients, epoll and a clock, all in a few tables. It
 * carries out a script (script.h) whenever the loop would sleep, lets calls fail where the script says so,
 * and checks every call. A fault hangs on a place that no engine can choose: the offset in a client's
 * stream, or the client that is next in the backlog. So every engine meets it. */

#ifndef KERNEL_H
#define KERNEL_H

#include "../../evio_ext/core/sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NCLIENTS = 8, NDESCRIPTORS = 32, NSEGMENTS = 48, NFAULTS = 4 };

/* The loop sleeps until a multiple of this, exact in nanoseconds and as a float: so times can be equal. */
#define UNIT INT64_C(7812500)

/* epoll counts milliseconds, rounded up: this much less is still the same time. */
#define ROUNDED INT64_C(1000000)

/* How often the loop may ask for events while nothing comes of it. */
#define VAIN_MAX 60

/* random numbers that come again: xorshift */

struct dice {
    uint64_t state;
};

static uint32_t roll(struct dice *dice)
{
    dice->state ^= dice->state << 13;
    dice->state ^= dice->state >> 7;
    dice->state ^= dice->state << 17;
    return (uint32_t)(dice->state >> 32);
}

/* From 0 to `sides` - 1. */
static int below(struct dice *dice, int sides)
{
    return (int)(roll(dice) % (uint32_t)sides);
}

static bool chance(struct dice *dice, int percent)
{
    return below(dice, 100) < percent;
}

/* what there is */

enum call { ACCEPT, WATCH, TUNE, RECV, SEND, SHUTDOWN };
static const char *const call_names[] = {"accept", "watch", "tune", "recv", "send", "shutdown"};

/* A call that begins at an offset fails so many times; one that would go beyond it ends there.
 * Without an error it only ends there. */
struct fault {
    enum call call;
    size_t at;
    int error;
    int times;
};

/* What a client has sent in one go, which no recv takes more than. Its first byte may be a command. */
struct segment {
    size_t end;
    char command;
};

struct client {
    enum { AWAY, QUEUED, SERVED, LEFT } place;
    int fd;           /* the server's socket, or -1 */
    char mode;        /* what the server does when it accepts */
    bool end, reset;  /* what the client has done */
    bool failed;      /* a call has said that the connection is gone */
    bool shut;        /* the server has shut its write side */
    bool cut;         /* the server has closed with something unread */
    bool ended;       /* the server has read the end */
    size_t sent;      /* bytes to the server */
    size_t received;  /* of these, what the server has got */
    size_t taken;     /* bytes from the server */
    size_t window;    /* how many more are taken */
    size_t low;       /* how much room there must be before the poller tells, once there was none */
    bool full;        /* there was none, and is not so much yet */
    int64_t moved_at; /* when the last byte went either way */
    int64_t sent_at;  /* when the last byte was taken from the server, or its write side shut */
    size_t told_taken; /* what the trace has told of it */
    const char *told_end;
    struct segment segments[NSEGMENTS];
    int nsegments, segment;
    struct fault faults[NFAULTS];
    int nfaults;
};

struct descriptor {
    enum kind { FREE, LISTENER, STREAM, EVENTS, POLLER, INTERRUPTS } kind;
    struct client *client;
    uint64_t count; /* of an eventfd; bytes to be read from the interrupts */
    bool watched;
    struct epoll_event wanted;
};

static struct {
    struct descriptor descriptors[NDESCRIPTORS];
    struct client clients[NCLIENTS +
                          1]; /* by number, which is also their port; 0 has the listener's faults */
    int backlog[NCLIENTS], nbacklog;
    int64_t now;
    int64_t exhausted_at; /* when an accept failed for lack of something, or -1 */
    long allocated;       /* pieces of memory */
    int vain;             /* calls of epoll_wait since something has happened */
    int odds;             /* of 10,000: how often any call fails */
    struct dice dice;
    int nbroken;
    bool asked_to_stop;
    bool given_up;               /* nothing works any more, so that a round ends that would not */
    bool no_memory, poll_failed; /* faults that may end a connection, or the loop */
    bool loud;                   /* the trace is printed */
} kernel;

/* What is around the kernel: script.h has the steps, the test looks at the server. */
static int64_t next_step_at(void);
static void take_step(void);
static void about_to_sleep(void);

__attribute__((format(printf, 1, 2))) static void broken(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    kernel.nbroken++;
    if (kernel.loud) {
        printf("BROKEN ");
        vprintf(format, arguments);
        printf("\n");
    }
    va_end(arguments);
}

__attribute__((format(printf, 1, 2))) static void trace(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (kernel.loud) {
        vprintf(format, arguments);
        printf("\n");
    }
    va_end(arguments);
}

/* bytes: a function of the client and the offset, in both directions, so that each tells where it belongs */

enum { PATTERN = 1 << 16, PATTERN_PIECE = 1 << 15 };
static char pattern[PATTERN + PATTERN_PIECE];

static void make_pattern(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)((i % PATTERN) * 2654435761u >> 13);
}

/* What the server sends: good for PATTERN_PIECE bytes. */
static const char *output_at(int number, size_t offset)
{
    return pattern + ((size_t)number * 8191 + offset) % PATTERN;
}

/* What the client sends, but for commands. */
static char input_at(int number, size_t offset)
{
    return (char)('a' + ((size_t)number * 5 + offset) % 26);
}

static int number_of(const struct client *client)
{
    return (int)(client - kernel.clients);
}

/* faults */

static int fail(int error)
{
    errno = error;
    return -1;
}

/* Whether a call fails out of the blue, with one of the errors, which end with 0. */
static bool struck(const int *errors)
{
    if (kernel.odds == 0 || below(&kernel.dice, 10000) >= kernel.odds)
        return false;
    int count = 0;
    while (errors[count] != 0)
        count++;
    errno = errors[below(&kernel.dice, count)];
    return true;
}

/* Whether a call that begins at `at` fails. */
static bool fails(struct client *client, enum call call, size_t at)
{
    for (int i = 0; i < client->nfaults; i++) {
        struct fault *fault = &client->faults[i];
        if (fault->call == call && fault->at == at && fault->error != 0 && fault->times > 0) {
            fault->times--;
            kernel.vain = 0;
            errno = fault->error;
            return true;
        }
    }
    return false;
}

/* How many of `nbytes` bytes from `at` a call gets to before the next fault. */
static size_t until_fault(const struct client *client, enum call call, size_t at, size_t nbytes)
{
    for (int i = 0; i < client->nfaults; i++) {
        const struct fault *fault = &client->faults[i];
        if (fault->call == call && fault->at > at && fault->at - at < nbytes)
            nbytes = fault->at - at;
    }
    return nbytes;
}

/* The error in errno is one that a call has failed with: some mean that the connection is gone. */
static ssize_t stream_failed(struct client *client)
{
    if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
        client->failed = client->reset = true;
    return -1;
}

/* descriptors */

static int open_descriptor(enum kind kind)
{
    int fd = 0;
    while (kernel.descriptors[fd].kind != FREE)
        fd++; /* the lowest, as in every kernel: so that they are used again at once */
    kernel.descriptors[fd] = (struct descriptor){.kind = kind};
    return fd;
}

static struct descriptor *descriptor(int fd, enum kind kind, const char *call)
{
    if (fd >= 0 && fd < NDESCRIPTORS && kernel.descriptors[fd].kind == kind)
        return &kernel.descriptors[fd];
    broken("%s on descriptor %d, which is not one for it", call, fd);
    return NULL;
}

static struct client *stream(int fd, const char *call)
{
    struct descriptor *found = descriptor(fd, STREAM, call);
    return found == NULL ? NULL : found->client;
}

int evio__sys_close(int fd)
{
    if (fd < 0 || fd >= NDESCRIPTORS || kernel.descriptors[fd].kind == FREE) {
        broken("close of descriptor %d, which is not open", fd);
        return fail(EBADF);
    }
    struct client *client = kernel.descriptors[fd].client;
    if (client != NULL) {
        client->place = LEFT;
        client->fd = -1;
        client->cut = client->received < client->sent;
    }
    kernel.descriptors[fd] = (struct descriptor){.kind = FREE};
    kernel.vain = 0;
    return struck((int[]){EINTR, 0}) ? -1 : 0;
}

/* sockets */

int evio__sys_accept4(int fd, struct sockaddr *address, socklen_t *nbytes, int flags)
{
    static const int errors[] = {EINTR,  ECONNABORTED, EPROTO, ENETDOWN, EMFILE,
                                 ENFILE, ENOBUFS,      ENOMEM, 0};
    if (descriptor(fd, LISTENER, "accept") == NULL)
        return fail(EBADF);
    if (flags != (SOCK_NONBLOCK | SOCK_CLOEXEC))
        broken("accept of a socket that blocks or is inherited");
    if (kernel.exhausted_at == kernel.now)
        broken("accept is tried again without a pause");
    if (kernel.nbacklog == 0)
        return fail(EAGAIN);
    struct client *client = &kernel.clients[kernel.backlog[0]];
    if (struck(errors) || fails(client, ACCEPT, 0)) {
        int error = errno;
        if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM)
            kernel.exhausted_at = kernel.now;
        else if (error != EINTR) {
            client->place = LEFT;
            memmove(kernel.backlog, kernel.backlog + 1,
                    (size_t)--kernel.nbacklog * sizeof *kernel.backlog);
        }
        return fail(error);
    }
    struct sockaddr_in peer = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)number_of(client)),
                               .sin_addr.s_addr = htonl(0x0A000001)}; /* 10.0.0.1 */
    memcpy(address, &peer, sizeof peer);
    *nbytes = sizeof peer;
    memmove(kernel.backlog, kernel.backlog + 1, (size_t)--kernel.nbacklog * sizeof *kernel.backlog);
    client->fd = open_descriptor(STREAM);
    client->place = SERVED;
    client->moved_at = client->sent_at = kernel.now;
    kernel.descriptors[client->fd].client = client;
    kernel.exhausted_at = -1;
    kernel.vain = 0;
    return client->fd;
}

int evio__sys_setsockopt(int fd, int level, int name, const void *value, socklen_t nbytes)
{
    struct client *client = stream(fd, "setsockopt");
    (void)level, (void)name, (void)value, (void)nbytes;
    if (client == NULL)
        return fail(EBADF);
    if (struck((int[]){EINVAL, ENOBUFS, 0}) || fails(client, TUNE, 0))
        return -1;
    return client->reset ? fail(EINVAL) : 0;
}

int evio__sys_ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    struct client *client = stream(fd, "ioctl");
    if (client == NULL || request != FIONREAD)
        return fail(EBADF);
    if (struck((int[]){EINVAL, 0}))
        return -1;
    va_start(arguments, request);
    *va_arg(arguments, int *) = (int)(client->sent - client->received);
    va_end(arguments);
    return 0;
}

ssize_t evio__sys_recv(int fd, void *data, size_t nbytes, int flags)
{
    static const int errors[] = {EINTR, EAGAIN, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENOMEM, 0};
    (void)flags;
    if (fd >= 0 && fd < NDESCRIPTORS && kernel.descriptors[fd].kind == INTERRUPTS) {
        ssize_t count = (ssize_t)kernel.descriptors[fd].count;
        kernel.descriptors[fd].count = 0;
        return count > 0 ? count : fail(EAGAIN);
    }
    struct client *client = stream(fd, "recv");
    if (client == NULL)
        return fail(EBADF);
    bool readable = client->received < client->sent || client->end;
    if (struck(errors) || (readable && fails(client, RECV, client->received)))
        return stream_failed(client);
    if (client->received < client->sent) {
        const struct segment *segment = &client->segments[client->segment];
        size_t start = client->segment > 0 ? segment[-1].end : 0, at = client->received;
        if (nbytes > segment->end - at)
            nbytes = segment->end - at;
        nbytes = until_fault(client, RECV, at, nbytes);
        for (size_t i = 0; i < nbytes; i++)
            ((char *)data)[i] = input_at(number_of(client), at + i);
        if (at == start && segment->command != '-')
            *(char *)data = segment->command;
        client->received += nbytes;
        if (client->received == segment->end)
            client->segment++;
        client->moved_at = kernel.now;
        kernel.vain = 0;
        return (ssize_t)nbytes;
    }
    if (client->reset) {
        client->failed = true;
        return fail(ECONNRESET);
    }
    if (!client->end)
        return fail(EAGAIN);
    client->ended = true;
    return 0;
}

/* Takes what there is room for, of which it looks at every byte. */
static ssize_t take_output(int fd, const struct iovec *parts, size_t count, int flags)
{
    static const int errors[] = {EINTR, EAGAIN,    ENOBUFS,      ECONNRESET,
                                 EPIPE, ETIMEDOUT, EHOSTUNREACH, 0};
    struct client *client = stream(fd, "send");
    size_t nbytes = 0, total = 0;
    if (client == NULL)
        return fail(EBADF);
    if (!(flags & MSG_NOSIGNAL))
        broken("send that may raise SIGPIPE");
    for (size_t i = 0; i < count; i++)
        nbytes += parts[i].iov_len;
    if (nbytes == 0)
        broken("send of nothing");
    if (client->shut)
        broken("send after the write side was shut");
    if (client->reset) {
        int error = client->failed ? EPIPE : ECONNRESET;
        client->failed = true;
        return fail(error);
    }
    if (struck(errors))
        return stream_failed(client);
    if (client->window == 0) {
        client->full = true;
        return fail(EAGAIN);
    }
    if (fails(client, SEND, client->taken))
        return stream_failed(client);
    nbytes =
        until_fault(client, SEND, client->taken, nbytes < client->window ? nbytes : client->window);
    for (size_t i = 0; i < count && total < nbytes; i++) {
        size_t rest = parts[i].iov_len < nbytes - total ? parts[i].iov_len : nbytes - total;
        const char *data = parts[i].iov_base;
        while (rest > 0) {
            size_t piece = rest < PATTERN_PIECE ? rest : PATTERN_PIECE;
            if (memcmp(data, output_at(number_of(client), client->taken + total), piece) != 0)
                broken("client %d is sent wrong bytes from offset %zu", number_of(client),
                       client->taken + total);
            data += piece;
            total += piece;
            rest -= piece;
        }
    }
    client->taken += nbytes;
    client->window -= nbytes;
    client->full |= client->window == 0;
    client->moved_at = client->sent_at = kernel.now;
    kernel.vain = 0;
    return (ssize_t)nbytes;
}

ssize_t evio__sys_send(int fd, const void *data, size_t nbytes, int flags)
{
    struct iovec part = {(void *)data, nbytes};
    return take_output(fd, &part, 1, flags);
}

ssize_t evio__sys_sendmsg(int fd, const struct msghdr *message, int flags)
{
    return take_output(fd, message->msg_iov, message->msg_iovlen, flags);
}

int evio__sys_shutdown(int fd, int how)
{
    struct client *client = stream(fd, "shutdown");
    if (client == NULL)
        return fail(EBADF);
    if (how != SHUT_WR || client->shut)
        broken("a shutdown of more than the write side, or a second one");
    if (client->reset || struck((int[]){ENOTCONN, 0}) || fails(client, SHUTDOWN, 0)) {
        client->reset = client->failed = true;
        return fail(ENOTCONN);
    }
    client->shut = true;
    client->sent_at = kernel.now;
    kernel.vain = 0;
    return 0;
}

char *evio__sys_if_indextoname(unsigned index, char *name)
{
    (void)index, (void)name;
    broken("an IPv4 peer has a zone");
    return NULL;
}

/* the waker's descriptor */

int evio__sys_eventfd(unsigned count, int flags)
{
    if (flags != (EFD_NONBLOCK | EFD_CLOEXEC))
        broken("an eventfd that blocks or is inherited");
    if (struck((int[]){EMFILE, ENFILE, ENOMEM, 0}))
        return -1;
    int fd = open_descriptor(EVENTS);
    kernel.descriptors[fd].count = count;
    return fd;
}

ssize_t evio__sys_read(int fd, void *data, size_t nbytes)
{
    struct descriptor *events = descriptor(fd, EVENTS, "read");
    if (events == NULL)
        return fail(EBADF);
    if (struck((int[]){EINTR, 0}))
        return -1;
    if (events->count == 0)
        return fail(EAGAIN);
    memcpy(data, &events->count, sizeof events->count);
    events->count = 0;
    kernel.vain = 0;
    return (ssize_t)nbytes;
}

ssize_t evio__sys_write(int fd, const void *data, size_t nbytes)
{
    struct descriptor *events = descriptor(fd, EVENTS, "write");
    (void)data;
    if (events == NULL)
        return fail(EBADF);
    if (struck((int[]){EINTR, 0}))
        return -1;
    if (events->count > 0)
        broken("the waker's descriptor is written twice for one sleep");
    events->count++;
    return (ssize_t)nbytes;
}

/* the poller */

int evio__sys_epoll_create1(int flags)
{
    if (flags != EPOLL_CLOEXEC)
        broken("an epoll that is inherited");
    if (struck((int[]){EMFILE, ENFILE, ENOMEM, 0}))
        return -1;
    return open_descriptor(POLLER);
}

int evio__sys_epoll_ctl(int poller, int op, int fd, struct epoll_event *event)
{
    if (descriptor(poller, POLLER, "epoll_ctl") == NULL)
        return fail(EBADF);
    if (fd < 0 || fd >= NDESCRIPTORS || kernel.descriptors[fd].kind == FREE) {
        broken("epoll_ctl of descriptor %d, which is not open", fd);
        return fail(EBADF);
    }
    struct descriptor *target = &kernel.descriptors[fd];
    if (target->watched != (op != EPOLL_CTL_ADD)) {
        broken("epoll_ctl adds descriptor %d twice, or changes it unwatched", fd);
        return fail(target->watched ? EEXIST : ENOENT);
    }
    if (op == EPOLL_CTL_ADD) {
        struct client *client = target->kind == LISTENER ? kernel.clients : target->client;
        size_t before = target->kind == LISTENER ? kernel.clients->received++ : 0;
        if ((client != NULL && fails(client, WATCH, before)) ||
            struck((int[]){ENOMEM, ENOSPC, 0})) {
            if (client == NULL)
                kernel.poll_failed = true;
            else
                kernel.exhausted_at = kernel.now;
            return -1;
        }
    }
    target->watched = op != EPOLL_CTL_DEL;
    target->wanted = *event;
    return 0;
}

/* What epoll would tell of a descriptor, were it asked for everything. */
static uint32_t readiness(const struct descriptor *it)
{
    const struct client *client = it->client;
    switch (it->kind) {
    case LISTENER:
        return kernel.nbacklog > 0 ? EPOLLIN : 0;
    case EVENTS:
    case INTERRUPTS:
        return it->count > 0 ? EPOLLIN : 0;
    case STREAM:
        if (client->reset)
            return EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP;
        return (client->received < client->sent || client->end ? EPOLLIN : 0u) |
               (client->window > 0 && !client->full ? EPOLLOUT : 0u) |
               (client->end && client->shut ? EPOLLHUP : 0u);
    default:
        return 0;
    }
}

static int ready(struct epoll_event *found, int most)
{
    int count = 0, first = kernel.odds > 0 ? below(&kernel.dice, NDESCRIPTORS) : 0;
    for (int i = 0; i < NDESCRIPTORS && count < most; i++) {
        const struct descriptor *it = &kernel.descriptors[(first + i) % NDESCRIPTORS];
        uint32_t events = readiness(it) & (it->wanted.events | EPOLLERR | EPOLLHUP);
        if (!it->watched || events == 0)
            continue;
        found[count] = it->wanted;
        found[count++].events = events;
    }
    return count;
}

/* A time as the loop's clock can show it. */
static int64_t rounded_up(int64_t time)
{
    return (time - ROUNDED + UNIT - 1) / UNIT * UNIT;
}

int evio__sys_epoll_wait(int poller, struct epoll_event *found, int most, int timeout_ms)
{
    if (kernel.given_up || descriptor(poller, POLLER, "epoll_wait") == NULL)
        return fail(EBADF);
    if (++kernel.vain > VAIN_MAX) {
        broken("the loop spins");
        kernel.given_up = true;
        return fail(EBADF);
    }
    if (struck((int[]){EINTR, 0}))
        return -1;
    int count = ready(found, most);
    if (count > 0 || timeout_ms == 0)
        return count;
    about_to_sleep();
    int64_t until =
        timeout_ms < 0 ? INT64_MAX : rounded_up(kernel.now + timeout_ms * INT64_C(1000000));
    while ((count = ready(found, most)) == 0) {
        int64_t next = next_step_at();
        kernel.vain = 0;
        if (next <= kernel.now) {
            take_step();
            continue;
        }
        kernel.now = next < until ? next : until;
        if (kernel.now == INT64_MAX) {
            broken("the loop sleeps for ever");
            kernel.given_up = true;
            return fail(EBADF);
        }
        if (kernel.now >= until)
            return 0;
    }
    return count;
}

/* the rest */

int evio__sys_clock_gettime(clockid_t clock, struct timespec *time)
{
    (void)clock;
    time->tv_sec = kernel.now / 1000000000;
    time->tv_nsec = kernel.now % 1000000000;
    return 0;
}

static bool no_memory(void)
{
    if (!struck((int[]){ENOMEM, 0}))
        return false;
    kernel.no_memory = true;
    return true;
}

void *evio__sys_malloc(size_t nbytes)
{
    if (no_memory())
        return NULL;
    kernel.allocated++;
    return malloc(nbytes);
}

void *evio__sys_calloc(size_t count, size_t nbytes)
{
    if (no_memory())
        return NULL;
    kernel.allocated++;
    return calloc(count, nbytes);
}

void *evio__sys_realloc(void *memory, size_t nbytes)
{
    if (no_memory())
        return NULL;
    kernel.allocated += memory == NULL;
    return realloc(memory, nbytes);
}

void evio__sys_free(void *memory)
{
    kernel.allocated -= memory != NULL;
    free(memory);
}

#endif
