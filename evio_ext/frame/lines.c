/* Lines: messages that end with a separator. */

#include "lines.h"

#include <string.h>

/* Where the separator is, from `start` on, or NULL. */
static const char *find(const struct lines *lines, const char *start, const char *end)
{
    size_t rest = lines->nseparator - 1;
    while ((size_t)(end - start) > rest) {
        const char *found = memchr(start, lines->separator[0], (size_t)(end - start) - rest);
        if (found == NULL || rest == 0 || memcmp(found + 1, lines->separator + 1, rest) == 0)
            return found;
        start = found + 1;
    }
    return NULL;
}

ssize_t lines_next(struct lines *lines, const char *data, size_t nbytes, size_t *length)
{
    bool newline = lines->nseparator == 1 && lines->separator[0] == '\n';
    const char *found = find(lines, data + lines->searched, data + nbytes);
    if (found == NULL) {
        size_t longest_end = lines->nseparator + (newline ? 1 : 0);
        if (nbytes >= longest_end && nbytes - longest_end >= lines->max_size)
            return FRAME_BAD; /* no separator can come early enough any more */
        if (nbytes >= lines->nseparator)
            lines->searched = nbytes - (lines->nseparator - 1);
        return FRAME_PARTIAL;
    }
    lines->searched = 0;
    *length = (size_t)(found - data);
    size_t used = *length + lines->nseparator;
    if (newline && *length > 0 && found[-1] == '\r')
        (*length)--;
    return *length <= lines->max_size ? (ssize_t)used : FRAME_BAD;
}
