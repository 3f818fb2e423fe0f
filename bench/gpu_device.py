"""A CUDA device through its driver, and compiled models on it: what `gpu.py` times with.

Nothing of CUDA is needed but libcuda.so.1. Models are shared libraries of `onnxc`, called through the C ABI with tensors
on the device and a stream.
"""
import ctypes
import os
import statistics
import subprocess
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "python/onnxc"))
import abi

CUDA = 2
NOT_THE_DEVICE = (-34, -35)


class Failed(Exception):
    """A compilation or a run that went wrong."""


class Device:
    """The first device, with a stream, and what times are taken with."""

    def __init__(self):
        self._lib = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        count, handle, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise Failed("the driver finds no device")
        self.call("cuDeviceGet", ctypes.byref(handle), 0)
        self.call("cuDriverGetVersion", ctypes.byref(version))
        name, numbers = ctypes.create_string_buffer(128), [ctypes.c_int(), ctypes.c_int()]
        self.call("cuDeviceGetName", name, 128, handle)
        for number, attribute in zip(numbers, (75, 76)):
            self.call("cuDeviceGetAttribute", ctypes.byref(number), attribute, handle)
        self.name, self.driver = name.value.decode(), f"{version.value // 1000}.{version.value % 1000 // 10}"
        self.capability = 10 * numbers[0].value + numbers[1].value
        context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self.call("cuCtxSetCurrent", context)
        self.call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = stream.value

    def call(self, name, *arguments):
        code = getattr(self._lib, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorString(code, ctypes.byref(text))
            raise Failed(f"{name}: {(text.value or b'unknown').decode()} ({code})")

    def allocate(self, count):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(count, 1)))
        return address.value

    def free(self, address):
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, array):
        address = self.allocate(array.nbytes)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
        return address

    def download(self, address, array):
        self.call("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))
        return array

    def synchronize(self, stream):
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def milliseconds(self, work, stream=None, batches=15):
        """The median time of `work`, which gives work to a stream, over batches of some milliseconds."""
        begin, end, took = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float()
        for event in (begin, end):
            self.call("cuEventCreate", ctypes.byref(event), 0)

        def batch(count):
            self.call("cuEventRecord", begin, ctypes.c_void_p(stream))
            for _ in range(count):
                work()
            self.call("cuEventRecord", end, ctypes.c_void_p(stream))
            self.call("cuEventSynchronize", end)
            self.call("cuEventElapsedTime", ctypes.byref(took), begin, end)
            return took.value / count

        for _ in range(3):
            once = batch(2)
        count = max(1, min(200, round(5 / max(once, 1e-3))))
        median = statistics.median(batch(count) for _ in range(batches))
        for event in (begin, end):
            self.call("cuEventDestroy_v2", event)
        return median


def compile_model(onnxc, path, library, target, options):
    """Compiles a model to a shared library."""
    command = [onnxc, path, "-o", library, "--target", target, "--name", "model", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Failed(done.stdout.strip().splitlines()[0][:160] if done.stdout.strip() else f"status {done.returncode}")
    return library


class Model:
    """A compiled model with its inputs on the device. `run` gives a run to the device's stream."""

    def __init__(self, device, library, arrays):
        try:
            self._device, self._library = device, ctypes.CDLL(library)
        except OSError as error:
            raise Failed(str(error)) from None
        self._raw = raw = abi.Descriptor.in_dll(self._library, "model")
        self._message = self._library.onnxc_cuda_message
        self._message.restype = ctypes.c_char_p
        self._inputs, self._outputs = (abi.Value * max(1, raw.input_count))(), (abi.Value * max(1, raw.output_count))()
        if raw.input_count != len(arrays) or raw.symbol_count or raw.memory == abi.MEMORY_DATA:
            raise Failed("inputs or sizes are not those of this model")
        self._held = []
        for value, port, array in zip(self._inputs, (raw.inputs[i] for i in range(len(arrays))), arrays):
            self._place(value, port, array.shape, np.ascontiguousarray(array))
        self.shapes = []
        for i, value in enumerate(self._outputs[: raw.output_count]):
            port = raw.outputs[i]
            shape = tuple(port.dims[: port.ndim])
            if min(shape, default=0) < 0:
                raise Failed("an output's size is not known")
            self.shapes.append((shape, abi.NUMPY_TYPES[port.onnx_dtype]))
            self._place(value, port, shape, np.zeros(shape, abi.NUMPY_TYPES[port.onnx_dtype]))
        self._arena = np.empty(raw.arena_bytes + 64, np.uint8)
        self._call = abi.Call(struct_size=ctypes.sizeof(abi.Call), abi_version=abi.ABI_VERSION, max_workers=1)
        self._call.arena = (self._arena.ctypes.data + 63) // 64 * 64
        self._call.arena_bytes = raw.arena_bytes
        self._call.stream = device.stream

    def _place(self, value, port, shape, array):
        tensor, address = value.tensor, self._device.upload(array)
        self._held.append(address)
        tensor.data, tensor.device_type, tensor.dtype, tensor.ndim = address, CUDA, port.dtype, len(shape)
        tensor.shape = ctypes.addressof(value) + abi.Value.dims.offset
        value.kind, value.capacity_bytes = abi.KIND_TENSOR, array.nbytes
        value.dims[: len(shape)] = shape

    def run(self):
        raw = self._raw
        status = raw.run(ctypes.addressof(self._inputs), ctypes.addressof(self._outputs), ctypes.byref(self._call))
        if status:
            raise Failed(f"{raw.status(status).decode()}: {self._message().decode()}")

    def outputs(self):
        """The outputs after a run, as they lie: numbers of 16 bits that NumPy lacks are their bits."""
        self.run()
        self._device.synchronize(self._device.stream)
        values = zip(self.shapes, self._outputs)
        return [self._device.download(value.tensor.data, np.empty(shape, dtype)) for (shape, dtype), value in values]

    def close(self):
        self._device.synchronize(self._device.stream)
        for address in self._held:
            self._device.free(address)
        self._held = []
