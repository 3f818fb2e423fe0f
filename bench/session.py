#!/usr/bin/env python3
"""Run one model with ONNX Runtime or OpenVINO and print what it took as a line of JSON, as bench/peers does for others.

    session.py ort|openvino MODEL.onnx [--threads N] [--seconds S] INPUT.npy...

A process measures once and ends: idle workers of these libraries spin, and would slow whatever is measured next.
"""
import argparse
import json
import sys
import time

import numpy as np

WARM_UP_RUNS = 2
MIN_RUNS = 5


def memory_kb(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))


def ort(model, inputs, threads):
    """A function that loads the model, and gives one that runs it."""
    import onnxruntime

    def load():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feeds = {port.name: value for port, value in zip(session.get_inputs(), inputs)}
        return lambda: session.run(None, feeds)

    return load


def openvino(model, inputs, threads):
    """The same; f32 is asked for because the default may round to fewer bits."""
    import openvino

    def load():
        config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
        }
        core = openvino.Core()
        graph = core.read_model(model)
        graph.reshape({i: list(value.shape) for i, value in enumerate(inputs)})
        request = core.compile_model(graph, "CPU", config).create_infer_request()
        for i, value in enumerate(inputs):
            request.set_input_tensor(i, openvino.Tensor(value, shared_memory=True))
        return request.infer

    return load


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=["ort", "openvino"])
    parser.add_argument("model")
    parser.add_argument("inputs", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_intermixed_args()
    inputs = [np.load(path) for path in args.inputs]
    before_kb = memory_kb("VmRSS")
    load = {"ort": ort, "openvino": openvino}[args.library](args.model, inputs, args.threads)
    begin = time.perf_counter()
    run = load()
    run()
    first = time.perf_counter() - begin
    for _ in range(WARM_UP_RUNS):
        run()
    times, begin = [], time.perf_counter()
    while len(times) < MIN_RUNS or time.perf_counter() - begin < args.seconds:
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    report = {
        "median_ms": times[len(times) // 2],
        "min_ms": times[0],
        "runs": len(times),
        "first_ms": first * 1e3,
        "memory_kb": memory_kb("VmHWM") - before_kb,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
