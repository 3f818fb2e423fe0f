#!/usr/bin/env python3
"""Models of the zoo made small enough for an interpreter, with ONNX Runtime's answers.

    python small.py ZOO_DIR OUT_DIR

Writes OUT_DIR/{resnet18_64,bert_2,llama_2_decode}/model.onnx and test_data_set_0 beside it: the first with an input of
64x64, the others with two of their layers. The same zoo gives the same bytes everywhere.
"""
import os, sys, zlib
import numpy as np, onnx
from onnx import numpy_helper as nh, shape_inference
import onnxruntime as ort

def fix(value, shape):
    for dim, n in zip(value.type.tensor_type.shape.dim, shape): dim.dim_value = n

def keep(model, outputs):
    """The part of the graph that these outputs need; inputs that nothing reads go too."""
    graph, wanted, nodes = model.graph, set(outputs), []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            nodes.append(node); wanted |= set(node.input)
    known = {v.name: v for v in list(graph.value_info) + list(graph.output)}
    for field, values in (("node", nodes[::-1]), ("initializer", [t for t in graph.initializer if t.name in wanted]),
                          ("input", [v for v in graph.input if v.name in wanted]), ("output", [known[o] for o in outputs])):
        kept = [type(v).FromString(v.SerializeToString()) for v in values]
        del getattr(graph, field)[:]; getattr(graph, field).extend(kept)
    del graph.value_info[:]
    return model

def resnet18_64(zoo):
    model = onnx.load(f"{zoo}/resnet18/model.onnx")
    fix(model.graph.input[0], [1, 3, 64, 64])
    del model.graph.value_info[:]
    return model

def bert_2(zoo):
    model = onnx.load(f"{zoo}/bert_base_dyn/model.onnx")
    for value in model.graph.input: fix(value, [1, 16])
    del model.graph.value_info[:]
    model = shape_inference.infer_shapes(model)
    # The embedding's normalisation, then two for each layer.
    norms = [n.output[0] for n in model.graph.node if n.op_type == "LayerNormalization"]
    return keep(model, [norms[4]])

def llama_2_decode(zoo):
    model = shape_inference.infer_shapes(onnx.load(f"{zoo}/llama70m_decode128/model.onnx"))
    for node in model.graph.node:
        if node.name.startswith("/n/"):
            for i, name in enumerate(node.input):
                if name == "/b.9/Add_4_output_0": node.input[i] = "/b.1/Add_4_output_0"
    return keep(model, ["logits"] + [f"present_{kind}{layer}" for layer in range(2) for kind in "kv"])

def write(out, name, model):
    folder = os.path.join(out, name); data = os.path.join(folder, "test_data_set_0"); os.makedirs(data, exist_ok=True)
    path = os.path.join(folder, "model.onnx"); onnx.save(model, path)
    options = ort.SessionOptions(); options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for port in session.get_inputs():
        draw = np.random.Generator(np.random.PCG64(zlib.crc32(f"{name}/{port.name}".encode())))
        whole = port.type == "tensor(int64)"
        mask = "mask" in port.name
        feeds[port.name] = (np.ones(port.shape, np.int64) if mask else draw.integers(1, 100, port.shape)) if whole \
            else draw.standard_normal(port.shape).astype(np.float32)
    def dump(kind, i, name, value):
        with open(os.path.join(data, f"{kind}_{i}.pb"), "wb") as file:
            file.write(nh.from_array(np.asarray(value), name).SerializeToString())
    for i, (port, value) in enumerate(feeds.items()): dump("input", i, port, value)
    answers = session.run(None, feeds)
    for i, (port, value) in enumerate(zip(session.get_outputs(), answers)):
        assert np.isfinite(value).all(), (name, port.name)
        dump("output", i, port.name, value)

if __name__ == "__main__":
    zoo, out = sys.argv[1:]
    for make in (resnet18_64, bert_2, llama_2_decode): write(out, make.__name__, make(zoo))
