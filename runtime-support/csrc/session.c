/* A session owns what a model borrows: the arena, the outputs and, where wanted, the threads. */
#include "onnxc_support.h"

#include <stdlib.h>
#include <string.h>

struct onnxc_session {
    const onnxc_model *model;
    onnxc_pool *pool;
    onnxc_pool *own_pool;
    onnxc_memory memory;
    onnxc_call call;
    onnxc_fault fault;
    onnxc_trace_fn trace;
    void *trace_user;
    onnxc_value *inputs;
    onnxc_value *outputs;
};

static void session_parallel_for(void *user, onnxc_task_fn fn, void *arg, int64_t tasks) {
    const onnxc_session *const session = user;
    onnxc_pool_parallel_for(session->pool, fn, arg, tasks);
}

static void session_trace(void *user, int64_t step, int begin) {
    const onnxc_session *const session = user;
    session->trace(session->trace_user, step, begin);
}

static void *session_alloc(void *user, size_t bytes, size_t align) {
    const onnxc_session *const session = user;
    return session->memory.alloc(session->memory.user, bytes, align);
}

static void session_release(void *user, void *pointer, size_t bytes) {
    const onnxc_session *const session = user;
    session->memory.release(session->memory.user, pointer, bytes);
}

/* Memory of the session's own: arena and outputs, never of 0 bytes. */
static void *take(onnxc_session *session, size_t bytes) {
    return session_alloc(session, bytes == 0 ? ONNXC_ALIGN : bytes, ONNXC_ALIGN);
}

static void give_back(onnxc_session *session, void *pointer, size_t bytes) {
    if (pointer != NULL) {
        session_release(session, pointer, bytes == 0 ? ONNXC_ALIGN : bytes);
    }
}

/* The bytes of a dense tensor; false when they do not fit size_t. */
static int tensor_bytes(const DLTensor *tensor, size_t *bytes) {
    const size_t bits = (size_t)tensor->dtype.bits * tensor->dtype.lanes;
    size_t elements = 1;
    int32_t axis;
    for (axis = 0; axis < tensor->ndim; axis++) {
        const int64_t dim = tensor->shape[axis];
        if (dim < 0 || (dim != 0 && elements > (SIZE_MAX / 2) / (size_t)dim)) {
            return 0;
        }
        elements *= (size_t)dim;
    }
    if (bits == 0 || elements > (SIZE_MAX / 2) / bits) {
        return 0;
    }
    *bytes = (elements * bits + 7) / 8;
    return 1;
}

static int is_state(const onnxc_port *port) {
    return (port->flags & ONNXC_PORT_STATE) != 0;
}

/* Data models allocate their outputs by call.alloc; the others write to buffers that only the session replaces. */
static int outputs_come_from_alloc(const onnxc_session *session) {
    return session->model->memory == ONNXC_MEMORY_DATA;
}

static void forget_outputs(onnxc_session *session) {
    uint32_t index;
    for (index = 0; index < session->model->output_count; index++) {
        onnxc_value *const output = &session->outputs[index];
        if (is_state(&session->model->outputs[index])) {
            continue;
        }
        if (outputs_come_from_alloc(session)) {
            onnxc_value_release(output, &session->call);
        } else {
            give_back(session, output->tensor.data, (size_t)output->capacity_bytes);
            output->tensor.data = NULL;
            output->capacity_bytes = 0;
        }
    }
}

static int grow_output(onnxc_session *session, onnxc_value *output, size_t bytes) {
    if (output->tensor.data != NULL && bytes <= output->capacity_bytes) {
        return ONNXC_OK;
    }
    give_back(session, output->tensor.data, (size_t)output->capacity_bytes);
    output->capacity_bytes = 0;
    output->tensor.data = take(session, bytes);
    if (output->tensor.data == NULL) {
        return ONNXC_NO_MEMORY;
    }
    output->capacity_bytes = bytes;
    return ONNXC_OK;
}

/* Gives a state a buffer for its greatest extent, a new one where its size is another than it was. */
static int set_state(onnxc_session *session, uint32_t index, const int64_t *dims) {
    const onnxc_port *const port = &session->model->inputs[index];
    const int grows = ONNXC_PORT_STATE_AXIS(port->flags);
    onnxc_value *const input = &session->inputs[index];
    onnxc_value *const output = &session->outputs[ONNXC_PORT_STATE_OUTPUT(port->flags)];
    void *buffer = input->tensor.data;
    const size_t before = (size_t)input->capacity_bytes;
    const int64_t extent = grows < 0 ? 0 : input->dims[grows];
    size_t bytes;
    int32_t axis;
    onnxc_value_init(input, port, NULL, 0);
    for (axis = 0; axis < port->ndim; axis++) {
        if (port->dims[axis] < 0 && port->symbols[axis] >= 0) {
            input->dims[axis] = axis == grows ? session->model->symbols[port->symbols[axis]].max
                                              : dims[port->symbols[axis]];
        }
    }
    if (!tensor_bytes(&input->tensor, &bytes)) {
        return ONNXC_SIZE_LIMIT;
    }
    if (grows >= 0) {
        input->dims[grows] = bytes == before ? extent : 0;
    }
    if (buffer == NULL || bytes != before) {
        give_back(session, buffer, before);
        buffer = take(session, bytes);
        if (buffer == NULL) {
            return ONNXC_NO_MEMORY;
        }
        memset(buffer, 0, bytes);
    }
    input->tensor.data = output->tensor.data = buffer;
    input->capacity_bytes = output->capacity_bytes = bytes;
    return ONNXC_OK;
}

