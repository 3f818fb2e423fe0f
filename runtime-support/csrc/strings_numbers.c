/* Numbers from strings and as strings, and the order of strings: see ir/src/strings. */
#include "onnxc_support.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longer text is no number. */
enum {
    LONGEST = 1000
};

typedef struct {
    const char *text;
    uint64_t length;
    uint64_t index;
} ordered;

static int compare(const ordered *x, const ordered *y) {
    const uint64_t length = x->length < y->length ? x->length : y->length;
    const int order = length == 0 ? 0 : memcmp(x->text, y->text, (size_t)length);
    return order != 0 ? order : (x->length > y->length) - (x->length < y->length);
}

static int compare_any(const void *x, const void *y) {
    return compare(x, y);
}

int onnxc_strings_order(const onnxc_strings_call *op) {
    const onnxc_call *const call = op->call;
    const uint64_t *const numbers = onnxc_value_data(op->in[0]);
    int64_t *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->in[0]);
    const size_t bytes = (size_t)count * sizeof(ordered);
    ordered *all;
    uint64_t i;
    int64_t rank = 0;
    if (count == 0) {
        return ONNXC_OK;
    }
    if (count > SIZE_MAX / sizeof(ordered)) {
        return ONNXC_NO_MEMORY;
    }
    all = call->alloc(call->user, bytes, ONNXC_ALIGN);
    if (all == NULL) {
        return ONNXC_NO_MEMORY;
    }
    for (i = 0; i < count; i++) {
        const int status = onnxc_strings_get(op, numbers[i], &all[i].text, &all[i].length);
        if (status != ONNXC_OK) {
            call->release(call->user, all, bytes);
            return status;
        }
        all[i].index = i;
    }
    qsort(all, (size_t)count, sizeof *all, compare_any);
    for (i = 0; i < count; i++) {
        rank += i != 0 && compare(&all[i - 1], &all[i]) != 0;
        out[all[i].index] = rank;
    }
    call->release(call->user, all, bytes);
    return ONNXC_OK;
}

static int is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* A string without white space at its ends as C text; false where it is too long or has a NUL. */
static int text_of(const onnxc_strings_call *op, uint64_t number, char *out, int *status) {
    const char *text;
    uint64_t length;
    *status = onnxc_strings_get(op, number, &text, &length);
    if (*status != ONNXC_OK) {
        return 0;
    }
    while (length != 0 && is_space(*text)) {
        text++;
        length--;
    }
    while (length != 0 && is_space(text[length - 1])) {
        length--;
    }
    if (length > LONGEST || (length != 0 && memchr(text, 0, (size_t)length) != NULL)) {
        return 0;
    }
    if (length != 0) {
        memcpy(out, text, (size_t)length);
    }
    out[length] = 0;
    return 1;
}

static int parse_int(const char *text, uint64_t *number) {
    const int negative = *text == '-';
    uint64_t value = 0;
    text += negative || *text == '+';
    if (*text == 0) {
        return 0;
    }
    for (; *text != 0; text++) {
        const uint64_t digit = (uint64_t)(*text - '0');
        if (!is_digit(*text) || value > (UINT64_MAX - digit) / 10) {
            return 0;
        }
        value = value * 10 + digit;
    }
    if (negative && value > UINT64_C(1) << 63) {
        return 0;
    }
    *number = negative ? 0 - value : value;
    return 1;
}

static int is_word(const char *text, const char *word) {
    while (*word != 0 && (*text | 0x20) == *word) {
        text++;
        word++;
    }
    return *text == 0 && *word == 0;
}

static int parse_float(char *text, double *number) {
    const char *at = text + (*text == '-' || *text == '+');
    const double sign = *text == '-' ? -1.0 : 1.0;
    char *point = NULL;
    int digits = 0;
    if (is_word(at, "inf") || is_word(at, "infinity")) {
        *number = sign * HUGE_VAL;
        return 1;
    }
    if (is_word(at, "nan")) {
        *number = NAN;
        return 1;
    }
    for (; is_digit(*at); at++) {
        digits++;
    }
    if (*at == '.') {
        point = text + (at - text);
        for (at++; is_digit(*at); at++) {
            digits++;
        }
    }
    if (digits != 0 && (*at | 0x20) == 'e') {
        at++;
        at += *at == '-' || *at == '+';
        if (!is_digit(*at)) {
            return 0;
        }
        while (is_digit(*at)) {
            at++;
        }
    }
    if (digits == 0 || *at != 0) {
        return 0;
    }
    if (point != NULL) {
        *point = *localeconv()->decimal_point;
    }
    *number = strtod(text, NULL);
    return 1;
}

