//! docs/OPERATORS.md against the operator table and what the compiler accepts.
//!
//! The element types of an operator are found out: cases with one node of it, from the ONNX suite and from
//! tests/microsoft, are given every type in place of the first input's, in all inputs of that type, and those that the
//! compiler lowers are listed. `cargo xtask operators` writes the page anew.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use onnxc_backend::target::Target;
use onnxc_frontend::import::{ImportOptions, import};
use onnxc_frontend::ops::{Operator, all, canonical_domain};
use onnxc_frontend::proto::{
    ExternalData, ModelFile, ModelProto, TensorProto, TypeValue, ValueInfoProto, dtype_from_onnx, dtype_to_onnx,
};
use onnxc_ir::dtype::DType;
use onnxc_lowering::pipeline;
use prost::Message;

/// Cases per operator that are tried; together they show what single ones, with other inputs of the same type, do not.
const CASES: usize = 6;

const INTRODUCTION: &str = "\
# Operators

Written by `cargo xtask operators` from the operator table and from what the compiler accepts; a test fails where this page \
is not what they say.

- *Since* are the opset versions at which the operator changed; each is imported with its own meaning.
- *Elements* are the types that the operator's first input may have, found by compiling models of one node. Where there is \
no such model, or its first input has a type that the operator fixes, the column is shorter than the truth or empty. Types \
beyond those of the operator's specification are taken as they come and not tested.
- Shapes may be symbolic and, unless *Limits* says otherwise, depend on data. Ranks are known when a model is compiled, and \
at most 8 for inputs and outputs of the model.
- Of com.microsoft, operators that ONNX Runtime has no kernel for on CPUs are left out where nothing else says what they \
compute: PagedAttention, DecoderAttention, LongformerAttention and other sparse attentions, quantization of blocks of floats. \
So are searches with encoders (WhisperBeamSearch), Tokenizer, AttnLSTM, DynamicTimeWarping and the hashes of n-grams.
- An operator that is not here can be bound to a C function: [CUSTOM_OPERATORS.md](CUSTOM_OPERATORS.md).
";

/// A folder of cases that `cargo xtask setup` writes, or that a variable names.
fn cases(variable: &str, folder: &str) -> PathBuf {
    let cases =
        std::env::var_os(variable).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), PathBuf::from);
    assert!(cases.join("stamp.json").is_file(), "{}: no cases there; run `cargo xtask setup`", cases.display());
    cases
}

/// All `model.onnx` below a folder, in order.
fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder of cases").filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            models(&path, found);
        } else if path.file_name().is_some_and(|name| name == "model.onnx") {
            found.push(path);
        }
    }
}

/// Models of one node by its operator, those whose first inputs are floats first.
fn by_operator() -> BTreeMap<(String, String), Vec<ModelProto>> {
    let mut paths = Vec::new();
    models(&cases("ONNXC_SUITE", "build/suite").join("node"), &mut paths);
    models(&cases("ONNXC_MICROSOFT", "build/microsoft"), &mut paths);
    let mut found: BTreeMap<(String, String), Vec<ModelProto>> = BTreeMap::new();
    for path in paths {
        let bytes = std::fs::read(&path).expect("a case can be read");
        let model = ModelProto::decode(&bytes[..]).expect("a case is a model");
        let graph = model.graph.as_deref().expect("a model has a graph");
        if let [node] = &graph.node[..] {
            let operator = (canonical_domain(&node.domain).to_owned(), node.op_type.clone());
            found.entry(operator).or_default().push(model);
        }
    }
    for models in found.values_mut() {
        let rank = |m: &ModelProto| first_type(m).map_or(2, |t| u8::from(!t.is_float()));
        models.sort_by_key(rank);
        let mut seen = HashSet::new();
        models.retain(|m| seen.insert(signature(m)));
        models.truncate(CASES);
    }
    found
}

fn tensor_type(info: &ValueInfoProto) -> Option<i32> {
    match info.r#type.as_deref()?.value.as_ref()? {
        TypeValue::TensorType(t) => Some(t.elem_type),
        _ => None,
    }
}

/// The types of the inputs, and which of them are constants: cases that agree in these tell the same.
fn signature(model: &ModelProto) -> Vec<i32> {
    let graph = model.graph.as_deref().expect("a model has a graph");
    let constants = graph.initializer.iter().map(|t| -t.data_type);
    graph.input.iter().map(|i| tensor_type(i).unwrap_or(0)).chain(constants).collect()
}

