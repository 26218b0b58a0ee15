/* Clients in a closed loop: each sends its next request when its reply is there.
 *
 *     closed PORT CONNECTIONS ACTIVE EACH REQUEST COPIES REPLY_SIZE
 *
 * ACTIVE of the connections are used, evenly spread. After EACH requests a connection is closed and
 * another one opened; with 0 they stay. A message is COPIES of REQUEST, its answer REPLY_SIZE bytes.
 *
 * Opens the connections, has one message answered on each, prints "ready". For every line that is
 * read, a number of seconds, it then runs for so long, waits for the last replies and prints how many there
 * were, and in how many seconds. Ends with its input, or when nothing comes for SILENCE_MS. */

#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 512
#define SILENCE_MS 20000
#define OPENING 32 /* connections that are opened at once; a backlog of 100 is common */
#define PER_ADDRESS                                                                                \
    10000 /* connections from one address, which has 28,000 ports and keeps each for a minute */
#define ADDRESSES 200

struct client {
    int fd;
    int blocked; /* waits for room to send */
    size_t unsent, unread;
    unsigned long done; /* replies */
};

static struct sockaddr_in server = {.sin_family = AF_INET};
static int poller;
static char *message;
static size_t message_size, reply_size;
static char buffer[1 << 20];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void watch(struct client *client, int how, uint32_t what)
{
    struct epoll_event event = {.events = what, .data.ptr = client};
    if (epoll_ctl(poller, how, client->fd, &event))
        die("epoll_ctl");
}

/* Connects from one of several loopback addresses, so that ports never run out. */
static void open_client(struct client *client)
{
    static unsigned nopened;
    struct sockaddr_in from = {
        .sin_family = AF_INET,
        .sin_addr = {htonl(INADDR_LOOPBACK + nopened++ / PER_ADDRESS % ADDRESSES)}};
    int on = 1;
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (client->fd < 0)
        die("socket");
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    if (bind(client->fd, (struct sockaddr *)&from, sizeof(from)))
        die("bind");
    if (connect(client->fd, (struct sockaddr *)&server, sizeof(server)))
        die("connect");
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
    client->blocked = 0;
    client->done = 0;
    watch(client, EPOLL_CTL_ADD, EPOLLIN);
}

static void send_rest(struct client *client)
{
    ssize_t nsent =
        send(client->fd, message + (message_size - client->unsent), client->unsent, MSG_NOSIGNAL);
    if (nsent < 0 && errno != EAGAIN)
        die("send");
    if (nsent > 0)
        client->unsent -= (size_t)nsent;
    int blocked = client->unsent > 0;
    if (blocked != client->blocked)
        watch(client, EPOLL_CTL_MOD, blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
    client->blocked = blocked;
}

static void start(struct client *client)
{
    client->unsent = message_size;
    client->unread = reply_size;
    send_rest(client);
}

/* Returns whether the reply is complete now. */
static int receive(struct client *client)
{
    ssize_t nread = recv(client->fd, buffer, sizeof(buffer), 0);
    if (nread < 0 && errno == EAGAIN)
        return 0;
    if (nread <= 0 || (size_t)nread > client->unread) {
        fprintf(stderr, "%s\n",
                nread <= 0 ? "the server closed a connection" : "a reply is too long");
        exit(1);
    }
    client->unread -= (size_t)nread;
    return client->unread == 0;
}

/* Runs until `deadline`, then until the last of `nwaiting` replies is there; returns how many came. */
static unsigned long run(double deadline, unsigned nwaiting, unsigned long each)
{
    struct epoll_event events[EVENTS];
    unsigned long nreplies = 0;
    while (nwaiting > 0) {
        int nevents = epoll_wait(poller, events, EVENTS, SILENCE_MS);
        if (nevents <= 0) {
            fprintf(stderr, "no reply for %d seconds\n", SILENCE_MS / 1000);
            exit(1);
        }
        int ending = now() >= deadline;
        for (int i = 0; i < nevents; i++) {
            struct client *client = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                send_rest(client);
            if (!(events[i].events & ~(uint32_t)EPOLLOUT) || !receive(client))
                continue;
            nreplies++;
            if (each > 0 && ++client->done >= each) {
                close(client->fd);
                open_client(client);
            }
            if (ending)
                nwaiting--;
            else
                start(client);
        }
    }
    return nreplies;
}

int main(int argc, char **argv)
{
    if (argc != 8)
        return 2;
    server.sin_port = htons((in_port_t)atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    unsigned nclients = (unsigned)atoi(argv[2]), nactive = (unsigned)atoi(argv[3]);
    unsigned long each = strtoul(argv[4], NULL, 10);
    size_t size = strlen(argv[5]), copies = strtoul(argv[6], NULL, 10);
    reply_size = strtoul(argv[7], NULL, 10);
    message_size = size * copies;
    message = malloc(message_size);
    struct client *clients = calloc(nclients, sizeof(*clients));
    poller = epoll_create1(0);
    if (message == NULL || clients == NULL || poller < 0)
        die("start");
    for (size_t i = 0; i < copies; i++)
        memcpy(message + i * size, argv[5], size);

    for (unsigned i = 0; i < nclients; i += OPENING) {
        unsigned stop = i + OPENING < nclients ? i + OPENING : nclients;
        for (unsigned j = i; j < stop; j++) {
            open_client(&clients[j]);
            start(&clients[j]);
        }
        run(0, stop - i, 0);
    }
    printf("ready\n");
    fflush(stdout);

    double seconds;
    while (scanf("%lf", &seconds) == 1) {
        double started = now();
        for (unsigned i = 0; i < nactive; i++)
            start(&clients[(size_t)i * nclients / nactive]);
        unsigned long nreplies = run(started + seconds, nactive, each);
        printf("%lu %.9f\n", nreplies, now() - started);
        fflush(stdout);
    }
    return 0;
}
