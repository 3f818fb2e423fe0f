/* Three models written by hand to the contract of onnxc.h, one of each memory class: what a compiled model does about
 * its arguments, in C. The tests run them through every part of this crate.
 *
 *   fake_static  y[4,3] = 2 x + bias, x f32[4,3], bias f32[3] optional; a task per row, which goes through scratch
 *   fake_dims    y[2 n] = x twice, x i64[n], n in 1..1000
 *   fake_data    y = the elements of x f32[n] that are not 0; an element 13 is out of its domain */
#include "onnxc.h"

#include <string.h>

ONNXC_DECLARE_MODEL(fake_static);
ONNXC_DECLARE_MODEL(fake_dims);
ONNXC_DECLARE_MODEL(fake_data);

enum { ROWS = 4, COLUMNS = 3 };

static const DLDataType float32 = {kDLFloat, 32, 1};
static const DLDataType int64 = {kDLInt, 64, 1};

static int fail(const onnxc_call *call, int status, int output, int port, int axis, int64_t expected, int64_t actual) {
    if (call->fault != NULL) {
        const onnxc_fault fault = {output, port, axis, -1, expected, actual};
        *call->fault = fault;
    }
    return status;
}

static int workers_of(int max_workers) {
    return max_workers == 0 ? 1 : max_workers;
}

/* What does not depend on a model. */
static int check_call(const void *in, const void *out, const onnxc_call *call) {
    if (in == NULL || out == NULL || call == NULL) {
        return ONNXC_NULL;
    }
    if (call->struct_size < ONNXC_CALL_MIN_SIZE) {
        return ONNXC_STRUCT_SIZE;
    }
    if (call->abi_version != ONNXC_ABI_VERSION) {
        return ONNXC_ABI;
    }
    if (call->flags != 0) {
        return ONNXC_FLAGS;
    }
    if (call->max_workers < 0 || call->max_workers > ONNXC_MAX_WORKERS) {
        return ONNXC_WORKERS;
    }
    return ONNXC_OK;
}

static int check_arena(const onnxc_call *call, size_t needed) {
    if (needed != 0 && call->arena == NULL) {
        return ONNXC_NULL;
    }
    if ((uintptr_t)call->arena % ONNXC_ALIGN != 0) {
        return ONNXC_ARENA_ALIGNMENT;
    }
    if (call->arena_bytes < needed) {
        return fail(call, ONNXC_ARENA_SIZE, 0, -1, -1, (int64_t)needed, (int64_t)call->arena_bytes);
    }
    return ONNXC_OK;
}

/* Dtype, device, pointer and alignment; `room` says whether there are bytes to point to. */
static int check_memory(const DLTensor *tensor, DLDataType dtype, int room, int output, int port,
                        const onnxc_call *call) {
    const uint64_t size = dtype.bits / 8u;
    if (tensor->dtype.code != dtype.code || tensor->dtype.bits != dtype.bits || tensor->dtype.lanes != dtype.lanes) {
        return fail(call, ONNXC_DTYPE, output, port, -1, -1, -1);
    }
    if (tensor->device.device_type != kDLCPU) {
        return fail(call, ONNXC_DEVICE, output, port, -1, kDLCPU, (int64_t)tensor->device.device_type);
    }
    if (room && tensor->data == NULL) {
        return fail(call, ONNXC_NULL, output, port, -1, -1, -1);
    }
    if (tensor->byte_offset > UINT64_MAX / 2) {
        return fail(call, ONNXC_OFFSET, output, port, -1, -1, -1);
    }
    if (((uintptr_t)tensor->data + tensor->byte_offset) % size != 0) {
        return fail(call, ONNXC_ALIGNMENT, output, port, -1, (int64_t)size, -1);
    }
    return ONNXC_OK;
}

