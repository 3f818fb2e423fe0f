/* Models whose kernels run on an NVIDIA GPU: what their host programs call.
 *
 * The host program works with addresses of the host, as on any target: the caller's tensors, the arena, the weights, the
 * slots. Here each such piece of memory has a mirror on the device, and a launch gets the mirrors' addresses. Inputs are
 * copied to the device when a run begins and outputs back when it ends; weights once; in between nothing moves but what
 * the host program itself reads or writes. Tensors that the caller has on the device already (kDLCUDA) are used in place.
 *
 * A model keeps its module, weights, memory and graphs for the process, and its runs wait for one another. Where no step
 * looks at data, the launches of a run become a CUDA graph, which later runs with the same sizes and addresses replay; the
 * last few such graphs are kept.
 *
 * A run returns when its work is done, with one exception: on the caller's stream, with all tensors on the device and no
 * step that looks at data, it returns when the work is in the stream's order. */

#define _GNU_SOURCE
#include "onnxc.h"

#if defined(__linux__)
#include "cuda_internal.h"

#include <stdlib.h>
#include <string.h>

/* Parameters of a kernel: 4 KiB. */
#define MOST_PARAMETERS 512

/* Tensor maps of a kernel: one for each operand of a product. */
#define MOST_MAPS 2

static void leave(void) {
    struct loaded *l = run.model;
    if (l == NULL) return;
    if (run.capturing) {
        void *graph = NULL;
        if (driver.cuStreamEndCapture(l->stream, &graph) == 0 && graph != NULL) driver.cuGraphDestroy(graph);
    }
    /* Slots end with the run that has them, but not before the device is done with it. */
    if (run.stream != NULL && !l->ahead) driver.cuStreamSynchronize(run.stream);
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

/* Whether a tensor is used where the caller has it. Kernels count on 16 bytes. */
static int in_place(const onnxc_value *value, const uint8_t *base) {
    return on_device(value) && ((uintptr_t)base & 15) == 0;
}

/* Where launches and copies go: a graph is recorded on the model's own stream, whatever the caller's can do. */
static void *into(void) { return run.capturing ? run.model->stream : run.stream; }

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
    if (in_place(port(frame, i), base)) {
        onnxc_cuda_drop(m);
        *m = (struct mirror){base, bytes, (device_pointer)(uintptr_t)base, 0};
        return 0;
    }
    if (m->room == 0) m->device = 0;
    return onnxc_cuda_room(m, base, bytes);
}

int32_t onnxc_cuda_begin(const void *description, const void *frame_at) {
    const struct model *model = description;
    const struct frame *frame = frame_at;
    run.model = NULL;
    run.frame = frame;
    run.capturing = run.replaying = 0;
    struct loaded *l = onnxc_cuda_enter(model);
    if (l == NULL) return run.status;
    run.model = l;
    run.stream = NULL;
    if (TRY(cuCtxPushCurrent_v2(driver.context))) {
        run.model = NULL;
        pthread_mutex_unlock(&l->busy);
        return run.status;
    }
    /* Another model may lie where an older one was. */
    if (l->module != NULL && memcmp(l->hash, model->hash, sizeof l->hash) != 0) onnxc_cuda_unload(l);
    if (l->module == NULL) {
        if (onnxc_cuda_load(l, model)) {
            int32_t status = run.status;
            onnxc_cuda_unload(l);
            leave();
            return status;
        }
        memcpy(l->hash, model->hash, sizeof l->hash);
    }
    run.stream = frame->call->stream != NULL ? frame->call->stream : l->stream;
    if (l->ahead) TRY(cuStreamWaitEvent(run.stream, l->done, 0));
    l->ahead = 0;
    if (l->weights.host != NULL) l->weights.host = (uint8_t *)onnxc_cuda_weights(model);
    uint32_t ports = model->inputs + model->outputs;
    onnxc_cuda_room(&l->arena, frame->arena, frame->arena_bytes);
    for (uint32_t i = 0; i < ports && run.status == 0; i++) {
        l->ports[i].host = NULL;
        l->ports[i].bytes = 0;
        const onnxc_value *value = port(frame, i);
        uint8_t *base = frame->bases[i];
        if (on_device(value) && value->tensor.device.device_id != 0)
            onnxc_cuda_fail(ONNXC_DEVICE, "models run on device 0, a tensor is on device %d", value->tensor.device.device_id);
        if (frame->sizes[i] == 0 && i >= model->inputs) continue;
        if (run.status != 0 || prepare(i)) break;
        if (i >= model->inputs || frame->sizes[i] == 0 || in_place(value, base)) continue;
        size_t bytes = (size_t)l->ports[i].bytes;
        if (on_device(value)) {
            TRY(cuMemcpyDtoDAsync_v2(l->ports[i].device, (device_pointer)(uintptr_t)base, bytes, run.stream));
        } else {
            TRY(cuMemcpyHtoDAsync_v2(l->ports[i].device, base, bytes, run.stream));
        }
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
            struct recorded *oldest = &l->graphs[0];
            run.graph = NULL;
            for (int i = 0; i < MOST_GRAPHS; i++) {
                struct recorded *g = &l->graphs[i];
                if (g->exec != NULL && memcmp(key, g->key, l->key_words * sizeof *key) == 0) run.graph = g;
                if (g->used < oldest->used) oldest = g;
            }
            if (run.graph != NULL) {
                run.replaying = 1;
                free(key);
            } else {
                run.graph = oldest;
                onnxc_cuda_forget_graph(oldest);
                oldest->key = key;
                /* Relaxed: memory may be allocated while the stream records. */
                run.capturing = !TRY(cuStreamBeginCapture_v2(l->stream, 2));
            }
            run.graph->used = ++l->turn;
        }
    }
    int32_t status = run.status;
    if (status != 0) leave();
    return status;
}

