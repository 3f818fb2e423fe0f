//! Runs ONNX backend-test directories under the Tensor IR's reference interpreter: `suite_interp DIR [FILTER]`. Prints
//! each case that fails, with the reason, and the counts.

use std::path::Path;
use std::time::Instant;

use onnxc_frontend::data::{DataValue, Tolerance, ValueKind, compare};
use onnxc_frontend::import::{ImportOptions, import};
use onnxc_frontend::proto::{ModelFile, TensorData};
use onnxc_ir::tensor::TensorBytes;
use onnxc_ir::tensor::interp::interpret;

const TOLERANCE: Tolerance = Tolerance { rtol: 1e-3, atol: 1e-7 };

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect("a directory of cases");
    let filters: Vec<String> = args.collect();
    let mut cases: Vec<_> = std::fs::read_dir(folder).expect("a readable directory").flatten().map(|e| e.path()).collect();
    cases.sort();
    let (mut passed, mut failed, mut unsupported) = (0, 0, 0);
    for case in cases {
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f)) {
            continue;
        }
        let start = Instant::now();
        let result = std::panic::catch_unwind(|| run(&case)).unwrap_or_else(|_| Err("panics".into()));
        let slow = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => passed += 1,
            Err(reason) if reason.starts_with("import: ") => unsupported += 1,
            Err(reason) => {
                failed += 1;
                println!("{name}: {}", reason.replace('\n', " | "));
            }
        }
        if slow > 5.0 {
            println!("{name}: took {slow:.1} s");
        }
    }
    println!("{passed} passed, {failed} failed, {unsupported} not imported");
}

fn read(path: &Path) -> Result<TensorData, String> {
    match DataValue::read(path, ValueKind::Tensor, None).map_err(|e| e.to_string())? {
        DataValue::Tensor(tensor) => Ok(tensor),
        other => Err(format!("a value of kind {:?}", other.kind())),
    }
}

fn run(case: &Path) -> Result<(), String> {
    let file = ModelFile::open(&case.join("model.onnx")).map_err(|e| format!("import: {e}"))?;
    let options = ImportOptions { name: "case".into(), ..Default::default() };
    let imported = import(&file, &options).map_err(|e| format!("import: {e}"))?;
    let data = case.join("test_data_set_0");
    let mut inputs = Vec::new();
    for i in 0..imported.graph.input_names.len() {
        let tensor = read(&data.join(format!("input_{i}.pb")))?;
        inputs.push(tensor.to_tensor_bytes().ok_or("a string tensor")?);
    }
    let outputs = interpret(&imported.graph, &inputs).map_err(|e| e.to_string())?;
    for (i, TensorBytes { dtype, shape, bytes }) in outputs.into_iter().enumerate() {
        let expected = DataValue::Tensor(read(&data.join(format!("output_{i}.pb")))?);
        let actual = TensorData::dense(dtype, shape.to_vec(), bytes).map_err(|e| e.to_string())?;
        let found = compare(&DataValue::Tensor(actual), &expected, TOLERANCE).map_err(|e| format!("output {i}: {e}"))?;
        if !found.agrees() {
            let relative = found.max_error / found.max_reference;
            return Err(format!("output {i}: {found}; {relative:.1e} of the greatest element"));
        }
    }
    Ok(())
}
