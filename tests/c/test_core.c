/* The core on its own: a loop with hooks in C in one thread, its clients in another. No Python.
 * Every check is counted; the last line says how many passed and failed. */

#include "../../evio_ext/core/config.h"
#include "../../evio_ext/core/buf.h"
#include "../../evio_ext/core/evio.h"
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* the server */

#define BIG ((size_t)8 * 1024 * 1024)
#define NO_END 12345

/* What 'B' is answered with, and the owner of its pieces. */
static char big[BIG];

struct server {
    evio_loop *loop;
    pthread_t thread;
    int listener;
    struct sockaddr_in address;
    evio_wake *wake; /* of the newest connection; one reference */
    atomic_bool stop;
    atomic_int naccepted, nclosed, nwoken, nticks, last_end;
    atomic_size_t nbytes;
};

static int accepted(void *data, evio_conn *conn, const evio_peer *peer)
{
    struct server *server = data;
    char text[EVIO_PEER_TEXT];
    evio_peer_text(peer, text);
    CHECK(strncmp(text, "127.0.0.1:", 10) == 0);
    CHECK(evio_conn_id(conn) == (uint64_t)atomic_load(&server->naccepted) + 1);
    if (server->wake != NULL)
        evio_wake_release(server->wake);
    server->wake = evio_conn_wake(conn);
    CHECK(server->wake != NULL);
    atomic_fetch_add(&server->naccepted, 1);
    return EVIO_KEEP;
}

/* Echoes; 'B' answers with the big reply, 'C' as well and closes, 'L' says last and wakes, 'F' fails, 'S' swallows. */
static int on_data(void *data, evio_conn *conn, const char *bytes, size_t nbytes, void *owner)
{
    struct server *server = data;
    evio_piece piece = {bytes, nbytes, NULL};
    int verdict = EVIO_KEEP;
    atomic_fetch_add(&server->nbytes, nbytes);
    if (bytes[0] == 'B' || bytes[0] == 'C') {
        evio_piece halves[] = {{big, BIG / 2, big}, {big + BIG / 2, BIG / 2, big}};
        evio_conn_send(conn, halves, 2);
        verdict = bytes[0] == 'C' ? EVIO_CLOSE : EVIO_KEEP;
    } else if (bytes[0] == 'L') {
        evio_piece early = {"early ", 6, NULL};
        CHECK(evio_wake_send(server->wake, &early) == 1);
        evio_conn_last(conn);
        CHECK(evio_wake_send(server->wake, &early) == 0);
        CHECK(evio_wake_call(server->wake) == 0);
        evio_conn_send(conn, &piece, 1);
        verdict = EVIO_CLOSE;
    } else if (bytes[0] == 'F')
        verdict = EVIO_FAIL;
    else if (bytes[0] != 'S')
        evio_conn_send(conn, &piece, 1);
    free(owner);
    return verdict;
}

static int woken(void *data, evio_conn *conn)
{
    struct server *server = data;
    evio_piece piece = {"woken", 5, NULL};
    atomic_fetch_add(&server->nwoken, 1);
    evio_conn_send(conn, &piece, 1);
    return EVIO_KEEP;
}

static int closed(void *data, evio_conn *conn, int end)
{
    struct server *server = data;
    (void)conn;
    atomic_store(&server->last_end, end);
    atomic_fetch_add(&server->nclosed, 1);
    return EVIO_KEEP;
}

static int tick(void *data)
{
    struct server *server = data;
    atomic_fetch_add(&server->nticks, 1);
    return atomic_load(&server->stop) ? EVIO_CLOSE : EVIO_KEEP;
}

static int keep(void *data)
{
    (void)data;
    return EVIO_KEEP;
}

static void nothing(void *data)
{
    (void)data;
}

static int accept_paused(void *data, int error)
{
    (void)data;
    CHECK(error < 0);
    return EVIO_KEEP;
}

static void *new_buffer(void *data, size_t nbytes, char **bytes)
{
    (void)data;
    return *bytes = malloc(nbytes);
}

/* How often the big reply is retained. Other owners are buffers to receive into. */
static atomic_int nretained;

