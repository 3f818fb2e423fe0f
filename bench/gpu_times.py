"""The table of `gpu.py`: matrix products, passes over memory, and two models, each checked before it is timed."""
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gpu_device import Failed, Model, compile_model

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TYPES = {"f32": TensorProto.FLOAT, "tf32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# What a result may be off, relative to the greatest element, and to the reference's root mean square for models.
ROUNDING = {"f32": 1e-4, "tf32": 5e-3, "f16": 5e-3, "bf16": 3e-2}
MODEL_ROUNDING = {"f16": 2e-2, "bf16": 8e-2}
OPTIONS = {"tf32": ["--precision", "tf32"]}


def to_bits(array, kind):
    """Floats as elements of a type; of bfloat16 the bits, rounded to nearest even."""
    if kind == "f16":
        return array.astype(np.float16)
    if kind == "bf16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return array.astype(np.float32)


def from_bits(array, kind):
    if kind == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def retyped(model, kind):
    """The model with another type in the place of float."""
    kind_number = TYPES[kind]

    def tensor(t):
        if t.data_type == TensorProto.FLOAT:
            bits = to_bits(np.clip(numpy_helper.to_array(t), -6e4, 6e4), kind)
            t.CopyFrom(TensorProto(name=t.name, dims=t.dims, data_type=kind_number, raw_data=bits.tobytes()))

    def graph(g):
        for t in g.initializer:
            tensor(t)
        del g.value_info[:]
        for port in [*g.input, *g.output]:
            if port.type.tensor_type.elem_type == TensorProto.FLOAT:
                port.type.tensor_type.elem_type = kind_number
        for node in g.node:
            for a in node.attribute:
                if a.type == a.TENSOR:
                    tensor(a.t)
                elif a.type == a.GRAPH:
                    graph(a.g)
                elif node.op_type == "Cast" and a.name == "to" and a.i == TensorProto.FLOAT:
                    a.i = kind_number

    graph(model.graph)
    return model


def one_node(operator, shapes, kind, **attributes):
    """A model of one operator, whose output has the first input's shape."""
    names = [f"x{i}" for i in range(len(shapes))]
    ports = [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, shape in zip(names, shapes)]
    out = helper.make_tensor_value_info("y", TYPES[kind], shapes[0])
    graph = helper.make_graph([helper.make_node(operator, names, ["y"], **attributes)], "one", ports, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


class Bench:
    def __init__(self, args, device, say):
        self.args, self.device, self.say = args, device, say
        self.right, self.broken, self.built = True, False, 0
        try:
            import gpu_torch

            self.torch = None if args.stand_in else gpu_torch
        except ImportError:
            self.torch = None
        if self.torch is None and not args.stand_in:
            say("PyTorch is not there: the table has no columns of cuBLAS, eager and torch.compile")

    def build(self, model, arrays, target, options=()):
        # A name of its own for each library: the process keeps all that it has opened.
        self.built += 1
        path, library, header = (os.path.join(self.args.out, f"timed{self.built}.{end}") for end in ("onnx", "so", "h"))
        onnx.save(model, path)
        try:
            compile_model(self.args.onnxc, path, library, target, options)
            return Model(self.device, library, arrays)
        finally:
            for file in (path, library, header):
                if os.path.exists(file):
                    os.unlink(file)

    def compare(self, what, got, want, tolerance, rms=False):
        difference, scale = np.abs(got - want), np.abs(want)
        error = np.sqrt((difference**2).mean() / (scale**2).mean()) if rms else difference.max() / scale.max()
        if not error <= tolerance:
            self.right = False
            self.say(f"{what}: WRONG, off by {error:.2g}")
            return False
        self.say(f"{what}: right, off by {error:.2g}")
        return True

    def time(self, model):
        return "right" if self.args.stand_in else self.device.milliseconds(model.run, self.device.stream)

    def beside(self, make, *arguments):
        """The time of what PyTorch does."""
        if self.torch is None:
            return None
        try:
            return self.device.milliseconds(getattr(self.torch, make)(*arguments))
        except Exception as error:
            self.say(f"{make} {arguments}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            return None

    def measured(self, what, model, arrays, target, options, verify):
        """A model's time where it compiles and `verify` finds its outputs right, or a word in its place."""
        if self.broken:
            return "not run"
        try:
            built = self.build(model, arrays, target, options)
        except Failed as failure:
            self.say(f"{what}: {failure}")
            return "not compiled"
        try:
            answer = self.time(built) if verify(built.outputs()) else "wrong"
            built.close()
            return answer
        except Failed as failure:
            # A device's error stays for the process.
            self.right, self.broken = False, True
            self.say(f"{what}: {failure}")
            return "failed"


def cell(value, form="{:.3f}"):
    return value if isinstance(value, str) else "-" if value is None else form.format(value)


def share(reference, time):
    """How many times as fast as the reference."""
    known = isinstance(time, float) and isinstance(reference, float)
    return f"{reference / time:.2f}" if known else "-"


def table(args, device, targets, say):
    """The lines of the table, and whether all that was timed was right."""
    bench = Bench(args, device, say)
    lines = products(bench, targets) + [""] + passes(bench, targets[0]) + [""] + models(bench, targets[-1])
    return lines, bench.right


def products(bench, targets):
    lines = ["| product | target | onnxc TFLOP/s | cuBLAS TFLOP/s | share |", "|---|---|---|---|---|"]
    sizes = (128,) if bench.args.stand_in else (1024, 2048, 4096, 8192)
    for kind in ("bf16", "f16", "tf32", "f32"):
        for size in sizes:
            random = np.random.default_rng(size)
            a, b = (to_bits(random.standard_normal((size, size), np.float32), kind) for _ in range(2))
            rows = [0, size // 2 + 1, size - 1]
            want = from_bits(a[rows], kind) @ from_bits(b, kind)
            theirs = bench.beside("product", kind, size)
            for target in targets:
                what = f"{kind} {size} {target}"
                verify = lambda outputs: bench.compare(what, from_bits(outputs[0][rows], kind), want, ROUNDING[kind])
                model = one_node("MatMul", [[size, size], [size, size]], kind)
                time = bench.measured(what, model, [a, b], target, OPTIONS.get(kind, []), verify)
                rate = lambda ms: 2 * size**3 / ms / 1e9 if isinstance(ms, float) else ms
                cells = [f"{kind} {size}", target, cell(rate(time), "{:.1f}"), cell(rate(theirs), "{:.1f}"), share(theirs, time)]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def passes(bench, target):
    """Operators that read and write their tensor once, beside a copy of it on the device."""
    lines = ["| pass over memory | onnxc GB/s | copy GB/s | share |", "|---|---|---|---|"]
    shape = (16, 96) if bench.args.stand_in else (8192, 8192)
    for kind in ("f32", "f16"):
        x = np.random.default_rng(1).standard_normal(shape, np.float32)
        elements, moved = to_bits(x, kind), 2 * to_bits(x, kind).nbytes
        copy = None if bench.args.stand_in else copied(bench.device, moved // 2)
        scale, shift = (to_bits(np.full(shape[1:], value, np.float32), kind) for value in (1.5, 0.25))
        given = from_bits(elements, kind)
        centred = given - given.mean(1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * 1.5 + 0.25
        powers = np.exp(given - given.max(1, keepdims=True))
        cases = [
            ("LayerNormalization", [elements, scale, shift], normal, {"axis": -1}),
            ("Softmax", [elements], powers / powers.sum(1, keepdims=True), {"axis": -1}),
        ]
        for operator, arrays, want, attributes in cases:
            what = f"{operator} {kind} {shape[0]}x{shape[1]}"
            model = one_node(operator, [list(a.shape) for a in arrays], kind, **attributes)
            verify = lambda outputs: bench.compare(what, from_bits(outputs[0], kind), want, ROUNDING[kind])
            time = bench.measured(what, model, arrays, target, [], verify)
            rate = lambda ms: moved / ms / 1e6 if isinstance(ms, float) else ms
            lines.append(f"| {what} | {cell(rate(time), '{:.0f}')} | {cell(rate(copy), '{:.0f}')} | {share(copy, time)} |")
    return lines


def copied(device, count):
    """The time of a copy of so many bytes from one place on the device to another."""
    import ctypes

    places = [ctypes.c_uint64(device.allocate(count)) for _ in range(2)]
    stream = ctypes.c_void_p(device.stream)
    work = lambda: device.call("cuMemcpyDtoDAsync_v2", *places, ctypes.c_size_t(count), stream)
    time = device.milliseconds(work, device.stream)
    for place in places:
        device.free(place.value)
    return time


def in_batch(array, batch):
    """The array as the first of a batch, whose others it makes up too."""
    return np.ascontiguousarray(np.repeat(array, batch, 0))


def models(bench, target):
    lines = ["| model | type | batch | onnxc ms | eager ms | torch.compile ms | times torch.compile |", "|---|---|---|---|---|---|---|"]
    names, batches = (["digits"], (1, 2)) if bench.args.stand_in else (["resnet50", "bert_base_dyn"], (1, 32))
    for name in names:
        model, inputs, want = reference(bench.args, name)
        for kind in ("f16", "bf16"):
            for batch in batches:
                what = f"{name} {kind} batch {batch}"
                typed = retyped(onnx.ModelProto.FromString(model.SerializeToString()), kind)
                dims = typed.graph.input[0].type.tensor_type.shape.dim
                options = []
                if dims[0].dim_param:
                    others = {"batch": batch, "seq": 128}
                    options = [word for d in dims if d.dim_param for word in ("--dim", f"{d.dim_param}={others[d.dim_param]}")]
                else:
                    for port in [*typed.graph.input, *typed.graph.output]:
                        port.type.tensor_type.shape.dim[0].dim_value = batch
                arrays = [in_batch(x if x.dtype == np.int64 else to_bits(x, kind), batch) for x in inputs]
                ok = lambda outputs: bench.compare(what, from_bits(outputs[0], kind), in_batch(want, batch), MODEL_ROUNDING[kind], True)
                time = bench.measured(what, typed, arrays, target, options, ok)
                if isinstance(time, str) and time == "not compiled":
                    bench.right = False
                theirs = [bench.beside(how, name, kind, batch) for how in ("eager", "compiled")]
                cells = [name, kind, str(batch), cell(time), *map(cell, theirs), share(theirs[1], time)]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def reference(args, name):
    """A model, one set of inputs, and ONNX Runtime's answer on a processor for its first output."""
    if name != "digits":
        folder = os.path.join(args.zoo, name)
        model, tests = onnx.load(os.path.join(folder, "model.onnx")), os.path.join(folder, "test_data_set_0")
        if name != "bert_base_dyn":
            return model, [np.load(os.path.join(tests, "input_0.npy"))], np.load(os.path.join(tests, "output_0.npy"))
        # At the length that is timed.
        words = np.random.default_rng(3).integers(0, 30522, (1, 128))
        return model, [words, np.ones_like(words)], answer(os.path.join(folder, "model.onnx"), [words, np.ones_like(words)])
    path = os.path.join(ROOT, "examples/embed-rust/digits.onnx")
    images = np.random.default_rng(3).integers(0, 17, (1, 1, 8, 8)).astype(np.float32)
    return onnx.load(path), [images], answer(path, [images])


def answer(path, arrays):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {port.name: array for port, array in zip(session.get_inputs(), arrays)})[0]
