#!/usr/bin/env python3
"""What ONNX Runtime gives on the way through the models that round their activations to 8 bits.

    python rounding.py ZOO OUT

Where a value lies near the middle between two integers its last bit decides which one it becomes, and the layers behind
amplify that: answers of such models are comparable at the end only between programs with the same bits on the way. So
there are two kinds of tests here.

- OUT/NAME_pieces: the model cut in front of every quantisation. What is quantised is an input, and again an output of the
  piece before it. The data are ONNX Runtime's own, with graph optimizations disabled; given the same inputs, the pieces
  quantise to the same integers, and have to agree like any other model.
- OUT/NAME_integers: the whole model, and the answer of ONNX Runtime's integer kernels, which it puts in the place of
  dequantised operators at its default level of optimization. Their sums are exact; what they round, and where, is known.
"""
import os
import shutil
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

PIECES = ["bert_dynint8", "resnet50_qdq"]
INTEGERS = ["resnet50_qdq"]
QUANTIZERS = ["QuantizeLinear", "DynamicQuantizeLinear"]


def run(model, feeds, optimized):
    """The outputs by name."""
    options = ort.SessionOptions()
    # Products of u8 and i8 saturate on x86 processors without instructions for them, unless this is asked for.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


def save(folder, kind, tensors):
    """One file for each tensor."""
    for i, tensor in enumerate(tensors):
        np.save(os.path.join(folder, f"{kind}_{i}.npy"), tensor)


def pieces(model, feeds, folder):
    """Cuts the model and writes it with the data."""
    graph = model.graph
    given = {i.name for i in graph.input}
    cuts = [n.input[0] for n in graph.node if n.op_type in QUANTIZERS and n.input[0] not in given]
    cuts = list(dict.fromkeys(cuts))
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    outputs = [o.name for o in graph.output]
    whole.graph.output.extend(helper.make_tensor_value_info(c, TensorProto.FLOAT, None) for c in cuts if c not in outputs)
    values = run(whole, feeds, optimized=False)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in cuts:
                node.input[i] = name + ".given"
    for cut in cuts:
        shape = list(values[cut].shape)
        graph.input.append(helper.make_tensor_value_info(cut + ".given", TensorProto.FLOAT, shape))
        if cut not in outputs:
            graph.output.append(helper.make_tensor_value_info(cut, TensorProto.FLOAT, shape))
    data = os.path.join(folder, "test_data_set_0")
    os.makedirs(data)
    onnx.save(model, os.path.join(folder, "model.onnx"))
    inputs = {**feeds, **{cut + ".given": values[cut] for cut in cuts}}
    save(data, "input", [inputs[i.name] for i in graph.input])
    save(data, "output", [values[o.name] for o in graph.output])
    print(f"{folder}: {len(cuts)} cuts", flush=True)


def integers(model, feeds, folder):
    """Writes the model with the answer of the integer kernels."""
    data = os.path.join(folder, "test_data_set_0")
    os.makedirs(data)
    onnx.save(model, os.path.join(folder, "model.onnx"))
    save(data, "input", feeds.values())
    save(data, "output", run(model, feeds, optimized=True).values())
    print(folder, flush=True)


def main():
    """Writes all tests anew."""
    zoo, out = sys.argv[1:]
    shutil.rmtree(out, ignore_errors=True)
    for name in PIECES:
        model = onnx.load(os.path.join(zoo, name, "model.onnx"))
        data = os.path.join(zoo, name, "test_data_set_0")
        feeds = {i.name: np.load(os.path.join(data, f"input_{n}.npy")) for n, i in enumerate(model.graph.input)}
        if name in INTEGERS:
            integers(model, feeds, os.path.join(out, f"{name}_integers"))
        pieces(model, feeds, os.path.join(out, f"{name}_pieces"))


if __name__ == "__main__":
    main()
