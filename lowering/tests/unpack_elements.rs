//! Packed elements mean the same in a byte each: every conversion, operator and port of every type below 8 bits, as the
//! interpreter computes them packed and after the pass.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};
use onnxc_ir::tensor::build::{BuildError, LoopSpec};
use onnxc_ir::tensor::interp::interpret;
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Builder, Graph, OriginData, TensorBytes, TensorType, Value, verify};
use onnxc_lowering::passes::rewrite::PassContext;
use onnxc_lowering::passes::unpack_elements;

const PACKED: [DType; 5] = [DType::I4, DType::U4, DType::I2, DType::U2, DType::F4E2M1];

/// A model of inputs with these types and shapes.
fn graph(
    inputs: &[TensorType],
    build: impl FnOnce(&mut Builder<'_>, &[Value]) -> Result<Vec<Value>, BuildError>,
) -> Graph {
    let mut graph = Graph::new("t");
    let body = graph.body();
    let origin = graph.origins.push(OriginData { path: "node".into(), operator: "Op".into() });
    let params: Vec<Value> = inputs.iter().map(|t| graph.add_param(body, t.clone())).collect();
    graph.input_names = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    let mut b = Builder::new(&mut graph, body, vec![origin]);
    let results = build(&mut b, &params).expect("the graph is well-typed");
    graph.output_names = (0..results.len()).map(|i| format!("y{i}")).collect();
    graph.regions[body].results = results;
    graph
}

/// Runs the graph as it is, and after the pass on the bytes of its inputs: the bytes of the outputs are the same.
fn means_the_same(mut graph: Graph, inputs: &[TensorBytes]) {
    let expected = interpret(&graph, inputs).expect("the graph runs");
    let mut cx = PassContext::new(MachineModel::BASELINE);
    unpack_elements::run(&mut graph, &mut cx);
    assert_eq!(cx.unsupported, Vec::<String>::new());
    verify::verify(&graph).unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let packed = |t: &TensorBytes| PACKED.contains(&t.dtype);
    let memory = |t: &TensorBytes| match packed(t) {
        true => TensorBytes { dtype: DType::U8, shape: [t.bytes.len() as i64].into_iter().collect(), ..t.clone() },
        false => t.clone(),
    };
    let inputs: Vec<TensorBytes> = inputs.iter().map(memory).collect();
    let found = interpret(&graph, &inputs).expect("the graph runs");
    assert_eq!(cx.packed.outputs.len(), expected.iter().filter(|t| packed(t)).count());
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        if let Some(ty) = cx.packed.outputs.get(&i) {
            assert_eq!((ty.dtype, ty.rank()), (expected.dtype, expected.shape.len()), "output {i}");
            let mut sizes = ty.shape.iter().zip(&expected.shape);
            assert!(sizes.all(|(dim, size)| dim.as_const().is_none_or(|d| d == *size)), "output {i}");
        }
        assert_eq!(*found, memory(expected), "output {i} of {} in\n{graph}", expected.dtype);
    }
}

/// All bit patterns, in an odd number, so that the last byte is padded.
fn all(dtype: DType) -> TensorBytes {
    let bytes = match dtype.bits() {
        4 => vec![0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0x08],
        _ => vec![0b11_10_01_00, 0b10],
    };
    let count = if dtype.bits() == 4 { 17 } else { 5 };
    TensorBytes { dtype, shape: [count].into_iter().collect(), bytes: bytes.into() }
}

#[test]
fn conversions() {
    let numbers: Vec<f32> =
        (-40..=40).map(|i| i as f32 / 4.0).chain([-0.0, 1e9, -1e9, f32::INFINITY, 0.2500001, 0.2499999]).collect();
    let floats = TensorBytes::from_f32(&[numbers.len() as i64], &numbers);
    for dtype in PACKED {
        let x = all(dtype);
        let model =
            graph(&[TensorType::fixed(dtype, &x.shape), TensorType::fixed(DType::F32, &floats.shape)], |b, x| {
                let mut results = vec![x[0]];
                for other in DType::ALL.into_iter().filter(|d| !matches!(d, DType::String | DType::C64 | DType::C128)) {
                    results.push(b.cast(x[0], other)?);
                    // Powers of two have no negative numbers.
                    if other != DType::F8E8M0 {
                        let y = b.cast(x[1], other)?;
                        results.push(b.cast(y, dtype)?);
                    }
                    if other.bits() == dtype.bits() {
                        results.push(b.map(&[x[0]], |e| {
                            let x = e.arg(0);
                            Ok(e.bitcast(other, x))
                        })?);
                    }
                }
                Ok(results)
            });
        means_the_same(model, &[x, floats.clone()]);
    }
}

