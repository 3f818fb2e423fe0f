"""Cases of com.microsoft's fused convolutions and products, operators on images, matrices and tokens, and of early
operators. Where ONNX Runtime has no kernel for the CPU, the reference is a formula in numpy, or the operators of ai.onnx
that the operator is made of."""

import numpy as np

RNG = np.random.default_rng(11)
f32 = np.float32


def floats(*shape):
    return RNG.standard_normal(shape).astype(f32)


def near(rtol=1e-4, atol=1e-4):
    return dict(rtol=rtol, atol=atol)


CONVOLUTIONS = [
    ("plain", (1, 3, 7, 8), (4, 3, 3, 3), True, {}),
    ("padded", (2, 3, 7, 8), (4, 3, 3, 3), True, dict(pads=[1, 1, 1, 1], strides=[2, 1])),
    ("groups", (1, 4, 6, 6), (6, 2, 3, 3), False, dict(group=2, dilations=[2, 1])),
    ("same", (1, 2, 7, 7), (3, 2, 3, 3), True, dict(auto_pad="SAME_LOWER", strides=[2, 2])),
    ("depthwise", (1, 4, 6, 6), (4, 1, 3, 3), True, dict(group=4, pads=[1, 0, 1, 2])),
]

ACTIVATIONS = [
    ("relu", "Relu", []), ("tanh", "Tanh", []), ("sigmoid", "Sigmoid", []), ("leaky", "LeakyRelu", [0.2]),
    ("clip", "Clip", [-0.3, 0.5]), ("hard", "HardSigmoid", [0.3, 0.4]),
]


def activated(y, name, params):
    match name:
        case "Relu": return np.maximum(y, 0)
        case "LeakyRelu": return np.where(y < 0, params[0] * y, y)
        case "Clip": return np.clip(y, *params)
        case _: return y


