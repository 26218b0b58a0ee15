/* The Wake type: a reference to the core's wake, and nothing of Python's, so that keeping one keeps
 * neither the server nor ctx alive. */

#include "py.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD PyObject *weakrefs;
    evio_wake *wake;
} WakeObject;

static bool is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

PyObject *Wake_new(module_state *state, evio_conn *conn)
{
    evio_wake *wake = evio_conn_wake(conn);
    if (wake == NULL)
        return PyErr_NoMemory();
    WakeObject *self = (WakeObject *)state->Wake_type->tp_alloc(state->Wake_type, 0);
    if (self == NULL) {
        evio_wake_release(wake);
        return NULL;
    }
    self->wake = wake;
    return (PyObject *)self;
}

/* Raises what evio.Wake raises. With one of our own, object.__new__ refuses as well. */
static PyObject *Wake_by_hand(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return type->tp_base->tp_new(type->tp_base, args, kwargs);
}

static int Wake_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void Wake_dealloc(WakeObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self); /* first: a weak reference's callback may start a collection */
    /* Whether there are any it finds out itself, as another thread may be dropping one. */
    PyObject_ClearWeakRefs((PyObject *)self);
    evio_wake_release(self->wake);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static int send_data(evio_wake *wake, PyObject *data)
{
    if (PyBytes_CheckExact(data)) {
        evio_piece piece = {PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), data};
        return evio_wake_send(wake, &piece);
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    evio_piece piece = {view.buf, (size_t)view.len, NULL};
    int open = evio_wake_send(wake, &piece);
    PyBuffer_Release(&view);
    return open;
}

/* Raises what evio._replies says of `data`. */
static void bad_data(WakeObject *self, PyObject *data)
{
    if (!is_no_buffer())
        return;
    PyErr_Clear();
    module_state *state = PyType_GetModuleState(Py_TYPE(self));
    PyObject *error = PyObject_CallOneArg(state->bad_wake, data);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

static PyObject *Wake_call(WakeObject *self, PyObject *args, PyObject *kwargs)
{
    PyObject *data = Py_None;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "wake() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_UnpackTuple(args, "wake", 0, 1, &data))
        return NULL;
    if (is_finalizing())
        Py_RETURN_FALSE;
    int open = data == Py_None ? evio_wake_call(self->wake) : send_data(self->wake, data);
    if (PyErr_Occurred()) {
        bad_data(self, data);
        return NULL;
    }
    if (open < 0)
        return PyErr_NoMemory();
    return PyBool_FromLong(open);
}

static PyObject *Wake_repr(WakeObject *self)
{
    return PyUnicode_FromFormat("<evio.Wake id=%llu %s>",
                                (unsigned long long)evio_wake_id(self->wake),
                                evio_wake_is_open(self->wake) ? "open" : "closed");
}

static PyObject *Wake_get_id(WakeObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(evio_wake_id(self->wake));
}

static PyGetSetDef Wake_getset[] = {
    {"id", (getter)Wake_get_id, NULL,
     PyDoc_STR("The connection's id, as the callbacks are given it."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef Wake_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(WakeObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot Wake_slots[] = {
    {Py_tp_new, Wake_by_hand},
    {Py_tp_dealloc, Wake_dealloc},
    {Py_tp_traverse, Wake_traverse},
    {Py_tp_call, Wake_call},
    {Py_tp_repr, Wake_repr},
    {Py_tp_getset, Wake_getset},
    {Py_tp_members, Wake_members},
    {Py_tp_doc, (void *)PyDoc_STR("The native engine's Wake; see evio.Wake.")},
    {0, NULL},
};

PyType_Spec Wake_spec = {
    .name = "evio._native.Wake",
    .basicsize = sizeof(WakeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, /* which evio.Wake has, as all classes do */
    .slots = Wake_slots,
};
