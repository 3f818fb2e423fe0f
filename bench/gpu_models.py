"""The models of `gpu.py`: ResNet-50, BERT and a decoder, checked against ONNX Runtime's answers and timed beside PyTorch."""
import os
import subprocess

import numpy as np

from gpu_times import cell, from_bits, heading, row, share, to_bits

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# What a result may be off, relative to the reference's root mean square.
ROUNDING = {"f32": 1e-3, "tf32": 1e-2, "f16": 2e-2, "bf16": 8e-2}
# A row's name, the type of the model, and what is asked of the compiler.
WAYS = [("f16", "f16", []), ("bf16", "bf16", []), ("f32", "f32", [])]
WAYS += [(f"f32 --precision {kind}", "f32", ["--precision", kind]) for kind in ("tf32", "bf16", "f16")]
# Models and their batches; PyTorch has the first two as well.
MODELS = [("resnet50", (1, 32)), ("bert_base_dyn", (1, 32)), ("llama70m_decode128", (1,))]
BESIDE = ("resnet50", "bert_base_dyn")
# The lengths that are timed.
SIZES = {"seq": 128}


def retyped(model, kind):
    """The model with another type in the place of float."""
    from onnx import TensorProto, numpy_helper

    from gpu_onnx import TYPES

    kind_number = TYPES[kind]

    def tensor(t):
        if t.data_type == TensorProto.FLOAT:
            bits = to_bits(np.clip(numpy_helper.to_array(t), -6e4, 6e4), kind)
            t.CopyFrom(TensorProto(name=t.name, dims=t.dims, data_type=kind_number, raw_data=bits.tobytes()))

    def graph(g):
        for t in g.initializer:
            tensor(t)
        del g.value_info[:]
        for port in [*g.input, *g.output]:
            if port.type.tensor_type.elem_type == TensorProto.FLOAT:
                port.type.tensor_type.elem_type = kind_number
        for node in g.node:
            for a in node.attribute:
                if a.type == a.TENSOR:
                    tensor(a.t)
                elif a.type == a.GRAPH:
                    graph(a.g)
                elif node.op_type == "Cast" and a.name == "to" and a.i == TensorProto.FLOAT:
                    a.i = kind_number

    if kind != "f32":
        graph(model.graph)
    return model


def models(bench, targets):
    try:
        import onnx
    except ImportError:
        bench.say("the Python package onnx is not there: no models")
        return ["No models: the Python package onnx is not there."]
    lines = heading("model", "type", "batch", "target", "onnxc ms", "eager ms", "torch.compile ms", "times torch.compile")
    for name, batches in [("digits", (1, 2))] if bench.args.stand_in else MODELS:
        if name != "digits" and not os.path.isfile(os.path.join(bench.args.zoo, name, "model.onnx")):
            bench.say(f"{name}: not in {bench.args.zoo}, left out")
            lines.append(row(name, *["not there"] * 4, "-", "-", "-"))
            continue
        model, inputs, want = reference(bench, name)
        for way, kind, options in WAYS:
            for batch in batches:
                typed = retyped(onnx.ModelProto.FromString(model.SerializeToString()), kind)
                sizes = resize(typed, batch)
                arrays = [in_batch(to_bits(x, kind) if x.dtype == np.float32 else x, batch) for x in inputs]
                rounding = options[-1] if options else kind
                theirs = [bench.beside(how, name, rounding, batch) if name in BESIDE else None for how in ("eager", "compiled")]
                for target in targets:
                    what = f"{name} {way} batch {batch} {target}"
                    ok = lambda out: bench.compare(what, from_bits(out[0], kind), in_batch(want, batch), ROUNDING[rounding], True)
                    time = bench.measured(what, typed.SerializeToString(), arrays, target, [*sizes, *options], ok)
                    lines.append(row(name, way, str(batch), target, cell(time), *map(cell, theirs), share(theirs[1], time)))
    return lines


def resize(model, batch):
    """Gives a model this batch; the compiler's options for sizes that are symbols."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    values = {"batch": batch, **SIZES}
    options = [word for d in dims if d.dim_param for word in ("--dim", f"{d.dim_param}={values[d.dim_param]}")]
    if not options and batch > 1:
        for port in [*model.graph.input, *model.graph.output]:
            port.type.tensor_type.shape.dim[0].dim_value = batch
    return options


def in_batch(array, batch):
    """The array as the first of a batch, whose others it makes up too."""
    return np.ascontiguousarray(np.repeat(array, batch, 0)) if batch > 1 else array


def reference(bench, name):
    """A model, one set of inputs, and the answer of a processor for its first output."""
    import onnx

    if name == "digits":
        path = os.path.join(ROOT, "examples/embed-rust/digits.onnx")
        images = np.random.default_rng(3).integers(0, 17, (1, 1, 8, 8)).astype(np.float32)
        return onnx.load(path), [images], answer(bench, path, [images])
    folder = os.path.join(bench.args.zoo, name)
    path, tests = os.path.join(folder, "model.onnx"), os.path.join(folder, "test_data_set_0")
    model = onnx.load(path)
    if name != "bert_base_dyn":
        inputs = [np.load(os.path.join(tests, f"input_{i}.npy")) for i in range(len(model.graph.input))]
        return model, inputs, np.load(os.path.join(tests, "output_0.npy"))
    # At the length that is timed.
    words = np.random.default_rng(3).integers(0, 30522, (1, SIZES["seq"]))
    inputs = [words, np.ones_like(words)]
    return model, inputs, answer(bench, path, inputs)


def answer(bench, path, arrays):
    """ONNX Runtime's answer; where that is not there, onnxc's for the processor, which its own tests compare."""
    try:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {port.name: array for port, array in zip(session.get_inputs(), arrays)})[0]
    except ImportError:
        bench.say(f"{path}: the answer is onnxc's for the processor, as ONNX Runtime is not there")
    places = [os.path.join(bench.args.out, f"answer_input_{i}.npy") for i in range(len(arrays))]
    for place, array in zip(places, arrays):
        np.save(place, array)
    folder = os.path.join(bench.args.out, "answer")
    command = [bench.args.onnxc, "run", path, "--inputs", ",".join(places), "--output-dir", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return np.load(os.path.join(folder, "output_0.npy"))
