/* Functions on the text of strings, which compiled models call: joining, cutting into parts, case, regular expressions.
 * ir/src/strings says what each computes.
 *
 * A text that is made lies at the end of the run's own text until it is finished: making room for it may move all texts
 * that were looked at before. */
#include "onnxc_support.h"

#include <string.h>

typedef struct {
    const char *text;
    uint64_t length;
} view;

static int get(const onnxc_strings_call *op, uint64_t number, view *v) {
    return onnxc_strings_get(op, number, &v->text, &v->length);
}

int onnxc_strings_concat(const onnxc_strings_call *op) {
    const uint64_t *const left = onnxc_value_data(op->in[0]);
    const uint64_t *const right = onnxc_value_data(op->in[1]);
    uint64_t *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->out);
    uint64_t i;
    for (i = 0; i < count; i++) {
        view a, b;
        char *made;
        int status = get(op, left[i], &a);
        if (status == ONNXC_OK) {
            status = get(op, right[i], &b);
        }
        if (status == ONNXC_OK) {
            status = onnxc_strings_prepare(op, a.length + b.length, &made);
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
            memcpy(made, a.text, (size_t)a.length);
        }
        if (b.length != 0) {
            memcpy(made + a.length, b.text, (size_t)b.length);
        }
        out[i] = onnxc_strings_finish(op, a.length + b.length);
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

/* Keeps a part of the string of a number; its text may move while it is kept. */
static int keep_part(const onnxc_strings_call *op, uint64_t from, uint64_t offset, uint64_t length, uint64_t *number) {
    view v;
    char *made;
    int status = onnxc_strings_prepare(op, length, &made);
    if (status == ONNXC_OK) {
        status = get(op, from, &v);
    }
    if (status == ONNXC_OK) {
        if (length != 0) {
            memcpy(made, v.text + offset, (size_t)length);
        }
        *number = onnxc_strings_finish(op, length);
    }
    return status;
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
        uint64_t at = 0, length = 0;
        char *made;
        view v;
        int status = get(op, numbers[i], &v);
        if (status == ONNXC_OK) {
            status = v.length > SIZE_MAX / 64 ? ONNXC_NO_MEMORY : onnxc_strings_prepare(op, v.length * 4, &made);
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
                made[length++] = v.text[at++];
            } else {
                length += encode(replacement(pairs, pair_count, code), made + length);
                at += bytes;
            }
        }
        out[i] = onnxc_strings_finish(op, length);
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
