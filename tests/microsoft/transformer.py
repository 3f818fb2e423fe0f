"""Cases of com.microsoft's normalizations, attentions and what surrounds them in transformers."""

from math import erf

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
        add("SimplifiedLayerNormalization", name, [floats(*shape), row(inner)], const={1}, domain="", **attributes)
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


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def split(x, heads):
    """[B, S, N * H] as [B, N, S, H]."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(0, 2, 1, 3)


def join(x):
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attend(q, k, v, bias=0.0, scale=None):
    """The formula of attention, on operands in heads."""
    scale = scale or 1 / np.sqrt(q.shape[-1])
    return join(softmax(q @ k.transpose(0, 1, 3, 2) * scale + bias) @ v).astype(f32)


def rotate(x, cosines, sines):
    """Rotates the first features of [B, N, S, H] by angles for each position, whose pairs are half of them apart."""
    half = cosines.shape[-1]
    a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    return np.concatenate([a * cosines - b * sines, a * sines + b * cosines, rest], -1).astype(f32)


def angles(positions, size):
    each = np.asarray(positions)[:, None] * 10000.0 ** (-2.0 * np.arange(size // 2) / size)
    return np.cos(each), np.sin(each)


B, S, N, H = 2, 4, 2, 8
D = N * H
ENDS = np.array([3, 2], i32)
KEYS = np.array([[1, 1, 1, 0], [0, 1, 1, 0]], i32)


def self_attention(add):
    x, w, b = floats(B, S, 12), floats(12, 3 * D), floats(3 * D)
    base = dict(const={1, 2}, num_heads=N)
    past = floats(2, B, N, 3, H)
    op = "Attention"
    add(op, "plain", [x, w, b], **base)
    add(op, "ends", [x, w, b, ENDS], **base)
    add(op, "ends_and_starts", [x, w, b, np.array([3, 4, 1, 0], i32)], **base)
    add(op, "running_sums", [x, w, b, np.array([3, 2, 0, 3, 5, 0, 3, 5], i32)], **base)
    add(op, "keys", [x, w, b, KEYS], **base)
    add(op, "keys_filter", [x, w, b, KEYS], **base, mask_filter_value=-2.0)
    add(op, "all_masked", [x, w, b, np.array([[1, 1, 1, 1], [0, 0, 0, 0]], i32)], **base)
    add(op, "pairs", [x, w, b, np.tril(RNG.integers(0, 2, (B, S, S)) + np.eye(S, dtype=int)).astype(i32)], **base)
    add(op, "says_nothing", [x, w, b, np.ones((B, 1), i32)], **base)
    add(op, "causal", [x, w, b], **base, unidirectional=1)
    add(op, "causal_keys", [x, w, b, KEYS], **base, unidirectional=1)
    add(op, "scale", [x, w, b], **base, scale=0.7)
    add(op, "past", [x, w, b, None, past], **base, outputs=2)
    add(op, "present_only", [x, w, b], **base, outputs=2)
    add(op, "past_causal_keys", [x, w, b, np.concatenate([np.ones((B, 3), i32), KEYS], 1), past], **base, outputs=2,
        unidirectional=1)
    add(op, "past_one_token", [x[:, :1], w, b, None, past], **base, outputs=2, unidirectional=1)
    add(op, "past_ends", [x, w, b, np.array([5, 4], i32), past], **base, outputs=2, unidirectional=1)
    add(op, "sizes", [x, floats(12, 38), floats(38)], **base, qkv_hidden_sizes=[16, 16, 6])
    for n, shape in enumerate([(1, 1, S, S), (B, 1, S, S), (1, N, S, S), (B, N, S, S)]):
        add(op, f"bias_{n}", [x, w, b, ENDS if n % 2 else None, None, floats(*shape)], **base)
    add(op, "half", [x.astype(f16), w.astype(f16), b.astype(f16)], **base, **HALF)
    # ONNX Runtime's kernel for the CPU lacks what follows: the reference is the formula.
    rows = x @ w
    q, k, v = (split(part, N) for part in np.split(rows, 3, -1))
    add(op, "no_bias", [x, w], **base, reference=[attend(q, k, v)])
    mask = np.tril(np.ones((B, 1, 9, 9), i32))
    mask[1, 0, :, 2] = 0
    add(op, "all_positions", [x, w, None, mask], **base,
        reference=[attend(q, k, v, np.where(mask[:, :, :S, :S], 0.0, -10000.0))])
    turned = rotate(q, *angles(range(S), H)), rotate(k, *angles(range(S), H))
    add(op, "rotary", [x, w], **base, do_rotary=1, reference=[attend(*turned, v)])
    late = rotate(q, *angles(range(3, 3 + S), 4)), rotate(k, *angles(range(3, 3 + S), 4))
    keys, values = np.concatenate([past[0], late[1]], 2), np.concatenate([past[1], v], 2)
    add(op, "rotary_past", [x, w, None, None, past], **base, do_rotary=1, rotary_embedding_dim=4, outputs=2,
        reference=[attend(late[0], keys, values), np.stack([keys, values])])
    buffer = floats(2, B, N, 10, H)
    shared = buffer.copy()
    shared[0, :, :, 3:3 + S], shared[1, :, :, 3:3 + S] = k, v
    seen = np.where(np.arange(10) <= 3 + np.arange(S)[:, None], 0.0, -np.inf)
    add(op, "buffer", [x, w, None, None, buffer, None, np.array([3], i32)], **base, past_present_share_buffer=1, outputs=2,
        unidirectional=1, reference=[attend(q, shared[0], shared[1], seen), shared])

    op = "DecoderMaskedSelfAttention"
    one = dict(const={1, 2}, num_heads=N, past_present_share_buffer=1, outputs=2)
    token = floats(B, 1, 12)
    q, k, v = (split(part, N) for part in np.split(token @ w + b, 3, -1))
    start = np.array([3], i32)
    seen = np.where(np.arange(10) <= 3, 0.0, -np.inf)

    def written(buffer, k, v):
        whole = buffer.copy()
        whole[0, :, :, 3:4], whole[1, :, :, 3:4] = k, v
        return whole

    whole = written(buffer, k, v)
    mask = np.array([[1, 0, 1, 1], [1, 1, 0, 1]], i32)
    hidden = np.pad(np.where(mask, 0.0, -10000.0), ((0, 0), (0, 6)))[:, None, None] + seen
    bias = floats(1, N, 1, 4)
    widened = np.pad(bias, ((0, 0), (0, 0), (0, 0), (0, 6))) + seen
    for name, mask, bias, added, attributes in [
        ("plain", None, None, seen, {}), ("mask", mask, None, hidden, {}), ("bias", None, bias, widened, {}),
        ("scale", None, None, seen, dict(scale=0.5)),
    ]:
        add(op, name, [token, w, b, mask, buffer, bias, start], **one, **attributes,
            reference=[attend(q, whole[0], whole[1], added, attributes.get("scale")), whole])
    turned = rotate(q, *angles([3], H)), rotate(k, *angles([3], H))
    whole = written(buffer, turned[1], v)
    add(op, "rotary", [token, w, b, None, buffer, None, start], **one, do_rotary=1,
        reference=[attend(turned[0], whole[0], whole[1], seen), whole])


def multi_head_attention(add):
    q, k, v, bias = floats(B, S, D), floats(B, 6, D), floats(B, 6, 6), floats(2 * D + 6)
    op, base = "MultiHeadAttention", dict(num_heads=N)
    add(op, "plain", [q, k, v], **base)
    add(op, "bias", [q, k, v, bias], const={3}, **base)
    add(op, "ends", [q, k, v, None, np.array([3, 6], i32)], **base)
    add(op, "running_sums", [q, k, v, None, np.array([3, 6, 0, 4, 8, 0, 3, 9], i32)], **base)
    keys = np.array([[1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 1]], i32)
    add(op, "keys", [q, k, v, None, keys], **base)
    add(op, "keys_filter", [q, k, v, None, keys], **base, mask_filter_value=-1.5)
    add(op, "pairs", [q, k, v, bias, RNG.integers(0, 2, (B, S, 6)).astype(i32)], const={3}, **base)
    for n, shape in enumerate([(1, 1, S, 6), (B, 1, S, 6), (1, N, S, 6), (B, N, S, 6)]):
        add(op, f"score_bias_{n}", [q, k, v, None, keys if n % 2 else None, floats(*shape)], **base)
    add(op, "scale", [q, k, v], **base, scale=0.4)
    k2, v2, bias = floats(B, S, D), floats(B, S, D), floats(3 * D)
    past = [floats(B, N, 3, H), floats(B, N, 3, H)]
    add(op, "causal", [q, k2, v2], **base, unidirectional=1)
    add(op, "present", [q, k2, v2, bias], const={3}, outputs=3, **base)
    add(op, "past", [q, k2, v2, None, None, None, *past], outputs=3, **base)
    mask = np.concatenate([np.ones((B, 3), i32), KEYS], 1)
    add(op, "past_all", [q, k2, v2, bias, mask, floats(1, N, S, 7), *past], const={3}, outputs=3, unidirectional=1, **base)
    buffer = [floats(B, N, 10, H), floats(B, N, 10, H)]
    start = np.array([3], i32)
    add(op, "buffer", [q, k2, v2, None, None, None, *buffer, start], outputs=3, **base)
    add(op, "buffer_causal", [q, k2, v2, bias, mask, floats(1, 1, S, 7), *buffer, start], outputs=3, unidirectional=1, **base)
    add(op, "buffer_one_token", [q[:, :1], k2[:, :1], v2[:, :1], None, None, None, *buffer, start], outputs=3, **base)
    crossed = [floats(B, N, 6, H), floats(B, N, 6, H)]
    add(op, "cross", [q, *crossed], **base)
    add(op, "cross_bias", [q, *crossed, bias, keys], const={3}, **base)
    add(op, "scores", [q, k2, v2, None, KEYS], outputs=["y", "k", "v", "qk"], types={"qk": f32}, **base)
    add(op, "half", [q.astype(f16), k.astype(f16), v.astype(f16)], **base, **HALF)
    # ONNX Runtime's kernel for the CPU lacks packed operands: the reference is the formula.
    packed = floats(B, S, N, 3, H)
    parts = [packed[:, :, :, n].reshape(B, S, D) for n in range(3)]
    add(op, "packed", [packed], **base, reference=[attend(*(split(x, N) for x in parts))])
    shifted = [split(x + y, N) for x, y in zip(parts, np.split(bias, 3))]
    add(op, "packed_bias", [packed, None, None, bias], const={3}, **base, reference=[attend(*shifted)])
    packed = floats(B, 6, N, 2, H)
    parts = [split(packed[:, :, :, n].reshape(B, 6, D), N) for n in range(2)]
    add(op, "packed_keys", [q, packed], **base, reference=[attend(split(q, N), *parts)])

    op = "DecoderMaskedMultiHeadAttention"
    one, shared = [q[:, :1], k2[:, :1], v2[:, :1]], dict(num_heads=N, past_present_share_buffer=1, outputs=3)
    add(op, "plain", [*one, None, None, *buffer, start], **shared)
    add(op, "mask", [*one, np.array([[1, 0, 1, 1], [1, 1, 0, 1]], i32), None, *buffer, start], **shared)
    add(op, "score_bias", [*one, None, floats(1, N, 1, 4), *buffer, start], **shared)
    add(op, "bias", [*one, None, None, *buffer, start, None, None, bias], const={10}, **shared, scale=0.3)
    beams = np.zeros((1, 2, 10), i32)
    beams[0, 0, :3], beams[0, 1, :3] = [0, 1, 1], [1, 1, 0]
    add(op, "beams", [*one, None, None, *buffer, start, np.array([2], i32), beams], **shared)
    add(op, "cross", [q[:, :1], *crossed], num_heads=N)
    add(op, "cross_mask", [q[:, :1], *crossed, keys], num_heads=N, mask_filter_value=-3.0)


def rotary(add):
    op = "RotaryEmbedding"
    tables = [floats(12, H // 2), floats(12, H // 2)]
    x, places = floats(B, S, D), np.array([[3, 4, 5, 6], [0, 2, 9, 11]])
    wide, const = floats(B, S, N * 16), {2, 3}
    add(op, "plain", [x, places, *tables], const=const)
    add(op, "interleaved", [x, places, *tables], const=const, interleaved=1)
    add(op, "offset", [x, np.array([3]), *tables], const=const)
    add(op, "heads", [floats(B, N, S, H), places, *tables], const=const)
    add(op, "heads_interleaved", [floats(B, N, S, H), np.array([1]), *tables], const=const, interleaved=1, scale=2.0)
    partial = dict(num_heads=N, rotary_embedding_dim=8)
    add(op, "partial", [wide, places, *tables], const=const, **partial)
    add(op, "partial_interleaved", [wide, places, *tables], const=const, interleaved=1, **partial)
    add(op, "partial_heads", [floats(B, N, S, 16), places, *tables], const=const, **partial)
    add(op, "packed_batching", [wide, places, *tables], const=const, is_packed_batching=1, **partial)
    add(op, "half", [wide.astype(f16), places, *(t.astype(f16) for t in tables)], const=const, **partial, **HALF)
    add(op, "tables_at_run_time", [x, places, *tables])


def group_query(add):
    op, n, kv, h = "GroupQueryAttention", 4, 2, 16
    base = dict(num_heads=n, kv_num_heads=kv, outputs=3)
    new = lambda b, s: [floats(b, s, n * h), floats(b, s, kv * h), floats(b, s, kv * h)]
    tables = [floats(20, h // 2), floats(20, h // 2)]

    def lengths(total, *each):
        return [np.array([e - 1 for e in each], i32), np.array([total], i32)]

    def buffers(b, m, filled=None):
        past = [floats(b, kv, m, h) for _ in range(2)]
        if filled:
            for p in past:
                for row, end in zip(p, filled):
                    row[:, end:] = 0
        return past

    add(op, "prompt", [*new(2, 5), None, None, *lengths(5, 5, 5)], const={6}, **base)
    add(op, "prompt_rotary", [*new(2, 5), None, None, *lengths(5, 5, 5), *tables], const={6, 7, 8}, do_rotary=1, **base)
    add(op, "prompt_interleaved", [*new(2, 5), None, None, *lengths(5, 5, 5), *tables], const={6, 7, 8}, do_rotary=1,
        rotary_interleaved=1, **base)
    wide = [floats(1, 5, 64), floats(1, 5, 32), floats(1, 5, 32)]
    add(op, "partial_rotary", [*wide, None, None, *lengths(5, 5), *tables], const={6}, do_rotary=1, num_heads=2,
        kv_num_heads=1, outputs=3)
    add(op, "prompt_into_buffer", [*new(2, 5), *buffers(2, 9, [0, 0]), *lengths(5, 5, 5), *tables], const={6}, do_rotary=1,
        **base)
    add(op, "packed", [floats(2, 5, (n + 2 * kv) * h), None, None, None, None, *lengths(5, 5, 5), *tables], const={6},
        do_rotary=1, **base)
    add(op, "token", [*new(2, 1), *buffers(2, 9, [6, 3]), *lengths(7, 7, 4), *tables], const={6}, do_rotary=1, **base)
    add(op, "token_growing", [*new(2, 1), *buffers(2, 6), *lengths(7, 7, 7), *tables], const={6}, do_rotary=1, **base)
    add(op, "token_packed", [floats(2, 1, (n + 2 * kv) * h), None, None, *buffers(2, 9, [6, 3]), *lengths(7, 7, 4)],
        const={6}, **base)
    add(op, "more_tokens", [*new(1, 3), *buffers(1, 9, [4]), *lengths(7, 7), *tables], const={6}, do_rotary=1, **base)
    add(op, "total_at_run_time", [*new(1, 3), *buffers(1, 9, [4]), *lengths(7, 7), *tables], do_rotary=1, **base)
    add(op, "prompt_total_at_run_time", [*new(2, 5), None, None, *lengths(5, 5, 5), *tables], do_rotary=1, **base)
    add(op, "window", [*new(1, 6), None, None, *lengths(6, 6)], const={6}, local_window_size=2, **base)
    add(op, "window_token", [*new(2, 1), *buffers(2, 9, [6, 3]), *lengths(7, 7, 4)], const={6}, local_window_size=3, **base)
    add(op, "softcap", [*new(2, 5), None, None, *lengths(5, 5, 5)], const={6}, softcap=0.5, **base)
    add(op, "scale", [*new(2, 5), None, None, *lengths(5, 5, 5)], const={6}, scale=0.6, **base)
    add(op, "positions", [*new(2, 1), *buffers(2, 9, [6, 3]), *lengths(7, 7, 4), *tables, np.array([[5], [11]])], const={6},
        do_rotary=1, **base)
    add(op, "prompt_positions", [*new(1, 4), None, None, *lengths(4, 4), *tables, np.array([[0, 1, 2, 3]])], const={6},
        do_rotary=1, **base)
    add(op, "bias", [*new(2, 5), None, None, *lengths(5, 5, 5), None, None, None, floats(1, n, 5, 5)], const={6}, **base,
        softcap=1.0)
    add(op, "bias_token", [*new(2, 1), *buffers(2, 9, [6, 3]), *lengths(7, 7, 4), None, None, None, floats(2, 1, 1, 7)],
        const={6}, **base)
    add(op, "smooth", [*new(2, 5), None, None, *lengths(5, 5, 5)], const={6}, smooth_softmax=1, **base)
    add(op, "sink", [*new(2, 5), None, None, *lengths(5, 5, 5), None, None, None, None, floats(n)], const={6, 11}, **base)
    add(op, "bidirectional", [*new(2, 5), None, None, *lengths(5, 5, 5)], const={6}, causal=0, **base)
    more = {**base, "outputs": 4}
    add(op, "scores", [*new(1, 5), None, None, *lengths(5, 5)], const={6}, qk_output=1, **more)
    add(op, "weights", [*new(1, 5), None, None, *lengths(5, 5)], const={6}, qk_output=2, **more)
    half = lambda values: [None if v is None else v.astype(f16) if v.dtype == f32 else v for v in values]
    add(op, "half", half([*new(2, 5), None, None, *lengths(5, 5, 5), *tables]), const={6}, do_rotary=1, **base, **HALF)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Places with padding of the tokens of two sequences of 3 and 2, then those of padding; the ends of the sequences.
PLACES = np.array([[0, 1, 2, 4], [5, 3, 6, 7]], i32)
SUMS = np.array([0, 3, 5], i32)


def without_padding(add):
    """ONNX Runtime has no kernels for the CPU: the reference is the formula on each sequence."""

    def each(q, k, v, heads, bias=None, scale=None):
        out = []
        for n, (a, b) in enumerate(zip(SUMS, SUMS[1:])):
            part = [split(x[None, a:b], heads) for x in (q, k, v)]
            added = 0.0 if bias is None else bias[n % len(bias)][:, :b - a, :b - a]
            out.append(attend(*part, added, scale)[0])
        return [np.concatenate(out)]

    op, base = "PackedAttention", dict(const={1, 2}, num_heads=N)
    x, w, b = floats(5, 12), floats(12, 3 * D), floats(3 * D)
    q, k, v = np.split(x @ w + b, 3, -1)
    add(op, "plain", [x, w, b, PLACES, SUMS], **base, reference=each(q, k, v, N))
    add(op, "scale", [x, w, b, PLACES, SUMS], **base, scale=0.3, reference=each(q, k, v, N, None, 0.3))
    for shape in [(1, 1, S, S), (B, N, S, S)]:
        bias = floats(*shape)
        add(op, f"bias_{shape[0]}", [x, w, b, PLACES, SUMS, bias], **base, reference=each(q, k, v, N, bias))
    add(op, "heads", [x, w, b, PLACES, SUMS], const={1, 2}, num_heads=4, reference=each(q, k, v, 4))
    narrow = floats(12, 38), floats(38)
    parts = np.split(x @ narrow[0] + narrow[1], [16, 32], -1)
    add(op, "sizes", [x, *narrow, PLACES, SUMS], **base, qkv_hidden_sizes=[16, 16, 6], reference=each(*parts, N))

    op, base = "PackedMultiHeadAttention", dict(num_heads=N)
    q, k, v, b = floats(5, D), floats(5, D), floats(5, 6), floats(2 * D + 6)
    add(op, "plain", [q, k, v, None, PLACES, SUMS], **base, reference=each(q, k, v, N))
    shifted = q + b[:D], k + b[D:2 * D], v + b[2 * D:]
    add(op, "bias", [q, k, v, b, PLACES, SUMS], const={3}, **base, reference=each(*shifted, N))
    add(op, "scale", [q, k, v, None, PLACES, SUMS], **base, scale=1.2, reference=each(q, k, v, N, None, 1.2))
    bias = floats(B, 1, S, S)
    add(op, "score_bias", [q, k, v, None, PLACES, SUMS, bias], **base, reference=each(q, k, v, N, bias))
    packed = floats(5, N, 3, H)
    parts = [packed[:, :, n].reshape(5, D) for n in range(3)]
    add(op, "packed", [packed, None, None, None, PLACES, SUMS], **base, reference=each(*parts, N))
    b = floats(3 * D)
    shifted = [x + y for x, y in zip(parts, np.split(b, 3))]
    add(op, "packed_bias", [packed, None, None, b, PLACES, SUMS], const={3}, **base, reference=each(*shifted, N))

    for n, counts in enumerate([[3, 2], [4, 4], [1, 3], [0, 2], [4, 1]]):
        counts = np.array(counts, i32)
        flags = np.arange(S) < counts[:, None]
        places = np.concatenate([np.flatnonzero(flags), np.flatnonzero(~flags)]).astype(i32).reshape(B, S)
        padded, ends = floats(B, S, 6), np.concatenate([[0], np.cumsum(counts)]).astype(i32)
        add("RemovePadding", f"{n}", [padded, counts], outputs=4,
            reference=[padded[flags], places, ends, counts.max(keepdims=True)])
        add("RestorePadding", f"{n}", [padded[flags], places], reference=[np.where(flags[:, :, None], padded, f32(0))])


def positions(add):
    """Biases by position; the reference is the formula where ONNX Runtime has no kernel for the CPU."""
    op = "RelativePositionBias"

    def buckets(q, k, count, furthest, both):
        distance = np.arange(q)[:, None] - np.arange(k)
        start = np.zeros_like(distance)
        if both:
            count //= 2
            start = np.where(distance < 0, count, 0)
            distance = np.abs(distance)
        distance = np.maximum(distance, 0)
        exact = count // 2
        far = exact + (np.log(np.maximum(distance, 1) / exact) / np.log(furthest / exact) * (count - exact)).astype(int)
        return start + np.where(distance < exact, distance, np.minimum(far, count - 1))

    for name, q, k, count, furthest, both in [
        ("both", 7, 7, 32, 128, 1), ("past", 7, 7, 32, 128, 0), ("long", 70, 70, 32, 50, 1), ("few", 40, 40, 8, 20, 0),
        ("uneven", 5, 37, 16, 30, 1),
    ]:
        table = floats(count, 3)
        y = table[buckets(q, k, count, furthest, both)].transpose(2, 0, 1)[None]
        add(op, name, [table, np.array([q]), np.array([k])], const={0, 1, 2}, is_bidirectional=both, max_distance=furthest,
            reference=[y])
    add(op, "lengths_at_run_time", [table, np.array([q]), np.array([k])], is_bidirectional=both, max_distance=furthest,
        reference=[y])

    op = "GatedRelativePositionBias"
    for name, heads, size, width, bias_rows in [
        ("plain", 2, 8, 8, True), ("heads", 4, 4, 6, True), ("narrow", 1, 16, 2, True), ("wide", 2, 8, 32, True),
        ("packed", 2, 8, 8, False),
    ]:
        query, shift, distances = floats(B, S, heads * size), floats(heads * size), floats(1, heads, S, S)
        weight, bias, scale = floats(size, width), floats(width), floats(1, heads, 1, 1)
        tokens = PLACES.reshape(-1)[:5]
        if not bias_rows:
            flat = np.zeros_like(query).reshape(B * S, -1)
            flat[tokens] = query.reshape(B * S, -1)[tokens]
            query = flat.reshape(query.shape)
        gates = split(query + shift, heads) @ weight + bias
        gates = sigmoid(gates.reshape(B, heads, S, 2, width // 2).sum(-1))
        y = (gates[..., :1] * (gates[..., 1:] * scale - 1) + 2) * distances
        inputs = [query if bias_rows else query.reshape(B * S, -1)[tokens], shift, distances, weight, bias, scale]
        add(op, name, inputs + ([] if bias_rows else [PLACES]), const={1, 3, 4, 5}, num_heads=heads, reference=[y.astype(f32)])

    op, tables = "MRotaryEmbedding", [floats(12, 4), floats(12, 4)]
    places = RNG.integers(0, 12, (3, B, S))
    for name, shape, attributes in [
        ("sections", (B, S, D), dict(mrope_section=[2, 1, 1])), ("one_section", (B, S, D), dict(mrope_section=[4, 0, 0])),
        ("thirds", (B, S, D), dict(mrope_section=[2, 1, 1], mrope_layout=1)),
        ("interleaved", (B, S, D), dict(mrope_section=[1, 2, 1], interleaved=1)),
        ("heads", (B, N, S, H), dict(mrope_section=[1, 1, 2])),
        ("partial", (B, S, 2 * D), dict(mrope_section=[2, 1, 1], rotary_embedding_dim=8, mrope_layout=1)),
    ]:
        add(op, name, [floats(*shape), places, *tables], const={2, 3}, num_heads=N, **attributes)


def gates(add):
    """The first four have no kernels for the CPU in ONNX Runtime: the reference is the formula."""
    for name, shape in [("plain", (2, 4, 320)), ("narrow", (1, 3, 16)), ("odd", (2, 5, 6)), ("one", (1, 1, 8)), ("long", (1, 70, 12))]:
        x, bias, skip = floats(*shape), floats(shape[-1]), floats(*shape)
        add("BiasAdd", name, [x, bias, skip], const={1}, reference=[x + bias + skip])
        left, right = np.split(x + bias, 2, -1)
        add("BiasSplitGelu", name, [x, bias], const={1}, reference=[(left * gelu(right)).astype(f32)])
        add("BiasDropout", name, [x, bias, skip] if shape[0] > 1 else [x, bias], outputs=2,
            reference=[x + bias + (skip if shape[0] > 1 else 0), np.ones(shape, bool)])
    for name, x, bias, axis, inner in [
        ("rows", (2, 3, 4, 5), (2, 1, 1, 5), 3, 1), ("shared", (2, 3, 4, 5), (4, 5), 3, 0), ("merged", (2, 3, 4, 5), (2, 1, 4, 5), 2, 1),
        ("batch", (4, 6), (1, 6), 1, 0), ("all", (3, 7), (3, 7), 1, 1),
    ]:
        x, bias = floats(*x), floats(*bias)
        sums = (x + bias).reshape(*x.shape[:axis], -1)
        add("BiasSoftmax", name, [x, bias], axis=axis, is_inner_broadcast=inner, reference=[softmax(sums).reshape(x.shape)])
    for name, shape in [("plain", (2, 8)), ("rank_3", (2, 3, 16)), ("one", (1, 1)), ("wide", (3, 100)), ("rank_4", (2, 1, 3, 4))]:
        add("GatedAdd", name, [floats(*shape), floats(*shape), floats(*shape[:-1], 1)])
        add("ScaledSiLU", name, [floats(*shape)], alpha=0.5 + len(shape))
        add("ScaledSiLU", name + "_input", [floats(*shape), f32(1.7)], alpha=3.0)
        add("GatedRMSNorm", name, [floats(*shape), row(shape[-1]), floats(*shape)], const={1},
            **(dict(activation="sigmoid") if len(shape) == 3 else {}))
        bias, scale, b = floats(shape[-1]), -np.exp(floats(shape[-1])), floats(2, 3, shape[-1])
        add("LinearAttentionGate", name, [floats(2, 3, shape[-1]), bias, scale, b], outputs=2)
    add("GatedRMSNorm", "groups", [floats(3, 24), row(8), floats(3, 24)], activation="swish", epsilon=0.1)
    add("LinearAttentionGate", "decay_only", [floats(2, 3, 4), floats(4), floats(4)])


def gelus(add):
    for name, shape in [("plain", (2, 8)), ("rank_1", (5,)), ("rank_4", (2, 1, 3, 4)), ("wide", (3, 300)), ("one", (1, 1))]:
        x, bias = 3 * floats(*shape), floats(shape[-1])
        add("Gelu", name, [x])
        add("BiasGelu", name, [x, bias], const={1})
        add("FastGelu", name, [x])
        add("FastGelu", name + "_bias", [x, bias], const={1})
        add("QuickGelu", name, [x], alpha=1.702 - shape[-1] / 10)
    add("QuickGelu", "default", [3 * floats(4, 9)])


def products(add):
    """FusedMatMul: `transBatch` moves the first axis behind the others but the last."""
    for name, a, b, attributes in [
        ("plain", (3, 4), (4, 5), dict(alpha=0.5)), ("swapped", (4, 3), (5, 4), dict(transA=1, transB=1)),
        ("batch", (2, 3, 4), (2, 5, 4), dict(transB=1, alpha=-2.0)), ("shared", (2, 3, 4), (4, 5), {}),
        ("batch_a", (3, 2, 4), (2, 4, 5), dict(transBatchA=1)), ("batch_b", (2, 3, 4), (4, 2, 5), dict(transBatchB=1)),
        ("both", (3, 2, 4), (5, 2, 4), dict(transBatchA=1, transBatchB=1, transB=1)),
        ("batch_swapped", (4, 2, 3), (2, 4, 5), dict(transBatchA=1, transA=1)),
    ]:
        add("FusedMatMul", name, [floats(*a), floats(*b)], const={1} if len(b) == 2 else (), **attributes)


def states(add):
    op, c = "CausalConvWithState", 3
    two = dict(outputs=2)
    add(op, "plain", [floats(2, c, 6), floats(c, 1, 4)], const={1}, **two)
    add(op, "state", [floats(2, c, 6), floats(c, 1, 4), floats(c), floats(2, c, 3)], const={1, 2}, **two)
    add(op, "silu", [floats(2, c, 1), floats(c, 1, 4), floats(c), floats(2, c, 3)], const={1, 2}, activation="silu", **two)
    add(op, "swish", [floats(1, c, 9), floats(c, 1, 2), floats(c)], activation="swish", **two)
    add(op, "dilation", [floats(2, c, 5), floats(c, 1, 3), floats(c), floats(2, c, 4)], const={1, 2}, dilation=2, **two)
    add(op, "last", [floats(2, 5, c), floats(c, 1, 3), floats(c), floats(2, 2, c)], const={1, 2}, channels_last=1, **two)
    add(op, "last_axes", [floats(2, 5, 2, 4), floats(8, 1, 3), None, floats(2, 2, 2, 4)], const={1}, channels_last=1, **two)
    # A window of states is not for the CPU: the reference is the formula.
    for name, window, length in [("window", 2, 5), ("long_window", 4, 2)]:
        x, w, past = floats(1, c, length), floats(c, 1, 3), floats(window, 1, c, 2)
        padded = np.concatenate([past[-1], x], 2)
        y = sum(padded[:, :, n:n + length] * w[:, 0, n:n + 1] for n in range(3))
        slots = [length - window + n for n in range(window)]
        last = np.stack([padded[:, :, p + 1:p + 3] if p >= 0 else np.zeros((1, c, 2), f32) for p in slots])
        add(op, name, [x, w, None, past], const={1}, state_window=window, reference=[y, last], **two)

    op = "LinearAttention"
    rows = lambda q, k, t=3: [floats(2, t, q * 4), floats(2, t, k * 4), floats(2, t, k * 6)]
    heads = lambda q, k: dict(q_num_heads=q, kv_num_heads=k, outputs=2)
    decay, beta = -np.abs(floats(2, 3, 2)), sigmoid(floats(2, 3, 2)).astype(f32)
    add(op, "linear", rows(2, 2), update_rule="linear", **heads(2, 2))
    add(op, "gated", [*rows(2, 2), None, decay], update_rule="gated", **heads(2, 2))
    add(op, "gated_features", [*rows(2, 2), None, -np.abs(floats(2, 3, 8))], update_rule="gated", **heads(2, 2))
    add(op, "delta", [*rows(4, 2), None, None, beta], update_rule="delta", scale=0.7, **heads(4, 2))
    add(op, "gated_delta", [*rows(4, 2), floats(2, 2, 4, 6), decay, beta], **heads(4, 2))
    add(op, "one_beta", [*rows(2, 2), floats(2, 2, 4, 6), decay, beta[:, :, :1]], **heads(2, 2))
    add(op, "more_keys", [*rows(2, 4), floats(2, 4, 4, 6)], update_rule="linear", **heads(2, 4))
    add(op, "token", [*rows(2, 2, 1), floats(2, 2, 4, 6), decay[:, :1], beta[:, :1]], **heads(2, 2))
    q, k, v = rows(2, 2)
    state, states = np.zeros((2, 2, 4, 6), f32), [np.zeros((2, 2, 4, 6), f32)] * 2
    out = []
    for t in range(3):
        a, b, c = (x[:, t].reshape(2, 2, -1) for x in (q, k, v))
        state = state + b[..., None] * c[:, :, None]
        states.append(state)
        out.append(np.einsum("bhk,bhkv->bhv", a, state).reshape(2, -1) / 2)
    for name, window in [("window", 2), ("long_window", 5)]:
        add(op, name, [q, k, v], update_rule="linear", state_window=window, **heads(2, 2),
            reference=[np.stack(out, 1), np.stack(states[-window:])])


def branches(add):
    c, h = 3, 8
    wide, flat = lambda *outer: floats(*outer, c, h), lambda *outer: floats(*outer, c * h)
    op = "BranchwiseRMSNorm"
    add(op, "plain", [wide(2, 5)])
    add(op, "row", [wide(2, 5), row(h)], const={1})
    add(op, "scales", [wide(2, 5), row((c, h))], const={1}, epsilon=0.1)
    add(op, "flat", [flat(2, 5), row(c * h)], const={1}, num_branches=c)
    add(op, "flat_row", [flat(4), row(h)], num_branches=c)
    add(op, "half", [wide(2, 5).astype(f16), row((c, h))], const={1}, **HALF)
    op = "HyperConnectionPreMix"
    add(op, "plain", [wide(2, 5), floats(2, 5, c)])
    add(op, "column", [wide(2, 5), floats(2, 5, c, 1)], reduction_scale=0.5)
    add(op, "whole", [wide(2, 5), wide(2, 5)])
    add(op, "flat", [flat(2, 5), floats(2, 5, c)], num_branches=c)
    add(op, "flat_whole", [flat(2, 5), flat(2, 5)], num_branches=c)
    add(op, "half", [wide(2, 5).astype(f16), floats(2, 5, c)], **HALF)
    op = "HyperConnectionPostMix"
    add(op, "plain", [wide(2, 5), floats(2, 5, h), floats(2, 5, c)])
    add(op, "column", [wide(2, 5), floats(2, 5, h), floats(2, 5, c, 1)])
    add(op, "whole", [wide(2, 5), floats(2, 5, h), wide(2, 5), floats(2, 5, c, c)])
    add(op, "mixed", [wide(2, 5), floats(2, 5, h), floats(2, 5, c), floats(2, 5, c, c)])
    add(op, "flat", [flat(2, 5), floats(2, 5, h), floats(2, 5, c), floats(2, 5, c, c)], num_branches=c)
    add(op, "half", [wide(2, 5).astype(f16), floats(2, 5, h).astype(f16), floats(2, 5, c), floats(2, 5, c, c)], **HALF)
    op = "EngramGate"
    inputs = lambda b, s: [wide(b, s), wide(b, s), floats(b, s, h), row((c, h)), row((c, h))]
    add(op, "plain", inputs(2, 5), const={3, 4})
    add(op, "one_token", inputs(1, 1), const={3, 4})
    add(op, "epsilon", inputs(2, 3), epsilon=0.5)
    add(op, "normalized", [*inputs(2, 5), row((c, h))], const={3, 4, 5}, outputs=2)
    add(op, "half", [v.astype(f16) for v in [*inputs(2, 5), row((c, h))]], outputs=2, **HALF)


def cases(add):
    normalizations(add)
    self_attention(add)
    multi_head_attention(add)
    rotary(add)
    group_query(add)
    without_padding(add)
    positions(add)
    gates(add)
    gelus(add)
    products(add)
    states(add)
    branches(add)
