"""Cases of com.microsoft's mixtures of experts, sparse attention, and products with sparse or packed matrices."""

import numpy as np
import onnxruntime
from generate import OPSET
from onnx import helper

RNG = np.random.default_rng(11)
f32 = np.float32
f16 = np.float16
i32 = np.int32
i64 = np.int64
U8 = np.uint8
HALF = dict(rtol=2e-2, atol=2e-2)


def floats(*shape):
    return RNG.standard_normal(shape).astype(f32)


def experts(add, count=4, tokens=5, width=8, inner=6):
    wide = lambda fused: 2 * inner if fused else inner

    def operands(fused=False, shape=None, bias=True, dtype=f32):
        weights = [floats(count, wide(fused), width), floats(count, wide(fused)) if bias else None,
                   floats(count, width, inner), floats(count, width) if bias else None]
        values = [floats(*(shape or (tokens, width))), floats(tokens, count), *weights]
        return [None if v is None else v.astype(dtype) for v in values]

    weights = {2, 3, 4, 5}
    add("MoE", "plain", operands(), const=weights)
    for name in ["relu", "gelu", "silu", "identity"]:
        add("MoE", name, operands(), const=weights, k=2, activation_type=name)
    add("MoE", "normalized", operands(), const=weights, k=3, normalize_routing_weights=1, activation_type="silu")
    add("MoE", "all_experts", operands(), const=weights, k=4)
    add("MoE", "no_bias", operands(bias=False)[:5], const=weights, k=2)
    add("MoE", "batch", operands(shape=(1, tokens, width)), const=weights, k=2)
    add("MoE", "swiglu", operands(True), const=weights, k=2, activation_type="swiglu", swiglu_fusion=1)
    add("MoE", "swiglu_limits", operands(True), const=weights, k=2, activation_type="swiglu", swiglu_fusion=1,
        activation_alpha=1.7, activation_beta=1.0, swiglu_limit=0.7, normalize_routing_weights=1)
    add("MoE", "weights_at_run_time", operands(), k=2)
    half = operands(dtype=f16)
    # The kernel of ONNX Runtime for f16 gives zeros where there is no bias, and too much where there is one.
    feeds = {f"x{i}": v.astype(f32) for i, v in enumerate(half)}
    y = session_of("MoE", list(feeds.values()), ["y0"], dict(k=2)).run(None, feeds)
    add("MoE", "half", half, const=weights, k=2, reference=[y[0].astype(f16)], **HALF)
    add("MoE", "tokens_at_run_time", operands(), const=weights, k=2, symbols={0: ["t", width], 1: ["t", count]})


def pack(q, bits):
    """The numbers of the last axis in bytes, the lowest first, with zeros up to a whole byte."""
    each = 8 // bits
    q = np.concatenate([q, np.zeros(q.shape[:-1] + (-q.shape[-1] % each,), q.dtype)], -1)
    q = q.reshape(*q.shape[:-1], -1, each)
    return sum(q[..., i] << (bits * i) for i in range(each)).astype(U8)


