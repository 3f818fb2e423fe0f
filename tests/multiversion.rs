//! Objects that carry code for several kinds of processor: each variant is right, all read one weight section, and the
//! processor decides.
//!
//! `cargo xtask setup` writes the suite to `build/suite`, grows the model in `build/zoo` and installs the emulator; `ONNXC_SUITE`
//! and `ONNXC_ZOO` name other places.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const ONNXC: &str = env!("CARGO_BIN_EXE_onnxc");
const FAT: [&str; 3] = ["--target", "x86_64", "--multiversion"];
const KINDS: [&str; 3] = ["baseline", "avx2", "avx512"];

fn place(variable: &str, folder: &str, witness: &str) -> PathBuf {
    let path =
        std::env::var_os(variable).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), PathBuf::from);
    assert!(path.join(witness).is_file(), "{}: not there; run `cargo xtask setup`", path.display());
    path
}

fn suite() -> PathBuf {
    place("ONNXC_SUITE", "build/suite", "stamp.json")
}

fn mobilenet() -> PathBuf {
    place("ONNXC_ZOO", "build/zoo", "mobilenet_v2/model.onnx").join("mobilenet_v2")
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; run `cargo xtask setup`"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// The kinds that this machine has.
fn kinds_here() -> impl Iterator<Item = &'static str> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2");
    let avx512 = avx2 && is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512dq");
    KINDS.into_iter().zip([true, avx2, avx512]).filter(|(_, here)| *here).map(|(kind, _)| kind)
}

/// Operators whose schedules differ most, and what is more than launches: loops, strings.
#[test]
fn each_variant_passes_the_suite() {
    for kind in kinds_here() {
        for filter in ["conv", "attention", "range", "lstm", "string"] {
            succeed(
                Command::new(ONNXC).arg("test").arg(suite()).args(["--filter", filter, "--variant", kind]).args(FAT),
            );
        }
        let bound = ["--max-rel", "1e-4", "--variant", kind];
        succeed(Command::new(ONNXC).arg("test").arg(mobilenet()).args(bound).args(FAT));
    }
}

/// The program prints the number of the first step that it is told of: with one launch a variant, behind the step that
/// decides, that is the number of the variant and 1.
const PROGRAM: &str = r#"
#include "model.h"
#include <stdio.h>
static int64_t first;
static void trace(void *user, int64_t step, int begin) {
    (void)user;
    if (begin && first == 0) first = step;
}
int main(void) {
    static float x[60], y[60];
    static _Alignas(64) char arena[1 << 16];
    static int64_t shape[3] = {3, 4, 5};
    DLTensor tensors[2] = {0};
    DLTensor *in = &tensors[0], *out = &tensors[1];
    for (int i = 0; i < 60; i++) x[i] = (float)(i - 30);
    for (int i = 0; i < 2; i++) {
        tensors[i].data = i ? y : x;
        tensors[i].device.device_type = kDLCPU;
        tensors[i].ndim = 3;
        tensors[i].dtype = (DLDataType){kDLFloat, 32, 1};
        tensors[i].shape = shape;
    }
    onnxc_call call = {0};
    call.struct_size = sizeof call;
    call.abi_version = ONNXC_ABI_VERSION;
    call.arena = arena;
    call.arena_bytes = sizeof arena;
    call.max_workers = 1;
    call.trace = trace;
    for (int run = 0; run < 2; run++) {
        int32_t status = model_run_dl((const DLTensor *const *)&in, &out, &call);
        if (status) return printf("status %d\n", status), 1;
        for (int i = 0; i < 60; i++)
            if (y[i] != (i < 30 ? 0.0f : (float)(i - 30))) return printf("y[%d] = %f\n", i, y[i]), 1;
        printf("%d ", (int)first);
        first = 0;
    }
    return 0;
}
"#;

#[test]
fn the_processor_decides() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("main.c"), PROGRAM).expect("the program is written");
    let model = suite().join("node/test_relu/model.onnx");
    succeed(Command::new(ONNXC).arg(model).arg("-o").arg(at("model.o")).args(FAT));
    let flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-static", "-o"];
    succeed(Command::new("gcc").args(flags).args([at("run"), at("main.c"), at("model.o")]));
    let expected = KINDS.iter().position(|kind| kinds_here().last() == Some(kind)).expect("a known kind") + 1;
    assert_eq!(succeed(&mut Command::new(at("run"))), format!("{expected} {expected} "));
    // What the emulator has of AVX-512 is nothing; a processor lacks XSAVE where its system does not save wide registers.
    for (processor, expected) in [
        ("Nehalem", "1 1 "),
        ("SandyBridge", "1 1 "),
        ("Haswell", "2 2 "),
        ("Haswell,-fma", "1 1 "),
        ("Haswell,-bmi2", "1 1 "),
        ("Haswell,-abm", "1 1 "),
        ("Haswell,-xsave", "1 1 "),
        ("max", "2 2 "),
    ] {
        let found = succeed(Command::new("qemu-x86_64-static").args(["-cpu", processor]).arg(at("run")));
        assert_eq!(found, expected, "{processor}");
    }
}

fn contract(arguments: &[&str]) -> Value {
    let text =
        succeed(Command::new(ONNXC).arg(mobilenet().join("model.onnx")).args(["--emit", "contract"]).args(arguments));
    serde_json::from_str(&text).expect("a contract is JSON")
}

#[test]
fn variants_share_weights_and_memory() {
    let fat = contract(&FAT);
    let kinds: Vec<&str> = fat["variants"].as_array().unwrap().iter().map(|v| v["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, KINDS);
    let alone = ["x86_64", "x86_64-avx2", "x86_64-avx512"].map(|target| contract(&["--target", target]));
    let number = |contract: &Value, key: &str| contract[key].as_u64().unwrap();
    for (n, alone) in alone.iter().enumerate() {
        assert_eq!(number(&fat, "weight_bytes"), number(alone, "weight_bytes"), "{}", KINDS[n]);
        let code = |contract: &Value, n: usize| contract["variants"][n]["kernel_code_bytes"].as_u64().unwrap();
        assert_eq!(code(&fat, n), code(alone, 0), "{}", KINDS[n]);
    }
    let most = |key: &str| alone.iter().map(|alone| number(alone, key)).max().unwrap();
    assert!(number(&fat, "arena_bytes") <= most("arena_bytes"));
    assert!(number(&fat, "code_bytes") > most("code_bytes"));
    assert_eq!(fat["undefined_symbols"], alone[2]["undefined_symbols"]);
}

#[test]
fn what_cannot_be_chosen_is_refused() {
    let model = suite().join("node/test_relu/model.onnx");
    for (arguments, message) in [
        (&["--target", "x86_64-avx512", "--multiversion"][..], "no named processor can more than x86_64-avx512"),
        (&["--target", "aarch64", "--multiversion"], "no named processor can more than aarch64"),
    ] {
        let output = Command::new(ONNXC).arg("check").arg(&model).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{arguments:?}");
    }
}
