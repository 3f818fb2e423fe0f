"""Writes ONNX models of a few nodes without the package `onnx`, which a machine with a device may lack.

A message of the format is fields one after the other: a number and a kind, then a number, 4 bytes, or a length and bytes.
"""
import struct

import numpy as np

# Element types by their names here.
TYPES = {"f32": 1, "i64": 7, "f16": 10, "tf32": 1, "bf16": 16}
OPSET, IR = 17, 9


def number(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(key, value):
    """A field of an integer, a float, a text, or the bytes of a message."""
    if isinstance(value, int):
        return number(key << 3) + number(value)
    if isinstance(value, float):
        return number(key << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return number(key << 3 | 2) + number(len(data)) + data


def fields(key, values):
    return b"".join(field(key, value) for value in values)


def attribute(name, value):
    """An integer, a float, or a list of integers."""
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    if isinstance(value, float):
        return field(1, name) + field(2, value) + field(20, 1)
    return field(1, name) + fields(8, value) + field(20, 7)


def node(operator, inputs, outputs, **attributes):
    parts = [fields(1, inputs), fields(2, outputs), field(4, operator)]
    return b"".join(parts) + fields(5, [attribute(name, value) for name, value in attributes.items()])


def port(name, kind, shape):
    dims = fields(1, [field(1, int(size)) for size in shape])
    return field(1, name) + field(2, field(1, field(1, TYPES[kind]) + field(2, dims)))


def constant(name, kind, array):
    """Of an array whose elements are stored as they are: bits where NumPy lacks the type."""
    return fields(1, map(int, array.shape)) + field(2, TYPES[kind]) + field(8, name) + field(9, np.ascontiguousarray(array).tobytes())


def model(nodes, inputs, outputs, constants=()):
    graph = fields(1, nodes) + field(2, "bench") + fields(5, constants) + fields(11, inputs) + fields(12, outputs)
    return field(1, IR) + field(7, graph) + field(8, field(1, "") + field(2, OPSET))
