"""The tables of `gpu.py`: matrix products, products of a few rows, attention, and passes over memory, each checked before it
is timed. The models are in `gpu_models.py`.
"""
import ctypes
import os

import numpy as np

import gpu_onnx
from gpu_device import Failed, Model, compile_model

# What a result may be off, relative to the greatest element.
ROUNDING = {"f32": 1e-4, "tf32": 5e-3, "f16": 5e-3, "bf16": 3e-2}
# A row's name, the type in memory, what the compiler is asked for, and the type that products are rounded to.
KINDS = [("bf16", "bf16", "bf16"), ("f16", "f16", "f16"), ("f32", "f32", "f32")]
ROUNDED = [(f"f32 --precision {kind}", "f32", kind) for kind in ("tf32", "bf16", "f16")]


def options(memory, rounded):
    return ["--precision", rounded] if memory != rounded else []


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


def normal(seed, shape, kind, scale=1.0):
    return to_bits(np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(scale), kind)


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
            say("PyTorch is not there: the tables have no columns of cuBLAS, eager and torch.compile")

    def build(self, model, arrays, target, wanted):
        # A name of its own for each library: the process keeps all that it has opened.
        self.built += 1
        path, library, header = (os.path.join(self.args.out, f"timed{self.built}.{end}") for end in ("onnx", "so", "h"))
        with open(path, "wb") as file:
            file.write(model)
        try:
            compile_model(self.args.onnxc, path, library, target, wanted)
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

    def measured(self, what, model, arrays, target, wanted, verify):
        """A model's time where it compiles and `verify` finds its outputs right, or a word in its place."""
        if self.broken:
            return "not run"
        try:
            built = self.build(model, arrays, target, wanted)
        except Failed as failure:
            self.right = False
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


def per_ms(amount, ms, unit):
    """How much of it in a time, where there is one."""
    return amount / ms / unit if isinstance(ms, float) else ms


def share(ours, reference):
    """How many times as much as the reference."""
    known = isinstance(ours, float) and isinstance(reference, float)
    return f"{ours / reference:.2f}" if known else "-"


def row(*cells):
    return f"| {' | '.join(cells)} |"


def heading(*cells):
    return [row(*cells), row(*["---"] * len(cells))]


def table(args, device, targets, say):
    """The lines of the tables, and whether all that was timed was right."""
    import gpu_models

    bench = Bench(args, device, say)
    parts = [products, few_rows, cut_products, attention, passes, gpu_models.models]
    lines = []
    for part in parts:
        lines += [*part(bench, targets), ""]
    return lines[:-1], bench.right


