/* Replies: from what a callback returned to pieces for the core. Knows the shapes that are right;
 * what to say of the others, evio._replies knows. */

#include "py.h"

/* Lists up to this long need no memory: a pipeline of 128 requests and its replies. */
#define PIECES_ON_STACK 128

bool is_no_buffer(void)
{
    return PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_BufferError) ||
           PyErr_ExceptionMatches(PyExc_ValueError);
}

/* Has evio._replies say what is wrong with a reply whose reading has failed with the exception
 * that is set. Returns -1. */
static int bad_reply(module_state *state, const char *callback, PyObject *reply)
{
    if (PyErr_Occurred()) {
        if (!is_no_buffer())
            return -1;
        PyErr_Clear();
    }
    PyObject *parsed = PyObject_CallFunction(state->parse, "sO", callback, reply);
    if (parsed != NULL) { /* an object that gives its buffer to one and not to the other */
        Py_DECREF(parsed);
        PyErr_Format(PyExc_TypeError, "%s() returned a buffer that cannot be read", callback);
    }
    return -1;
}

/* Gets an object's bytes, for PyBuffer_Release to let go of. Where threads run in parallel, another one may change a
 * buffer while it is being sent, such as one that sees the first bytes arrive: then it is a copy's bytes. Returns
 * 0, or -1 with an exception set. */
static int get_bytes(PyObject *object, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE) < 0)
        return -1;
#ifdef Py_GIL_DISABLED
    PyObject *base = PyMemoryView_Check(object) ? PyMemoryView_GET_BASE(object) : object;
    if (base == NULL || !PyBytes_CheckExact(base)) {
        PyObject *copy = PyBytes_FromStringAndSize(view->buf, view->len);
        PyBuffer_Release(view);
        int error = copy != NULL ? PyObject_GetBuffer(copy, view, PyBUF_SIMPLE) : -1;
        Py_XDECREF(copy); /* the view holds it */
        return error;
    }
#endif
    return 0;
}

static void set_piece(evio_piece *piece, PyObject *bytes)
{
    piece->data = PyBytes_AS_STRING(bytes);
    piece->nbytes = (size_t)PyBytes_GET_SIZE(bytes);
    piece->owner = bytes;
}

/* Sends the items of a tuple. Returns 0, or -1 with an exception set or with none: then an item is
 * nothing that can be sent. */
static int send_items(evio_conn *conn, PyObject *items)
{
    Py_ssize_t count = PyTuple_GET_SIZE(items), nviews = 0;
    evio_piece on_stack[PIECES_ON_STACK], *pieces = on_stack;
    Py_buffer *views = NULL;
    int result = -1;
    if (count <= 0)
        return 0;
    if (count > PIECES_ON_STACK) {
        pieces = PyMem_New(evio_piece, (size_t)count);
        if (pieces == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        if (PyBytes_CheckExact(item)) {
            set_piece(&pieces[i], item);
            continue;
        }
        if (views == NULL) {
            views = PyMem_New(Py_buffer, (size_t)(count - i));
            if (views == NULL) {
                PyErr_NoMemory();
                goto done;
            }
        }
        if (get_bytes(item, &views[nviews]) < 0)
            goto done;
        pieces[i] = (evio_piece){views[nviews].buf, (size_t)views[nviews].len, NULL};
        nviews++;
    }
    evio_conn_send(conn, pieces, (size_t)count);
    result = 0;
done:
    while (nviews > 0)
        PyBuffer_Release(&views[--nviews]);
    PyMem_Free(views);
    if (pieces != on_stack)
        PyMem_Free(pieces);
    return result;
}

/* Sends None, a bytes-like object, a list, or if `pair` a tuple. Returns as send_items does. */
static int send_object(evio_conn *conn, PyObject *send, bool pair)
{
    if (send == Py_None)
        return 0;
    if (PyBytes_CheckExact(send)) {
        evio_piece piece;
        set_piece(&piece, send);
        evio_conn_send(conn, &piece, 1);
        return 0;
    }
    if (PyList_Check(send)) {
        PyObject *items = PyList_AsTuple(send); /* the list may change while its items are read */
        if (items == NULL)
            return -1;
        int result = send_items(conn, items);
        Py_DECREF(items);
        return result;
    }
    if (PyTuple_Check(send))
        return pair ? send_items(conn, send) : -1;
    Py_buffer view;
    if (get_bytes(send, &view) < 0)
        return -1;
    evio_piece piece = {view.buf, (size_t)view.len, NULL};
    evio_conn_send(conn, &piece, 1);
    PyBuffer_Release(&view);
    return 0;
}

int reply_send(module_state *state, evio_conn *conn, const char *callback, PyObject *reply)
{
    PyObject *send = reply, *keepopen = Py_True;
    bool pair = false;
    if (PyBool_Check(reply)) {
        send = Py_None;
        keepopen = reply;
    } else if (PyTuple_Check(reply)) {
        if (PyTuple_GET_SIZE(reply) != 2 || !PyBool_Check(PyTuple_GET_ITEM(reply, 1)))
            return bad_reply(state, callback, reply);
        send = PyTuple_GET_ITEM(reply, 0);
        keepopen = PyTuple_GET_ITEM(reply, 1);
        pair = true;
    }
    if (keepopen == Py_False)
        evio_conn_last(conn);
    if (send_object(conn, send, pair) < 0)
        return bad_reply(state, callback, reply);
    return keepopen == Py_True ? EVIO_KEEP : EVIO_CLOSE;
}
