/* The strings of a run: their table, the functions at a model's ports, and how a text becomes one of them. What works on
 * strings is in strings_text.c and strings_numbers.c; ir/src/strings says what each function computes.
 *
 * In a model a string is a number. The first ones are those of the model's own strings, which lie in its read-only data
 * with a table that finds them; a run adds others in three slots of memory, which the model releases when it ends.
 * Strings of inputs stay where the caller has them. No number is trusted: one that no string has is ONNXC_STRING. */
#include "onnxc_support.h"

#include <string.h>

typedef struct {
    uint64_t count;
    uint64_t bucket_mask;
    const uint64_t *ends;
    const char *text;
    const uint32_t *buckets;
} constants;

typedef struct {
    char *pointer;
    uint64_t bytes;
} slot;

/* A string of the run: at outside, or at offset of the run's own text where that is NULL. */
typedef struct {
    const char *outside;
    uint64_t offset;
    uint64_t length;
    uint64_t hash;
} entry;

/* At the begin of the first slot; entries follow. The second slot has the buckets: 0, or an entry's index plus 1. */
typedef struct {
    uint64_t count;
    uint64_t bucket_mask;
    uint64_t text_used;
    uint64_t reserved;
} header;

typedef struct {
    const char *text;
    uint64_t length;
} view;

static const constants *constants_of(const onnxc_strings_call *op) {
    return op->constants;
}

static slot *slots_of(const onnxc_strings_call *op) {
    return op->strings;
}

static header *header_of(const onnxc_strings_call *op) {
    return (header *)(void *)slots_of(op)[0].pointer;
}

static entry *entries_of(const onnxc_strings_call *op) {
    return (entry *)(void *)(slots_of(op)[0].pointer + sizeof(header));
}

/* Room for at least bytes in a slot; what it held stays. */
static int grow(const onnxc_strings_call *op, slot *s, uint64_t held, uint64_t bytes) {
    const onnxc_call *const call = op->call;
    const uint64_t old = s->pointer == NULL ? 0 : s->bytes;
    uint64_t wanted = old * 2 > bytes ? old * 2 : bytes;
    char *pointer;
    if (bytes <= old && s->pointer != NULL) {
        return ONNXC_OK;
    }
    if (wanted < 1024) {
        wanted = 1024;
    }
    if (wanted > SIZE_MAX / 4) {
        return ONNXC_NO_MEMORY;
    }
    pointer = call->alloc(call->user, (size_t)wanted, ONNXC_ALIGN);
    if (pointer == NULL) {
        return ONNXC_NO_MEMORY;
    }
    if (s->pointer != NULL) {
        memcpy(pointer, s->pointer, (size_t)held);
        call->release(call->user, s->pointer, (size_t)s->bytes);
    }
    s->pointer = pointer;
    s->bytes = wanted;
    return ONNXC_OK;
}

