#!/usr/bin/env python3
"""Check onnxc on an NVIDIA GPU against ONNX Runtime's answers, and time it; `cargo xtask gpu` starts this.

    python3 bench/gpu.py                  # everything, on the first device
    python3 bench/gpu.py --stand-in DIR   # all checks in small on a stand-in driver in DIR: no device, and no times

It needs the compiler (--onnxc), a C compiler and numpy. Without onnx there are no models; without onnxruntime, none that
are not in --zoo yet, and BERT is compared with onnxc's answers for the processor. Where PyTorch is there, products are
timed beside cuBLAS, attention beside its own, and models beside its eager and its compiled code. What is left out is said.

A time is the median over batches, between two CUDA events, of runs that follow each other; all tensors are on the device.
The table goes to stdout and, as Markdown, to table.md in --out. The exit status is 1 where a check failed, 2 where
something is missing.
"""
import argparse
import ctypes
import datetime
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The suite's folders that hold the cases of tests/gpu/snapshot.txt.
PARTS = ("node", "pytorch-converted", "pytorch-operator", "simple")
# Models whose activations are rounded to 8 bits on the way, with their root-mean-square tolerance as in tests/zoo.rs.
ROUNDING = {"bert_dynint8": "3e-2", "resnet50_qdq": "1.1e-2"}


class Missing(Exception):
    """Something without which nothing can be done."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def compiler(args):
    for path in [args.onnxc] if args.onnxc else [os.path.join(ROOT, "onnxc"), os.path.join(ROOT, "target/release/onnxc")]:
        if os.access(path, os.X_OK):
            return path
    raise Missing("no onnxc: name the compiler with --onnxc, or build it with `cargo build --release`")


def run_tests(args, target, what, folders, options):
    """`onnxc test` on folders; whether all passed, and its closing line."""
    command = [args.onnxc, "test", "--quiet", "--target", target, *folders, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = done.stdout.strip().splitlines() or ["nothing was said"]
    if done.returncode:
        say("\n".join(lines[-20:]))
    say(f"{what}: {lines[-1]}")
    return done.returncode == 0, lines[-1]


def check_suite(args, target):
    """Every so many-th case of the ONNX suite that the stand-in passes."""
    folder = os.path.join(args.out, "suite")
    shutil.rmtree(folder, ignore_errors=True)
    with open(os.path.join(ROOT, "tests/gpu/snapshot.txt")) as names:
        chosen = names.read().split()[:: args.share]
    os.makedirs(folder)
    for name in chosen:
        places = [os.path.join(os.path.abspath(args.suite), part, name) for part in PARTS]
        os.symlink(next(place for place in places if os.path.isdir(place)), os.path.join(folder, name))
    return run_tests(args, target, f"{len(chosen)} cases of the ONNX suite", [folder], ["--jobs", "4"])


def grow(args, names):
    """Grows the models of these names that are not there, with ONNX Runtime's answers; gives those that are there then."""
    there = lambda name: os.path.isfile(os.path.join(args.zoo, name, "model.onnx"))
    absent = [name for name in names if not there(name)]
    lacking = [package for package in ("onnx", "onnxruntime") if missing_module(package)]
    if absent and lacking:
        say(f"{', '.join(absent)}: not in {args.zoo}, and left out: growing them needs {' and '.join(lacking)}")
    elif absent:
        program = os.path.join(ROOT, "bench/zoo/make_zoo.py")
        if subprocess.run([sys.executable, program, args.zoo, *absent]).returncode:
            raise Missing(f"{', '.join(absent)}: not in {args.zoo}, and could not be grown")
    return [name for name in names if there(name)]


def check_models(args, target, names):
    results = []
    for name in names:
        exact = ["--rms-rel", ROUNDING[name]] if name in ROUNDING else ["--max-rel", "1e-4"]
        options = [*exact, "--jobs", "1", "--timeout", "600"]
        results.append((name, *run_tests(args, target, name, [os.path.join(args.zoo, name)], options)))
    return results


def check(args, target, report):
    """The checks; whether all passed."""
    good, line = check_suite(args, target)
    report.append(f"| ONNX suite, every {args.share}th case | {line} |")
    results = check_models(args, target, args.models)
    failed = [name for name, passed, _ in results if not passed]
    report.append(f"| models against ONNX Runtime | {len(results) - len(failed)} right, wrong: {', '.join(failed) or 'none'} |")
    return good and not failed


