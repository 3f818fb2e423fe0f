/* Runs a network of more than 256 MB with its weights in the program and from the file that is named, between a large
 * array and another model, and compares the results. */
#include <stdio.h>
#include <string.h>

#include "digit.h"
#include "embedded.h"
#include "external.h"
#include "onnxc_support.h"

static char other_data[64 << 20];
static float image[3 * 224 * 224];
static float pixels[64];

static int run(const onnxc_model *model, float *input, const onnxc_weights *weights, onnxc_session **session) {
    const int status = onnxc_session_create(model, NULL, 1, session);
    if (status != ONNXC_OK) {
        return status;
    }
    onnxc_session_inputs(*session)[0].tensor.data = input;
    onnxc_session_call(*session)->weights = weights->data;
    onnxc_session_call(*session)->weights_bytes = weights->bytes;
    return onnxc_session_run(*session);
}

int main(int argc, char **argv) {
    const onnxc_weights none = {NULL, 0};
    onnxc_weights weights;
    onnxc_session *sessions[3];
    const onnxc_value *expected;
    const onnxc_value *actual;
    int statuses[3];
    size_t i;
    if (argc != 2 || onnxc_weights_open(&external, argv[1], &weights) != ONNXC_OK) {
        return 2;
    }
    for (i = 0; i < sizeof image / sizeof *image; i++) {
        image[i] = (float)(i % 251) / 125 - 1;
    }
    memset(other_data, 1, sizeof other_data);
    statuses[0] = run(&embedded, image, &none, &sessions[0]);
    statuses[1] = run(&external, image, &weights, &sessions[1]);
    statuses[2] = run(&digit, pixels, &none, &sessions[2]);
    printf("%d %d %d", statuses[0], statuses[1], statuses[2]);
    if (statuses[0] == ONNXC_OK && statuses[1] == ONNXC_OK) {
        expected = onnxc_session_outputs(sessions[0]);
        actual = onnxc_session_outputs(sessions[1]);
        printf(" same %d\n", memcmp(expected->tensor.data, actual->tensor.data, 1000 * sizeof(float)) == 0);
    }
    onnxc_weights_close(&weights);
    return 0;
}
