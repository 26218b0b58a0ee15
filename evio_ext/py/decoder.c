/* Decoders: the types that frame/ is used through, and the feed that is common to them. Those for Redis
 * requests are in resp.c. */

#include "py.h"

#include "../frame/lines.h"
#include "../frame/prefixed.h"

/* what is common */

void *decoder_new(PyTypeObject *type, decode_function decode)
{
    DecoderObject *self = (DecoderObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->state = PyType_GetModuleState(type);
        self->decode = decode;
    }
    return self;
}

void decoder_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    frame_hold_clear(&((DecoderObject *)self)->hold);
    type->tp_free(self);
    Py_DECREF(type);
}

bool decoder_check(const module_state *state, PyObject *object)
{
    for (size_t i = 0; i < DECODERS; i++)
        if (Py_IS_TYPE(object, state->decoder_types[i]))
            return true;
    return false;
}

int raise_made(PyObject *exception)
{
    if (exception != NULL)
        raise_exception(exception);
    return -1;
}

/* Gives the FrameError that is set the messages before it, if that is what is set. */
static void attach_messages(module_state *state, PyObject *messages)
{
    if (!PyErr_ExceptionMatches(state->FrameError))
        return;
    PyObject *error = take_exception();
    if (PyObject_SetAttr(error, state->str_messages, messages) < 0)
        Py_DECREF(error);
    else
        raise_exception(error);
}

/* Decodes what is held and the next piece behind it, and holds what is left. Returns 0, or -1 with an exception set. */
static int decode_all(DecoderObject *self, const char *data, size_t nbytes, PyObject *messages)
{
    struct frame_hold *hold = &self->hold;
    if (hold->nbytes > 0) {
        if (frame_hold_append(hold, data, nbytes) != 0)
            goto no_memory;
        data = hold->data;
        nbytes = hold->nbytes;
    }
    Py_ssize_t used = self->decode(self, data, nbytes, messages);
    if (used < 0)
        return -1;
    if (frame_hold_keep(hold, data + used, nbytes - (size_t)used) == 0)
        return 0;
no_memory:
    PyErr_NoMemory();
    return -1;
}

PyObject *decoder_feed(DecoderObject *self, const char *data, size_t nbytes)
{
    PyObject *messages = PyList_New(0);
    if (messages == NULL)
        return NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->busy) { /* a finalizer that ran in the middle of it, or another thread */
        PyErr_SetString(PyExc_RuntimeError, "feed() was called inside feed()");
        Py_CLEAR(messages);
    } else if (!self->failed && nbytes > 0) {
        self->busy = true;
        if (decode_all(self, data, nbytes, messages) < 0) {
            self->failed = true;
            frame_hold_clear(&self->hold);
            attach_messages(self->state, messages);
            Py_CLEAR(messages);
        }
        self->busy = false;
    }
    Py_END_CRITICAL_SECTION();
    return messages;
}

PyDoc_STRVAR(feed_doc, "feed($self, data, /)\n--\n\n"
                       "Return the messages that are complete now, in order.");

static PyObject *Decoder_feed(DecoderObject *self, PyObject *data)
{
    if (PyBytes_CheckExact(data))
        return decoder_feed(self, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data));
    PyObject *refused = PyObject_CallOneArg(self->state->check_fed, data);
    Py_XDECREF(refused); /* never: it raises for all that is not bytes */
    return NULL;
}

PyMethodDef decoder_methods[] = {
    {"feed", (PyCFunction)Decoder_feed, METH_O, feed_doc},
    {NULL, NULL, 0, NULL},
};

/* lines */

typedef struct {
    DecoderObject decoder;
    struct lines lines;
    PyObject *separator;
} LinesObject;

static Py_ssize_t LinesDecoder_decode(DecoderObject *self, const char *data, size_t nbytes,
                                      PyObject *messages)
{
    struct lines *lines = &((LinesObject *)self)->lines;
    size_t used = 0, length;
    ssize_t taken;
    while ((taken = lines_next(lines, data + used, nbytes - used, &length)) >= 0) {
        PyObject *line = PyBytes_FromStringAndSize(data + used, (Py_ssize_t)length);
        int error = line != NULL ? PyList_Append(messages, line) : -1;
        Py_XDECREF(line);
        if (error < 0)
            return -1;
        used += (size_t)taken;
    }
    if (taken == FRAME_BAD)
        return raise_made(PyObject_CallFunction(self->state->line_too_long, "n", lines->max_size));
    return (Py_ssize_t)used;
}

