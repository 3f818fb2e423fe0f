#!/usr/bin/env python3
"""Models in floats of 16 bits, as ONNX Runtime's converter writes them, with ONNX Runtime's answers.

    python halves.py ZOO_DIR SMALL_DIR OUT_DIR
    python halves.py --of ZOO_DIR OUT_DIR MODEL...

Writes OUT_DIR/{resnet18_64,bert_2,llama_2_decode,mobilenet_v2}/model.onnx and test_data_set_0 beside it, made of the small
models of `small.py` and one of the zoo's; the last has inputs and outputs of 16 bits too. The converter puts some of its
casts at the end of the list of nodes, before whose results others come: these models test that as well. The second form
converts models of the zoo, to measure them (`cargo xtask bench MODEL... --zoo OUT_DIR`).
"""
import glob, os, sys
import numpy as np, onnx
from onnx import numpy_helper as nh
import onnxruntime as ort
from onnxruntime.transformers.float16 import convert_float_to_float16

def read(path):
    tensor = onnx.TensorProto()
    with open(path, "rb") as file: tensor.ParseFromString(file.read())
    return nh.to_array(tensor)

def convert(source, folder, keeps_ports):
    data = os.path.join(folder, "test_data_set_0"); os.makedirs(data, exist_ok=True)
    model = convert_float_to_float16(onnx.load(f"{source}/model.onnx"), keep_io_types=keeps_ports, op_block_list=[])
    path = os.path.join(folder, "model.onnx"); onnx.save(model, path)
    options = ort.SessionOptions(); options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for i, port in enumerate(session.get_inputs()):
        value = read(f"{source}/test_data_set_0/input_{i}.pb")
        feeds[port.name] = value.astype(np.float16) if port.type == "tensor(float16)" else value
    def dump(kind, i, name, value):
        with open(os.path.join(data, f"{kind}_{i}.pb"), "wb") as file:
            file.write(nh.from_array(np.asarray(value), name).SerializeToString())
        np.save(os.path.join(data, f"{kind}_{i}.npy"), np.asarray(value))
    for i, (name, value) in enumerate(feeds.items()): dump("input", i, name, value)
    for i, (port, value) in enumerate(zip(session.get_outputs(), session.run(None, feeds))):
        # Against the model that it was: a converter's fault is not to be expected of onnxc.
        whole = read(f"{source}/test_data_set_0/output_{i}.pb")
        error = np.abs(value.astype(np.float32) - whole).max() / np.abs(whole).max()
        assert error < 0.05, (folder, port.name, error)
        dump("output", i, port.name, value)

if __name__ == "__main__":
    if sys.argv[1] == "--of":
        _, _, zoo, out, *names = sys.argv
        for name in names: convert(f"{zoo}/{name}", os.path.join(out, name), True)
        sys.exit()
    zoo, small, out = sys.argv[1:]
    for source in sorted(glob.glob(f"{small}/*/")):
        convert(source, os.path.join(out, os.path.basename(source.rstrip("/"))), True)
    convert(f"{zoo}/mobilenet_v2", os.path.join(out, "mobilenet_v2"), False)
