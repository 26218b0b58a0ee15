/* Encoders of Redis replies. They know the usual arguments; with any other they call their twin in
 * evio._resp, which defines what is right and says what is wrong. */

#include "py.h"

#include "../frame/resp_write.h"

#include <string.h>

/* arguments */

/* Calls the twin with what the encoder was called with. */
static PyObject *twin(PyObject *module, enum encoder encoder, PyObject *const *args,
                      Py_ssize_t nargs, PyObject *kwnames)
{
    module_state *state = PyModule_GetState(module);
    return PyObject_Vectorcall(state->encoders[encoder], args, (size_t)nargs, kwnames);
}

/* The protocol that is given behind `before` other arguments, 2 where there is none, or 0 where it takes
 * the twin to read the arguments. */
static int protocol_of(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                       Py_ssize_t before)
{
    module_state *state = PyModule_GetState(module);
    if (kwnames != NULL && PyTuple_GET_SIZE(kwnames) == 1 && nargs == before &&
        PyTuple_GET_ITEM(kwnames, 0) == state->str_protocol)
        nargs++;
    else if (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0)
        return 0;
    if (nargs == before)
        return 2;
    if (nargs != before + 1 || !PyLong_CheckExact(args[before]))
        return 0;
    int overflow;
    long protocol = PyLong_AsLongAndOverflow(args[before], &overflow);
    return protocol == 2 || protocol == 3 ? (int)protocol : 0;
}

static bool is_one(Py_ssize_t nargs, PyObject *kwnames)
{
    return nargs == 1 && kwnames == NULL;
}

/* Reads a text that needs no encoding: bytes, or a str of ASCII. */
static bool read_text(PyObject *text, const char **data, size_t *nbytes)
{
    if (PyBytes_CheckExact(text)) {
        *data = PyBytes_AS_STRING(text);
        *nbytes = (size_t)PyBytes_GET_SIZE(text);
        return true;
    }
    if (PyUnicode_CheckExact(text) && PyUnicode_IS_COMPACT_ASCII(text)) {
        *data = (const char *)PyUnicode_1BYTE_DATA(text);
        *nbytes = (size_t)PyUnicode_GET_LENGTH(text);
        return true;
    }
    return false;
}

/* A tuple of the items as they are now: a list may change while it is read. NULL with an exception set, or
 * with none where this is no iterable. */
static PyObject *items_of(PyObject *iterable)
{
    return Py_TYPE(iterable)->tp_iter != NULL ? PySequence_Tuple(iterable) : NULL;
}

/* Calls the twin with items that it has to look at, taking them over. */
static PyObject *twin_of_items(PyObject *module, enum encoder encoder, PyObject *items,
                               int protocol)
{
    module_state *state = PyModule_GetState(module);
    PyObject *reply = protocol == 0
                          ? PyObject_CallOneArg(state->encoders[encoder], items)
                          : PyObject_CallFunction(state->encoders[encoder], "Oi", items, protocol);
    Py_DECREF(items);
    return reply;
}

/* Adds to a size. False where no bytes object is that large. */
static bool add_size(size_t *size, size_t more)
{
    if (more > (size_t)PY_SSIZE_T_MAX - *size)
        return false;
    *size += more;
    return true;
}

/* bytes of a size that add_size has counted, to be filled */
static PyObject *new_bytes(size_t size, char **out)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes != NULL)
        *out = PyBytes_AS_STRING(bytes);
    return bytes;
}

static char *write_bytes(char *out, const char *data, size_t nbytes)
{
    memcpy(out, data, nbytes);
    return out + nbytes;
}

static char *write_bulk(char *out, const char *data, size_t nbytes)
{
    out = write_bytes(resp_write_line(out, '$', (int64_t)nbytes), data, nbytes);
    return write_bytes(out, "\r\n", 2);
}

/* one reply */

