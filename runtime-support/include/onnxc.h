/* onnxc.h: the C ABI of a model compiled by onnxc.
 *
 * A compiled model NAME is re-entrant code without hidden state: it starts no thread, allocates nothing and keeps
 * nothing between calls. The caller gives it tensors, an arena and, where wanted, a way to run tasks in parallel:
 *
 *     size_t bytes;
 *     NAME_plan(NULL, 1, &bytes);                     the arena of a static model, one worker
 *     onnxc_call call = ONNXC_CALL_INIT;
 *     call.arena = aligned_alloc(64, bytes);
 *     call.arena_bytes = bytes;
 *     onnxc_value in[1], out[1];
 *     onnxc_value_init(&in[0], &NAME.inputs[0], x, sizeof x);
 *     onnxc_value_init(&out[0], &NAME.outputs[0], y, sizeof y);
 *     int status = NAME_run(in, out, &call);          0, or a negative ONNXC_* (NAME_status gives a message)
 *
 * Every function returns 0 or a negative status; a wrong argument is a status and never a crash, as far as memory
 * that the caller names exists. Different threads may run one model at once when each has its own arena and outputs.
 *
 * The offsets asserted below hold wherever pointers have 64 bits; generated code relies on them. C11 and C++11.
 * When dlpack/dlpack.h is used as well, include it before this file. */
