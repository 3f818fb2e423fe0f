#!/usr/bin/env python3
"""Measure what a compiled model takes besides its time, and check it against bounds; `cargo xtask figures` starts this.

For each model: seconds to compile and of processors' time, KB of code, the arena beside the bytes that are in use at one moment at most, milliseconds
from dlopen to the first output beside those of a later run (the file is in the page cache), whether 1, 2 and 5 workers give
the same bits, and whether `--fp strict` agrees with the reference within 1e-5 of its greatest element. A figure past its
bound has a star, and the exit status is 1.
"""
import argparse
import filecmp
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMPILE_SECONDS = 10
ARENA_SHARE = 1.1
# From dlopen to the first output: this many times a later run, and milliseconds.
FIRST_SHARE, FIRST_MS = 1.5, 20
# The model whose start is bounded, and the one whose code is, in bytes.
STARTED = {"resnet50"}
CODE_BYTES = {"mobilenet_v2": 200 << 10}
STRICT = "1e-5"
# Their activations are rounded to 8 bits on the way, so that a last bit may become a whole step.
ROUNDING = {"resnet50_qdq", "bert_dynint8"}
WORKERS = [1, 2, 5]
PROCESSES = 3


def output_of(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return done.stdout


class Checks:
    """What is past its bound."""

    def __init__(self):
        self.broken = []

    def cell(self, name, what, text, ok):
        if not ok:
            self.broken.append(f"{name}: {what} {text}")
        return text if ok else text + "*"


def compiled(args, model, folder):
    """The shared library, seconds, and seconds of processors: where the second is much less, the machine had other work."""
    library = os.path.join(folder, "libm.so")
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    output_of([args.onnxc, model, "-o", library, "--name", "m"])
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return library, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def same_bits(args, model, inputs, folder):
    """Whether all counts of workers give the same files."""
    outputs = []
    for workers in WORKERS:
        outputs.append(os.path.join(folder, f"workers{workers}"))
        output_of([args.onnxc, "run", model, "--threads", str(workers), "--output-dir", outputs[-1], "--inputs", ",".join(inputs)])
    names = sorted(os.listdir(outputs[0]))
    return bool(names) and all(
        filecmp.cmp(os.path.join(outputs[0], n), os.path.join(o, n), shallow=False) for o in outputs[1:] for n in names
    )


def started(program, library):
    """Milliseconds to the first output and of a later run, medians of several processes."""
    with open(library, "rb") as file:
        while file.read(1 << 24):
            pass
    pin = lambda: os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    runs = [output_of([program, library, "m", "1"], preexec_fn=pin).split() for _ in range(PROCESSES)]
    return [statistics.median(float(run[i]) for run in runs) for i in range(2)]


def row(args, name, program, checks):
    folder = os.path.join(args.zoo, name)
    model = os.path.join(folder, "model.onnx")
    tests = os.path.join(folder, "test_data_set_0")
    inputs = sorted((f for f in os.listdir(tests) if re.fullmatch(r"input_\d+\.npy", f)), key=lambda f: int(f[6:-4]))
    contract = json.loads(output_of([args.onnxc, model, "--emit", "contract"]))
    cells = [name]
    with tempfile.TemporaryDirectory() as scratch:
        library, seconds, processors = compiled(args, model, scratch)
        cells.append(checks.cell(name, "seconds to compile", f"{seconds:.1f}", seconds <= COMPILE_SECONDS))
        cells.append(f"{processors:.1f}")
        code = contract["code_bytes"]
        cells.append(checks.cell(name, "KB of code", f"{code / 1024:.0f}", code <= CODE_BYTES.get(name, code)))
        sample = contract["arena"]["sample"]
        share = sample["tensors"] / max(sample["live"], 1)
        # The bound is on models of fixed sizes: plans for all sizes at once lose more.
        fixed = not contract["symbols"]
        cells.append(checks.cell(name, "of the live bytes", f"{share:.2f}", share <= ARENA_SHARE or not fixed))
        cells += [f"{sample['tensors'] / 1024:.0f}", f"{contract['arena']['per_worker'] / 1024:.0f}"]
        if contract["memory"] == "static":
            first, later = started(program, library)
            bounded = name not in STARTED or first <= FIRST_SHARE * later + FIRST_MS
            cells += [checks.cell(name, "ms to the first output", f"{first:.1f}", bounded), f"{later:.1f}"]
        else:
            cells += ["", ""]
        same = same_bits(args, model, [os.path.join(tests, f) for f in inputs], scratch)
        cells.append(checks.cell(name, "same bits", "yes" if same else "no", same))
    strict = [args.onnxc, "test", folder, "--fp", "strict", "--max-rel", STRICT, "--jobs", "1", "--timeout", "240"]
    passed = subprocess.run(strict, stdout=subprocess.DEVNULL).returncode == 0
    cells.append(checks.cell(name, "strict", "yes" if passed else "no", passed or name in ROUNDING))
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--zoo", default=os.path.join(ROOT, "build", "zoo"))
    parser.add_argument("--onnxc", default=os.path.join(ROOT, "target", "release", "onnxc"))
    args = parser.parse_args()
    checks = Checks()
    heads = ["model", "compile s", "CPU s", "code KB", "arena / live", "arena KB", "scratch KB", "first ms", "later ms"]
    heads += ["1 = 2 = 5 workers", f"strict {STRICT}"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "startup")
        include = os.path.join(ROOT, "runtime-support", "include")
        source = os.path.join(ROOT, "bench", "startup.c")
        output_of(["gcc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-I", include, source, "-o", program, "-ldl"])
        for name in args.models or sorted(os.listdir(args.zoo)):
            print("| " + " | ".join(row(args, name, program, checks)) + " |", flush=True)
    for line in checks.broken:
        print(line, file=sys.stderr)
    return bool(checks.broken)


if __name__ == "__main__":
    sys.exit(main())
