//! Operators that a user binds to C functions: called from a compiled model by a C program, and the errors around them.

mod onnx;

use std::path::Path;
use std::process::{Command, Output};

use onnxc_frontend::proto::{AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorData, ValueInfoProto};
use onnxc_ir::dtype::DType;
use prost::Message;

use onnx::{node, port};

/// `z = s + s` with `s, k = my.ops.ScaleRows(relu(x), , offset)`. Only `stated` values have a type.
fn model(stated: Vec<ValueInfoProto>) -> ModelProto {
    let mut scale = node("ScaleRows", &["r", "", "offset"], &["s", "k"]);
    scale.name = "scale".into();
    scale.domain = "my.ops".into();
    scale.attribute = vec![
        AttributeProto { name: "alpha".into(), r#type: 1, f: Some(2.5), ..AttributeProto::default() },
        AttributeProto { name: "axes".into(), r#type: 7, ints: vec![1, -2], ..AttributeProto::default() },
        AttributeProto { name: "mode".into(), r#type: 3, s: Some(b"up"[..].into()), ..AttributeProto::default() },
    ];
    let offset: Vec<u8> = [0.5f32, 0.0, -1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let offset = TensorData::dense(DType::F32, vec![3], offset.into()).expect("three numbers");
    let graph = GraphProto {
        node: vec![node("Relu", &["x"], &["r"]), scale, node("Add", &["s", "s"], &["z"])],
        input: vec![port("x", DType::F32, &["rows", "3"])],
        output: vec![ValueInfoProto { name: "z".into(), ..ValueInfoProto::default() }, port("k", DType::I64, &["1"])],
        initializer: vec![offset.to_proto("offset")],
        value_info: stated,
        ..GraphProto::default()
    };
    let mut model = onnx::model(21, graph);
    model.opset_import.push(OperatorSetIdProto { domain: "my.ops".into(), version: 1 });
    model
}

fn onnxc(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnxc")).args(arguments).current_dir(folder).output().expect("onnxc runs")
}

fn folder_with(model: &ModelProto) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("net.onnx"), model.encode_to_vec()).expect("the model can be written");
    folder
}

/// Compiles the model, links it with the C program and runs that.
fn run_c_program(model: &ModelProto, binding: &str) {
    let folder = folder_with(model);
    let compiled = onnxc(folder.path(), &["net.onnx", "-o", "net.o", "--name", "net", "--custom-op", binding]);
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let gcc = Command::new("gcc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-I.", "-I"])
        .arg(root.join("runtime-support/include"))
        .arg(root.join("tests/custom/operators.c"))
        .args(["net.o", "-lm", "-o", "program"])
        .current_dir(folder.path())
        .output()
        .expect("gcc runs");
    assert!(gcc.status.success(), "{}", String::from_utf8_lossy(&gcc.stderr));
    let run = Command::new(folder.path().join("program")).output().expect("the program runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn shapes_come_from_the_model() {
    run_c_program(&model(vec![port("s", DType::F32, &["rows", "3"])]), "my.ops:ScaleRows=scale_rows");
}

#[test]
fn shapes_come_from_an_input() {
    run_c_program(&model(vec![]), "my.ops:ScaleRows=scale_rows,like=0");
}

/// What onnxc says of a model that it refuses.
#[track_caller]
fn refusal(model: &ModelProto, arguments: &[&str]) -> String {
    let folder = folder_with(model);
    let output = onnxc(folder.path(), arguments);
    assert!(!output.status.success(), "onnxc {arguments:?} succeeds");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_missing_is_named() {
    let compile = |extra: &[&'static str]| [&["net.onnx", "-o", "net.o"][..], extra].concat();
    let unbound = refusal(&model(vec![]), &compile(&[]));
    assert!(unbound.contains("ScaleRows") && unbound.contains("--custom-op"), "{unbound}");
    let bound = compile(&["--custom-op", "my.ops:ScaleRows=scale_rows"]);
    let shapeless = refusal(&model(vec![]), &bound);
    assert!(shapeless.contains("the shape of output `s` is not known"), "{shapeless}");
    let unknown = refusal(&model(vec![port("s", DType::F32, &["columns", "3"])]), &bound);
    assert!(unknown.contains("the shape of output `s` is not known"), "{unknown}");
    let text = refusal(&model(vec![port("s", DType::String, &["rows", "3"])]), &bound);
    assert!(text.contains("elements of type string"), "{text}");
}

/// Compiles the user's functions to a shared library.
fn library(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let gcc = Command::new("gcc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-shared", "-fPIC", "-I"])
        .arg(root.join("runtime-support/include"))
        .arg(root.join("tests/custom/library.c"))
        .args(["-o", "operators.so"])
        .current_dir(folder)
        .output()
        .expect("gcc runs");
    assert!(gcc.status.success(), "{}", String::from_utf8_lossy(&gcc.stderr));
}

fn write_tensor(path: &Path, dtype: DType, dims: &[i64], bytes: Vec<u8>) {
    let tensor = TensorData::dense(dtype, dims.to_vec(), bytes.into()).expect("the bytes fit");
    std::fs::write(path, tensor.to_proto("").encode_to_vec()).expect("the tensor can be written");
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn a_library_has_the_function() {
    let folder = folder_with(&model(vec![port("s", DType::F32, &["rows", "3"])]));
    library(folder.path());
    let data = folder.path().join("case/test_data_set_0");
    std::fs::create_dir_all(&data).expect("the folder can be made");
    std::fs::copy(folder.path().join("net.onnx"), folder.path().join("case/model.onnx")).expect("a copy");
    write_tensor(&data.join("input_0.pb"), DType::F32, &[2, 3], floats(&[1.0, -1.0, 2.0, 0.0, 4.0, 6.0]));
    // 2 * (2.5 * relu(x) + offset) and the number of rows.
    let z = floats(&[6.0, 0.0, 8.0, 1.0, 20.0, 28.0]);
    write_tensor(&data.join("output_0.pb"), DType::F32, &[2, 3], z);
    write_tensor(&data.join("output_1.pb"), DType::I64, &[1], 2i64.to_le_bytes().to_vec());
    let binding = ["--custom-op", "my.ops:ScaleRows=scale_rows", "--library", "operators.so"];
    for command in [
        &["test", "case", "--jobs", "1"][..],
        &["test", "case", "--jobs", "1", "--guard", "--poison"],
        &["run", "net.onnx", "--inputs", "case/test_data_set_0/input_0.pb"],
        &["bench", "net.onnx", "--inputs", "case/test_data_set_0/input_0.pb", "--seconds", "0.01"],
    ] {
        let output = onnxc(folder.path(), &[command, &binding].concat());
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    }
    // The case is not one that passes anyway.
    write_tensor(&data.join("output_1.pb"), DType::I64, &[1], 3i64.to_le_bytes().to_vec());
    assert!(!onnxc(folder.path(), &[&["test", "case", "--jobs", "1"][..], &binding].concat()).status.success());
}

#[test]
fn a_library_that_is_none_is_named() {
    let folder = folder_with(&model(vec![port("s", DType::F32, &["rows", "3"])]));
    write_tensor(&folder.path().join("x.pb"), DType::F32, &[2, 3], floats(&[0.0; 6]));
    let run = ["run", "net.onnx", "--inputs", "x.pb", "--custom-op", "my.ops:ScaleRows=scale_rows", "--library"];
    for (library, message) in [("absent.so", "absent.so"), ("net.onnx", "net.onnx")] {
        let output = onnxc(folder.path(), &[&run[..], &[library]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains("cannot be loaded") && stderr.contains(message),
            "{stderr}"
        );
    }
    library(folder.path());
    let other =
        [&run[..3], &["x.pb", "--custom-op", "my.ops:ScaleRows=other_rows", "--library", "operators.so"]].concat();
    let output = onnxc(folder.path(), &other);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("other_rows"), "{stderr}");
}

#[test]
fn nothing_in_this_process_has_the_function() {
    let model = model(vec![port("s", DType::F32, &["rows", "3"])]);
    for (engine, message) in [
        ("native", "scale_rows"),
        ("interp", "`scale_rows` is a function outside of the model"),
        ("loop-interp", "`scale_rows` is a function outside of the model"),
    ] {
        let folder = folder_with(&model);
        let x: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let x = TensorData::dense(DType::F32, vec![2, 3], x.into()).expect("six numbers");
        std::fs::write(folder.path().join("x.pb"), x.to_proto("x").encode_to_vec()).expect("the input can be written");
        let binding = ["--custom-op", "my.ops:ScaleRows=scale_rows"];
        let run = ["run", "net.onnx", "--output-dir", "out", "--engine", engine, "--inputs", "x.pb"];
        let output = onnxc(folder.path(), &[&run[..], &binding].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(message), "{engine}: {stderr}");
    }
}
