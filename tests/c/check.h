/* Checks: each is counted, and one that fails is told and does not end the test. */

#ifndef CHECK_H
#define CHECK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

static atomic_int npassed, nfailed; /* servers in other threads check too */

#define CHECK(condition) check(condition, #condition, __func__, __LINE__)

static void check(bool holds, const char *what, const char *where, int line)
{
    if (holds) {
        npassed++;
        return;
    }
    nfailed++;
    printf("%s:%d: not so: %s\n", where, line, what);
}

/* Prints how many there were. Returns what main is to. */
static int checked(void)
{
    printf("%d passed, %d failed\n", npassed, nfailed);
    return nfailed != 0;
}

#endif
