/* A circular doubly linked list through its members. */

#ifndef EVIO_LIST_H
#define EVIO_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* The list itself, or a member. A member that is in no list has a NULL `next`. */
struct evio__node {
    struct evio__node *next, *prev;
};

static inline void evio__list_init(struct evio__node *list)
{
    list->next = list->prev = list;
}

static inline bool evio__list_empty(const struct evio__node *list)
{
    return list->next == list;
}

/* Adds at the end. */
static inline void evio__list_add(struct evio__node *list, struct evio__node *node)
{
    node->prev = list->prev;
    node->next = list;
    list->prev->next = node;
    list->prev = node;
}

/* Takes a member out of whichever list it is in, or of none. */
static inline void evio__list_remove(struct evio__node *node)
{
    if (node->next == NULL)
        return;
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = NULL;
}

#endif
