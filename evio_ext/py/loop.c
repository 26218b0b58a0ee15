/* The Loop type: the core's hooks, each a call into Python. All run with the GIL held; between
 * `sleep` and `awake` it is released.
 *
 * Ownership: a connection's words hold its id (an int), its decoder and why it is being closed (an
 * exception), one strong reference each, from `accepted` to `closed`. */

#include "py.h"

#include <errno.h>

typedef struct {
    PyObject_HEAD module_state *state; /* the module outlives its types, and they their instances */
    evio_loop *loop;
    PyObject *handle; /* callbacks: NULL where serve was given None */
    PyObject *accept;
    PyObject *closed;
    PyObject *ticker;
    PyObject *ctx;
    PyObject *frame;
    double idle_timeout;
    double linger;
    Py_ssize_t max_pending;
    PyThreadState *thread; /* saved while the GIL is released */
    PyObject *exception;   /* what run is to raise; the first one */
    bool started;
    bool abandoned; /* this is a forked child */
} LoopObject;

/* exceptions */

/* Keeps the exception that is set for run to raise. A later one, which has cut the stop short, is dropped. */
static int stop_with_exception(LoopObject *self)
{
    PyObject *exception = take_exception();
    if (self->exception == NULL)
        self->exception = exception;
    else
        Py_DECREF(exception);
    return EVIO_STOP;
}

/* Whether the exception that is set is one that ends the server. */
static bool is_fatal(LoopObject *self)
{
    return self->abandoned || !PyErr_ExceptionMatches(PyExc_Exception);
}

/* Puts a new reference, or NULL, into one of a connection's words. */
static void set_word(void **word, PyObject *value)
{
    PyObject *old = *word;
    *word = value;
    Py_XDECREF(old);
}

/* Calls a function of evio._faults that logs; takes over `result`, what it returned. */
static int logged(LoopObject *self, PyObject *result)
{
    if (result != NULL) {
        Py_DECREF(result);
        return EVIO_KEEP;
    }
    if (is_fatal(self))
        return stop_with_exception(self);
    PyErr_WriteUnraisable(
        (PyObject *)self); /* a user's logging handler has failed: nowhere left to tell */
    return EVIO_KEEP;
}

/* A callback has raised the exception that is set. Logs it and makes it the connection's reason. */
static int callback_failed(LoopObject *self, evio_conn *conn, const char *callback)
{
    if (is_fatal(self))
        return stop_with_exception(self);
    PyObject *exception = take_exception();
    int verdict =
        logged(self, PyObject_CallFunction(self->state->log_failure, "sKO", callback,
                                           (unsigned long long)evio_conn_id(conn), exception));
    if (verdict == EVIO_STOP) { /* it ends as all others do */
        Py_DECREF(exception);
        return EVIO_STOP;
    }
    set_word(&evio_conn_user(conn)->reason, exception);
    return EVIO_FAIL;
}

/* Does what a callback returned, taking it over; NULL is an exception. */
static int obey(LoopObject *self, evio_conn *conn, const char *callback, PyObject *reply)
{
    int verdict = -1;
    if (self->abandoned && reply != NULL)
        verdict = EVIO_STOP;
    else if (reply == Py_None)
        verdict = EVIO_KEEP;
    else if (reply != NULL)
        verdict = reply_send(self->state, conn, callback, reply);
    Py_XDECREF(reply);
    return verdict < 0 ? callback_failed(self, conn, callback) : verdict;
}

/* hooks */

