#!/usr/bin/env python3
"""Small models of kinds that the ONNX suite lacks, with ONNX Runtime's answers.

    python generate.py OUT_DIR

Writes OUT_DIR/NAME/model.onnx and OUT_DIR/NAME/test_data_set_I/{input,output}_J.pb, the layout of the ONNX backend tests.
The same seeds give the same bytes everywhere.
"""
import os, sys, zlib
import numpy as np, onnx
from onnx import TensorProto as T, helper as h, numpy_helper as nh
import onnxruntime as ort

F, I = np.float32, np.int64
N = h.make_node
OUT = ""

def vi(name, dtype=T.FLOAT, shape=None): return h.make_tensor_value_info(name, dtype, shape)
def const(name, values, dtype=I): return nh.from_array(np.array(values, dtype), name)
def graph(name, nodes, outputs, inits=()): return h.make_graph(nodes, name, [], outputs, list(inits))

def random(name, *shape, scale=1.0):
    return (np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape) * scale).astype(F)

def save(name, nodes, inputs, outputs, runs, inits=(), opset=17):
    model = h.make_model(h.make_graph(nodes, name, inputs, outputs, list(inits)), ir_version=9,
                         opset_imports=[h.make_opsetid("", opset)])
    folder = os.path.join(OUT, name); os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.onnx"); onnx.save(model, path)
    options = ort.SessionOptions(); options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for k, feeds in enumerate(runs):
        data = os.path.join(folder, f"test_data_set_{k}"); os.makedirs(data, exist_ok=True)
        def write(kind, i, name, value):
            with open(os.path.join(data, f"{kind}_{i}.pb"), "wb") as file:
                file.write(nh.from_array(np.asarray(value), name).SerializeToString())
        feeds = {port.name: value for port, value in zip(inputs, feeds)}
        for i, port in enumerate(inputs): write("input", i, port.name, feeds[port.name])
        for i, (port, value) in enumerate(zip(outputs, session.run(None, feeds))): write("output", i, port.name, value)

def size_is_one(tag, x, axis):
    """Nodes that compute whether an axis has the extent 1, as exporters write it before a squeeze."""
    return [N("Shape", [x], [f"{tag}_shape"]), N("Gather", [f"{tag}_shape", f"axis{axis}"], [f"{tag}_size"]),
            N("Equal", [f"{tag}_size", "one"], [f"{tag}_is_one"])]

def maybe_squeeze(tag, x, y, axis):
    """`If` the axis has one element, without it, else as it is."""
    then = graph(f"{tag}_then", [N("Squeeze", [x, f"axes{axis}"], [f"{tag}_a"])], [vi(f"{tag}_a")])
    other = graph(f"{tag}_else", [N("Identity", [x], [f"{tag}_b"])], [vi(f"{tag}_b")])
    return size_is_one(tag, x, axis) + [N("If", [f"{tag}_is_one"], [y], then_branch=then, else_branch=other)]

SHAPES = [const("one", 1), const("zero", 0), const("flat", [-1])] + [const(f"axis{a}", a) for a in range(3)] + \
    [const(f"axes{a}", [a]) for a in range(3)]

def branches():
    x = vi("x", shape=["a", "b"])
    runs = [[random("x0", 3, 1)], [random("x1", 3, 4)], [random("x2", 1, 1)]]
    save("if_ranks", maybe_squeeze("s", "x", "y", 1) + [N("Exp", ["y"], ["e"]), N("Reshape", ["e", "flat"], ["z"])],
         [x], [vi("z", shape=[None])], runs, SHAPES)
    # Nothing after the branches brings the ranks together but the rank itself.
    save("if_ranks_seen", maybe_squeeze("s", "x", "y", 1) +
         [N("Shape", ["y"], ["t"]), N("Size", ["t"], ["r"]), N("ReduceSum", ["y"], ["z"], keepdims=0)],
         [x], [vi("r", T.INT64, []), vi("z", shape=[])], runs, SHAPES)
    # Only one rank fits what follows: the condition is tested.
    then = graph("o_then", [N("Reshape", ["x", "flat"], ["o_a"])], [vi("o_a")])
    other = graph("o_else", [N("Identity", ["x"], ["o_b"])], [vi("o_b")])
    save("if_one_rank_fits", [N("If", ["c"], ["y"], then_branch=then, else_branch=other),
                              N("Concat", ["y", "v"], ["z"], axis=0)],
         [vi("c", T.BOOL, []), x], [vi("z", shape=[None])], [[np.array(True), r[0]] for r in runs],
         SHAPES + [const("v", [1.0, 2.0], F)])
    save("if_twice", maybe_squeeze("s", "x3", "y", 2) + [N("Neg", ["y"], ["n"])] + maybe_squeeze("t", "n", "z", 1) +
         [N("ReduceMax", ["z"], ["m"], keepdims=0), N("Reshape", ["z", "flat"], ["w"])],
         [vi("x3", shape=["a", "b", "c"])], [vi("w", shape=[None]), vi("m", shape=[])],
         [[random(f"t{i}", *s)] for i, s in enumerate([(2, 1, 1), (2, 3, 1), (2, 1, 3), (2, 3, 4)])], SHAPES)
    # The inner branches differ where their graph ends: what follows the outer one goes into the inner ones.
    inner = maybe_squeeze("s", "x", "i", 1)
    then = graph("n_then", inner, [vi("i")])
    other = graph("n_else", [N("Unsqueeze", ["x", "axes0"], ["u"])], [vi("u")])
    save("if_nested", [N("If", ["c"], ["y"], then_branch=then, else_branch=other), N("Relu", ["y"], ["p"]),
                       N("Size", ["p"], ["k"]), N("Reshape", ["p", "flat"], ["q"]), N("Mul", ["q", "w"], ["z"])],
         [x, vi("c", T.BOOL, []), vi("w", shape=[1])], [vi("z", shape=[None]), vi("k", T.INT64, [])],
         [[r[0], np.array(c), random("w", 1)] for r in runs for c in (True, False)], SHAPES)
    body = h.make_graph(maybe_squeeze("s", "x", "y", 1) + [N("ReduceSum", ["y"], ["sum"], keepdims=0),
                        N("Add", ["acc", "sum"], ["acc2"]), N("Less", ["acc2", "limit"], ["go"])],
                        "body", [vi("i", T.INT64, []), vi("cond", T.BOOL, []), vi("acc", shape=[])],
                        [vi("go", T.BOOL, []), vi("acc2", shape=[])])
    save("if_in_loop", [N("Loop", ["n", "", "start"], ["z"], body=body)], [x, vi("n", T.INT64, [])], [vi("z", shape=[])],
         [[np.abs(r[0]), np.array(5, I)] for r in runs], SHAPES + [const("start", 0.0, F), const("limit", 9.0, F)])

