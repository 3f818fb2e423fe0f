/* Runs kernels: reads jobs from a file and writes the buffers after each to another. A job is the numbers of bytes of code, of
   buffers, of parameters, of tasks and of bytes of scratch memory, then the code, the parameters, and each buffer after the
   number of its bytes. All numbers have 64 bits. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef void kernel(void **, int64_t *, int64_t, int64_t, void *, int32_t);

static void *room(uint64_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 127) & ~63ull);
    if (!memory) exit(2);
    return memory;
}

static void take(void *to, uint64_t bytes, FILE *from) {
    if (bytes && fread(to, bytes, 1, from) != 1) exit(3);
}

int main(int count, char **arguments) {
    FILE *in = fopen(arguments[1], "rb"), *out = fopen(arguments[2], "wb");
    uint64_t head[5];
    (void)count;
    if (!in || !out) return 4;
    while (fread(head, sizeof head, 1, in) == 1) {
        uint64_t length = head[0] ? head[0] : 1;
        char *code = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (code == MAP_FAILED) return 5;
        take(code, head[0], in);
        mprotect(code, length, PROT_READ | PROT_EXEC);
        __builtin___clear_cache(code, code + length);
        int64_t *params = room(8 * head[2]);
        take(params, 8 * head[2], in);
        void **buffers = room(8 * head[1]);
        uint64_t *bytes = room(8 * head[1]);
        for (uint64_t i = 0; i < head[1]; i++) {
            take(&bytes[i], 8, in);
            buffers[i] = room(bytes[i]);
            take(buffers[i], bytes[i], in);
        }
        ((kernel *)code)(buffers, params, 0, (int64_t)head[3], room(head[4]), 0);
        for (uint64_t i = 0; i < head[1]; i++) {
            fwrite(buffers[i], bytes[i], 1, out);
            free(buffers[i]);
        }
        munmap(code, length);
    }
    return fclose(out) ? 6 : 0;
}
