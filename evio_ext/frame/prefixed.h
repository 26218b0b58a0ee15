/* Prefixed: messages behind their length. */

#ifndef FRAME_PREFIXED_H
#define FRAME_PREFIXED_H

#include "frame.h"

struct prefixed {
    unsigned width;  /* of the length: 1, 2, 4 or 8 bytes */
    bool little;     /* its least significant byte comes first */
    size_t max_size; /* the longest message in bytes, without its length */
};

/* Reads the message that `data` begins with. Returns how many bytes it takes with its length, which
 * it stores; FRAME_PARTIAL; or FRAME_BAD where `length` is over the limit. The message itself is at
 * data + width. */
ssize_t prefixed_next(const struct prefixed *prefixed, const char *data, size_t nbytes,
                      uint64_t *length);

#endif