def voice_branch(rate, window, hop, hidden):
    """One sampling rate: an STFT as a convolution, an encoder, an LSTM, a decoder."""
    p = f"sr{rate}_"
    bins = window // 2 + 1
    t = np.arange(window); k = np.arange(bins)[:, None]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * t / window)
    basis = np.concatenate([np.cos(2 * np.pi * k * t / window), -np.sin(2 * np.pi * k * t / window)]) * hann
    inits = [const(p + "basis", basis[:, None, :], F)]
    w = lambda name, *shape: inits.append(nh.from_array(random(p + name, *shape, scale=(2.0 / np.prod(shape[1:])) ** 0.5), p + name)) or p + name
    c = lambda name, values, dtype=I: inits.append(const(p + name, values, dtype)) or p + name
    v = lambda name: p + name
    nodes = maybe_squeeze(p + "in", "input", v("x"), 0) + [
        # Whatever its rank, the signal becomes [batch, 1, samples].
        N("Shape", ["input"], [v("shape")]), N("Slice", [v("shape"), c("from", [1]), c("to", [2])], [v("samples")]),
        N("Concat", [c("rows_of", [-1, 1]), v("samples")], [v("as_rows")], axis=0),
        N("Reshape", [v("x"), v("as_rows")], [v("rows")]),
        N("Pad", [v("rows"), c("pads", [0, 0, 0, 0, 0, window // 4])], [v("padded")], mode="reflect"),
        N("Conv", [v("padded"), v("basis")], [v("stft")], strides=[hop]),
        N("Slice", [v("stft"), c("s0", [0]), c("s1", [bins]), c("ax", [1])], [v("re")]),
        N("Slice", [v("stft"), v("s1"), c("s2", [2 * bins]), v("ax")], [v("im")]),
        N("Mul", [v("re"), v("re")], [v("re2")]), N("Mul", [v("im"), v("im")], [v("im2")]),
        N("Add", [v("re2"), v("im2")], [v("power")]), N("Sqrt", [v("power")], [v("mag")])]
    last = v("mag")
    channels = bins
    for i, (out, stride) in enumerate([(32, 1), (16, 2), (16, 2), (hidden, 1)]):
        nodes += [N("Conv", [last, w(f"w{i}", out, channels, 3), w(f"b{i}", out)], [v(f"c{i}")], strides=[stride], pads=[1, 1]),
                  N("Relu", [v(f"c{i}")], [v(f"r{i}")])]
        last, channels = v(f"r{i}"), out
    nodes += [N("Transpose", [last], [v("seq")], perm=[2, 0, 1]),
              N("Split", ["state", c("halves", [1, 1])], [v("h0"), v("c0s")], axis=0),
              N("LSTM", [v("seq"), w("lw", 1, 4 * hidden, hidden), w("lr", 1, 4 * hidden, hidden), w("lb", 1, 8 * hidden), "",
                         v("h0"), v("c0s")], [v("y"), v("hn"), v("cn")], hidden_size=hidden),
              N("Concat", [v("hn"), v("cn")], [v("state_out")], axis=0),
              N("Squeeze", [v("y"), c("dir", [1])], [v("ys")]),
              N("Transpose", [v("ys")], [v("yt")], perm=[1, 2, 0]), N("Relu", [v("yt")], [v("yr")]),
              N("Conv", [v("yr"), w("dw", 1, hidden, 1), w("db", 1)], [v("d")]), N("Sigmoid", [v("d")], [v("probability")])]
    # One step of time is squeezed away, several are averaged: two ranks.
    then = graph(p + "t", [N("Squeeze", [v("probability"), c("last", [2])], [p + "one"])], [vi(p + "one")])
    other = graph(p + "e", [N("ReduceMean", [v("probability")], [p + "mean"], axes=[2], keepdims=1)], [vi(p + "mean")])
    nodes += [N("Shape", [v("probability")], [v("ps")]), N("Gather", [v("ps"), "axis2"], [v("steps")]),
              N("Equal", [v("steps"), "one"], [v("single")]),
              N("If", [v("single")], [v("out")], then_branch=then, else_branch=other)]
    return graph(f"rate{rate}", nodes, [vi(v("out")), vi(v("state_out"))], inits)

def voice():
    hidden = 24
    nodes = [N("Equal", ["sr", "rate"], ["wide"]),
             N("If", ["wide"], ["probability", "next"], then_branch=voice_branch(16000, 64, 32, hidden),
               else_branch=voice_branch(8000, 32, 16, hidden)),
             N("Reshape", ["probability", "column"], ["output"])]
    runs = []
    for batch, rate, samples in [(1, 16000, 384), (1, 8000, 192), (3, 16000, 64), (4, 8000, 200)]:
        runs.append([random(f"voice{batch}{rate}", batch, samples), random(f"state{batch}", 2, batch, hidden, scale=0.3),
                     np.array(rate, I)])
    inits = SHAPES + [const("rate", 16000), const("column", [-1, 1])]
    ports = [vi("input", shape=["batch", "samples"]), vi("state", shape=[2, "batch", hidden]), vi("sr", T.INT64, [])]
    save("voice_activity", nodes, ports, [vi("output", shape=[None, 1]), vi("next", shape=[2, "batch", hidden])], runs, inits)

def integer_products():
    """Products and convolutions of 8-bit integers whose every step is exact."""
    def weights(name, *shape):
        return nh.from_array(np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).integers(-128, 128, shape).astype(np.int8), name)
    def bytes_of(name, *shape): return (random(name, *shape, scale=60) + 120).clip(0, 255).astype(np.uint8)
    inits = [const("none", 0, F), const("most", 255, F)]
    nodes, last = [], "x"
    # A picture, products of pixels, a filter with margins, taps that lie apart.
    for i, (channels, columns, kernel, zero, shift, options) in enumerate([
            (3, 64, 7, 128, 9, dict(strides=[2, 2], pads=[3] * 4)), (64, 112, 1, 3, 9, {}), (112, 80, 3, 0, 11, dict(pads=[1] * 4)),
            (80, 80, 3, 100, 8, dict(group=80, pads=[1] * 4)), (80, 48, 3, 9, 11, dict(dilations=[2, 2], pads=[2] * 4))]):
        inits += [weights(f"w{i}", columns, 1 if "group" in options else channels, kernel, kernel),
                  const(f"z{i}", zero, np.uint8), const(f"f{i}", 2.0 ** -shift, F)]
        nodes += [N("ConvInteger", [last, f"w{i}", f"z{i}"], [f"s{i}"], **options), N("Cast", [f"s{i}"], [f"c{i}"], to=T.FLOAT),
                  N("Mul", [f"c{i}", f"f{i}"], [f"m{i}"]), N("Round", [f"m{i}"], [f"r{i}"]),
                  N("Clip", [f"r{i}", "none", "most"], [f"l{i}"]), N("Cast", [f"l{i}"], [f"q{i}"], to=T.UINT8)]
        last = f"q{i}"
    inits += [weights("w", 48, 72), weights("v", 48, 40), const("z", 7, np.uint8), const("rows", [-1, 48]), const("half", 128, np.int32)]
    nodes += [N("Transpose", [last], ["t"], perm=[0, 2, 3, 1]), N("Reshape", ["t", "rows"], ["u"]),
              N("MatMulInteger", ["u", "w", "z"], ["unsigned"]), N("Cast", ["u"], ["wide"], to=T.INT32),
              N("Sub", ["wide", "half"], ["shifted"]), N("Cast", ["shifted"], ["i"], to=T.INT8),
              N("MatMulInteger", ["i", "v"], ["signed"])]
    outputs = [vi("s4", T.INT32), vi("unsigned", T.INT32), vi("signed", T.INT32)]
    save("integer_products", nodes, [vi("x", T.UINT8, [1, 3, 35, 37])], outputs, [[bytes_of("picture", 1, 3, 35, 37)]], inits)

if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit(__doc__)
    OUT = sys.argv[1]
    branches(); voice(); integer_products()
    open(os.path.join(OUT, "stamp"), "w").write("\n")
