"""Cases of the quantised operators of com.microsoft: elementwise, pools, products, convolutions, weights of few bits."""

import numpy as np
from onnx import TensorProto, helper

RNG = np.random.default_rng(7)
f32 = np.float32


def ints(dtype, *shape):
    """Integers over the whole range of a type."""
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


def weights(dtype, *shape):
    """Integers of 7 bits: on processors without products of mixed signs ONNX Runtime saturates sums of larger ones."""
    return (ints(dtype, *shape) // 2).astype(dtype)


def floats(*shape):
    return RNG.standard_normal(shape).astype(f32)


def levels(dtype, scale, zero):
    """A scale and a zero point as two inputs."""
    return [f32(scale), None if zero is None else np.array(zero, dtype)]


U8 = np.uint8
I8 = np.int8


def elementwise(add):
    for op, c_scale in [("QLinearAdd", 0.09), ("QLinearMul", 0.04)]:
        kinds = [
            ("u8", U8, (3, 37), (3, 37), (0.05, 120), (0.03, 7), 130),
            ("i8", I8, (3, 37), (3, 37), (0.05, -3), (0.03, 7), 11),
            ("broadcast", U8, (2, 3, 8), (8,), (0.05, 128), (0.07, 100), 127),
            ("scalar", I8, (2, 3, 8), (), (0.02, 5), (0.07, -100), 0),
            ("outer", U8, (4, 1), (1, 5), (0.05, 128), (0.03, 100), 12),
        ]
        for name, t, a, b, (sa, za), (sb, zb), zc in kinds:
            inputs = [ints(t, *a), *levels(t, sa, za), ints(t, *b), *levels(t, sb, zb), *levels(t, c_scale, zc)]
            add(op, name, inputs, const={1, 2, 4, 5, 6, 7})
        inputs = [ints(U8, 3, 37), *levels(U8, 0.1, 3), ints(U8, 3, 37), *levels(U8, 0.2, 3), *levels(U8, 0.3, 3)]
        add(op, "levels_at_run_time", inputs)
        # Sums that end in one half tell where it is rounded.
        inputs = [ints(U8, 3, 37), *levels(U8, 0.5, 3), ints(U8, 3, 37), *levels(U8, 1, 8), *levels(U8, 1, 1)]
        add(op, "halves", inputs, const={1, 2, 4, 5, 6, 7})
    for op, attributes in [("QLinearLeakyRelu", {"alpha": 0.2}), ("QLinearSigmoid", {})]:
        out = (0.004, 0) if op == "QLinearSigmoid" else (0.06, 40)
        every = np.arange(256).reshape(2, 128)
        add(op, "u8", [every.astype(U8), *levels(U8, 0.05, 128), *levels(U8, *out)], const={1, 2, 3, 4}, **attributes)
        add(op, "i8", [(every - 128).astype(I8), *levels(I8, 0.05, 3), *levels(I8, 0.05, -7)], const={1, 2, 3, 4}, **attributes)
        add(op, "no_zero", [every.astype(U8), *levels(U8, 0.05, None), *levels(U8, 0.05, None)], const={1, 3}, **attributes)
        add(op, "levels_at_run_time", [ints(U8, 5, 9), *levels(U8, 0.05, 100), *levels(U8, *out)], **attributes)
        add(op, "one_element", [ints(U8, 1), *levels(U8, 0.02, 100), *levels(U8, *out)], const={1, 2, 3, 4}, **attributes)
    add("QLinearLeakyRelu", "default_alpha", [(every).astype(U8), *levels(U8, 0.05, 128), *levels(U8, 0.05, 12)], const={1, 2, 3, 4})
    for name, t, shape, axis, opset, scale, out in [
        ("u8", U8, (3, 40), -1, 13, 0.1, (1 / 256, 0)),
        ("i8", I8, (3, 40), -1, 13, 0.1, (1 / 256, -128)),
        ("axis", U8, (3, 4, 5), 1, 13, 0.05, (1 / 256, 0)),
        ("merged", U8, (3, 4, 5), 1, 12, 0.02, (1 / 256, 0)),
        ("coarse", U8, (2, 7), 1, 13, 0.2, (0.01, 3)),
        ("wide", U8, (2, 300), 1, 13, 0.05, (1 / 256, 0)),
    ]:
        add("QLinearSoftmax", name, [ints(t, *shape), *levels(t, scale, 3), *levels(t, *out)], const={1, 2, 3, 4},
            axis=axis, opset=opset, atol=1)


def joins(add):
    for name, t, shapes, axis in [
        ("u8", U8, [(2, 3), (2, 5)], 1), ("i8", I8, [(2, 3), (4, 3), (1, 3)], 0), ("single", U8, [(2, 3)], 1),
        ("negative_axis", U8, [(2, 3, 4), (2, 3, 1)], -1), ("middle", I8, [(2, 1, 4), (2, 2, 4)], 1),
    ]:
        parts = [part for n, shape in enumerate(shapes) for part in [ints(t, *shape), *levels(t, 0.02 + 0.01 * n, 10 * n)]]
        const = {n for n in range(2 + len(parts)) if n < 2 or (n - 2) % 3}
        add("QLinearConcat", name, [*levels(t, 0.03, 9), *parts], const=const, axis=axis)
    same = [part for shape in [(2, 3), (2, 4)] for part in [ints(U8, *shape), *levels(U8, 0.05, 3)]]
    add("QLinearConcat", "same_levels", [*levels(U8, 0.05, 3), *same], const={0, 1, 3, 4, 6, 7}, axis=1)
    for name, t, c, x, y in [
        ("u8", U8, (4, 5), (4, 5), (4, 5)), ("i8", I8, (4, 5), (4, 5), (4, 5)), ("broadcast", U8, (4, 1), (5,), (4, 5)),
        ("scalar_x", U8, (2, 3, 4), (), (3, 4)), ("scalar_condition", U8, (1,), (2, 3), (2, 3)),
    ]:
        condition = RNG.random(c) < 0.5
        inputs = [condition, ints(t, *x), *levels(t, 0.04, 3), ints(t, *y), *levels(t, 0.07, 90), *levels(t, 0.08, 40)]
        add("QLinearWhere", name, inputs, const={2, 3, 5, 6, 7, 8})


def pools(add):
    for name, t, shape, last in [
        ("u8", U8, (2, 3, 5, 7), 0), ("i8", I8, (1, 17, 4, 4), 0), ("channels_last", U8, (2, 5, 7, 3), 1),
        ("i8_channels_last", I8, (1, 4, 4, 17), 1), ("vector", U8, (2, 3, 9), 0),
    ]:
        inputs = [ints(t, *shape), *levels(t, 0.05, 100), *levels(t, 0.02, 7)]
        add("QLinearGlobalAveragePool", name, inputs, const={1, 2, 3, 4}, channels_last=last)
    for name, t, shape, attributes in [
        ("u8", U8, (1, 3, 8, 9), dict(kernel_shape=[3, 3])),
        ("i8", I8, (1, 3, 8, 9), dict(kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 1, 1])),
        ("with_padding", U8, (2, 3, 6, 6), dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)),
        ("ceil", U8, (1, 2, 7, 7), dict(kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)),
        ("channels_last", U8, (1, 6, 6, 3), dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], channels_last=1)),
        ("same", U8, (1, 2, 7, 7), dict(kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")),
        ("vector", I8, (1, 3, 11), dict(kernel_shape=[3])),
    ]:
        inputs = [ints(t, *shape), *levels(t, 0.05, 100), *levels(t, 0.0437, 27)]
        add("QLinearAveragePool", name, inputs, const={1, 2, 3, 4}, **attributes)
    for name, t, shape, attributes in [
        ("u8", U8, (1, 8, 9, 3), dict(kernel_shape=[3, 3])),
        ("i8", I8, (1, 8, 9, 3), dict(kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 1, 1])),
        ("dilated", U8, (2, 9, 9, 2), dict(kernel_shape=[3, 3], dilations=[2, 2])),
        ("ceil", I8, (1, 7, 7, 2), dict(kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)),
        ("same", U8, (1, 7, 7, 2), dict(kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER")),
        ("vector", U8, (1, 11, 3), dict(kernel_shape=[3], strides=[2])),
    ]:
        add("NhwcMaxPool", name, [ints(t, *shape)], **attributes)


def requantized(values, t, scale, zero):
    """Numbers as integers of a type; the formula of the operators that have no kernel for the CPU."""
    info = np.iinfo(t)
    return np.clip(np.rint(values / f32(scale)) + zero, info.min, info.max).astype(t)


def formulas(add):
    for name, t, shape, axes, keep in [
        ("u8", U8, (3, 4, 5), [1], 1), ("i8", I8, (3, 4, 5), [0, 2], 0), ("last", U8, (6, 7), [-1], 1),
        ("all", I8, (2, 3), [0, 1], 0), ("image", U8, (2, 3, 4, 4), [2, 3], 1),
    ]:
        x = ints(t, *shape)
        mean = ((x.astype(np.float64) - 5) * 0.05).mean(tuple(axes), keepdims=bool(keep))
        y = requantized(mean, t, 0.0413, 9)
        add("QLinearReduceMean", name, [x, *levels(t, 0.05, 5), *levels(t, 0.0413, 9)], const={1, 2, 3, 4},
            reference=[y], axes=axes, keepdims=keep, atol=1)
        wide = np.uint32 if t == U8 else np.int32
        sums = x.astype(wide).sum(tuple(axes), keepdims=bool(keep), dtype=wide)
        add("ReduceSumInteger", name, [x], reference=[sums], axes=axes, keepdims=keep)
        other = ints(t, *shape[1:])
        product = (x.astype(np.int32) - 3) * (other.astype(np.int32) - 100)
        add("MulInteger", name, [x, t(3), other, t(100)], reference=[product])


def lines(add):
    for name, t, shape, scale, zero, axis in [
        ("u8", U8, (3, 5), f32(0.1), 7, None), ("i8", I8, (3, 5), f32(0.1), -7, None),
        ("u16", np.uint16, (3, 5), f32(0.001), 3000, None), ("i16", np.int16, (3, 5), f32(0.001), -20, None),
        ("axis", U8, (2, 3, 4), np.array([0.1, 0.2, 0.3], f32), [1, 2, 3], 1),
        ("last_axis", I8, (2, 3), np.array([0.1, 0.2, 0.3], f32), [1, -2, 3], -1),
        ("no_zero", U8, (3, 5), f32(0.1), None, None),
    ]:
        zero = None if zero is None else np.array(zero, t)
        attributes = {} if axis is None else {"axis": axis}
        add("DequantizeLinear", name, [ints(t, *shape), scale, zero], const={1, 2}, **attributes)
        add("QuantizeLinear", name, [4 * floats(*shape), scale, zero], const={1, 2}, **attributes)
    halves = np.arange(-9, 10, dtype=f32) / 2
    add("QuantizeLinear", "halves", [halves, f32(1), U8(3)], const={1, 2})
    add("DequantizeLinear", "i32", [ints(np.int32, 3, 5), f32(0.01), None], const={1})


def products(add):
    for name, ta, tb, a, b, b_scale, b_zero, bias in [
        ("u8", U8, U8, (3, 20), (20, 7), 0.02, 130, True), ("i8", U8, I8, (3, 20), (20, 7), 0.02, -3, False),
        ("columns", U8, I8, (3, 20), (20, 7), np.linspace(0.01, 0.03, 7), np.arange(7), True),
        ("no_zero", U8, U8, (3, 20), (20, 7), 0.02, None, False), ("batch", U8, U8, (2, 3, 20), (20, 7), 0.02, 9, True),
        ("batches", U8, I8, (2, 3, 8), (2, 8, 5), 0.02, 4, False),
    ]:
        scale, bias = np.array(b_scale, f32), floats(b[-1]) if bias else None
        zero = None if b_zero is None else np.array(b_zero, tb)
        matrix = weights(tb, *b)
        add("DynamicQuantizeMatMul", name, [floats(*a), matrix, scale, zero, bias], const={1, 2, 3, 4})
        a_zero = None if b_zero is None else ta(17)
        add("MatMulIntegerToFloat", name, [ints(ta, *a), matrix, f32(0.03), scale, a_zero, zero, bias], const={1, 2, 3, 4, 5, 6})
    add("MatMulIntegerToFloat", "signed", [ints(I8, 3, 8), ints(I8, 8, 4), f32(0.03), f32(0.1), I8(3), I8(-4)], const={1})
    for name, a, b in [("plain", (3, 5), (5, 4)), ("batch", (2, 3, 5), (2, 5, 4)), ("shared", (2, 3, 5), (5, 4)),
                       ("row", (1, 9), (9, 1)), ("long", (2, 100), (100, 3))]:
        inputs = [RNG.integers(-900, 900, a).astype(np.int16), RNG.integers(-900, 900, b).astype(np.int16)]
        add("MatMulInteger16", name, inputs)
    for name, ta, tb, transposed, alpha, c, out in [
        ("u8", U8, U8, (0, 0), 1.0, True, (1.5, 110)), ("i8", I8, I8, (0, 0), 1.0, False, (0.7, 3)),
        ("transposed", U8, I8, (1, 1), 1.0, True, (0.7, 30)), ("scaled", U8, U8, (0, 1), 0.25, True, (0.5, 3)),
        ("real", U8, I8, (0, 0), 0.5, True, None), ("real_without_c", I8, I8, (1, 0), 1.0, False, None),
        ("columns", U8, I8, (0, 1), 1.0, True, (0.7, 30)),
    ]:
        a, b = (20, 3) if transposed[0] else (3, 20), (7, 20) if transposed[1] else (20, 7)
        column = name == "columns"
        b_scale = np.linspace(0.01, 0.03, 7).astype(f32) if column else f32(0.02)
        b_zero = np.arange(7).astype(tb) if column else tb(4)
        result = [None, None] if out is None else levels(ta, *out)
        inputs = [ints(ta, *a), f32(0.05), ta(20), weights(tb, *b), b_scale, b_zero,
                  RNG.integers(-3000, 3000, 7).astype(np.int32) if c else None, *result]
        while inputs[-1] is None:
            inputs.pop()
        add("QGemm", name, inputs, const=set(range(1, 9)), transA=transposed[0], transB=transposed[1], alpha=alpha)


def convolutions(add):
    for name, t, tw, x, w, attributes in [
        ("plain", U8, U8, (1, 3, 7, 8), (4, 3, 3, 3), {}),
        ("padded", U8, I8, (2, 3, 7, 8), (4, 3, 3, 3), dict(pads=[1, 1, 1, 1], strides=[2, 1])),
        ("signed", I8, I8, (1, 4, 6, 6), (6, 2, 3, 3), dict(group=2, dilations=[2, 1])),
        ("depthwise", U8, I8, (1, 4, 6, 6), (4, 1, 3, 3), dict(group=4, pads=[1, 1, 1, 1])),
        ("same", U8, U8, (1, 2, 7, 7), (3, 2, 3, 3), dict(auto_pad="SAME_UPPER", strides=[2, 2])),
    ]:
        for last in (0, 1):
            data = ints(t, *x)
            if last:
                data = np.ascontiguousarray(data.transpose(0, 2, 3, 1))
            scales = np.linspace(0.01, 0.03, w[0]).astype(f32) if name == "padded" else f32(0.02)
            zeros = np.zeros(w[0], tw) if name == "padded" else tw(0 if tw == I8 else 120)
            inputs = [data, *levels(t, 0.05, 20), weights(tw, *w), scales, zeros, *levels(t, 1.1, 60)]
            if name != "same":
                inputs.append(RNG.integers(-900, 900, w[0]).astype(np.int32))
            add("QLinearConv", name + ("_last" if last else ""), inputs, const=set(range(1, 9)), channels_last=last, **attributes)


def pack(codes, bits):
    """Numbers of a few bits in bytes along the last axis, the first in the low bits."""
    each = 8 // bits
    padding = [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % each)]
    codes = np.pad(codes, padding).reshape(*codes.shape[:-1], -1, each).astype(np.uint32)
    return np.bitwise_or.reduce(codes << (np.arange(each, dtype=np.uint32) * bits), axis=-1).astype(U8)


def models(add):
    i32 = np.int32
    for name, tw, past, mask, attributes, columns in [
        ("u8", U8, 0, None, {}, False), ("i8", I8, 0, "lengths", {}, True), ("causal", I8, 0, None, dict(unidirectional=1), False),
        ("past", I8, 5, None, dict(unidirectional=1), False), ("mask", I8, 0, "rows", {}, False), ("scaled", U8, 0, None, dict(scale=0.3), False),
    ]:
        b, s, n, h = 2, 4, 2, 8
        width = n * h
        scale = np.linspace(0.01, 0.02, 3 * width).astype(f32) if columns else f32(0.02)
        zeros = np.zeros(3 * width, tw) if columns else np.array(100 if tw == U8 else 3, tw)
        masks = {None: None, "lengths": np.array([3, 4], i32), "rows": np.array([[1, 1, 1, 0], [1, 1, 1, 1]], i32)}
        inputs = [ints(U8, b, s, width), weights(tw, width, 3 * width), floats(3 * width), f32(0.01), scale, masks[mask], U8(120),
                  zeros, floats(2, b, n, past, h) if past else None]
        while inputs[-1] is None:
            inputs.pop()
        add("QAttention", name, inputs, const={1, 2, 3, 4, 6, 7}, outputs=2 if past else 1, num_heads=n, **attributes)
    for name, mask, segments in [("plain", None, True), ("mask", [[1, 1, 1, 0], [1, 0, 0, 0]], True), ("no_segments", None, False),
                                 ("wide", [[1] * 4] * 2, True), ("epsilon", None, True)]:
        b, s, h = 2, 4, 48 if name == "wide" else 16
        tables = [ints(U8, 9, h), ints(U8, 7, h), ints(U8, 2, h), ints(U8, h), ints(U8, h)]
        ids = [RNG.integers(0, 9, (b, s)).astype(i32), RNG.integers(0, 2, (b, s)).astype(i32)]
        scales, zeros = [f32(x) for x in (0.02, 0.03, 0.01, 0.02, 0.015)], [U8(x) for x in (120, 130, 128, 5, 100)]
        for part in (ids, tables, scales, zeros):
            if not segments:
                part[1 if part is ids else 2] = None
        inputs = [*ids, *tables, None if mask is None else np.array(mask, i32), *scales, *zeros]
        add("QEmbedLayerNormalization", name, inputs, const=set(range(2, 7)) | set(range(8, 18)), outputs=2,
            **({"epsilon": 0.1} if name == "epsilon" else {}))
    for name, tw, directions, batch, parts, attributes in [
        ("forward", I8, 1, 1, {}, {}), ("reverse", U8, 1, 2, {"bias"}, dict(direction="reverse")),
        ("both", I8, 2, 2, {"bias", "columns"}, dict(direction="bidirectional")),
        ("lengths", I8, 1, 3, {"bias", "lengths", "states"}, {}), ("peepholes", U8, 1, 1, {"bias", "peepholes"}, {}),
        ("clipped", I8, 1, 2, {"states"}, dict(clip=0.5)),
    ]:
        length, inputs, h = 5, 12, 8
        column = "columns" in parts
        scale = (0.002 + 0.002 * RNG.random((directions, 4 * h) if column else (directions,))).astype(f32)
        zero = np.full(scale.shape, 0 if column else 64 if tw == U8 else 3, tw)
        state = lambda: floats(directions, batch, h) / 2 if "states" in parts else None
        operands = [floats(length, batch, inputs), weights(tw, directions, inputs, 4 * h), weights(tw, directions, h, 4 * h),
                    floats(directions, 8 * h) / 4 if "bias" in parts else None,
                    np.array([5, 2, 4], i32) if "lengths" in parts else None, state(), state(),
                    floats(directions, 3 * h) / 4 if "peepholes" in parts else None, scale, zero, scale * f32(1.5), zero]
        # A state whose rounding differs in the last bit is quantized to a neighbouring level.
        add("DynamicQuantizeLSTM", name, operands, const={1, 2, 3, 7, 8, 9, 10, 11}, outputs=3, hidden_size=h, atol=4e-3, **attributes)


def blocks(add):
    for name, bits, k, n, block, zero, extra in [
        ("b4", 4, 64, 8, 32, None, {}), ("b4_zero", 4, 64, 9, 16, "packed", {}), ("b4_cut", 4, 70, 6, 32, "packed", {}),
        ("b4_float_zero", 4, 64, 8, 16, "float", {}), ("b8", 8, 64, 8, 32, None, {}), ("b8_zero", 8, 48, 5, 16, "packed", {}),
        ("b2", 2, 64, 8, 32, None, {}), ("b2_zero", 2, 128, 8, 64, "packed", {}), ("bias", 4, 64, 8, 32, "packed", {"bias": 1}),
        ("groups", 4, 64, 8, 16, None, {"groups": 1}),
        ("groups_zero", 4, 64, 8, 16, "float", {"groups": 1}), ("batch", 4, 32, 4, 16, None, {"a": (2, 3, 32)}),
        ("half", 4, 64, 8, 32, "packed", {"half": 1}), ("level_4", 4, 64, 8, 32, None, {"level": 4}),
        # So many weights stay packed in the object.
        ("large", 4, 512, 200, 32, None, {"a": (1, 512)}), ("large_zero", 4, 512, 200, 32, "packed", {"a": (3, 512)}),
        ("large_float_zero", 4, 512, 224, 16, "float", {"a": (4, 512)}), ("large_rows", 4, 512, 200, 64, "packed", {"a": (21, 512)}),
        ("large_batch", 4, 512, 200, 32, None, {"a": (2, 3, 512), "bias": 1}), ("large_b2", 2, 512, 200, 32, None, {"a": (2, 512)}),
        ("large_symbol", 4, 512, 200, 32, "packed", {"a": (7, 512), "symbol": 1}),
        ("large_cut", 4, 500, 200, 32, None, {"a": (2, 500)}),
    ]:
        count = -(-k // block)
        kind = np.float16 if extra.get("half") else f32
        packed = pack(RNG.integers(0, 1 << bits, (n, count, block)), bits)
        scales = (0.05 + 0.1 * RNG.random((n, count))).astype(kind)
        zeros = None
        if zero == "packed":
            zeros = pack(RNG.integers(0, 1 << bits, (n, count)), bits)
        elif zero == "float":
            zeros = (7 + RNG.random((n, count))).astype(f32)
        inputs = [floats(*extra.get("a", (3, k))).astype(kind), packed, scales, zeros]
        if extra.get("groups") or extra.get("bias"):
            inputs.append(RNG.permutation(np.arange(k) // block).astype(np.int32) if extra.get("groups") else None)
            inputs.append(floats(n).astype(kind) if extra.get("bias") else None)
        while inputs[-1] is None:
            inputs.pop()
        loose = {"half": dict(rtol=1e-2, atol=2e-2), "level_4": dict(rtol=2e-2, atol=8e-2)}
        add("MatMulNBits", name, inputs, const={1, 2, 3, 4, 5}, K=k, N=n, bits=bits, block_size=block,
            accuracy_level=extra.get("level", 0), symbols={0: ["t", k]} if extra.get("symbol") else None, **loose.get(name, {}))
    add("MatMulNBits", "weights_at_run_time", [floats(2, 32), pack(RNG.integers(0, 16, (4, 2, 16)), 4),
        (0.1 + RNG.random((4, 2))).astype(f32)], K=32, N=4, bits=4, block_size=16)
    for name, kind, k, n, block, a in [("fp4", 0, 64, 8, 16, (3, 64)), ("nf4", 1, 64, 8, 32, (3, 64)), ("odd", 1, 9, 3, 16, (2, 9)),
                                       ("batch", 1, 32, 4, 64, (2, 3, 32)), ("large_block", 0, 32, 5, 256, (1, 32))]:
        codes = RNG.integers(0, 256, (k * n + 1) // 2).astype(U8)
        absmax = RNG.random(-(-k * n // block)).astype(f32) + f32(0.1)
        add("MatMulBnb4", name, [floats(*a), codes, absmax], const={1, 2}, K=k, N=n, block_size=block, quant_type=kind)
    for name, t, shape, block, zero, gathered, quantized in [
        ("i4", TensorProto.INT4, (6, 32), 16, True, 0, 1), ("u4", TensorProto.UINT4, (6, 32), 16, True, 0, 1),
        ("i4_columns", TensorProto.INT4, (32, 6), 16, True, 1, 0), ("u4_no_zero", TensorProto.UINT4, (5, 40), 16, False, 0, 1),
        ("i4_negative_axes", TensorProto.INT4, (3, 4, 32), 32, False, -2, -1),
    ]:
        low = -8 if t == TensorProto.INT4 else 0
        few = [-(-n // block) if axis == quantized % len(shape) else n for axis, n in enumerate(shape)]
        integers = lambda dims: helper.make_tensor("", t, dims, RNG.integers(low, low + 16, np.prod(dims)).tolist())
        inputs = [integers(shape), RNG.integers(0, shape[gathered], (2, 2)).astype(np.int32),
                  (0.1 + RNG.random(few)).astype(f32)] + ([integers(few)] if zero else [])
        add("GatherBlockQuantized", name, inputs, const={0, 2, 3}, block_size=block, gather_axis=gathered,
            quantize_axis=quantized)
    for name, bits, rows, size, block, zero, shape in [
        ("u8", 8, 10, 64, 16, True, (3,)), ("b4", 4, 10, 64, 32, True, (2, 3)), ("b4_middle", 4, 10, 64, 32, False, (4,)),
        ("b8_middle", 8, 7, 48, 16, False, ()), ("b2", 2, 10, 64, 16, True, (5,)), ("b4_cut", 4, 6, 40, 16, True, (3,)),
    ]:
        count = -(-size // block)
        data = pack(RNG.integers(0, 1 << bits, (rows, size)), bits)
        inputs = [data, RNG.integers(0, rows, shape).astype(np.int64), (0.1 + RNG.random((rows, count))).astype(f32)]
        if zero:
            inputs.append(pack(RNG.integers(0, 1 << bits, (rows, count)), bits))
        add("GatherBlockQuantized", name, inputs, const={0, 2, 3}, bits=bits, block_size=block, gather_axis=0, quantize_axis=1)


def cases(add):
    elementwise(add)
    joins(add)
    pools(add)
    formulas(add)
    lines(add)
    products(add)
    convolutions(add)
    blocks(add)
    models(add)