/* A line of text, if it has no line break; NULL with or without an exception set. */
static PyObject *text_line(char mark, PyObject *text)
{
    const char *data;
    char *out;
    size_t nbytes, size = 3;
    if (!read_text(text, &data, &nbytes) || memchr(data, '\r', nbytes) != NULL ||
        memchr(data, '\n', nbytes) != NULL || !add_size(&size, nbytes))
        return NULL;
    PyObject *reply = new_bytes(size, &out);
    if (reply != NULL) {
        *out++ = mark;
        write_bytes(write_bytes(out, data, nbytes), "\r\n", 2);
    }
    return reply;
}

static PyObject *encode_text(PyObject *module, enum encoder encoder, char mark,
                             PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *reply = is_one(nargs, kwnames) ? text_line(mark, args[0]) : NULL;
    return reply != NULL || PyErr_Occurred() ? reply : twin(module, encoder, args, nargs, kwnames);
}

static PyObject *encode_simple(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    return encode_text(module, SIMPLE, '+', args, nargs, kwnames);
}

static PyObject *encode_error(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    return encode_text(module, ERROR, '-', args, nargs, kwnames);
}

/* Reads an int of 64 bits; a bool is one. */
static bool read_integer(PyObject *object, long long *number)
{
    int overflow;
    if (!PyLong_CheckExact(object) && !PyBool_Check(object))
        return false;
    *number = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow == 0;
}

static PyObject *encode_integer(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    long long number;
    if (!is_one(nargs, kwnames) || !read_integer(args[0], &number))
        return twin(module, INTEGER, args, nargs, kwnames);
    char line[RESP_LINE_MAX];
    return PyBytes_FromStringAndSize(line, resp_write_line(line, ':', number) - line);
}

static PyObject *encode_null(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    module_state *state = PyModule_GetState(module);
    int protocol = protocol_of(module, args, nargs, kwnames, 0);
    return protocol != 0 ? Py_NewRef(state->nulls[protocol - 2])
                         : twin(module, NULL_, args, nargs, kwnames);
}

static PyObject *encode_bulk(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    module_state *state = PyModule_GetState(module);
    int protocol = nargs > 0 ? protocol_of(module, args, nargs, kwnames, 1) : 0;
    const char *data;
    char *out;
    size_t nbytes, size = 0;
    if (protocol != 0 && args[0] == Py_None)
        return Py_NewRef(state->nulls[protocol - 2]);
    if (protocol == 0 || !read_text(args[0], &data, &nbytes) ||
        !add_size(&size, resp_bulk_size(nbytes)))
        return twin(module, BULK, args, nargs, kwnames);
    PyObject *reply = new_bytes(size, &out);
    if (reply != NULL)
        write_bulk(out, data, nbytes);
    return reply;
}

/* aggregates of encoded replies */

/* Adds up the lengths of bytes objects. False where one is none. */
static bool add_sizes(size_t *size, PyObject *items)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items); i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        if (!PyBytes_CheckExact(item) || !add_size(size, (size_t)PyBytes_GET_SIZE(item)))
            return false;
    }
    return true;
}

static char *write_items(char *out, PyObject *items)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items); i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        out = write_bytes(out, PyBytes_AS_STRING(item), (size_t)PyBytes_GET_SIZE(item));
    }
    return out;
}

static PyObject *encode_array(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    PyObject *items = is_one(nargs, kwnames) ? items_of(args[0]) : NULL;
    if (items == NULL)
        return PyErr_Occurred() ? NULL : twin(module, ARRAY, args, nargs, kwnames);
    char line[RESP_LINE_MAX], *out;
    size_t head = (size_t)(resp_write_line(line, '*', PyTuple_GET_SIZE(items)) - line), size = head;
    if (!add_sizes(&size, items))
        return twin_of_items(module, ARRAY, items, 0);
    PyObject *reply = new_bytes(size, &out);
    if (reply != NULL)
        write_items(write_bytes(out, line, head), items);
    Py_DECREF(items);
    return reply;
}

