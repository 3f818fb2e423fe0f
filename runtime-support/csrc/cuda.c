/* Models whose kernels run on an NVIDIA GPU: what their host programs call.
 *
 * The host program works with addresses of the host, as on any target: the caller's tensors, the arena, the weights, the
 * slots. Here each such piece of memory has a mirror on the device, and a launch gets the mirrors' addresses. Inputs are
 * copied to the device when a run begins and outputs back when it ends; weights once; in between nothing moves but what
 * the host program itself reads or writes. Tensors that the caller has on the device already (kDLCUDA) are used in place.
 *
 * A model keeps its module, weights, memory and graph for the process, and its runs wait for one another. Where no step
 * looks at data, the launches of a run become a CUDA graph, which later runs with the same sizes and addresses replay.
 *
 * The driver is found when the first run begins: libcuda.so.1, by dlopen. Nothing here needs CUDA to be compiled. */

#define _GNU_SOURCE
#include "onnxc.h"
#include "onnxc_support.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <dlfcn.h>
#include <pthread.h>

typedef uint64_t device_pointer;

/* Parameters of a kernel: 4 KiB. */
#define MOST_PARAMETERS 512

/* One of the model's kernels; the code generator lays these out. */
struct kernel {
    const char *name;
    uint32_t threads;
    uint32_t workers_per_block;
    uint64_t scratch_bytes; /* of one worker */
    uint64_t max_workers;   /* 0: any number */
    uint32_t index;
    uint32_t buffers;
    uint32_t params;
    uint32_t unused;
};

/* A model; the code generator lays this out. */
struct model {
    uint32_t version;
    uint32_t capability; /* 80 is 8.0; 900 is 9.0 and no other */
    const char *text;
    uint8_t hash[32];
    const uint8_t *weights;
    uint64_t weight_bytes;
    uint32_t kernels;
    uint32_t inputs;
    uint32_t outputs;
    uint32_t slots;
    uint32_t symbols;
    uint32_t looks; /* whether a step on the host looks at data */
};

struct slot {
    uint8_t *data;
    int64_t bytes;
};

/* What the host program's steps work with. */
struct frame {
    const onnxc_call *call;
    uint8_t *arena;
    uint8_t *scratch;
    const int64_t *dims;
    uint8_t *const *bases;
    const int64_t *sizes;
    const struct slot *slots;
    const onnxc_value *outputs;
    uint64_t arena_bytes;
    const onnxc_value *inputs;
};

/* The driver's functions, with the names of their newest versions that old drivers have. */
#define DRIVER(X)                                                                                                      \
    X(cuInit, (unsigned))                                                                                              \
    X(cuDeviceGet, (int *, int))                                                                                       \
    X(cuDeviceGetCount, (int *))                                                                                       \
    X(cuDeviceGetAttribute, (int *, int, int))                                                                         \
    X(cuDevicePrimaryCtxRetain, (void **, int))                                                                        \
    X(cuCtxPushCurrent_v2, (void *))                                                                                   \
    X(cuCtxPopCurrent_v2, (void **))                                                                                   \
    X(cuModuleLoadDataEx, (void **, const void *, unsigned, int *, void **))                                           \
    X(cuModuleGetFunction, (void **, void *, const char *))                                                            \
    X(cuModuleUnload, (void *))                                                                                        \
    X(cuMemAlloc_v2, (device_pointer *, size_t))                                                                       \
    X(cuMemFree_v2, (device_pointer))                                                                                  \
    X(cuMemcpyHtoDAsync_v2, (device_pointer, const void *, size_t, void *))                                            \
    X(cuMemcpyDtoHAsync_v2, (void *, device_pointer, size_t, void *))                                                  \
    X(cuMemcpyDtoDAsync_v2, (device_pointer, device_pointer, size_t, void *))                                          \
    X(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,  \
                       void **))                                                                                       \
    X(cuStreamCreate, (void **, unsigned))                                                                             \
    X(cuStreamSynchronize, (void *))                                                                                   \
    X(cuStreamBeginCapture_v2, (void *, int))                                                                          \
    X(cuStreamEndCapture, (void *, void **))                                                                           \
    X(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long))                                              \
    X(cuGraphLaunch, (void *, void *))                                                                                 \
    X(cuGraphDestroy, (void *))                                                                                        \
    X(cuGraphExecDestroy, (void *))                                                                                    \
    X(cuGetErrorString, (int, const char **))

