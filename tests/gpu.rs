//! Models for GPUs on the stand-in driver of `tests/standin-cuda`, a test tool that interprets PTX: numbers, memory plan,
//! launches, no race and no access out of bounds. It says nothing about a device's speed.
//!
//! The ONNX suite, of whose nine large models (`real`) only the two that the interpreter runs in seconds; the other cases
//! that pass are in `tests/gpu/snapshot.txt`, one name a line (`BLESS=1` writes it anew). And the small models that
//! `cargo xtask setup` makes of the zoo's. `ONNXC_SUITE` and `ONNXC_SMALL` name other places of both.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod standin;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use standin::{built, driver};

/// The suite's folders.
const PARTS: [&str; 4] = ["node", "pytorch-converted", "pytorch-operator", "simple"];

fn suite() -> PathBuf {
    built("ONNXC_SUITE", "suite")
}

fn test(cases: &[PathBuf], arguments: &[&str], driver: &Path, capability: &str) -> Output {
    test_with(cases, arguments, driver, &[("ONNXC_STANDIN_CAPABILITY", capability)])
}

fn test_with(cases: &[PathBuf], arguments: &[&str], driver: &Path, environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnxc"))
        .args(["test", "--target", "nvptx64-sm_80"])
        .args(cases)
        .args(arguments)
        .env("LD_LIBRARY_PATH", driver)
        .envs(environment.iter().copied())
        .output()
        .expect("onnxc runs")
}

fn said(run: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr))
}

#[test]
fn suite_passes_on_the_stand_in() {
    let driver = driver();
    let found_path = driver.path().join("found.txt");
    let parts = PARTS.map(|part| suite().join(part));
    let run = test(&parts, &["--quiet", "--snapshot", found_path.to_str().unwrap()], driver.path(), "80");
    let found = std::fs::read_to_string(&found_path).unwrap_or_else(|e| panic!("{e}: {}", said(&run)));
    // A race or an access out of bounds ends a run with the driver's report: what does not pass is refused by the compiler.
    let failed: Vec<&str> = found.lines().filter(|l| l.split(' ').nth(1) == Some("fail")).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let passed: BTreeSet<&str> =
        found.lines().filter_map(|l| l.split_once(' ')).filter(|(_, s)| *s == "pass").map(|(name, _)| name).collect();
    let snapshot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gpu/snapshot.txt");
    if std::env::var_os("BLESS").is_some() {
        let text: String = passed.iter().map(|name| format!("{name}\n")).collect();
        std::fs::write(&snapshot, text).expect("the snapshot can be written");
        return;
    }
    let expected = std::fs::read_to_string(&snapshot).expect("the snapshot is checked in");
    let expected: BTreeSet<&str> = expected.lines().collect();
    assert_eq!(passed, expected, "cases that pass; BLESS=1 writes them anew");
    assert!(passed.len() >= 1200, "{} cases pass", passed.len());
}

/// ResNet-18 on 64x64 pixels, two layers of BERT, two layers of a Llama with its cache.
#[test]
fn small_models_run_on_the_stand_in() {
    let driver = driver();
    let tolerances = ["--rtol", "1e-3", "--atol", "1e-4", "--timeout", "240"];
    let run = test(&[built("ONNXC_SMALL", "small")], &tolerances, driver.path(), "80");
    assert!(run.status.success() && said(&run).contains("3 passed, 0 failed"), "{}", said(&run));
}

/// Attention and products on matrix instructions, within what the types lose over two layers.
#[test]
fn small_transformers_run_at_every_precision() {
    let driver = driver();
    let cases = ["bert_2", "llama_2_decode"].map(|case| built("ONNXC_SMALL", "small").join(case));
    for (precision, tolerance) in [("tf32", "1e-2"), ("f16", "1e-2"), ("bf16", "4e-2")] {
        let arguments = ["--precision", precision, "--rtol", tolerance, "--atol", tolerance, "--timeout", "240"];
        let run = test(&cases, &arguments, driver.path(), "80");
        assert!(run.status.success() && said(&run).contains("2 passed, 0 failed"), "{precision}: {}", said(&run));
    }
}

/// The two of the suite's large models that take seconds; the next ones take a minute and more each.
/// Products on groups of warps, as Hopper has them, at each precision.
#[test]
fn small_models_run_for_hopper() {
    let driver = driver();
    for (precision, tolerance) in [("bf16", "5e-2"), ("f16", "1e-2"), ("tf32", "1e-2")] {
        let run = Command::new(env!("CARGO_BIN_EXE_onnxc"))
            .args([
                "test",
                "--target",
                "nvptx64-sm_90a",
                "--precision",
                precision,
                "--rtol",
                tolerance,
                "--atol",
                tolerance,
            ])
            .arg(built("ONNXC_SMALL", "small"))
            .env("LD_LIBRARY_PATH", driver.path())
            .env("ONNXC_STANDIN_CAPABILITY", "90")
            .output()
            .expect("onnxc runs");
        assert!(run.status.success() && said(&run).contains("3 passed, 0 failed"), "{precision}: {}", said(&run));
    }
}

