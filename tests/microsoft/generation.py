"""Cases of com.microsoft's searches, with a small decoder as their subgraph."""

import numpy as np
from generate import OPSET, run
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(3)
f32 = np.float32
i32 = np.int32

WORDS, HEADS, SIZE, LAYERS = 12, 2, 3, 2
WIDTH = HEADS * SIZE
PAD = 0
# A token that the decoder below does not come to: a search with it as the end token fills its sequences.
NEVER = 10


def decoder(seed=9):
    """What is remembered of each token is its embedding; the mean over all tokens so far that the mask keeps, which
    stands for attention, is added to the newest. The scores come from that."""
    rng = np.random.default_rng(seed)
    weight = lambda *shape: (1.5 * rng.standard_normal(shape)).astype(f32)
    constants = {
        "words": weight(WORDS, WIDTH), "places": weight(64, WIDTH), "out": weight(WIDTH, WORDS),
        "heads": np.array([0, 0, HEADS, SIZE]), "rows": np.array([0, 0, WIDTH]), "first": np.array(0),
        "axis_0": np.array([0]), "axis_2": np.array([2]), "axes_1_3": np.array([1, 3]),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["words", "input_ids"], ["word"]), node("Gather", ["places", "position_ids"], ["place"]),
        node("Add", ["word", "place"], ["state0"]), node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["kept", "axes_1_3"], ["mask"]),
    ]
    for n in range(LAYERS):
        nodes += [
            node("Reshape", [f"state{n}", "heads"], [f"split{n}"]), node("Transpose", [f"split{n}"], [f"new{n}"], perm=[0, 2, 1, 3]),
            node("Unsqueeze", [f"new{n}", "axis_0"], [f"half{n}"]), node("Concat", [f"half{n}", f"half{n}"], [f"both{n}"], axis=0),
            node("Concat", [f"past_{n}", f"both{n}"], [f"present_{n}"], axis=3),
            node("Gather", [f"present_{n}", "first"], [f"keys{n}"]), node("Mul", [f"keys{n}", "mask"], [f"seen{n}"]),
            node("ReduceMean", [f"seen{n}", "axis_2"], [f"mean{n}"]), node("Add", [f"new{n}", f"mean{n}"], [f"sum{n}"]),
            node("Tanh", [f"sum{n}"], [f"active{n}"]), node("Transpose", [f"active{n}"], [f"back{n}"], perm=[0, 2, 1, 3]),
            node("Reshape", [f"back{n}", "rows"], [f"state{n + 1}"]),
        ]
    nodes.append(node("MatMul", [f"state{LAYERS}", "out"], ["logits"]))
    value = helper.make_tensor_value_info
    inputs = [value(name, TensorProto.INT32, ["b", length]) for name, length in
              [("input_ids", "s"), ("position_ids", "s"), ("attention_mask", "t")]]
    inputs += [value(f"past_{n}", TensorProto.FLOAT, [2, "b", HEADS, "p", SIZE]) for n in range(LAYERS)]
    outputs = [value("logits", TensorProto.FLOAT, ["b", "s", WORDS])]
    outputs += [value(f"present_{n}", TensorProto.FLOAT, [2, "b", HEADS, "t", SIZE]) for n in range(LAYERS)]
    return helper.make_graph(nodes, "decoder", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in constants.items()])


PROMPT = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], i32)
PADDED = np.array([[0, 0, 3, 4], [0, 6, 7, 8]], i32)


def one(value, dtype=i32):
    return np.array([value], dtype)


def ended(op, inputs, end, attributes):
    """The sequences of a search that stops early. ONNX Runtime leaves what is behind the stop as it was; here it is
    padding."""
    names = ["" if value is None else f"x{n}" for n, value in enumerate(inputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], domain="com.microsoft", **{**attributes, "eos_token_id": NEVER})],
        op,
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
         for n, v in zip(names, inputs) if v is not None],
        [helper.make_empty_tensor_value_info("y")],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    rows = run(model, {n: v for n, v in zip(names, inputs) if v is not None})[0]
    assert not (rows[:, inputs[0].shape[1]:] == NEVER).any()
    for row in rows:
        found = np.flatnonzero(row[inputs[0].shape[1]:] == end)
        if len(found):
            row[inputs[0].shape[1] + found[0]:] = attributes["pad_token_id"]
    return [rows]


