/* A model on tensors that the caller has on the device, on the caller's stream: a test of `tests/gpu.rs`, on the stand-in
 * driver, whose counters it reads. The argument is the shared library of the digits' network. */

#include "onnxc.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what)                                                                                                    \
    if (!(what)) {                                                                                                     \
        printf("line %d: %s\n", __LINE__, #what);                                                                      \
        return 1;                                                                                                      \
    }
#define FIND(name, parameters)                                                                                         \
    int(*name) parameters;                                                                                             \
    *(void **)&name = dlsym(driver, #name);                                                                            \
    CHECK(name != NULL)

enum { IN = 64, OUT = 10 };

static void place(onnxc_value *value, const onnxc_port *port, uint64_t address, uint64_t bytes) {
    onnxc_value_init(value, port, (void *)(uintptr_t)address, bytes);
    value->tensor.device.device_type = (DLDeviceType)2; /* kDLCUDA */
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL), *driver = dlopen("libcuda.so.1", RTLD_NOW);
    CHECK(library != NULL && driver != NULL);
    const onnxc_model *model = dlsym(library, "digits");
    const char *(*message)(void);
    uint64_t (*counted)(int);
    *(void **)&message = dlsym(library, "onnxc_cuda_message");
    *(void **)&counted = dlsym(driver, "onnxcStandinCount");
    CHECK(model != NULL && message != NULL && counted != NULL && (model->flags & ONNXC_MODEL_GPU) != 0);
    FIND(cuInit, (unsigned))
    FIND(cuMemAlloc_v2, (uint64_t *, size_t))
    FIND(cuMemcpyHtoD_v2, (uint64_t, const void *, size_t))
    FIND(cuMemcpyDtoH_v2, (void *, uint64_t, size_t))
    FIND(cuStreamCreate, (void **, unsigned))
    FIND(cuStreamSynchronize, (void *))

    float in[2][IN], want[2][OUT], got[OUT];
    for (int i = 0; i < 2 * IN; i++) in[i / IN][i % IN] = (float)(i * 7 % 17);
    onnxc_call call = ONNXC_CALL_INIT;
    call.arena = aligned_alloc(ONNXC_ALIGN, (model->arena_bytes + ONNXC_ALIGN) / ONNXC_ALIGN * ONNXC_ALIGN);
    call.arena_bytes = model->arena_bytes;
    onnxc_value input, output;
    for (int i = 0; i < 2; i++) {
        onnxc_value_init(&input, &model->inputs[0], in[i], sizeof in[i]);
        onnxc_value_init(&output, &model->outputs[0], want[i], sizeof want[i]);
        CHECK(model->run(&input, &output, &call) == 0);
    }
    CHECK(memcmp(want[0], want[1], sizeof want[0]) != 0);

    uint64_t x = 0, y = 0;
    void *stream = NULL;
    CHECK(cuInit(0) == 0 && cuMemAlloc_v2(&x, sizeof in[0]) == 0 && cuMemAlloc_v2(&y, sizeof got + 4) == 0);
    CHECK(cuStreamCreate(&stream, 0) == 0);
    call.stream = stream;
    place(&input, &model->inputs[0], x, sizeof in[0]);
    place(&output, &model->outputs[0], y, sizeof got);
    uint64_t launched = 0;
    for (int round = 0; round < 4; round++) {
        CHECK(cuMemcpyHtoD_v2(x, in[round % 2], sizeof in[0]) == 0);
        uint64_t ran = counted(0), graphs = counted(2);
        CHECK(model->run(&input, &output, &call) == 0);
        /* The whole model is one graph, which is launched and not waited for. */
        CHECK(counted(0) == ran && counted(2) == graphs + 1);
        if (round == 0) launched = counted(1);
        CHECK(counted(1) == launched);
        CHECK(cuStreamSynchronize(stream) == 0 && counted(0) > ran);
        CHECK(cuMemcpyDtoH_v2(got, y, sizeof got) == 0 && memcmp(got, want[round % 2], sizeof got) == 0);
    }
    /* Callers who take turns with buffers have a graph for each. */
    uint64_t other = 0;
    CHECK(cuMemAlloc_v2(&other, sizeof got) == 0);
    for (int round = 0; round < 4; round++) {
        output.tensor.data = (void *)(uintptr_t)(round % 2 == 0 ? other : y);
        CHECK(model->run(&input, &output, &call) == 0 && cuStreamSynchronize(stream) == 0);
        if (round == 0) launched = counted(1);
        CHECK(counted(1) == launched);
    }
    CHECK(cuMemcpyDtoH_v2(got, other, sizeof got) == 0 && memcmp(got, want[1], sizeof got) == 0);
    /* The shape is the run's; plain tensors do as well; an address that is no multiple of 16 is served too. */
    CHECK(output.tensor.ndim == 2 && output.dims[1] == OUT);
    const DLTensor *plain_in = &input.tensor;
    DLTensor *plain_out = &output.tensor;
    output.tensor.data = (void *)(uintptr_t)(y + 4);
    CHECK(model->run_dl(&plain_in, &plain_out, &call) == 0 && cuStreamSynchronize(stream) == 0);
    CHECK(cuMemcpyDtoH_v2(got, y + 4, sizeof got) == 0 && memcmp(got, want[1], sizeof got) == 0);
    /* An output on the host makes the run wait. */
    onnxc_value_init(&output, &model->outputs[0], got, sizeof got);
    memset(got, 0, sizeof got);
    CHECK(model->run(&input, &output, &call) == 0 && memcmp(got, want[1], sizeof got) == 0);

    input.tensor.device.device_id = 1;
    CHECK(model->run(&input, &output, &call) == ONNXC_DEVICE && strstr(message(), "device 1") != NULL);
    input.tensor.device.device_id = 0;
    input.tensor.device.device_type = (DLDeviceType)10; /* kDLROCM */
    CHECK(model->run(&input, &output, &call) == ONNXC_DEVICE);
    place(&input, &model->inputs[0], x + sizeof in[0], sizeof in[0]);
    CHECK(model->run(&input, &output, &call) == ONNXC_DEVICE_FAILED);
    puts("right");
    return 0;
}
