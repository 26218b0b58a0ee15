/* Prefixed: messages behind their length. */

#include "prefixed.h"

ssize_t prefixed_next(const struct prefixed *prefixed, const char *data, size_t nbytes,
                      uint64_t *length)
{
    unsigned width = prefixed->width;
    if (nbytes < width)
        return FRAME_PARTIAL;
    *length = 0;
    for (unsigned i = 0; i < width; i++)
        *length = *length << 8 | (unsigned char)data[prefixed->little ? width - 1 - i : i];
    if (*length > prefixed->max_size)
        return FRAME_BAD;
    return *length <= nbytes - width ? (ssize_t)(width + *length) : FRAME_PARTIAL;
}
