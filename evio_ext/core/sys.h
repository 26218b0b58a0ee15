/* The seam between the core and the system: every system call of the core, and every use of the heap, is
 * written EVIO_SYS(recv)(...), and is that call itself. With EVIO_SYS_REPLACED it is evio__sys_recv(...),
 * which whoever builds the core so has to define: tests/c/kernel.h simulates a kernel whose calls fail. */

#ifndef EVIO_SYS_H
#define EVIO_SYS_H

#include "config.h"

#ifndef EVIO_SYS_REPLACED

#define EVIO_SYS(call) call

#else

#define EVIO_SYS(call) evio__sys_##call

#include <net/if.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* What is called on Linux; the other systems' calls are not replaced. */
__typeof__(accept4) evio__sys_accept4;
__typeof__(calloc) evio__sys_calloc;
__typeof__(clock_gettime) evio__sys_clock_gettime;
__typeof__(close) evio__sys_close;
__typeof__(epoll_create1) evio__sys_epoll_create1;
__typeof__(epoll_ctl) evio__sys_epoll_ctl;
__typeof__(epoll_wait) evio__sys_epoll_wait;
__typeof__(eventfd) evio__sys_eventfd;
__typeof__(free) evio__sys_free;
__typeof__(if_indextoname) evio__sys_if_indextoname;
__typeof__(ioctl) evio__sys_ioctl;
__typeof__(malloc) evio__sys_malloc;
__typeof__(read) evio__sys_read;
__typeof__(realloc) evio__sys_realloc;
__typeof__(recv) evio__sys_recv;
__typeof__(send) evio__sys_send;
__typeof__(sendmsg) evio__sys_sendmsg;
__typeof__(setsockopt) evio__sys_setsockopt;
__typeof__(shutdown) evio__sys_shutdown;
__typeof__(write) evio__sys_write;

#endif

#endif