def channels_last(x):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def convolutions(add):
    for name, x, w, bias, attributes in CONVOLUTIONS:
        inputs = [floats(*x), floats(*w), floats(w[0]) if bias else None]
        y = add.onnx("Conv", [v for v in inputs if v is not None], attributes)
        add("FusedConv", name, [v for v in inputs if v is not None], const={1, 2}, activation="Relu", **attributes)
        last = [channels_last(inputs[0]), channels_last(inputs[1]), *[v for v in inputs[2:] if v is not None]]
        add("NhwcConv", name, last, const={1, 2}, reference=[channels_last(y)], **attributes)
        z = floats(*y.shape)
        last = [channels_last(inputs[0]), inputs[1], inputs[2], channels_last(z)]
        add("NhwcFusedConv", name, last, const={1, 2}, reference=[channels_last(np.maximum(y + z, 0))],
            activation="Relu", **attributes)
        add("FusedConv", name + "_sum", [*inputs, z], const={1, 2}, activation="Relu", **attributes)
    for name, activation, params in ACTIVATIONS:
        extra = {"activation_params": params} if params else {}
        add("FusedConv", name, [floats(1, 2, 6, 6), floats(3, 2, 3, 3), floats(3)], const={1, 2}, activation=activation, **extra)
    add("FusedConv", "vector", [floats(1, 2, 9), floats(3, 2, 3)], const={1}, activation="Tanh")
    for name, x, w, pads, bias, attributes in [
        ("plain", (1, 2, 5, 5), (2, 3, 3, 3), [0, 0, 0, 0], False, {}), ("pads", (1, 2, 5, 5), (2, 3, 3, 3), [1, 0, 1, 1], True, {}),
        ("strides", (1, 2, 4, 5), (2, 3, 3, 3), [1, 1, 1, 1], False, dict(strides=[2, 2], output_padding=[1, 0])),
        ("groups", (1, 4, 4, 4), (4, 2, 2, 2), [0, 0, 0, 0], True, dict(group=2)),
        ("dilated", (2, 2, 4, 4), (2, 2, 3, 3), [1, 2, 1, 2], True, dict(dilations=[2, 2])),
    ]:
        inputs = [floats(*x), floats(*w), np.array(pads, np.int64)]
        if bias:
            inputs.append(floats(w[1] * attributes.get("group", 1)))
        add("ConvTransposeWithDynamicPads", name, inputs, const={1, 2, 3}, **attributes)
    for name, shape, kernel, attributes in [
        ("plain", (1, 2, 6, 6), [2, 2], {}), ("strides", (2, 4, 8, 8), [3, 3], dict(strides=[2, 2])),
        ("padded", (1, 2, 6, 6), [3, 3], dict(pads=[1, 1, 1, 1])), ("vector", (1, 2, 8), [3], {}),
        ("tall", (1, 1, 9, 4), [4, 1], {}),
    ]:
        mask = np.ones(shape, np.int32)
        mask[..., shape[-1] // 2:] = 0
        add("MaxpoolWithMask", name, [floats(*shape), mask], kernel_shape=kernel, **attributes)


def products(add):
    for name, a, b, c, attributes in [
        ("relu", (3, 5), (5, 4), (4,), dict(activation="Relu")),
        ("leaky", (5, 3), (4, 5), (3, 4), dict(activation="LeakyRelu", activation_alpha=0.3, transA=1, transB=1)),
        ("scaled", (3, 5), (5, 4), (1, 4), dict(activation="Tanh", alpha=0.5, beta=2.0)),
        ("hard", (3, 5), (5, 4), None, dict(activation="HardSigmoid", activation_alpha=0.3, activation_beta=0.4)),
        ("sigmoid", (3, 5), (4, 5), (3, 1), dict(activation="Sigmoid", transB=1)),
        ("elu", (3, 5), (5, 4), (), dict(activation="Elu", activation_alpha=0.7)),
        ("softsign", (3, 5), (5, 4), (4,), dict(activation="Softsign")),
        ("thresholded", (3, 5), (5, 4), (4,), dict(activation="ThresholdedRelu", activation_alpha=0.7)),
    ]:
        inputs = [floats(*a), floats(*b), None if c is None else floats(*c)]
        add("FusedGemm", name, inputs[: 2 if c is None else 3], const={1, 2}, **attributes)
    for name, a, b, attributes in [
        ("plain", (3, 5), (5, 4), {}), ("left", (5, 3), (5, 4), dict(transA=1)), ("right", (3, 5), (4, 5), dict(transB=1)),
        ("scaled", (2, 3, 5), (2, 5, 4), dict(alpha=0.25)), ("both", (2, 5, 3), (4, 5), dict(transA=1, transB=1)),
    ]:
        add("TransposeMatMul", name, [floats(*a), floats(*b)], **attributes)


def activations(add):
    for n, shape in enumerate([(5,), (2, 7), (1, 1), (2, 3, 4), (40, 9)]):
        x, bias = 3 * floats(*shape), floats(shape[-1])
        add("Gelu", f"shape_{n}", [x])
        add("BiasGelu", f"shape_{n}", [x, bias], const={1})
        add("FastGelu", f"shape_{n}", [x, bias] if n % 2 else [x], const={1})
        add("QuickGelu", f"shape_{n}", [x], **({"alpha": 0.5 * n - 1} if n else {}))
    for name, a, b, flags in [
        ("plain", (3, 5), (5, 4), {}), ("scaled", (2, 3, 5), (2, 5, 4), dict(alpha=0.25)),
        ("turned", (5, 3), (4, 5), dict(transA=1, transB=1)), ("batch_left", (3, 2, 5), (2, 5, 4), dict(transBatchA=1)),
        ("batch_right", (2, 3, 5), (5, 2, 4), dict(transBatchB=1)),
        ("batches_turned", (3, 2, 4), (5, 2, 3), dict(transBatchA=1, transA=1, transBatchB=1, transB=1)),
    ]:
        add("FusedMatMul", name + "_product", [floats(*a), floats(*b)], **flags)


def matrices(add):
    for name, shape in [("small", (2, 2)), ("three", (3, 3)), ("batch", (4, 5, 5)), ("two_axes", (2, 3, 4, 4)), ("large", (20, 20))]:
        x = floats(*shape) + 3 * np.eye(shape[-1], dtype=f32)
        add("Inverse", name, [x], rtol=1e-3, atol=1e-4)
    add("Inverse", "zero_diagonal", [np.array([[0, 2, 1], [1, 0, 0], [3, 0, 1]], f32)], **near())
    add("Inverse", "double", [floats(6, 6).astype(np.float64) + 4 * np.eye(6)], **near())
    for name, a, b, metric in [("squared", (5, 7), (3, 7), "sqeuclidean"), ("plain", (5, 7), (3, 7), "euclidean"),
                               ("wide", (2, 100), (9, 100), "euclidean"), ("single", (1, 3), (1, 3), "sqeuclidean")]:
        add("CDist", name, [floats(*a), floats(*b)], metric=metric, **near())
    add("CDist", "double", [floats(4, 3).astype(np.float64), floats(5, 3).astype(np.float64)], metric="euclidean", **near())
    for op, conjugate in [("ComplexMul", False), ("ComplexMulConj", True)]:
        for name, a, b in [("equal", (3, 4, 2), (3, 4, 2)), ("row", (3, 4, 2), (4, 2)), ("pair", (2,), (2,)),
                           ("outer", (3, 1, 2), (4, 2)), ("single", (5, 2), (1, 2))]:
            x, y = floats(*a), floats(*b)
            p, q = x[..., 0] + 1j * x[..., 1], y[..., 0] + 1j * y[..., 1]
            z = p * (q.conj() if conjugate else q)
            add(op, name, [x, y], reference=[np.stack([z.real, z.imag], -1).astype(f32)], **near())
    for name, shape, count in [("one", (3, 8), 1), ("odd", (2, 9), 1), ("two", (2, 4, 6), 2), ("three", (3, 4, 5), 3), ("long", (64,), 1)]:
        x = floats(*shape)
        z = np.fft.rfftn(x, axes=range(-count, 0))
        add("Rfft", name, [x], reference=[np.stack([z.real, z.imag], -1).astype(f32)], signal_ndim=count, **near())
        if shape[-1] % 2 == 0:
            half = np.stack([z.real, z.imag], -1).astype(f32)
            add("Irfft", name, [half], reference=[x], signal_ndim=count, **near())
    for name, shape in [("batch", (2, 3, 16)), ("short", (5, 2))]:
        x = floats(*shape)
        z = np.fft.rfft(x)
        add("Irfft", name, [np.stack([z.real, z.imag], -1).astype(f32)], reference=[x], signal_ndim=1, **near())


def group_norm(x, gamma, beta, groups, silu, epsilon, last):
    x = np.moveaxis(x, -1, 1) if last else x
    parts = x.reshape(x.shape[0], groups, -1).astype(np.float64)
    parts = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + epsilon)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    y = parts.reshape(x.shape) * gamma.reshape(shape) + beta.reshape(shape)
    y = y / (1 + np.exp(-y)) if silu else y
    return (np.moveaxis(y, 1, -1) if last else y).astype(f32)


