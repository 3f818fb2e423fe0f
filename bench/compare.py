#!/usr/bin/env python3
"""Time onnxc beside ONNX Runtime, OpenVINO, tract and rten on the benchmark models; `cargo xtask bench` starts this.

Every library runs in a process of its own that is pinned to as many processors as it has threads and ends before the
next one starts. A round runs each library once, in turns; the peak of multiply-adds is measured before and after, and a
round in which it is more than 5 % below its median so far is repeated. The table has medians over the rounds; a star
marks models where too few rounds were steady.

A library that is more than 1.5 times slower than the best one after two rounds sits out the others. Results go to a
JSON file after each model; what it holds for the same onnxc and the same settings is not measured again.
"""
import argparse
import hashlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIBRARIES = ["onnxc", "ort", "openvino", "tract", "rten"]
# What the ratio of the best library's time to onnxc's should reach with one and with two threads.
GOALS = {
    "resnet18": (1.4, 1.0),
    "resnet50": (1.15, 1.0),
    "unet_small": (1.6, 1.0),
    "vgg11": (1.6, 1.4),
    "mobilenet_v2": (1.3, 1.0),
    "efficientnet_b0": (1.3, 1.0),
    "lstm_tagger": (1.15, 1.3),
}
LEAST_GOAL = 1.0
MEAN_GOAL = 1.3
# A round counts when the peak stays above this share of the usual one.
STEADY = 0.95
TOO_SLOW = 1.5
PROCESS_SECONDS = 300


def say(text):
    print(text, file=sys.stderr, flush=True)


def pinned(command, cpus):
    """The standard output of a process on these processors; a RuntimeError with its last words when it fails."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PROCESS_SECONDS,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    if done.returncode:
        words = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise RuntimeError(words[-1][:200] if words else f"status {done.returncode}")
    return done.stdout


def inputs_of(folder):
    tests = os.path.join(folder, "test_data_set_0")
    found = [name for name in os.listdir(tests) if re.fullmatch(r"input_\d+\.npy", name)]
    return [os.path.join(tests, name) for name in sorted(found, key=lambda name: int(name[6:-4]))]


def flops_of(name):
    """Twice the multiply-adds that the model's definition has, whatever an implementation makes of them."""
    with open(os.path.join(ROOT, "bench", "zoo", "recipes", f"{name}.json")) as recipe:
        return 2 * json.load(recipe)["meta"]["macs"]


def compile_model(args, name):
    """Compiles to a shared library; the path, and what compilation took."""
    library = os.path.join(args.out, f"lib{name}.so")
    command = [args.onnxc, os.path.join(args.zoo, name, "model.onnx"), "-o", library, "--verbose"]
    # A small process in between: a child's peak counts from what its parent held when it was forked.
    probe = "import os,subprocess as s,sys; p=s.Popen(sys.argv[1:]); _,c,u=os.wait4(p.pid,0); print(u.ru_maxrss); sys.exit(c!=0)"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-S", "-c", probe, *command], capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    sizes = re.search(r"(\d+) bytes of code, (\d+) of weights, (\w+) of arena", done.stderr)
    facts = {
        "compile_seconds": seconds,
        "compile_kb": int(done.stdout.split()[-1]),
        "code_bytes": int(sizes[1]),
        "weight_bytes": int(sizes[2]),
        "arena_bytes": int(sizes[3]) if sizes[3].isdigit() else None,
    }
    return library, facts


class Machine:
    """The peak of multiply-adds, and what it was so far."""

    def __init__(self, args):
        self.args = args
        self.seen = {}

    def peak(self, threads):
        command = [self.args.onnxc, "peak", "--threads", str(threads), "--json", "--arithmetic-only"]
        gflops = json.loads(pinned(command, self.args.cpus[:threads]))["gflops"]
        self.seen.setdefault(threads, []).append(gflops)
        return gflops

    def usual(self, threads):
        return statistics.median(self.seen[threads])


def measure(args, name, library, model, threads):
    """One process."""
    common = [model, "--threads", str(threads), "--seconds", str(args.seconds), *inputs_of(os.path.join(args.zoo, name))]
    if library in ("ort", "openvino"):
        command = [sys.executable, os.path.join(ROOT, "bench", "session.py"), library, *common]
    else:
        command = [args.peers, library, *common]
    return json.loads(pinned(command, args.cpus[:threads]).splitlines()[-1])


