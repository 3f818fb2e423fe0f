"""Compiles ONNX models to native code and runs them.

    import onnxc
    m = onnxc.compile("m.onnx", target="native", dims={"batch": 1})
    y = m.run(x=array)

Inputs are read where they are: NumPy arrays, or anything with DLPack's protocol that lies in main memory. Outputs are
fresh NumPy arrays, into which the model writes.
"""

import ctypes
import hashlib
import itertools
import os
import threading
from ctypes import byref, c_size_t
from dataclasses import dataclass

import numpy as np

from . import abi
from ._native import __version__
from ._native import compile as _compile
from ._native import cuda_message

__all__ = ["Error", "Model", "Port", "__version__", "compile", "load"]


class Error(RuntimeError):
    """A run that failed; `status` is the number of onnxc.h."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Port:
    """An input or output: `dims` has a number, the name of a dimension, or None where data decides."""

    name: str
    dtype: np.dtype
    dims: tuple


def compile(path, *, target="native", dims=None, fp="default", opt_level=2):
    """Compiles a model in memory. `dims` fixes or bounds named dimensions: {"batch": 1, "seq": (1, 512)}.

    Raises ValueError with all that is wrong or not supported, OSError for files that cannot be read."""
    given = []
    for name, setting in (dims or {}).items():
        given.append(f"{name}={setting[0]}..{setting[1]}" if isinstance(setting, tuple) else f"{name}={setting}")
    loaded = _compile(os.fspath(path), target, given, fp, str(opt_level))
    return Model(loaded.descriptor, loaded, cuda_message)


def load(path, name=None, weights=None):
    """A model from a shared library that `onnxc m.onnx -o m.so` wrote; `name` is the prefix, if it is not the stem.

    `weights` is the file that `--weights external` wrote, if it is not where it was written. It is mapped, and its
    length and hash must be those that the model states."""
    path = os.path.abspath(os.fspath(path))
    stem = os.path.splitext(os.path.basename(path))[0].removeprefix("lib")
    name = stem if name is None else name
    if weights is None:
        weights = os.path.join(os.path.dirname(path), f"{stem}.weights")
    library = ctypes.CDLL(path)
    try:
        descriptor = abi.Descriptor.in_dll(library, name)
    except ValueError:
        raise ValueError(f"{path} has no model named {name}") from None
    model = Model(ctypes.addressof(descriptor), library, _message_of(library))
    if descriptor.flags & abi.EXTERNAL_WEIGHTS:
        model._map_weights(os.fspath(weights))
    return model


def _message_of(library):
    """What says why a GPU failed, in a library of a model for GPUs."""
    if not hasattr(library, "onnxc_cuda_message"):
        return None
    library.onnxc_cuda_message.restype = ctypes.c_char_p
    return lambda: library.onnxc_cuda_message().decode()


class Model:
    """A compiled model. Any number of threads may call `run` at once: each has memory of its own."""

    def __init__(self, descriptor, keep, message=None):
        self._keep, self._message = keep, message
        self._raw = raw = abi.Descriptor.from_address(descriptor)
        if raw.abi_version != abi.ABI_VERSION:
            raise ValueError(f"the model has version {raw.abi_version} of the interface, not {abi.ABI_VERSION}")
        self._symbols = [raw.symbols[i].name.decode() for i in range(raw.symbol_count)]
        self.inputs = tuple(self._port(raw.inputs[i]) for i in range(raw.input_count))
        self.outputs = tuple(self._port(raw.outputs[i]) for i in range(raw.output_count))
        self._local = threading.local()
        self._weights = None

    def _map_weights(self, path):
        raw = self._raw
        if os.path.getsize(path) == raw.weight_bytes:
            mapped = np.memmap(path, np.uint8, "r")
            if hashlib.sha256(mapped).digest() == ctypes.string_at(raw.weights_hash, 32):
                self._weights = mapped
                return
        raise ValueError(f"{path} does not hold the weights of {self.name}")

    def _port(self, raw):
        name = raw.name.decode()
        dtype = abi.NUMPY_TYPES.get(raw.onnx_dtype)
        if raw.kind != abi.KIND_TENSOR or dtype is None:
            raise ValueError(f"NumPy has no elements like those of {name}")

        def dim(axis):
            if raw.dims[axis] >= 0:
                return raw.dims[axis]
            return self._symbols[raw.symbols[axis]] if raw.symbols[axis] >= 0 else None

        return Port(name, dtype, tuple(dim(axis) for axis in range(raw.ndim)))

    @property
    def name(self):
        """The prefix of its symbols."""
        return self._raw.name.decode()

    @property
    def target(self):
        """What it was compiled for, as `target` takes it."""
        return self._raw.target.decode()

    @property
    def code_bytes(self):
        """Bytes of machine code."""
        return self._raw.code_bytes

    @property
    def weight_bytes(self):
        """Bytes of weights."""
        return self._raw.weight_bytes

    def __repr__(self):
        ports = ", ".join(f"{port.name}: {port.dtype}{list(port.dims)}" for port in self.inputs)
        return f"<onnxc.Model {self.name}({ports}) for {self.target}>"

    def run(self, *arguments, **named):
        """Runs the model on inputs by position or name: one output is an array, several are a dict by name."""
        if len(arguments) > len(self.inputs):
            raise TypeError(f"{self.name} has {len(self.inputs)} inputs, not {len(arguments)}")
        given = {port.name: array for port, array in zip(self.inputs, arguments)}
        for name, array in named.items():
            if name in given:
                raise TypeError(f"input {name} is given twice")
            given[name] = array
        return self.run_dict(given)

    def run_dict(self, inputs):
        """As `run`, for inputs whose names are no Python identifiers."""
        unknown = inputs.keys() - {port.name for port in self.inputs}
        missing = [port.name for port in self.inputs if port.name not in inputs]
        if unknown or missing:
            raise TypeError(f"{self.name} takes {[p.name for p in self.inputs]}; missing {missing}, not known {sorted(unknown)}")
        arrays = [_borrowed(inputs[port.name], port) for port in self.inputs]
        outputs = self._execute(arrays)
        if len(outputs) == 1:
            return outputs[0]
        return {port.name: array for port, array in zip(self.outputs, outputs)}

    def _execute(self, arrays):
        raw, fault = self._raw, abi.Fault()
        values_in = (abi.Value * max(1, len(arrays)))()
        for value, array, port in zip(values_in, arrays, _each(raw.inputs)):
            _fill(value, port, array)
        arena = getattr(self._local, "arena", None)
        call = abi.Call(struct_size=ctypes.sizeof(abi.Call), abi_version=abi.ABI_VERSION, max_workers=1)
        call.fault = ctypes.pointer(fault)
        if self._weights is not None:
            call.weights, call.weights_bytes = self._weights.ctypes.data, self._weights.nbytes
        heap = {}
        if raw.memory == abi.MEMORY_DATA:
            call.alloc, call.release = _heap(heap)
        needed = self._arena_bytes(arrays)
        if arena is None or arena.nbytes < needed:
            self._local.arena = arena = _aligned(needed)
        call.arena, call.arena_bytes = arena.ctypes.data, arena.nbytes
        results = [None] * len(self.outputs)
        if raw.memory != abi.MEMORY_DATA:
            results = [
                np.empty(port.dims, port.dtype) if all(isinstance(n, int) for n in port.dims) else None
                for port in self.outputs
            ]
        while True:
            values_out = (abi.Value * max(1, len(results)))()
            for value, result, port in zip(values_out, results, _each(raw.outputs)):
                _fill(value, port, result)
            fault.port = fault.axis = fault.step = fault.expected = fault.actual = -1
            status = raw.run(ctypes.addressof(values_in), ctypes.addressof(values_out), byref(call))
            if status == abi.MORE and raw.memory != abi.MEMORY_DATA and any(result is None for result in results):
                results = [
                    np.empty(value.dims[: value.tensor.ndim], port.dtype) for value, port in zip(values_out, self.outputs)
                ]
                continue
            if status != 0:
                raise Error(status, self._explain(status, fault))
            break
        if raw.memory == abi.MEMORY_DATA:
            for index, (value, port) in enumerate(zip(values_out, self.outputs)):
                shape = tuple(value.dims[: value.tensor.ndim])
                count = int(np.prod(shape, dtype=np.int64))
                results[index] = heap[value.tensor.data][: count * port.dtype.itemsize].view(port.dtype).reshape(shape)
        return results

    def _arena_bytes(self, arrays):
        raw = self._raw
        dims = (ctypes.c_int64 * max(1, raw.symbol_count))(*[raw.symbols[i].min for i in range(raw.symbol_count)])
        for array, port in zip(arrays, _each(raw.inputs)):
            for axis in range(min(array.ndim, port.ndim)):
                if port.dims[axis] < 0 and port.symbols[axis] >= 0:
                    dims[port.symbols[axis]] = array.shape[axis]
        bytes_ = c_size_t()
        # Where a size is wrong, the run says which.
        return bytes_.value if raw.plan(ctypes.addressof(dims), 1, byref(bytes_)) == 0 else 0

    def _explain(self, status, fault):
        text = self._raw.status(status).decode()
        if status in abi.GPU_FAILURES and self._message is not None:
            text = f"{text}: {self._message()}"
        ports, word = (self.outputs, "output") if fault.output else (self.inputs, "input")
        if 0 <= fault.port < len(ports):
            axis = f", axis {fault.axis}" if fault.axis >= 0 else ""
            text = f"{word} {ports[fault.port].name}{axis}: {text}"
        elif fault.step >= 0:
            text = f"{self._raw.steps[fault.step].decode()}: {text}"
        if fault.expected != -1 or fault.actual != -1:
            text += f" (expected {fault.expected}, got {fault.actual})"
        return text


def _each(ports):
    """The ports of a table, whose end the other sequence of a zip says."""
    return (ports[i] for i in itertools.count())


def _borrowed(given, port):
    """The input as an array over the same memory."""
    if isinstance(given, np.ndarray):
        array = given
    elif hasattr(given, "__dlpack__"):
        array = np.from_dlpack(given)
    else:
        array = np.asarray(given, dtype=port.dtype)
    if array.dtype != port.dtype:
        raise TypeError(f"input {port.name} is {port.dtype}, not {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError(f"input {port.name} is not contiguous: numpy.ascontiguousarray copies it")
    return array


def _fill(value, port, array):
    tensor = value.tensor
    tensor.device_type, tensor.dtype = abi.CPU, port.dtype
    tensor.shape = ctypes.addressof(value) + abi.Value.dims.offset
    value.kind = abi.KIND_TENSOR
    if array is not None:
        tensor.data, tensor.ndim, value.capacity_bytes = array.ctypes.data, array.ndim, array.nbytes
        value.dims[: array.ndim] = array.shape


def _aligned(count):
    """Bytes of memory, at least one, that begin at a multiple of 64."""
    count = max(count, 1)
    memory = np.empty(count + abi.ALIGN, np.uint8)
    skip = -memory.ctypes.data % abi.ALIGN
    return memory[skip : skip + count]


def _heap(blocks):
    """Functions that allocate for a run; `blocks` has what is not released, by address."""

    def alloc(_user, count, _align):
        try:
            block = _aligned(count)
        except MemoryError:
            return None
        blocks[block.ctypes.data] = block
        return block.ctypes.data

    def release(_user, pointer, _count):
        del blocks[pointer]

    return abi.Alloc(alloc), abi.Release(release)
