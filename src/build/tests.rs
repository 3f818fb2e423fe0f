//! The module's text against files that the tests of `onnxc-runtime` compile and run, and the messages of failures.

use onnxc_ir::dtype::DType;

use super::*;
use crate::driver::{Extent, InterfacePort, InterfaceSymbol, MemoryClass};

fn port(name: &str, dtype: DType, dims: &[&str]) -> InterfacePort {
    let dim = |text: &&str| text.parse().map_or_else(|_| Extent::Varies((*text).to_owned()), Extent::Fixed);
    InterfacePort { name: name.to_owned(), dtype, dims: dims.iter().map(dim).collect() }
}

fn interface(prefix: &str, inputs: Vec<InterfacePort>, outputs: Vec<InterfacePort>) -> Interface {
    Interface {
        prefix: prefix.to_owned(),
        inputs,
        outputs,
        symbols: Vec::new(),
        memory: MemoryClass::Static,
        arena: Extent::Fixed(0),
        worker_bytes: 64,
        arena_bytes_most: Some(64),
    }
}

/// Compares with a file of `runtime-support/tests/generated`; with BLESS set, writes it.
#[track_caller]
fn matches_golden(interface: &Interface) {
    let text = module::module(interface, "fake.c, by hand").unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime-support/tests/generated");
    let path = folder.join(format!("{}.rs", interface.prefix));
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == golden, "{} differs; BLESS=1 writes it:\n{text}", path.display());
}

#[test]
fn a_static_model_has_arrays() {
    use DType::F32;
    let inputs = vec![port("x", F32, &["4", "3"]), port("bias", F32, &["3"])];
    matches_golden(&interface("fake_static", inputs, vec![port("y", F32, &["4", "3"])]));
}

#[test]
fn sizes_of_inputs_give_views() {
    let symbols = vec![InterfaceSymbol { name: "n".to_owned(), min: 1, max: 1000 }];
    let plain = interface("fake_dims", vec![port("x", DType::I64, &["n"])], vec![port("y", DType::I64, &["2*n"])]);
    matches_golden(&Interface { symbols, memory: MemoryClass::Dims, ..plain });
}

#[test]
fn sizes_of_data_give_views_from_a_model_with_memory() {
    let symbols = vec![InterfaceSymbol { name: "n".to_owned(), min: 1, max: 1000 }];
    let plain = interface("fake_data", vec![port("x", DType::F32, &["n"])], vec![port("y", DType::F32, &["m"])]);
    matches_golden(&Interface { symbols, memory: MemoryClass::Data, ..plain });
}

#[test]
fn odd_ports_are_served_or_refused_by_name() {
    let inputs = vec![port("type", DType::F16, &[]), port("a\n`b", DType::Bool, &["2"])];
    let text = module::module(&interface("m", inputs, vec![]), "x").unwrap();
    assert!(text.contains("/// `type`: `f16[]`, as bits.\n    pub type_: &'a u16,"), "{text}");
    assert!(text.contains("/// `a??b`: `bool[2]`.\n    pub a_b: &'a [bool; 2],"), "{text}");
    let refused = module::module(&interface("m", vec![port("words", DType::String, &["2"])], vec![]), "x");
    assert_eq!(refused.unwrap_err(), "input `words` is string[2], of which Rust has no elements");
}

#[test]
fn a_failure_says_what_is_wrong_in_lines() {
    let out = tempfile::tempdir().unwrap();
    let cargo = Cargo {
        target: "x86_64-unknown-linux-gnu".to_owned(),
        features: String::new(),
        out: out.path().to_owned(),
        package: "demo".to_owned(),
    };
    let model = Model::new(out.path().join("broken.onnx"));
    std::fs::write(&model.path, b"not a model").unwrap();
    let failure = model.compile_for(&cargo).unwrap_err();
    let error = Error { model: "broken.onnx".into(), failure };
    let text = format!("{error:?}");
    assert!(text.starts_with("broken.onnx does not compile\nerror[M001]: "), "{text}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1, "nothing is left behind");
}
