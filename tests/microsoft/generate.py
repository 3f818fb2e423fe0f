#!/usr/bin/env python3
"""Write cases of com.microsoft's operators, with what ONNX Runtime computes, in the layout that `onnxc test` walks.

    pip install -r ../requirements.txt
    python generate.py OUT_DIR [TEXT]

Writes OUT_DIR/OPERATOR/CASE/model.onnx, test_data_set_0/{input,output}_I.pb and data.json, with the case's tolerances, for
every case of the families beside this file; with TEXT only those whose OPERATOR/CASE contains it. A family is a module
with a function `cases(add)` that calls `add` for each case, see `Suite`. A stamp file makes a second run return at once.
"""
import hashlib
import importlib
import json
import os
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

FAMILIES = ["experts", "generation", "misc", "quantized", "transformer"]
OPSET = 21


def run(model, feeds):
    """What ONNX Runtime computes, with no node replaced by others."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def tensor(value, name):
    return value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value), name)


class Suite:
    """Called for each case; `onnx` computes the operators that a reference is made of."""

    def __init__(self, out, text):
        self.out, self.text, self.count = out, text, 0

    def __call__(self, op, name, inputs, *, const=(), outputs=1, reference=None, rtol=1e-4, atol=1e-5,
                 domain="com.microsoft", onnx_opset=OPSET, symbols=None, types=None, **attributes):
        """A model of one node. `None` among the inputs is an absent one; those whose numbers are in `const` are
        initializers, and sparse tensors are, whose values have the name of the input. `outputs` is their number, or their names with "" for those that are left out. `reference` replaces
        ONNX Runtime where it has no kernel. `symbols` gives inputs dimensions by name: {0: ["n", 3]}. `types` gives outputs types that ONNX Runtime cannot
        infer."""
        place = os.path.join(op, name)
        if self.text not in place:
            return
        names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
        results = [f"y{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        sparse = [value for value in inputs if isinstance(value, onnx.SparseTensorProto)]
        dense = lambda value: value is not None and not isinstance(value, onnx.SparseTensorProto)
        tensors = {i: tensor(value, names[i]) for i, value in enumerate(inputs) if dense(value)}
        for i, proto in tensors.items():
            proto.name = names[i]
        given = [i for i in tensors if i not in const]
        shape = lambda i: (symbols or {}).get(i, list(tensors[i].dims))
        output = lambda name: (
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(types[name])), None)
            if types and name in types else helper.make_empty_tensor_value_info(name)
        )
        graph = helper.make_graph(
            [helper.make_node(op, names, results, domain=domain, **attributes)],
            op,
            [helper.make_tensor_value_info(names[i], tensors[i].data_type, shape(i)) for i in given],
            [output(y) for y in results if y],
            [proto for i, proto in tensors.items() if i in const],
            sparse_initializer=sparse,
        )
        opsets = [helper.make_opsetid("", onnx_opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        try:
            feeds = {names[i]: numpy_helper.to_array(tensors[i]) for i in given}
            values = reference if reference is not None else run(model, feeds)
        except Exception as error:
            raise RuntimeError(f"{place}: {error}") from error
        folder = os.path.join(self.out, place)
        data = os.path.join(folder, "test_data_set_0")
        os.makedirs(data)
        onnx.save(model, os.path.join(folder, "model.onnx"))
        with open(os.path.join(folder, "data.json"), "w") as f:
            json.dump({"rtol": rtol, "atol": atol}, f)
        stated = [y for y in results if y]
        assert len(values) == len(stated), place
        files = [(f"input_{n}", tensors[i]) for n, i in enumerate(given)]
        files += [(f"output_{n}", tensor(value, stated[n])) for n, value in enumerate(values)]
        for stem, proto in files:
            with open(os.path.join(data, stem + ".pb"), "wb") as f:
                f.write(proto.SerializeToString())
        self.count += 1

    def onnx(self, op, inputs, attributes):
        """The first output of an operator of ai.onnx, by ONNX Runtime."""
        names = [f"x{i}" for i in range(len(inputs))]
        element = lambda value: helper.np_dtype_to_tensor_dtype(value.dtype)
        graph = helper.make_graph(
            [helper.make_node(op, names, ["y"], **attributes)],
            op,
            [helper.make_tensor_value_info(n, element(value), value.shape) for n, value in zip(names, inputs)],
            [helper.make_empty_tensor_value_info("y")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        return run(model, dict(zip(names, inputs)))[0]


def main(out, text=""):
    here = os.path.dirname(os.path.abspath(__file__))
    digest = hashlib.sha256()
    for file in ["generate"] + FAMILIES:
        with open(os.path.join(here, file + ".py"), "rb") as f:
            digest.update(f.read())
    versions = [np.__version__, onnx.__version__, onnxruntime.__version__]
    wanted = {"sources": digest.hexdigest(), "versions": versions, "text": text}
    stamp = os.path.join(out, "stamp.json")
    if os.path.exists(stamp):
        with open(stamp) as f:
            found = json.load(f)
        if {key: found.get(key) for key in wanted} == wanted:
            print(f"{out}: {found['cases']} cases already there")
            return
    elif os.path.isdir(out) and os.listdir(out):
        sys.exit(f"{out}: not empty, and not written by this program")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    # From here on the folder is known as this program's, even if it does not finish.
    with open(stamp, "w") as f:
        json.dump({}, f)
    suite = Suite(out, text)
    for family in FAMILIES:
        importlib.import_module(family).cases(suite)
    with open(stamp, "w") as f:
        json.dump({**wanted, "cases": suite.count}, f)
    print(f"{out}: {suite.count} cases")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