static void retain(void *owner)
{
    (void)owner;
    atomic_fetch_add(&nretained, 1);
}

static void release(void *owner)
{
    if (owner == big)
        atomic_fetch_sub(&nretained, 1);
    else
        free(owner);
}

static const evio_hooks hooks = {
    .accepted = accepted,
    .data = on_data,
    .woken = woken,
    .closed = closed,
    .tick = tick,
    .interrupted = keep,
    .breathe = keep,
    .sleep = nothing,
    .awake = nothing,
    .accept_paused = accept_paused,
    .buffer = new_buffer,
    .retain = retain,
    .release = release,
};

static void *serve(void *data)
{
    struct server *server = data;
    CHECK(evio_loop_run(server->loop) == 0);
    return NULL;
}

static evio_options defaults(void)
{
    return (evio_options){.interrupts = -1,
                          .ticks = true,
                          .exclusive = true,
                          .nodelay = true,
                          .linger_ns = INT64_C(2000000000),
                          .max_pending = (size_t)64 * 1024 * 1024};
}

static void start(struct server *server, evio_options options)
{
    socklen_t size = sizeof server->address;
    memset(server, 0, sizeof *server);
    atomic_store(&server->last_end, NO_END);
    server->address.sin_family = AF_INET;
    server->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(bind(server->listener, (struct sockaddr *)&server->address, size) == 0);
    CHECK(listen(server->listener, 100) == 0);
    CHECK(getsockname(server->listener, (struct sockaddr *)&server->address, &size) == 0);
    options.listener = server->listener;
    CHECK(evio_loop_new(&server->loop, &options, &hooks, server) == 0);
    CHECK(pthread_create(&server->thread, NULL, serve, server) == 0);
}

static void finish(struct server *server)
{
    atomic_store(&server->stop, true);
    CHECK(pthread_join(server->thread, NULL) == 0);
    CHECK(atomic_load(&server->naccepted) == atomic_load(&server->nclosed));
    CHECK(atomic_load(&server->nticks) > 0);
    CHECK(atomic_load(&nretained) == 0);
    evio_loop_free(server->loop);
    if (server->wake != NULL) {
        evio_piece late = {"late", 4, NULL};
        CHECK(evio_wake_call(server->wake) == 0);
        CHECK(evio_wake_send(server->wake, &late) == 0);
        evio_wake_release(server->wake);
    }
    close(server->listener);
}

/* the clients */

static int connect_to(struct server *server)
{
    struct timeval deadline = {.tv_sec = 10};
    int before = atomic_load(&server->naccepted);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof deadline);
    CHECK(connect(fd, (struct sockaddr *)&server->address, sizeof server->address) == 0);
    while (atomic_load(&server->naccepted) == before)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return fd;
}

