/* Decoders of Redis requests: each a list of its arguments, or consecutive ones as a run. */

#include "py.h"

#include "../frame/resp.h"

#include <string.h>

/* Requests of up to this many arguments need no memory before they are complete. */
#define ARGS_ON_STACK 64

typedef struct {
    DecoderObject decoder;
    struct resp_parser parser;
    PyObject *names; /* of a RunsDecoder: a dict, or None */
} RespObject;

/* what is common */

static PyObject *argument(const char *request, const struct resp_arg *arg)
{
    const char *raw = request + arg->at;
    if (!arg->quoted)
        return PyBytes_FromStringAndSize(raw, (Py_ssize_t)arg->nbytes);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)arg->nbytes);
    if (bytes != NULL) {
        size_t nbytes = resp_unquote(raw, arg->nbytes, PyBytes_AS_STRING(bytes));
        (void)_PyBytes_Resize(&bytes, (Py_ssize_t)nbytes); /* a failure shows as NULL */
    }
    return bytes;
}

/* Whether an argument is what `bytes` are. */
static inline bool is_same(PyObject *bytes, const char *request, const struct resp_arg *arg)
{
    return (size_t)PyBytes_GET_SIZE(bytes) == arg->nbytes && !arg->quoted &&
           memcmp(PyBytes_AS_STRING(bytes), request + arg->at, arg->nbytes) == 0;
}

/* How often the request comes again right behind itself. Pipelines are full of repetition, and what is the same to
 * the byte need not be read again. */
static size_t repeats(const char *request, size_t taken, size_t nbytes)
{
    size_t count = 0;
    for (size_t at = taken; nbytes - at >= taken && memcmp(request, request + at, taken) == 0;
         at += taken)
        count++;
    return count;
}

