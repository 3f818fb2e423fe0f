/* startup.c: how long a compiled model takes from dlopen to its first output, and then.
 *
 *     gcc -std=c11 -O1 -I path/to/include startup.c -o startup -ldl
 *     ./startup ./libmodel.so model SECONDS          prints "FIRST_MS STEADY_MS DLOPEN_MS"
 *
 * For models whose sizes are fixed. Inputs are zeros, which cost what other numbers do; they and the outputs' memory are there
 * before the clock starts, the arena's pages are not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "onnxc.h"

static _Noreturn void fail(const char *what, const char *detail) {
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

static double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(ONNXC_ALIGN, (bytes + ONNXC_ALIGN) / ONNXC_ALIGN * ONNXC_ALIGN);
    if (!memory) fail("memory", "allocation failed");
    return memory;
}

static const onnxc_model *load(const char *path, const char *name) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const onnxc_model *model = library ? dlsym(library, name) : NULL;
    if (!model) fail(path, dlerror());
    return model;
}

/* Values with room for the ports, whose sizes are fixed. */
static onnxc_value *values(const onnxc_port *ports, uint32_t count) {
    onnxc_value *all = calloc(count + 1, sizeof *all);
    if (!all) fail("memory", "allocation failed");
    for (uint32_t i = 0; i < count; i++) {
        void *data = allocate((size_t)ports[i].bytes);
        memset(data, 0, (size_t)ports[i].bytes);
        onnxc_value_init(&all[i], &ports[i], data, (uint64_t)ports[i].bytes);
    }
    return all;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 4) fail("usage", "startup LIBRARY NAME SECONDS");
    double begin = now_ms();
    const onnxc_model *model = load(argv[1], argv[2]);
    double loaded = now_ms();
    if (model->memory != 0) fail(argv[2], "its sizes are not fixed");
    onnxc_value *inputs = values(model->inputs, model->input_count);
    onnxc_value *outputs = values(model->outputs, model->output_count);
    double ready = now_ms();
    onnxc_call call = ONNXC_CALL_INIT;
    int status = model->plan(NULL, 1, &call.arena_bytes);
    if (status) fail("plan", model->status(status));
    call.arena = allocate(call.arena_bytes);
    status = model->run(inputs, outputs, &call);
    if (status) fail("run", model->status(status));
    double first = now_ms() - ready + loaded - begin;

    static double times[1 << 16];
    size_t runs = 0;
    double end = now_ms() + 1e3 * strtod(argv[3], NULL);
    while (runs < 3 || (now_ms() < end && runs < sizeof times / sizeof *times)) {
        double start = now_ms();
        model->run(inputs, outputs, &call);
        times[runs++] = now_ms() - start;
    }
    qsort(times, runs, sizeof *times, compare);
    printf("%.3f %.3f %.3f\n", first, times[runs / 2], loaded - begin);
    return 0;
}