static PyObject *encode_map(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    int protocol = nargs > 0 ? protocol_of(module, args, nargs, kwnames, 1) : 0;
    PyObject *pairs = protocol != 0 ? items_of(args[0]) : NULL;
    if (pairs == NULL)
        return PyErr_Occurred() ? NULL : twin(module, MAP, args, nargs, kwnames);
    char line[RESP_LINE_MAX], *out;
    Py_ssize_t count = PyTuple_GET_SIZE(pairs);
    char *end = protocol == 3 ? resp_write_line(line, '%', count)
                              : resp_write_line(line, '*', 2 * (int64_t)count);
    size_t head = (size_t)(end - line), size = head;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = PyTuple_GET_ITEM(pairs, i);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2 || !add_sizes(&size, pair))
            return twin_of_items(module, MAP, pairs, protocol);
    }
    PyObject *reply = new_bytes(size, &out);
    if (reply != NULL) {
        out = write_bytes(out, line, head);
        for (Py_ssize_t i = 0; i < count; i++)
            out = write_items(out, PyTuple_GET_ITEM(pairs, i));
    }
    Py_DECREF(pairs);
    return reply;
}

/* columns */

static PyObject *encode_bulks(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    module_state *state = PyModule_GetState(module);
    int protocol = nargs > 0 ? protocol_of(module, args, nargs, kwnames, 1) : 0;
    PyObject *items = protocol != 0 ? items_of(args[0]) : NULL;
    if (items == NULL)
        return PyErr_Occurred() ? NULL : twin(module, BULKS, args, nargs, kwnames);
    PyObject *null = state->nulls[protocol - 2];
    const char *data, *null_data = PyBytes_AS_STRING(null);
    size_t nbytes, null_size = (size_t)PyBytes_GET_SIZE(null), size = 0;
    char *out;
    Py_ssize_t count = PyTuple_GET_SIZE(items);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        size_t more = null_size;
        if (item != Py_None) {
            if (!read_text(item, &data, &nbytes))
                return twin_of_items(module, BULKS, items, protocol);
            more = resp_bulk_size(nbytes);
        }
        if (!add_size(&size, more)) {
            Py_DECREF(items);
            return PyErr_NoMemory();
        }
    }
    PyObject *replies = new_bytes(size, &out);
    for (Py_ssize_t i = 0; i < count && replies != NULL; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        if (item == Py_None)
            out = write_bytes(out, null_data, null_size);
        else if (read_text(item, &data, &nbytes)) /* as before: neither type changes */
            out = write_bulk(out, data, nbytes);
    }
    Py_DECREF(items);
    return replies;
}

static PyObject *encode_integers(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames)
{
    PyObject *items = is_one(nargs, kwnames) ? items_of(args[0]) : NULL;
    if (items == NULL)
        return PyErr_Occurred() ? NULL : twin(module, INTEGERS, args, nargs, kwnames);
    Py_ssize_t count = PyTuple_GET_SIZE(items);
    char line[RESP_LINE_MAX], *out;
    size_t size = 0;
    long long number;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!read_integer(PyTuple_GET_ITEM(items, i), &number))
            return twin_of_items(module, INTEGERS, items, 0);
        size += (size_t)(resp_write_line(line, ':', number) - line); /* 23 bytes an item at most */
    }
    PyObject *replies = new_bytes(size, &out);
    for (Py_ssize_t i = 0; i < count && replies != NULL; i++)
        if (read_integer(PyTuple_GET_ITEM(items, i), &number))
            out = resp_write_line(out, ':', number);
    Py_DECREF(items);
    return replies;
}

/* any value */

/* A reply that grows. */
struct writer {
    module_state *state;
    int protocol;
    char *data;
    size_t nbytes, room;
};

static int write_value(struct writer *writer, PyObject *value);