def products(bench, targets):
    """Square ones: operations in a second beside cuBLAS in the type that products are rounded to."""
    lines = heading("product", "target", "onnxc TFLOP/s", "cuBLAS TFLOP/s", "share")
    for name, memory, rounded in KINDS + ROUNDED:
        for size in (128,) if bench.args.stand_in else (1024, 2048, 4096, 8192):
            a, b = (normal(seed, (size, size), memory) for seed in (size, size + 1))
            rows = [0, size // 2 + 1, size - 1]
            want = from_bits(a[rows], memory) @ from_bits(b, memory)
            theirs = per_ms(2 * size**3, bench.beside("product", rounded, size, size, size), 1e9)
            ports = [gpu_onnx.port(x, memory, (size, size)) for x in "aby"]
            model = gpu_onnx.model([gpu_onnx.node("MatMul", "ab", "y")], ports[:2], ports[2:])
            for target in targets:
                what = f"{name} {size} {target}"
                verify = lambda out: bench.compare(what, from_bits(out[0][rows], memory), want, ROUNDING[rounded])
                ours = per_ms(2 * size**3, bench.measured(what, model, [a, b], target, options(memory, rounded), verify), 1e9)
                lines.append(row(f"{name} {size}", target, cell(ours, "{:.1f}"), cell(theirs, "{:.1f}"), share(ours, theirs)))
    return lines


def with_weights(rows, depth, columns, memory):
    """A product with constant weights: model, input, and the answer."""
    x, w = normal(depth, (rows, depth), memory), normal(columns, (depth, columns), memory, depth**-0.5)
    nodes, ports = [gpu_onnx.node("MatMul", "xw", "y")], [gpu_onnx.port(*p) for p in [("x", memory, x.shape), ("y", memory, (rows, columns))]]
    model = gpu_onnx.model(nodes, ports[:1], ports[1:], [gpu_onnx.constant("w", memory, w)])
    return model, x, from_bits(x, memory) @ from_bits(w, memory)


def few_rows(bench, targets):
    """Products as a decoder has them, whose time is that of reading the weights: beside a copy on the device."""
    lines = heading("product of a few rows", "onnxc GB/s", "copy GB/s", "share", "onnxc ms", "cuBLAS ms")
    shapes = [(4096, 4096), (4096, 14336), (14336, 4096), (4096, 32000)]
    cases = [(1, *shape) for shape in shapes] + [(rows, *shapes[1]) for rows in (4, 8)]
    cases = [(1, 96, 40), (8, 72, 24)] if bench.args.stand_in else cases
    for name, memory, rounded in [*KINDS, ROUNDED[1]]:
        for rows, depth, columns in cases:
            what = f"{name} {rows} x {depth} x {columns}"
            model, x, want = with_weights(rows, depth, columns, memory)
            verify = lambda out: bench.compare(what, from_bits(out[0], memory), want, ROUNDING[rounded])
            took = bench.measured(what, model, [x], targets[-1], options(memory, rounded), verify)
            # As they are stored.
            read = depth * columns * (4 if rounded == "f32" else 2)
            ours, copy = per_ms(read, took, 1e6), copied(bench, read)
            theirs = bench.beside("product", rounded, rows, depth, columns)
            lines.append(row(what, cell(ours, "{:.0f}"), cell(copy, "{:.0f}"), share(ours, copy), cell(took), cell(theirs)))
    return lines


def cut_products(bench, targets):
    """Few tiles and much depth: classifiers and narrow layers of small batches."""
    lines = heading("product of few tiles", "target", "onnxc ms", "cuBLAS ms", "times cuBLAS")
    cases = [(24, 1024, 72)] if bench.args.stand_in else [(32, 2048, 1000), (128, 3072, 768), (64, 4096, 4096)]
    for name, memory, rounded in [KINDS[0], KINDS[1], ROUNDED[0]]:
        for rows, depth, columns in cases:
            model, x, want = with_weights(rows, depth, columns, memory)
            theirs = bench.beside("product", rounded, rows, depth, columns)
            for target in targets:
                what = f"{name} {rows} x {depth} x {columns} {target}"
                verify = lambda out: bench.compare(what, from_bits(out[0], memory), want, ROUNDING[rounded])
                ours = bench.measured(what, model, [x], target, options(memory, rounded), verify)
                lines.append(row(f"{name} {rows} x {depth} x {columns}", target, cell(ours), cell(theirs), share(theirs, ours)))
    return lines


def attention(bench, targets):
    """`softmax(Q Kt / sqrt(d)) V`, beside PyTorch's fused one."""
    lines = heading("attention: batch x heads x queries x keys x width", "target", "onnxc TFLOP/s", "PyTorch TFLOP/s", "share")
    cases = [(1, 32, 2048, 2048, 128), (8, 16, 1024, 1024, 64), (1, 12, 128, 128, 64), (1, 32, 1, 4096, 128)]
    cases = [(1, 2, 24, 40, 16), (1, 2, 1, 40, 64)] if bench.args.stand_in else cases
    for name, memory, rounded in [*KINDS, ROUNDED[0], ROUNDED[1]]:
        for batch, heads, queries, keys, width in cases:
            shapes = [(batch, heads, n, width) for n in (queries, keys, keys)]
            q, k, v = (normal(seed, shape, memory) for seed, shape in enumerate(shapes))
            # One head, in some rows.
            rows = sorted({0, queries // 2, queries - 1})
            part = [from_bits(x[-1, -1], memory) for x in (q, k, v)]
            scores = part[0][rows] @ part[1].T * np.float32(width**-0.5)
            powers = np.exp(scores - scores.max(1, keepdims=True))
            want = powers / powers.sum(1, keepdims=True) @ part[2]
            nodes = [gpu_onnx.node("Transpose", "k", ["kt"], perm=[0, 1, 3, 2]), gpu_onnx.node("MatMul", ["q", "kt"], ["s"]),
                     gpu_onnx.node("Mul", ["s", "c"], ["t"]), gpu_onnx.node("Softmax", "t", "p", axis=-1),
                     gpu_onnx.node("MatMul", "pv", "y")]
            ports = [gpu_onnx.port(x, memory, shape) for x, shape in zip("qkvy", [*shapes, shapes[0]])]
            scale = gpu_onnx.constant("c", memory, to_bits(np.full((), width**-0.5, np.float32), memory))
            model = gpu_onnx.model(nodes, ports[:3], ports[3:], [scale])
            flops = 4 * batch * heads * queries * keys * width
            theirs = per_ms(flops, bench.beside("attention", rounded, *shapes[:2]), 1e9)
            for target in targets:
                what = f"attention {name} {batch}x{heads}x{queries}x{keys}x{width} {target}"
                verify = lambda out: bench.compare(what, from_bits(out[0][-1, -1, rows], memory), want, 2 * ROUNDING[rounded])
                ours = per_ms(flops, bench.measured(what, model, [q, k, v], target, options(memory, rounded), verify), 1e9)
                sizes = f"{name} {batch} x {heads} x {queries} x {keys} x {width}"
                lines.append(row(sizes, target, cell(ours, "{:.2f}"), cell(theirs, "{:.2f}"), share(ours, theirs)))
    return lines


def passes(bench, targets):
    """Operators that read and write their tensor once, beside a copy of it on the device."""
    lines = heading("pass over memory", "onnxc GB/s", "copy GB/s", "share")
    shapes = [(16, 96)] if bench.args.stand_in else [(8192, 8192), (65536, 768)]
    for kind in ("f32", "f16", "bf16"):
        for shape in shapes:
            elements = normal(1, shape, kind)
            moved = 2 * elements.nbytes
            copy = copied(bench, elements.nbytes)
            scale, shift = (to_bits(np.full(shape[1:], value, np.float32), kind) for value in (1.5, 0.25))
            given = from_bits(elements, kind)
            centred = given - given.mean(1, keepdims=True)
            spread = np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
            powers = np.exp(given - given.max(1, keepdims=True))
            cases = [
                ("LayerNormalization", [elements, scale, shift], centred / spread * 1.5 + 0.25, {"axis": -1}),
                ("Softmax", [elements], powers / powers.sum(1, keepdims=True), {"axis": -1}),
                ("Relu", [elements], np.maximum(given, 0), {}),
            ]
            for operator, arrays, want, attributes in cases:
                what = f"{operator} {kind} {shape[0]}x{shape[1]}"
                names = [f"x{i}" for i in range(len(arrays))]
                ports = [gpu_onnx.port(x, kind, array.shape) for x, array in zip([*names, "y"], [*arrays, elements])]
                model = gpu_onnx.model([gpu_onnx.node(operator, names, "y", **attributes)], ports[:-1], ports[-1:])
                verify = lambda out: bench.compare(what, from_bits(out[0], kind), want, ROUNDING[kind])
                ours = per_ms(moved, bench.measured(what, model, arrays, targets[0], [], verify), 1e6)
                lines.append(row(what, cell(ours, "{:.0f}"), cell(copy, "{:.0f}"), share(ours, copy)))
    return lines


def copied(bench, count):
    """What a copy of so many bytes on the device moves, read and written, in GB/s."""
    if bench.args.stand_in:
        return None
    device = bench.device
    places = [ctypes.c_uint64(device.allocate(count)) for _ in range(2)]
    stream = ctypes.c_void_p(device.stream)
    work = lambda: device.call("cuMemcpyDtoDAsync_v2", *places, ctypes.c_size_t(count), stream)
    time = device.milliseconds(work, device.stream)
    for place in places:
        device.free(place.value)
    return per_ms(2 * count, time, 1e6)