/* Rank, dims (a negative one is free) and strides. */
static int check_shape(const DLTensor *tensor, const int64_t *dims, int32_t ndim, int output, int port,
                       const onnxc_call *call) {
    int64_t stride = 1;
    int32_t axis;
    if (tensor->ndim != ndim) {
        return fail(call, ONNXC_RANK, output, port, -1, ndim, tensor->ndim);
    }
    if (tensor->shape == NULL) {
        return fail(call, ONNXC_NULL, output, port, -1, -1, -1);
    }
    for (axis = 0; axis < ndim; axis++) {
        if (dims[axis] >= 0 && tensor->shape[axis] != dims[axis]) {
            return fail(call, ONNXC_DIM, output, port, axis, dims[axis], tensor->shape[axis]);
        }
    }
    for (axis = ndim - 1; axis >= 0 && tensor->strides != NULL; axis--) {
        if (tensor->shape[axis] > 1 && tensor->strides[axis] != stride) {
            return fail(call, ONNXC_STRIDES, output, port, axis, stride, tensor->strides[axis]);
        }
        stride *= tensor->shape[axis];
    }
    return ONNXC_OK;
}

static char *first_byte(const DLTensor *tensor) {
    return (char *)tensor->data + tensor->byte_offset;
}

static int overlap(const void *a, uint64_t a_bytes, const void *b, uint64_t b_bytes) {
    return a_bytes != 0 && b_bytes != 0 && (uintptr_t)a < (uintptr_t)b + b_bytes &&
           (uintptr_t)b < (uintptr_t)a + a_bytes;
}

static void set_output(onnxc_value *out, int32_t ndim, const int64_t *dims) {
    memcpy(out->dims, dims, (size_t)ndim * sizeof *dims);
    out->tensor.ndim = ndim;
    out->tensor.shape = out->dims;
    out->tensor.strides = NULL;
}

static const char *message(int status) {
    switch (status) {
#define MESSAGE_CASE(name, value, text) \
    case name:                          \
        return text;
        ONNXC_STATUSES(MESSAGE_CASE)
#undef MESSAGE_CASE
    default:
        return "unknown status";
    }
}

/* ------------------------------------------------------------------------------------------------- fake_static */

static const int64_t matrix[2] = {ROWS, COLUMNS};

int fake_static_plan(const int64_t *dims, int max_workers, size_t *arena_bytes) {
    (void)dims;
    if (arena_bytes == NULL) {
        return ONNXC_NULL;
    }
    if (max_workers < 0 || max_workers > ONNXC_MAX_WORKERS) {
        return ONNXC_WORKERS;
    }
    *arena_bytes = (size_t)workers_of(max_workers) * ONNXC_ALIGN;
    return ONNXC_OK;
}

struct affine {
    const float *x;
    const float *bias;
    float *y;
    char *scratch;
};

static void affine_row(void *arg, int64_t task, int worker) {
    const struct affine *const job = arg;
    float *const row = (float *)(void *)(job->scratch + (size_t)worker * ONNXC_ALIGN);
    int column;
    for (column = 0; column < COLUMNS; column++) {
        row[column] = 2 * job->x[task * COLUMNS + column];
    }
    for (column = 0; column < COLUMNS; column++) {
        job->y[task * COLUMNS + column] = row[column] + (job->bias == NULL ? 0 : job->bias[column]);
    }
}

static int affine(const DLTensor *x, const DLTensor *bias, const DLTensor *y, const onnxc_call *call) {
    static const int64_t vector[1] = {COLUMNS};
    const uint64_t bytes = ROWS * COLUMNS * sizeof(float);
    struct affine job;
    size_t needed;
    int64_t task;
    int status = check_memory(x, float32, 1, 0, 0, call);
    if (status == ONNXC_OK) {
        status = check_shape(x, matrix, 2, 0, 0, call);
    }
    if (status == ONNXC_OK && bias != NULL) {
        status = check_memory(bias, float32, 1, 0, 1, call);
    }
    if (status == ONNXC_OK && bias != NULL) {
        status = check_shape(bias, vector, 1, 0, 1, call);
    }
    if (status == ONNXC_OK) {
        fake_static_plan(NULL, call->max_workers, &needed);
        status = check_arena(call, needed);
    }
    if (status != ONNXC_OK) {
        return status;
    }
    if (overlap(first_byte(y), bytes, first_byte(x), bytes) ||
        overlap(first_byte(y), bytes, call->arena, call->arena_bytes) ||
        (bias != NULL && overlap(first_byte(y), bytes, first_byte(bias), COLUMNS * sizeof(float)))) {
        return fail(call, ONNXC_OVERLAP, 1, 0, -1, -1, -1);
    }
    job.x = (const float *)(const void *)first_byte(x);
    job.bias = bias == NULL ? NULL : (const float *)(const void *)first_byte(bias);
    job.y = (float *)(void *)first_byte(y);
    job.scratch = call->arena;
    if (call->trace != NULL) {
        call->trace(call->user, 0, 1);
    }
    if (call->parallel_for != NULL) {
        call->parallel_for(call->user, affine_row, &job, ROWS);
    } else {
        for (task = 0; task < ROWS; task++) {
            affine_row(&job, task, 0);
        }
    }
    if (call->trace != NULL) {
        call->trace(call->user, 0, 0);
    }
    return ONNXC_OK;
}