#define MEMBER(name, parameters) int(*name) parameters;
static struct {
    DRIVER(MEMBER)
    void *context;
    int capability;
    int processors;
} driver;

/* Memory of the host and its mirror. */
struct mirror {
    uint8_t *host;
    uint64_t bytes;
    device_pointer device;
    uint64_t room; /* allocated bytes; 0 where the memory is not ours */
};

struct loaded {
    struct loaded *next;
    const struct model *model;
    uint8_t hash[32];
    pthread_mutex_t busy;
    void *module;
    void **functions;
    void *stream;
    struct mirror weights;
    struct mirror arena;
    struct mirror *ports;
    uint32_t port_mirrors;
    struct mirror *slots; /* of this run, by number as they came */
    uint32_t slot_mirrors;
    device_pointer scratch;
    uint64_t scratch_room;
    void *graph;
    uint64_t *key; /* what the graph was made for */
    uint32_t key_words;
};

/* The run of this thread. */
static _Thread_local struct {
    struct loaded *model;
    const struct frame *frame;
    void *stream; /* the caller's, or the model's own */
    int32_t status;
    int capturing;
    int replaying;
} run;

static _Thread_local char message[4096];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct loaded *all;
static int32_t driver_status = 1; /* not tried */

const char *onnxc_cuda_message(void) { return message; }

/* Notes the first failure of a run. */
static int failed(int code, const char *what) {
    if (code == 0) return 0;
    if (run.status == 0) {
        const char *text = NULL;
        if (driver.cuGetErrorString(code, &text) != 0 || text == NULL) text = "unknown error";
        snprintf(message, sizeof message, "%s: %s (%d)", what, text, code);
        run.status = ONNXC_DEVICE_FAILED;
    }
    return 1;
}
#define TRY(call) failed(driver.call, #call)

static int32_t open_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(message, sizeof message, "libcuda.so.1 cannot be loaded: %s", dlerror());
        return ONNXC_NO_DRIVER;
    }