static PyObject *LinesDecoder_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *separator;
    Py_ssize_t max_size;
    if (!PyArg_ParseTuple(args, "Sn:LinesDecoder", &separator, &max_size))
        return NULL;
    if (PyBytes_GET_SIZE(separator) == 0 || max_size < 1) {
        PyErr_SetString(PyExc_ValueError,
                        "LinesDecoder() is for evio.Lines, which checks its arguments");
        return NULL;
    }
    LinesObject *self = decoder_new(type, LinesDecoder_decode);
    if (self != NULL) {
        self->separator = Py_NewRef(separator);
        self->lines.separator = PyBytes_AS_STRING(separator);
        self->lines.nseparator = (size_t)PyBytes_GET_SIZE(separator);
        self->lines.max_size = (size_t)max_size;
    }
    return (PyObject *)self;
}

static void LinesDecoder_dealloc(PyObject *self)
{
    Py_DECREF(((LinesObject *)self)->separator);
    decoder_dealloc(self);
}

static PyType_Slot LinesDecoder_slots[] = {
    {Py_tp_new, LinesDecoder_new},
    {Py_tp_dealloc, LinesDecoder_dealloc},
    {Py_tp_methods, decoder_methods},
    {Py_tp_doc, (void *)PyDoc_STR("evio._decoders.LinesDecoder in C.")},
    {0, NULL},
};

static PyType_Spec LinesDecoder_spec = {
    .name = "evio._native.LinesDecoder",
    .basicsize = sizeof(LinesObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = LinesDecoder_slots,
};

/* prefixed messages */

typedef struct {
    DecoderObject decoder;
    struct prefixed prefixed;
} PrefixedObject;

static Py_ssize_t PrefixedDecoder_decode(DecoderObject *self, const char *data, size_t nbytes,
                                         PyObject *messages)
{
    const struct prefixed *prefixed = &((PrefixedObject *)self)->prefixed;
    size_t used = 0;
    uint64_t length;
    ssize_t taken;
    while ((taken = prefixed_next(prefixed, data + used, nbytes - used, &length)) >= 0) {
        const char *start = data + used + prefixed->width;
        PyObject *message = PyBytes_FromStringAndSize(start, (Py_ssize_t)length);
        int error = message != NULL ? PyList_Append(messages, message) : -1;
        Py_XDECREF(message);
        if (error < 0)
            return -1;
        used += (size_t)taken;
    }
    if (taken == FRAME_BAD)
        return raise_made(PyObject_CallFunction(self->state->message_too_long, "Kn",
                                                (unsigned long long)length, prefixed->max_size));
    return (Py_ssize_t)used;
}

static PyObject *PrefixedDecoder_new(PyTypeObject *type, PyObject *args,
                                     PyObject *Py_UNUSED(kwargs))
{
    int width;
    const char *byteorder;
    Py_ssize_t max_size;
    if (!PyArg_ParseTuple(args, "isn:PrefixedDecoder", &width, &byteorder, &max_size))
        return NULL;
    if ((width != 1 && width != 2 && width != 4 && width != 8) || max_size < 1) {
        PyErr_SetString(PyExc_ValueError,
                        "PrefixedDecoder() is for evio.Prefixed, which checks its arguments");
        return NULL;
    }
    PrefixedObject *self = decoder_new(type, PrefixedDecoder_decode);
    if (self != NULL)
        self->prefixed = (struct prefixed){(unsigned)width, byteorder[0] == 'l', (size_t)max_size};
    return (PyObject *)self;
}

static PyType_Slot PrefixedDecoder_slots[] = {
    {Py_tp_new, PrefixedDecoder_new},
    {Py_tp_dealloc, decoder_dealloc},
    {Py_tp_methods, decoder_methods},
    {Py_tp_doc, (void *)PyDoc_STR("evio._decoders.PrefixedDecoder in C.")},
    {0, NULL},
};

static PyType_Spec PrefixedDecoder_spec = {
    .name = "evio._native.PrefixedDecoder",
    .basicsize = sizeof(PrefixedObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = PrefixedDecoder_slots,
};

PyType_Spec *const decoder_specs[DECODERS] = {
    &LinesDecoder_spec,
    &PrefixedDecoder_spec,
    &CommandsDecoder_spec,
    &RunsDecoder_spec,
};