#[test]
fn the_lighter_large_models_of_the_suite_run_on_the_stand_in() {
    let driver = driver();
    let cases = ["real/test_shufflenet", "real/test_squeezenet"].map(|case| suite().join(case));
    let run = test(&cases, &["--timeout", "240"], driver.path(), "80");
    assert!(run.status.success() && said(&run).contains("2 passed, 0 failed"), "{}", said(&run));
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{command:?}\n{}", said(&output));
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// The C program of `tests/weights.rs` with objects for a GPU: sessions, weights in the object and in a file, wrong calls.
#[test]
fn a_c_program_runs_objects_with_weights_inside_and_in_a_file() {
    let (driver, folder) = (driver(), tempfile::tempdir().expect("a temporary folder"));
    let (root, path) = (Path::new(env!("CARGO_MANIFEST_DIR")), |name: &str| folder.path().join(name));
    let onnxc = || Command::new(env!("CARGO_BIN_EXE_onnxc"));
    for (object, weights) in [("embedded.o", "embed"), ("external.o", "external")] {
        let mut compile = onnxc();
        compile.arg(root.join("examples/embed-rust/digits.onnx")).arg("-o").arg(path(object));
        succeeds(compile.args(["--target", "nvptx64-sm_80", "--dim", "batch=1", "--weights", weights]));
    }
    succeeds(onnxc().args(["support", "--out"]).arg(path("support")));
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(path("support/include"))
        .arg("-I")
        .arg(folder.path());
    cc.arg(root.join("tests/weights/program.c")).args(["embedded.o", "external.o"].map(path));
    let sources = ["cuda.c", "cuda_device.c", "memory.c", "pool.c", "session.c", "status.c", "weights.c"];
    cc.args(sources.map(|name| path("support/share/onnxc").join(name)));
    succeeds(cc.args(["-pthread", "-ldl", "-o"]).arg(path("program")));
    let mut program = Command::new(path("program"));
    let printed = succeeds(program.arg(path("external.weights")).env("LD_LIBRARY_PATH", driver.path()));
    assert_eq!(printed, "open 0: ok\nrun 0 0 same 1\nwrong -22 -22 -22 -22 -22\n");
    let header = std::fs::read_to_string(path("embedded.h")).expect("the header is there");
    assert!(header.contains("needs cuda*.c of the support library"));
}

/// Inputs and outputs on the device, the caller's stream, one graph; in a shared library, which needs nothing beside it.
#[test]
fn device_tensors_and_a_stream_of_the_callers_are_used() {
    let (driver, folder) = (driver(), tempfile::tempdir().expect("a temporary folder"));
    let (root, path) = (Path::new(env!("CARGO_MANIFEST_DIR")), |name: &str| folder.path().join(name));
    let mut compile = Command::new(env!("CARGO_BIN_EXE_onnxc"));
    compile.arg(root.join("examples/embed-rust/digits.onnx")).arg("-o").arg(path("digits.so"));
    succeeds(compile.args(["--target", "nvptx64-sm_80", "--dim", "batch=1"]));
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"]).arg(root.join("runtime-support/include"));
    succeeds(cc.arg(root.join("tests/gpu/device.c")).args(["-ldl", "-o"]).arg(path("program")));
    let mut program = Command::new(path("program"));
    assert_eq!(succeeds(program.arg(path("digits.so")).env("LD_LIBRARY_PATH", driver.path())), "right\n");
    let linker = ["--linker", "ld.nothing"];
    let refused = compile.args(linker).output().expect("onnxc runs");
    assert!(said(&refused).contains("name a C compiler with --linker"), "{}", said(&refused));
}

/// The same models in programs of their own, which `onnxc test --runner` links with the support library.
#[test]
fn programs_for_a_runner_have_what_they_need() {
    let driver = driver();
    let cases = ["node/test_add", "node/test_nonzero_example", "node/test_loop11"].map(|case| suite().join(case));
    let run = test(&cases, &["--runner", ""], driver.path(), "80");
    assert!(run.status.success() && said(&run).contains("3 passed, 0 failed"), "{}", said(&run));
}

/// Where steps look at data they read zeros after a failure, which would fit nothing: the driver's failure is what counts.
#[test]
fn a_driver_that_fails_is_why_a_run_ends() {
    let driver = driver();
    for case in
        ["node/test_add", "node/test_nonzero_example", "node/test_unique_not_sorted_without_axis", "node/test_loop11"]
    {
        let run = test_with(&[suite().join(case)], &[], driver.path(), &[("ONNXC_STANDIN_FAIL", "1")]);
        assert!(said(&run).contains("the GPU driver reported an error"), "{case}: {}", said(&run));
        assert!(said(&run).contains("fails as it was asked to"), "{case}: {}", said(&run));
    }
}

/// `cargo xtask gpu` where there is nothing to run on. `cargo xtask ci` runs it on the stand-in.
#[test]
fn the_script_for_devices_says_what_is_missing() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/gpu.py");
    // On a machine with a device the next thing that is missing ends it.
    let run = Command::new("python3").arg(script).args(["--onnxc", "/nowhere"]).env_remove("LD_LIBRARY_PATH").output();
    let run = run.expect("python3 starts");
    assert_eq!(run.status.code(), Some(2), "{}", said(&run));
    let missing =
        ["no NVIDIA driver: libcuda.so.1 cannot be loaded; PyTorch", "no onnxc", "needs the Python package numpy"];
    assert!(missing.iter().any(|text| said(&run).contains(text)), "{}", said(&run));
}

#[test]
fn a_missing_driver_and_a_device_that_is_too_old_are_said() {
    let case = [suite().join("node/test_abs")];
    let nothing = tempfile::tempdir().expect("a temporary folder");
    let run = test(&case, &[], nothing.path(), "80");
    assert!(said(&run).contains("there is no GPU driver"), "{}", said(&run));
    let driver = driver();
    let run = test(&case, &[], driver.path(), "75");
    assert!(said(&run).contains("the device has 7.5"), "{}", said(&run));
}
