/* Functions on strings that compiled models call: see ir/src/strings for what each computes.
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

/* Keeps a part of the string of a number; its text may move while it is kept. */
static int keep_part(const onnxc_strings_call *op, uint64_t from, uint64_t offset, uint64_t length, uint64_t *number) {
    view v;
    int status = prepare(op, length);
    if (status == ONNXC_OK) {
        status = get(op, from, &v);
    }
    if (status == ONNXC_OK) {
        if (length != 0) {
            memcpy(text_end(op), v.text + offset, (size_t)length);
        }
        *number = number_of(op, text_end(op), length, 1);
    }
    return status;
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

/* --------------------------------------------------------------------------------------------------------- text */

int onnxc_strings_concat(const onnxc_strings_call *op) {
    const uint64_t *const left = onnxc_value_data(op->in[0]);
    const uint64_t *const right = onnxc_value_data(op->in[1]);
    uint64_t *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->out);
    uint64_t i;
    for (i = 0; i < count; i++) {
        view a, b;
        int status = get(op, left[i], &a);
        if (status == ONNXC_OK) {
            status = get(op, right[i], &b);
        }
        if (status == ONNXC_OK) {
            status = prepare(op, a.length + b.length);
        }
        if (status == ONNXC_OK) {
            status = get(op, left[i], &a);
        }
        if (status == ONNXC_OK) {
            status = get(op, right[i], &b);
        }
        if (status != ONNXC_OK) {
            return status;
        }
        if (a.length != 0) {
            memcpy(text_end(op), a.text, (size_t)a.length);
        }
        if (b.length != 0) {
            memcpy(text_end(op) + a.length, b.text, (size_t)b.length);
        }
        out[i] = number_of(op, text_end(op), a.length + b.length, 1);
    }
    return ONNXC_OK;
}

static int is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Cuts one text into parts. next gives false when there is none left. */
typedef struct {
    view text;
    view delimiter;
    uint64_t at;
    uint64_t cuts;
    int ended;
} cutter;

static int next_part(cutter *c, uint64_t *offset, uint64_t *length) {
    const uint64_t end = c->text.length;
    uint64_t i;
    if (c->delimiter.length == 0) {
        while (c->at < end && is_space(c->text.text[c->at])) {
            c->at++;
        }
        if (c->at == end) {
            return 0;
        }
        *offset = c->at;
        i = end;
        if (c->cuts == 0) {
            while (is_space(c->text.text[i - 1])) {
                i--;
            }
            *length = i - c->at;
            c->at = end;
            return 1;
        }
        c->cuts--;
        while (c->at < end && !is_space(c->text.text[c->at])) {
            c->at++;
        }
        *length = c->at - *offset;
        return 1;
    }
    if (c->ended) {
        return 0;
    }
    *offset = c->at;
    if (c->cuts != 0) {
        for (i = c->at; end - i >= c->delimiter.length; i++) {
            if (memcmp(c->text.text + i, c->delimiter.text, (size_t)c->delimiter.length) == 0) {
                c->cuts--;
                *length = i - c->at;
                c->at = i + c->delimiter.length;
                return 1;
            }
        }
    }
    *length = end - c->at;
    c->ended = 1;
    return 1;
}

static int start_cutter(const onnxc_strings_call *op, uint64_t number, cutter *c) {
    const uint64_t *const delimiter = onnxc_value_data(op->in[1]);
    const int64_t *const limit = onnxc_value_data(op->in[2]);
    const int status = get(op, number, &c->text);
    c->at = 0;
    c->ended = 0;
    c->cuts = *limit < 0 ? UINT64_MAX : (uint64_t)*limit;
    return status == ONNXC_OK ? get(op, *delimiter, &c->delimiter) : status;
}

int onnxc_strings_count(const onnxc_strings_call *op) {
    const uint64_t *const numbers = onnxc_value_data(op->in[0]);
    int64_t *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->in[0]);
    uint64_t i, offset, length;
    for (i = 0; i < count; i++) {
        cutter c;
        const int status = start_cutter(op, numbers[i], &c);
        if (status != ONNXC_OK) {
            return status;
        }
        out[i] = 0;
        while (next_part(&c, &offset, &length)) {
            out[i]++;
        }
    }
    return ONNXC_OK;
}

int onnxc_strings_split(const onnxc_strings_call *op) {
    const uint64_t *const numbers = onnxc_value_data(op->in[0]);
    uint64_t *const out = onnxc_value_data(op->out);
    const uint64_t rows = onnxc_value_count(op->in[0]);
    const uint64_t columns = (uint64_t)op->out->tensor.shape[1];
    uint64_t row, column, offset, length;
    for (row = 0; row < rows; row++) {
        cutter c;
        int status = start_cutter(op, numbers[row], &c);
        for (column = 0; column < columns && status == ONNXC_OK; column++) {
            uint64_t *const part = &out[row * columns + column];
            *part = 0;
            if (next_part(&c, &offset, &length)) {
                status = keep_part(op, numbers[row], offset, length, part);
                /* The text may have moved. */
                if (status == ONNXC_OK) {
                    status = get(op, numbers[row], &c.text);
                }
                if (status == ONNXC_OK) {
                    status = get(op, *(const uint64_t *)onnxc_value_data(op->in[1]), &c.delimiter);
                }
            }
        }
        if (status != ONNXC_OK) {
            return status;
        }
    }
    return ONNXC_OK;
}

