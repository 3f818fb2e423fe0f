"""The structures of onnxc.h, as far as they are needed to run a model, and element types as NumPy knows them."""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

import numpy as np

ABI_VERSION = 1
MAX_RANK = 8
ALIGN = 64
MORE = -15
GPU_FAILURES = (-34, -35, -36)
KIND_TENSOR = 1
MEMORY_DATA = 2
EXTERNAL_WEIGHTS = 1
CPU = 1


class DLDataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("dtype", DLDataType),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("byte_offset", c_uint64),
    ]


class Value(ctypes.Structure):
    _fields_ = [
        ("tensor", DLTensor),
        ("capacity_bytes", c_uint64),
        ("kind", c_int32),
        ("flags", c_uint32),
        ("dims", c_int64 * MAX_RANK),
        ("items", c_void_p),
        ("item_count", c_int64),
        ("item_capacity", c_int64),
        ("string_bytes", c_void_p),
        ("string_used", c_uint64),
        ("string_capacity", c_uint64),
        ("reserved", c_uint64 * 2),
    ]


class Fault(ctypes.Structure):
    _fields_ = [(n, c_int32) for n in ("output", "port", "axis", "step")] + [("expected", c_int64), ("actual", c_int64)]


Alloc = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_size_t)
Release = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_size_t)


class Call(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("abi_version", c_uint32),
        ("arena", c_void_p),
        ("arena_bytes", c_size_t),
        ("user", c_void_p),
        ("parallel_for", c_void_p),
        ("max_workers", c_int32),
        ("flags", c_uint32),
        ("alloc", Alloc),
        ("release", Release),
        ("trace", c_void_p),
        ("weights", c_void_p),
        ("weights_bytes", c_uint64),
        ("fault", POINTER(Fault)),
        ("stream", c_void_p),
    ]


class Port(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("kind", c_int32),
        ("ndim", c_int32),
        ("dtype", DLDataType),
        ("onnx_dtype", c_int32),
        ("dims", c_int64 * MAX_RANK),
        ("symbols", c_int32 * MAX_RANK),
        ("bytes", c_int64),
        ("item", c_void_p),
        ("key_dtype", DLDataType),
        ("flags", c_uint32),
    ]


class Symbol(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("min", c_int64), ("max", c_int64)]


class Descriptor(ctypes.Structure):
    _fields_ = [
        ("abi_version", c_uint32),
        ("struct_size", c_uint32),
        ("name", c_char_p),
        ("hash", c_uint8 * 32),
        ("memory", c_uint32),
        ("flags", c_uint32),
        ("input_count", c_uint32),
        ("output_count", c_uint32),
        ("inputs", POINTER(Port)),
        ("outputs", POINTER(Port)),
        ("symbol_count", c_uint32),
        ("step_count", c_uint32),
        ("symbols", POINTER(Symbol)),
        ("steps", POINTER(c_char_p)),
        ("arena_bytes", c_uint64),
        ("worker_bytes", c_uint64),
        ("code_bytes", c_uint64),
        ("weight_bytes", c_uint64),
        ("plan", ctypes.CFUNCTYPE(c_int, c_void_p, c_int, POINTER(c_size_t))),
        ("run", ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(Call))),
        ("run_dl", c_void_p),
        ("status", ctypes.CFUNCTYPE(c_char_p, c_int)),
        ("target", c_char_p),
        ("weights_hash", c_void_p),
        ("reserved", c_uint64),
    ]


_SIZES = {DLTensor: 48, Value: 192, Fault: 32, Call: 104, Port: 144, Symbol: 24, Descriptor: 192}
assert all(ctypes.sizeof(struct) == size for struct, size in _SIZES.items()), "the layout is that of onnxc.h"

# ONNX's numbers. Types that NumPy lacks are their bits; elements of less than a byte are packed and not served.
NUMPY_TYPES = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
    16: np.uint16,
}
NUMPY_TYPES = {number: np.dtype(dtype) for number, dtype in NUMPY_TYPES.items()}