static bool wait_for(atomic_int *count, int value)
{
    for (int ms = 0; ms < 10000; ms++) {
        if (atomic_load(count) == value)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return false;
}

static void say(int fd, const char *text)
{
    CHECK(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

/* Reads exactly `nbytes`, or fewer at the end. */
static size_t hear(int fd, char *buffer, size_t nbytes)
{
    size_t got = 0;
    while (got < nbytes) {
        ssize_t n = recv(fd, buffer + got, nbytes - got, 0);
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    return got;
}

static bool hears(int fd, const char *text)
{
    char buffer[256];
    size_t nbytes = strlen(text);
    return hear(fd, buffer, nbytes) == nbytes && memcmp(buffer, text, nbytes) == 0;
}

static bool hears_end(int fd)
{
    char byte;
    return recv(fd, &byte, 1, 0) == 0;
}

static void reset(int fd)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
}

/* the tests */

static void test_queue(void)
{
    char owner[4096];
    char expected[3 * 100 + sizeof owner];
    memset(owner, 'o', sizeof owner);
    memset(expected, 'c', sizeof expected);
    memset(expected + 200, 'o', sizeof owner);
    for (size_t step = 1; step < sizeof expected; step += 37) {
        struct evio__queue queue = {0}, behind = {0};
        evio_piece small = {expected, 100, NULL}, large = {owner, sizeof owner, big};
        CHECK(evio__queue_append(&queue, &small, &hooks) == 0);
        CHECK(evio__queue_append(&queue, &small, &hooks) == 0);
        CHECK(evio__queue_append(&behind, &large, &hooks) == 0);
        CHECK(evio__queue_append(&behind, &small, &hooks) == 0);
        CHECK(atomic_load(&nretained) == 1);
        evio__queue_move(&queue, &behind);
        CHECK(behind.nbytes == 0 && queue.nbytes == sizeof expected);
        size_t at = 0;
        bool same = true;
        while (queue.nbytes > 0) {
            struct iovec parts[2];
            int count = evio__queue_peek(&queue, parts, 2, step);
            size_t nbytes = 0;
            for (int i = 0; i < count; i++) {
                same = same &&
                       memcmp(parts[i].iov_base, expected + at + nbytes, parts[i].iov_len) == 0;
                nbytes += parts[i].iov_len;
            }
            same = same && nbytes > 0 && nbytes <= step;
            evio__queue_advance(&queue, nbytes, &hooks);
            at += nbytes;
        }
        CHECK(same && at == sizeof expected && queue.head == NULL && queue.tail == NULL);
        CHECK(atomic_load(&nretained) == 0);
    }
}

static void test_echo_and_end(void)
{
    struct server server;
    start(&server, defaults());
    int fd = connect_to(&server);
    say(fd, "hello");
    CHECK(hears(fd, "hello"));
    say(fd, "last");
    shutdown(fd, SHUT_WR);
    CHECK(hears(fd, "last"));
    CHECK(hears_end(fd));
    CHECK(wait_for(&server.nclosed, 1));
    CHECK(atomic_load(&server.last_end) == 0);
    close(fd);
    finish(&server);
}

static void test_reset_and_failure(void)
{
    struct server server;
    start(&server, defaults());
    int fd = connect_to(&server);
    say(fd, "S");
    reset(fd);
    CHECK(wait_for(&server.nclosed, 1));
    CHECK(atomic_load(&server.last_end) == -ECONNRESET);
    fd = connect_to(&server);
    say(fd, "F");
    CHECK(wait_for(&server.nclosed, 2));
    CHECK(atomic_load(&server.last_end) == EVIO_END_FAILED);
    CHECK(hears_end(fd));
    close(fd);
    finish(&server);
}

static void test_large_replies(void)
{
    struct server server;
    char *got = malloc(BIG);
    start(&server, defaults());
    int fd = connect_to(&server);
    say(fd, "B");
    CHECK(hear(fd, got, BIG) == BIG && memcmp(got, big, BIG) == 0);
    memset(got, 0, BIG);
    say(fd, "C");
    say(fd, "unread by the server, which must not cost the reply");
    CHECK(hear(fd, got, BIG) == BIG && memcmp(got, big, BIG) == 0);
    CHECK(hears_end(fd));
    close(fd);
    CHECK(wait_for(&server.nclosed, 1));
    CHECK(atomic_load(&server.last_end) == 0);
    fd = connect_to(&server); /* reads grow, and what is sent in many pieces arrives whole */
    memset(got, 'S', BIG);
    CHECK(send(fd, got, BIG, MSG_NOSIGNAL) == (ssize_t)BIG);
    shutdown(fd, SHUT_WR);
    CHECK(hears_end(fd));
    CHECK(atomic_load(&server.nbytes) >= BIG);
    close(fd);
    free(got);
    finish(&server);
}

static void test_nothing_comes_behind_the_last_reply(void)
{
    struct server server;
    start(&server, defaults());
    int fd = connect_to(&server);
    say(fd, "Last");
    CHECK(hears(fd, "early Last"));
    CHECK(hears_end(fd));
    close(fd);
    CHECK(wait_for(&server.nclosed, 1));
    CHECK(atomic_load(&server.last_end) == 0);
    finish(&server);
}

static void test_linger(void)
{
    struct server server;
    evio_options options = defaults();
    options.linger_ns = INT64_C(200000000);
    start(&server, options);
    int fd = connect_to(&server);
    say(fd, "C"); /* and never reads */
    CHECK(wait_for(&server.nclosed, 1));
    CHECK(atomic_load(&server.last_end) == EVIO_END_LINGER);
    close(fd);
    finish(&server);
}

static void test_idle_timeout(void)
{
    struct server server;
    evio_options options = defaults();
    options.idle_ns = INT64_C(100000000);
    start(&server, options);
    int fd = connect_to(&server);
    CHECK(wait_for(&server.nclosed, 1));
    CHECK(atomic_load(&server.last_end) == EVIO_END_IDLE);
    CHECK(hears_end(fd));
    close(fd);
    finish(&server);
}

static void test_max_pending(void)
{
    struct server server;
    evio_options options = defaults();
    options.max_pending = 1000;
    start(&server, options);
    int fd = connect_to(&server);
    say(fd, "B"); /* one reply may be of any size */
    evio_piece piece = {"more", 4, NULL};
    int open = 1;
    for (int i = 0; i < 10000 && open == 1; i++) {
        open = evio_wake_send(server.wake, &piece);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    CHECK(open == 0);
    CHECK(wait_for(&server.nclosed, 1));
    CHECK(atomic_load(&server.last_end) == EVIO_END_OVERFLOW);
    close(fd);
    finish(&server);
}

enum { WAKERS = 4, WAKES = 20000, WIDTH = 8 };

struct waker {
    pthread_t thread;
    evio_wake *wake;
    int number;
};

static void *keep_waking(void *data)
{
    struct waker *waker = data;
    for (int i = 0; i < WAKES; i++) {
        char text[32];
        snprintf(text, sizeof text, "%d%07d", waker->number, i);
        evio_piece piece = {text, WIDTH, NULL};
        if (evio_wake_send(waker->wake, &piece) != 1)
            return data;
    }
    return NULL;
}

static void test_wakes(void)
{
    struct server server;
    struct waker wakers[WAKERS];
    start(&server, defaults());
    int fd = connect_to(&server);
    CHECK(evio_wake_call(server.wake) == 1);
    CHECK(hears(fd, "woken"));
    for (int i = 0; i < WAKERS; i++) {
        wakers[i].wake = server.wake;
        wakers[i].number = i;
        pthread_create(&wakers[i].thread, NULL, keep_waking, &wakers[i]);
    }
    int next[WAKERS] = {0};
    bool in_order = true;
    for (int i = 0; i < WAKERS * WAKES && in_order; i++) {
        char text[WIDTH + 1] = "";
        in_order = hear(fd, text, WIDTH) == WIDTH && text[0] >= '0' && text[0] < '0' + WAKERS;
        if (in_order)
            in_order = atoi(text + 1) == next[text[0] - '0']++;
    }
    CHECK(in_order);
    for (int i = 0; i < WAKERS; i++) {
        void *failed;
        pthread_join(wakers[i].thread, &failed);
        CHECK(failed == NULL);
    }
    close(fd);
    CHECK(wait_for(&server.nclosed, 1));
    CHECK(evio_wake_call(server.wake) == 0);
    finish(&server);
}

static void test_stop_flushes(void)
{
    struct server server;
    char *got = malloc(BIG);
    start(&server, defaults());
    int fd = connect_to(&server), idle = connect_to(&server);
    say(fd, "B");
    CHECK(hear(fd, got, 1) == 1);
    atomic_store(&server.stop, true);
    CHECK(hear(fd, got + 1, BIG - 1) == BIG - 1 && memcmp(got, big, BIG) == 0);
    CHECK(hears_end(fd) && hears_end(idle));
    close(fd);
    close(idle);
    free(got);
    finish(&server);
}

int main(void)
{
    for (size_t i = 0; i < BIG; i++)
        big[i] = (char)(i * 2654435761u >> 24);
    test_queue();
    test_echo_and_end();
    test_reset_and_failure();
    test_large_replies();
    test_nothing_comes_behind_the_last_reply();
    test_linger();
    test_idle_timeout();
    test_max_pending();
    test_wakes();
    test_stop_flushes();
    return checked();
}
