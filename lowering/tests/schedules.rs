//! Schedules that compute something in another way than its definition says: the lowered program, run by the Loop IR's
//! interpreter, agrees with the Tensor IR's interpreter, and every access lies inside of its buffer.

mod numbers;

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::TileKind;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::program::interp::{run_program, weight_section};
use onnxc_ir::scalar::UnaryOp;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::interp::{constant_bytes, interpret};
use onnxc_ir::tensor::op::{Contract, Conv, ReduceOp};
use onnxc_ir::tensor::{Builder, CompositeKind, Graph, OriginData, TensorBytes, TensorType, Value};
use onnxc_lowering::pipeline::{Options, lower};

use numbers::samples;

/// A machine with 16 lanes and predicates, and one with 4 lanes and none.
fn machines() -> [MachineModel; 2] {
    let wide = MachineModel {
        vector_bits: 512,
        vector_registers: 32,
        kernel_lanes_f32: 16,
        stream_lanes_f32: 16,
        kernel_vector_registers: 32,
        l1d_bytes: 48 << 10,
        l2_bytes: 1 << 20,
        has_predicates: true,
        has_fma: true,
        ..MachineModel::BASELINE
    };
    [wide, MachineModel::BASELINE]
}

/// Builds a model of these inputs, lowers it for each machine and compares; `expect_launches` may say how many kernels run.
fn check(
    shapes: &[&[i64]],
    tolerance: f32,
    build: impl Fn(&mut Builder<'_>, &[Value]) -> Result<Value, BuildError>,
    expect_launches: impl Fn(&MachineModel) -> Option<usize>,
) {
    check_on(machines(), shapes, tolerance, build, expect_launches);
}

/// The same on these machines.
fn check_on(
    machines: impl IntoIterator<Item = MachineModel>,
    shapes: &[&[i64]],
    tolerance: f32,
    build: impl Fn(&mut Builder<'_>, &[Value]) -> Result<Value, BuildError>,
    expect_launches: impl Fn(&MachineModel) -> Option<usize>,
) {
    for machine in machines {
        let mut graph = Graph::new("schedules");
        let origin = graph.origins.push(OriginData { path: "n".into(), operator: "Op".into() });
        let body = graph.body();
        let inputs: Vec<Value> =
            shapes.iter().map(|shape| graph.add_param(body, TensorType::fixed(DType::F32, shape))).collect();
        graph.input_names = (0..shapes.len()).map(|i| format!("x{i}")).collect();
        let mut b = Builder::new(&mut graph, body, &[origin][..]);
        let result = build(&mut b, &inputs).unwrap();
        graph.output_names = vec!["y".into()];
        graph.regions[body].results = vec![result];
        let tensors: Vec<TensorBytes> = shapes.iter().zip(1..).map(|(shape, seed)| samples(shape, seed)).collect();
        let expected = interpret(&graph, &tensors).unwrap().remove(0).to_f32().unwrap();
        let program = lower(graph, &Options::new(machine.clone()), |_, _| {}).unwrap();
        if let Some(launches) = expect_launches(&machine) {
            assert_eq!(program.steps.len(), launches, "{program}");
        }
        let weights = weight_section(&program, |c, i| Ok::<_, ()>(constant_bytes(c, i))).unwrap();
        let found = run_program(&program, &weights, &tensors).unwrap().remove(0).to_f32().unwrap();
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = (found - expected).abs();
            assert!(
                error <= tolerance * largest,
                "element {i}: {found} for {expected}, {} lanes",
                machine.kernel_lanes_f32
            );
        }
    }
}

/// `relu(conv(x) + bias)` with a 3x3 filter of pseudo-random numbers, channels first as in ONNX.
fn convolution(b: &mut Builder<'_>, x: Value, channels: i64, columns: i64) -> Result<Value, BuildError> {
    let filter = b.constant(samples(&[columns, channels, 3, 3], 7), "filter")?;
    let one = || [1, 1].as_slice().into();
    let conv = Conv {
        strides: one(),
        pad_lo: one(),
        pad_hi: one(),
        lhs_dilation: one(),
        rhs_dilation: one(),
        groups: 1,
        channels_last: false,
        acc: DType::F32,
        panel: None,
        kernel: [3, 3].as_slice().into(),
        winograd: None,
    };
    let y = b.conv(conv, x, filter)?;
    let bias = b.constant(samples(&[columns, 1, 1], 9), "bias")?;
    let sum = b.add(y, bias)?;
    b.relu(sum)
}

#[test]
fn winograd_agrees_with_convolution() {
    // Whole tiles; tiles over the edge, channels that fill no vector, an odd number of panels; two pictures.
    for (picture, columns) in [([1, 32, 16, 16], 32), ([1, 20, 15, 18], 73), ([2, 48, 13, 13], 32)] {
        check(&[&picture], 2e-5, |b, x| convolution(b, x[0], picture[1], columns), |_| None);
    }
}

/// Along the last of four dimensions.
fn softmax(b: &mut Builder<'_>, x: Value) -> Result<Value, BuildError> {
    let results = b.composite(CompositeKind::Softmax { axis: 3 }, &[x], |b, x| {
        let most = b.reduce(ReduceOp::Max, x[0], &[3], true)?;
        let shifted = b.sub(x[0], most)?;
        let exp = b.exp(shifted)?;
        let sum = b.reduce(ReduceOp::Sum, exp, &[3], true)?;
        Ok::<_, BuildError>(vec![b.div(exp, sum)?])
    })?;
    Ok(results[0])
}

#[test]
fn softmax_of_short_rows_agrees() {
    // Classes of pixels; results where they were, behind the pixels, and behind them the other way round.
    for perm in [[0, 1, 2, 3], [0, 3, 1, 2], [0, 3, 2, 1]] {
        let pixels = |b: &mut Builder<'_>, x: &[Value]| softmax(b, x[0]).and_then(|y| b.transpose(y, &perm));
        check(&[&[2, 19, 5, 7]], 1e-6, pixels, |_| None);
    }
    // Rows of a vector and a rest.
    check(&[&[1, 2, 5, 37]], 1e-6, |b, x| softmax(b, x[0]), |_| Some(1));
}

/// `softmax(q kᵀ * scale + mask) v` over heads, with a batch dimension of 1 as exporters write it.
fn attention(b: &mut Builder<'_>, q: Value, k: Value, v: Value, mask: Option<Value>) -> Result<Value, BuildError> {
    let product = |lhs: [u8; 3], rhs: [u8; 3]| Contract {
        lhs: lhs.as_slice().into(),
        rhs: rhs.as_slice().into(),
        out: [0, 1, 2].as_slice().into(),
        acc: DType::F32,
        panel: None,
    };
    let scores = b.contract(product([0, 1, 3], [0, 2, 3]), q, k)?;
    let mut shape = b.shape(scores)?;
    shape.insert(0, 1.into());
    let mut scores = b.reshape(scores, &shape)?;
    if let Some(mask) = mask {
        scores = b.add(scores, mask)?;
    }
    let probabilities = softmax(b, scores)?;
    shape.remove(0);
    let probabilities = b.reshape(probabilities, &shape)?;
    b.contract(product([0, 1, 3], [0, 3, 2]), probabilities, v)
}

#[test]
fn attention_in_one_kernel_agrees() {
    // Whole blocks of rows; rows, keys and columns that leave rests.
    for (rows, keys, depth, columns) in [(64, 32, 16, 32), (37, 13, 24, 24), (9, 9, 8, 48), (3, 40, 8, 16)] {
        let shapes: [&[i64]; 3] = [&[3, rows, depth], &[3, keys, depth], &[3, keys, columns]];
        // A few rows leave most lanes empty.
        let launches = |m: &MachineModel| (m.has_predicates && rows >= 8).then_some(1);
        check(&shapes, 1e-5, |b, x| attention(b, x[0], x[1], x[2], None), launches);
        let masked: [&[i64]; 4] = [shapes[0], shapes[1], shapes[2], &[rows, keys]];
        check(&masked, 1e-5, |b, x| attention(b, x[0], x[1], x[2], Some(x[3])), launches);
    }
}

#[test]
fn attention_by_tiles_agrees() {
    // What a GPU has: vectors for its threads, and matrix instructions that round.
    let [wide, _] = machines();
    let wide = MachineModel { kernel_lanes_f32: 32, stream_lanes_f32: 32, streams_any_type: true, tiles: true, ..wide };
    let kinds = [(TileKind::Tf32, 4e-3), (TileKind::F16, 4e-3), (TileKind::Bf16, 3e-2)];
    // Tiles that are full, and not; rows that fill no vector.
    for (rows, keys, depth, columns) in [(64, 32, 16, 32), (70, 13, 24, 24), (9, 9, 8, 48), (65, 130, 128, 7)] {
        for (kind, tolerance) in kinds {
            let machine = || [MachineModel { f32_products: Some(kind), ..wide.clone() }];
            let shapes: [&[i64]; 3] = [&[3, rows, depth], &[3, keys, depth], &[3, keys, columns]];
            check_on(machine(), &shapes, tolerance, |b, x| attention(b, x[0], x[1], x[2], None), |_| Some(1));
            let masked: [&[i64]; 4] = [shapes[0], shapes[1], shapes[2], &[rows, keys]];
            check_on(machine(), &masked, tolerance, |b, x| attention(b, x[0], x[1], x[2], Some(x[3])), |_| Some(1));
            // Keys with their elements apart, and queries that are a part of a larger tensor.
            let turned: [&[i64]; 3] = [&[3, rows, depth + 5], &[3, depth, keys], &[3, keys, columns]];
            let views = |b: &mut Builder<'_>, x: &[Value]| {
                let queries = b.slice_axis(x[0], 2, &5.into(), &depth.into(), 1)?;
                let keys = b.transpose(x[1], &[0, 2, 1])?;
                attention(b, queries, keys, x[2], None).and_then(|y| b.relu(y))
            };
            check_on(machine(), &turned, tolerance, views, |_| Some(1));
        }
    }
}

