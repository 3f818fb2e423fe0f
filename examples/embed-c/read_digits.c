/* Two models in one C program, without the support library: `digit` reads one image at a time, `digits` many at once.
 * Then sixteen threads run `digit` at the same time, each with an arena of its own, and must get the same bits. */
#include "digit.h"
#include "digits.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIXELS = 64, RECORD = 65, COUNT = 360, CLASSES = 10, BATCH = 60, THREADS = 16 };

static float images[COUNT][PIXELS];
static unsigned char labels[COUNT];
static float one_by_one[COUNT][CLASSES];
static float together[COUNT][CLASSES];

static int load(const char *path) {
    static unsigned char bytes[COUNT * RECORD];
    FILE *file = fopen(path, "rb");
    size_t length;
    int i, k;
    if (file == NULL) {
        perror(path);
        return 0;
    }
    length = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    for (i = 0; i < COUNT; i++) {
        labels[i] = bytes[i * RECORD];
        for (k = 0; k < PIXELS; k++) {
            images[i][k] = bytes[i * RECORD + 1 + k];
        }
    }
    return length == sizeof bytes;
}

/* Scores of all images, one run each. 0, or the status of the first run that failed. */
static int read_one_by_one(float (*scores)[CLASSES]) {
    onnxc_call call = ONNXC_CALL_INIT;
    onnxc_value in, out;
    int i, status = digit_plan(NULL, 1, &call.arena_bytes);
    if (status != ONNXC_OK) {
        return status;
    }
    call.arena = aligned_alloc(ONNXC_ALIGN, call.arena_bytes);
    for (i = 0; i < COUNT && status == ONNXC_OK; i++) {
        onnxc_value_init(&in, &digit.inputs[0], images[i], sizeof images[i]);
        onnxc_value_init(&out, &digit.outputs[0], scores[i], sizeof scores[i]);
        status = digit_run(&in, &out, &call);
    }
    free(call.arena);
    return status;
}

/* The same in runs of BATCH images. */
static int read_together(void) {
    const int64_t dims[1] = {BATCH};
    onnxc_call call = ONNXC_CALL_INIT;
    onnxc_value in, out;
    int i, status = digits_plan(dims, 1, &call.arena_bytes);
    if (status != ONNXC_OK) {
        return status;
    }
    call.arena = aligned_alloc(ONNXC_ALIGN, call.arena_bytes);
    for (i = 0; i < COUNT && status == ONNXC_OK; i += BATCH) {
        onnxc_value_init(&in, &digits.inputs[0], images[i], BATCH * sizeof images[i]);
        in.dims[0] = BATCH;
        onnxc_value_init(&out, &digits.outputs[0], together[i], BATCH * sizeof together[i]);
        status = digits_run(&in, &out, &call);
    }
    free(call.arena);
    return status;
}

static int right(float (*scores)[CLASSES]) {
    int i, k, count = 0;
    for (i = 0; i < COUNT; i++) {
        int best = 0;
        for (k = 1; k < CLASSES; k++) {
            best = scores[i][k] > scores[i][best] ? k : best;
        }
        count += best == labels[i];
    }
    return count;
}

typedef struct {
    float scores[COUNT][CLASSES];
    int status;
} thread_result;

static void *thread_main(void *result) {
    thread_result *const mine = result;
    mine->status = read_one_by_one(mine->scores);
    return NULL;
}

static int same_on_all_threads(void) {
    static thread_result results[THREADS];
    pthread_t threads[THREADS];
    int i, same = 1;
    for (i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, thread_main, &results[i]) != 0) {
            abort();
        }
    }
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        same &= results[i].status == ONNXC_OK && memcmp(results[i].scores, one_by_one, sizeof one_by_one) == 0;
    }
    return same;
}

int main(int argc, char **argv) {
    int status, same;
    if (argc != 2 || !load(argv[1])) {
        fprintf(stderr, "usage: read_digits held_back.bin\n");
        return 2;
    }
    status = read_one_by_one(one_by_one);
    if (status == ONNXC_OK) {
        status = read_together();
    }
    if (status != ONNXC_OK) {
        fprintf(stderr, "%s\n", digit_status(status));
        return 1;
    }
    printf("one by one: %d of %d right\n", right(one_by_one), COUNT);
    printf("%d at a time: %d of %d right\n", BATCH, right(together), COUNT);
    same = same_on_all_threads();
    printf("on %d threads at once: %s\n", THREADS, same ? "the same bits" : "DIFFERENT");
    return right(one_by_one) * 100 >= 97 * COUNT && right(together) == right(one_by_one) && same ? 0 : 1;
}
