/* The floor under every echo server: epoll, recv and send, and nothing else that could be left out.
 * The sockets block, so that a send takes everything and there is no queue to keep; a client that
 * stops reading would stop the server, which the clients of the benchmarks do not do.
 *
 *     echo PORT BUFFER_SIZE */

#include "floor.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 512

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t size = strtoul(argv[2], NULL, 10);
    char *buffer = malloc(size);
    int listener = listen_on(argv[1]), poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    if (buffer == NULL || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event))
        die("start");

    for (;;) {
        int nevents = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < nevents; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((event.data.fd = accept(listener, NULL, NULL)) >= 0)
                    epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd, &event);
                continue;
            }
            ssize_t nread = recv(fd, buffer, size, 0);
            if (nread <= 0 || send(fd, buffer, (size_t)nread, MSG_NOSIGNAL) != nread)
                close(fd);
        }
    }
}