/* Room for so many more bytes, or NULL with an exception set. */
static char *reserve(struct writer *writer, size_t more)
{
    size_t needed = writer->nbytes;
    if (!add_size(&needed, more)) {
        PyErr_NoMemory();
        return NULL;
    }
    if (needed > writer->room) {
        size_t room = needed < 256 ? 256 : needed + needed / 2;
        char *data = PyMem_Realloc(writer->data, room);
        if (data == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        writer->data = data;
        writer->room = room;
    }
    return writer->data + writer->nbytes;
}

static int write_raw(struct writer *writer, const char *data, size_t nbytes)
{
    char *out = reserve(writer, nbytes);
    if (out == NULL)
        return -1;
    memcpy(out, data, nbytes);
    writer->nbytes += nbytes;
    return 0;
}

static int write_head(struct writer *writer, char mark, int64_t number)
{
    char line[RESP_LINE_MAX];
    return write_raw(writer, line, (size_t)(resp_write_line(line, mark, number) - line));
}

static int write_text(struct writer *writer, const char *data, size_t nbytes)
{
    char *out = reserve(writer, resp_bulk_size(nbytes));
    if (out == NULL)
        return -1;
    writer->nbytes += (size_t)(write_bulk(out, data, nbytes) - out);
    return 0;
}

static int write_float(struct writer *writer, double number)
{
    char *digits = PyOS_double_to_string(number, 'r', 0, 0, NULL); /* repr, without its .0 */
    if (digits == NULL)
        return -1;
    int error;
    if (writer->protocol == 2)
        error = write_text(writer, digits, strlen(digits));
    else if ((error = write_raw(writer, ",", 1)) == 0 &&
             (error = write_raw(writer, digits, strlen(digits))) == 0)
        error = write_raw(writer, "\r\n", 2);
    PyMem_Free(digits);
    return error;
}

/* Writes what the twin makes of a value. */
static int write_unusual(struct writer *writer, PyObject *value)
{
    PyObject *reply =
        PyObject_CallFunction(writer->state->encoders[ENCODE], "Oi", value, writer->protocol);
    if (reply == NULL)
        return -1;
    int error = write_raw(writer, PyBytes_AS_STRING(reply), (size_t)PyBytes_GET_SIZE(reply));
    Py_DECREF(reply);
    return error;
}

/* Writes the items of a tuple behind a head, taking it over; NULL is an exception. */
static int write_tuple(struct writer *writer, char mark, PyObject *items)
{
    if (items == NULL)
        return -1;
    int error = write_head(writer, mark, PyTuple_GET_SIZE(items));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items) && error == 0; i++)
        error = write_value(writer, PyTuple_GET_ITEM(items, i));
    Py_DECREF(items);
    return error;
}

static int write_dict(struct writer *writer, PyObject *dict)
{
    PyObject *items = PyDict_Items(dict);
    if (items == NULL)
        return -1;
    Py_ssize_t count = PyList_GET_SIZE(items);
    int error = writer->protocol == 3 ? write_head(writer, '%', count)
                                      : write_head(writer, '*', 2 * (int64_t)count);
    for (Py_ssize_t i = 0; i < count && error == 0; i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        error = write_value(writer, PyTuple_GET_ITEM(item, 0));
        if (error == 0)
            error = write_value(writer, PyTuple_GET_ITEM(item, 1));
    }
    Py_DECREF(items);
    return error;
}

static int write_aggregate(struct writer *writer, PyObject *value)
{
    if (PyDict_CheckExact(value))
        return write_dict(writer, value);
    char mark = PyAnySet_CheckExact(value) && writer->protocol == 3 ? '~' : '*';
    return write_tuple(writer, mark, PySequence_Tuple(value));
}

static int write_value(struct writer *writer, PyObject *value)
{
    const char *data;
    size_t nbytes;
    long long number;
    if (read_text(value, &data, &nbytes))
        return write_text(writer, data, nbytes);
    if (PyBool_Check(value) && writer->protocol == 3)
        return write_raw(writer, value == Py_True ? "#t\r\n" : "#f\r\n", 4);
    if (read_integer(value, &number))
        return write_head(writer, ':', number);
    if (value == Py_None) {
        PyObject *null = writer->state->nulls[writer->protocol - 2];
        return write_raw(writer, PyBytes_AS_STRING(null), (size_t)PyBytes_GET_SIZE(null));
    }
    if (PyFloat_CheckExact(value))
        return write_float(writer, PyFloat_AS_DOUBLE(value));
    if (!PyList_CheckExact(value) && !PyTuple_CheckExact(value) && !PyDict_CheckExact(value) &&
        !PyAnySet_CheckExact(value))
        return write_unusual(writer, value);
    if (Py_EnterRecursiveCall(" while encoding a reply"))
        return -1;
    int error = write_aggregate(writer, value);
    Py_LeaveRecursiveCall();
    return error;
}

