/* Output queues: bytes that wait to be sent, in order. */

#ifndef EVIO_BUF_H
#define EVIO_BUF_H

#include "config.h"
#include "evio.h"

#include <sys/uio.h>

struct evio__chunk;

struct evio__queue {
    struct evio__chunk *head;
    struct evio__chunk *tail;
    size_t nbytes;
};

/* Adds a piece at the end: small ones are copied, large ones with an owner retained. Returns 0 or
 * -ENOMEM, with nothing added. */
int evio__queue_append(struct evio__queue *queue, const evio_piece *piece, const evio_hooks *hooks);

/* Moves all of `from` behind the end of `queue`. */
void evio__queue_move(struct evio__queue *queue, struct evio__queue *from);

/* Describes the first bytes in at most `most` parts and about `limit` bytes. Returns the parts. */
int evio__queue_peek(const struct evio__queue *queue, struct iovec *parts, int most, size_t limit);

/* Drops the first `nbytes`, or all. */
void evio__queue_advance(struct evio__queue *queue, size_t nbytes, const evio_hooks *hooks);
void evio__queue_clear(struct evio__queue *queue, const evio_hooks *hooks);

#endif