int fake_static_run(const onnxc_value *in, onnxc_value *out, const onnxc_call *call) {
    const uint64_t bytes = ROWS * COLUMNS * sizeof(float);
    int status = check_call(in, out, call);
    if (status != ONNXC_OK) {
        return status;
    }
    if (in[0].kind != ONNXC_KIND_TENSOR) {
        return fail(call, ONNXC_KIND, 0, 0, -1, ONNXC_KIND_TENSOR, in[0].kind);
    }
    if (in[1].kind != ONNXC_KIND_TENSOR && in[1].kind != ONNXC_KIND_NONE) {
        return fail(call, ONNXC_KIND, 0, 1, -1, ONNXC_KIND_TENSOR, in[1].kind);
    }
    if (out[0].kind != ONNXC_KIND_TENSOR) {
        return fail(call, ONNXC_KIND, 1, 0, -1, ONNXC_KIND_TENSOR, out[0].kind);
    }
    status = check_memory(&in[0].tensor, float32, 1, 0, 0, call);
    if (status == ONNXC_OK) {
        status = check_shape(&in[0].tensor, matrix, 2, 0, 0, call);
    }
    if (status != ONNXC_OK) {
        return status;
    }
    if (in[0].capacity_bytes != 0 && in[0].capacity_bytes < bytes) {
        return fail(call, ONNXC_CAPACITY, 0, 0, -1, (int64_t)bytes, (int64_t)in[0].capacity_bytes);
    }
    set_output(&out[0], 2, matrix);
    if (out[0].capacity_bytes < bytes) {
        return fail(call, ONNXC_MORE, 1, 0, -1, (int64_t)bytes, (int64_t)out[0].capacity_bytes);
    }
    status = check_memory(&out[0].tensor, float32, 1, 1, 0, call);
    if (status != ONNXC_OK) {
        return status;
    }
    return affine(&in[0].tensor, in[1].kind == ONNXC_KIND_NONE ? NULL : &in[1].tensor, &out[0].tensor, call);
}

int fake_static_run_dl(const DLTensor *const *in, DLTensor *const *out, const onnxc_call *call) {
    int status = check_call(in, out, call);
    if (status == ONNXC_OK && (in[0] == NULL || out[0] == NULL)) {
        status = ONNXC_NULL;
    }
    if (status == ONNXC_OK) {
        status = check_shape(out[0], matrix, 2, 1, 0, call);
    }
    if (status == ONNXC_OK) {
        status = check_memory(out[0], float32, 1, 1, 0, call);
    }
    return status == ONNXC_OK ? affine(in[0], in[1], out[0], call) : status;
}

const char *fake_static_status(int status) {
    return message(status);
}

static const onnxc_port static_inputs[2] = {
    {"x", ONNXC_KIND_TENSOR, 2, {kDLFloat, 32, 1}, 1, {ROWS, COLUMNS}, {-1, -1}, 48, NULL, {0, 0, 0}, 0},
    {"bias", ONNXC_KIND_TENSOR, 1, {kDLFloat, 32, 1}, 1, {COLUMNS}, {-1}, 12, NULL, {0, 0, 0}, ONNXC_PORT_OPTIONAL},
};
static const onnxc_port static_outputs[1] = {
    {"y", ONNXC_KIND_TENSOR, 2, {kDLFloat, 32, 1}, 1, {ROWS, COLUMNS}, {-1, -1}, 48, NULL, {0, 0, 0}, 0},
};
static const char *const static_steps[1] = {"affine"};

