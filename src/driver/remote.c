/* remote.c: runs many compiled models, one after the other, on inputs from a file, and writes what they give to another.
 *
 *     program INPUTS OUTPUTS FIRST
 *
 * It serves `onnxc test --runner`, which links it with the models of a batch and with a table of them, and compares the
 * outputs on the host. It needs nothing but the C library, and what models that work on strings call. Both files are
 * little-endian, as all targets are.
 *
 * INPUTS, for each run: u32 number, u32 model, u32 count of inputs; for each: i32 ONNX type, i32 rank, i64 dims, u64 bytes,
 * then the bytes: of strings their places in the text, and the text. OUTPUTS, for each run from FIRST on, written when it has ended: u32 number, i32 status, u32 step of a
 * failure, u32 count of outputs; for each the same as for an input. A crash loses the run in which it happens. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnxc.h"

/* ONNX's number of the type. */
enum { ONNX_STRING = 8 };

extern const onnxc_model *const onnxc_remote_models[];
extern const uint32_t onnxc_remote_model_count;

static void fail(const char *what) {
    fprintf(stderr, "remote: %s\n", what);
    exit(3);
}

/* The pointer that malloc gave lies in the word before the memory. */
static void *allocate(size_t bytes) {
    char *const whole = malloc(bytes + 2 * ONNXC_ALIGN);
    uintptr_t address;
    if (!whole) fail("out of memory");
    address = ((uintptr_t)whole + 2 * ONNXC_ALIGN - 1) / ONNXC_ALIGN * ONNXC_ALIGN;
    ((void **)address)[-1] = whole;
    return (void *)address;
}

static void release(void *memory) {
    if (memory) free(((void **)memory)[-1]);
}

static void *call_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    (void)align;
    return allocate(bytes);
}

static void call_release(void *user, void *memory, size_t bytes) {
    (void)user;
    (void)bytes;
    release(memory);
}

static int read_exactly(FILE *file, void *to, size_t bytes) {
    return bytes == 0 || fread(to, 1, bytes, file) == bytes;
}

static uint32_t read_u32(FILE *file) {
    uint32_t value;
    if (!read_exactly(file, &value, sizeof value)) fail("the inputs end early");
    return value;
}

static int64_t read_i64(FILE *file) {
    int64_t value;
    if (!read_exactly(file, &value, sizeof value)) fail("the inputs end early");
    return value;
}

static void put(FILE *file, const void *from, size_t bytes) {
    if (bytes != 0 && fwrite(from, 1, bytes, file) != bytes) fail("cannot write the outputs");
}

static void put_u32(FILE *file, uint32_t value) {
    put(file, &value, sizeof value);
}

/* Bytes of a tensor whose dims are known. */
static size_t tensor_bytes(const onnxc_value *value) {
    size_t bits = (size_t)value->tensor.dtype.bits * value->tensor.dtype.lanes;
    int32_t axis;
    for (axis = 0; axis < value->tensor.ndim; axis++) bits *= (size_t)value->dims[axis];
    return (bits + 7) / 8;
}

/* Reads an input; 0 when it has not the port's type. */
static int read_input(FILE *file, const onnxc_port *port, onnxc_value *value) {
    const int32_t dtype = (int32_t)read_u32(file);
    const int32_t rank = (int32_t)read_u32(file);
    uint64_t bytes;
    int32_t axis;
    onnxc_value_init(value, port, NULL, 0);
    if (rank < 0 || rank > ONNXC_MAX_RANK) fail("an input has an impossible rank");
    value->tensor.ndim = rank;
    for (axis = 0; axis < rank; axis++) value->dims[axis] = read_i64(file);
    bytes = (uint64_t)read_i64(file);
    value->tensor.data = allocate(bytes);
    value->capacity_bytes = bytes;
    if (!read_exactly(file, value->tensor.data, bytes)) fail("the inputs end early");
    if (dtype == ONNX_STRING) {
        const size_t places = tensor_bytes(value);
        if (places > bytes) fail("an input lacks strings");
        value->capacity_bytes = places;
        value->string_bytes = (char *)value->tensor.data + places;
        value->string_used = bytes - places;
    }
    return dtype == port->onnx_dtype;
}

