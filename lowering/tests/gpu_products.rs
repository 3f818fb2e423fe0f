//! Products as GPUs are given them: which schedule a product gets, and that its kernels, run by the Loop IR's interpreter,
//! give what the Tensor IR's does.

mod numbers;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::TileKind;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::program::interp::{run_program, weight_section};
use onnxc_ir::tensor::interp::{constant_bytes, interpret};
use onnxc_ir::tensor::{Builder, Graph, OriginData, TensorType, Value};
use onnxc_lowering::pipeline::{Options, lower};

use numbers::samples;

/// Tasks are warps.
fn machine(f32_products: Option<TileKind>) -> MachineModel {
    MachineModel {
        kernel_lanes_f32: 32,
        stream_lanes_f32: 128,
        streams_any_type: true,
        kernel_vector_registers: 32,
        task_elements: 512,
        has_predicates: true,
        has_fma: true,
        tiles: true,
        f32_products,
        ..MachineModel::BASELINE
    }
}

/// The product of an input `left` and `right`, which is a constant or (`dynamic`) another input. A dimension of -1 is the
/// symbol `s`, which has this value in the run. Gives what the schedules remarked.
fn remarks(left: &[i64], right: &[i64], dynamic: bool, s: i64, precision: Option<TileKind>) -> Vec<String> {
    let mut graph = Graph::new("products");
    let origin = graph.origins.push(OriginData { path: "n".into(), operator: "MatMul".into() });
    let body = graph.body();
    let symbol = graph.symbols.intern("s");
    let ty = |shape: &[i64]| {
        let dims = shape.iter().map(|&d| if d < 0 { Dim::symbol(symbol) } else { Dim::from(d) });
        TensorType::new(DType::F32, dims)
    };
    let fixed = |shape: &[i64]| -> Vec<i64> { shape.iter().map(|&d| if d < 0 { s } else { d }).collect() };
    let mut inputs: Vec<Value> = vec![graph.add_param(body, ty(left))];
    let mut tensors = vec![samples(&fixed(left), 1)];
    if dynamic {
        inputs.push(graph.add_param(body, ty(right)));
        tensors.push(samples(&fixed(right), 2));
    }
    graph.input_names = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    let mut b = Builder::new(&mut graph, body, &[origin][..]);
    if !dynamic {
        inputs.push(b.constant(samples(right, 2), "w").unwrap());
    }
    let product = b.matmul(inputs[0], inputs[1], DType::F32).unwrap();
    let result = b.relu(product).unwrap();
    graph.output_names = vec!["y".into()];
    graph.regions[body].results = vec![result];
    let expected = interpret(&graph, &tensors).unwrap().remove(0).to_f32().unwrap();
    let program = lower(graph, &Options::new(machine(precision)), |_, _| {}).unwrap();
    let weights = weight_section(&program, |c, i| Ok::<_, ()>(constant_bytes(c, i))).unwrap();
    let found = run_program(&program, &weights, &tensors).unwrap().remove(0).to_f32().unwrap();
    let (tolerance, largest) =
        (if precision.is_some() { 1e-2 } else { 1e-5 }, expected.iter().fold(0f32, |m, &x| m.max(x)));
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * largest, "element {i}: {found} for {expected}");
    }
    program.remarks.iter().filter(|r| r.pass == "schedule").map(|r| r.text.clone()).collect()
}

fn has(remarks: &[String], text: &str) {
    assert!(remarks.iter().any(|r| r.contains(text)), "no `{text}` in {remarks:#?}");
}

#[test]
fn a_few_rows_read_weights_along_the_depth() {
    // One column for each task, as there are no more; steps as there is depth; what is left of it; odd columns.
    has(&remarks(&[1, 1024], &[1024, 96], false, 0, None), "1 x 1 sums, 128 lanes along the depth, 8 steps");
    has(&remarks(&[8, 300], &[300, 64], false, 0, None), "8 x 1 sums, 128 lanes along the depth, 2 steps");
    has(&remarks(&[1, 3, 37], &[37, 75], false, 0, None), "3 x 1 sums, 32 lanes along the depth, 1 steps");
    // Tasks enough for several columns each.
    has(&remarks(&[2, 64], &[64, 9000], false, 0, None), "2 x 2 sums, 64 lanes along the depth, 1 steps");
    // Precision changes how weights are stored, and not which schedule reads them.
    has(&remarks(&[4, 256], &[256, 40], false, 0, Some(TileKind::Bf16)), "4 x 1 sums, 128 lanes along the depth");
    // Rows that are more than a few.
    let many = remarks(&[9, 64], &[64, 40], false, 0, None);
    assert!(many.iter().all(|r| !r.contains("sums, ")), "{many:?}");
}

#[test]
fn a_few_rows_read_other_operands_where_they_are() {
    for s in [0, 1, 43] {
        has(
            &remarks(&[2, 3, 2, -1], &[2, 3, -1, 70], true, s, None),
            "2 rows of sums, 32 lanes along the columns, 32 steps",
        );
    }
    has(&remarks(&[600, 1, 24], &[600, 24, 128], true, 0, None), "1 rows of sums, 64 lanes along the columns");
}

#[test]
fn depths_that_a_run_decides_make_tiles() {
    for s in [0, 7, 80] {
        has(&remarks(&[2, 20, -1], &[2, -1, 24], true, s, Some(TileKind::Tf32)), "tiles of 64 x 64");
    }
}

#[test]
fn long_depths_of_few_tiles_are_cut() {
    // 2048 deep: four parts, added where the activation is.
    let cut = remarks(&[32, 2048], &[2048, 80], false, 0, Some(TileKind::Bf16));
    has(&cut, "tiles of 64 x 64");
    has(&cut, "reduce");
    // A few rows times what a run makes: long depths too.
    let cut = remarks(&[3, 1, 1024], &[3, 1024, 64], true, 0, None);
    has(&cut, "96 tasks; 1 rows of sums, 32 lanes along the columns");
    has(&cut, "reduce");
    let whole = remarks(&[32, 1024 - 64], &[960, 80], false, 0, Some(TileKind::Bf16));
    assert!(whole.iter().all(|r| !r.contains("reduce")), "{whole:?}");
}
