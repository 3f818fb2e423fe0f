/* start.c: all that a model needs on a machine without a C library. It is linked and not run. */
#include "onnxc.h"

ONNXC_DECLARE_MODEL(the_compiled_model);

void *memset(void *to, int byte, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) ((volatile char *)to)[i] = (char)byte;
    return to;
}

void *memcpy(void *to, const void *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memmove(void *to, const void *from, size_t bytes) {
    const int forward = (uintptr_t)to < (uintptr_t)from;
    for (size_t i = 0; i < bytes; i++) {
        const size_t at = forward ? i : bytes - 1 - i;
        ((volatile char *)to)[at] = ((const char *)from)[at];
    }
    return to;
}

static _Alignas(ONNXC_ALIGN) char arena[64 << 20];
static float image[3 * 224 * 224], classes[1000];

void _start(void) {
    static onnxc_value in, out;
    onnxc_call call = ONNXC_CALL_INIT;
    call.arena = arena;
    call.arena_bytes = sizeof arena;
    onnxc_value_init(&in, &the_compiled_model.inputs[0], image, sizeof image);
    onnxc_value_init(&out, &the_compiled_model.outputs[0], classes, sizeof classes);
    the_compiled_model_run(&in, &out, &call);
    for (;;) {
    }
}