#ifndef ONNXC_H
#define ONNXC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define ONNXC_STATIC_ASSERT(condition, text) static_assert(condition, text)
extern "C" {
#else
#define ONNXC_STATIC_ASSERT(condition, text) _Static_assert(condition, text)
#endif

/* The version of everything in this file. A model refuses a call of another version. */
#define ONNXC_ABI_VERSION 1u
/* The greatest rank of a model's inputs and outputs. */
#define ONNXC_MAX_RANK 8
/* The greatest max_workers. */
#define ONNXC_MAX_WORKERS 256
/* The alignment, in bytes, of the arena and of external weights; every arena size is a multiple of it. */
#define ONNXC_ALIGN 64

/* ---------------------------------------------------------------------------------------------- DLPack tensors */

/* The part of DLPack's interface that the ABI uses, with DLPack's names and layout. */
#ifndef DLPACK_DLPACK_H_
typedef enum {
    kDLCPU = 1,
    kDLCUDA = 2,
    kDLCUDAHost = 3,
    kDLCUDAManaged = 13
} DLDeviceType;

typedef enum {
    kDLInt = 0,
    kDLUInt = 1,
    kDLFloat = 2,
    kDLOpaqueHandle = 3,
    kDLBfloat = 4,
    kDLComplex = 5,
    kDLBool = 6,
    kDLFloat8_e4m3fn = 10,
    kDLFloat8_e4m3fnuz = 11,
    kDLFloat8_e5m2 = 12,
    kDLFloat8_e5m2fnuz = 13,
    kDLFloat8_e8m0fnu = 14,
    kDLFloat4_e2m1fn = 17
} DLDataTypeCode;

typedef struct {
    DLDeviceType device_type;
    int32_t device_id;
} DLDevice;

typedef struct {
    uint8_t code;   /* a DLDataTypeCode */
    uint8_t bits;   /* of one lane: 2, 4, 8, 16, 32, 64, or 128 for two f64 of a complex number */
    uint16_t lanes; /* 1, but 2 for strings */
} DLDataType;

typedef struct {
    void *data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t *shape;       /* ndim extents */
    int64_t *strides;     /* ndim strides in elements, or NULL for row-major */
    uint64_t byte_offset; /* of the first element from data */
} DLTensor;
#endif

/* ------------------------------------------------------------------------------------------------------ values */

/* What an onnxc_value or a port holds. */
enum {
    ONNXC_KIND_NONE = 0,     /* an absent optional */
    ONNXC_KIND_TENSOR = 1,
    ONNXC_KIND_SEQUENCE = 2, /* items[0 .. item_count) */
    ONNXC_KIND_MAP = 3       /* items[0] is the tensor of keys, items[1] the tensor of values */
};

/* Bits of onnxc_value.flags. */
enum {
    /* Set by run: tensor.data (or items, or string_bytes) came from onnxc_call.alloc and the caller releases it. */
    ONNXC_VALUE_OWNS_DATA = 1,
    ONNXC_VALUE_OWNS_ITEMS = 2,
    ONNXC_VALUE_OWNS_STRINGS = 4
};

/* One element of a string tensor: string_bytes[offset .. offset + length), UTF-8, no terminator.
 * The tensor's dtype is {kDLOpaqueHandle, 64, 2}. */
typedef struct onnxc_string {
    uint64_t offset;
    uint64_t length;
} onnxc_string;

/* An input or an output.
 *
 * Input: the caller sets kind and tensor. tensor.shape may point to dims of the same value or elsewhere. Elements lie
 * dense in row-major order from data + byte_offset on, aligned to one element; strides are NULL or say just that
 * (the stride of an axis of extent 1 or 0 is not looked at). data may be NULL when there are no elements. With
 * capacity_bytes 0 the buffer counts as large enough; another value below the tensor's size is ONNXC_CAPACITY.
 *
 * Strings of an input lie in string_bytes[0 .. string_used), and those of an output, which run sets string_used for, in
 * string_bytes[0 .. string_capacity): too little is ONNXC_MORE with string_used what it needs, and NULL with capacity 0
 * is allocated by onnxc_call.alloc.
 *
 * Output: the caller sets kind, tensor.data, device, dtype, byte_offset and capacity_bytes (from data + byte_offset
 * on). run sets ndim, dims, tensor.shape = dims and tensor.strides = NULL; what the caller left there is not read.
 * A capacity below the output's size gives ONNXC_MORE: the dims of every output whose shape is known by then are set,
 * and for static and dims models that is all of them, before any kernel runs. In a data model, an output whose data
 * is NULL and capacity 0 is allocated by onnxc_call.alloc: data, items and string_bytes are then what alloc returned
 * (byte_offset is 0), capacity_bytes, item_capacity and string_capacity what it was asked for, and flags say so.
 * Outputs overlap neither each other, inputs nor arena. */
typedef struct onnxc_value {
    DLTensor tensor;
    uint64_t capacity_bytes;
    int32_t kind;                 /* ONNXC_KIND_* */
    uint32_t flags;               /* ONNXC_VALUE_*, 0 from the caller */
    int64_t dims[ONNXC_MAX_RANK]; /* room for tensor.shape */
    struct onnxc_value *items;    /* sequences and maps */
    int64_t item_count;
    int64_t item_capacity;
    char *string_bytes; /* string tensors: what the (offset, length) pairs point into */
    uint64_t string_used;
    uint64_t string_capacity;
    uint64_t reserved[2]; /* 0 */
} onnxc_value;

/* ------------------------------------------------------------------------------------------------------- a call */

/* Runs fn(arg, task, worker) once for each task in 0 .. tasks, in any order, and returns when all are done. Two calls
 * that overlap in time have different workers, 0 <= worker < max_workers. Results do not depend on the order. */
typedef void (*onnxc_task_fn)(void *arg, int64_t task, int worker);
typedef void (*onnxc_parallel_for_fn)(void *user, onnxc_task_fn fn, void *arg, int64_t tasks);
/* Returns bytes (not 0) of memory aligned to align (a power of two), or NULL. */
typedef void *(*onnxc_alloc_fn)(void *user, size_t bytes, size_t align);
typedef void (*onnxc_release_fn)(void *user, void *pointer, size_t bytes);
/* Called with begin 1 before and 0 after the step (an index into onnxc_model.steps), from the thread of the call. */
typedef void (*onnxc_trace_fn)(void *user, int64_t step, int begin);

/* Where a call found a wrong argument: filled only for a status other than 0, -1 where a field says nothing. */
typedef struct onnxc_fault {
    int32_t output;   /* 0: the port is an input; 1: an output */
    int32_t port;     /* its index, -1 when the fault is not in a port */
    int32_t axis;     /* the axis, -1 when the fault is not in an axis */
    int32_t step;     /* an index into onnxc_model.steps when a step failed on its data, else -1 */
    int64_t expected; /* dim, rank, size in bytes: what the status is about */
    int64_t actual;
} onnxc_fault;

/* How to run. Start from ONNXC_CALL_INIT; NULL and 0 are right wherever nothing is wanted. */
typedef struct onnxc_call {
    uint32_t struct_size; /* sizeof(onnxc_call) of the caller, >= ONNXC_CALL_MIN_SIZE; what is beyond reads as 0 */
    uint32_t abi_version; /* ONNXC_ABI_VERSION */
    void *arena;          /* scratch of all workers and intermediate tensors, aligned to ONNXC_ALIGN */
    size_t arena_bytes;   /* at least what plan said for max_workers; arena may be NULL when plan said 0 */
    void *user;           /* handed to every callback below */
    onnxc_parallel_for_fn parallel_for; /* NULL: every task runs on the calling thread as worker 0 */
    int32_t max_workers;                /* 1 .. ONNXC_MAX_WORKERS, 0 counts as 1 */
    uint32_t flags;                     /* 0 */
    onnxc_alloc_fn alloc;               /* needed by data models only, both or none */
    onnxc_release_fn release;
    onnxc_trace_fn trace;
    const void *weights; /* models with external weights: the mapped file, aligned to ONNXC_ALIGN. Runs check address and
                            length; who maps it checks once that it hashes to onnxc_model.weights_hash (SHA-256) */
    uint64_t weights_bytes;
    onnxc_fault *fault; /* NULL, or where to write details of a failure */
    void *stream;       /* GPU objects: the CUstream to run on, in whose order the run's work is; not one that records.
                           When all tensors are on the device and no size depends on data, run returns before the work
                           is done, and what fails then the stream says, or the next run. NULL: run waits */
} onnxc_call;

#define ONNXC_CALL_MIN_SIZE 104u

#ifdef __cplusplus
#define ONNXC_CALL_INIT \
    onnxc_call { sizeof(onnxc_call), ONNXC_ABI_VERSION, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0 }
#else
#define ONNXC_CALL_INIT \
    ((onnxc_call){.struct_size = sizeof(onnxc_call), .abi_version = ONNXC_ABI_VERSION, .max_workers = 1})
#endif

/* ------------------------------------------------------------------------------------------------------- status */

/* X(name, value, message): every status. Values are never reused; a newer compiler may add some. */
#define ONNXC_STATUSES(X)                                                                                     \
    X(ONNXC_OK, 0, "ok")                                                                                      \
    X(ONNXC_NULL, -1, "a required pointer is NULL")                                                           \
    X(ONNXC_ABI, -2, "the call's abi_version is not the model's")                                             \
    X(ONNXC_STRUCT_SIZE, -3, "the call's struct_size is too small")                                           \
    X(ONNXC_KIND, -4, "a value's kind is not the port's")                                                     \
    X(ONNXC_DTYPE, -5, "a tensor's dtype is not the port's")                                                  \
    X(ONNXC_DEVICE, -6, "a tensor is on a device that the model does not use")                                \
    X(ONNXC_RANK, -7, "a tensor's rank is not the port's")                                                    \
    X(ONNXC_DIM, -8, "a tensor's dim is not the port's")                                                      \
    X(ONNXC_DIM_SYMBOL, -9, "two dims that the model calls by one name differ")                               \
    X(ONNXC_DIM_RANGE, -10, "a dim is negative or outside the range that the model was compiled for")         \
    X(ONNXC_STRIDES, -11, "a tensor's strides are not those of dense row-major order")                        \
    X(ONNXC_ALIGNMENT, -12, "a tensor's first element is not aligned to its element size")                    \
    X(ONNXC_OFFSET, -13, "a tensor's byte_offset or size does not fit the address space")                     \
    X(ONNXC_CAPACITY, -14, "an input's capacity_bytes is smaller than its tensor")                            \
    X(ONNXC_MORE, -15, "an output's capacity is too small; its dims say what it needs")                       \
    X(ONNXC_OVERLAP, -16, "an output overlaps an input, another output or the arena")                         \
    X(ONNXC_WORKERS, -17, "max_workers is negative or too large")                                             \
    X(ONNXC_ARENA_ALIGNMENT, -18, "the arena is not aligned to 64 bytes")                                     \
    X(ONNXC_ARENA_SIZE, -19, "the arena is smaller than plan says")                                           \
    X(ONNXC_NEED_ALLOC, -20, "the model's sizes depend on data: it needs alloc and release")                  \
    X(ONNXC_NO_MEMORY, -21, "memory could not be allocated")                                                  \
    X(ONNXC_WEIGHTS, -22, "the external weights are missing, misaligned or not the model's")                  \
    X(ONNXC_FLAGS, -23, "an unknown flag is set")                                                             \
    X(ONNXC_CPU, -24, "the processor lacks instructions that the model was compiled for")                     \
    X(ONNXC_INDEX, -25, "an index in the data is out of range")                                               \
    X(ONNXC_DATA_SHAPE, -26, "shapes that depend on data do not fit each other")                              \
    X(ONNXC_DIVISION, -27, "an integer in the data is divided by zero")                                       \
    X(ONNXC_SIZE_LIMIT, -28, "a size that depends on dims or data overflows")                                 \
    X(ONNXC_STRING, -29, "a string lies outside its bytes, or does not parse as its operator asks")           \
    X(ONNXC_SEQUENCE, -30, "a sequence's position, length or element type is wrong")                          \
    X(ONNXC_KEY, -31, "a map or a label table lacks a key")                                                   \
    X(ONNXC_DATA_VALUE, -32, "a value in the data is outside its operator's domain")                          \
    X(ONNXC_USER, -33, "a user's operator failed")                                                            \
    X(ONNXC_NO_DRIVER, -34, "there is no GPU driver")                                                         \
    X(ONNXC_NO_DEVICE, -35, "there is no such GPU, or its compute capability is too low")                     \
    X(ONNXC_DEVICE_FAILED, -36, "the GPU driver reported an error")                                           \
    X(ONNXC_NOT_TENSORS, -37, "the model has ports that are not tensors, or sizes that depend on data")       \
    X(ONNXC_THREADS, -38, "threads could not be started")                                                     \
    X(ONNXC_PORT_INDEX, -39, "there is no port of this index")                                                \
    X(ONNXC_WEIGHTS_FILE, -40, "the file of the external weights cannot be opened or mapped")

typedef enum onnxc_status {
#define ONNXC_STATUS_ENUMERATOR(name, value, message) name = value,
    ONNXC_STATUSES(ONNXC_STATUS_ENUMERATOR)
#undef ONNXC_STATUS_ENUMERATOR
    ONNXC_STATUS_LAST = -40
} onnxc_status;

/* ---------------------------------------------------------------------------------------------- your operators */

/* What an attribute holds. One number or text is a list of one. */
enum {
    ONNXC_ATTRIBUTE_INTS = 1,   /* values is const int64_t * */
    ONNXC_ATTRIBUTE_FLOATS = 2, /* const float * */
    ONNXC_ATTRIBUTE_TEXTS = 3   /* const char *const *, each NUL-terminated UTF-8 */
};

/* An attribute of a node, as the model has it; defaults are the function's own. */
typedef struct onnxc_attribute {
    const char *name;
    int32_t kind; /* ONNXC_ATTRIBUTE_* */
    int32_t reserved;
    int64_t count;
    const void *values; /* count of them */
} onnxc_attribute;

/* The node that is computed; constant data of the model. */
typedef struct onnxc_operator {
    const char *name; /* DOMAIN.NAME */
    const char *node; /* the node's name, or its place */
    const onnxc_attribute *attributes;
    uint32_t attribute_count;
    uint32_t flags; /* 0 */
} onnxc_operator;

/* A function that `onnxc --custom-op DOMAIN:NAME=SYMBOL` makes a model call for an operator.
 *
 * The tensors are dense and row-major on the CPU: data points to the first element, strides is NULL, byte_offset 0.
 * An optional input that the node leaves out is all zeros (its data is NULL, its device_type 0). Outputs have the
 * shapes that the model states and room for just that; every element has to be written. The structures and what they
 * point to exist until the function returns. call is that of the run.
 *
 * The function is a pure one for the compiler: equal calls may be made once, calls whose outputs nobody uses not at
 * all, and a model that runs on several threads at once calls it on them. A result other than 0 ends the run with
 * ONNXC_USER; onnxc_fault.step is the step, onnxc_fault.actual the result. */
typedef int (*onnxc_operator_fn)(const onnxc_operator *op, const DLTensor *inputs, int32_t input_count,
                                 DLTensor *outputs, int32_t output_count, const onnxc_call *call);

/* The attribute of a name, or NULL. */
static inline const onnxc_attribute *onnxc_find_attribute(const onnxc_operator *op, const char *name) {
    uint32_t i;
    for (i = 0; i < op->attribute_count; i++) {
        const char *a = op->attributes[i].name;
        const char *b = name;
        while (*a != 0 && *a == *b) {
            a++;
            b++;
        }
        if (*a == *b) return &op->attributes[i];
    }
    return NULL;
}

/* -------------------------------------------------------------------------------------------------------- model */

/* Bits of onnxc_port.flags. */
enum {
    ONNXC_PORT_OPTIONAL = 1, /* the value may be ONNXC_KIND_NONE */
    ONNXC_PORT_STATE = 2     /* kept from run to run, see below */
};

/* A state is an input and an output in one buffer of the caller's: both values have the same data pointer and byte_offset,
 * and after a run the output's dims are those of the next run's input. Where it grows along an axis, elements lie as if
 * that axis had its symbol's greatest extent (onnxc_symbol.max), whatever the extent is now: the buffer has room for that
 * many, and a run writes behind those that are there. strides are NULL all the same. A new state has extent 0 there;
 * a state that does not grow begins as the caller fills it. */
#define ONNXC_PORT_STATE_AXIS(flags) ((int)(((flags) >> 4) & 15u) - 1) /* of an input: the axis that grows, or -1 */
#define ONNXC_PORT_STATE_OUTPUT(flags) ((flags) >> 8)                  /* of an input: the output that is its next value */

/* An input or output of a model, or the element type of a sequence or map. */
typedef struct onnxc_port {
    const char *name;
    int32_t kind;                    /* ONNXC_KIND_* */
    int32_t ndim;                    /* rank, or -1 when it depends on data */
    DLDataType dtype;
    int32_t onnx_dtype;              /* TensorProto.DataType: 1 float, 7 int64, ... */
    int64_t dims[ONNXC_MAX_RANK];    /* the fixed extent, or -1; 0 beyond ndim */
    int32_t symbols[ONNXC_MAX_RANK]; /* where dims is -1: an index into onnxc_model.symbols, or -1 when the extent is
                                        no plain symbol (an expression, or known only after the run) */
    int64_t bytes;                   /* the tensor's size when all dims are fixed, else -1 */
    const struct onnxc_port *item;   /* sequences: the element; maps: the value; else NULL */
    DLDataType key_dtype;            /* maps: int64 or string */
    uint32_t flags;                  /* ONNXC_PORT_* */
} onnxc_port;

/* A named dim of the model, with the range that the model was compiled for. */
typedef struct onnxc_symbol {
    const char *name;
    int64_t min;
    int64_t max; /* inclusive */
} onnxc_symbol;

/* How a model's memory is found. */
enum {
    ONNXC_MEMORY_STATIC = 0, /* every size is fixed: arena_bytes + (max_workers - 1) * worker_bytes */
    ONNXC_MEMORY_DIMS = 1,   /* sizes follow from the symbols: ask plan */
    ONNXC_MEMORY_DATA = 2    /* sizes depend on data, or values are no tensors: alloc and release are needed too */
};

/* Bits of onnxc_model.flags. */
enum {
    ONNXC_MODEL_EXTERNAL_WEIGHTS = 1, /* onnxc_call.weights is needed */
    ONNXC_MODEL_GPU = 2               /* tensors may lie on a CUDA device */
};

/* dims: one value per symbol, in the order of onnxc_model.symbols; NULL when there are none. */
typedef int (*onnxc_plan_fn)(const int64_t *dims, int max_workers, size_t *arena_bytes);
/* in and out: arrays of input_count and output_count values. */
typedef int (*onnxc_run_fn)(const onnxc_value *in, onnxc_value *out, const onnxc_call *call);
/* The same on plain tensors: NULL is an absent optional input. Outputs must have the right shape, and room for it:
 * they are checked like inputs. */
typedef int (*onnxc_run_dl_fn)(const DLTensor *const *in, DLTensor *const *out, const onnxc_call *call);
/* A message for any status, never NULL. */
typedef const char *(*onnxc_status_fn)(int status);

/* What a compiled model says about itself. Read-only data of the object. */
typedef struct onnxc_model {
    uint32_t abi_version; /* ONNXC_ABI_VERSION of the compiler */
    uint32_t struct_size; /* sizeof(onnxc_model) of the compiler */
    const char *name;     /* the symbols' prefix */
    uint8_t hash[32];     /* of the source model and of what the compiler was asked for */
    uint32_t memory;      /* ONNXC_MEMORY_* */
    uint32_t flags;       /* ONNXC_MODEL_* */
    uint32_t input_count;
    uint32_t output_count;
    const onnxc_port *inputs;
    const onnxc_port *outputs;
    uint32_t symbol_count;
    uint32_t step_count;
    const onnxc_symbol *symbols;
    const char *const *steps; /* what trace reports: ONNX node names */
    uint64_t arena_bytes;     /* static models: the arena of one worker; else 0 */
    uint64_t worker_bytes;    /* static models: what each further worker adds; else 0 */
    uint64_t code_bytes;
    uint64_t weight_bytes;
    onnxc_plan_fn plan;
    onnxc_run_fn run;
    onnxc_run_dl_fn run_dl; /* NULL in data models */
    onnxc_status_fn status;
    const char *target;          /* as --target takes it */
    const uint8_t *weights_hash; /* external weights: the 32 bytes that their file must hash to, else NULL */
    uint64_t reserved;           /* 0 */
} onnxc_model;

/* Declares what the object of model NAME defines. */
#define ONNXC_DECLARE_MODEL(NAME)                                                                  \
    extern const onnxc_model NAME;                                                                 \
    int NAME##_plan(const int64_t *dims, int max_workers, size_t *arena_bytes);                    \
    int NAME##_run(const onnxc_value *in, onnxc_value *out, const onnxc_call *call);               \
    int NAME##_run_dl(const DLTensor *const *in, DLTensor *const *out, const onnxc_call *call);    \
    const char *NAME##_status(int status)

/* Makes value a dense CPU tensor of the port's dtype and shape over bytes of memory at data. Dims that the port does
 * not fix become 0: set value->dims of inputs before the run. */
static inline void onnxc_value_init(onnxc_value *value, const onnxc_port *port, void *data, uint64_t bytes) {
    int32_t axis;
    value->tensor.data = data;
    value->tensor.device.device_type = kDLCPU;
    value->tensor.device.device_id = 0;
    value->tensor.ndim = port->ndim < 0 ? 0 : port->ndim;
    value->tensor.dtype = port->dtype;
    value->tensor.shape = value->dims;
    value->tensor.strides = NULL;
    value->tensor.byte_offset = 0;
    value->capacity_bytes = bytes;
    value->kind = port->kind;
    value->flags = 0;
    for (axis = 0; axis < ONNXC_MAX_RANK; axis++) {
        value->dims[axis] = port->dims[axis] < 0 ? 0 : port->dims[axis];
    }
    value->items = NULL;
    value->item_count = value->item_capacity = 0;
    value->string_bytes = NULL;
    value->string_used = value->string_capacity = 0;
    value->reserved[0] = value->reserved[1] = 0;
}

/* ------------------------------------------------------------------------------------------------------ offsets */

#if UINTPTR_MAX == UINT64_MAX
#define ONNXC_OFFSET(type, field, offset) \
    ONNXC_STATIC_ASSERT(offsetof(type, field) == (offset), #type "." #field " is at " #offset)
#define ONNXC_SIZE(type, size) ONNXC_STATIC_ASSERT(sizeof(type) == (size), #type " has " #size " bytes")
ONNXC_OFFSET(DLTensor, data, 0);
ONNXC_OFFSET(DLTensor, device, 8);
ONNXC_OFFSET(DLDevice, device_id, 4);
ONNXC_OFFSET(DLTensor, ndim, 16);
ONNXC_OFFSET(DLTensor, dtype, 20);
ONNXC_OFFSET(DLDataType, bits, 1);
ONNXC_OFFSET(DLDataType, lanes, 2);
ONNXC_OFFSET(DLTensor, shape, 24);
ONNXC_OFFSET(DLTensor, strides, 32);
ONNXC_OFFSET(DLTensor, byte_offset, 40);
ONNXC_SIZE(DLTensor, 48);
ONNXC_SIZE(onnxc_string, 16);
ONNXC_OFFSET(onnxc_value, capacity_bytes, 48);
ONNXC_OFFSET(onnxc_value, kind, 56);
ONNXC_OFFSET(onnxc_value, flags, 60);
ONNXC_OFFSET(onnxc_value, dims, 64);
ONNXC_OFFSET(onnxc_value, items, 128);
ONNXC_OFFSET(onnxc_value, item_count, 136);
ONNXC_OFFSET(onnxc_value, item_capacity, 144);
ONNXC_OFFSET(onnxc_value, string_bytes, 152);
ONNXC_OFFSET(onnxc_value, string_used, 160);
ONNXC_OFFSET(onnxc_value, string_capacity, 168);
ONNXC_SIZE(onnxc_value, 192);
ONNXC_OFFSET(onnxc_fault, port, 4);
ONNXC_OFFSET(onnxc_fault, axis, 8);
ONNXC_OFFSET(onnxc_fault, step, 12);
ONNXC_OFFSET(onnxc_fault, expected, 16);
ONNXC_OFFSET(onnxc_fault, actual, 24);
ONNXC_SIZE(onnxc_fault, 32);
ONNXC_OFFSET(onnxc_call, abi_version, 4);
ONNXC_OFFSET(onnxc_call, arena, 8);
ONNXC_OFFSET(onnxc_call, arena_bytes, 16);
ONNXC_OFFSET(onnxc_call, user, 24);
ONNXC_OFFSET(onnxc_call, parallel_for, 32);
ONNXC_OFFSET(onnxc_call, max_workers, 40);
ONNXC_OFFSET(onnxc_call, flags, 44);
ONNXC_OFFSET(onnxc_call, alloc, 48);
ONNXC_OFFSET(onnxc_call, release, 56);
ONNXC_OFFSET(onnxc_call, trace, 64);
ONNXC_OFFSET(onnxc_call, weights, 72);
ONNXC_OFFSET(onnxc_call, weights_bytes, 80);
ONNXC_OFFSET(onnxc_call, fault, 88);
ONNXC_OFFSET(onnxc_call, stream, 96);
ONNXC_SIZE(onnxc_call, 104);
ONNXC_OFFSET(onnxc_attribute, kind, 8);
ONNXC_OFFSET(onnxc_attribute, count, 16);
ONNXC_OFFSET(onnxc_attribute, values, 24);
ONNXC_SIZE(onnxc_attribute, 32);
ONNXC_OFFSET(onnxc_operator, node, 8);
ONNXC_OFFSET(onnxc_operator, attributes, 16);
ONNXC_OFFSET(onnxc_operator, attribute_count, 24);
ONNXC_SIZE(onnxc_operator, 32);
ONNXC_OFFSET(onnxc_port, kind, 8);
ONNXC_OFFSET(onnxc_port, ndim, 12);
ONNXC_OFFSET(onnxc_port, dtype, 16);
ONNXC_OFFSET(onnxc_port, onnx_dtype, 20);
ONNXC_OFFSET(onnxc_port, dims, 24);
ONNXC_OFFSET(onnxc_port, symbols, 88);
ONNXC_OFFSET(onnxc_port, bytes, 120);
ONNXC_OFFSET(onnxc_port, item, 128);
ONNXC_OFFSET(onnxc_port, key_dtype, 136);
ONNXC_OFFSET(onnxc_port, flags, 140);
ONNXC_SIZE(onnxc_port, 144);
ONNXC_OFFSET(onnxc_symbol, min, 8);
ONNXC_OFFSET(onnxc_symbol, max, 16);
ONNXC_SIZE(onnxc_symbol, 24);
ONNXC_OFFSET(onnxc_model, struct_size, 4);
ONNXC_OFFSET(onnxc_model, name, 8);
ONNXC_OFFSET(onnxc_model, hash, 16);
ONNXC_OFFSET(onnxc_model, memory, 48);
ONNXC_OFFSET(onnxc_model, flags, 52);
ONNXC_OFFSET(onnxc_model, input_count, 56);
ONNXC_OFFSET(onnxc_model, output_count, 60);
ONNXC_OFFSET(onnxc_model, inputs, 64);
ONNXC_OFFSET(onnxc_model, outputs, 72);
ONNXC_OFFSET(onnxc_model, symbol_count, 80);
ONNXC_OFFSET(onnxc_model, step_count, 84);
ONNXC_OFFSET(onnxc_model, symbols, 88);
ONNXC_OFFSET(onnxc_model, steps, 96);
ONNXC_OFFSET(onnxc_model, arena_bytes, 104);
ONNXC_OFFSET(onnxc_model, worker_bytes, 112);
ONNXC_OFFSET(onnxc_model, code_bytes, 120);
ONNXC_OFFSET(onnxc_model, weight_bytes, 128);
ONNXC_OFFSET(onnxc_model, plan, 136);
ONNXC_OFFSET(onnxc_model, run, 144);
ONNXC_OFFSET(onnxc_model, run_dl, 152);
ONNXC_OFFSET(onnxc_model, status, 160);
ONNXC_OFFSET(onnxc_model, target, 168);
ONNXC_OFFSET(onnxc_model, weights_hash, 176);
ONNXC_SIZE(onnxc_model, 192);
#undef ONNXC_OFFSET
#undef ONNXC_SIZE
#endif

#ifdef __cplusplus
}
#endif

#endif
