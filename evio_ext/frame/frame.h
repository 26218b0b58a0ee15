/* Framing: messages out of a stream's pieces. Pure C11; knows neither Python nor the loop.
 *
 * A parser is given the bytes from the start of a message on and answers how many of them the message
 * takes, or one of the codes below. It remembers how far it has looked: after FRAME_PARTIAL it
 * is called again with the same bytes and more behind them, wherever these may lie by then. */

#ifndef FRAME_FRAME_H
#define FRAME_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    FRAME_BAD = -1,       /* this is no message; the parser is of no more use */
    FRAME_PARTIAL = -2,   /* the message does not end here */
    FRAME_NO_MEMORY = -3, /* likewise of no more use */
};

/* The bytes of a partial message, all that is kept between two pieces. It grows with the bytes
 * received, never by what a header says, and owns nothing while it is empty. */
struct frame_hold {
    char *data;
    size_t nbytes;
    size_t room;
};

/* Appends. Returns 0 or FRAME_NO_MEMORY. */
int frame_hold_append(struct frame_hold *hold, const char *data, size_t nbytes);

/* Keeps `rest` and nothing else; it may lie inside the hold. Returns 0 or FRAME_NO_MEMORY. */
int frame_hold_keep(struct frame_hold *hold, const char *rest, size_t nbytes);

void frame_hold_clear(struct frame_hold *hold);

#endif
