//! The command line: what becomes of what commands print when nobody reads it, as behind `| head`, or when it cannot be
//! written; and names that do not exist.

mod onnx;

#[cfg(target_os = "linux")]
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use onnxc_frontend::data::write_npy;
use onnxc_frontend::proto::{GraphProto, TensorData};
use onnxc_ir::dtype::DType;
use prost::Message;

use onnx::{node, port};

/// A folder with the model `model.onnx`, its input `x.npy`, a model of unknown operators and a test case.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let model = |operator: &str| {
        let graph = GraphProto {
            node: vec![node(operator, &["x"], &["y"])],
            input: vec![port("x", DType::F32, &["8"])],
            output: vec![port("y", DType::F32, &["8"])],
            ..GraphProto::default()
        };
        onnx::model(17, graph).encode_to_vec()
    };
    let x = TensorData::dense(DType::F32, vec![8], vec![0; 32].into()).expect("eight numbers");
    let mut npy = Vec::new();
    write_npy(&x, &mut npy).expect("the input can be written");
    std::fs::create_dir_all(at("case/test_data_set_0")).expect("the folder is ours");
    let tensor = |name: &str| x.to_proto(name).encode_to_vec();
    let files = [
        ("model.onnx", model("Relu")),
        ("unknown.onnx", model("NoSuchOperator")),
        ("x.npy", npy),
        ("case/model.onnx", model("Exp")),
        ("case/test_data_set_0/input_0.pb", tensor("x")),
        ("case/test_data_set_0/output_0.pb", tensor("y")),
    ];
    for (name, bytes) in files {
        std::fs::write(at(name), bytes).expect("the folder is ours");
    }
    folder
}

fn onnxc(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxc"));
    command.args(arguments.split(' ')).current_dir(folder);
    command
}

/// The end of a pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[track_caller]
fn ended(output: &Output, arguments: &str, status: i32) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments}: {stderr}");
}

#[test]
fn commands_end_quietly_when_nobody_reads_what_they_print() {
    let folder = folder();
    for (arguments, status) in [
        ("--help", 0),
        ("--version", 0),
        ("targets", 0),
        ("explain", 0),
        ("explain U001", 0),
        ("inspect model.onnx", 0),
        ("inspect model.onnx --json", 0),
        ("check model.onnx", 0),
        ("run model.onnx --inputs x.npy", 0),
        ("bench model.onnx --seconds 0.01", 0),
        ("bench model.onnx --seconds 0.01 --json", 0),
        ("bench model.onnx --seconds 0.01 --profile", 0),
        ("model.onnx --emit loop-ir", 0),
        ("model.onnx --emit contract", 0),
        // Its answers are wrong, and the snapshot says so.
        ("test case --engine interp --snapshot snapshot.txt", 1),
    ] {
        let output = onnxc(folder.path(), arguments).stdout(closed()).output().expect("onnxc runs");
        ended(&output, arguments, status);
        assert!(output.stderr.is_empty(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let snapshot = std::fs::read_to_string(folder.path().join("snapshot.txt")).expect("test writes it");
    assert!(snapshot.starts_with("case fail"), "{snapshot}");
}

#[test]
fn commands_end_as_they_would_when_nobody_reads_their_messages() {
    let folder = folder();
    for (arguments, status) in [
        ("check unknown.onnx", 3),
        ("check unknown.onnx --message-format json", 3),
        ("model.onnx -o model.o --verbose --time-passes --dump-ir after:all --remarks", 0),
    ] {
        let output = onnxc(folder.path(), arguments).stderr(closed()).output().expect("onnxc runs");
        ended(&output, arguments, status);
    }
    assert!(folder.path().join("model.o").is_file());
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_is_an_error() {
    let folder = folder();
    for arguments in ["targets", "model.onnx --emit contract", "inspect model.onnx"] {
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = onnxc(folder.path(), arguments).stdout(full).output().expect("onnxc runs");
        ended(&output, arguments, 5);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("I001") && stderr.contains("stdout"), "{arguments}: {stderr}");
    }
}

#[test]
fn a_pass_that_does_not_exist_is_refused_with_those_that_do() {
    let folder = folder();
    let output = onnxc(folder.path(), "model.onnx -o model.o --dump-ir after:fuze").output().expect("onnxc runs");
    ended(&output, "--dump-ir after:fuze", 2);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no pass `fuze`") && stderr.contains(" fuse,"), "{stderr}");
}