def images(add):
    for name, shape, groups, silu, last, epsilon in [
        ("last", (2, 4, 5, 8), 2, 0, 1, 1e-5), ("first", (2, 8, 4, 5), 4, 0, 0, 1e-5), ("silu", (1, 3, 3, 6), 3, 1, 1, 1e-5),
        ("silu_first", (1, 6, 3, 3), 1, 1, 0, 1e-3), ("each", (1, 2, 2, 4), 4, 0, 1, 1e-2),
    ]:
        channels = shape[-1] if last else shape[1]
        x, gamma, beta = floats(*shape), floats(channels), floats(channels)
        attributes = dict(groups=groups, activation=silu, channels_last=last, epsilon=epsilon)
        y = group_norm(x, gamma, beta, groups, silu, epsilon, last)
        add("GroupNorm", name, [x, gamma, beta], const={1, 2}, reference=[y], **attributes, **near())
        bias = floats(channels)
        around = [(shape[0], channels), (shape[0], 1, 1, channels), shape][len(name) % 3]
        skip = floats(*(around if last or around != (shape[0], 1, 1, channels) else (shape[0], channels, 1, 1)))
        spread = skip
        if skip.ndim == 2:
            spread = skip.reshape((shape[0], 1, 1, channels) if last else (shape[0], channels, 1, 1))
        total = x + spread + bias.reshape((channels,) if last else (channels, 1, 1))
        y = group_norm(total, gamma, beta, groups, silu, epsilon, last)
        add("SkipGroupNorm", name, [x, gamma, beta, skip, bias], const={1, 2, 4}, outputs=2, reference=[y, total],
            **attributes, **near())
    boxes = np.array([[0, 0, 1, 1], [0.1, 0.3, 0.8, 0.9], [0.9, 0.2, 0.1, 0.7], [-0.2, 0.5, 1.3, 0.6]], f32)
    which = np.array([0, 1, 1, 0], np.int32)
    for name, crop, attributes in [("bilinear", (4, 5), {}), ("nearest", (3, 3), dict(mode="nearest")),
                                   ("outside", (6, 2), dict(extrapolation_value=9.5)), ("single", (1, 1), {}),
                                   ("row", (1, 7), dict(mode="nearest", extrapolation_value=-1.0))]:
        add("CropAndResize", name, [floats(2, 3, 9, 8), boxes, which, np.array(crop, np.int32)], const={3}, **attributes, **near())
    add("CropAndResize", "size_at_run_time", [floats(2, 3, 9, 8), boxes, which, np.array((4, 2), np.int32)], **near())
    grid = np.clip(floats(1, 4, 5, 2), -1.3, 1.3)
    for name, attributes in [("bilinear", {}), ("nearest", dict(mode="nearest")), ("border", dict(padding_mode="border")),
                             ("reflection", dict(padding_mode="reflection", align_corners=1)), ("bicubic", dict(mode="bicubic"))]:
        add("GridSample", name, [floats(1, 2, 6, 7), grid], **attributes, **near())
    for name, shape, attributes in [("last", (2, 9), dict(size=3)), ("step", (2, 9), dict(size=4, step=2)),
                                    ("middle", (2, 8, 3), dict(dim=1, size=2, step=3)), ("whole", (5,), dict(size=5)),
                                    ("first", (6, 2, 2), dict(dim=-3, size=2))]:
        add("UnfoldTensor", name, [floats(*shape)], **attributes)


