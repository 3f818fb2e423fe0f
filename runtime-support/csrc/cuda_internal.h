/* What cuda.c and cuda_device.c share: the structures that compiled models bring, the driver's functions, the run of a
 * thread. No interface of the library. */

#ifndef ONNXC_CUDA_INTERNAL_H
#define ONNXC_CUDA_INTERNAL_H

#include "onnxc.h"
#include "onnxc_support.h"

#include <pthread.h>
#include <stdint.h>

typedef uint64_t device_pointer;

/* A number, or so many times a launch's parameter if there is one of this number. */
struct known {
    int64_t factor;
    uint64_t param;
};

/* A tensor map that a launch makes, by which the copy engine finds boxes of a tensor; the code generator lays these out. */
#define MOST_DIMENSIONS 5
struct map {
    uint32_t buffer;
    uint32_t type;
    uint32_t rank;
    uint32_t swizzle;
    uint64_t offset;                       /* bytes from the buffer's start */
    struct known sizes[MOST_DIMENSIONS];   /* elements */
    struct known strides[MOST_DIMENSIONS]; /* bytes, of each dimension but the first */
    uint32_t box[MOST_DIMENSIONS + 1];     /* elements; the last one is nothing */
};

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
    uint32_t shared_bytes; /* that a block has beside what the kernel declares */
    uint32_t resident;     /* blocks that one multiprocessor holds; 0: more do no harm */
    uint32_t map_count;
    const struct map *maps; /* that it takes behind its other parameters */
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
    X(cuFuncSetAttribute, (void *, int, int))                                                                          \
    X(cuMemAlloc_v2, (device_pointer *, size_t))                                                                       \
    X(cuMemFree_v2, (device_pointer))                                                                                  \
    X(cuMemcpyHtoDAsync_v2, (device_pointer, const void *, size_t, void *))                                            \
    X(cuMemcpyDtoHAsync_v2, (void *, device_pointer, size_t, void *))                                                  \
    X(cuMemcpyDtoDAsync_v2, (device_pointer, device_pointer, size_t, void *))                                          \
    X(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,  \
                       void **))                                                                                       \
    X(cuStreamCreate, (void **, unsigned))                                                                             \
    X(cuStreamSynchronize, (void *))                                                                                   \
    X(cuStreamWaitEvent, (void *, void *, unsigned))                                                                   \
    X(cuEventCreate, (void **, unsigned))                                                                              \
    X(cuEventRecord, (void *, void *))                                                                                 \
    X(cuEventSynchronize, (void *))                                                                                    \
    X(cuStreamBeginCapture_v2, (void *, int))                                                                          \
    X(cuStreamEndCapture, (void *, void **))                                                                           \
    X(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long))                                              \
    X(cuGraphLaunch, (void *, void *))                                                                                 \
    X(cuGraphDestroy, (void *))                                                                                        \
    X(cuGraphExecDestroy, (void *))                                                                                    \
    X(cuGetErrorString, (int, const char **))

#define MEMBER(name, parameters) int(*name) parameters;
struct driver_state {
    DRIVER(MEMBER)
    /* Drivers before those of CUDA 12 lack it. */
    int (*cuTensorMapEncodeTiled)(void *, int, uint32_t, void *, const uint64_t *, const uint64_t *, const uint32_t *,
                                  const uint32_t *, int, int, int, int);
    void *context;
    int capability;
    int processors;
};
#undef MEMBER
extern struct driver_state onnxc_cuda_driver;
#define driver onnxc_cuda_driver

/* Callers take turns with buffers. */
#define MOST_GRAPHS 4

/* A run's launches as a graph. */
struct recorded {
    void *exec;
    uint64_t *key; /* the sizes and addresses that it was made for */
    uint64_t used; /* the turn of its last run */
};

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
    void *done; /* an event behind the last run, if that one was not waited for */
    int ahead;  /* whether it was not */
    struct recorded graphs[MOST_GRAPHS];
    uint64_t turn;
    uint32_t key_words;
};

/* The run of this thread. */
struct run_state {
    struct loaded *model;
    const struct frame *frame;
    void *stream; /* the caller's, or the model's own */
    int32_t status;
    struct recorded *graph; /* that is recorded or replayed */
    int capturing;
    int replaying;
    uint64_t word; /* what a step read last */
};
extern _Thread_local struct run_state onnxc_cuda_run;
#define run onnxc_cuda_run

/* Ends the run with a status and a sentence, as printf makes it. */
void onnxc_cuda_fail(int32_t status, const char *format, ...);
/* Notes a code of the driver, of which the first failure of a run counts; whether it was one. */
int onnxc_cuda_failed(int code, const char *what);
#define TRY(call) onnxc_cuda_failed(driver.call, #call)

/* The model's entry, busy with this run; NULL with the run's status where there is no device for it. */
struct loaded *onnxc_cuda_enter(const struct model *model);
/* Makes module, weights and tables ready; not 0 after a failure. */
int onnxc_cuda_load(struct loaded *l, const struct model *model);
void onnxc_cuda_unload(struct loaded *l);
void onnxc_cuda_forget_graph(struct recorded *graph);
/* Frees a mirror's room, if it has any. */
void onnxc_cuda_drop(struct mirror *m);
/* Gives a mirror room, in which what it held is lost; not 0 after a failure. */
int onnxc_cuda_room(struct mirror *m, uint8_t *host, uint64_t bytes);
/* Where the weights of this run are: the object has them, or the caller. */
const uint8_t *onnxc_cuda_weights(const struct model *model);

#endif
