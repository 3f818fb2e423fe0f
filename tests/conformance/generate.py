#!/usr/bin/env python3
"""Write the ONNX backend test suite to a folder, in the layout that `onnxc test` walks.

    pip install numpy onnx
    python generate.py OUT_DIR

Writes OUT_DIR/KIND/CASE/model.onnx and test_data_set_I/{input,output}_J.pb for every case of the installed onnx package:
`node` and `simple` come from the package's generator code, `pytorch-*` from its data folder, `real` from its weight-free
copies of well-known networks. CASE/data.json holds rtol and atol where they differ from the suite's 1e-3 and 1e-7.
The same onnx and numpy versions give the same bytes. A stamp file makes a second run return at once.
"""
import json
import os
import shutil
import sys
import warnings

import numpy as np
import onnx
from onnx import numpy_helper

DEFAULT_TOLERANCE = (1e-3, 1e-7)
# The expected values of these come from float64 FFTs whose exact zeros no float32 implementation reproduces.
WIDER_ATOL = {"test_dft": 1e-3, "test_stft": 1e-3}


def serialize(value, name, value_type):
    """The bytes of one input or output file; `value_type` is the graph's TypeProto, which decides the message."""
    if isinstance(value, (onnx.TensorProto, onnx.SequenceProto, onnx.OptionalProto)):
        return value.SerializeToString()
    if value_type.HasField("map_type"):
        return numpy_helper.from_dict(value, name).SerializeToString()
    if value_type.HasField("sequence_type"):
        return numpy_helper.from_list(value, name).SerializeToString()
    if value_type.HasField("optional_type"):
        return numpy_helper.from_optional(value, name).SerializeToString()
    return numpy_helper.from_array(np.asarray(value), name).SerializeToString()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def write_case(out, case):
    folder = os.path.join(out, case.kind, case.name)
    os.makedirs(folder)
    write(os.path.join(folder, "model.onnx"), case.model.SerializeToString())
    for i, (inputs, outputs) in enumerate(case.data_sets):
        data_set = os.path.join(folder, f"test_data_set_{i}")
        os.makedirs(data_set)
        for stem, values, infos in (("input", inputs, case.model.graph.input), ("output", outputs, case.model.graph.output)):
            assert len(values) <= len(infos), case.name
            for j, (value, info) in enumerate(zip(values, infos)):
                write(os.path.join(data_set, f"{stem}_{j}.pb"), serialize(value, info.name, info.type))
    return folder


def copy_case(out, case):
    folder = os.path.join(out, case.kind, case.name)
    shutil.copytree(case.model_dir, folder)
    return folder


def write_real_case(out, case, package_data):
    """A network whose weights the model computes itself; the runner of the package feeds it a ramp from 0 to 1."""
    folder = os.path.join(out, case.kind, case.name)
    data_set = os.path.join(folder, "test_data_set_0")
    os.makedirs(data_set)
    source = os.path.join(package_data, "light", os.path.basename(case.url))
    shutil.copyfile(source, os.path.join(folder, "model.onnx"))
    model = onnx.load(source)
    initialized = {t.name for t in model.graph.initializer}
    fed = [info for info in model.graph.input if info.name not in initialized]
    for j, info in enumerate(fed):
        shape = [d.dim_value if d.HasField("dim_value") else 1 for d in info.type.tensor_type.shape.dim]
        count = int(np.prod(shape))
        ramp = (np.arange(count).reshape(shape) / count).astype(np.float32)
        write(os.path.join(data_set, f"input_{j}.pb"), numpy_helper.from_array(ramp, info.name).SerializeToString())
    for j in range(len(model.graph.output)):
        shutil.copyfile(f"{os.path.splitext(source)[0]}_output_{j}.pb", os.path.join(data_set, f"output_{j}.pb"))
    return folder


def collect():
    """All cases as (case, writer) pairs, sorted by kind and name."""
    from onnx.backend.test.case.model import collect_testcases as collect_models
    from onnx.backend.test.case.node import collect_testcases as collect_nodes
    from onnx.backend.test.loader import DATA_DIR, load_model_tests

    pairs = [(case, write_case) for case in collect_nodes(None)]
    pairs += [(case, write_case) for case in collect_models() if case.kind == "simple"]
    for kind in ("pytorch-converted", "pytorch-operator"):
        pairs += [(case, copy_case) for case in load_model_tests(kind=kind)]
    pairs += [(case, lambda out, c: write_real_case(out, c, DATA_DIR)) for case in load_model_tests(kind="real")]
    return sorted(pairs, key=lambda pair: (pair[0].kind, pair[0].name))


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    out = sys.argv[1]
    stamp = os.path.join(out, "stamp.json")
    wanted = {"onnx": onnx.__version__, "numpy": np.__version__, "layout": 1}
    if os.path.exists(stamp) and json.load(open(stamp))["versions"] == wanted:
        print(f"{out}: {json.load(open(stamp))['cases']} cases already there")
        return 0
    if os.path.isdir(out) and os.listdir(out) and not os.path.exists(os.path.join(out, "partial")) and not os.path.exists(stamp):
        print(f"{out}: not empty and not a suite that this program wrote", file=sys.stderr)
        return 2
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    write(os.path.join(out, "partial"), b"")
    # The generator code overflows and divides by zero on purpose.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        pairs = collect()
    for case, writer in pairs:
        folder = writer(out, case)
        rtol, atol = case.rtol, case.atol
        for prefix, wider in WIDER_ATOL.items():
            if case.name.startswith(prefix):
                atol = wider
        path = os.path.join(folder, "data.json")
        if (rtol, atol) != DEFAULT_TOLERANCE:
            write(path, json.dumps({"rtol": rtol, "atol": atol}, sort_keys=True).encode())
        elif os.path.exists(path):
            os.remove(path)
    os.remove(os.path.join(out, "partial"))
    with open(stamp, "w") as f:
        json.dump({"versions": wanted, "cases": len(pairs)}, f, sort_keys=True)
    print(f"{out}: {len(pairs)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