#[test]
fn deep_products_pass_their_sums_through_scratch() {
    // Three blocks of depth; rows that leave a rest; an epilogue that stays in registers, and one that does not.
    let weights = |b: &mut Builder<'_>| b.constant(samples(&[700, 48], 3), "w");
    let product = |b: &mut Builder<'_>, x: Value| {
        let w = weights(b)?;
        let labels = |l: [u8; 2]| l.as_slice().into();
        let c =
            Contract { lhs: labels([0, 2]), rhs: labels([2, 1]), out: labels([0, 1]), acc: DType::F32, panel: None };
        b.contract(c, x, w)
    };
    for rows in [27, 90] {
        check(&[&[rows, 700]], 1e-5, |b, x| product(b, x[0]).and_then(|y| b.relu(y)), |_| Some(1));
        check(&[&[rows, 700]], 1e-5, |b, x| product(b, x[0]).and_then(|y| b.unary(UnaryOp::Erf, y)), |_| Some(1));
    }
}

#[test]
fn transposed_operands_and_padded_rows_agree() {
    let shapes: [&[i64]; 1] = [&[2, 19, 5, 33]];
    check(&shapes, 0.0, |b, x| b.transpose(x[0], &[0, 3, 2, 1]), |_| None);
    let pad = |b: &mut Builder<'_>, x: &[Value]| {
        let fill = b.constant(TensorBytes::from_f32(&[], &[0.5]), "fill")?;
        let (lo, hi) = ([0, 1, 0, 3].map(Into::into), [0, 2, 0, 18].map(Into::into));
        b.pad(x[0], fill, &lo, &hi)
    };
    check(&shapes, 0.0, pad, |_| Some(1));
}