#[test]
fn operators() {
    for dtype in PACKED {
        let x = all(dtype);
        let n = x.shape[0];
        let model = graph(&[TensorType::fixed(dtype, &[n])], |b, x| {
            let (column, row) = (b.reshape(x[0], &[Dim::from(n), Dim::ONE])?, x[0]);
            let mut results = Vec::new();
            for &op in UnaryOp::ALL.iter().filter(|op| op.accepts(dtype)) {
                results.push(b.unary(op, row)?);
            }
            for &op in BinaryOp::ALL.iter().filter(|op| op.accepts(dtype)) {
                results.push(b.binary(op, column, row)?);
            }
            for &op in CmpOp::ALL {
                results.push(b.compare(op, column, row)?);
            }
            // A type that no value has, only a step.
            let wide = b.cast(row, DType::F64)?;
            results.push(b.map(&[wide], |e| {
                let x = e.arg(0);
                let (less, half) = (e.number(DType::F64, 0.7)?, e.cast(dtype, x));
                let back = e.cast(DType::F64, half);
                let product = e.mul(back, less);
                let narrow = e.cast(dtype, product);
                Ok(e.cast(DType::F32, narrow))
            })?);
            let one = b.scalar(Scalar::one(dtype));
            let is_one = b.equal(row, one)?;
            results.push(b.select(is_one, row, column)?);
            Ok(results)
        });
        means_the_same(model, &[x]);
    }
}

#[test]
fn moves_and_constants() {
    for dtype in PACKED {
        let x = all(dtype);
        let n = x.shape[0];
        let model = graph(&[TensorType::fixed(dtype, &[n]), TensorType::fixed(dtype, &[])], |b, v| {
            let table = b.constant(x.clone(), "table")?;
            let splat = b.splat(Scalar::one(dtype), &[3])?;
            let joined = b.concat(&[v[0], table, splat], 0)?;
            let padded = b.pad(joined, v[1], &[Dim::from(2)], &[Dim::from(1)])?;
            let rows = b.reshape(padded, &[Dim::from(2), Dim::from(n + 3)])?;
            let turned = b.transpose(rows, &[1, 0])?;
            let most = b.reduce(ReduceOp::Max, turned, &[0], false)?;
            let nothing = b.slice_axis(joined, 0, &Dim::ZERO, &Dim::ZERO, 1)?;
            Ok(vec![turned, most, v[1], nothing, table])
        });
        let one = TensorBytes { dtype, shape: [].into_iter().collect(), bytes: vec![1].into() };
        means_the_same(model, &[x, one]);
    }
}

#[test]
fn branches_and_loops() {
    for dtype in PACKED {
        let x = all(dtype);
        let n = x.shape[0];
        let trips = TensorBytes::from_i64(&[], &[3]);
        let types = [TensorType::fixed(dtype, &[n]), TensorType::fixed(DType::I64, &[])];
        let model = graph(&types, |b, v| {
            let (zero, go) = (b.scalar_i64(0), b.scalar_bool(true));
            let positive = b.greater(v[1], zero)?;
            let mut results = b.if_(
                positive,
                &[v[0]],
                |b, v| Ok::<_, BuildError>(vec![b.neg(v[0])?]),
                |b, _| Ok(vec![b.constant(x.clone(), "table")?]),
            )?;
            let spec = LoopSpec {
                trip_count: v[1],
                condition: go,
                carried: vec![(v[0], b.ty(v[0]).clone())],
                captures: vec![results[0]],
                iterations: None,
            };
            results.extend(b.loop_(&spec, |b, _, carried, captures| {
                let (next, go) = (b.add(carried[0], captures[0])?, b.scalar_bool(true));
                Ok::<_, BuildError>((go, vec![next], vec![next]))
            })?);
            Ok(results)
        });
        means_the_same(model, &[x, trips]);
    }
}

#[test]
fn arithmetic_beyond_expressions_is_refused() {
    let mut model =
        graph(&[TensorType::fixed(DType::I4, &[4])], |b, x| Ok(vec![b.reduce(ReduceOp::Sum, x[0], &[0], false)?]));
    let mut cx = PassContext::new(MachineModel::BASELINE);
    unpack_elements::run(&mut model, &mut cx);
    assert_eq!(cx.unsupported, ["node (Op): arithmetic in i4"]);
}

#[test]
fn sizes_may_be_symbols() {
    let mut model = Graph::new("t");
    let n = Dim::from(model.symbols.fresh("n"));
    let body = model.body();
    let origin = model.origins.push(OriginData { path: "node".into(), operator: "Op".into() });
    let x = model.add_param(body, TensorType::new(DType::U2, [n.clone(), Dim::from(3)]));
    model.input_names.push("x".into());
    let mut b = Builder::new(&mut model, body, vec![origin]);
    let y = b.not(x).expect("an integer");
    model.regions[body].results.push(y);
    model.output_names.push("y".into());
    let mut cx = PassContext::new(MachineModel::BASELINE);
    unpack_elements::run(&mut model, &mut cx);
    verify::verify(&model).expect("a valid graph");
    assert_eq!(cx.packed.inputs[&0], TensorType::new(DType::U2, [n, Dim::from(3)]));
    // Seven elements of which the last byte has three are more than its memory tells, so the symbol is found by a run.
    assert_eq!(model.tensor_ty(model.regions[body].params[0]).rank(), 1);
}
