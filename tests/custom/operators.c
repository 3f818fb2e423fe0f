/* A user's operator and a program that runs the model which calls it; see tests/custom.rs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #condition); \
            exit(1);                                                          \
        }                                                                     \
    } while (0)

static int calls;

/* (rows f32[n, 3], absent, offset f32[3]) -> (alpha * rows + offset f32[n, 3], the rows' number i64[1]). A NaN is refused. */
int scale_rows(const onnxc_operator *op, const DLTensor *inputs, int32_t input_count, DLTensor *outputs,
               int32_t output_count, const onnxc_call *call) {
    const onnxc_attribute *alpha = onnxc_find_attribute(op, "alpha");
    const onnxc_attribute *axes = onnxc_find_attribute(op, "axes");
    const onnxc_attribute *mode = onnxc_find_attribute(op, "mode");
    const float *rows = inputs[0].data, *offset = inputs[2].data;
    float *result = outputs[0].data;
    int64_t i, n = inputs[0].shape[0];
    calls++;
    CHECK(strcmp(op->name, "my.ops.ScaleRows") == 0 && strcmp(op->node, "scale") == 0 && op->attribute_count == 3);
    CHECK(alpha && alpha->kind == ONNXC_ATTRIBUTE_FLOATS && alpha->count == 1);
    CHECK(axes && axes->kind == ONNXC_ATTRIBUTE_INTS && axes->count == 2);
    CHECK(((const int64_t *)axes->values)[0] == 1 && ((const int64_t *)axes->values)[1] == -2);
    CHECK(mode && mode->kind == ONNXC_ATTRIBUTE_TEXTS && strcmp(((const char *const *)mode->values)[0], "up") == 0);
    CHECK(onnxc_find_attribute(op, "mod") == NULL && onnxc_find_attribute(op, "model") == NULL);
    CHECK(input_count == 3 && output_count == 2 && call && call->struct_size == sizeof(onnxc_call));
    CHECK(inputs[0].ndim == 2 && inputs[0].shape[1] == 3 && inputs[0].strides == NULL);
    CHECK(inputs[0].dtype.code == kDLFloat && inputs[0].dtype.bits == 32 && inputs[0].dtype.lanes == 1);
    CHECK(inputs[0].device.device_type == kDLCPU && inputs[1].data == NULL && inputs[1].ndim == 0);
    CHECK(outputs[0].ndim == 2 && outputs[0].shape[0] == n && outputs[1].ndim == 1 && outputs[1].shape[0] == 1);
    CHECK(outputs[1].dtype.code == kDLInt && outputs[1].dtype.bits == 64);
    for (i = 0; i < n * 3; i++) {
        if (isnan(rows[i])) return 7;
        result[i] = *(const float *)alpha->values * rows[i] + offset[i % 3];
    }
    *(int64_t *)outputs[1].data = n;
    return 0;
}

int main(void) {
    enum { ROWS = 5 };
    float x[ROWS * 3], y[ROWS * 3];
    const float offset[3] = {0.5f, 0.0f, -1.0f};
    int64_t dims[1] = {ROWS}, count = 0;
    size_t bytes = 0;
    onnxc_value in[1], out[2];
    onnxc_fault fault;
    onnxc_call call = ONNXC_CALL_INIT;
    int i;
    CHECK(net_plan(dims, 1, &bytes) == ONNXC_OK);
    call.arena = aligned_alloc(ONNXC_ALIGN, bytes);
    call.arena_bytes = bytes;
    call.fault = &fault;
    onnxc_value_init(&in[0], &net.inputs[0], x, sizeof x);
    in[0].dims[0] = ROWS;
    onnxc_value_init(&out[0], &net.outputs[0], y, sizeof y);
    onnxc_value_init(&out[1], &net.outputs[1], &count, sizeof count);
    for (i = 0; i < ROWS * 3; i++) x[i] = (float)i - 7.0f;
    CHECK(net_run(in, out, &call) == ONNXC_OK);
    for (i = 0; i < ROWS * 3; i++) {
        const float relu = x[i] > 0.0f ? x[i] : 0.0f;
        CHECK(y[i] == 2.0f * (2.5f * relu + offset[i % 3]));
    }
    CHECK(count == ROWS && calls == 1);
    x[4] = NAN;
    CHECK(net_run(in, out, &call) == ONNXC_USER);
    CHECK(fault.actual == 7 && fault.step >= 0 && strstr(net.steps[fault.step], "my.ops.ScaleRows scale"));
    free(call.arena);
    return 0;
}
