/* Clients in an open loop: requests go out at a fixed rate, whether or not replies have come, and a
 * latency counts from when the request was due. So a server that pauses is charged for every request that it
 * kept waiting, not for one.
 *
 *     open PORT CONNECTIONS RATE REQUEST REPLY_SIZE
 *
 * Prints "ready" when it is connected. For every line that is read, a number of seconds, it then runs for so
 * long and prints the percentiles 50, 99, 99.9 and the maximum, in microseconds. It never sleeps while it
 * runs: it needs a CPU to itself. */

#define _GNU_SOURCE

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 512
#define SILENCE_NS 20000000000

struct client {
    int fd;
    size_t nread; /* bytes of all replies of this run */
    unsigned long
        done; /* replies of this run: request number `done` of the client is every `nclients`th of all */
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int compare(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    struct sockaddr_in server = {.sin_family = AF_INET,
                                 .sin_port = htons((in_port_t)atoi(argv[1])),
                                 .sin_addr = {htonl(INADDR_LOOPBACK)}};
    unsigned long nclients = strtoul(argv[2], NULL, 10);
    double rate = strtod(argv[3], NULL);
    const char *request = argv[4];
    size_t request_size = strlen(request), reply_size = strtoul(argv[5], NULL, 10);
    int poller = epoll_create1(0), on = 1;
    struct client *clients = calloc(nclients, sizeof(*clients));
    if (poller < 0 || clients == NULL)
        die("start");
    for (unsigned long i = 0; i < nclients; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
        clients[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(clients[i].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (connect(clients[i].fd, (struct sockaddr *)&server, sizeof(server)) ||
            epoll_ctl(poller, EPOLL_CTL_ADD, clients[i].fd, &event))
            die("connect");
    }
    printf("ready\n");
    fflush(stdout);

    double seconds;
    while (scanf("%lf", &seconds) == 1) {
        unsigned long nrequests = (unsigned long)(seconds * rate), nsent = 0, nreplies = 0;
        int64_t *latencies = malloc((nrequests + 1) * sizeof(*latencies));
        struct epoll_event events[EVENTS];
        if (latencies == NULL)
            die("start");
        for (unsigned long i = 0; i < nclients; i++) {
            clients[i].nread = 0;
            clients[i].done = 0;
        }
        int64_t started = now_ns(), last = started;
        while (nreplies < nrequests) {
            int64_t now = now_ns();
            if (now - last > SILENCE_NS) {
                fprintf(stderr, "no reply for 20 seconds\n");
                return 1;
            }
            while (nsent < nrequests && (double)(now - started) * rate / 1e9 >= (double)nsent) {
                /* It blocks where the server does not read; the clock of the requests behind it runs on. */
                if (send(clients[nsent % nclients].fd, request, request_size, MSG_NOSIGNAL) < 0)
                    die("send");
                nsent++;
            }
            int nevents = epoll_wait(poller, events, EVENTS, 0);
            if (nevents > 0)
                last = now = now_ns();
            for (int i = 0; i < nevents; i++) {
                struct client *client = events[i].data.ptr;
                char buffer[65536];
                ssize_t nread = recv(client->fd, buffer, sizeof(buffer), 0);
                if (nread <= 0) {
                    fprintf(stderr, "the server closed a connection\n");
                    return 1;
                }
                client->nread += (size_t)nread;
                for (; client->done < client->nread / reply_size; client->done++) {
                    double due =
                        (double)((unsigned long)(client - clients) + client->done * nclients) *
                        1e9 / rate;
                    latencies[nreplies++] = now - started - (int64_t)due;
                }
            }
        }
        qsort(latencies, nrequests, sizeof(*latencies), compare);
        const double parts[] = {0.5, 0.99, 0.999, 1};
        for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
            unsigned long rank = (unsigned long)(parts[i] * (double)nrequests);
            printf("%.3f ", (double)latencies[rank < nrequests ? rank : nrequests - 1] / 1e3);
        }
        printf("\n");
        fflush(stdout);
        free(latencies);
    }
    return 0;
}