/* Plans, makes room and runs. */
static int run(const onnxc_model *model, onnxc_value *inputs, onnxc_value *outputs, onnxc_fault *fault) {
    int64_t *const dims = calloc(model->symbol_count + 1, sizeof *dims);
    onnxc_call call = ONNXC_CALL_INIT;
    const int allocates = model->memory == ONNXC_MEMORY_DATA;
    size_t arena_bytes = 0;
    uint32_t i;
    int status;
    if (!dims) fail("out of memory");
    for (i = 0; i < model->symbol_count; i++) dims[i] = 1;
    for (i = 0; i < model->input_count; i++) {
        const onnxc_port *const port = &model->inputs[i];
        int32_t axis;
        for (axis = 0; axis < port->ndim && axis < inputs[i].tensor.ndim; axis++) {
            if (port->symbols[axis] >= 0) dims[port->symbols[axis]] = inputs[i].dims[axis];
        }
    }
    for (i = 0; i < model->output_count; i++) onnxc_value_init(&outputs[i], &model->outputs[i], NULL, 0);
    status = model->plan(dims, 1, &arena_bytes);
    if (status == ONNXC_OK) {
        call.arena = allocate(arena_bytes);
        call.arena_bytes = arena_bytes;
        call.fault = fault;
        if (allocates) {
            call.alloc = call_alloc;
            call.release = call_release;
        }
        status = model->run(inputs, outputs, &call);
        if (status == ONNXC_MORE && !allocates) {
            for (i = 0; i < model->output_count; i++) {
                outputs[i].capacity_bytes = tensor_bytes(&outputs[i]);
                outputs[i].tensor.data = allocate(outputs[i].capacity_bytes);
            }
            status = model->run(inputs, outputs, &call);
        }
        release(call.arena);
    }
    free(dims);
    return status;
}

static void write_outputs(FILE *file, uint32_t number, int status, const onnxc_fault *fault, const onnxc_model *model,
                          const onnxc_value *outputs) {
    const uint32_t count = status == ONNXC_OK ? model->output_count : 0;
    uint32_t i;
    put_u32(file, number);
    put_u32(file, (uint32_t)status);
    put_u32(file, (uint32_t)fault->step);
    put_u32(file, count);
    for (i = 0; i < count; i++) {
        const uint64_t elements = tensor_bytes(&outputs[i]);
        const uint64_t text = model->outputs[i].onnx_dtype == ONNX_STRING ? outputs[i].string_used : 0;
        const uint64_t bytes = elements + text;
        put_u32(file, (uint32_t)model->outputs[i].onnx_dtype);
        put_u32(file, (uint32_t)outputs[i].tensor.ndim);
        put(file, outputs[i].dims, sizeof(int64_t) * (size_t)outputs[i].tensor.ndim);
        put(file, &bytes, sizeof bytes);
        put(file, (const char *)outputs[i].tensor.data + outputs[i].tensor.byte_offset, elements);
        put(file, outputs[i].string_bytes, text);
    }
    if (fflush(file) != 0) fail("cannot write the outputs");
}

int main(int argc, char **argv) {
    FILE *const in = argc == 4 ? fopen(argv[1], "rb") : NULL;
    FILE *const out = argc == 4 ? fopen(argv[2], "wb") : NULL;
    uint32_t number;
    if (!in || !out) fail("usage: program INPUTS OUTPUTS FIRST");
    while (read_exactly(in, &number, sizeof number)) {
        const uint32_t index = read_u32(in);
        const uint32_t count = read_u32(in);
        const onnxc_model *const model = index < onnxc_remote_model_count ? onnxc_remote_models[index] : NULL;
        onnxc_value *inputs;
        onnxc_value *outputs;
        onnxc_fault fault;
        uint32_t i;
        int status = ONNXC_OK;
        if (!model || count != model->input_count) fail("the inputs are not those of the models");
        inputs = calloc(count + 1, sizeof *inputs);
        outputs = calloc(model->output_count + 1, sizeof *outputs);
        if (!inputs || !outputs) fail("out of memory");
        memset(&fault, 0, sizeof fault);
        fault.step = -1;
        for (i = 0; i < count; i++) {
            if (!read_input(in, &model->inputs[i], &inputs[i])) status = ONNXC_DTYPE;
        }
        if (number >= (uint32_t)strtoul(argv[3], NULL, 10)) {
            if (status == ONNXC_OK) status = run(model, inputs, outputs, &fault);
            write_outputs(out, number, status, &fault, model, outputs);
        }
        for (i = 0; i < count; i++) release(inputs[i].tensor.data);
        for (i = 0; i < model->output_count; i++) {
            release(outputs[i].tensor.data);
            if (outputs[i].flags & ONNXC_VALUE_OWNS_STRINGS) release(outputs[i].string_bytes);
        }
        free(inputs);
        free(outputs);
    }
    fclose(in);
    return fclose(out) == 0 ? 0 : 3;
}
