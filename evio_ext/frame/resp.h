/* Redis requests: arrays of bulk strings, and inline ones. What they take and refuse is what
 * redis-server 7.0 takes and refuses. */

#ifndef FRAME_RESP_H
#define FRAME_RESP_H

#include "frame.h"

/* An argument: bytes of the request, counted from its start. */
struct resp_arg {
    size_t at;
    size_t nbytes;
    bool quoted; /* in an inline request: resp_unquote makes the argument of these bytes */
};

enum resp_fault {
    RESP_BAD_COUNT,
    RESP_BAD_SIZE,
    RESP_NO_BULK,
    RESP_LONG_COUNT,
    RESP_LONG_SIZE,
    RESP_LONG_INLINE,
    RESP_UNBALANCED,
};

struct resp_parser {
    size_t max_size; /* the longest argument in bytes */

    /* The arguments of the last request. Few fit what resp_resume was given; more are the parser's own. */
    struct resp_arg *args;
    size_t nargs;
    size_t room;
    bool borrowed;

    /* Where it is in the request that it is reading. */
    bool hidden;     /* a NUL has come in the line: redis does not see its end */
    uint8_t fault;   /* a resp_fault, behind FRAME_BAD */
    char got;        /* for RESP_NO_BULK */
    size_t missing;  /* arguments, behind the count */
    size_t at;       /* the start of the unfinished element, a line or a bulk with its header */
    size_t searched; /* bytes of its line that have been looked at */
    size_t needed;   /* there is nothing to do with fewer bytes of the request than this */
};

/* Lends the parser an array for arguments, until resp_suspend. Between the two, it allocates
 * only for a request of more arguments. */
void resp_resume(struct resp_parser *parser, struct resp_arg *args, size_t room);

/* Reads the request that `data` begins with. Returns how many bytes it takes; FRAME_PARTIAL;
 * FRAME_BAD; or FRAME_NO_MEMORY. A request may have no arguments: then there is nothing to answer. */
ssize_t resp_next(struct resp_parser *parser, const char *data, size_t nbytes);

/* Gives the lent array back; what it holds of a partial request is copied. Returns 0 or FRAME_NO_MEMORY. */
int resp_suspend(struct resp_parser *parser);

void resp_clear(struct resp_parser *parser);

/* Writes the argument that stands quoted in `raw`; it is no longer than that. Returns its length. */
size_t resp_unquote(const char *raw, size_t nbytes, char *argument);

/* Behind FRAME_BAD: writes what redis-server says, NUL-terminated. Returns its length. */
#define RESP_REASON_MAX 64
size_t resp_reason(const struct resp_parser *parser, char reason[RESP_REASON_MAX]);

#endif
