/* What a host program for a GPU does with csrc/cuda*.c, by hand, on the driver beside this file. */

#include "onnxc.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int32_t onnxc_cuda_begin(const void *model, const void *frame);
void onnxc_cuda_launch(const void *kernel, void *const *buffers, const int64_t *params, int64_t tasks);
void onnxc_cuda_copy(void *to, const void *from, uint64_t bytes);
const void *onnxc_cuda_read(void *at, uint64_t bytes);
void onnxc_cuda_write(const void *at, uint64_t bytes);
int32_t onnxc_cuda_end(void);
int32_t onnxc_cuda_leave(int32_t status);
const char *onnxc_cuda_message(void);

struct kernel {
    const char *name;
    uint32_t threads, workers_per_block;
    uint64_t scratch_bytes, max_workers;
    uint32_t index, buffers, params, shared_bytes, resident, map_count;
    const void *maps;
};
struct model {
    uint32_t version, capability;
    const char *text;
    uint8_t hash[32];
    const void *weights;
    uint64_t weight_bytes;
    uint32_t kernels, inputs, outputs, slots, symbols, looks;
};
struct slot {
    void *data;
    int64_t bytes;
};
struct frame {
    const onnxc_call *call;
    void *arena, *scratch;
    const int64_t *dims;
    void **bases;
    const int64_t *sizes;
    struct slot *slots;
    const onnxc_value *outputs;
    uint64_t arena_bytes;
    const onnxc_value *inputs;
};