/* Raises what the parser's answer means. Returns -1. */
static int raise_bad(const RespObject *self, ssize_t answer)
{
    char reason[RESP_REASON_MAX];
    if (answer == FRAME_NO_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    size_t nbytes = resp_reason(&self->parser, reason);
    return raise_made(
        PyObject_CallFunction(self->decoder.state->bad_request, "y#", reason, (Py_ssize_t)nbytes));
}

/* Leaves the parser as it is between two feeds. Returns `used`, or -1 with an exception set. */
static Py_ssize_t suspend(RespObject *self, Py_ssize_t used)
{
    if (used < 0)
        resp_clear(&self->parser);
    else if (resp_suspend(&self->parser) != 0)
        return raise_bad(self, FRAME_NO_MEMORY);
    return used;
}

static void RespDecoder_dealloc(PyObject *self)
{
    RespObject *resp = (RespObject *)self;
    resp_clear(&resp->parser);
    Py_XDECREF(resp->names);
    decoder_dealloc(self);
}

static RespObject *new_decoder(PyTypeObject *type, decode_function decode, Py_ssize_t max_size)
{
    if (max_size < 1) {
        PyErr_SetString(PyExc_ValueError, "this is for evio.resp, which checks its arguments");
        return NULL;
    }
    RespObject *self = decoder_new(type, decode);
    if (self != NULL)
        self->parser.max_size = (size_t)max_size;
    return self;
}

/* commands */

/* A request as a list of its arguments. Its name is the object that the request before it has, if it is the same. */
static PyObject *command(const char *request, const struct resp_parser *parser, PyObject *name)
{
    PyObject *list = PyList_New((Py_ssize_t)parser->nargs);
    for (size_t i = 0; list != NULL && i < parser->nargs; i++) {
        PyObject *bytes;
        if (i == 0 && name != NULL && is_same(name, request, &parser->args[0]))
            bytes = Py_NewRef(name);
        else if ((bytes = argument(request, &parser->args[i])) == NULL)
            Py_CLEAR(list);
        if (list != NULL)
            PyList_SET_ITEM(list, (Py_ssize_t)i, bytes);
    }
    return list;
}

/* Appends a list and takes it over; NULL is an exception. */
static int append_new(PyObject *messages, PyObject *list)
{
    int error = list != NULL ? PyList_Append(messages, list) : -1;
    Py_XDECREF(list);
    return error;
}

/* Appends a request so many times, each a list of its own. `name` is the one of the request before, and then of this. */
static int append_commands(PyObject *messages, const char *request,
                           const struct resp_parser *parser, size_t times, PyObject **name)
{
    PyObject *first = command(request, parser, *name);
    if (first == NULL)
        return -1;
    Py_XSETREF(*name, Py_NewRef(PyList_GET_ITEM(first, 0)));
    int error = PyList_Append(messages, first);
    for (; times > 1 && error == 0; times--)
        error = append_new(messages, PyList_GetSlice(first, 0, (Py_ssize_t)parser->nargs));
    Py_DECREF(first);
    return error;
}

static Py_ssize_t read_commands(RespObject *self, const char *data, size_t nbytes,
                                PyObject *messages, PyObject **name)
{
    const struct resp_parser *parser = &self->parser;
    size_t used = 0;
    for (;;) {
        const char *request = data + used;
        ssize_t taken = resp_next(&self->parser, request, nbytes - used);
        if (taken == FRAME_PARTIAL)
            return (Py_ssize_t)used;
        if (taken < 0)
            return raise_bad(self, taken);
        size_t times = 1;
        if (parser->nargs > 0) {
            times += repeats(request, (size_t)taken, nbytes - used);
            if (append_commands(messages, request, parser, times, name) < 0)
                return -1;
        }
        used += (size_t)taken * times;
    }
}

static Py_ssize_t CommandsDecoder_decode(DecoderObject *self, const char *data, size_t nbytes,
                                         PyObject *messages)
{
    RespObject *resp = (RespObject *)self;
    struct resp_arg args[ARGS_ON_STACK];
    PyObject *name = NULL;
    resp_resume(&resp->parser, args, COUNT(args));
    Py_ssize_t used = read_commands(resp, data, nbytes, messages, &name);
    Py_XDECREF(name);
    return suspend(resp, used);
}

static PyObject *CommandsDecoder_new(PyTypeObject *type, PyObject *args,
                                     PyObject *Py_UNUSED(kwargs))
{
    Py_ssize_t max_size;
    if (!PyArg_ParseTuple(args, "n:CommandsDecoder", &max_size))
        return NULL;
    return (PyObject *)new_decoder(type, CommandsDecoder_decode, max_size);
}

static PyType_Slot CommandsDecoder_slots[] = {
    {Py_tp_new, CommandsDecoder_new},
    {Py_tp_dealloc, RespDecoder_dealloc},
    {Py_tp_methods, decoder_methods},
    {Py_tp_doc, (void *)PyDoc_STR("evio._resp.CommandsDecoder in C.")},
    {0, NULL},
};

PyType_Spec CommandsDecoder_spec = {
    .name = "evio._native.CommandsDecoder",
    .basicsize = sizeof(RespObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = CommandsDecoder_slots,
};

/* runs */

/* Names as they were spelt in this feed, and what they come as; a pipeline has few of them. */
#define SPELLINGS 8

struct spelling {
    PyObject *spelt, *name;
};

/* The run that requests are being added to. Its arguments are kept request after request, and become lists of the right
 * length when it ends: nobody sees one that is half filled. */
struct run {
    PyObject *name; /* NULL: there is none */
    size_t ncolumns;
    Py_ssize_t count;
    PyObject **cells; /* references, or NULL where one has been moved */
    size_t ncells, room;
    struct spelling spellings[SPELLINGS];
    size_t nspellings; /* all that there were: a new one takes the place of the oldest */
};

static void drop_run(struct run *run)
{
    Py_CLEAR(run->name);
    while (run->ncells > 0)
        Py_XDECREF(run->cells[--run->ncells]);
}

/* Makes room for so many requests more. */
static int reserve(struct run *run, size_t nrequests)
{
    size_t needed =
        run->ncells + nrequests * run->ncolumns; /* no more than the bytes that were fed */
    if (needed <= run->room)
        return 0;
    size_t room = needed + needed / 2 + 16;
    PyObject **cells = PyMem_Resize(run->cells, PyObject *, room);
    if (cells == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    run->cells = cells;
    run->room = room;
    return 0;
}

/* Moves the arguments at a position into a list, and puts that in the place of the first of them. */
static int make_column(struct run *run, size_t position)
{
    PyObject *column = PyList_New(run->count);
    if (column == NULL)
        return -1;
    PyObject **cell = &run->cells[position];
    for (Py_ssize_t i = 0; i < run->count; i++, cell += run->ncolumns) {
        PyList_SET_ITEM(column, i, *cell);
        *cell = NULL;
    }
    run->cells[position] = column;
    return 0;
}

/* Appends the run to the messages, if there is one. */
static int end_run(struct run *run, PyObject *messages)
{
    if (run->name == NULL)
        return 0;
    for (size_t i = 0; i < run->ncolumns; i++)
        if (make_column(run, i) < 0)
            return -1;
    PyObject *columns = PyTuple_New((Py_ssize_t)run->ncolumns);
    if (columns == NULL)
        return -1;
    for (size_t i = 0; i < run->ncolumns; i++) {
        PyTuple_SET_ITEM(columns, (Py_ssize_t)i, run->cells[i]);
        run->cells[i] = NULL;
    }
    PyObject *message = Py_BuildValue("OnN", run->name, run->count, columns);
    drop_run(run);
    return append_new(messages, message);
}

/* What a name that is spelt so comes as: in upper case, where it is known; else as it is spelt. */
static PyObject *known_name(const RespObject *self, PyObject *spelt)
{
    Py_ssize_t nbytes = PyBytes_GET_SIZE(spelt);
    PyObject *upper = PyBytes_FromStringAndSize(NULL, nbytes);
    if (upper == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < nbytes; i++)
        PyBytes_AS_STRING(upper)[i] = (char)Py_TOUPPER(PyBytes_AS_STRING(spelt)[i]);
    PyObject *name;
    if (self->names == Py_None)
        name = PyObject_CallOneArg(self->decoder.state->intern_name, upper);
    else {
        name = PyDict_GetItemWithError(self->names, upper);
        if (name != NULL || !PyErr_Occurred())
            name = Py_NewRef(name != NULL ? name : spelt);
    }
    Py_DECREF(upper);
    return name;
}

/* The name that a request comes under, borrowed from the spellings, or NULL with an exception set. */
static PyObject *name_of(const RespObject *self, struct run *run, const char *request)
{
    const struct resp_arg *arg = &self->parser.args[0];
    for (size_t i = 0; i < SPELLINGS && i < run->nspellings; i++)
        if (is_same(run->spellings[i].spelt, request, arg))
            return run->spellings[i].name;
    PyObject *spelt = argument(request, arg);
    PyObject *name = spelt != NULL ? known_name(self, spelt) : NULL;
    if (name == NULL) {
        Py_XDECREF(spelt);
        return NULL;
    }
    struct spelling *spelling = &run->spellings[run->nspellings++ % SPELLINGS];
    Py_XSETREF(spelling->spelt, spelt);
    Py_XSETREF(spelling->name, name);
    return name;
}

static bool is_same_name(PyObject *one, PyObject *other)
{
    Py_ssize_t nbytes = PyBytes_GET_SIZE(one);
    return one == other ||
           (nbytes == PyBytes_GET_SIZE(other) &&
            memcmp(PyBytes_AS_STRING(one), PyBytes_AS_STRING(other), (size_t)nbytes) == 0);
}

/* Ends the run before a request unless it is like it, and begins one that is. */
static int choose_run(const RespObject *self, struct run *run, const char *request,
                      PyObject *messages)
{
    size_t ncolumns = self->parser.nargs - 1;
    PyObject *name = name_of(self, run, request);
    if (name == NULL)
        return -1;
    if (run->name != NULL && run->ncolumns == ncolumns && is_same_name(run->name, name))
        return 0;
    if (end_run(run, messages) < 0)
        return -1;
    run->name = Py_NewRef(name);
    run->ncolumns = ncolumns;
    run->count = 0;
    return 0;
}

/* Adds a request to the run. An argument that is the same as in the request before is the same object: values
 * repeat in pipelines, and a key that was hashed once is quicker to look up. */
static int add_to_run(struct run *run, const char *request, const struct resp_arg *args)
{
    if (reserve(run, 1) < 0)
        return -1;
    for (size_t i = 1; i <= run->ncolumns; i++) {
        PyObject *bytes = run->count > 0 ? run->cells[run->ncells - run->ncolumns] : NULL;
        if (bytes != NULL && is_same(bytes, request, &args[i]))
            Py_INCREF(bytes);
        else if ((bytes = argument(request, &args[i])) == NULL)
            return -1;
        run->cells[run->ncells++] = bytes;
    }
    run->count++;
    return 0;
}

/* Adds the run's last request so many times more. */
static int repeat_in_run(struct run *run, size_t times)
{
    if (reserve(run, times) < 0)
        return -1;
    for (size_t n = times * run->ncolumns; n > 0; n--, run->ncells++)
        run->cells[run->ncells] = Py_NewRef(run->cells[run->ncells - run->ncolumns]);
    run->count += (Py_ssize_t)times;
    return 0;
}

static Py_ssize_t read_runs(RespObject *self, struct run *run, const char *data, size_t nbytes,
                            PyObject *messages)
{
    struct resp_parser *parser = &self->parser;
    size_t used = 0;
    for (;;) {
        const char *request = data + used;
        ssize_t taken = resp_next(parser, request, nbytes - used);
        if (taken < 0) {
            if (end_run(run, messages) < 0)
                return -1;
            return taken == FRAME_PARTIAL ? (Py_ssize_t)used : raise_bad(self, taken);
        }
        size_t times = 1;
        if (parser->nargs > 0) {
            times += repeats(request, (size_t)taken, nbytes - used);
            if (choose_run(self, run, request, messages) < 0 ||
                add_to_run(run, request, parser->args) < 0 || repeat_in_run(run, times - 1) < 0)
                return -1;
        }
        used += (size_t)taken * times;
    }
}

static Py_ssize_t RunsDecoder_decode(DecoderObject *self, const char *data, size_t nbytes,
                                     PyObject *messages)
{
    RespObject *resp = (RespObject *)self;
    struct resp_arg args[ARGS_ON_STACK];
    struct run run = {0};
    resp_resume(&resp->parser, args, COUNT(args));
    Py_ssize_t used = read_runs(resp, &run, data, nbytes, messages);
    drop_run(&run);
    PyMem_Free(run.cells);
    for (size_t i = 0; i < SPELLINGS; i++) {
        Py_XDECREF(run.spellings[i].spelt);
        Py_XDECREF(run.spellings[i].name);
    }
    return suspend(resp, used);
}

static PyObject *RunsDecoder_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Py_ssize_t max_size;
    PyObject *names;
    if (!PyArg_ParseTuple(args, "nO:RunsDecoder", &max_size, &names))
        return NULL;
    if (names != Py_None && !PyDict_CheckExact(names)) {
        PyErr_SetString(PyExc_TypeError, "names must be a dict or None");
        return NULL;
    }
    RespObject *self = new_decoder(type, RunsDecoder_decode, max_size);
    if (self != NULL)
        self->names = Py_NewRef(names);
    return (PyObject *)self;
}

static PyType_Slot RunsDecoder_slots[] = {
    {Py_tp_new, RunsDecoder_new},
    {Py_tp_dealloc, RespDecoder_dealloc},
    {Py_tp_methods, decoder_methods},
    {Py_tp_doc, (void *)PyDoc_STR("evio._resp.RunsDecoder in C.")},
    {0, NULL},
};

PyType_Spec RunsDecoder_spec = {
    .name = "evio._native.RunsDecoder",
    .basicsize = sizeof(RespObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = RunsDecoder_slots,
};