def driver(args):
    """The device, or Missing with what there is instead."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        torch = "PyTorch is not there either" if missing_module("torch") else "PyTorch is there"
        hint = "or with --stand-in to check the script itself" if not args.stand_in else f"nor in {args.stand_in}"
        raise Missing(f"no NVIDIA driver: libcuda.so.1 cannot be loaded; {torch}. Run this where a device is, {hint}") from None
    if missing_module("numpy"):
        raise Missing("this needs the Python package numpy")
    sys.path.insert(0, os.path.join(ROOT, "bench"))
    import gpu_device

    device = gpu_device.Device()
    if args.stand_in and "stand-in" not in device.name:
        raise Missing(f"--stand-in {args.stand_in} does not hold the stand-in driver: {device.name}")
    return device


def missing_module(name):
    import importlib.util

    return importlib.util.find_spec(name) is None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--onnxc", help="the compiler; default: beside this, or of this checkout")
    parser.add_argument("--suite", default=os.path.join(ROOT, "build/suite"), help="the ONNX suite; nothing there: left out")
    parser.add_argument("--zoo", default=os.path.join(ROOT, "build/zoo"), help="grown models; absent ones are grown here")
    parser.add_argument("--models", nargs="+", help="models that are checked; default: all that have a recipe")
    parser.add_argument("--share", type=int, default=4, help="check every so many-th case of the suite")
    parser.add_argument("--target", nargs="+", help="default: nvptx64-sm_80, and nvptx64-sm_90a where the device is a 9.0")
    parser.add_argument("--out", default=os.path.join(ROOT, "build/gpu"), help="folder for what is made here")
    parser.add_argument("--only", choices=["checks", "times"], help="leave the other half out")
    parser.add_argument("--stand-in", metavar="DIR", help="use the stand-in libcuda.so.1 in DIR, in small, without times")
    args = parser.parse_args()
    if args.stand_in and not os.environ.get("LD_LIBRARY_PATH", "").startswith(args.stand_in):
        # The loader looks at it when a process begins.
        os.environ["LD_LIBRARY_PATH"] = args.stand_in
        os.execv(sys.executable, [sys.executable, *sys.argv])
    try:
        device = driver(args)
        args.onnxc = compiler(args)
        os.makedirs(args.out, exist_ok=True)
        return work(args, device)
    except Missing as what:
        say(f"gpu.py: {what}")
        return 2


def work(args, device):
    import gpu_times

    targets = args.target or ["nvptx64-sm_80"] + (["nvptx64-sm_90a"] if device.capability == 90 else [])
    if args.stand_in:
        args.share, args.models = 60, []
    elif args.models is None:
        recipes = os.listdir(os.path.join(ROOT, "bench/zoo/recipes"))
        args.models = sorted(name[:-5] for name in recipes if name.endswith(".json"))
    today = datetime.date.today().isoformat()
    report = [f"{device.name}, compute capability {device.capability / 10}, driver {device.driver}, {today}", ""]
    good = True
    if args.only != "times":
        args.models = grow(args, args.models)
        report += ["| check | result |", "|---|---|"]
        if not os.path.isdir(args.suite):
            say(f"{args.suite}: nothing there, the suite is left out")
            args.suite = None
        good = check(args, targets[-1], report) if args.suite else check_only_models(args, targets[-1], report)
        report.append("")
    if args.only != "checks":
        if not args.stand_in:
            import gpu_models

            grow(args, [name for name, _ in gpu_models.MODELS])
        lines, right = gpu_times.table(args, device, targets, say)
        report += lines
        good = good and right
    if args.stand_in:
        report.append("This ran on the stand-in driver, a test tool: it shows that the script works, and no speed.")
    text = "\n".join(report) + "\n"
    print(text)
    with open(os.path.join(args.out, "table.md"), "w") as file:
        file.write(text)
    return 0 if good else 1


def check_only_models(args, target, report):
    failed = [name for name, passed, _ in check_models(args, target, args.models) if not passed]
    report.append(f"| models against ONNX Runtime | {len(args.models) - len(failed)} right, wrong: {', '.join(failed) or 'none'} |")
    return not failed


if __name__ == "__main__":
    sys.exit(main())