def compare(args, machine, name, compiled, threads):
    """All rounds of one model."""
    onnx = os.path.join(args.zoo, name, "model.onnx")
    runs = {library: [] for library in args.libraries}
    out, peaks, kept, tried = {}, [], 0, 0
    while kept < args.rounds and tried < 2 * args.rounds:
        turn = tried % len(args.libraries)
        tried += 1
        begin = time.perf_counter()
        before = machine.peak(threads)
        found = {}
        for library in args.libraries[turn:] + args.libraries[:turn]:
            if library in out:
                continue
            try:
                found[library] = measure(args, name, library, compiled if library == "onnxc" else onnx, threads)
            except (RuntimeError, subprocess.TimeoutExpired, ValueError) as error:
                out[library] = str(error)
        after = machine.peak(threads)
        steady = min(before, after) >= STEADY * machine.usual(threads)
        # The last tries count in any case: a result that says that it is unsteady is better than none.
        if steady or tried + args.rounds - kept > 2 * args.rounds:
            kept += 1
            peaks += [before, after]
            for library, run in found.items():
                runs[library].append(run | {"steady": steady})
        shown = ", ".join(f"{library} {run['median_ms']:.2f}" for library, run in found.items())
        note = "" if steady else f" UNSTEADY: peak {min(before, after):.1f} of usually {machine.usual(threads):.1f} GFLOP/s"
        say(f"{name} x{threads} round {tried}: {shown}{note} ({time.perf_counter() - begin:.0f} s)")
        if kept == 2:
            times = {l: statistics.median(r["median_ms"] for r in runs[l]) for l in runs if runs[l] and l != "onnxc"}
            for library in times:
                if times[library] > TOO_SLOW * min(times.values()):
                    out.setdefault(library, None)
    report = {"peak_gflops": statistics.median(peaks), "unsteady": 0, "libraries": {}}
    for library, done in runs.items():
        if not done:
            report["libraries"][library] = {"error": out.get(library)}
            continue
        middle = {key: statistics.median(run[key] for run in done) for key in ("median_ms", "min_ms", "first_ms", "memory_kb")}
        report["libraries"][library] = middle | {"rounds": len(done)}
        report["unsteady"] = max(report["unsteady"], sum(not run["steady"] for run in done))
    return report


def best_library(entry):
    """(name, median) of the fastest library that is not onnxc."""
    others = [(l, r["median_ms"]) for l, r in entry["libraries"].items() if l != "onnxc" and "median_ms" in r]
    return min(others, key=lambda pair: pair[1], default=(None, None))


def cell(entry, library, key, scale=1.0, digits=2):
    value = entry["libraries"].get(library, {}).get(key)
    return "–" if value is None else f"{value * scale:.{digits}f}"


def share(milliseconds, flops, peak):
    return "–" if not flops or milliseconds is None else f"{100 * flops / (milliseconds * 1e6) / peak:.0f}%"


def latency_table(results, names, threads, single):
    """Lines of one table, ratios above 1 where onnxc is faster."""
    lines = [f"{threads} thread{'s' * (threads > 1)}, medians in ms:", ""]
    lines.append("| model | onnxc | ONNX Runtime | OpenVINO | tract | rten | ratio to the best | goal | of peak | best of peak |")
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    ratios = []
    for name in names:
        entry = results.get(f"{name}/{threads}")
        if entry is None:
            continue
        ours = entry["libraries"].get("onnxc", {}).get("median_ms")
        _, theirs = best_library(entry)
        goal = GOALS.get(name, (LEAST_GOAL, LEAST_GOAL))[min(threads, 2) - 1]
        ratio = "–"
        if ours and theirs:
            ratios.append(theirs / ours)
            ratio = f"{ratios[-1]:.2f}{'' if ratios[-1] >= goal else ' ▼'}"
        peak = entry["peak_gflops"]
        times = " | ".join(cell(entry, library, "median_ms") for library in LIBRARIES)
        mark = "*" * bool(entry["unsteady"])
        shares = f"{share(ours, entry['flops'], peak)} | {share(theirs, entry['flops'], peak)}"
        speedup = single.get(name)
        if threads > 1 and ours and speedup:
            ratio += f" (x{speedup / ours:.2f})"
        lines.append(f"| {name}{mark} | {times} | {ratio} | {goal:.2f} | {shares} |")
        if threads == 1:
            single[name] = ours
    if ratios:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        missed = sum(ratio < LEAST_GOAL for ratio in ratios)
        lines += ["", f"Geometric mean {mean:.3f} (goal {MEAN_GOAL}), least {min(ratios):.2f}, {missed} of {len(ratios)} below {LEAST_GOAL}."]
    return lines