static PyObject *encode_encode(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames)
{
    struct writer writer = {.state = PyModule_GetState(module)};
    writer.protocol = nargs > 0 ? protocol_of(module, args, nargs, kwnames, 1) : 0;
    if (writer.protocol == 0)
        return twin(module, ENCODE, args, nargs, kwnames);
    PyObject *reply = NULL;
    if (write_value(&writer, args[0]) == 0)
        reply = PyBytes_FromStringAndSize(writer.data, (Py_ssize_t)writer.nbytes);
    PyMem_Free(writer.data);
    return reply;
}

/* the functions */

#define WITH_PROTOCOL ", protocol=2)\n--\n\n"
#define ALONE ")\n--\n\n"

static const struct {
    const char *name, *signature;
    _PyCFunctionFastWithKeywords function;
} functions[ENCODERS] = {
    [SIMPLE] = {"simple", "($module, text" ALONE, encode_simple},
    [ERROR] = {"error", "($module, text" ALONE, encode_error},
    [INTEGER] = {"integer", "($module, number" ALONE, encode_integer},
    [INTEGERS] = {"integers", "($module, values" ALONE, encode_integers},
    [BULK] = {"bulk", "($module, data" WITH_PROTOCOL, encode_bulk},
    [BULKS] = {"bulks", "($module, values" WITH_PROTOCOL, encode_bulks},
    [NULL_] = {"null", "($module" WITH_PROTOCOL, encode_null},
    [ARRAY] = {"array", "($module, items" ALONE, encode_array},
    [MAP] = {"map", "($module, pairs" WITH_PROTOCOL, encode_map},
    [ENCODE] = {"encode", "($module, value" WITH_PROTOCOL, encode_encode},
};

/* Adds an encoder, with the twin's docstring: both are documented in one place. */
static int add_encoder(PyObject *module, PyObject *twins, enum encoder encoder)
{
    module_state *state = PyModule_GetState(module);
    const char *name = functions[encoder].name, *doc = NULL;
    PyObject *function = PyObject_GetAttrString(twins, name);
    state->encoders[encoder] = function;
    PyObject *text = function != NULL ? PyObject_GetAttrString(function, "__doc__") : NULL;
    if (text != NULL && text != Py_None) /* without docstrings (-OO) it is None */
        doc = PyUnicode_AsUTF8(text);
    if (text != NULL && !PyErr_Occurred())
        state->docs[encoder] = PyBytes_FromFormat("%s%s%s", name, functions[encoder].signature,
                                                  doc != NULL ? doc : "");
    Py_XDECREF(text);
    if (state->docs[encoder] == NULL)
        return -1;
    state->methods[encoder] =
        (PyMethodDef){name, (PyCFunction)(void (*)(void))functions[encoder].function,
                      METH_FASTCALL | METH_KEYWORDS, PyBytes_AS_STRING(state->docs[encoder])};
    PyObject *module_name = PyModule_GetNameObject(module);
    PyObject *added = module_name != NULL
                          ? PyCFunction_NewEx(&state->methods[encoder], module, module_name)
                          : NULL;
    int error = added != NULL ? PyModule_AddObjectRef(module, name, added) : -1;
    Py_XDECREF(added);
    Py_XDECREF(module_name);
    return error;
}

int encoders_add(PyObject *module)
{
    PyObject *twins = PyImport_ImportModule("evio._resp");
    int error = twins != NULL ? 0 : -1;
    for (size_t encoder = 0; encoder < ENCODERS && error == 0; encoder++)
        error = add_encoder(module, twins, (enum encoder)encoder);
    Py_XDECREF(twins);
    return error;
}
