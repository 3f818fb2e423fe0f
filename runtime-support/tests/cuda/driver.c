/* A driver without a device for the test of csrc/cuda*.c: device memory is the heap's, every kernel doubles floats, a
 * stream runs what it is given at once or records it, and the graph replays. A text with "bad" in it does not load. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t device_pointer;

struct step {
    int doubles;
    void *to;
    const void *from;
    size_t count; /* bytes, or floats where it doubles */
};

static struct step recorded[64];
static int steps, capturing, launches, graphs, allocations, waits, allowed;

static void run(const struct step *step) {
    if (!step->doubles) {
        memcpy(step->to, step->from, step->count);
        return;
    }
    for (size_t i = 0; i < step->count; i++) ((float *)step->to)[i] = 2 * ((const float *)step->from)[i];
}

static int give(int doubles, void *to, const void *from, size_t count) {
    struct step step = {doubles, to, from, count};
    if (capturing) {
        recorded[steps++] = step;
    } else {
        run(&step);
    }
    return 0;
}

static void *pointer(device_pointer p) { return (void *)(uintptr_t)p; }

int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 0 : 4;
    return device;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &steps, device; }
int cuCtxPushCurrent_v2(void *context) { return context == NULL; }
int cuCtxPopCurrent_v2(void **context) { return *context = NULL, 0; }
int cuModuleLoadDataEx(void **module, const void *text, unsigned count, int *options, void **values) {
    if (strstr(text, "bad") != NULL) {
        for (unsigned i = 0; i < count; i++)
            if (options[i] == 5) strcpy(values[i], "line 3: nonsense");
        return 218;
    }
    return *module = &steps, 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = module;
    return name == NULL;
}
int cuModuleUnload(void *module) { return module == NULL; }
int cuMemAlloc_v2(device_pointer *p, size_t bytes) {
    *p = (uintptr_t)malloc(bytes);
    allocations++;
    return bytes == 0;
}
int cuMemFree_v2(device_pointer p) {
    free(pointer(p));
    allocations--;
    return 0;
}
int cuMemcpyHtoDAsync_v2(device_pointer to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    return give(0, pointer(to), from, bytes);
}
int cuMemcpyDtoHAsync_v2(void *to, device_pointer from, size_t bytes, void *stream) {
    (void)stream;
    return give(0, to, pointer(from), bytes);
}
int cuMemcpyDtoDAsync_v2(device_pointer to, device_pointer from, size_t bytes, void *stream) {
    (void)stream;
    return give(0, pointer(to), pointer(from), bytes);
}
/* Parameters: from, to, begin, end, scratch. */
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    (void)stream, (void)extra;
    launches++;
    if (function == NULL || gx == 0 || gy * gz * by * bz != 1 || bx != 128 || (int)shared != allowed) return 1;
    return give(1, *(void **)parameters[1], *(void **)parameters[0], (size_t)*(int64_t *)parameters[3]);
}
int cuStreamCreate(void **stream, unsigned flags) { return *stream = &steps, flags != 0; }
int cuStreamSynchronize(void *stream) { return (void)stream, waits++, capturing ? 900 : 0; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return stream == NULL || event == NULL || flags != 0; }
int cuEventCreate(void **event, unsigned flags) { return *event = &waits, flags != 2; }
int cuEventRecord(void *event, void *stream) { return event == NULL || stream == NULL; }
int cuEventSynchronize(void *event) { return event == NULL; }
int cuFuncSetAttribute(void *function, int attribute, int value) {
    allowed = value;
    return function == NULL || attribute != 8;
}
int cuStreamBeginCapture_v2(void *stream, int mode) {
    (void)stream, (void)mode;
    capturing = 1;
    steps = 0;
    return 0;
}
int cuStreamEndCapture(void *stream, void **graph) {
    (void)stream;
    capturing = 0;
    *graph = recorded;
    return 0;
}
int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    *exec = graph;
    graphs++;
    return (int)flags;
}
int cuGraphLaunch(void *exec, void *stream) {
    (void)exec, (void)stream;
    for (int i = 0; i < steps; i++) run(&recorded[i]);
    return 0;
}
int cuGraphDestroy(void *graph) { return graph == NULL; }
int cuGraphExecDestroy(void *exec) { return exec == NULL; }
int cuGetErrorString(int code, const char **text) {
    *text = code == 218 ? "the text does not load" : "an error";
    return 0;
}

/* For the test: launches, graphs, allocations that are there, waits for a stream. */
int counted(int what) { return what == 0 ? launches : what == 1 ? graphs : what == 2 ? allocations : waits; }