#define N 16
#define CHECK(what)                                                                                                    \
    if (!(what)) {                                                                                                     \
        printf("line %d: %s (%s)\n", __LINE__, #what, onnxc_cuda_message());                                           \
        return 1;                                                                                                      \
    }

static _Alignas(64) uint8_t arena[256];
static float in[N], out[N], weights[N];

int main(void) {
    struct kernel kernel = {"k", 128, 4, 64, 8, 0, 2, 0, 0, 0, 0, NULL};
    struct model model = {1, 80, "text", {1}, weights, sizeof weights, 1, 1, 1, 1, 0, 0};
    onnxc_call call = {0};
    onnxc_value given = {0}, result = {0};
    given.tensor.device.device_type = result.tensor.device.device_type = kDLCPU;
    void *bases[] = {in, out};
    int64_t sizes[] = {sizeof in, sizeof out};
    struct slot slots[1] = {{NULL, 0}};
    struct frame frame = {&call, arena, arena, NULL, bases, sizes, slots, &result, sizeof arena, &given};
    for (int i = 0; i < N; i++) weights[i] = 100.0f + (float)i;

    /* Three runs: one is recorded, all replay. */
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) in[i] = (float)(round + i);
        CHECK(onnxc_cuda_begin(&model, &frame) == 0);
        onnxc_cuda_launch(&kernel, (void *[]){in, arena + 64}, NULL, N);
        onnxc_cuda_launch(&kernel, (void *[]){arena + 64, out}, NULL, N);
        CHECK(onnxc_cuda_end() == 0);
        CHECK(onnxc_cuda_leave(0) == 0);
        for (int i = 0; i < N; i++) CHECK(out[i] == 4.0f * (float)(round + i));
    }
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    CHECK(driver != NULL);
    int (*counted)(int);
    *(void **)&counted = dlsym(driver, "counted");
    CHECK(counted(0) == 2 && counted(1) == 1);
    int allocations = counted(2);

    /* A model whose host looks at data, with a slot and weights. */
    struct model looks = model;
    looks.looks = 1;
    CHECK(onnxc_cuda_begin(&looks, &frame) == 0);
    int64_t *counter = (int64_t *)(void *)arena;
    *counter = 7;
    onnxc_cuda_write(counter, 8);
    *counter = 0;
    CHECK(*(const int64_t *)onnxc_cuda_read(counter, 8) == 7);
    /* What the host has is read where it is: it may be read-only. */
    CHECK(onnxc_cuda_read(in, 8) == in && onnxc_cuda_read(&weights[2], 8) == &weights[2]);
    float held[N];
    slots[0] = (struct slot){held, sizeof held};
    onnxc_cuda_launch(&kernel, (void *[]){weights, held}, NULL, N);
    CHECK(onnxc_cuda_read(held, sizeof held) == held && held[3] == 206);
    onnxc_cuda_copy(out, held, sizeof held);
    CHECK(onnxc_cuda_end() == 0 && out[15] == 230);
    slots[0].data = NULL;
    /* Weights, arena and two ports stay; the slot's mirror went. */
    CHECK(counted(2) == allocations + 4 + 1);

    /* A run that a step left, and the next one; another model at the same address; a tensor on the device. */
    CHECK(onnxc_cuda_begin(&model, &frame) == 0);
    CHECK(onnxc_cuda_leave(ONNXC_DATA_SHAPE) == ONNXC_DATA_SHAPE);
    model.hash[0] = 2;
    float *device = malloc(sizeof in);
    CHECK(device != NULL);
    for (int i = 0; i < N; i++) device[i] = (float)i;
    bases[0] = device;
    given.tensor.device.device_type = (DLDeviceType)2;
    CHECK(onnxc_cuda_begin(&model, &frame) == 0);
    onnxc_cuda_launch(&kernel, (void *[]){device, out}, NULL, N);
    CHECK(onnxc_cuda_end() == 0 && out[5] == 10);

    /* The host reads a word of it, not at its address. */
    CHECK(onnxc_cuda_begin(&looks, &frame) == 0);
    const float *word = onnxc_cuda_read(device + 6, 8);
    CHECK(word != device + 6 && word[0] == 6 && word[1] == 7);
    /* After a failure steps read zeros, and what they then say is not why the run ends. */
    struct kernel wide = kernel;
    wide.threads = 64;
    onnxc_cuda_launch(&wide, (void *[]){device, out}, NULL, N);
    CHECK(((const float *)onnxc_cuda_read(device + 6, 8))[0] == 0 && device[6] == 6);
    CHECK(onnxc_cuda_leave(ONNXC_DATA_SHAPE) == ONNXC_DEVICE_FAILED);

    /* All tensors on the device and a stream of the caller's: nobody waits. A crooked address gets a mirror. */
    call.stream = &frame;
    result.tensor.device.device_type = (DLDeviceType)2;
    float *crooked = malloc(sizeof in + 4);
    CHECK(crooked != NULL);
    bases[1] = ++crooked;
    kernel.shared_bytes = 64;
    kernel.index = 1;
    model.kernels = 2;
    model.hash[0] = 3;
    CHECK(onnxc_cuda_begin(&model, &frame) == 0);
    int waited = counted(3);
    onnxc_cuda_launch(&kernel, (void *[]){device, crooked}, NULL, N);
    CHECK(onnxc_cuda_end() == 0 && crooked[5] == 10 && counted(3) == waited);
    given.tensor.device.device_id = 1;
    CHECK(onnxc_cuda_begin(&model, &frame) == ONNXC_DEVICE && strstr(onnxc_cuda_message(), "device 1") != NULL);
    given.tensor.device.device_id = 0;
    free(crooked - 1);

    /* This driver makes no tensor maps. */
    static const uint64_t map[32];
    struct kernel boxes = kernel;
    boxes.map_count = 1;
    boxes.maps = map;
    bases[1] = out;
    CHECK(onnxc_cuda_begin(&model, &frame) == 0);
    onnxc_cuda_launch(&boxes, (void *[]){device, device}, NULL, N);
    CHECK(onnxc_cuda_end() == ONNXC_NO_DRIVER);
    CHECK(strstr(onnxc_cuda_message(), "it lacks cuTensorMapEncodeTiled") != NULL);

    struct model bad = model;
    bad.text = "bad";
    CHECK(onnxc_cuda_begin(&bad, &frame) == ONNXC_DEVICE_FAILED);
    CHECK(strstr(onnxc_cuda_message(), "line 3: nonsense") != NULL);
    CHECK(onnxc_cuda_begin(&bad, &frame) == ONNXC_DEVICE_FAILED);
    struct model newer = model;
    newer.capability = 900;
    CHECK(onnxc_cuda_begin(&newer, &frame) == ONNXC_NO_DEVICE);
    free(device);
    puts("right");
    return 0;
}