/// The type of the node's first input.
fn first_type(model: &ModelProto) -> Option<DType> {
    let graph = model.graph.as_deref()?;
    let name = graph.node.first()?.input.iter().find(|name| !name.is_empty())?;
    let input = graph.input.iter().find(|i| i.name == *name).and_then(tensor_type);
    let constant = || graph.initializer.iter().find(|t| t.name == *name).map(|t| t.data_type);
    dtype_from_onnx(input.or_else(constant)?)
}

/// The model with another type in place of the first input's. Constants of that type become zeros.
fn with_type(model: &ModelProto, from: DType, to: DType) -> ModelProto {
    let (from, code) = (dtype_to_onnx(from), dtype_to_onnx(to));
    let mut model = model.clone();
    let graph = model.graph.as_deref_mut().expect("a model has a graph");
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        if let Some(TypeValue::TensorType(t)) = info.r#type.as_deref_mut().and_then(|t| t.value.as_mut())
            && t.elem_type == from
        {
            t.elem_type = code;
        }
    }
    for tensor in graph.initializer.iter_mut().filter(|t| t.data_type == from) {
        let elements = tensor.dims.iter().product::<i64>() as u64;
        let zeros = vec![0; to.packed_bytes(elements).unwrap_or(0) as usize];
        let (name, dims) = (tensor.name.clone(), tensor.dims.clone());
        *tensor = TensorProto { name, dims, data_type: code, raw_data: Some(zeros.into()), ..TensorProto::default() };
    }
    model
}

/// Whether the compiler takes the model, up to code generation; `None` if it panics.
fn compiles(model: ModelProto, machine: &Target) -> Option<bool> {
    let attempt = || {
        let file = ModelFile { model, external: ExternalData::none() };
        let Ok(imported) = import(&file, &ImportOptions::default()) else { return false };
        let options = pipeline::Options::new(machine.machine().clone());
        pipeline::lower(imported.graph, &options, |_, _| {}).is_ok()
    };
    catch_unwind(std::panic::AssertUnwindSafe(attempt)).ok()
}

fn elements(models: &[ModelProto], machine: &Target, panics: &mut Vec<String>) -> String {
    let mut types: Vec<DType> = Vec::new();
    for model in models {
        let Some(first) = first_type(model) else { continue };
        let more = DType::ALL.into_iter().filter(|t| !types.contains(t)).collect::<Vec<_>>();
        types.extend(more.into_iter().filter(|&t| {
            let model = if t == first { model.clone() } else { with_type(model, first, t) };
            compiles(model, machine).unwrap_or_else(|| {
                let node = models[0].graph.as_deref().and_then(|g| g.node.first());
                panics.push(format!("{} of {t}", node.map_or("", |n| &n.op_type)));
                false
            })
        }));
    }
    let listed = DType::ALL.into_iter().filter(|t| types.contains(t));
    listed.map(|t| t.to_string()).collect::<Vec<_>>().join(" ")
}

fn page() -> String {
    let (models, machine) = (by_operator(), Target::parse("x86_64").expect("a target"));
    let mut text = INTRODUCTION.to_owned();
    let (mut domain, mut panics) = (None, Vec::new());
    for row in all() {
        let Operator { domain: of, name, versions, limits, .. } = row;
        if domain != Some(of) {
            domain = Some(of);
            let title = if of.is_empty() { "ai.onnx" } else { of };
            let _ = write!(text, "\n## {title}\n\n| Operator | Since | Elements | Limits |\n|---|---|---|---|\n");
        }
        let none = Vec::new();
        let tried = models.get(&((*of).to_owned(), (*name).to_owned())).unwrap_or(&none);
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {limits} |",
            versions.join(", "),
            elements(tried, &machine, &mut panics)
        );
    }
    assert!(panics.is_empty(), "models make the compiler panic: {}", panics.join(", "));
    text
}

#[test]
fn the_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATORS.md");
    let page = page();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, page).expect("the page can be written");
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(page.lines()).find(|(a, b)| a != b);
    if let Some((found, expected)) = differs {
        panic!("docs/OPERATORS.md is stale (cargo xtask operators writes it anew):\n{found}\nshould be\n{expected}");
    }
    assert_eq!(found.lines().count(), page.lines().count(), "docs/OPERATORS.md is stale: cargo xtask operators");
}

#[test]
fn the_example_of_an_operator_is_in_the_tree() {
    let read = |path: &str| {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
        text.expect("the file can be read")
    };
    let page = read("CONTRIBUTING.md");
    let (_, rest) = page.split_once("```rust\n").expect("the page shows an operator");
    let (example, _) = rest.split_once("```").expect("the example ends");
    let lines = |text: &str| text.lines().map(|l| l.trim().to_owned()).collect::<Vec<String>>().join("\n");
    assert!(lines(&read("frontend/src/ops/activations.rs")).contains(&lines(example)), "{example}");
}
