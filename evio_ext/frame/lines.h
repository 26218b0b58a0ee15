/* Lines: messages that end with a separator. */

#ifndef FRAME_LINES_H
#define FRAME_LINES_H

#include "frame.h"

struct lines {
    const char *separator; /* the caller's, for as long as the parser is used */
    size_t nseparator;     /* at least 1 */
    size_t max_size;       /* the longest line in bytes, without its separator */
    size_t searched;       /* no separator begins in so many bytes of the partial line */
};

/* Finds the line that `data` begins with. Returns how many bytes it takes with its separator, and
 * stores its length without; FRAME_PARTIAL; or FRAME_BAD where it is too long. Where the separator
 * is "\n", a "\r" before it is no part of the line either. */
ssize_t lines_next(struct lines *lines, const char *data, size_t nbytes, size_t *length);

#endif
