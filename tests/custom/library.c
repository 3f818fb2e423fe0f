/* A user's operator in a shared library; see tests/custom.rs. */
#include "onnxc.h"

/* (rows f32[n, 3], absent, offset f32[3]) -> (alpha * rows + offset f32[n, 3], the rows' number i64[1]). */
int scale_rows(const onnxc_operator *op, const DLTensor *inputs, int32_t input_count, DLTensor *outputs,
               int32_t output_count, const onnxc_call *call) {
    const onnxc_attribute *alpha = onnxc_find_attribute(op, "alpha");
    const float factor = *(const float *)alpha->values;
    const float *rows = inputs[0].data, *offset = inputs[2].data;
    float *result = outputs[0].data;
    const int64_t n = inputs[0].shape[0];
    for (int64_t i = 0; i < 3 * n; i++) result[i] = factor * rows[i] + offset[i % 3];
    *(int64_t *)outputs[1].data = n;
    return 0;
}