def searches(add, op, extra):
    base = dict(const={1, 2, 3, 4, 5, 6, 7, 8}, decoder=decoder(), pad_token_id=PAD, **extra)
    words = np.ones(WORDS, i32)
    words[[8, 9]] = 0
    rows = np.ones((2, WORDS), i32)
    rows[0, 8], rows[1, [8, 9]] = 0, 0
    most = one(12)
    add(op, "plain", [PROMPT, most], eos_token_id=NEVER, **base)
    add(op, "padded", [PADDED, most], eos_token_id=NEVER, **base)
    add(op, "one_token", [PROMPT[:1, :1], most], eos_token_id=NEVER, **base)
    add(op, "one_ends", [PROMPT, most], eos_token_id=11, **base)
    for end in [8, 4, 9]:
        free = {k: v for k, v in base.items() if k != "const"}
        add(op, f"all_end_{end}", [PROMPT, most], eos_token_id=end, **base, reference=ended(op, [PROMPT, most], end, free))
    add(op, "penalty", [PROMPT, most, None, one(1.5, f32)], eos_token_id=NEVER, **base)
    add(op, "rows_of_2", [PROMPT, most], eos_token_id=NEVER, no_repeat_ngram_size=2, **base)
    add(op, "rows_of_1", [PROMPT, one(8)], eos_token_id=NEVER, no_repeat_ngram_size=1, **base)
    add(op, "rows_of_3", [PROMPT, one(20)], eos_token_id=NEVER, no_repeat_ngram_size=3, **base)
    add(op, "words", [PROMPT, most, None, None, words], eos_token_id=NEVER, **base)
    add(op, "first_words", [PROMPT, most, None, None, None, rows], eos_token_id=NEVER, **base)
    add(op, "least_length", [PROMPT, most, one(12)], eos_token_id=8, **base)
    mask = np.array([[1, 0, 1, 1], [1, 1, 1, 1]], i32)
    add(op, "mask", [PROMPT, most, None, None, None, None, mask], eos_token_id=NEVER, **base)
    add(op, "other_first_decoder", [PROMPT, most], eos_token_id=NEVER, init_decoder=decoder(4), **base)
    add(op, "length_at_run_time", [PROMPT, most, one(6), one(1.2, f32)], eos_token_id=NEVER, **{**base, "const": {}})
    add(op, "full", [PROMPT, one(5)], eos_token_id=NEVER, **base)


def beams(add):
    """Beams of one prompt and of several; ONNX Runtime compares scores of several prompts with each other when it decides
    whether one is done, so that only early stopping and sequences without an end are the same there."""
    op, most = "BeamSearch", one(12)
    base = dict(const=set(range(1, 10)), decoder=decoder(), pad_token_id=PAD, outputs=2)

    def case(name, prompt=PROMPT, beams=3, returned=2, length=most, least=one(1), penalty=1.0, repetition=1.0,
             words=None, first=None, mask=None, end=NEVER, **extra):
        inputs = [prompt, length, least, one(beams), one(returned), one(penalty, f32), one(repetition, f32), words, first, mask]
        while inputs[-1] is None:
            inputs.pop()
        add(op, name, inputs, eos_token_id=end, **{**base, **extra})

    words = np.ones(WORDS, i32)
    words[[8, 9]] = 0
    rows = np.ones((2, WORDS), i32)
    rows[0, 8], rows[1, [8, 9]] = 0, 0
    case("plain")
    case("one_beam", beams=1, returned=1)
    case("padded", prompt=PADDED)
    case("one_result", beams=4, returned=1)
    case("all_results", beams=4, returned=4)
    case("penalty", penalty=2.0, returned=3)
    case("no_penalty", penalty=0.0)
    for end in [1, 4, 8, 11]:
        case(f"one_prompt_end_{end}", prompt=PROMPT[:1], end=end, returned=3)
        case(f"one_prompt_penalty_end_{end}", prompt=PROMPT[1:], end=end, returned=3, penalty=0.5)
        case(f"early_end_{end}", end=end, returned=3, early_stopping=1)
    case("least_length", prompt=PROMPT[:1], end=8, least=one(9))
    case("repetition", repetition=1.5)
    case("rows_of_2", no_repeat_ngram_size=2)
    case("words", words=words)
    case("first_words", first=rows)
    case("mask", mask=np.array([[1, 0, 1, 1], [1, 1, 1, 1]], i32))
    case("other_first_decoder", init_decoder=decoder(4))
    case("length_at_run_time", prompt=PROMPT[:1], end=8, penalty=1.5, least=one(6), const={3, 4})
    case("one_step", length=one(5))


def cases(add):
    beams(add)
    searches(add, "GreedySearch", {})
    # So small a share of the probability leaves one token to chance.
    sure = dict(top_p=0.001)
    searches(add, "Sampling", sure)
    base = dict(const={1, 2, 3, 4, 5, 6, 7, 8}, decoder=decoder(), pad_token_id=PAD, eos_token_id=NEVER)
    most = one(12)
    add("Sampling", "custom", [PROMPT, most], custom=1, **sure, **base)
    add("Sampling", "temperature", [PROMPT, most], temperature=0.3, **sure, **base)
    add("Sampling", "seed", [PROMPT, most, None, None, None, None, None, None, one(5)], min_tokens_to_keep=1, **sure, **base)
