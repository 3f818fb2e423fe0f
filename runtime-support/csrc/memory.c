/* Aligned memory for arenas and outputs, and the release of what data models allocate. */
#include "onnxc_support.h"

#include <stdlib.h>
#ifdef _WIN32
#include <malloc.h>
#endif

void *onnxc_arena_alloc(size_t bytes) {
    size_t rounded;
    if (bytes > SIZE_MAX - ONNXC_ALIGN) {
        return NULL;
    }
    rounded = (bytes + ONNXC_ALIGN - 1) / ONNXC_ALIGN * ONNXC_ALIGN;
    if (rounded == 0) {
        rounded = ONNXC_ALIGN;
    }
#ifdef _WIN32
    return _aligned_malloc(rounded, ONNXC_ALIGN);
#else
    return aligned_alloc(ONNXC_ALIGN, rounded);
#endif
}

void onnxc_arena_free(void *arena) {
#ifdef _WIN32
    _aligned_free(arena);
#else
    free(arena);
#endif
}

void *onnxc_heap_alloc(void *user, size_t bytes, size_t align) {
    (void)user;
    return align > ONNXC_ALIGN ? NULL : onnxc_arena_alloc(bytes);
}

void onnxc_heap_release(void *user, void *pointer, size_t bytes) {
    (void)user;
    (void)bytes;
    onnxc_arena_free(pointer);
}

void onnxc_value_release(onnxc_value *value, const onnxc_call *call) {
    int64_t index;
    if (value->items != NULL) {
        for (index = 0; index < value->item_count; index++) {
            onnxc_value_release(&value->items[index], call);
        }
    }
    if (value->flags & ONNXC_VALUE_OWNS_ITEMS) {
        call->release(call->user, value->items, (size_t)value->item_capacity * sizeof(onnxc_value));
        value->items = NULL;
        value->item_count = value->item_capacity = 0;
    }
    if (value->flags & ONNXC_VALUE_OWNS_DATA) {
        call->release(call->user, value->tensor.data, (size_t)value->capacity_bytes);
        value->tensor.data = NULL;
        value->capacity_bytes = 0;
    }
    if (value->flags & ONNXC_VALUE_OWNS_STRINGS) {
        call->release(call->user, value->string_bytes, (size_t)value->string_capacity);
        value->string_bytes = NULL;
        value->string_used = value->string_capacity = 0;
    }
    value->flags = 0;
}
