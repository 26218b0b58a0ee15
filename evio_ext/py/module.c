/* The module evio._native: its state and how it is filled. */

#include "py.h"

#include <stddef.h>

/* What the binding takes from the package, and where it is kept. */
static const struct {
    const char *module, *name;
    size_t offset;
} imports[] = {
    {"evio._decoders", "FrameError", offsetof(module_state, FrameError)},
    {"evio._decoders", "line_too_long", offsetof(module_state, line_too_long)},
    {"evio._decoders", "message_too_long", offsetof(module_state, message_too_long)},
    {"evio._decoders", "check_fed", offsetof(module_state, check_fed)},
    {"evio._resp", "bad_request", offsetof(module_state, bad_request)},
    {"evio._resp", "intern_name", offsetof(module_state, intern_name)},
    {"evio._replies", "parse", offsetof(module_state, parse)},
    {"evio._replies", "parse_tick", offsetof(module_state, parse_tick)},
    {"evio._replies", "parse_messages", offsetof(module_state, parse_messages)},
    {"evio._replies", "bad_wake", offsetof(module_state, bad_wake)},
    {"evio._faults", "socket_error", offsetof(module_state, socket_error)},
    {"evio._faults", "idle_error", offsetof(module_state, idle_error)},
    {"evio._faults", "linger_error", offsetof(module_state, linger_error)},
    {"evio._faults", "overflow_error", offsetof(module_state, overflow_error)},
    {"evio._faults", "log_failure", offsetof(module_state, log_failure)},
    {"evio._faults", "log_accept_paused", offsetof(module_state, log_accept_paused)},
};

static const struct {
    const char *text;
    size_t offset;
} strings[] = {
    {"decoder", offsetof(module_state, str_decoder)},
    {"feed", offsetof(module_state, str_feed)},
    {"messages", offsetof(module_state, str_messages)},
    {"reply", offsetof(module_state, str_reply)},
    {"protocol", offsetof(module_state, str_protocol)},
};

static PyObject **member(module_state *state, size_t offset)
{
    return (PyObject **)((char *)state + offset);
}

static PyObject *import_name(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL)
        return NULL;
    PyObject *value = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return value;
}

/* A function whose call is a trip through the interpreter's loop: where it runs signal handlers,
 * and lets a thread in that is waiting for the GIL. */
static PyObject *make_breathe(void)
{
    PyObject *code = Py_CompileString("lambda: None", "<evio>", Py_eval_input);
    PyObject *globals = code != NULL ? PyDict_New() : NULL;
    PyObject *function = globals != NULL ? PyEval_EvalCode(code, globals, globals) : NULL;
    Py_XDECREF(globals);
    Py_XDECREF(code);
    return function;
}

static int add_decoders(PyObject *module, module_state *state)
{
    for (size_t i = 0; i < DECODERS; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, decoder_specs[i], NULL);
        state->decoder_types[i] = (PyTypeObject *)type;
        if (type == NULL || PyModule_AddType(module, state->decoder_types[i]) < 0)
            return -1;
    }
    return 0;
}

static int module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    for (size_t i = 0; i < COUNT(imports); i++) {
        PyObject *value = import_name(imports[i].module, imports[i].name);
        if (value == NULL)
            return -1;
        *member(state, imports[i].offset) = value;
    }
    for (size_t i = 0; i < COUNT(strings); i++) {
        PyObject *value = PyUnicode_InternFromString(strings[i].text);
        if (value == NULL)
            return -1;
        *member(state, strings[i].offset) = value;
    }
    state->empty = PyBytes_FromStringAndSize(NULL, 0);
    state->nulls[0] = PyBytes_FromString("$-1\r\n");
    state->nulls[1] = PyBytes_FromString("_\r\n");
    state->breathe = make_breathe();
    if (state->empty == NULL || state->nulls[0] == NULL || state->nulls[1] == NULL ||
        state->breathe == NULL)
        return -1;
    PyObject *base = import_name("evio._wake", "Wake");
    if (base == NULL)
        return -1;
    state->Wake_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &Wake_spec, base);
    Py_DECREF(base);
    state->Loop_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &Loop_spec, NULL);
    if (state->Wake_type == NULL || state->Loop_type == NULL)
        return -1;
    if (PyModule_AddType(module, state->Wake_type) < 0 ||
        PyModule_AddType(module, state->Loop_type) < 0 || add_decoders(module, state) < 0 ||
        encoders_add(module) < 0)
        return -1;
    return PyModule_AddStringConstant(module, "POLLER", evio_poller());
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->Loop_type);
    Py_VISIT(state->Wake_type);
    Py_VISIT(state->breathe);
    for (size_t i = 0; i < DECODERS; i++)
        Py_VISIT(state->decoder_types[i]);
    for (size_t i = 0; i < ENCODERS; i++)
        Py_VISIT(state->encoders[i]);
    for (size_t i = 0; i < COUNT(imports); i++)
        Py_VISIT(*member(state, imports[i].offset));
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->Loop_type);
    Py_CLEAR(state->Wake_type);
    Py_CLEAR(state->empty);
    Py_CLEAR(state->nulls[0]);
    Py_CLEAR(state->nulls[1]);
    Py_CLEAR(state->breathe);
    for (size_t i = 0; i < DECODERS; i++)
        Py_CLEAR(state->decoder_types[i]);
    for (size_t i = 0; i < ENCODERS; i++)
        Py_CLEAR(state->encoders[i]);
    for (size_t i = 0; i < COUNT(imports); i++)
        Py_CLEAR(*member(state, imports[i].offset));
    for (size_t i = 0; i < COUNT(strings); i++)
        Py_CLEAR(*member(state, strings[i].offset));
    return 0;
}

static void module_free(void *module)
{
    module_state *state = PyModule_GetState(module);
    (void)module_clear(module);
    for (size_t i = 0; i < ENCODERS; i++)
        Py_CLEAR(state->docs[i]);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "evio._native",
    .m_doc = PyDoc_STR("evio in C: the event loop, the decoders, and the encoders of replies."),
    .m_size = sizeof(module_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&module_def);
}
