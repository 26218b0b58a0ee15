/* The hold: the bytes of a partial message. */

#include "frame.h"

#include <stdlib.h>
#include <string.h>

/* The smallest allocation: a request's header, or the beginning of a line. */
#define ROOM_MIN 64

int frame_hold_append(struct frame_hold *hold, const char *data, size_t nbytes)
{
    if (nbytes > SIZE_MAX / 2 - hold->nbytes)
        return FRAME_NO_MEMORY;
    size_t needed = hold->nbytes + nbytes;
    if (needed > hold->room) {
        size_t room =
            hold->room + hold->room / 2; /* in proportion, so that appending stays linear */
        room = room < needed ? needed : room;
        room = room < ROOM_MIN ? ROOM_MIN : room;
        char *grown = realloc(hold->data, room);
        if (grown == NULL)
            return FRAME_NO_MEMORY;
        hold->data = grown;
        hold->room = room;
    }
    memcpy(hold->data + hold->nbytes, data, nbytes);
    hold->nbytes = needed;
    return 0;
}

int frame_hold_keep(struct frame_hold *hold, const char *rest, size_t nbytes)
{
    if (nbytes > 0 && rest == hold->data && nbytes == hold->nbytes)
        return 0;
    struct frame_hold kept = {0}; /* a new one: what was a large message must not keep its memory */
    if (nbytes > 0 && frame_hold_append(&kept, rest, nbytes) != 0)
        return FRAME_NO_MEMORY;
    free(hold->data);
    *hold = kept;
    return 0;
}

void frame_hold_clear(struct frame_hold *hold)
{
    free(hold->data);
    *hold = (struct frame_hold){0};
}
