/* Output queues. A queue is a list of chunks; a chunk either holds a copy, with room for more, or
 * points into something retained. It knows no sockets and takes no locks. */

#include "buf.h"
#include "sys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Below this a copy is cheaper than a chunk of its own, which costs some 60 bytes and a malloc. */
#define RETAIN_MIN 1024

/* Room in a chunk of copies: with its header about 1 KiB, so that small pieces share chunks. */
#define COPY_ROOM 976

struct evio__chunk {
    struct evio__chunk *next;
    const char *data; /* the first byte that is not sent */
    size_t nbytes;
    void *owner; /* retained, or NULL: the bytes are in `copy` */
    size_t room; /* unused bytes at the end of `copy` */
    char copy[];
};

static struct evio__chunk *add_chunk(struct evio__queue *queue, size_t room)
{
    struct evio__chunk *chunk = EVIO_SYS(malloc)(sizeof *chunk + room);
    if (chunk == NULL)
        return NULL;
    chunk->next = NULL;
    chunk->data = chunk->copy;
    chunk->nbytes = 0;
    chunk->owner = NULL;
    chunk->room = room;
    if (queue->tail != NULL)
        queue->tail->next = chunk;
    else
        queue->head = chunk;
    queue->tail = chunk;
    return chunk;
}

int evio__queue_append(struct evio__queue *queue, const evio_piece *piece, const evio_hooks *hooks)
{
    struct evio__chunk *chunk = queue->tail;
    if (piece->owner != NULL && piece->nbytes >= RETAIN_MIN) {
        chunk = add_chunk(queue, 0);
        if (chunk == NULL)
            return -ENOMEM;
        hooks->retain(piece->owner);
        chunk->owner = piece->owner;
        chunk->data = piece->data;
    } else {
        if (chunk == NULL || chunk->room < piece->nbytes) {
            if (piece->nbytes > SIZE_MAX - sizeof *chunk)
                return -ENOMEM;
            chunk = add_chunk(queue, piece->nbytes > COPY_ROOM ? piece->nbytes : COPY_ROOM);
            if (chunk == NULL)
                return -ENOMEM;
        }
        memcpy((char *)chunk->data + chunk->nbytes, piece->data, piece->nbytes);
        chunk->room -= piece->nbytes;
    }
    chunk->nbytes += piece->nbytes;
    queue->nbytes += piece->nbytes;
    return 0;
}

void evio__queue_move(struct evio__queue *queue, struct evio__queue *from)
{
    if (from->head == NULL)
        return;
    if (queue->tail != NULL)
        queue->tail->next = from->head;
    else
        queue->head = from->head;
    queue->tail = from->tail;
    queue->nbytes += from->nbytes;
    *from = (struct evio__queue){0};
}

int evio__queue_peek(const struct evio__queue *queue, struct iovec *parts, int most, size_t limit)
{
    int count = 0;
    for (struct evio__chunk *chunk = queue->head; chunk != NULL && count < most && limit > 0;
         chunk = chunk->next) {
        size_t nbytes = chunk->nbytes < limit ? chunk->nbytes : limit;
        parts[count].iov_base = (char *)chunk->data;
        parts[count].iov_len = nbytes;
        limit -= nbytes;
        count++;
    }
    return count;
}

/* Unlinks before it releases: what an owner does when it goes may be anything. */
static void drop_head(struct evio__queue *queue, const evio_hooks *hooks)
{
    struct evio__chunk *chunk = queue->head;
    queue->head = chunk->next;
    if (queue->head == NULL)
        queue->tail = NULL;
    queue->nbytes -= chunk->nbytes;
    if (chunk->owner != NULL)
        hooks->release(chunk->owner);
    EVIO_SYS(free)(chunk);
}

void evio__queue_advance(struct evio__queue *queue, size_t nbytes, const evio_hooks *hooks)
{
    while (nbytes > 0) {
        struct evio__chunk *chunk = queue->head;
        if (nbytes < chunk->nbytes) {
            chunk->data += nbytes;
            chunk->nbytes -= nbytes;
            queue->nbytes -= nbytes;
            return;
        }
        nbytes -= chunk->nbytes;
        drop_head(queue, hooks);
    }
}

void evio__queue_clear(struct evio__queue *queue, const evio_hooks *hooks)
{
    while (queue->head != NULL)
        drop_head(queue, hooks);
}