static uint64_t hash_of(const char *text, uint64_t length) {
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    uint64_t i;
    for (i = 0; i < length; i++) {
        h = (h ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
    }
    return h ^ h >> 32;
}

static int same(view a, const char *text, uint64_t length) {
    return a.length == length && (length == 0 || memcmp(a.text, text, (size_t)length) == 0);
}

static view constant_string(const constants *c, uint64_t number) {
    const uint64_t begin = number == 0 ? 0 : c->ends[number - 1];
    view v;
    v.text = c->text + begin;
    v.length = c->ends[number] - begin;
    return v;
}

static view entry_string(const onnxc_strings_call *op, const entry *e) {
    view v;
    v.text = e->outside != NULL ? e->outside : slots_of(op)[2].pointer + e->offset;
    v.length = e->length;
    return v;
}

static int get(const onnxc_strings_call *op, uint64_t number, view *v) {
    const constants *const c = constants_of(op);
    const uint64_t made = slots_of(op)[0].pointer == NULL ? 0 : header_of(op)->count;
    if (number < c->count) {
        *v = constant_string(c, number);
        return ONNXC_OK;
    }
    if (number - c->count >= made) {
        return ONNXC_STRING;
    }
    *v = entry_string(op, &entries_of(op)[number - c->count]);
    return ONNXC_OK;
}

/* Makes the table ready for one more entry and for text bytes more of its own. */
static int prepare(const onnxc_strings_call *op, uint64_t text) {
    slot *const s = slots_of(op);
    uint64_t count, i;
    uint32_t *buckets;
    int status;
    if (s[0].pointer == NULL) {
        status = grow(op, &s[0], 0, sizeof(header));
        if (status != ONNXC_OK) {
            return status;
        }
        memset(s[0].pointer, 0, sizeof(header));
    }
    count = header_of(op)->count;
    if (count >= UINT32_MAX - 1 || text > SIZE_MAX / 8) {
        return ONNXC_NO_MEMORY;
    }
    status = grow(op, &s[0], sizeof(header) + count * sizeof(entry), sizeof(header) + (count + 1) * sizeof(entry));
    if (status == ONNXC_OK) {
        status = grow(op, &s[2], header_of(op)->text_used, header_of(op)->text_used + text);
    }
    if (status != ONNXC_OK || (s[1].pointer != NULL && count * 2 < header_of(op)->bucket_mask)) {
        return status;
    }
    status = grow(op, &s[1], 0, s[1].pointer == NULL ? 1024 : s[1].bytes * 2);
    if (status != ONNXC_OK) {
        return status;
    }
    /* The buckets are as many as the greatest power of two that fits. */
    header_of(op)->bucket_mask = 255;
    while ((header_of(op)->bucket_mask * 2 + 2) * sizeof(uint32_t) <= s[1].bytes) {
        header_of(op)->bucket_mask = header_of(op)->bucket_mask * 2 + 1;
    }
    memset(s[1].pointer, 0, (size_t)((header_of(op)->bucket_mask + 1) * sizeof(uint32_t)));
    buckets = (uint32_t *)(void *)s[1].pointer;
    for (i = 0; i < count; i++) {
        uint64_t at = entries_of(op)[i].hash & header_of(op)->bucket_mask;
        while (buckets[at] != 0) {
            at = (at + 1) & header_of(op)->bucket_mask;
        }
        buckets[at] = (uint32_t)i + 1;
    }
    return ONNXC_OK;
}

/* The number of a string: of an equal one, else a new one. After prepare. */
static uint64_t number_of(const onnxc_strings_call *op, const char *text, uint64_t length, int own) {
    const constants *const c = constants_of(op);
    header *const h = header_of(op);
    uint32_t *const buckets = (uint32_t *)(void *)slots_of(op)[1].pointer;
    const uint64_t hash = hash_of(text, length);
    uint64_t at;
    entry *e;
    if (length == 0) {
        return 0;
    }
    for (at = hash & c->bucket_mask; c->buckets[at] != 0; at = (at + 1) & c->bucket_mask) {
        if (same(constant_string(c, c->buckets[at]), text, length)) {
            return c->buckets[at];
        }
    }
    for (at = hash & h->bucket_mask; buckets[at] != 0; at = (at + 1) & h->bucket_mask) {
        e = &entries_of(op)[buckets[at] - 1];
        if (e->hash == hash && same(entry_string(op, e), text, length)) {
            return c->count + buckets[at] - 1;
        }
    }
    e = &entries_of(op)[h->count];
    e->outside = own ? NULL : text;
    e->offset = h->text_used;
    e->length = length;
    e->hash = hash;
    if (own) {
        h->text_used += length;
    }
    buckets[at] = (uint32_t)++h->count;
    return c->count + h->count - 1;
}

/* The end of the run's own text, where a string is made after prepare. */
static char *text_end(const onnxc_strings_call *op) {
    return slots_of(op)[2].pointer + header_of(op)->text_used;
}

/* ------------------------------------------------------------------------------------------------ ports of models */

int onnxc_strings_enter(const onnxc_strings_call *op) {
    const onnxc_value *const given = op->in[0];
    const onnxc_string *const pairs = onnxc_value_data(given);
    uint64_t *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->out);
    uint64_t i;
    int status;
    for (i = 0; i < count; i++) {
        const onnxc_string s = pairs[i];
        if (s.offset > given->string_used || s.length > given->string_used - s.offset) {
            return ONNXC_STRING;
        }
        if (s.length != 0 && given->string_bytes == NULL) {
            return ONNXC_NULL;
        }
        status = prepare(op, 0);
        if (status != ONNXC_OK) {
            return status;
        }
        out[i] = s.length == 0 ? 0 : number_of(op, given->string_bytes + s.offset, s.length, 0);
    }
    return ONNXC_OK;
}

int onnxc_strings_leave(const onnxc_strings_call *op) {
    const uint64_t *const numbers = onnxc_value_data(op->in[0]);
    onnxc_value *const given = op->out;
    onnxc_string *const pairs = onnxc_value_data(given);
    const uint64_t count = onnxc_value_count(op->in[0]);
    uint64_t i, total = 0;
    for (i = 0; i < count; i++) {
        view v;
        const int status = get(op, numbers[i], &v);
        if (status != ONNXC_OK) {
            return status;
        }
        if (v.length > SIZE_MAX / 4 - total) {
            return ONNXC_SIZE_LIMIT;
        }
        pairs[i].offset = total;
        pairs[i].length = v.length;
        total += v.length;
    }
    given->string_used = total;
    if (given->string_bytes == NULL && given->string_capacity == 0) {
        const onnxc_call *const call = op->call;
        const size_t wanted = total == 0 ? 1 : (size_t)total;
        given->string_bytes = call->alloc(call->user, wanted, 1);
        if (given->string_bytes == NULL) {
            return ONNXC_NO_MEMORY;
        }
        given->string_capacity = wanted;
        given->flags |= ONNXC_VALUE_OWNS_STRINGS;
    } else if (total > given->string_capacity) {
        return ONNXC_MORE;
    }
    for (i = 0; i < count; i++) {
        view v;
        if (get(op, numbers[i], &v) == ONNXC_OK && v.length != 0) {
            memmove(given->string_bytes + pairs[i].offset, v.text, (size_t)v.length);
        }
    }
    return ONNXC_OK;
}

/* --------------------------------------------------------------------------------------- for what works on strings */

int onnxc_strings_get(const onnxc_strings_call *op, uint64_t number, const char **text, uint64_t *length) {
    view v;
    const int status = get(op, number, &v);
    if (status == ONNXC_OK) {
        *text = v.text;
        *length = v.length;
    }
    return status;
}

int onnxc_strings_prepare(const onnxc_strings_call *op, uint64_t length, char **text) {
    const int status = prepare(op, length);
    if (status == ONNXC_OK) {
        *text = text_end(op);
    }
    return status;
}

uint64_t onnxc_strings_finish(const onnxc_strings_call *op, uint64_t length) {
    return number_of(op, text_end(op), length, 1);
}

int onnxc_strings_keep(const onnxc_strings_call *op, const char *text, uint64_t length, uint64_t *number) {
    char *made;
    const int status = onnxc_strings_prepare(op, length, &made);
    if (status == ONNXC_OK) {
        if (length != 0) {
            memcpy(made, text, (size_t)length);
        }
        *number = onnxc_strings_finish(op, length);
    }
    return status;
}
