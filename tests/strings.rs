//! Functions on strings in compiled models, which call the support library's C, against their meaning in the interpreters.

mod onnx;

use bytes::Bytes;
use onnxc::driver::{CompileOptions, Engine, Executable};
use onnxc_frontend::data::DataValue;
use onnxc_frontend::proto::{
    AttributeProto, Elements, GraphProto, ModelProto, NodeProto, TensorData, ValueInfoProto, dtype_to_onnx,
};
use onnxc_ir::dtype::DType;
use prost::Message;

use onnx::port;

fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto { attribute, ..onnx::node(op_type, inputs, outputs) }
}

fn text(name: &str, value: &[u8]) -> AttributeProto {
    let s = Some(Bytes::copy_from_slice(value));
    AttributeProto { name: name.into(), r#type: 3, s, ..AttributeProto::default() }
}

fn texts(name: &str, values: &[&[u8]]) -> AttributeProto {
    let strings = values.iter().map(|v| Bytes::copy_from_slice(v)).collect();
    AttributeProto { name: name.into(), r#type: 8, strings, ..AttributeProto::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: 2, i: Some(value), ..AttributeProto::default() }
}

fn to(dtype: DType) -> AttributeProto {
    int("to", dtype_to_onnx(dtype).into())
}

/// A model of inputs `x` and `y` of `n` strings and `z` of `n` numbers.
fn model(nodes: Vec<NodeProto>, outputs: &[&str]) -> ModelProto {
    let stated = |name: &&str| ValueInfoProto { name: (*name).into(), ..ValueInfoProto::default() };
    let graph = GraphProto {
        node: nodes,
        input: vec![port("x", DType::String, &["n"]), port("y", DType::String, &["n"]), port("z", DType::F32, &["n"])],
        output: outputs.iter().map(stated).collect(),
        ..GraphProto::default()
    };
    onnx::model(21, graph)
}

fn every_function() -> ModelProto {
    let nodes = vec![
        node("StringConcat", &["x", "y"], &["joined"], vec![]),
        node("StringSplit", &["joined"], &["words", "counts"], vec![int("maxsplit", 2)]),
        node("StringSplit", &["joined"], &["parts", "more"], vec![text("delimiter", b"ab")]),
        node("StringNormalizer", &["joined"], &["upper"], vec![text("case_change_action", b"UPPER")]),
        node(
            "StringNormalizer",
            &["x"],
            &["left"],
            vec![text("case_change_action", b"LOWER"), texts("stopwords", &[b"", "Ä".as_bytes(), b"ab"])],
        ),
        node("RegexFullMatch", &["joined"], &["matched"], vec![text("pattern", r"(\w|\s|Ä)*b.?".as_bytes())]),
        node("Unique", &["joined"], &["unique", "first", "places", "often"], vec![]),
        node("Equal", &["x", "y"], &["equal"], vec![]),
        node("Cast", &["z"], &["written"], vec![to(DType::String)]),
        node("Cast", &["written"], &["read"], vec![to(DType::F32)]),
        node("Cast", &["counts"], &["number"], vec![to(DType::String)]),
        node("Cast", &["number"], &["back"], vec![to(DType::I64)]),
        node("Concat", &["written", "number", "upper"], &["all"], vec![int("axis", 0)]),
    ];
    let outputs = [
        "joined", "words", "counts", "parts", "more", "upper", "left", "matched", "unique", "first", "places", "often",
        "equal", "read", "back", "all",
    ];
    model(nodes, &outputs)
}

/// A generator of numbers that are alike in every run.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn string(&mut self) -> Bytes {
        const PIECES: [&[u8]; 12] =
            [b"a", b"b", b"ab", b" ", b"\t", "Ä".as_bytes(), "ß".as_bytes(), b"Z", b"\xff", b"\xe2\x82", b"", b"  "];
        let count = self.below(6);
        (0..count).flat_map(|_| PIECES[self.below(12) as usize]).copied().collect()
    }
}

fn values(noise: &mut Noise, count: usize) -> Vec<DataValue> {
    let mut strings = || (0..count).map(|_| noise.string()).collect::<Vec<Bytes>>();
    let (x, y) = (strings(), strings());
    let number = |noise: &mut Noise| match noise.below(6) {
        // Kernels may take subnormal numbers for zero.
        0 => Some(f32::from_bits((noise.below(1 << 31) << 1) as u32)).filter(|x| !x.is_subnormal()).unwrap_or(0.0),
        1 => noise.below(1 << 31) as f32 * 16.0,
        2 => 1.0 / (1.0 + noise.below(1000) as f32),
        3 => -(noise.below(100) as f32),
        4 => 10f32.powi(noise.below(30) as i32 - 10),
        _ => noise.below(1000) as f32 / 8.0,
    };
    let z: Vec<u8> = (0..count).map(|_| number(noise)).flat_map(|z| z.to_le_bytes()).collect();
    let dims = vec![count as i64];
    let numbers = TensorData::dense(DType::F32, dims.clone(), z.into()).expect("as many numbers");
    let strings = [x, y].map(|list| TensorData::strings(dims.clone(), list).expect("as many strings"));
    let mut all: Vec<DataValue> = strings.into_iter().map(DataValue::Tensor).collect();
    all.push(DataValue::Tensor(numbers));
    all
}

fn load(model: &ModelProto, engine: Engine) -> Executable {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.encode_to_vec()).expect("the model can be written");
    Executable::load(&path, engine, 1, &CompileOptions::new("model")).unwrap_or_else(|e| panic!("{e:?}"))
}

#[test]
fn compiled_functions_are_the_interpreters() {
    let model = every_function();
    let engines = [Engine::TensorInterpreter, Engine::LoopInterpreter, Engine::Native];
    let [mut tensors, mut loops, mut native] = engines.map(|engine| load(&model, engine));
    let mut noise = Noise(1);
    for count in [0, 1, 2, 7, 40, 1500] {
        let inputs = values(&mut noise, count);
        let expected = tensors.run(&inputs).unwrap_or_else(|e| panic!("{e:?}"));
        for engine in [&mut loops, &mut native] {
            let found = engine.run(&inputs).unwrap_or_else(|e| panic!("{e:?}"));
            for ((name, found), expected) in tensors.output_names().zip(&found).zip(&expected) {
                assert_eq!(format!("{found:?}"), format!("{expected:?}"), "output {name} of {count} strings");
            }
        }
    }
}

#[test]
fn text_that_is_no_number_ends_the_run() {
    let nodes = vec![node("Cast", &["x"], &["number"], vec![to(DType::F32)])];
    let model = model(nodes, &["number"]);
    for engine in [Engine::TensorInterpreter, Engine::LoopInterpreter, Engine::Native] {
        let mut model = load(&model, engine);
        let mut run = |text: &'static [u8]| {
            let strings = TensorData::strings(vec![1], vec![Bytes::from_static(text)]).expect("one string");
            let zero = TensorData::dense(DType::F32, vec![1], vec![0; 4].into()).expect("one number");
            let x = DataValue::Tensor(strings);
            model.run(&[x.clone(), x, DataValue::Tensor(zero)])
        };
        let found = run(b" 1.5e2\n").unwrap_or_else(|e| panic!("{e:?}"));
        let Some(Elements::Dense(bytes)) = found[0].as_tensor().map(TensorData::elements) else { panic!("no numbers") };
        assert_eq!(bytes[..], 150f32.to_le_bytes());
        for text in [&b"abc"[..], b"", b"1 2", b"0x10"] {
            assert!(run(text).is_err(), "{text:?}");
        }
    }
}