def shapes(add):
    i64 = np.int64
    for name, start, limit, delta in [("int", np.int32(2), np.int32(11), np.int32(3)), ("float", f32(0), f32(2), f32(0.3)),
                                      ("down", i64(7), i64(-3), i64(-2)), ("no_step", i64(3), i64(8), None),
                                      ("empty", f32(3), f32(1), f32(1)), ("small", np.int16(1), np.int16(9), np.int16(2))]:
        inputs = [start, limit] if delta is None else [start, limit, delta]
        add("Range", name, inputs, const={0, 1, 2})
    add("Range", "at_run_time", [i64(3), i64(9), i64(2)])
    for name, shape, k, upper in [("upper", (4, 5), None, 1), ("lower", (5, 4), None, 0), ("above", (2, 4, 4), 1, 1),
                                  ("below", (4, 4), -2, 0), ("far", (3, 3), 7, 1)]:
        inputs = [floats(*shape)] if k is None else [floats(*shape), i64(k)]
        add("Trilu", name, inputs, const={1}, upper=upper)
    for name, mode, pads, value in [("constant", "constant", [1, 0, 0, 2], 1.5), ("zero", "constant", [0, 1, 1, 0], None),
                                    ("reflect", "reflect", [2, 1, 1, 2], None), ("edge", "edge", [3, 0, 0, 4], None),
                                    ("cut", "constant", [-1, 1, 0, -2], None)]:
        inputs = [floats(4, 5), np.array(pads, i64)] + ([] if value is None else [np.array([value], f32)])
        add("Pad", name, inputs, const={1, 2}, mode=mode)
    add("Pad", "at_run_time", [floats(4, 5), np.array([1, 0, 0, 2], i64), np.array([1.5], f32)])
    for name, axis in [("first", 0), ("last", 2), ("minus_one", -1), ("minus_two", -2), ("middle", 1)]:
        add("ExpandDims", name, [floats(3, 4), np.array(axis, np.int32)], const={1})
    for name, data, indices in [("rows", (3, 4), [[0], [2]]), ("elements", (3, 4), [[0, 1], [2, 3]]), ("negative", (3, 4), [[-1, -2]]),
                                ("deep", (2, 3, 4), [[[0, 1], [1, 2]]]), ("single", (5,), [[3]])]:
        add("GatherND", name, [floats(*data), np.array(indices, i64)])
    for name, values in [("floats", [2, 1, 1, 3, 4, 3, 2]), ("same", [5, 5, 5]), ("one", [7]), ("signs", [-1, 0, 1, -1]), ("sorted", [1, 2, 3])]:
        add("Unique", name, [np.array(values, f32)], outputs=3)
    for name, shape in [("vector", (5,)), ("matrix", (2, 3)), ("scalar", ()), ("empty", (0, 3)), ("deep", (1, 2, 3, 4))]:
        add("SampleOp", name, [floats(*shape)])
        indices = RNG.integers(0, 7, shape).astype(i64)
        table = floats(7, 4)
        add("TorchEmbedding", name, [table, indices], const={0}, reference=[table[indices]])