static int accepted(void *server, evio_conn *conn, const evio_peer *peer)
{
    LoopObject *self = server;
    evio_user *user = evio_conn_user(conn);
    user->id = PyLong_FromUnsignedLongLong(evio_conn_id(conn));
    if (user->id == NULL)
        return callback_failed(self, conn, "accept");
    if (self->frame != NULL) {
        user->decoder = PyObject_CallMethodNoArgs(self->frame, self->state->str_decoder);
        if (user->decoder == NULL)
            return callback_failed(self, conn, "accept");
    }
    if (self->accept == NULL)
        return self->abandoned ? EVIO_STOP : EVIO_KEEP;
    char text[EVIO_PEER_TEXT];
    evio_peer_text(peer, text);
    PyObject *reply = NULL, *addr = PyUnicode_DecodeFSDefault(text);
    PyObject *wake = addr != NULL ? Wake_new(self->state, conn) : NULL;
    if (wake != NULL) {
        PyObject *args[] = {NULL, user->id, addr, wake, self->ctx};
        reply =
            PyObject_Vectorcall(self->accept, args + 1, 4 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    Py_XDECREF(wake);
    Py_XDECREF(addr);
    return obey(self, conn, "accept", reply);
}

static int call_handle(LoopObject *self, evio_conn *conn, PyObject *data)
{
    PyObject *args[] = {NULL, evio_conn_user(conn)->id, data, self->ctx};
    return obey(
        self, conn, "handle",
        PyObject_Vectorcall(self->handle, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL));
}

/* The decoder has raised FrameError: what it found before the bad message is delivered, then its
 * reply is sent and the connection closes with it. */
static int bad_frame(LoopObject *self, evio_conn *conn)
{
    module_state *state = self->state;
    PyObject *error = take_exception();
    PyObject *messages = PyObject_GetAttr(error, state->str_messages);
    PyObject *reply = messages != NULL ? PyObject_GetAttr(error, state->str_reply) : NULL;
    int verdict = EVIO_KEEP;
    if (reply == NULL)
        verdict = callback_failed(self, conn, "handle");
    else {
        int filled = PyObject_IsTrue(messages);
        if (filled < 0)
            verdict = callback_failed(self, conn, "handle");
        else if (filled)
            verdict = call_handle(self, conn, messages);
        if (verdict == EVIO_KEEP) {
            evio_conn_last(conn);
            verdict = obey(self, conn, "handle", Py_NewRef(reply));
        }
    }
    if (verdict == EVIO_KEEP) {
        set_word(&evio_conn_user(conn)->reason, Py_NewRef(error));
        verdict = EVIO_CLOSE;
    }
    Py_XDECREF(reply);
    Py_XDECREF(messages);
    Py_DECREF(error);
    return verdict;
}

/* Hands over what a decoder has returned, taking it over; NULL is an exception. */
static int deliver(LoopObject *self, evio_conn *conn, PyObject *messages)
{
    if (messages == NULL) {
        if (!self->abandoned && PyErr_ExceptionMatches(self->state->FrameError))
            return bad_frame(self, conn);
        return callback_failed(self, conn, "handle");
    }
    int verdict;
    if (self->abandoned)
        verdict = EVIO_STOP;
    else if (!PyList_Check(messages)) {
        PyObject *parsed = PyObject_CallOneArg(self->state->parse_messages, messages);
        Py_XDECREF(parsed); /* never: it raises for all that is no list */
        verdict = callback_failed(self, conn, "handle");
    } else
        verdict = PyList_GET_SIZE(messages) > 0 ? call_handle(self, conn, messages) : EVIO_KEEP;
    Py_DECREF(messages);
    return verdict;
}

/* What has been read, as an object, taking over its owner, if there is one. NULL with an exception set. */
static PyObject *as_bytes(const char *data, size_t nbytes, void *owner)
{
    PyObject *bytes = owner;
    if (bytes == NULL)
        bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)nbytes);
    else if ((Py_ssize_t)nbytes < PyBytes_GET_SIZE(bytes))
        (void)_PyBytes_Resize(&bytes, (Py_ssize_t)nbytes); /* a failure shows as NULL */
    return bytes;
}

static int data(void *server, evio_conn *conn, const char *data, size_t nbytes, void *owner)
{
    LoopObject *self = server;
    PyObject *decoder = evio_conn_user(conn)->decoder;
    if (self->handle == NULL) {
        Py_XDECREF((PyObject *)owner);
        return EVIO_KEEP;
    }
    if (decoder != NULL && decoder_check(self->state, decoder)) { /* straight from the buffer */
        PyObject *messages = decoder_feed((DecoderObject *)decoder, data, nbytes);
        Py_XDECREF((PyObject *)owner);
        return deliver(self, conn, messages);
    }
    PyObject *bytes = as_bytes(data, nbytes, owner);
    if (bytes == NULL)
        return callback_failed(self, conn, "handle");
    int verdict;
    if (decoder == NULL)
        verdict = call_handle(self, conn, bytes);
    else
        verdict =
            deliver(self, conn, PyObject_CallMethodOneArg(decoder, self->state->str_feed, bytes));
    Py_DECREF(bytes);
    return verdict;
}

static int woken(void *server, evio_conn *conn)
{
    LoopObject *self = server;
    if (self->handle == NULL)
        return EVIO_KEEP;
    if (self->frame == NULL)
        return call_handle(self, conn, self->state->empty);
    PyObject *messages = PyList_New(0);
    if (messages == NULL)
        return callback_failed(self, conn, "handle");
    int verdict = call_handle(self, conn, messages);
    Py_DECREF(messages);
    return verdict;
}

