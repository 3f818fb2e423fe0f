/* A C program with a model: by hand with an arena of its own, then through the support library on two threads. */
#include "onnxc_support.h"

#include <stdio.h>
#include <stdlib.h>

ONNXC_DECLARE_MODEL(fake_static);

int main(void) {
    float x[12], bias[3] = {1, 1, 1}, y[12];
    size_t arena_bytes;
    onnxc_call call = ONNXC_CALL_INIT;
    onnxc_value in[2], out[1];
    onnxc_session *session;
    const float *result;
    int index, status;

    for (index = 0; index < 12; index++) {
        x[index] = (float)index;
    }
    if (fake_static_plan(NULL, 1, &arena_bytes) != ONNXC_OK) {
        return 1;
    }
    call.arena = aligned_alloc(ONNXC_ALIGN, arena_bytes);
    call.arena_bytes = arena_bytes;
    onnxc_value_init(&in[0], &fake_static.inputs[0], x, sizeof x);
    onnxc_value_init(&in[1], &fake_static.inputs[1], bias, sizeof bias);
    onnxc_value_init(&out[0], &fake_static.outputs[0], y, sizeof y);
    status = fake_static_run(in, out, &call);
    printf("by hand %d %g\n", status, (double)y[11]);

    status = onnxc_session_create(&fake_static, NULL, 2, &session);
    if (status != ONNXC_OK) {
        fprintf(stderr, "%s\n", onnxc_status_message(status));
        return 1;
    }
    onnxc_session_inputs(session)[0].tensor.data = x;
    onnxc_session_inputs(session)[1].tensor.data = bias;
    status = onnxc_session_run(session);
    result = onnxc_session_outputs(session)[0].tensor.data;
    printf("in a session %d %g\n", status, (double)result[11]);
    onnxc_session_destroy(session);

    out[0].capacity_bytes = 8;
    status = fake_static_run(in, out, &call);
    printf("too small %d: needs %d x %d\n", status, (int)out[0].dims[0], (int)out[0].dims[1]);
    free(call.arena);
    return 0;
}