#define FIND(name, parameters)                                                                                         \
    *(void **)&driver.name = dlsym(library, #name);                                                                    \
    if (driver.name == NULL) {                                                                                         \
        snprintf(message, sizeof message, "the driver lacks " #name);                                                  \
        return ONNXC_NO_DRIVER;                                                                                        \
    }
    DRIVER(FIND)
    int device = 0, count = 0, major = 0, minor = 0;
    if (driver.cuInit(0) != 0 || driver.cuDeviceGetCount(&count) != 0 || count == 0 || driver.cuDeviceGet(&device, 0) != 0) {
        snprintf(message, sizeof message, "the driver finds no device");
        return ONNXC_NO_DEVICE;
    }
    if (driver.cuDeviceGetAttribute(&major, 75, device) != 0 || driver.cuDeviceGetAttribute(&minor, 76, device) != 0 ||
        driver.cuDeviceGetAttribute(&driver.processors, 16, device) != 0 ||
        driver.cuDevicePrimaryCtxRetain(&driver.context, device) != 0) {
        snprintf(message, sizeof message, "the device cannot be used");
        return ONNXC_NO_DEVICE;
    }
    driver.capability = 10 * major + minor;
    return ONNXC_OK;
}

/* Gives a mirror room; what it held is lost. */
static int room(struct mirror *m, uint8_t *host, uint64_t bytes) {
    m->host = host;
    m->bytes = bytes;
    if (m->room != 0 && bytes <= m->room) return 0;
    if (m->room != 0) driver.cuMemFree_v2(m->device);
    m->room = 0;
    m->device = 0;
    /* A tensor without elements has an address too. */
    uint64_t wanted = bytes != 0 ? bytes : 16;
    if (TRY(cuMemAlloc_v2(&m->device, wanted))) return 1;
    m->room = wanted;
    return 0;
}

/* Where the weights of this run are: the object has them, or the caller. */
static const uint8_t *weights_of(const struct model *model) {
    return model->weights != NULL ? model->weights : run.frame->call->weights;
}

static int load(struct loaded *l, const struct model *model) {
    char log[2048] = "";
    int options[2] = {5, 6}; /* the buffer of the error log and its size */
    void *values[2] = {log, (void *)(uintptr_t)sizeof log};
    int code = driver.cuModuleLoadDataEx(&l->module, model->text, 2, options, values);
    if (failed(code, "cuModuleLoadDataEx")) {
        size_t used = strlen(message);
        snprintf(message + used, sizeof message - used, "\n%s", log);
        l->module = NULL;
        return 1;
    }
    /* One that waits for the default stream, which is where callers without a stream work. */
    if (l->stream == NULL && TRY(cuStreamCreate(&l->stream, 0))) return 1;
    l->functions = calloc(model->kernels + 1, sizeof *l->functions);
    l->ports = calloc(model->inputs + model->outputs + 1, sizeof *l->ports);
    l->port_mirrors = model->inputs + model->outputs;
    l->slots = calloc(model->slots + 1, sizeof *l->slots);
    l->key_words = model->symbols + 2 * (model->inputs + model->outputs) + 3;
    l->key = calloc(l->key_words, sizeof *l->key);
    if (l->functions == NULL || l->ports == NULL || l->slots == NULL || l->key == NULL) {
        run.status = ONNXC_NO_MEMORY;
        return 1;
    }
    if (model->weight_bytes != 0) {
        const uint8_t *weights = weights_of(model);
        if (room(&l->weights, (uint8_t *)weights, model->weight_bytes)) return 1;
        if (TRY(cuMemcpyHtoDAsync_v2(l->weights.device, weights, model->weight_bytes, run.stream))) return 1;
    }
    return 0;
}

static void forget_graph(struct loaded *l) {
    if (l->graph != NULL) driver.cuGraphExecDestroy(l->graph);
    l->graph = NULL;
}

static void unload(struct loaded *l) {
    struct mirror *lists[] = {&l->weights, &l->arena, l->ports};
    uint32_t counts[] = {1, 1, l->ports != NULL ? l->port_mirrors : 0};
    forget_graph(l);
    for (int i = 0; i < 3; i++)
        for (uint32_t n = 0; n < counts[i]; n++)
            if (lists[i][n].room != 0) driver.cuMemFree_v2(lists[i][n].device);
    if (l->scratch_room != 0) driver.cuMemFree_v2(l->scratch);
    if (l->module != NULL) driver.cuModuleUnload(l->module);
    free(l->functions);
    free(l->ports);
    free(l->slots);
    free(l->key);
    l->functions = NULL;
    l->ports = l->slots = NULL;
    l->key = NULL;
    l->module = NULL;
    l->scratch_room = 0;
    memset(&l->weights, 0, sizeof l->weights);
    memset(&l->arena, 0, sizeof l->arena);
}

/* The model's entry, busy with this run. */
static struct loaded *enter(const struct model *model) {
    pthread_mutex_lock(&lock);
    if (driver_status == 1) driver_status = open_driver();
    int32_t status = driver_status;
    struct loaded *l = all;
    if (status == ONNXC_OK) {
        while (l != NULL && l->model != model) l = l->next;
        if (l == NULL && (l = calloc(1, sizeof *l)) != NULL) {
            pthread_mutex_init(&l->busy, NULL);
            l->model = model;
            l->next = all;
            all = l;
        }
        if (l == NULL) status = ONNXC_NO_MEMORY;
    }
    pthread_mutex_unlock(&lock);
    run.status = status;
    if (status != ONNXC_OK) return NULL;
    int exact = model->capability >= 100;
    int needed = exact ? (int)model->capability / 10 : (int)model->capability;
    if (driver.capability < needed || (exact && driver.capability != needed)) {
        snprintf(message, sizeof message, "the model is for compute capability %d.%d, the device has %d.%d", needed / 10,
                 needed % 10, driver.capability / 10, driver.capability % 10);
        run.status = ONNXC_NO_DEVICE;
        return NULL;
    }
    pthread_mutex_lock(&l->busy);
    return l;
}

static void leave(void) {
    struct loaded *l = run.model;
    if (l == NULL) return;
    if (run.capturing) {
        void *graph = NULL;
        if (driver.cuStreamEndCapture(run.stream, &graph) == 0 && graph != NULL) driver.cuGraphDestroy(graph);
    }
    /* Slots end with the run that has them, but not before the device is done with it. */
    if (run.stream != NULL) driver.cuStreamSynchronize(run.stream);
    for (uint32_t i = 0; i < l->slot_mirrors; i++)
        if (l->slots[i].room != 0) driver.cuMemFree_v2(l->slots[i].device);
    l->slot_mirrors = 0;
    void *context;
    driver.cuCtxPopCurrent_v2(&context);
    run.model = NULL;
    pthread_mutex_unlock(&l->busy);
}

/* The caller's tensor of a port. */
static const onnxc_value *port(const struct frame *frame, uint32_t i) {
    uint32_t inputs = run.model->model->inputs;
    return i < inputs ? &frame->inputs[i] : &frame->outputs[i - inputs];
}

/* DLPack's kDLCUDA. */
static int on_device(const onnxc_value *value) { return value->tensor.device.device_type == 2; }

/* Makes the mirror of a port whose memory is known. */
static int prepare(uint32_t i) {
    const struct frame *frame = run.frame;
    const struct model *model = run.model->model;
    struct mirror *m = &run.model->ports[i];
    uint8_t *base = frame->bases[i];
    uint64_t bytes = (uint64_t)frame->sizes[i];
    /* A state's output is the input's memory: it is in the input's mirror. */
    for (uint32_t o = model->inputs; i < model->inputs && o < model->inputs + model->outputs; o++)
        if (frame->bases[o] == base && (uint64_t)frame->sizes[o] > bytes && bytes != 0) bytes = (uint64_t)frame->sizes[o];
    if (on_device(port(frame, i))) {
        if (m->room != 0) driver.cuMemFree_v2(m->device);
        *m = (struct mirror){base, bytes, (device_pointer)(uintptr_t)base, 0};
        return 0;
    }
    if (m->room == 0) m->device = 0;
    return room(m, base, bytes);
}

int32_t onnxc_cuda_begin(const void *description, const void *frame_at) {
    const struct model *model = description;
    const struct frame *frame = frame_at;
    message[0] = '\0';
    run.model = NULL;
    run.frame = frame;
    run.capturing = run.replaying = 0;
    struct loaded *l = enter(model);
    if (l == NULL) return run.status;
    run.model = l;
    run.stream = NULL;
    if (TRY(cuCtxPushCurrent_v2(driver.context))) {
        run.model = NULL;
        pthread_mutex_unlock(&l->busy);
        return run.status;
    }
    /* Another model may lie where an older one was. */
    if (l->module != NULL && memcmp(l->hash, model->hash, sizeof l->hash) != 0) unload(l);
    if (l->module == NULL) {
        if (load(l, model)) {
            int32_t status = run.status;
            unload(l);
            leave();
            return status;
        }
        memcpy(l->hash, model->hash, sizeof l->hash);
    }
    run.stream = frame->call->stream != NULL ? frame->call->stream : l->stream;
    if (l->weights.host != NULL) l->weights.host = (uint8_t *)weights_of(model);
    uint32_t ports = model->inputs + model->outputs;
    room(&l->arena, frame->arena, frame->arena_bytes);
    for (uint32_t i = 0; i < ports && run.status == 0; i++) {
        l->ports[i].host = NULL;
        l->ports[i].bytes = 0;
        if (frame->sizes[i] == 0 && i >= model->inputs) continue;
        if (prepare(i)) break;
        if (i < model->inputs && frame->sizes[i] != 0 && !on_device(port(frame, i)))
            TRY(cuMemcpyHtoDAsync_v2(l->ports[i].device, frame->bases[i], (size_t)l->ports[i].bytes, run.stream));
    }
    /* A state's output is the input's memory: it is the input's mirror. */
    for (uint32_t o = model->inputs; o < ports; o++)
        for (uint32_t i = 0; i < model->inputs; i++)
            if (frame->sizes[o] != 0 && frame->bases[o] == frame->bases[i] && frame->sizes[i] != 0) l->ports[o].host = NULL;
    if (run.status == 0 && !model->looks && frame->call->trace == NULL) {
        uint64_t *key = calloc(l->key_words, sizeof *key);
        if (key == NULL) run.status = ONNXC_NO_MEMORY;
        uint32_t n = 0;
        for (uint32_t i = 0; key != NULL && i < model->symbols; i++) key[n++] = (uint64_t)frame->dims[i];
        for (uint32_t i = 0; key != NULL && i < ports; i++) {
            key[n++] = l->ports[i].host != NULL ? l->ports[i].device : 1;
            key[n++] = (uint64_t)frame->sizes[i];
        }
        if (key != NULL) {
            key[n++] = l->arena.device;
            key[n++] = l->scratch;
            if (l->graph != NULL && memcmp(key, l->key, l->key_words * sizeof *key) == 0) {
                run.replaying = 1;
            } else {
                forget_graph(l);
                /* Relaxed: memory may be allocated while the stream records. */
                run.capturing = !TRY(cuStreamBeginCapture_v2(run.stream, 2));
            }
            free(l->key);
            l->key = key;
        }
    }
    int32_t status = run.status;
    if (status != 0) leave();
    return status;
}

/* The mirror of an address of the host. */
static device_pointer mirrored(const void *address) {
    const uint8_t *p = address;
    struct loaded *l = run.model;
    const struct frame *frame = run.frame;
#define HOLDS(m) ((m).host != NULL && p >= (m).host && (p < (m).host + (m).bytes || p == (m).host))
    if (HOLDS(l->arena) && p < l->arena.host + l->arena.bytes) return l->arena.device + (uint64_t)(p - l->arena.host);
    if (HOLDS(l->weights)) return l->weights.device + (uint64_t)(p - l->weights.host);
    uint32_t ports = l->model->inputs + l->model->outputs;
    for (uint32_t i = 0; i < ports; i++)
        if (HOLDS(l->ports[i])) return l->ports[i].device + (uint64_t)(p - l->ports[i].host);
    /* Outputs whose memory came only during the run. */
    for (uint32_t i = l->model->inputs; i < ports; i++) {
        uint8_t *base = frame->bases[i];
        if (l->ports[i].host == NULL && frame->sizes[i] != 0 && p >= base && p < base + frame->sizes[i]) {
            if (prepare(i)) return 0;
            return l->ports[i].device + (uint64_t)(p - base);
        }
    }
    for (uint32_t i = 0; frame->slots != NULL && i < l->model->slots; i++) {
        const struct slot *s = &frame->slots[i];
        if (s->data == NULL || p < s->data || p >= s->data + s->bytes) continue;
        struct mirror *m = NULL;
        for (uint32_t n = 0; n < l->slot_mirrors && m == NULL; n++)
            if (l->slots[n].host == s->data) m = &l->slots[n];
        /* One of memory that was released is free for another. */
        for (uint32_t n = 0; n < l->slot_mirrors && m == NULL; n++) {
            int used = 0;
            for (uint32_t k = 0; k < l->model->slots; k++) used |= frame->slots[k].data == l->slots[n].host;
            if (!used) m = &l->slots[n];
        }
        if (m == NULL) m = &l->slots[l->slot_mirrors++];
        if (m->host != s->data || m->bytes < (uint64_t)s->bytes)
            if (room(m, s->data, (uint64_t)s->bytes)) return 0;
        return m->device + (uint64_t)(p - s->data);
    }
    return 0;
}

/* The address of a tensor for a kernel. One without elements may be anywhere. */
static device_pointer tensor(const void *address) {
    device_pointer device = address == NULL ? 0 : mirrored(address);
    return device != 0 ? device : run.model->arena.device;
}

void onnxc_cuda_launch(const void *kernel_at, void *const *buffers, const int64_t *params, int64_t tasks) {
    const struct kernel *kernel = kernel_at;
    struct loaded *l = run.model;
    if (run.status != 0 || run.replaying || tasks <= 0) return;
    void **function = &l->functions[kernel->index];
    if (*function == NULL && TRY(cuModuleGetFunction(function, l->module, kernel->name))) return;
    /* As many blocks as the device holds at a time; workers of a grid take the tasks in turns. */
    uint64_t each = kernel->workers_per_block;
    uint64_t blocks = ((uint64_t)tasks + each - 1) / each;
    uint64_t most = (uint64_t)driver.processors * (kernel->scratch_bytes != 0 ? 4 : 16);
    if (kernel->max_workers != 0 && most > kernel->max_workers / each) most = kernel->max_workers / each;
    if (blocks > most) blocks = most;
    if (blocks == 0) blocks = 1;
    uint64_t scratch = blocks * each * kernel->scratch_bytes;
    if (scratch > l->scratch_room) {
        /* Launches before this one still use the old memory, and a graph may name it. */
        if (!run.capturing) driver.cuStreamSynchronize(run.stream);
        device_pointer bigger = 0;
        if (TRY(cuMemAlloc_v2(&bigger, scratch))) return;
        if (l->scratch_room != 0 && !run.capturing) driver.cuMemFree_v2(l->scratch);
        l->scratch = bigger;
        l->scratch_room = scratch;
    }
    uint64_t words[MOST_PARAMETERS];
    void *pointers[MOST_PARAMETERS];
    uint32_t count = kernel->buffers + kernel->params + 3;
    if (count > MOST_PARAMETERS) {
        snprintf(message, sizeof message, "%s has more than %d parameters", kernel->name, MOST_PARAMETERS);
        run.status = ONNXC_DEVICE_FAILED;
        return;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < kernel->buffers; i++) words[n++] = tensor(buffers[i]);
    for (uint32_t i = 0; i < kernel->params; i++) words[n++] = (uint64_t)params[i];
    words[n++] = 0;
    words[n++] = (uint64_t)tasks;
    words[n++] = kernel->scratch_bytes != 0 ? l->scratch : 0;
    for (uint32_t i = 0; i < n; i++) pointers[i] = &words[i];
    if (run.status != 0) return;
    int code = driver.cuLaunchKernel(*function, (unsigned)blocks, 1, 1, kernel->threads, 1, 1, 0, run.stream, pointers, NULL);
    if (!failed(code, kernel->name) && run.frame->call->trace != NULL) TRY(cuStreamSynchronize(run.stream));
}

void onnxc_cuda_copy(void *to, const void *from, uint64_t bytes) {
    if (run.status != 0 || run.replaying || bytes == 0) return;
    device_pointer target = mirrored(to), source = mirrored(from);
    if (target == 0 || source == 0) return;
    TRY(cuMemcpyDtoDAsync_v2(target, source, (size_t)bytes, run.stream));
}

/* Before the host program reads memory: waits, and copies it from the device. After a failure it reads zeros, which end
 * every loop. */
void onnxc_cuda_read(void *at, uint64_t bytes) {
    if (bytes == 0) return;
    device_pointer device = run.status == 0 ? mirrored(at) : 0;
    if (device != 0 && !TRY(cuMemcpyDtoHAsync_v2(at, device, (size_t)bytes, run.stream)))
        TRY(cuStreamSynchronize(run.stream));
    if (run.status != 0) memset(at, 0, (size_t)bytes);
}

/* After the host program wrote memory. */
void onnxc_cuda_write(const void *at, uint64_t bytes) {
    if (run.status != 0 || bytes == 0) return;
    device_pointer device = mirrored(at);
    /* The host may write there again before the device comes to read it. */
    if (device != 0 && !TRY(cuMemcpyHtoDAsync_v2(device, at, (size_t)bytes, run.stream)))
        TRY(cuStreamSynchronize(run.stream));
}

int32_t onnxc_cuda_end(void) {
    struct loaded *l = run.model;
    const struct frame *frame = run.frame;
    if (run.capturing) {
        void *graph = NULL;
        run.capturing = 0;
        int code = driver.cuStreamEndCapture(run.stream, &graph);
        if (run.status == 0 && !failed(code, "cuStreamEndCapture"))
            TRY(cuGraphInstantiateWithFlags(&l->graph, graph, 0));
        if (graph != NULL) driver.cuGraphDestroy(graph);
        run.replaying = 1;
        /* The scratch that the graph names may have come while it was recorded. */
        l->key[l->model->symbols + 2 * (l->model->inputs + l->model->outputs) + 1] = l->scratch;
    }
    if (run.replaying && run.status == 0) TRY(cuGraphLaunch(l->graph, run.stream));
    for (uint32_t o = 0; o < l->model->outputs && run.status == 0; o++) {
        uint32_t i = l->model->inputs + o;
        if (frame->sizes[i] == 0 || on_device(port(frame, i))) continue;
        device_pointer device = mirrored(frame->bases[i]);
        if (device != 0) TRY(cuMemcpyDtoHAsync_v2(frame->bases[i], device, (size_t)frame->sizes[i], run.stream));
    }
    if (run.status == 0) TRY(cuStreamSynchronize(run.stream));
    int32_t status = run.status;
    leave();
    return status;
}

void onnxc_cuda_leave(void) { leave(); }

#else

const char *onnxc_cuda_message(void) { return "models for GPUs run on Linux"; }

int32_t onnxc_cuda_begin(const void *model, const void *frame) {
    (void)model, (void)frame;
    return ONNXC_NO_DRIVER;
}

void onnxc_cuda_launch(const void *kernel, void *const *buffers, const int64_t *params, int64_t tasks) {
    (void)kernel, (void)buffers, (void)params, (void)tasks;
}

void onnxc_cuda_copy(void *to, const void *from, uint64_t bytes) { (void)to, (void)from, (void)bytes; }

void onnxc_cuda_read(void *at, uint64_t bytes) { (void)at, (void)bytes; }

void onnxc_cuda_write(const void *at, uint64_t bytes) { (void)at, (void)bytes; }

int32_t onnxc_cuda_end(void) { return ONNXC_NO_DRIVER; }

void onnxc_cuda_leave(void) {}

#endif