/* What `closed` is given: a new reference, or NULL with an exception set. */
static PyObject *end_as_object(LoopObject *self, evio_conn *conn, int end)
{
    PyObject *reason = evio_conn_user(conn)->reason;
    if (reason != NULL && (end == 0 || end == EVIO_END_FAILED))
        return Py_NewRef(reason);
    switch (end) {
    case 0:
        return Py_NewRef(Py_None);
    case EVIO_END_IDLE:
        return PyObject_CallFunction(self->state->idle_error, "d", self->idle_timeout);
    case EVIO_END_LINGER:
        return PyObject_CallFunction(self->state->linger_error, "d", self->linger);
    case EVIO_END_OVERFLOW:
        return PyObject_CallFunction(self->state->overflow_error, "n", self->max_pending);
    case -ENOMEM:
        return PyObject_CallNoArgs(PyExc_MemoryError);
    default:
        return PyObject_CallFunction(self->state->socket_error, "i", -end);
    }
}

static int call_closed(LoopObject *self, evio_conn *conn, int end)
{
    evio_user *user = evio_conn_user(conn);
    int verdict = EVIO_KEEP;
    PyObject *result = NULL, *error = end_as_object(self, conn, end);
    if (error == NULL && is_fatal(self)) { /* Ctrl-C came in the middle of it */
        verdict = stop_with_exception(self);
        error = end_as_object(self, conn, end);
    }
    if (error == NULL) /* no memory to say what happened: say that */
        error = take_exception();
    if (user->id == NULL)
        user->id = PyLong_FromUnsignedLongLong(evio_conn_id(conn));
    if (user->id != NULL) {
        PyObject *args[] = {NULL, user->id, error, self->ctx};
        result =
            PyObject_Vectorcall(self->closed, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    Py_DECREF(error);
    if (result == NULL && callback_failed(self, conn, "closed") == EVIO_STOP)
        verdict = EVIO_STOP;
    Py_XDECREF(result);
    return self->abandoned ? EVIO_STOP : verdict;
}

static int closed(void *server, evio_conn *conn, int end)
{
    LoopObject *self = server;
    evio_user *user = evio_conn_user(conn);
    int verdict = self->abandoned ? EVIO_STOP : EVIO_KEEP;
    if (self->closed != NULL && !self->abandoned)
        verdict = call_closed(self, conn, end);
    set_word(&user->id, NULL);
    set_word(&user->decoder, NULL);
    set_word(&user->reason, NULL);
    return verdict;
}

static int tick(void *server)
{
    LoopObject *self = server;
    PyObject *result = PyObject_CallOneArg(self->ticker, self->ctx);
    if (result != NULL && !PyBool_Check(result) && result != Py_None)
        Py_SETREF(result, PyObject_CallOneArg(self->state->parse_tick, result));
    if (result == NULL)
        return stop_with_exception(self);
    bool goes_on = result != Py_False;
    Py_DECREF(result);
    if (self->abandoned)
        return EVIO_STOP;
    return goes_on ? EVIO_KEEP : EVIO_CLOSE;
}

static int interrupted(void *server)
{
    LoopObject *self = server;
    if (PyErr_CheckSignals() < 0)
        return stop_with_exception(self);
    return self->abandoned ? EVIO_STOP : EVIO_KEEP;
}

static int breathe(void *server)
{
    LoopObject *self = server;
    PyObject *result = PyObject_CallNoArgs(self->state->breathe);
    if (result == NULL)
        return stop_with_exception(self);
    Py_DECREF(result);
    return self->abandoned ? EVIO_STOP : EVIO_KEEP;
}

static void before_sleep(void *server)
{
    ((LoopObject *)server)->thread = PyEval_SaveThread();
}

static void after_sleep(void *server)
{
    PyEval_RestoreThread(((LoopObject *)server)->thread);
}

static int accept_paused(void *server, int error)
{
    LoopObject *self = server;
    return logged(self, PyObject_CallFunction(self->state->log_accept_paused, "i", -error));
}

static void *buffer(void *server, size_t nbytes, char **data)
{
    (void)server;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)nbytes);
    if (bytes == NULL) {
        PyErr_Clear(); /* the core goes on with a small read */
        return NULL;
    }
    *data = PyBytes_AS_STRING(bytes);
    return bytes;
}

static void retain(void *owner)
{
    Py_INCREF((PyObject *)owner);
}

static void release(void *owner)
{
    Py_DECREF((PyObject *)owner);
}

static const evio_hooks hooks = {
    .accepted = accepted,
    .data = data,
    .woken = woken,
    .closed = closed,
    .tick = tick,
    .interrupted = interrupted,
    .breathe = breathe,
    .sleep = before_sleep,
    .awake = after_sleep,
    .accept_paused = accept_paused,
    .buffer = buffer,
    .retain = retain,
    .release = release,
};

