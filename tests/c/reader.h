/* Reads a stream as the binding does, in pieces, and writes down what it finds: for the tests of the framings
 * and for the fuzzer. Each piece lies in memory of its exact size, so that a sanitizer sees a byte too many. */

#ifndef READER_H
#define READER_H

#include "../../evio_ext/frame/frame.h"
#include "../../evio_ext/frame/lines.h"
#include "../../evio_ext/frame/prefixed.h"
#include "../../evio_ext/frame/resp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { LINES, PREFIXED, RESP };

struct reader {
    enum kind kind;
    struct lines lines;
    struct prefixed prefixed;
    struct resp_parser resp;
    size_t room; /* for how many arguments the parser is lent an array */
    struct frame_hold hold;
    bool failed;
    struct frame_hold
        found; /* what was found: for each message or argument a length and the bytes */
};

static void *not_null(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

static void note(struct reader *reader, const char *data, size_t nbytes)
{
    if (frame_hold_append(&reader->found, (const char *)&nbytes, sizeof nbytes) != 0 ||
        frame_hold_append(&reader->found, data, nbytes) != 0)
        abort();
}

static void note_request(struct reader *reader, const char *data, size_t taken)
{
    const struct resp_parser *parser = &reader->resp;
    for (size_t i = 0; i < parser->nargs; i++) {
        const struct resp_arg *arg = &parser->args[i];
        if (arg->at > taken || arg->nbytes > taken - arg->at)
            abort();
        char *text = not_null(malloc(arg->nbytes + 1));
        size_t nbytes = arg->nbytes;
        if (arg->quoted)
            nbytes = resp_unquote(data + arg->at, arg->nbytes, text);
        else
            memcpy(text, data + arg->at, nbytes);
        if (nbytes > arg->nbytes)
            abort();
        note(reader, text, nbytes);
        free(text);
    }
    if (parser->nargs > 0)
        note(reader, "end of request", 14);
}

/* Reads one message. Returns as the parsers do. */
static ssize_t read_one(struct reader *reader, const char *data, size_t nbytes)
{
    size_t length = 0;
    uint64_t size = 0;
    ssize_t taken;
    switch (reader->kind) {
    case LINES:
        taken = lines_next(&reader->lines, data, nbytes, &length);
        if (taken >= 0)
            note(reader, data, length);
        break;
    case PREFIXED:
        taken = prefixed_next(&reader->prefixed, data, nbytes, &size);
        if (taken >= 0)
            note(reader, data + reader->prefixed.width, (size_t)size);
        break;
    default:
        taken = resp_next(&reader->resp, data, nbytes);
        if (taken >= 0)
            note_request(reader, data, (size_t)taken);
    }
    if (taken == 0 || taken > (ssize_t)nbytes || taken == FRAME_NO_MEMORY)
        abort();
    return taken;
}

static void fail(struct reader *reader)
{
    char reason[RESP_REASON_MAX] = "bad";
    if (reader->kind == RESP)
        resp_reason(&reader->resp, reason);
    note(reader, reason, strlen(reason));
    reader->failed = true;
    frame_hold_clear(&reader->hold);
    resp_clear(&reader->resp);
}

static void feed(struct reader *reader, const char *data, size_t nbytes)
{
    struct resp_arg lent[4];
    if (reader->failed || nbytes == 0)
        return;
    if (frame_hold_append(&reader->hold, data, nbytes) != 0)
        abort();
    size_t rest = reader->hold.nbytes, used = 0;
    char *exact = not_null(malloc(rest));
    memcpy(exact, reader->hold.data, rest);
    resp_resume(&reader->resp, lent, reader->room);
    ssize_t taken;
    while ((taken = read_one(reader, exact + used, rest - used)) > 0)
        used += (size_t)taken;
    if (taken == FRAME_BAD)
        fail(reader);
    else if (frame_hold_keep(&reader->hold, exact + used, rest - used) != 0 ||
             resp_suspend(&reader->resp) != 0)
        abort();
    free(exact);
}

static void reader_clear(struct reader *reader)
{
    frame_hold_clear(&reader->hold);
    frame_hold_clear(&reader->found);
    resp_clear(&reader->resp);
}

/* Reads a stream in pieces of the sizes that `next_size` gives. Returns the reader at its end. */
static struct reader read_stream(struct reader reader, const char *data, size_t nbytes,
                                 size_t (*next_size)(void *), void *state)
{
    for (size_t at = 0; at < nbytes;) {
        size_t size = next_size(state);
        size = size == 0 || size > nbytes - at ? nbytes - at : size;
        feed(&reader, data + at, size);
        at += size;
    }
    return reader;
}

/* Sizes: the one that `state` points to, each time. */
static size_t same_size(void *state)
{
    return *(size_t *)state;
}

/* Sizes from 1 to 16, or for the odd piece all the rest. */
static size_t random_size(void *state)
{
    uint32_t *seed = state;
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 28 == 15 ? 0 : (*seed >> 20 & 15) + 1;
}

static bool found_same(const struct reader *one, const struct reader *other)
{
    return one->failed == other->failed && one->found.nbytes == other->found.nbytes &&
           (one->found.nbytes == 0 ||
            memcmp(one->found.data, other->found.data, one->found.nbytes) == 0);
}

/* Whether a stream is the same in one piece, byte by byte, and in random pieces. */
static bool is_same_however_cut(const struct reader *fresh, const char *data, size_t nbytes,
                                uint32_t seed)
{
    size_t all = 0, one = 1;
    struct reader whole = read_stream(*fresh, data, nbytes, same_size, &all);
    struct reader bytes = read_stream(*fresh, data, nbytes, same_size, &one);
    struct reader pieces = read_stream(*fresh, data, nbytes, random_size, &seed);
    bool same = found_same(&whole, &bytes) && found_same(&whole, &pieces);
    reader_clear(&whole);
    reader_clear(&bytes);
    reader_clear(&pieces);
    return same;
}

#endif