const onnxc_model fake_static = {
    ONNXC_ABI_VERSION, sizeof(onnxc_model), "fake_static", {1, 2, 3}, ONNXC_MEMORY_STATIC, 0, 2, 1, static_inputs,
    static_outputs, 0, 1, NULL, static_steps, ONNXC_ALIGN, ONNXC_ALIGN, 1000, 0, fake_static_plan, fake_static_run,
    fake_static_run_dl, fake_static_status, "none", NULL, 0,
};

/* --------------------------------------------------------------------------------------------------- fake_dims */

enum { MAX_N = 1000 };

static int dims_plan(int64_t n, int max_workers, size_t *arena_bytes) {
    if (n < 1 || n > MAX_N) {
        return ONNXC_DIM_RANGE;
    }
    if (max_workers < 0 || max_workers > ONNXC_MAX_WORKERS) {
        return ONNXC_WORKERS;
    }
    *arena_bytes = ((size_t)n * sizeof(int64_t) + ONNXC_ALIGN - 1) / ONNXC_ALIGN * ONNXC_ALIGN;
    return ONNXC_OK;
}

int fake_dims_plan(const int64_t *dims, int max_workers, size_t *arena_bytes) {
    return dims == NULL || arena_bytes == NULL ? ONNXC_NULL : dims_plan(dims[0], max_workers, arena_bytes);
}

/* The copies go through the arena, so that one that is too small shows. */
static int twice(const DLTensor *x, const DLTensor *y, int64_t n, const onnxc_call *call) {
    const size_t bytes = (size_t)n * sizeof(int64_t);
    size_t needed = 0;
    int status = dims_plan(n, call->max_workers, &needed);
    if (status != ONNXC_OK) {
        return fail(call, status, 0, 0, 0, -1, n);
    }
    status = check_arena(call, needed);
    if (status != ONNXC_OK) {
        return status;
    }
    memcpy(call->arena, first_byte(x), bytes);
    memcpy(first_byte(y), call->arena, bytes);
    memcpy(first_byte(y) + bytes, call->arena, bytes);
    return ONNXC_OK;
}

int fake_dims_run(const onnxc_value *in, onnxc_value *out, const onnxc_call *call) {
    static const int64_t any[1] = {-1};
    int64_t doubled[1];
    uint64_t bytes;
    int status = check_call(in, out, call);
    if (status == ONNXC_OK) {
        status = check_shape(&in[0].tensor, any, 1, 0, 0, call);
    }
    if (status == ONNXC_OK) {
        status = check_memory(&in[0].tensor, int64, 1, 0, 0, call);
    }
    if (status != ONNXC_OK) {
        return status;
    }
    if (in[0].tensor.shape[0] < 1 || in[0].tensor.shape[0] > MAX_N) {
        return fail(call, ONNXC_DIM_RANGE, 0, 0, 0, MAX_N, in[0].tensor.shape[0]);
    }
    doubled[0] = 2 * in[0].tensor.shape[0];
    bytes = (uint64_t)doubled[0] * sizeof(int64_t);
    set_output(&out[0], 1, doubled);
    if (out[0].capacity_bytes < bytes) {
        return fail(call, ONNXC_MORE, 1, 0, -1, (int64_t)bytes, (int64_t)out[0].capacity_bytes);
    }
    status = check_memory(&out[0].tensor, int64, 1, 1, 0, call);
    return status == ONNXC_OK ? twice(&in[0].tensor, &out[0].tensor, in[0].tensor.shape[0], call) : status;
}

const char *fake_dims_status(int status) {
    return message(status);
}

static const onnxc_port dims_inputs[1] = {
    {"x", ONNXC_KIND_TENSOR, 1, {kDLInt, 64, 1}, 7, {-1}, {0}, -1, NULL, {0, 0, 0}, 0},
};
static const onnxc_port dims_outputs[1] = {
    {"y", ONNXC_KIND_TENSOR, 1, {kDLInt, 64, 1}, 7, {-1}, {-1}, -1, NULL, {0, 0, 0}, 0},
};
static const onnxc_symbol dims_symbols[1] = {{"n", 1, MAX_N}};