def tokens(add):
    i64 = np.int64
    for t in (np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64):
        values = floats(3, 5).astype(t) if np.dtype(t).kind == "f" else RNG.integers(0, 1 << 31, (3, 5)).astype(t)
        add("MurmurHash3", np.dtype(t).name, [values], seed=42)
    add("MurmurHash3", "signed", [np.arange(-4, 5, dtype=np.int32)], positive=0)
    add("MurmurHash3", "no_seed", [np.arange(-4, 5, dtype=np.int64)])
    for name, ids, size in [
        ("pairs", [[1, 2, 3, 1, 2], [4, 4, 4, 4, 4]], 2), ("triples", [[1, 2, 3, 1, 2], [1, 2, 1, 2, 1]], 3),
        ("single", [[1, 2, 3]], 1), ("too_long", [[1, 2], [3, 3]], 3), ("none", [[1, 2, 3, 4, 5, 6]], 2),
    ]:
        ids = np.array(ids, i64)
        add("NGramRepeatBlock", name, [ids, floats(len(ids), 9)], ngram_size=size)
    source = [1, 5, 3, 4, 2, 5, 3, 9]
    for name, current, previous, predicted in [
        ("no_prediction", [2, 5], 0, None), ("agrees", [7], 0, [*source, 1]), ("differs", [7], 2, [3, 4, 6, 5, 3, 9, 1]),
        ("none_found", [7, 8], 0, None), ("at_end", [3, 9], 0, None), ("first", [2], 7, [1, 4]), ("ambiguous", [5, 3], 0, None),
    ]:
        inputs = [np.array(source, i64), np.array(current, i64), np.array([previous], i64)]
        if predicted:
            inputs.append(np.array(predicted, i64))
        add("BifurcationDetector", name, inputs, outputs=2)
    for name, sizes, filters, width in [("words", [3, 5, 1], 4, 2), ("short", [1, 2], 3, 3), ("whole", [6, 6, 6], 2, 3),
                                        ("wide", [4], 5, 4), ("single", [2, 3, 4, 5], 1, 1)]:
        words = np.zeros((len(sizes), 6), np.int32)
        for row, size in zip(words, sizes):
            row[:size] = RNG.integers(1, 20, size)
        inputs = [words, floats(filters, 1, width, 8), floats(filters), floats(20, 8)]
        add("WordConvEmbedding", name, inputs, const={1, 2, 3}, **near())
    good, nan, inf = floats(3, 4), floats(5), floats(2, 2)
    nan[2], inf[0, 1] = np.nan, -np.inf
    for name, inputs, attributes, expected in [
        ("good", [good], {}, True), ("several", [good, nan], {}, False), ("infinite", [good, inf], {}, False),
        ("only_infinite", [nan, good], dict(isinf_only=1), True), ("only_nan", [inf], dict(isnan_only=1), True),
        ("only_nan_found", [inf, nan], dict(isnan_only=1), False),
    ]:
        add("IsAllFinite", name, inputs, reference=[np.array(expected)], **attributes)


def legacy(add):
    early = dict(domain="", onnx_opset=1)
    for n, (alpha, beta) in enumerate([(1.0, 0.0), (0.5, 2.0), (-1.5, 0.25), (3.0, -1.0), (0.01, 0.5)]):
        for op in ("Affine", "ScaledTanh", "ParametricSoftplus"):
            add(op, str(n), [floats(3, 4)], alpha=alpha, beta=beta, **early)
        add("Scale", str(n), [floats(3, 4)], scale=alpha, **early)
        add("ImageScaler", str(n), [floats(1 + n % 2, 3, 4, 5)], scale=alpha, bias=[beta, 1.0, -1.0], **early)
    for name, attributes in [("left", dict(border=[2, 0, 0, 0])), ("all", dict(border=[1, 2, 1, 1])), ("none", dict(border=[0, 0, 0, 0])),
                             ("sized", dict(border=[1, 2, 0, 0], scale=[3, 4])), ("bottom", dict(border=[0, 0, 0, 3]))]:
        add("Crop", name, [floats(1, 2, 7, 8)], **attributes, **early)
    for name, starts, ends, axes in [("both", [1, 0], [3, 4], None), ("axis", [1], [3], [1]), ("negative", [-3], [-1], [0]),
                                     ("beyond", [2], [99], [1]), ("reversed", [0, 1], [2, 3], [1, 0])]:
        inputs = [floats(4, 5), np.array(starts, np.int64), np.array(ends, np.int64)]
        if axes:
            inputs.append(np.array(axes, np.int64))
        add("DynamicSlice", name, inputs, const={1, 2, 3}, **early)


def cases(add):
    convolutions(add)
    products(add)
    activations(add)
    matrices(add)
    images(add)
    shapes(add)
    tokens(add)
    legacy(add)
