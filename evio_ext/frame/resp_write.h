/* Redis replies: the lines that are made of a mark and a number, such as $16 and :-1. */

#ifndef FRAME_RESP_WRITE_H
#define FRAME_RESP_WRITE_H

#include <stddef.h>
#include <stdint.h>

/* The longest such line: the mark, INT64_MIN's 20 characters, \r\n. */
#define RESP_LINE_MAX 23

static inline unsigned resp_digits(uint64_t number)
{
    unsigned digits = 1;
    for (; number >= 10; number /= 10)
        digits++;
    return digits;
}

/* The length of a bulk string of so many bytes. */
static inline size_t resp_bulk_size(size_t nbytes)
{
    return 1 + resp_digits(nbytes) + 2 + nbytes + 2;
}

/* Writes a line. Returns where it ends. */
static inline char *resp_write_line(char *out, char mark, int64_t number)
{
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    *out++ = mark;
    if (number < 0)
        *out++ = '-';
    char *end = out + resp_digits(rest);
    for (out = end; rest >= 10; rest /= 10)
        *--out = (char)('0' + rest % 10);
    *--out = (char)('0' + rest);
    end[0] = '\r';
    end[1] = '\n';
    return end + 2;
}

#endif
