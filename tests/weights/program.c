/* Runs the digits once with its weights in the program and once with those of the file that is named, and says what
 * becomes of files and calls that are wrong. */
#include <stdio.h>
#include <string.h>

#include "embedded.h"
#include "external.h"
#include "onnxc_support.h"

enum { CLASSES = 10 };

static int scores(const onnxc_model *model, const void *weights, uint64_t bytes, float *result) {
    static float image[64];
    onnxc_session *session;
    int i;
    int status = onnxc_session_create(model, NULL, 1, &session);
    if (status != ONNXC_OK) {
        return status;
    }
    for (i = 0; i < 64; i++) {
        image[i] = (float)(i % 17);
    }
    onnxc_session_inputs(session)[0].tensor.data = image;
    onnxc_session_call(session)->weights = weights;
    onnxc_session_call(session)->weights_bytes = bytes;
    status = onnxc_session_run(session);
    if (status == ONNXC_OK) {
        memcpy(result, onnxc_session_outputs(session)[0].tensor.data, CLASSES * sizeof *result);
    }
    onnxc_session_destroy(session);
    return status;
}

int main(int argc, char **argv) {
    float expected[CLASSES] = {0};
    float actual[CLASSES] = {0};
    onnxc_weights weights;
    const char *data;
    int status;
    if (argc != 2) {
        return 2;
    }
    status = onnxc_weights_open(&external, argv[1], &weights);
    printf("open %d: %s\n", status, onnxc_status_message(status));
    if (status != ONNXC_OK) {
        return weights.data != NULL;
    }
    data = weights.data;
    printf("run %d", scores(&embedded, NULL, 0, expected));
    printf(" %d", scores(&external, data, weights.bytes, actual));
    printf(" same %d\n", memcmp(expected, actual, sizeof actual) == 0 && expected[0] != 0);
    printf("wrong %d", scores(&external, NULL, weights.bytes, actual));
    printf(" %d", scores(&external, data + 4, weights.bytes, actual));
    printf(" %d", scores(&external, data, weights.bytes - 64, actual));
    printf(" %d", onnxc_weights_open(&embedded, argv[1], &weights));
    printf(" %d\n", onnxc_weights_check(&external, data + 64, weights.bytes));
    weights.data = data;
    weights.bytes = external.weight_bytes;
    onnxc_weights_close(&weights);
    onnxc_weights_close(&weights);
    return 0;
}