/* The bytes of the UTF-8 sequence at text, 0 where it is none; code gets its code point. */
static uint64_t decode(const char *text, uint64_t length, uint32_t *code) {
    const unsigned char *const b = (const unsigned char *)text;
    uint64_t bytes, i;
    uint32_t least;
    if (b[0] < 0x80) {
        *code = b[0];
        return 1;
    }
    if (b[0] >= 0xc2 && b[0] < 0xe0) {
        bytes = 2;
        least = 0x80;
        *code = b[0] & 0x1fu;
    } else if (b[0] >= 0xe0 && b[0] < 0xf0) {
        bytes = 3;
        least = 0x800;
        *code = b[0] & 0x0fu;
    } else if (b[0] >= 0xf0 && b[0] < 0xf5) {
        bytes = 4;
        least = 0x10000;
        *code = b[0] & 0x07u;
    } else {
        return 0;
    }
    if (bytes > length) {
        return 0;
    }
    for (i = 1; i < bytes; i++) {
        if ((b[i] & 0xc0u) != 0x80) {
            return 0;
        }
        *code = *code << 6 | (b[i] & 0x3fu);
    }
    return *code < least || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000) ? 0 : bytes;
}

static uint64_t encode(uint32_t code, char *to) {
    if (code < 0x80) {
        to[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        to[0] = (char)(0xc0 | code >> 6);
        to[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        to[0] = (char)(0xe0 | code >> 12);
        to[1] = (char)(0x80 | (code >> 6 & 0x3f));
        to[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | code >> 18);
    to[1] = (char)(0x80 | (code >> 12 & 0x3f));
    to[2] = (char)(0x80 | (code >> 6 & 0x3f));
    to[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

static uint32_t replacement(const uint32_t *pairs, uint64_t count, uint32_t code) {
    uint64_t low = 0, high = count;
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        if (pairs[middle * 2] == code) {
            return pairs[middle * 2 + 1];
        }
        if (pairs[middle * 2] < code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return code;
}

int onnxc_strings_replace(const onnxc_strings_call *op) {
    const uint64_t *const numbers = onnxc_value_data(op->in[0]);
    const uint32_t *const pairs = onnxc_value_data(op->in[1]);
    const uint64_t pair_count = (uint64_t)op->in[1]->tensor.shape[0];
    uint64_t *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->out);
    uint64_t i;
    for (i = 0; i < count; i++) {
        uint64_t at = 0, made = 0;
        view v;
        int status = get(op, numbers[i], &v);
        if (status == ONNXC_OK) {
            status = v.length > SIZE_MAX / 64 ? ONNXC_NO_MEMORY : prepare(op, v.length * 4);
        }
        if (status == ONNXC_OK) {
            status = get(op, numbers[i], &v);
        }
        if (status != ONNXC_OK) {
            return status;
        }
        while (at < v.length) {
            uint32_t code;
            const uint64_t bytes = decode(v.text + at, v.length - at, &code);
            if (bytes == 0) {
                text_end(op)[made++] = v.text[at++];
            } else {
                made += encode(replacement(pairs, pair_count, code), text_end(op) + made);
                at += bytes;
            }
        }
        out[i] = number_of(op, text_end(op), made, 1);
    }
    return ONNXC_OK;
}

int onnxc_strings_accept(const onnxc_strings_call *op) {
    const uint64_t *const numbers = onnxc_value_data(op->in[0]);
    const uint32_t *const automaton = onnxc_value_data(op->in[1]);
    const uint32_t states = automaton[0], classes = automaton[1];
    const uint32_t *const class_of = automaton + 2;
    const uint32_t *const accepting = class_of + 256;
    const uint32_t *const next = accepting + states;
    unsigned char *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->out);
    uint64_t i, at;
    for (i = 0; i < count; i++) {
        uint32_t state = 0;
        view v;
        const int status = get(op, numbers[i], &v);
        if (status != ONNXC_OK) {
            return status;
        }
        for (at = 0; at < v.length; at++) {
            state = next[(size_t)state * classes + class_of[(unsigned char)v.text[at]]];
        }
        out[i] = accepting[state] != 0;
    }
    return ONNXC_OK;
}

int onnxc_strings_get(const onnxc_strings_call *op, uint64_t number, const char **text, uint64_t *length) {
    view v;
    const int status = get(op, number, &v);
    if (status == ONNXC_OK) {
        *text = v.text;
        *length = v.length;
    }
    return status;
}

int onnxc_strings_keep(const onnxc_strings_call *op, const char *text, uint64_t length, uint64_t *number) {
    const int status = prepare(op, length);
    if (status == ONNXC_OK) {
        if (length != 0) {
            memcpy(text_end(op), text, (size_t)length);
        }
        *number = number_of(op, text_end(op), length, 1);
    }
    return status;
}
