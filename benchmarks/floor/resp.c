/* The floor under every Redis server: finds where the requests end and sends ready-made replies.
 * It knows a command by its first letter and stores nothing.
 *
 *     resp PORT */

#include "floor.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 512
#define CLIENTS 1024 /* descriptors are below this */
#define SIZE 65536   /* a client's buffer; a longer request closes its connection */

struct client {
    size_t held; /* bytes of an unfinished request, at the start of the buffer */
    char buffer[SIZE];
};

static struct client clients[CLIENTS];

/* A request is at least 2 bytes long, a reply at most LONGEST. */
#define LONGEST 32
static char replies[SIZE / 2 * LONGEST];

/* Appends the reply to the command that starts at `name`; returns where the next one goes. */
static char *reply(char *to, const char *name)
{
    const char *text;
    switch (*name | 0x20) {
    case 'p':
        text = "+PONG\r\n";
        break;
    case 's':
        text = "+OK\r\n";
        break;
    case 'g':
        text = "$3\r\nxxx\r\n";
        break;
    default:
        text = "-ERR unknown command\r\n";
    }
    return stpcpy(to, text);
}

/* Reads the number of a header, `*3\r\n` or `$5\r\n`; returns what is behind it, NULL if the end has not come. */
static const char *header(const char *at, const char *end, size_t *number)
{
    *number = 0;
    for (at++; at < end && *at != '\r'; at++)
        *number = *number * 10 + (size_t)(*at - '0');
    return end - at < 2 ? NULL : at + 2;
}

/* Returns what is behind the request at `at`, NULL if its end has not come. */
static const char *request(const char *at, const char *end, const char **name)
{
    if (*at != '*') {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        *name = at;
        return newline == NULL ? NULL : newline + 1;
    }
    size_t count, size;
    at = header(at, end, &count);
    *name = NULL;
    while (at != NULL && count-- > 0) {
        if (at == end || (at = header(at, end, &size)) == NULL)
            return NULL;
        if (*name == NULL)
            *name = at;
        if (size > SIZE || (size_t)(end - at) < size + 2)
            return NULL;
        at += size + 2;
    }
    return at;
}

/* Answers what has come; returns 0, or -1 when the connection is to be closed. */
static int serve(int fd, struct client *client)
{
    ssize_t nread = recv(fd, client->buffer + client->held, SIZE - client->held, 0);
    if (nread <= 0)
        return -1;
    const char *at = client->buffer, *end = at + client->held + (size_t)nread, *behind, *name;
    char *to = replies;
    while (at < end && (behind = request(at, end, &name)) != NULL) {
        if (name != NULL)
            to = reply(to, name);
        at = behind;
    }
    client->held = (size_t)(end - at);
    memmove(client->buffer, at, client->held);
    return to > replies && send(fd, replies, (size_t)(to - replies), MSG_NOSIGNAL) < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    int listener = listen_on(argv[1]), poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event))
        die("start");

    for (;;) {
        int nevents = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < nevents; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (serve(fd, &clients[fd]))
                    close(fd);
                continue;
            }
            while ((fd = accept(listener, NULL, NULL)) >= 0) {
                if (fd >= CLIENTS) {
                    close(fd);
                    continue;
                }
                clients[fd].held = 0;
                event.data.fd = fd;
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}