def size_table(results, names):
    """Lines of the table of everything that is not latency, with one thread."""
    lines = ["Time to the first output, from loading, in ms; memory that loading and running took, in MB; one thread:", ""]
    lines.append("| model | first: onnxc | ONNX Runtime | OpenVINO | memory: onnxc | ONNX Runtime | OpenVINO | code KB | weights MB | arena MB | compile s | compile peak MB |")
    lines.append("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        entry = results.get(f"{name}/1")
        if entry is None:
            continue
        first = " | ".join(cell(entry, library, "first_ms", digits=1) for library in LIBRARIES[:3])
        memory = " | ".join(cell(entry, library, "memory_kb", 1 / 1024, 0) for library in LIBRARIES[:3])
        arena = "dynamic" if entry["arena_bytes"] is None else f"{entry['arena_bytes'] / 1e6:.2f}"
        lines.append(
            f"| {name} | {first} | {memory} | {entry['code_bytes'] / 1e3:.0f} | {entry['weight_bytes'] / 1e6:.1f} | {arena} "
            f"| {entry['compile_seconds']:.2f} | {entry['compile_kb'] / 1024:.0f} |"
        )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="MODEL")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="that one process measures for")
    parser.add_argument("--libraries", default=",".join(LIBRARIES), help="some of " + ",".join(LIBRARIES))
    parser.add_argument("--cpus", help="processors to pin to, with commas; default: all")
    parser.add_argument("--fresh", action="store_true", help="measure again what the results hold already")
    parser.add_argument("--table", action="store_true", help="only print the tables of what was measured")
    parser.add_argument("--zoo", default=os.path.join(ROOT, "build", "zoo"))
    parser.add_argument("--out", default=os.path.join(ROOT, "build", "bench"))
    parser.add_argument("--onnxc", default=os.path.join(ROOT, "target", "release", "onnxc"))
    parser.add_argument("--peers", default=os.path.join(ROOT, "bench", "peers", "target", "release", "peers"))
    args = parser.parse_intermixed_args()
    args.libraries = args.libraries.split(",")
    if set(args.libraries) - set(LIBRARIES):
        parser.error(f"--libraries takes {','.join(LIBRARIES)}")
    args.cpus = [int(cpu) for cpu in args.cpus.split(",")] if args.cpus else sorted(os.sched_getaffinity(0))
    counts = [int(n) for n in args.threads.split(",")]
    counts = [n for n in counts if n <= len(args.cpus)] or parser.error("more threads than processors")
    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(args.out, "results.json")
    results = json.load(open(path)) if os.path.exists(path) else {}
    with open(args.onnxc, "rb") as binary:
        compiler = hashlib.file_digest(binary, "sha256").hexdigest()
    settings = {"onnxc": compiler, "rounds": args.rounds, "seconds": args.seconds, "of": args.libraries, "cpus": args.cpus}
    machine = Machine(args)
    for name in [] if args.table else args.names:
        stale = [n for n in counts if args.fresh or results.get(f"{name}/{n}", {}).get("settings") != settings]
        if not stale:
            say(f"{name}: measured already")
            continue
        try:
            compiled, facts = compile_model(args, name)
        except RuntimeError as error:
            say(f"{name}: {error}")
            continue
        say(f"{name}: compiled in {facts['compile_seconds']:.2f} s")
        for threads in stale:
            entry = compare(args, machine, name, compiled, threads)
            results[f"{name}/{threads}"] = entry | facts | {"flops": flops_of(name), "settings": settings}
            with open(path + ".new", "w") as file:
                json.dump(results, file, indent=1)
            os.replace(path + ".new", path)
        os.remove(compiled)
    single = {name: results.get(f"{name}/1", {}).get("libraries", {}).get("onnxc", {}).get("median_ms") for name in args.names}
    for threads in counts:
        print("\n".join(latency_table(results, args.names, threads, single)), end="\n\n")
    if 1 in counts:
        print("\n".join(size_table(results, args.names)))
    failed = {(k, l): r["error"] for k, e in results.items() for l, r in e["libraries"].items() if r.get("error")}
    for (key, library), error in failed.items():
        if key.split("/")[0] in args.names:
            say(f"{key}: {library}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
