/* Time: nanoseconds of a clock that never jumps. */

#ifndef EVIO_CLOCK_H
#define EVIO_CLOCK_H

#include "config.h"
#include "sys.h"

#include <stdint.h>
#include <time.h>

#define EVIO__NS_PER_S INT64_C(1000000000)
#define EVIO__NS_PER_MS INT64_C(1000000)

static inline int64_t evio__now(void)
{
    struct timespec now;
    EVIO_SYS(clock_gettime)(CLOCK_MONOTONIC, &now); /* cannot fail with this clock */
    return (int64_t)now.tv_sec * EVIO__NS_PER_S + now.tv_nsec;
}

#endif