/* Whether p is in the memory of a mirror. */
#define HOLDS(m) ((m).host != NULL && p >= (m).host && (p < (m).host + (m).bytes || p == (m).host))

/* The mirror of an address of the host. */
static device_pointer mirrored(const void *address) {
    const uint8_t *p = address;
    struct loaded *l = run.model;
    const struct frame *frame = run.frame;
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
            if (onnxc_cuda_room(m, s->data, (uint64_t)s->bytes)) return 0;
        return m->device + (uint64_t)(p - s->data);
    }
    return 0;
}

/* The address of a tensor for a kernel. One without elements may be anywhere. */
static device_pointer tensor(const void *address) {
    device_pointer device = address == NULL ? 0 : mirrored(address);
    return device != 0 ? device : run.model->arena.device;
}

static uint64_t of_launch(struct known known, const int64_t *params) {
    return (uint64_t)(known.param == UINT64_MAX ? known.factor : known.factor * params[known.param]);
}

/* Makes a tensor map of a launch; not 0 after a failure. */
static int encode(void *into, const struct map *map, uint64_t buffer, const int64_t *params) {
    uint64_t sizes[MOST_DIMENSIONS], strides[MOST_DIMENSIONS];
    uint32_t steps[MOST_DIMENSIONS];
    for (uint32_t i = 0; i < map->rank; i++) {
        sizes[i] = of_launch(map->sizes[i], params);
        strides[i] = of_launch(map->strides[i], params);
        steps[i] = 1;
        /* Of what has no elements nothing is copied, but a map has some. */
        if (sizes[i] == 0) sizes[i] = 1;
        if (strides[i] == 0) strides[i] = 16;
    }
    /* Without interleaving, 256 bytes at a time into the second-level cache, zeros outside. */
    return TRY(cuTensorMapEncodeTiled(into, (int)map->type, map->rank, (void *)(uintptr_t)(buffer + map->offset), sizes,
                                      strides, map->box, steps, 0, (int)map->swizzle, 3, 0));
}