int onnxc_strings_parse_int(const onnxc_strings_call *op) {
    const uint64_t *const numbers = onnxc_value_data(op->in[0]);
    uint64_t *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->out);
    uint64_t i;
    for (i = 0; i < count; i++) {
        char text[LONGEST + 1];
        int status;
        if (!text_of(op, numbers[i], text, &status) || !parse_int(text, &out[i])) {
            return status != ONNXC_OK ? status : ONNXC_STRING;
        }
    }
    return ONNXC_OK;
}

int onnxc_strings_parse_float(const onnxc_strings_call *op) {
    const uint64_t *const numbers = onnxc_value_data(op->in[0]);
    double *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->out);
    uint64_t i;
    for (i = 0; i < count; i++) {
        char text[LONGEST + 1];
        int status;
        if (!text_of(op, numbers[i], text, &status) || !parse_float(text, &out[i])) {
            return status != ONNXC_OK ? status : ONNXC_STRING;
        }
    }
    return ONNXC_OK;
}

int onnxc_strings_format_int(const onnxc_strings_call *op) {
    const int is_signed = op->in[0]->tensor.dtype.code == kDLInt;
    const uint64_t *const numbers = onnxc_value_data(op->in[0]);
    uint64_t *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->out);
    uint64_t i;
    for (i = 0; i < count; i++) {
        const int negative = is_signed && numbers[i] >> 63;
        uint64_t rest = negative ? 0 - numbers[i] : numbers[i];
        char text[24];
        size_t at = sizeof text;
        int status;
        do {
            text[--at] = (char)('0' + rest % 10);
            rest /= 10;
        } while (rest != 0);
        if (negative) {
            text[--at] = '-';
        }
        status = onnxc_strings_keep(op, text + at, sizeof text - at, &out[i]);
        if (status != ONNXC_OK) {
            return status;
        }
    }
    return ONNXC_OK;
}

/* Appends the shortest text that reads back as the number; gives its length. */
static size_t format(double number, int single, char *out) {
    char text[40], digits[24];
    int precision, exponent, count = 0;
    size_t length = 0, i;
    if (isnan(number)) {
        memcpy(out, "NaN", 3);
        return 3;
    }
    if (signbit(number)) {
        out[length++] = '-';
        number = -number;
    }
    if (isinf(number)) {
        memcpy(out + length, "INF", 3);
        return length + 3;
    }
    for (precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, number);
        if (single ? strtof(text, NULL) == (float)number : strtod(text, NULL) == number) {
            break;
        }
    }
    for (i = 0; text[i] != 'e'; i++) {
        if (is_digit(text[i])) {
            digits[count++] = text[i];
        }
    }
    exponent = atoi(text + i + 1);
    while (count > 1 && digits[count - 1] == '0') {
        count--;
    }
    if (exponent < -4 || exponent >= 16) {
        out[length++] = digits[0];
        if (count > 1) {
            out[length++] = '.';
            memcpy(out + length, digits + 1, (size_t)count - 1);
            length += (size_t)count - 1;
        }
        return length + (size_t)snprintf(out + length, 8, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    }
    if (exponent < 0) {
        memcpy(out + length, "0.0000", (size_t)(1 - exponent));
        length += (size_t)(1 - exponent);
        memcpy(out + length, digits, (size_t)count);
        return length + (size_t)count;
    }
    for (precision = 0; precision <= exponent || precision < count; precision++) {
        if (precision == exponent + 1) {
            out[length++] = '.';
        }
        out[length++] = precision < count ? digits[precision] : '0';
    }
    return length;
}

int onnxc_strings_format_float(const onnxc_strings_call *op) {
    const int single = op->in[0]->tensor.dtype.bits == 32;
    const void *const numbers = onnxc_value_data(op->in[0]);
    uint64_t *const out = onnxc_value_data(op->out);
    const uint64_t count = onnxc_value_count(op->out);
    uint64_t i;
    for (i = 0; i < count; i++) {
        const double number = single ? (double)((const float *)numbers)[i] : ((const double *)numbers)[i];
        char text[64];
        const int status = onnxc_strings_keep(op, text, format(number, single, text), &out[i]);
        if (status != ONNXC_OK) {
            return status;
        }
    }
    return ONNXC_OK;
}
