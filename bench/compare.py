#!/usr/bin/env python3
"""Time onnxc against ONNX Runtime on the benchmark models, and print the table that README shows.

    cargo build --release
    .venv/bin/python bench/compare.py [--threads N] [--zoo build/zoo] [NAME...]

Both run the same inputs on the same number of threads. A line holds the medians in milliseconds, their ratio (above 1,
onnxc is faster), and what onnxc needed: compile time, code and weight bytes, arena bytes, and the greatest memory of
the compiling process.
"""
import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def inputs_of(model_dir):
    found = glob.glob(os.path.join(model_dir, "test_data_set_0", "input_*.npy"))
    return sorted(found, key=lambda path: int(path.rsplit("_", 1)[1][:-4]))


def time_ort(model_dir, threads, seconds):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(os.path.join(model_dir, "model.onnx"), options, providers=["CPUExecutionProvider"])
    feeds = {i.name: np.load(path) for i, path in zip(session.get_inputs(), inputs_of(model_dir))}
    for _ in range(3):
        session.run(None, feeds)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, feeds)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def time_onnxc(onnxc, model_dir, threads, seconds):
    command = [onnxc, "bench", os.path.join(model_dir, "model.onnx"), "--threads", str(threads), "--json"]
    command += ["--seconds", str(seconds), "--inputs", ",".join(inputs_of(model_dir))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip().splitlines()[:1]
    return json.loads(done.stdout), None


def compile_memory(onnxc, model_dir):
    """(seconds, peak MB) of a plain compilation to an object file."""
    # A small process in between: a child's peak counts from what its parent held when it was forked.
    probe = "import os,sys,subprocess as s; p=s.Popen(sys.argv[1:]); _,c,u=os.wait4(p.pid,0); print(u.ru_maxrss if c==0 else -1)"
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [onnxc, os.path.join(model_dir, "model.onnx"), "-o", os.path.join(folder, "m.o")]
        done = subprocess.run([sys.executable, "-S", "-c", probe, *command], capture_output=True, text=True)
        peak = int(done.stdout or -1)
        return (time.perf_counter() - start, peak / 1024) if peak >= 0 else (None, None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--zoo", default=os.path.join(ROOT, "build", "zoo"))
    parser.add_argument("--onnxc", default=os.path.join(ROOT, "target", "release", "onnxc"))
    args = parser.parse_args()
    names = args.names or sorted(os.path.basename(os.path.dirname(p)) for p in glob.glob(f"{args.zoo}/*/model.onnx"))
    print("| model | onnxc ms | ORT ms | ORT / onnxc | compile s | compile peak MB | code KB | weights MB | arena MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        model_dir = os.path.join(args.zoo, name)
        ours, error = time_onnxc(args.onnxc, model_dir, args.threads, args.seconds)
        if ours is None:
            print(f"| {name} | {' '.join(error)} | | | | | | | |", flush=True)
            continue
        seconds, peak = compile_memory(args.onnxc, model_dir)
        theirs = time_ort(model_dir, args.threads, args.seconds)
        print(
            f"| {name} | {ours['median_ms']:.2f} | {theirs:.2f} | {theirs / ours['median_ms']:.2f} | {seconds:.2f} | {peak:.0f} "
            f"| {ours['code_bytes'] / 1e3:.0f} | {ours['weight_bytes'] / 1e6:.1f} | {ours['arena_bytes'] / 1e6:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
