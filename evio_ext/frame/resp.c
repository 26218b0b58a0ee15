/* Redis requests. The parser goes from element to element: the count, then each bulk with its
 * header. What it has found of a request it never looks at again. */

#include "resp.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* redis' PROTO_INLINE_MAX_SIZE: bytes of a line that may come before its end does. */
#define LINE_MAX_BYTES 65536

/* redis' limit of a request's arguments. */
#define COUNT_MAX INT32_MAX

/* Numbers of up to this many digits cannot overflow, and are all that a client ever sends. */
#define EASY_DIGITS 9

/* A header with such a number: its mark, the digits, \r and one more byte. */
#define EASY_HEADER (1 + EASY_DIGITS + 2)

/* arguments */

void resp_resume(struct resp_parser *parser, struct resp_arg *args, size_t room)
{
    if (parser->args != NULL)
        return;
    parser->args = args;
    parser->room = room;
    parser->borrowed = true;
}

static int move_args(struct resp_parser *parser, size_t room)
{
    struct resp_arg *args = parser->borrowed ? NULL : parser->args;
    if (room > SIZE_MAX / sizeof *args || (args = realloc(args, room * sizeof *args)) == NULL)
        return FRAME_NO_MEMORY;
    if (parser->borrowed)
        memcpy(args, parser->args, parser->nargs * sizeof *args);
    parser->args = args;
    parser->room = room;
    parser->borrowed = false;
    return 0;
}

int resp_suspend(struct resp_parser *parser)
{
    if (parser->missing == 0)
        resp_clear(parser);
    else if (parser->borrowed)
        return move_args(parser, parser->nargs + 1);
    return 0;
}

void resp_clear(struct resp_parser *parser)
{
    if (!parser->borrowed)
        free(parser->args);
    parser->args = NULL;
    parser->nargs = parser->room = 0;
    parser->borrowed = false;
}

static int add_arg(struct resp_parser *parser, size_t at, size_t nbytes, bool quoted)
{
    if (parser->nargs == parser->room &&
        move_args(parser, parser->room + parser->room / 2 + 8) != 0)
        return FRAME_NO_MEMORY;
    parser->args[parser->nargs++] = (struct resp_arg){at, nbytes, quoted};
    return 0;
}

/* lines */

static ssize_t bad(struct resp_parser *parser, enum resp_fault fault)
{
    parser->fault = (uint8_t)fault;
    return FRAME_BAD;
}

static ssize_t partial(struct resp_parser *parser, size_t needed)
{
    parser->needed = needed;
    return FRAME_PARTIAL;
}

/* Finds the end of the unfinished element's line: a \r and one more byte, which redis does not look at, or in
 * an inline request a \n. Returns where that is, FRAME_PARTIAL or FRAME_BAD. */
