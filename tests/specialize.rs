//! Sizes that an object has code of its own for, from the command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/embed-rust/digits.onnx")
}

fn onnxc(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnxc")).args(arguments).output().expect("onnxc runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// What the digits' model gives for a batch of images, as the bytes of the output's file.
fn run(folder: &Path, batch: usize, arguments: &[&str]) -> Vec<u8> {
    let input = folder.join("x.npy");
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({batch}, 1, 8, 8), }}");
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend((0..batch * 64).flat_map(|i| ((i * 37 % 101) as f32 / 101.0).to_le_bytes()));
    std::fs::write(&input, bytes).expect("a file");
    let (model, out) = (digits(), folder.join("out"));
    std::fs::create_dir_all(&out).expect("a folder");
    let output =
        onnxc(&[&["run", text(&model), "--inputs", text(&input), "--output-dir", text(&out)], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(out.join("output_0.npy")).expect("an output")
}

#[test]
fn a_run_of_a_size_takes_its_code_and_others_that_for_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let several = ["--specialize", "batch=1", "--specialize", "batch=4"];
    for engine in ["native", "loop-interp"] {
        let run = |batch: usize, arguments: &[&str]| {
            run(folder.path(), batch, &[&["--engine", engine, "--target", "native"], arguments].concat())
        };
        assert_eq!(run(1, &several), run(1, &["--dim", "batch=1"]), "{engine}");
        assert_eq!(run(4, &several), run(4, &["--dim", "batch=4"]), "{engine}");
        assert_eq!(run(3, &several), run(3, &[]), "{engine}");
    }
}

#[test]
fn the_sizes_share_their_weights_and_the_plan() {
    let model = digits();
    let contract = |arguments: &[&str]| -> serde_json::Value {
        let fixed = [text(&model), "--emit", "contract", "--name", "net", "--target", "x86_64-avx2"];
        let output = onnxc(&[&fixed, arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let (plain, fixed) = (contract(&[]), contract(&["--dim", "batch=4"]));
    let both = contract(&["--specialize", "batch=4"]);
    assert_eq!(both["flags"]["specialize"], serde_json::json!(["batch=4"]));
    assert_eq!((&both["inputs"], &both["symbols"]), (&plain["inputs"], &plain["symbols"]));
    let number = |contract: &serde_json::Value, key: &str| contract[key].as_u64().expect("a number");
    assert_eq!(number(&both, "weight_bytes"), number(&plain, "weight_bytes"));
    assert!(number(&both, "code_bytes") > number(&plain, "code_bytes") + number(&fixed, "code_bytes") / 2);
    assert_ne!(both["hash"], plain["hash"]);
    let program = onnxc(&[text(&model), "--emit", "program", "--specialize", "batch=4"]);
    let program = String::from_utf8(program.stdout).expect("a text");
    assert!(program.contains("for all sizes {") && program.contains("for batch=4 {"), "{program}");
}

#[test]
fn two_compilations_give_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = digits();
    let objects = ["one.o", "other.o"].map(|file| {
        let path = folder.path().join(file);
        let sizes = ["--specialize", "batch=1", "--specialize", "batch=8"];
        let output = onnxc(&[&[text(&model), "-o", text(&path), "--name", "m"], &sizes[..]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(path).expect("an object")
    });
    assert_eq!(objects[0], objects[1]);
}

#[test]
fn sizes_that_the_model_cannot_have_are_refused() {
    let model = digits();
    for (arguments, message) in [
        (
            &["--specialize", "seq=4"][..],
            "--specialize seq=4: no input has a dimension `seq` that varies; those that vary: batch",
        ),
        (&["--specialize", "batch=9", "--dim", "batch=1..8"], "--specialize batch=9: `batch` is in 1..8"),
        (&["--specialize", "batch=4", "--dim", "batch=4"], "those that vary: none"),
        (&["--specialize", "batch"], "write NAME=N"),
        (&["--specialize", "batch=1,batch=2"], "write NAME=N"),
    ] {
        let output = onnxc(&[&[text(&model), "--emit", "program"], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(message), "{stderr}");
    }
}

/// Branches that a size decides and recurrences, at sizes with and without code of their own.
#[test]
fn models_with_branches_have_sizes_of_their_own_too() {
    let models = std::env::var_os("ONNXC_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build/models"), PathBuf::from);
    let sizes = ["--specialize", "batch=1,samples=192", "--specialize", "samples=200"];
    let model = models.join("voice_activity");
    for more in [&[][..], &["--engine", "loop-interp"], &["--target", "x86_64", "--multiversion"]] {
        if more.contains(&"x86_64") && !cfg!(target_arch = "x86_64") {
            continue;
        }
        let output = onnxc(&[&["test", text(&model), "--jobs", "1"], &sizes[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
