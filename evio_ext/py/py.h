/* What the files of the binding share: the module's state, the two types, and replies. */

#ifndef EVIO_PY_H
#define EVIO_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../core/evio.h"

/* Everything that lives as long as the module. */
typedef struct {
    PyTypeObject *Loop_type;
    PyTypeObject *Wake_type;
    PyObject *empty;   /* b"" */
    PyObject *breathe; /* a function of bytecode that does nothing */
    PyObject *FrameError;
    /* evio._replies */
    PyObject *parse;
    PyObject *parse_tick;
    PyObject *parse_messages;
    PyObject *bad_wake;
    /* evio._faults */
    PyObject *socket_error;
    PyObject *idle_error;
    PyObject *linger_error;
    PyObject *overflow_error;
    PyObject *log_failure;
    PyObject *log_accept_paused;
    /* interned */
    PyObject *str_decoder;
    PyObject *str_feed;
    PyObject *str_messages;
    PyObject *str_reply;
} module_state;

extern PyType_Spec Loop_spec; /* loop.c */
extern PyType_Spec Wake_spec; /* wake.c */

/* Returns a new Wake for the connection, or NULL with an exception set. */
PyObject *Wake_new(module_state *state, evio_conn *conn);

/* Sends what `callback` returned. Returns EVIO_KEEP or EVIO_CLOSE, or -1 with an exception set. */
int reply_send(module_state *state, evio_conn *conn, const char *callback, PyObject *reply);

/* Whether the exception that is set says that an object has no buffer to read: it is of another
 * type, strided, or a memoryview that was released. */
bool is_no_buffer(void);

#endif