static ssize_t line_end(struct resp_parser *parser, const char *data, size_t nbytes, char ending,
                        enum resp_fault too_long)
{
    size_t limit = parser->at + LINE_MAX_BYTES + 1;
    size_t start = parser->at + parser->searched, stop = nbytes < limit ? nbytes : limit;
    if (!parser->hidden && start < stop) {
        const char *found = memchr(data + start, ending, stop - start);
        size_t end = found != NULL ? (size_t)(found - data) : stop;
        /* redis searches with strchr, which sees nothing behind a NUL: such a line only ever gets too long. */
        parser->hidden = memchr(data + start, '\0', end - start) != NULL;
        if (found != NULL && !parser->hidden) {
            size_t after = end + (ending == '\n' ? 1 : 2);
            parser->searched = end - parser->at;
            return after <= nbytes ? (ssize_t)end : partial(parser, after);
        }
    }
    if (nbytes >= limit)
        return bad(parser, too_long);
    parser->searched = stop - parser->at;
    return partial(parser, parser->hidden ? limit : 0);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Reads a number that is spelt as redis spells it: no plus, no space, no leading zero, 64 bits. */
static bool read_number(const char *text, size_t nbytes, int64_t *number)
{
    bool negative = nbytes > 0 && text[0] == '-';
    size_t i = negative;
    if (i == nbytes || !is_digit(text[i]) || (text[i] == '0' && nbytes > 1))
        return false;
    uint64_t value = 0, most = (uint64_t)INT64_MAX + negative;
    for (; i < nbytes; i++) {
        unsigned digit = (unsigned)(text[i] - '0');
        if (!is_digit(text[i]) || value > (most - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *number = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

/* Reads the header at `at` if it is an easy one, as nearly all are: a few digits that do not begin with a 0, whole,
 * and not at the very end of the data. Returns where it ends, or 0. */
static inline size_t easy_header(const char *data, size_t nbytes, size_t at, char mark,
                                 size_t *number)
{
    if (nbytes - at < EASY_HEADER || data[at] != mark || data[at + 1] < '1' || data[at + 1] > '9')
        return 0;
    size_t i = at + 2, value = (size_t)(data[at + 1] - '0');
    for (; is_digit(data[i]) && i <= at + EASY_DIGITS; i++)
        value = value * 10 + (size_t)(data[i] - '0');
    *number = value;
    return data[i] == '\r' ? i + 2 : 0;
}

/* Reads any header that the unfinished element may begin with. Returns where it ends, FRAME_PARTIAL or FRAME_BAD. */
static ssize_t header(struct resp_parser *parser, const char *data, size_t nbytes, char mark,
                      int64_t *number)
{
    size_t i = parser->at;
    ssize_t end =
        line_end(parser, data, nbytes, '\r', mark == '*' ? RESP_LONG_COUNT : RESP_LONG_SIZE);
    if (end < 0)
        return end;
    if (data[i] != mark) { /* of a bulk; behind it is only read what begins with the mark */
        parser->got = data[i];
        return bad(parser, RESP_NO_BULK);
    }
    if (!read_number(data + i + 1, (size_t)end - i - 1, number))
        return bad(parser, mark == '*' ? RESP_BAD_COUNT : RESP_BAD_SIZE);
    return end + 2;
}

/* Goes on to the next element, at `at`. */
static void next_element(struct resp_parser *parser, size_t at)
{
    parser->at = at;
    parser->searched = parser->needed = 0;
    parser->hidden = false;
}

/* The request ends. Returns its length. */
static ssize_t complete(struct resp_parser *parser, size_t nbytes)
{
    next_element(parser, 0);
    return (ssize_t)nbytes;
}

/* inline requests */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Returns where the quoted string that begins at `i` ends, behind its quote, or 0 if it does not. */
static size_t skip_quoted(const char *data, size_t i, size_t end)
{
    char quote = data[i++];
    for (; i < end && data[i] != quote; i++)
        if (data[i] == '\\' && i + 1 < end && (quote == '"' || data[i + 1] == quote))
            i++;
    return i < end ? i + 1 : 0;
}

/* Finds the arguments as redis' sdssplitargs does: quotes may open in the middle of one, but their
 * closing ends it; \v and \f separate arguments, yet do not end an unquoted one. */
static int split(struct resp_parser *parser, const char *data, size_t end)
{
    if (end > 0 && data[end - 1] == '\r')
        end--;
    size_t i = 0;
    for (;;) {
        while (i < end && is_space(data[i]))
            i++;
        if (i == end)
            return 0;
        size_t start = i;
        while (i < end && strchr(" \t\r\n\"'", data[i]) == NULL)
            i++;
        bool quoted = i < end && (data[i] == '"' || data[i] == '\'');
        if (quoted) {
            i = skip_quoted(data, i, end);
            if (i == 0 || (i < end && !is_space(data[i])))
                return (int)bad(parser, RESP_UNBALANCED);
        }
        if (add_arg(parser, start, i - start, quoted) != 0)
            return FRAME_NO_MEMORY;
    }
}

static ssize_t inline_request(struct resp_parser *parser, const char *data, size_t nbytes)
{
    ssize_t end = line_end(parser, data, nbytes, '\n', RESP_LONG_INLINE);
    if (end < 0)
        return end;
    int error = split(parser, data, (size_t)end);
    return error != 0 ? error : complete(parser, (size_t)end + 1);
}

static int hex(char c)
{
    if (is_digit(c))
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Writes the byte that is escaped behind a backslash at `raw`. Returns how many bytes that took. */
static size_t unescape(const char *raw, size_t nbytes, char *byte)
{
    static const char names[] = "nrtba", bytes[] = "\n\r\t\b\a";
    if (nbytes >= 3 && raw[0] == 'x' && hex(raw[1]) >= 0 && hex(raw[2]) >= 0) {
        *byte = (char)(hex(raw[1]) << 4 | hex(raw[2]));
        return 3;
    }
    const char *name = memchr(names, raw[0], sizeof names - 1);
    *byte = name != NULL ? bytes[name - names] : raw[0];
    return 1;
}

size_t resp_unquote(const char *raw, size_t nbytes, char *argument)
{
    char *out = argument, quote = '\0';
    for (size_t i = 0; i < nbytes; i++) {
        char c = raw[i];
        if (quote == '\0' && (c == '"' || c == '\''))
            quote = c;
        else if (c == quote && quote != '\0')
            break;
        else if (quote == '"' && c == '\\')
            i += unescape(raw + i + 1, nbytes - i - 1, out++);
        else if (quote == '\'' && c == '\\' && raw[i + 1] == '\'')
            *out++ = raw[++i];
        else
            *out++ = c;
    }
    return (size_t)(out - argument);
}

/* requests */

/* Reads the count. Returns where it ends, or FRAME_PARTIAL or FRAME_BAD; `missing` stays 0 where there are no arguments. */
static ssize_t read_count(struct resp_parser *parser, const char *data, size_t nbytes)
{
    size_t count = 0, end = easy_header(data, nbytes, 0, '*', &count);
    if (end != 0) {
        parser->missing = count;
        return (ssize_t)end;
    }
    int64_t number;
    ssize_t after = header(parser, data, nbytes, '*', &number);
    if (after < 0)
        return after;
    if (number > COUNT_MAX)
        return bad(parser, RESP_BAD_COUNT);
    parser->missing = number > 0 ? (size_t)number : 0;
    next_element(parser, (size_t)after);
    return after;
}

/* Reads the header of the bulk at `at`, as read_count does. */
static ssize_t read_size(struct resp_parser *parser, const char *data, size_t nbytes, size_t *size)
{
    int64_t number;
    ssize_t after = header(parser, data, nbytes, '$', &number);
    if (after < 0)
        return after;
    if (number < 0)
        return bad(parser, RESP_BAD_SIZE);
    *size = (size_t)number;
    return after;
}

ssize_t resp_next(struct resp_parser *parser, const char *data, size_t nbytes)
{
    if (nbytes < parser->needed || nbytes == 0)
        return FRAME_PARTIAL;
    size_t at = parser->at;
    if (parser->missing == 0) {
        parser->nargs = 0;
        if (data[0] != '*')
            return inline_request(parser, data, nbytes);
        ssize_t end = read_count(parser, data, nbytes);
        if (end < 0)
            return end;
        at = (size_t)end;
    }
    for (; parser->missing > 0; parser->missing--) {
        size_t size, start = at < nbytes ? easy_header(data, nbytes, at, '$', &size) : 0;
        if (start == 0) {
            if (parser->at != at)
                next_element(parser, at);
            if (at >= nbytes)
                return partial(parser, at + 1);
            ssize_t after = read_size(parser, data, nbytes, &size);
            if (after < 0)
                return after;
            start = (size_t)after;
        }
        if (size > parser->max_size)
            return bad(parser, RESP_BAD_SIZE);
        if (nbytes < start || nbytes - start < 2 || nbytes - start - 2 < size) {
            if (parser->at != at)
                next_element(parser, at);
            return partial(parser, size < SIZE_MAX - 2 - start ? start + size + 2 : SIZE_MAX);
        }
        if (add_arg(parser, start, size, false) != 0)
            return FRAME_NO_MEMORY;
        at = start + size + 2;
    }
    return complete(parser, at);
}

size_t resp_reason(const struct resp_parser *parser, char reason[RESP_REASON_MAX])
{
    static const char *const texts[] = {
        [RESP_BAD_COUNT] = "invalid multibulk length",
        [RESP_BAD_SIZE] = "invalid bulk length",
        [RESP_LONG_COUNT] = "too big mbulk count string",
        [RESP_LONG_SIZE] = "too big bulk count string",
        [RESP_LONG_INLINE] = "too big inline request",
        [RESP_UNBALANCED] = "unbalanced quotes in request",
    };
    int length = parser->fault == RESP_NO_BULK
                     ? snprintf(reason, RESP_REASON_MAX, "expected '$', got '%c'", parser->got)
                     : snprintf(reason, RESP_REASON_MAX, "%s", texts[parser->fault]);
    assert(length > 0 && length < RESP_REASON_MAX);
    return (size_t)length;
}
