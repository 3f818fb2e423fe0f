/* Weights in a file of their own: mapped read-only, and believed only when length and SHA-256 are what the model says. */
#ifndef _WIN32
#define _POSIX_C_SOURCE 200809L
#endif
#include "onnxc_support.h"

#include <string.h>
#ifdef _WIN32
#include <stdio.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

/* The fractions of the cube roots of the first 64 primes. */
static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int bits) {
    return x >> bits | x << (32 - bits);
}

/* Takes blocks of 64 bytes into the state. */
static void absorb(uint32_t state[8], const uint8_t *block, uint64_t blocks) {
    for (; blocks > 0; blocks--, block += 64) {
        uint32_t w[64];
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        int i;
        for (i = 0; i < 16; i++) {
            const uint8_t *const at = block + 4 * i;
            w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
        }
        for (; i < 64; i++) {
            const uint32_t x = w[i - 15];
            const uint32_t y = w[i - 2];
            w[i] = w[i - 16] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[i - 7] +
                   (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
        }
        for (i = 0; i < 64; i++) {
            const uint32_t sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
            const uint32_t t = h + sum1 + ((e & f) ^ (~e & g)) + round_constants[i] + w[i];
            const uint32_t sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
            const uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
            h = g;
            g = f;
            f = e;
            e = d + t;
            d = c;
            c = b;
            b = a;
            a = t + sum0 + majority;
        }
        state[0] += a;
        state[1] += b;
        state[2] += c;
        state[3] += d;
        state[4] += e;
        state[5] += f;
        state[6] += g;
        state[7] += h;
    }
}

static int hashes_to(const uint8_t *data, uint64_t bytes, const uint8_t expected[32]) {
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t last[128] = {0};
    const uint64_t rest = bytes % 64;
    const uint64_t end = rest < 56 ? 64 : 128;
    int i;
    absorb(state, data, bytes / 64);
    if (rest != 0) {
        memcpy(last, data + (bytes - rest), (size_t)rest);
    }
    last[rest] = 0x80;
    for (i = 0; i < 8; i++) {
        last[end - 1 - (uint64_t)i] = (uint8_t)(bytes * 8 >> 8 * i);
    }
    absorb(state, last, end / 64);
    for (i = 0; i < 32; i++) {
        if (expected[i] != (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)))) {
            return 0;
        }
    }
    return 1;
}

int onnxc_weights_check(const onnxc_model *model, const void *data, uint64_t bytes) {
    if (model == NULL || data == NULL) {
        return ONNXC_NULL;
    }
    if (model->weights_hash == NULL || bytes != model->weight_bytes || (uintptr_t)data % ONNXC_ALIGN != 0) {
        return ONNXC_WEIGHTS;
    }
    return hashes_to(data, bytes, model->weights_hash) ? ONNXC_OK : ONNXC_WEIGHTS;
}

#ifdef _WIN32

/* Read into memory: a file that is mapped there cannot be replaced. */
static int bring_in(const char *path, uint64_t bytes, void **data) {
    FILE *const file = fopen(path, "rb");
    int status = ONNXC_WEIGHTS_FILE;
    if (file == NULL) {
        return status;
    }
    *data = onnxc_arena_alloc((size_t)bytes);
    if (*data == NULL) {
        status = ONNXC_NO_MEMORY;
    } else {
        const size_t count = fread(*data, 1, (size_t)bytes, file);
        const int more = fgetc(file) != EOF;
        status = ferror(file) ? ONNXC_WEIGHTS_FILE : count != bytes || more ? ONNXC_WEIGHTS : ONNXC_OK;
        if (status != ONNXC_OK) {
            onnxc_arena_free(*data);
        }
    }
    fclose(file);
    return status;
}

static void let_go(void *data, uint64_t bytes) {
    (void)bytes;
    onnxc_arena_free(data);
}

#else

static int bring_in(const char *path, uint64_t bytes, void **data) {
    /* Opening a pipe would wait for its writer; to a file the flag means nothing. */
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat about;
    int status = ONNXC_OK;
    if (file < 0) {
        return ONNXC_WEIGHTS_FILE;
    }
    if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
        status = ONNXC_WEIGHTS_FILE;
    } else if (about.st_size < 0 || (uint64_t)about.st_size != bytes || bytes == 0) {
        status = ONNXC_WEIGHTS;
    } else {
        *data = mmap(NULL, (size_t)bytes, PROT_READ, MAP_PRIVATE, file, 0);
        status = *data == MAP_FAILED ? ONNXC_WEIGHTS_FILE : ONNXC_OK;
    }
    close(file);
    return status;
}

static void let_go(void *data, uint64_t bytes) {
    munmap(data, (size_t)bytes);
}

#endif

int onnxc_weights_open(const onnxc_model *model, const char *path, onnxc_weights *weights) {
    void *data = NULL;
    int status;
    if (model == NULL || path == NULL || weights == NULL) {
        return ONNXC_NULL;
    }
    weights->data = NULL;
    weights->bytes = 0;
    if (model->abi_version != ONNXC_ABI_VERSION) {
        return ONNXC_ABI;
    }
    if ((model->flags & ONNXC_MODEL_EXTERNAL_WEIGHTS) == 0 || model->weight_bytes > SIZE_MAX) {
        return ONNXC_WEIGHTS;
    }
    status = bring_in(path, model->weight_bytes, &data);
    if (status != ONNXC_OK) {
        return status;
    }
    status = onnxc_weights_check(model, data, model->weight_bytes);
    if (status != ONNXC_OK) {
        let_go(data, model->weight_bytes);
        return status;
    }
    weights->data = data;
    weights->bytes = model->weight_bytes;
    return ONNXC_OK;
}

void onnxc_weights_close(onnxc_weights *weights) {
    if (weights != NULL && weights->data != NULL) {
        let_go((void *)(uintptr_t)weights->data, weights->bytes);
        weights->data = NULL;
        weights->bytes = 0;
    }
}