void onnxc_session_reset(onnxc_session *session) {
    uint32_t index;
    for (index = 0; index < session->model->input_count; index++) {
        const onnxc_port *const port = &session->model->inputs[index];
        onnxc_value *const input = &session->inputs[index];
        if (is_state(port)) {
            const int grows = ONNXC_PORT_STATE_AXIS(port->flags);
            memset(input->tensor.data, 0, (size_t)input->capacity_bytes);
            if (grows >= 0) {
                input->dims[grows] = 0;
            }
        }
    }
}

/* What a run made of the states is what the next one begins with. */
static void advance_states(onnxc_session *session) {
    uint32_t index;
    for (index = 0; index < session->model->input_count; index++) {
        const onnxc_port *const port = &session->model->inputs[index];
        const int grows = ONNXC_PORT_STATE_AXIS(port->flags);
        if (is_state(port) && grows >= 0) {
            session->inputs[index].dims[grows] =
                session->outputs[ONNXC_PORT_STATE_OUTPUT(port->flags)].dims[grows];
        }
    }
}

int onnxc_session_set_dims(onnxc_session *session, const int64_t *dims) {
    const onnxc_model *model;
    size_t bytes = 0;
    uint32_t index;
    int status;
    if (session == NULL || (dims == NULL && session->model->symbol_count != 0)) {
        return ONNXC_NULL;
    }
    model = session->model;
    status = model->plan(dims, session->call.max_workers, &bytes);
    if (status != ONNXC_OK) {
        return status;
    }
    forget_outputs(session);
    if (session->call.arena == NULL || bytes > session->call.arena_bytes) {
        give_back(session, session->call.arena, session->call.arena_bytes);
        session->call.arena_bytes = 0;
        session->call.arena = take(session, bytes);
        if (session->call.arena == NULL) {
            return ONNXC_NO_MEMORY;
        }
        session->call.arena_bytes = bytes;
    }
    for (index = 0; index < model->input_count; index++) {
        const onnxc_port *const port = &model->inputs[index];
        onnxc_value *const input = &session->inputs[index];
        int32_t axis;
        if (is_state(port)) {
            continue;
        }
        onnxc_value_init(input, port, NULL, 0);
        for (axis = 0; axis < port->ndim; axis++) {
            if (port->dims[axis] < 0 && port->symbols[axis] >= 0) {
                input->dims[axis] = dims[port->symbols[axis]];
            }
        }
    }
    for (index = 0; index < model->output_count; index++) {
        const onnxc_port *const port = &model->outputs[index];
        onnxc_value *const output = &session->outputs[index];
        onnxc_value_init(output, port, NULL, 0);
        if (!is_state(port) && !outputs_come_from_alloc(session)) {
            status = grow_output(session, output, port->bytes < 0 ? 0 : (size_t)port->bytes);
            if (status != ONNXC_OK) {
                return status;
            }
        }
    }
    for (index = 0; index < model->input_count; index++) {
        if (is_state(&model->inputs[index])) {
            status = set_state(session, index, dims);
            if (status != ONNXC_OK) {
                return status;
            }
        }
    }
    return ONNXC_OK;
}

int onnxc_session_create_on(const onnxc_model *model, const int64_t *dims, onnxc_pool *pool, onnxc_session **result) {
    const onnxc_memory heap = {NULL, onnxc_heap_alloc, onnxc_heap_release};
    return onnxc_session_create_in(model, dims, pool, &heap, result);
}