def packed_experts(add, count=4, tokens=5, width=32, inner=64):
    def operands(bits=(4, 4), block=None, zero=False, fused=False, given=False):
        inputs = [floats(tokens, width), floats(tokens, count)]
        zeros = []
        for b, n, k in [(bits[0], 2 * inner if fused else inner, width), (bits[1], width, inner)]:
            rows = (count, n) if block is None else (count, n, k // block)
            inputs += [pack(RNG.integers(0, 1 << b, (count, n, k)), b), (RNG.random(rows) * 0.2 / (1 << b)).astype(f32), floats(count, n)]
            zeros.append(pack(RNG.integers(0, 1 << b, rows), b) if zero else None)
        inputs += [None, None, None, *zeros, None, RNG.random((tokens, count)).astype(f32) if given else None]
        while inputs[-1] is None:
            inputs.pop()
        return inputs

    weights = set(range(2, 14))
    for bits in [2, 4, 8]:
        for block in [None, 32]:
            for zero in [False, True]:
                name = f"b{bits}" + ("_blocks" if block else "") + ("_zero" if zero else "")
                blocks = {"block_size": block} if block else {}
                loose = dict(rtol=2e-2, atol=3e-2) if bits == 8 and block else {}
                add("QMoE", name, operands((bits, bits), block, zero), const=weights, k=2, expert_weight_bits=bits, **blocks, **loose)
    add("QMoE", "silu_normalized", operands(), const=weights, k=2, activation_type="silu", normalize_routing_weights=1)
    add("QMoE", "gelu", operands(), const=weights, k=1, activation_type="gelu")
    add("QMoE", "given_weights", operands(given=True), const=weights, k=2, activation_type="identity")
    add("QMoE", "given_weights_normalized", operands(given=True), const=weights, k=3, normalize_routing_weights=1)
    add("QMoE", "swiglu", operands(fused=True, block=32), const=weights, k=2, activation_type="swiglu", swiglu_fusion=1, block_size=32,
        activation_alpha=1.7, activation_beta=1.0, swiglu_limit=0.7)
    inputs = operands((8, 4))
    x, scores, q1, s1, b1, q2, s2, b2 = inputs[:8]
    q2 = np.stack([q2 & 15, q2 >> 4], -1).reshape(count, width, inner)
    w1, w2 = (q1 - f32(128)) * s1[..., None], (q2 - f32(8)) * s2[..., None]
    y = np.zeros_like(x)
    for row, token, score in zip(y, x, scores):
        best = np.argsort(-score)[:2]
        share = np.exp(score[best]) / np.exp(score[best]).sum()
        row += sum(p * (w2[e] @ np.maximum(w1[e] @ token + b1[e], 0) + b2[e]) for p, e in zip(share, best))
    # ONNX Runtime has no kernel for two widths.
    add("QMoE", "two_widths", inputs, const=weights, k=2, fc1_expert_weight_bits=8, reference=[y])
    add("QMoE", "weights_at_run_time", operands(zero=True), k=2)


def fp_q4(add):
    for name, kind, shape, n in [("plain", 0, (3, 64), 5), ("zero_points", 1, (3, 64), 5), ("cut", 0, (2, 40), 3),
                                 ("zero_points_cut", 1, (2, 2, 40), 3), ("one_row", 1, (1, 96), 33)]:
        k = shape[-1]
        blob = RNG.integers(0, 256, (n, -(-k // 32), 20 + kind)).astype(U8)
        blob[..., :4] = (0.05 + 0.1 * RNG.random((*blob.shape[:2], 1))).astype(f32).view(U8)
        if kind:
            blob[..., 4] = RNG.integers(0, 16, blob.shape[:2])
        add("MatMulFpQ4", name, [floats(*shape), blob.reshape(-1), np.array([k, n])], const={1, 2}, blk_quant_type=kind)


def sparse_product(add):
    """The sparse matrix is an initializer here; ONNX Runtime, which makes those dense, gets it as an input."""
    for name, shape, other, dtype, attributes in [
        ("plain", (4, 5), (5, 3), np.float32, {}), ("alpha", (4, 5), (5, 3), np.float32, dict(alpha=-1.5)),
        ("transposed", (5, 5), (5, 5), np.float32, dict(transA=1, transB=1)), ("double", (7, 2), (2, 6), np.float64, {}),
        ("integers", (3, 5), (5, 4), np.int32, {}), ("long_integers", (3, 5), (5, 4), np.int64, {}),
    ]:
        a = np.round(RNG.standard_normal(shape) * 9) * (RNG.random(shape) < 0.4)
        a, b = a.astype(dtype), np.round(RNG.standard_normal(other) * 9).astype(dtype)
        element = helper.np_dtype_to_tensor_dtype(a.dtype)
        graph = helper.make_graph(
            [helper.make_node("SparseToDenseMatMul", ["a", "b"], ["y"], domain="com.microsoft", **attributes)], "sparse",
            [helper.make_value_info("a", helper.make_sparse_tensor_type_proto(element, shape)),
             helper.make_tensor_value_info("b", element, other)], [helper.make_empty_tensor_value_info("y")])
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        places = np.ascontiguousarray(np.argwhere(a), np.int64)
        sparse = onnxruntime.SparseTensor.sparse_coo_from_numpy(
            np.array(shape, np.int64), np.ascontiguousarray(a[a != 0]), places, onnxruntime.OrtDevice.make("cpu", 0))
        y = session.run(None, {"a": onnxruntime.OrtValue.ort_value_from_sparse_tensor(sparse), "b": b})
        values = helper.make_tensor("x0", element, [len(places)], a[a != 0])
        indices = helper.make_tensor("", 7, [len(places)], np.flatnonzero(a))
        add("SparseToDenseMatMul", name, [helper.make_sparse_tensor(values, indices, shape), b], const={0}, reference=y, **attributes)


def session_of(op, inputs, results, attributes):
    """A session of a model of one node, whose inputs are x0, x1 and so on."""
    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in zip(names, inputs) if v is not None]
    node = helper.make_node(op, names, results, domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], op, infos, [helper.make_empty_tensor_value_info(n) for n in results])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def in_place(op, inputs, attributes):
    """The outputs of a node whose past is its present: ONNX Runtime wants one buffer for both."""
    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    session = session_of(op, inputs, ["y0", "y1", "y2"], attributes)
    # A value is a view of its array, which has to live as long.
    arrays = {n: v.copy() for n, v in zip(names, inputs) if v is not None}
    values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(array) for n, array in arrays.items()}
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("y0", "cpu")
    binding.bind_ortvalue_output("y1", values["x3"])
    binding.bind_ortvalue_output("y2", values["x4"])
    session.run_with_iobinding(binding)
    return [binding.get_outputs()[0].numpy(), arrays["x3"], arrays["x4"]]


def sparse_attention(add):
    op, n, kv, h, block = "SparseAttention", 4, 2, 16, 16

    def mask(layouts, blocks):
        """Compressed rows of a mask that has the diagonal, and some blocks before it; rows of indices end with -1."""
        rows, columns = [], []
        for _ in range(layouts):
            starts, places = [0], []
            for i in range(blocks):
                places += [j for j in range(i + 1) if j == i or RNG.random() < 0.4]
                starts.append(len(places))
            rows.append(starts)
            columns.append(places)
        most = max(map(len, columns))
        return [np.array(rows, i32), np.array([c + [-1] * (most - len(c)) for c in columns], i32)]

    def case(name, queries, total, lengths, layouts=1, packed=False, places=64, dtype=f32, const=frozenset({7}), **attributes):
        b = len(lengths)
        new = ([floats(b, queries, (n + 2 * kv) * h), None, None] if packed else
               [floats(b, queries, n * h), floats(b, queries, kv * h), floats(b, queries, kv * h)])
        past = [floats(b, kv, places, h) for _ in range(2)]
        for p in past:
            for row, length in zip(p, lengths):
                row[:, max(length - queries, 0):] = 0
        inputs = [*new, *past, *mask(layouts, places // block), np.array([total], i32), np.array(lengths, i32)]
        if attributes.get("do_rotary"):
            inputs += [floats(places, h // 2), floats(places, h // 2)]
        inputs = [v if v is None or v.dtype != f32 else v.astype(dtype) for v in inputs]
        attributes = dict(num_heads=n, kv_num_heads=kv, sparse_block_size=block, **attributes)
        if len(set(lengths)) == 1:
            reference = in_place(op, inputs, attributes)
        else:
            # ONNX Runtime takes the weights of another sequence where lengths differ, so that each runs alone.
            alone = [in_place(op, [v[i:i + 1] if n in (0, 1, 2, 3, 4, 8) else np.array([lengths[i]], i32) if n == 7 else v
                                   for n, v in enumerate(inputs)], attributes) for i in range(b)]
            reference = [np.concatenate(parts) for parts in zip(*alone)]
        add(op, name, inputs, const=const, outputs=3, reference=reference, **attributes)

    case("prompt", 40, 40, [40, 40])
    case("layouts", 40, 40, [40, 40], layouts=2)
    case("token", 1, 50, [50, 50], layouts=4)
    case("token_lengths", 1, 50, [50, 21], layouts=2)
    case("packed", 33, 33, [33], packed=True)
    case("rotary", 36, 36, [36, 36], do_rotary=1)
    case("rotary_interleaved", 1, 36, [36, 20], do_rotary=1, rotary_interleaved=1, layouts=2)
    case("scale", 40, 40, [40], scale=0.4, layouts=2)
    case("total_at_run_time", 1, 50, [50], const=frozenset())


def cases(add):
    experts(add)
    packed_experts(add)
    fp_q4(add)
    sparse_product(add)
    sparse_attention(add)