const onnxc_model fake_dims = {
    ONNXC_ABI_VERSION, sizeof(onnxc_model), "fake_dims", {0}, ONNXC_MEMORY_DIMS, 0, 1, 1, dims_inputs, dims_outputs,
    1, 0, dims_symbols, NULL, 0, 0, 1000, 0, fake_dims_plan, fake_dims_run, NULL, fake_dims_status, "none", NULL, 0,
};

/* --------------------------------------------------------------------------------------------------- fake_data */

int fake_data_plan(const int64_t *dims, int max_workers, size_t *arena_bytes) {
    (void)max_workers;
    if (dims == NULL || arena_bytes == NULL) {
        return ONNXC_NULL;
    }
    *arena_bytes = 0;
    return ONNXC_OK;
}

int fake_data_run(const onnxc_value *in, onnxc_value *out, const onnxc_call *call) {
    static const int64_t any[1] = {-1};
    const float *x;
    float *y;
    int64_t index;
    int64_t kept[1] = {0};
    size_t bytes;
    int status = check_call(in, out, call);
    if (status == ONNXC_OK && (call->alloc == NULL || call->release == NULL)) {
        status = ONNXC_NEED_ALLOC;
    }
    if (status == ONNXC_OK) {
        status = check_shape(&in[0].tensor, any, 1, 0, 0, call);
    }
    if (status == ONNXC_OK) {
        status = check_memory(&in[0].tensor, float32, in[0].tensor.shape[0] > 0, 0, 0, call);
    }
    if (status != ONNXC_OK) {
        return status;
    }
    x = (const float *)(const void *)first_byte(&in[0].tensor);
    for (index = 0; index < in[0].tensor.shape[0]; index++) {
        if (x[index] > 12.5f && x[index] < 13.5f) {
            if (call->fault != NULL) {
                const onnxc_fault fault = {0, -1, -1, 1, -1, -1};
                *call->fault = fault;
            }
            return ONNXC_DATA_VALUE;
        }
        kept[0] += x[index] < 0 || x[index] > 0;
    }
    bytes = (size_t)kept[0] * sizeof(float);
    set_output(&out[0], 1, kept);
    if (out[0].tensor.data == NULL && out[0].capacity_bytes == 0 && bytes != 0) {
        out[0].tensor.data = call->alloc(call->user, bytes, ONNXC_ALIGN);
        if (out[0].tensor.data == NULL) {
            return ONNXC_NO_MEMORY;
        }
        out[0].tensor.byte_offset = 0;
        out[0].capacity_bytes = bytes;
        out[0].flags |= ONNXC_VALUE_OWNS_DATA;
    }
    if (out[0].capacity_bytes < bytes) {
        return fail(call, ONNXC_MORE, 1, 0, -1, (int64_t)bytes, (int64_t)out[0].capacity_bytes);
    }
    y = (float *)(void *)first_byte(&out[0].tensor);
    for (index = 0; index < in[0].tensor.shape[0]; index++) {
        if (x[index] < 0 || x[index] > 0) {
            *y++ = x[index];
        }
    }
    return ONNXC_OK;
}

const char *fake_data_status(int status) {
    return message(status);
}

static const onnxc_port data_inputs[1] = {
    {"x", ONNXC_KIND_TENSOR, 1, {kDLFloat, 32, 1}, 1, {-1}, {0}, -1, NULL, {0, 0, 0}, 0},
};
static const onnxc_port data_outputs[1] = {
    {"y", ONNXC_KIND_TENSOR, 1, {kDLFloat, 32, 1}, 1, {-1}, {-1}, -1, NULL, {0, 0, 0}, 0},
};
static const onnxc_symbol data_symbols[1] = {{"n", 0, INT64_MAX}};
static const char *const data_steps[2] = {"count", "keep"};

const onnxc_model fake_data = {
    ONNXC_ABI_VERSION, sizeof(onnxc_model), "fake_data", {0}, ONNXC_MEMORY_DATA, 0, 1, 1, data_inputs, data_outputs,
    1, 2, data_symbols, data_steps, 0, 0, 1000, 0, fake_data_plan, fake_data_run, NULL, fake_data_status, "none",
    NULL, 0,
};
