#!/usr/bin/env python3
"""Matrix products and convolutions for `tests/products.rs`, with ONNX Runtime's answers.

    python products.py OUT_DIR

Writes what generate.py writes. Models of f16 round after each layer, in whatever order sums are made: they want tolerances.
"""
import os, sys
import numpy as np
from onnx import TensorProto as T, helper as h, numpy_helper as nh
import generate
from generate import F, N, random, save, vi

def products():
    """Odd sizes, which matrix instructions cover with tiles that are not full."""
    H = np.float16
    weight = lambda name, *shape, dtype=F: nh.from_array(random(name, *shape, scale=shape[0] ** -0.5).astype(dtype), name)
    # Weights, and what follows: a bias, an activation, a residual.
    x = vi("x", shape=["batch", 19, 37])
    nodes = [N("MatMul", ["x", "w"], ["y"]), N("Add", ["y", "b"], ["z"]), N("Tanh", ["z"], ["t"]),
             N("MatMul", ["t", "v"], ["u"]), N("Add", ["u", "x"], ["out"])]
    inits = [weight("w", 37, 75), nh.from_array(random("pb", 75), "b"), weight("v", 75, 37)]
    save("weights", nodes, [x], [vi("out")], [[random(f"px{n}", n, 19, 37)] for n in (1, 8)], inits)
    # Two activations, each with rows or columns first, in both types; chunks of 16, 8 and 4 bytes, and none.
    for dtype, name in [(F, "f32"), (H, "f16")]:
        t = h.np_dtype_to_tensor_dtype(np.dtype(dtype))
        feeds, nodes, ports, outs = [], [], [], []
        for i, (m, n, k) in enumerate([(33, 24, 40), (70, 38, 22), (17, 67, 35), (130, 132, 64), (9, 20, 24)]):
            for j, (left, right) in enumerate([("mk", "kn"), ("km", "nk")]):
                a, b, y = f"a{i}{j}", f"b{i}{j}", f"y{i}{j}"
                size = {"m": m, "n": n, "k": k}
                shapes = [[2, size[l[0]], size[l[1]]] for l in (left, right)]
                ports += [vi(v, t, ["batch", *s[1:]]) for v, s in zip((a, b), shapes)]
                feeds += [random(name + v, *s, scale=0.3).astype(dtype) for v, s in zip((a, b), shapes)]
                if j: nodes += [N("Transpose", [a], [a + "t"], perm=[0, 2, 1]), N("Transpose", [b], [b + "t"], perm=[0, 2, 1])]
                nodes.append(N("MatMul", [a + "t", b + "t"] if j else [a, b], [y])); outs.append(vi(y, t))
        save(name, nodes, ports, outs, [feeds])
    # Bytes of both signs; columns of weights one after the other.
    bytes_of = lambda name, lo, hi, dtype, *shape: np.clip(random(name, *shape, scale=hi / 2) + (lo + hi) / 2, lo, hi).astype(dtype)
    nodes = [N("MatMulInteger", ["a", "w"], ["y"]), N("MatMulInteger", ["a", "c"], ["z"])]
    inits = [nh.from_array(bytes_of("bw", -128, 127, np.int8, 67, 50), "w")]
    ports = [vi("a", T.UINT8, [21, 67]), vi("c", T.UINT8, [67, 9])]
    runs = [[bytes_of("ba", 0, 255, np.uint8, 21, 67), bytes_of("bc", 0, 255, np.uint8, 67, 9)]]
    save("bytes", nodes, ports, [vi("y", T.INT32), vi("z", T.INT32)], runs, inits)
    # Convolutions: few channels, odd ones, whole chunks of them; steps and distances.
    for dtype, name in [(F, "f32"), (H, "f16")]:
        t = h.np_dtype_to_tensor_dtype(np.dtype(dtype))
        w = lambda n, *shape: nh.from_array(random(name + n, *shape, scale=np.prod(shape[1:]) ** -0.5).astype(dtype), n)
        nodes = [N("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]), N("Relu", ["c0"], ["r0"]),
                 N("Conv", ["r0", "w1"], ["c1"], pads=[2, 2, 2, 2], dilations=[2, 2]), N("Add", ["c1", "r0"], ["s1"]),
                 N("Conv", ["s1", "w2"], ["y"])]
        inits = [w("w0", 16, 5, 3, 3), w("b0", 16), w("w1", 16, 16, 3, 3), w("w2", 21, 16, 1, 1)]
        ports = [vi("x", t, ["batch", 5, 23, 17])]
        runs = [[random(f"cx{n}", n, 5, 23, 17).astype(dtype)] for n in (1, 3)]
        save(f"conv_{name}", nodes, ports, [vi("y", t)], runs, inits)

def few_rows():
    """Products of a decoder that makes one word after the other: weights, and caches whose length only a run knows."""
    H = np.float16
    w = lambda n, *shape, dtype=F: nh.from_array(random("few" + n, *shape, scale=max(shape) ** -0.5).astype(dtype), n)
    x = lambda n, *shape, dtype=F: random("few" + n, *shape).astype(dtype)
    for dtype, name in [(F, "few_rows_f32"), (H, "few_rows_f16")]:
        t = h.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes, inits, ports, outs, feeds = [], [], [], [], []
        # Depths that fill vectors, and others; several steps, and less than one; a bias and an activation behind them.
        for i, (rows, k, n) in enumerate([(1, 1024, 96), (8, 300, 64), (3, 37, 75), (6, 20, 9), (2, 2050, 8)]):
            a, y = f"a{i}", f"y{i}"
            nodes += [N("MatMul", [a, f"w{i}"], [f"p{i}"]), N("Add", [f"p{i}", f"b{i}"], [f"s{i}"]), N("Tanh", [f"s{i}"], [y])]
            inits += [w(f"w{i}", k, n, dtype=dtype), w(f"b{i}", n, dtype=dtype)]
            ports.append(vi(a, t, [1, rows, k])); feeds.append(x(a, 1, rows, k, dtype=dtype)); outs.append(vi(y, t))
        nodes.append(N("Gemm", ["a5", "w5", "b5"], ["y5"], transB=1, alpha=0.5))
        inits += [w("w5", 50, 140, dtype=dtype), w("b5", 50, dtype=dtype)]
        ports.append(vi("a5", t, [4, 140])); feeds.append(x("a5", 4, 140, dtype=dtype)); outs.append(vi("y5", t))
        # Heads, of which two share keys and values; columns that end within a vector.
        ports += [vi("q", t, [2, 3, 2, 64]), vi("k", t, [2, 3, "s", 64]), vi("p", t, [2, 3, 2, "s"]), vi("v", t, [2, 3, "s", 70])]
        nodes += [N("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]), N("MatMul", ["q", "kt"], ["qk"]), N("MatMul", ["p", "v"], ["pv"])]
        outs += [vi("qk", t), vi("pv", t)]
        runs = [feeds + [x(f"q{s}", 2, 3, 2, 64, dtype=dtype), x(f"k{s}", 2, 3, s, 64, dtype=dtype) * dtype(0.1),
                         x(f"p{s}", 2, 3, 2, s, dtype=dtype), x(f"v{s}", 2, 3, s, 70, dtype=dtype) * dtype(0.1)] for s in (1, 43)]
        save(name, nodes, ports, outs, runs, inits)

def deep():
    """Products whose depth is cut into parts, is known only to a run, or belongs to a Gemm."""
    H = np.float16
    for dtype, name in [(F, "deep_f32"), (H, "deep_f16")]:
        t = h.np_dtype_to_tensor_dtype(np.dtype(dtype))
        w = lambda n, *shape: nh.from_array(random("deep" + n, *shape, scale=max(shape) ** -0.5).astype(dtype), n)
        x = lambda n, *shape: (random("deep" + n, *shape) * 0.5).astype(dtype)
        nodes = [N("MatMul", ["a", "w"], ["m"]), N("Add", ["m", "b"], ["s"]), N("Relu", ["s"], ["y"]),
                 N("Gemm", ["c", "v", "b"], ["z"], transA=1, transB=1, alpha=0.75, beta=0.5), N("MatMul", ["p", "q"], ["u"])]
        ports = [vi("a", t, [24, 1024]), vi("c", t, [40, 33]), vi("p", t, [2, 20, "batch"]), vi("q", t, [2, "batch", 24])]
        runs = [[x("a", 24, 1024), x("c", 40, 33), x(f"p{n}", 2, 20, n), x(f"q{n}", 2, n, 24)] for n in (1, 70)]
        save(name, nodes, ports, [vi(y, t) for y in "yzu"], runs, [w("w", 1024, 72), w("b", 72), w("v", 72, 40)])

def boxes():
    """Operands of 16 bits and bytes whose rows begin at multiples of 16 bytes, so that copies of whole boxes take them;
    sizes that are no multiples of a tile's."""
    H = np.float16
    t = T.FLOAT16
    x = lambda n, *shape: (random("box" + n, *shape) * 0.4).astype(H)
    weight = nh.from_array(x("w", 72, 136), "w")
    nodes = [N("MatMul", ["x", "w"], ["m"]), N("Relu", ["m"], ["y"]), N("MatMul", ["a", "b"], ["z"]),
             N("Transpose", ["c"], ["ct"], perm=[0, 2, 1]), N("Transpose", ["d"], ["dt"], perm=[0, 2, 1]),
             N("MatMul", ["ct", "dt"], ["u"]), N("MatMul", ["ct", "b"], ["v"]), N("MatMul", ["a", "dt"], ["o"])]
    shapes = {"x": [130, 72], "a": [130, 72], "b": [72, 136], "c": [72, 136], "d": [200, 72]}
    ports = [vi(n, t, ["batch", *shape]) for n, shape in shapes.items()]
    # `ct` and `b` have 136 rows and columns, `dt` 200 columns.
    outs = [vi(n, t) for n in ("y", "z", "u", "v", "o")]
    save("boxes", nodes, ports, outs, [[x(f"{n}{count}", count, *shape) for n, shape in shapes.items()] for count in (1, 2)], [weight])
    byte = lambda n, *shape: np.clip(random("box" + n, *shape) * 60, -128, 127).astype(np.int8)
    nodes = [N("Transpose", ["e"], ["et"], perm=[1, 0]), N("MatMulInteger", ["a", "et"], ["y"])]
    ports = [vi("a", T.INT8, [130, 208]), vi("e", T.INT8, [72, 208])]
    save("boxes_bytes", nodes, ports, [vi("y", T.INT32)], [[byte("ba", 130, 208), byte("be", 72, 208)]], [])

if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit(__doc__)
    generate.OUT = sys.argv[1]
    products()
    few_rows()
    deep()
    boxes()
    open(os.path.join(generate.OUT, "stamp"), "w").write("\n")
