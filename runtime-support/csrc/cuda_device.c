/* The driver, a model's module and memory on the device: what runs of `cuda.c` stand on.
 *
 * The driver is found when the first run begins: libcuda.so.1, by dlopen. Nothing here needs CUDA to be compiled. */

#define _GNU_SOURCE
#include "onnxc.h"

#if defined(__linux__)
#include "cuda_internal.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct driver_state onnxc_cuda_driver;
_Thread_local struct run_state onnxc_cuda_run;

static _Thread_local char message[4096];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct loaded *all;
static int32_t driver_status = 1; /* not tried */

const char *onnxc_cuda_message(void) { return message; }

void onnxc_cuda_fail(int32_t status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    run.status = status;
}

int onnxc_cuda_failed(int code, const char *what) {
    if (code == 0) return 0;
    if (run.status == 0) {
        const char *text = NULL;
        if (driver.cuGetErrorString(code, &text) != 0 || text == NULL) text = "unknown error";
        onnxc_cuda_fail(ONNXC_DEVICE_FAILED, "%s: %s (%d)", what, text, code);
    }
    return 1;
}

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
    *(void **)&driver.cuTensorMapEncodeTiled = dlsym(library, "cuTensorMapEncodeTiled");
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

void onnxc_cuda_drop(struct mirror *m) {
    if (m->room != 0) {
        /* Work that was given before may still use it. */
        if (run.stream != NULL) driver.cuStreamSynchronize(run.stream);
        driver.cuMemFree_v2(m->device);
    }
    m->room = 0;
    m->device = 0;
}

int onnxc_cuda_room(struct mirror *m, uint8_t *host, uint64_t bytes) {
    m->host = host;
    m->bytes = bytes;
    if (m->room != 0 && bytes <= m->room) return 0;
    onnxc_cuda_drop(m);
    /* A tensor without elements has an address too. */
    uint64_t wanted = bytes != 0 ? bytes : 16;
    if (TRY(cuMemAlloc_v2(&m->device, wanted))) return 1;
    m->room = wanted;
    return 0;
}

const uint8_t *onnxc_cuda_weights(const struct model *model) {
    return model->weights != NULL ? model->weights : run.frame->call->weights;
}

int onnxc_cuda_load(struct loaded *l, const struct model *model) {
    char log[2048] = "";
    int options[2] = {5, 6}; /* the buffer of the error log and its size */
    void *values[2] = {log, (void *)(uintptr_t)sizeof log};
    int code = driver.cuModuleLoadDataEx(&l->module, model->text, 2, options, values);
    if (onnxc_cuda_failed(code, "cuModuleLoadDataEx")) {
        size_t used = strlen(message);
        snprintf(message + used, sizeof message - used, "\n%s", log);
        l->module = NULL;
        return 1;
    }
    /* One that waits for the default stream, which is where callers without a stream work. */
    if (l->stream == NULL && TRY(cuStreamCreate(&l->stream, 0))) return 1;
    /* Events without times are the cheap ones. */
    if (l->done == NULL && TRY(cuEventCreate(&l->done, 2))) return 1;
    l->functions = calloc(model->kernels + 1, sizeof *l->functions);
    l->ports = calloc(model->inputs + model->outputs + 1, sizeof *l->ports);
    l->port_mirrors = model->inputs + model->outputs;
    l->slots = calloc(model->slots + 1, sizeof *l->slots);
    l->key_words = model->symbols + 2 * (model->inputs + model->outputs) + 3;
    if (l->functions == NULL || l->ports == NULL || l->slots == NULL) {
        run.status = ONNXC_NO_MEMORY;
        return 1;
    }
    if (model->weight_bytes != 0) {
        const uint8_t *weights = onnxc_cuda_weights(model);
        if (onnxc_cuda_room(&l->weights, (uint8_t *)weights, model->weight_bytes)) return 1;
        if (TRY(cuMemcpyHtoDAsync_v2(l->weights.device, weights, model->weight_bytes, run.stream))) return 1;
    }
    return 0;
}

void onnxc_cuda_forget_graph(struct recorded *graph) {
    if (graph->exec != NULL) {
        if (run.stream != NULL) driver.cuStreamSynchronize(run.stream);
        driver.cuGraphExecDestroy(graph->exec);
    }
    free(graph->key);
    graph->exec = NULL;
    graph->key = NULL;
}

void onnxc_cuda_unload(struct loaded *l) {
    struct mirror *lists[] = {&l->weights, &l->arena, l->ports};
    uint32_t counts[] = {1, 1, l->ports != NULL ? l->port_mirrors : 0};
    if (l->ahead) driver.cuEventSynchronize(l->done);
    l->ahead = 0;
    for (int i = 0; i < MOST_GRAPHS; i++) onnxc_cuda_forget_graph(&l->graphs[i]);
    for (int i = 0; i < 3; i++)
        for (uint32_t n = 0; n < counts[i]; n++)
            if (lists[i][n].room != 0) driver.cuMemFree_v2(lists[i][n].device);
    if (l->scratch_room != 0) driver.cuMemFree_v2(l->scratch);
    if (l->module != NULL) driver.cuModuleUnload(l->module);
    free(l->functions);
    free(l->ports);
    free(l->slots);
    l->functions = NULL;
    l->ports = l->slots = NULL;
    l->module = NULL;
    l->scratch_room = 0;
    memset(&l->weights, 0, sizeof l->weights);
    memset(&l->arena, 0, sizeof l->arena);
}

struct loaded *onnxc_cuda_enter(const struct model *model) {
    message[0] = '\0';
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
        onnxc_cuda_fail(ONNXC_NO_DEVICE, "the model is for compute capability %d.%d, the device has %d.%d", needed / 10,
                        needed % 10, driver.capability / 10, driver.capability % 10);
        return NULL;
    }
    pthread_mutex_lock(&l->busy);
    return l;
}

#else

const char *onnxc_cuda_message(void) { return "models for GPUs run on Linux"; }

#endif
