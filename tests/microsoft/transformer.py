"""Cases of com.microsoft's normalizations, attentions and what surrounds them in transformers."""

import numpy as np

RNG = np.random.default_rng(5)
f32 = np.float32
f16 = np.float16
i32 = np.int32
i64 = np.int64

HALF = dict(rtol=1e-2, atol=1e-2)


def floats(*shape, dtype=f32):
    return RNG.standard_normal(shape).astype(dtype)


def row(n, dtype=f32):
    """A scale: not too near to 0."""
    return (1 + 0.2 * RNG.standard_normal(n)).astype(dtype)


def normalizations(add):
    for name, shape, attributes in [
        ("plain", (2, 5, 16), {}), ("epsilon", (3, 7), dict(epsilon=0.1)), ("wide", (2, 300), {}),
        ("axis", (2, 3, 8), dict(axis=1)), ("negative_axis", (2, 3, 4, 5), dict(axis=-2, epsilon=1e-3)),
    ]:
        inner = shape[attributes.get("axis", -1):]
        for domain, prefix in [("", "")]:
            add("SimplifiedLayerNormalization", name, [floats(*shape), row(inner)], const={1}, domain=domain, **attributes)
    add("SimplifiedLayerNormalization", "half", [floats(2, 9, dtype=f16), row(9, f16)], domain="", **HALF)
    add("SimplifiedLayerNormalization", "statistics", [floats(2, 9), row(9)], domain="", outputs=2)
    for op in ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"]:
        shift = [floats(24)] if op == "SkipLayerNormalization" else []
        x, wide = (2, 3, 24), dict(const={2, 3, 4})
        add(op, "plain", [floats(*x), floats(*x), row(24), *shift], **wide)
        add(op, "bias", [floats(*x), floats(*x), row(24), *shift, floats(24)], **wide, epsilon=1e-3)
        add(op, "sum", [floats(*x), floats(*x), row(24), *shift], outputs=["y", "", "", "s"], **wide)
        add(op, "bias_sum", [floats(*x), floats(*x), row(24), *shift, floats(24)], outputs=["y", "", "", "s"], **wide)
        add(op, "matrix", [floats(4, 24), floats(4, 24), row(24), *shift], **wide)
        add(op, "shared", [floats(*x), floats(1, 3, 24), row(24), *shift], **wide)
        add(op, "no_batch", [floats(*x), floats(3, 24), row(24), *shift], **wide)
        half = [v.astype(f16) for v in [floats(*x), floats(*x), row(24), *shift, floats(24)]]
        add(op, "half", half, **wide, **HALF)
    add("SkipLayerNormalization", "no_shift", [floats(2, 3, 8), floats(2, 3, 8), row(8), None, floats(8)])
    b, s, h = 2, 6, 16
    ids = lambda high, *shape: RNG.integers(0, high, shape).astype(i32)
    tables = [floats(11, h), floats(9, h), floats(3, h), row(h), floats(h)]
    mask = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], i32)
    whole = lambda mask, places: [ids(11, b, s), ids(3, b, s), *tables, mask, places]
    base = dict(const={2, 3, 4, 5, 6}, outputs=2)
    add("EmbedLayerNormalization", "plain", whole(None, None), **base)
    add("EmbedLayerNormalization", "mask", whole(mask, None), **base)
    add("EmbedLayerNormalization", "positions", whole(mask, ids(9, b, s)), **base)
    add("EmbedLayerNormalization", "shared_positions", whole(None, ids(9, 1, s)), **base, epsilon=1e-2)
    add("EmbedLayerNormalization", "no_segments", [ids(11, b, s), None, *tables[:2], None, *tables[3:], mask], **base)
    add("EmbedLayerNormalization", "sum", whole(mask, None), **{**base, "outputs": 3}, mask_index_type=0)


def cases(add):
    normalizations(add)