/* the type */

static int64_t nanoseconds(double seconds)
{
    return (int64_t)(seconds * 1e9); /* serve has bounded it */
}

/* A reference to a callback, or NULL for None. */
static PyObject *optional(PyObject *value)
{
    return value == Py_None ? NULL : Py_NewRef(value);
}

static PyObject *Loop_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    evio_options options = {0};
    PyObject *handle, *accept, *closed_, *ticker, *ctx, *frame;
    double idle_timeout, linger;
    Py_ssize_t max_conns, max_pending;
    int nodelay;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Loop() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "iiOOOOOOdnndpi:Loop", &options.listener, &options.interrupts,
                          &handle, &accept, &closed_, &ticker, &ctx, &frame, &idle_timeout,
                          &max_conns, &max_pending, &linger, &nodelay, &options.keepalive_s))
        return NULL;
    LoopObject *self = (LoopObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = PyType_GetModuleState(type);
    self->handle = optional(handle);
    self->accept = optional(accept);
    self->closed = optional(closed_);
    self->ticker = optional(ticker);
    self->frame = optional(frame);
    self->ctx = Py_NewRef(ctx);
    self->idle_timeout = idle_timeout;
    self->linger = linger;
    self->max_pending = max_pending;
    options.ticks = self->ticker != NULL;
#ifndef Py_GIL_DISABLED
    options.exclusive = true;
#endif
    options.nodelay = nodelay;
    options.idle_ns = nanoseconds(idle_timeout);
    options.linger_ns = nanoseconds(linger);
    options.max_conns = (size_t)max_conns;
    options.max_pending = (size_t)max_pending;
    int error = evio_loop_new(&self->loop, &options, &hooks, self);
    if (error != 0) {
        errno = -error;
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int Loop_traverse(LoopObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->handle);
    Py_VISIT(self->accept);
    Py_VISIT(self->closed);
    Py_VISIT(self->ticker);
    Py_VISIT(self->ctx);
    Py_VISIT(self->frame);
    Py_VISIT(self->exception);
    return 0;
}

static int Loop_clear(LoopObject *self)
{
    Py_CLEAR(self->handle);
    Py_CLEAR(self->accept);
    Py_CLEAR(self->closed);
    Py_CLEAR(self->ticker);
    Py_CLEAR(self->ctx);
    Py_CLEAR(self->frame);
    Py_CLEAR(self->exception);
    return 0;
}

static void Loop_dealloc(LoopObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->loop != NULL)
        evio_loop_free(self->loop);
    (void)Loop_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

PyDoc_STRVAR(Loop_run_doc, "run($self, /)\n--\n\nServe until the ticker stops it. Called once.");

static PyObject *Loop_run(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->started) {
        PyErr_SetString(PyExc_RuntimeError, "a loop runs once");
        return NULL;
    }
    self->started = true;
    int error = evio_loop_run(self->loop);
    PyObject *exception = self->exception;
    self->exception = NULL;
    (void)Loop_clear(self); /* now: a traceback may keep the loop for as long as it likes */
    if (exception != NULL)
        raise_exception(exception);
    else if (self->abandoned)
        PyErr_SetString(PyExc_RuntimeError,
                        "evio.serve cannot go on in a forked child: it belongs to the parent");
    else if (error != 0) {
        errno = -error;
        PyErr_SetFromErrno(PyExc_OSError);
    } else
        Py_RETURN_NONE;
    return NULL;
}

PyDoc_STRVAR(
    Loop_abandon_doc,
    "abandon($self, /)\n--\n\nIn a forked child: close every descriptor of the loop's own.");

static PyObject *Loop_abandon(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    self->abandoned = true;
    evio_loop_abandon(self->loop);
    Py_RETURN_NONE;
}

static PyMethodDef Loop_methods[] = {
    {"run", (PyCFunction)Loop_run, METH_NOARGS, Loop_run_doc},
    {"abandon", (PyCFunction)Loop_abandon, METH_NOARGS, Loop_abandon_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Loop_slots[] = {
    {Py_tp_new, Loop_new},
    {Py_tp_dealloc, Loop_dealloc},
    {Py_tp_traverse, Loop_traverse},
    {Py_tp_clear, Loop_clear},
    {Py_tp_methods, Loop_methods},
    {Py_tp_doc,
     (void *)PyDoc_STR("One server on the native engine; evio._engine.Loop describes it.")},
    {0, NULL},
};

PyType_Spec Loop_spec = {
    .name = "evio._native.Loop",
    .basicsize = sizeof(LoopObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = Loop_slots,
};