void onnxc_cuda_launch(const void *kernel_at, void *const *buffers, const int64_t *params, int64_t tasks) {
    const struct kernel *kernel = kernel_at;
    struct loaded *l = run.model;
    if (run.status != 0 || run.replaying || tasks <= 0) return;
    void **function = &l->functions[kernel->index];
    if (*function == NULL) {
        if (TRY(cuModuleGetFunction(function, l->module, kernel->name))) return;
        if (kernel->shared_bytes != 0 && TRY(cuFuncSetAttribute(*function, 8, (int)kernel->shared_bytes))) return;
    }
    /* As many blocks as the device holds at a time; workers of a grid take the tasks in turns. */
    uint64_t each = kernel->workers_per_block;
    uint64_t blocks = ((uint64_t)tasks + each - 1) / each;
    uint64_t most = (uint64_t)driver.processors * (kernel->scratch_bytes != 0 ? 4 : 16);
    if (kernel->resident != 0) most = (uint64_t)driver.processors * kernel->resident;
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
    _Alignas(64) uint8_t maps[MOST_MAPS][128];
    uint32_t count = kernel->buffers + kernel->params + 3 + kernel->map_count;
    if (count > MOST_PARAMETERS) {
        onnxc_cuda_fail(ONNXC_DEVICE_FAILED, "%s has more than %d parameters", kernel->name, MOST_PARAMETERS);
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
    if (kernel->map_count != 0 && driver.cuTensorMapEncodeTiled == NULL) {
        onnxc_cuda_fail(ONNXC_NO_DRIVER, "the driver is too old for this model: it lacks cuTensorMapEncodeTiled");
        return;
    }
    for (uint32_t i = 0; i < kernel->map_count && i < MOST_MAPS; i++) {
        if (encode(maps[i], &kernel->maps[i], words[kernel->maps[i].buffer], params)) return;
        pointers[n++] = maps[i];
    }
    int code = driver.cuLaunchKernel(*function, (unsigned)blocks, 1, 1, kernel->threads, 1, 1, kernel->shared_bytes, into(),
                                     pointers, NULL);
    if (!onnxc_cuda_failed(code, kernel->name) && run.frame->call->trace != NULL) TRY(cuStreamSynchronize(run.stream));
}

void onnxc_cuda_copy(void *to, const void *from, uint64_t bytes) {
    if (run.status != 0 || run.replaying || bytes == 0) return;
    device_pointer target = mirrored(to), source = mirrored(from);
    if (target == 0 || source == 0) return;
    TRY(cuMemcpyDtoDAsync_v2(target, source, (size_t)bytes, into()));
}

/* Whether the host has what is at an address: weights, and inputs that no output overwrites. */
static int kept(const uint8_t *p) {
    struct loaded *l = run.model;
    const struct frame *frame = run.frame;
    if (HOLDS(l->weights)) return 1;
    for (uint32_t i = 0; i < l->model->inputs; i++) {
        if (!HOLDS(l->ports[i]) || on_device(port(frame, i))) continue;
        int state = 0;
        for (uint32_t o = 0; o < l->model->outputs; o++) state |= frame->bases[l->model->inputs + o] == l->ports[i].host;
        return !state;
    }
    return 0;
}

/* Before the host program reads bytes: waits, and says where they are. A word of the device's is copied to the run's own,
 * the bytes of a slot to the slot. After a failure there are zeros, which end every loop. */
const void *onnxc_cuda_read(void *at, uint64_t bytes) {
    if (bytes == 0 || (run.status == 0 && kept(at))) return at;
    void *to = bytes <= sizeof run.word ? (void *)&run.word : at;
    device_pointer device = run.status == 0 ? mirrored(at) : 0;
    if (device != 0 && !TRY(cuMemcpyDtoHAsync_v2(to, device, (size_t)bytes, run.stream)))
        TRY(cuStreamSynchronize(run.stream));
    if (device == 0 || run.status != 0) memset(to, 0, (size_t)bytes);
    return to;
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
    uint32_t inputs = l->model->inputs, ports = inputs + l->model->outputs;
    if (run.capturing) {
        void *graph = NULL;
        int code = driver.cuStreamEndCapture(l->stream, &graph);
        run.capturing = 0;
        if (run.status == 0 && !onnxc_cuda_failed(code, "cuStreamEndCapture"))
            TRY(cuGraphInstantiateWithFlags(&run.graph->exec, graph, 0));
        if (graph != NULL) driver.cuGraphDestroy(graph);
        run.replaying = 1;
        /* The scratch that the graph names may have come while it was recorded. */
        run.graph->key[l->model->symbols + 2 * ports + 1] = l->scratch;
    }
    if (run.replaying && run.status == 0) TRY(cuGraphLaunch(run.graph->exec, run.stream));
    int ahead = frame->call->stream != NULL && !l->model->looks && frame->call->trace == NULL;
    for (uint32_t i = 0; i < ports && run.status == 0; i++) {
        const onnxc_value *value = port(frame, i);
        uint8_t *base = frame->bases[i];
        if (frame->sizes[i] == 0) continue;
        if (!on_device(value)) ahead = 0;
        if (i < inputs || in_place(value, base)) continue;
        device_pointer device = mirrored(base);
        size_t bytes = (size_t)frame->sizes[i];
        if (device == 0) continue;
        if (on_device(value)) {
            TRY(cuMemcpyDtoDAsync_v2((device_pointer)(uintptr_t)base, device, bytes, run.stream));
        } else {
            TRY(cuMemcpyDtoHAsync_v2(base, device, bytes, run.stream));
        }
    }
    if (run.status == 0 && ahead) {
        l->ahead = !TRY(cuEventRecord(l->done, run.stream));
    } else if (run.status == 0) {
        TRY(cuStreamSynchronize(run.stream));
    }
    int32_t status = run.status;
    leave();
    return status;
}

/* Ends a run that a step left with a status. What steps read after the driver failed says nothing: its failure is why. */
int32_t onnxc_cuda_leave(int32_t status) {
    int32_t first = run.model != NULL && run.status != 0 ? run.status : status;
    leave();
    return first;
}

#else

int32_t onnxc_cuda_begin(const void *model, const void *frame) {
    (void)model, (void)frame;
    return ONNXC_NO_DRIVER;
}

void onnxc_cuda_launch(const void *kernel, void *const *buffers, const int64_t *params, int64_t tasks) {
    (void)kernel, (void)buffers, (void)params, (void)tasks;
}

void onnxc_cuda_copy(void *to, const void *from, uint64_t bytes) { (void)to, (void)from, (void)bytes; }

const void *onnxc_cuda_read(void *at, uint64_t bytes) {
    (void)bytes;
    return at;
}

void onnxc_cuda_write(const void *at, uint64_t bytes) { (void)at, (void)bytes; }

int32_t onnxc_cuda_end(void) { return ONNXC_NO_DRIVER; }

int32_t onnxc_cuda_leave(int32_t status) { return status; }

#endif
