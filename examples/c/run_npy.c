/* run_npy.c: runs a compiled model on .npy files, for any model whose inputs and outputs are tensors.
 *
 *     onnxc model.onnx -o model.o --name model
 *     gcc -std=c11 -Wall -Werror -DMODEL=model -I path/to/include run_npy.c model.o -o run
 *     ./run OUT_DIR input_0.npy input_1.npy ...        writes OUT_DIR/output_0.npy, ...
 *
 * It shows the whole C interface: the model's description, the arena, the call, the status. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnxc.h"

#define DECLARE(name) ONNXC_DECLARE_MODEL(name)
DECLARE(MODEL);
static const onnxc_model *const the_model = &MODEL;

static _Noreturn void fail(const char *what, const char *detail) {
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

/* Memory aligned to 64 bytes, also for 0 bytes. */
static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(ONNXC_ALIGN, (bytes + ONNXC_ALIGN) / ONNXC_ALIGN * ONNXC_ALIGN);
    if (!memory) fail("memory", "allocation failed");
    return memory;
}

/* NumPy's letter and size for an element type, such as f4. */
static void npy_type(DLDataType type, char out[8]) {
    char letter = type.code == kDLFloat ? 'f' : type.code == kDLInt ? 'i' : type.code == kDLUInt ? 'u' : type.code == kDLBool ? 'b' : 'V';
    snprintf(out, 8, "%c%d", letter, type.bits / 8);
}

/* Reads a C-ordered little-endian .npy file of the port's type and rank into the value. */
static void read_npy(const char *path, const onnxc_port *port, onnxc_value *value) {
    unsigned char prefix[10];
    char header[4096], type[8];
    FILE *file = fopen(path, "rb");
    if (!file) fail(path, "cannot open");
    if (fread(prefix, 1, 10, file) != 10 || memcmp(prefix, "\x93NUMPY\x01", 7) != 0) fail(path, "not a .npy file of version 1");
    size_t header_bytes = prefix[8] | (size_t)prefix[9] << 8;
    if (header_bytes >= sizeof header || fread(header, 1, header_bytes, file) != header_bytes) fail(path, "bad header");
    header[header_bytes] = 0;
    npy_type(port->dtype, type);
    if (!strstr(header, type)) fail(path, "another element type than the model's input");
    if (!strstr(header, "'fortran_order': False")) fail(path, "not in C order");
    const char *shape = strstr(header, "'shape': (");
    if (!shape) fail(path, "no shape");
    shape += strlen("'shape': (");

    onnxc_value_init(value, port, NULL, 0);
    int32_t rank = 0;
    size_t bytes = port->dtype.bits / 8;
    for (char *end; *shape && *shape != ')'; shape = end) {
        int64_t extent = strtoll(shape, &end, 10);
        if (end == shape || rank == ONNXC_MAX_RANK) fail(path, "bad shape");
        value->dims[rank++] = extent;
        bytes *= (size_t)extent;
        while (*end == ',' || *end == ' ') end++;
    }
    value->tensor.ndim = rank; /* the model checks rank and extents itself */
    value->tensor.data = allocate(bytes);
    value->capacity_bytes = bytes;
    if (fread(value->tensor.data, 1, bytes, file) != bytes) fail(path, "shorter than its shape says");
    fclose(file);
}

static void write_npy(const char *path, const onnxc_value *value) {
    char header[512], type[8];
    FILE *file = fopen(path, "wb");
    if (!file) fail(path, "cannot create");
    npy_type(value->tensor.dtype, type);
    size_t bytes = value->tensor.dtype.bits / 8;
    int used = snprintf(header, sizeof header, "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                        value->tensor.dtype.bits == 8 ? '|' : '<', type);
    for (int32_t axis = 0; axis < value->tensor.ndim; axis++) {
        used += snprintf(header + used, sizeof header - (size_t)used, "%" PRId64 ",", value->dims[axis]);
        bytes *= (size_t)value->dims[axis];
    }
    used += snprintf(header + used, sizeof header - (size_t)used, "), }");
    while ((10 + used + 1) % 64 != 0) header[used++] = ' ';
    header[used++] = '\n';
    unsigned char prefix[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(used & 255), (unsigned char)(used >> 8)};
    if (fwrite(prefix, 1, 10, file) != 10 || fwrite(header, 1, (size_t)used, file) != (size_t)used ||
        fwrite(value->tensor.data, 1, bytes, file) != bytes || fclose(file) != 0)
        fail(path, "cannot write");
}

/* Bytes of an output's tensor, once its dims are known. */
static size_t tensor_bytes(const onnxc_value *value) {
    size_t bytes = value->tensor.dtype.bits / 8;
    for (int32_t axis = 0; axis < value->tensor.ndim; axis++) bytes *= (size_t)value->dims[axis];
    return bytes;
}

int main(int argc, char **argv) {
    if (argc < 2 || (uint32_t)argc - 2 != the_model->input_count) {
        fprintf(stderr, "usage: %s OUT_DIR", argv[0]);
        for (uint32_t i = 0; i < the_model->input_count; i++) fprintf(stderr, " %s.npy", the_model->inputs[i].name);
        fputc('\n', stderr);
        return 2;
    }
    onnxc_value *inputs = calloc(the_model->input_count + 1, sizeof *inputs);
    onnxc_value *outputs = calloc(the_model->output_count + 1, sizeof *outputs);
    int64_t *dims = calloc(the_model->symbol_count + 1, sizeof *dims);
    if (!inputs || !outputs || !dims) fail("memory", "allocation failed");

    for (uint32_t i = 0; i < the_model->input_count; i++) {
        read_npy(argv[2 + i], &the_model->inputs[i], &inputs[i]);
        for (int32_t axis = 0; axis < inputs[i].tensor.ndim && axis < the_model->inputs[i].ndim; axis++) {
            if (the_model->inputs[i].symbols[axis] >= 0) dims[the_model->inputs[i].symbols[axis]] = inputs[i].dims[axis];
        }
    }
    for (uint32_t i = 0; i < the_model->output_count; i++) onnxc_value_init(&outputs[i], &the_model->outputs[i], NULL, 0);

    size_t arena_bytes;
    int status = the_model->plan(dims, 1, &arena_bytes);
    if (status) fail("plan", the_model->status(status));
    onnxc_call call = ONNXC_CALL_INIT;
    call.arena = allocate(arena_bytes);
    call.arena_bytes = arena_bytes;

    /* Without room for the outputs, the first run only says what they need. */
    status = the_model->run(inputs, outputs, &call);
    if (status == ONNXC_MORE) {
        for (uint32_t i = 0; i < the_model->output_count; i++) {
            outputs[i].capacity_bytes = tensor_bytes(&outputs[i]);
            outputs[i].tensor.data = allocate(outputs[i].capacity_bytes);
        }
        status = the_model->run(inputs, outputs, &call);
    }
    if (status) fail("run", the_model->status(status));

    for (uint32_t i = 0; i < the_model->output_count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/output_%" PRIu32 ".npy", argv[1], i);
        write_npy(path, &outputs[i]);
        free(outputs[i].tensor.data);
    }
    for (uint32_t i = 0; i < the_model->input_count; i++) free(inputs[i].tensor.data);
    free(call.arena);
    free(inputs);
    free(outputs);
    free(dims);
    return 0;
}