int onnxc_session_create_in(const onnxc_model *model, const int64_t *dims, onnxc_pool *pool,
                            const onnxc_memory *memory, onnxc_session **result) {
    onnxc_session *session;
    int status;
    if (model == NULL || memory == NULL || result == NULL) {
        return ONNXC_NULL;
    }
    *result = NULL;
    if (model->abi_version != ONNXC_ABI_VERSION) {
        return ONNXC_ABI;
    }
    if (model->struct_size < sizeof *model) {
        return ONNXC_STRUCT_SIZE;
    }
    session = calloc(1, sizeof *session);
    if (session == NULL) {
        return ONNXC_NO_MEMORY;
    }
    session->model = model;
    session->pool = pool;
    session->memory = *memory;
    session->call = ONNXC_CALL_INIT;
    session->call.user = session;
    session->call.max_workers = pool == NULL ? 1 : onnxc_pool_workers(pool);
    session->call.parallel_for = session->call.max_workers == 1 ? NULL : session_parallel_for;
    session->call.alloc = session_alloc;
    session->call.release = session_release;
    session->call.fault = &session->fault;
    session->inputs = calloc((size_t)model->input_count + 1, sizeof *session->inputs);
    session->outputs = calloc((size_t)model->output_count + 1, sizeof *session->outputs);
    status = ONNXC_NO_MEMORY;
    if (session->inputs != NULL && session->outputs != NULL) {
        status = onnxc_session_set_dims(session, dims);
    }
    if (status != ONNXC_OK) {
        onnxc_session_destroy(session);
        return status;
    }
    *result = session;
    return ONNXC_OK;
}

int onnxc_session_create(const onnxc_model *model, const int64_t *dims, int threads, onnxc_session **result) {
    onnxc_pool *pool = NULL;
    int status;
    if (model == NULL || result == NULL) {
        return ONNXC_NULL;
    }
    *result = NULL;
    if (threads != 1) {
        status = onnxc_pool_create(threads, &pool);
        if (status != ONNXC_OK) {
            return status;
        }
    }
    status = onnxc_session_create_on(model, dims, pool, result);
    if (status != ONNXC_OK) {
        onnxc_pool_destroy(pool);
        return status;
    }
    (*result)->own_pool = pool;
    return ONNXC_OK;
}

void onnxc_session_destroy(onnxc_session *session) {
    if (session == NULL) {
        return;
    }
    if (session->outputs != NULL) {
        forget_outputs(session);
    }
    if (session->inputs != NULL) {
        uint32_t index;
        for (index = 0; index < session->model->input_count; index++) {
            if (is_state(&session->model->inputs[index])) {
                give_back(session, session->inputs[index].tensor.data, (size_t)session->inputs[index].capacity_bytes);
            }
        }
    }
    give_back(session, session->call.arena, session->call.arena_bytes);
    onnxc_pool_destroy(session->own_pool);
    free(session->inputs);
    free(session->outputs);
    free(session);
}

onnxc_value *onnxc_session_inputs(onnxc_session *session) {
    return session->inputs;
}

const onnxc_value *onnxc_session_outputs(const onnxc_session *session) {
    return session->outputs;
}

onnxc_call *onnxc_session_call(onnxc_session *session) {
    return &session->call;
}

void onnxc_session_set_trace(onnxc_session *session, onnxc_trace_fn trace, void *user) {
    session->trace = trace;
    session->trace_user = user;
    session->call.trace = trace == NULL ? NULL : session_trace;
}

const onnxc_fault *onnxc_session_fault(const onnxc_session *session) {
    return &session->fault;
}

/* Gives every output the room that its dims, as a run that returned ONNXC_MORE left them, ask for. */
static int grow_outputs(onnxc_session *session) {
    uint32_t index;
    for (index = 0; index < session->model->output_count; index++) {
        onnxc_value *const output = &session->outputs[index];
        size_t bytes;
        int status;
        if (output->kind != ONNXC_KIND_TENSOR || is_state(&session->model->outputs[index])) {
            continue;
        }
        if (!tensor_bytes(&output->tensor, &bytes)) {
            return ONNXC_SIZE_LIMIT;
        }
        status = grow_output(session, output, bytes);
        if (status != ONNXC_OK) {
            return status;
        }
    }
    return ONNXC_OK;
}

int onnxc_session_run(onnxc_session *session) {
    int status;
    if (session == NULL) {
        return ONNXC_NULL;
    }
    if (outputs_come_from_alloc(session)) {
        forget_outputs(session);
    }
    session->fault.output = 0;
    session->fault.port = session->fault.axis = session->fault.step = -1;
    session->fault.expected = session->fault.actual = -1;
    if (session->pool != NULL) {
        onnxc_pool_hold(session->pool);
    }
    status = session->model->run(session->inputs, session->outputs, &session->call);
    if (status == ONNXC_MORE && !outputs_come_from_alloc(session)) {
        status = grow_outputs(session);
        if (status == ONNXC_OK) {
            status = session->model->run(session->inputs, session->outputs, &session->call);
        }
    }
    if (session->pool != NULL) {
        onnxc_pool_let_go(session->pool);
    }
    if (status == ONNXC_OK) {
        advance_states(session);
    }
    return status;
}
