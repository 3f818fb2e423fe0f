#!/usr/bin/env python3
"""Attention for `tests/attention.rs`, with ONNX Runtime's answers.

    python attention.py OUT_DIR

Writes what generate.py writes: a model of f32 and one of f16, each with an attention of every way that operands lie in
memory, that scores are made, and that tiles are not full.
"""
import os, sys
import numpy as np
from onnx import helper as h, numpy_helper as nh
import generate
from generate import F, N, const, random, save, vi

def attention(name, dtype):
    t = h.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, ports, outs, inits, runs = [], [], [], [], [[], []]
    number = lambda tag, value: inits.append(nh.from_array(np.array(value, dtype), tag)) or tag
    shape = lambda tag, *sizes: inits.append(const(tag, sizes)) or tag

    def port(tag, shapes, dims, make=None):
        """An input with a value for each run."""
        ports.append(vi(tag, t, dims))
        for run, sizes in zip(runs, shapes):
            value = make(sizes) if make else random(f"{name}{tag}{len(run)}", *sizes)
            run.append(value.astype(dtype))
        return tag

    def product(tag, q, k, v, width, steps=()):
        """`softmax(steps(q k / sqrt(width))) v`; a step is an operator and its second operand."""
        nodes.append(N("MatMul", [q, k], [f"{tag}s"])); last = f"{tag}s"
        for i, (operator, *operands) in enumerate([("Mul", number(f"{tag}scale", width ** -0.5)), *steps]):
            nodes.append(N(operator, [last, *operands], [f"{tag}s{i}"])); last = f"{tag}s{i}"
        nodes.extend([N("Softmax", [last], [f"{tag}p"], axis=-1), N("MatMul", [f"{tag}p", v], [f"{tag}o"])])
        return f"{tag}o"

    def out(tag): outs.append(vi(tag, t))

    # Heads side by side in memory, lengths that only a run knows, and a mask of keys.
    sizes = [(2, 70, 100), (1, 9, 33)]
    split = shape("split", 0, 0, 3, 64)
    for x in "qkv":
        port(x, [(b, r if x == "q" else c, 192) for b, r, c in sizes], ["b", "rows" if x == "q" else "columns", 192])
        nodes += [N("Reshape", [x, split], [f"{x}r"]), N("Transpose", [f"{x}r"], [f"{x}t"], perm=[0, 2, 3, 1] if x == "k" else [0, 2, 1, 3])]
    hidden = lambda sizes: np.where(random(name + "hidden", *sizes) < -1, F(-1e4), F(0))
    port("hidden", [(b, 1, 1, c) for b, _, c in sizes], ["b", 1, 1, "columns"], hidden)
    nodes += [N("Transpose", [product("a", "qt", "kt", "vt", 64, [("Add", "hidden")])], ["at"], perm=[0, 2, 1, 3]),
              N("Reshape", ["at", shape("join", 0, 0, 192)], ["y0"])]
    out("y0")
    # The longest rows, and a causal mask of minus infinity; the result goes on.
    long = [(1, 2, 70, 128)] * 2
    for x in ("lq", "lk", "lv"): port(x, long, list(long[0]))
    nodes.append(N("Transpose", ["lk"], ["lkt"], perm=[0, 1, 3, 2]))
    causal = number("causal", np.where(np.arange(70)[None, :] <= np.arange(70)[:, None], 0, -np.inf))
    nodes.append(N("Tanh", [product("l", "lq", "lkt", "lv", 128, [("Add", causal)])], ["y1"]))
    out("y1")
    # Lengths that fill no instruction, keys whose elements lie apart, a bias for every score and a cap.
    odd = {"oq": (2, 17, 20), "ok": (2, 20, 200), "ov": (2, 200, 7), "bias": (1, 17, 200)}
    for x, sizes in odd.items(): port(x, [sizes] * 2, list(sizes))
    steps = [("Div", number("cap", 3)), ("Tanh",), ("Mul", "cap"), ("Add", "bias")]
    nodes.append(N("Identity", [product("o", "oq", "ok", "ov", 20, steps)], ["y2"]))
    out("y2")
    # Six heads that share keys by threes, each of whose queries sees the keys before it, and some more.
    for x, heads, rows in [("gq", 6, 40), ("gk", 2, 90), ("gv", 2, 90)]: port(x, [(2, heads, rows, 32)] * 2, [2, heads, rows, 32])
    nodes.append(N("Attention", ["gq", "gk", "gv", number("shown", np.triu(np.full((40, 90), -np.inf), 45))], ["y3"]))
    out("y3")
    save(name, nodes, ports, outs, runs, inits, opset=23)

if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit(__doc__)
    generate.OUT = sys.argv[1]
    attention("f32", F)
    attention("f16", np.float16)
    open(os.path.join(generate.OUT, "stamp"), "w").write("\n")
