/* What the files of the binding share: the module's state, its types, replies, decoders and
 * encoders. */

#ifndef EVIO_PY_H
#define EVIO_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../core/evio.h"
#include "../frame/frame.h"

#ifndef Py_BEGIN_CRITICAL_SECTION /* before 3.13 the GIL is all the lock there is */
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* The encoders of replies, each with a twin in evio._resp. */
enum encoder { SIMPLE, ERROR, INTEGER, BULK, NULL_, ARRAY, MAP, ENCODE, BULKS, INTEGERS, ENCODERS };

/* The decoder types, in the order of decoder_specs. */
enum { DECODERS = 4 };

/* Everything that lives as long as the module. */
typedef struct {
    PyTypeObject *Loop_type;
    PyTypeObject *Wake_type;
    PyTypeObject *decoder_types[DECODERS];
    PyObject *empty;    /* b"" */
    PyObject *breathe;  /* a function of bytecode that does nothing */
    PyObject *nulls[2]; /* in RESP2, in RESP3 */
    /* evio._decoders */
    PyObject *FrameError;
    PyObject *line_too_long;
    PyObject *message_too_long;
    PyObject *check_fed;
    /* evio._resp */
    PyObject *bad_request;
    PyObject *intern_name;
    PyObject *encoders[ENCODERS]; /* the twins */
    PyMethodDef methods[ENCODERS];
    PyObject *docs[ENCODERS]; /* what ml_doc points into: goes with the module, not before */
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
    PyObject *str_protocol;
} module_state;

/* Takes the exception that is set, and raises one, taking it over: errors.c. */
PyObject *take_exception(void);
void raise_exception(PyObject *exception);

extern PyType_Spec Loop_spec; /* loop.c */
extern PyType_Spec Wake_spec; /* wake.c */

/* Returns a new Wake for the connection, or NULL with an exception set. */
PyObject *Wake_new(module_state *state, evio_conn *conn);

/* Sends what `callback` returned. Returns EVIO_KEEP or EVIO_CLOSE, or -1 with an exception set. */
int reply_send(module_state *state, evio_conn *conn, const char *callback, PyObject *reply);

/* Whether the exception that is set says that an object has no buffer to read: it is of another
 * type, strided, or a memoryview that was released. */
bool is_no_buffer(void);

/* decoders: decoder.c and resp.c */

typedef struct decoder DecoderObject;

/* Appends the messages in `data` to a list. Returns how many bytes they take, or -1 with an exception set. */
typedef Py_ssize_t (*decode_function)(DecoderObject *self, const char *data, size_t nbytes,
                                      PyObject *messages);

/* What every decoder begins with. */
struct decoder {
    PyObject_HEAD module_state *state;
    decode_function decode;
    struct frame_hold hold; /* the partial message */
    bool failed;            /* the stream is of no more use */
    bool busy;              /* inside its own feed */
};

extern PyType_Spec *const decoder_specs[DECODERS];
extern PyType_Spec CommandsDecoder_spec, RunsDecoder_spec; /* resp.c */
extern PyMethodDef decoder_methods[];                      /* feed */

/* Returns a new object of a decoder type, zeroed behind what it begins with, or NULL with an exception set. */
void *decoder_new(PyTypeObject *type, decode_function decode);

/* Frees a decoder and what it begins with. */
void decoder_dealloc(PyObject *self);

/* Whether an object is one of our decoders. */
bool decoder_check(const module_state *state, PyObject *object);

/* Returns the list of the messages that are complete with the next piece, or NULL with an exception set. */
PyObject *decoder_feed(DecoderObject *self, const char *data, size_t nbytes);

/* Raises an exception that was made by one of the package's functions, taking it over; NULL is one that
 * is set already. Returns -1. */
int raise_made(PyObject *exception);

/* Adds the encoders to the module: encode.c. Returns 0, or -1 with an exception set. */
int encoders_add(PyObject *module);

#endif
