//! Passes keep the meaning of a graph: small graphs are interpreted before the pipeline and after each pass, and what the
//! passes are for is there in the end.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::tensor::build::{BuildError, LoopSpec};
use onnxc_ir::tensor::interp::interpret;
use onnxc_ir::tensor::op::{Contract, Conv, Coord, Panel, ReduceOp, Window};
use onnxc_ir::tensor::{Builder, CompositeKind, Graph, Op, OriginData, TensorBytes, TensorType, Type, Value, verify};
use onnxc_lowering::LowerError;
use onnxc_lowering::passes::rewrite::PassContext;
use onnxc_lowering::pipeline::PASSES;

/// Numbers between -1 and 1 that differ from one another; the same in every run.
fn numbers(seed: u32, count: i64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(seed: u32, shape: &[i64]) -> TensorBytes {
    TensorBytes::from_f32(shape, &numbers(seed, shape.iter().product()))
}

fn weight(b: &mut Builder<'_>, seed: u32, shape: &[i64]) -> Value {
    b.constant(tensor(seed, shape), "w").expect("the weight fits its shape")
}

/// A graph with inputs of these shapes and what `build` makes of them.
fn graph(
    inputs: &[&[i64]],
    build: impl FnOnce(&mut Builder<'_>, &[Value]) -> Result<Value, BuildError>,
) -> (Graph, Vec<TensorBytes>) {
    let mut graph = Graph::new("t");
    let body = graph.body();
    let origin = graph.origins.push(OriginData { path: "node".into(), operator: "Op".into() });
    let types = inputs.iter().map(|s| TensorType::fixed(DType::F32, s));
    let params: Vec<Value> = types.map(|t| graph.add_param(body, t)).collect();
    graph.input_names = inputs.iter().enumerate().map(|(i, _)| format!("x{i}")).collect();
    graph.output_names = vec!["y".into()];
    let mut b = Builder::new(&mut graph, body, vec![origin]);
    let result = build(&mut b, &params).expect("the graph is well-typed");
    graph.regions[body].results.push(result);
    let data = inputs.iter().enumerate().map(|(i, s)| tensor(100 + i as u32, s)).collect();
    (graph, data)
}

/// Runs the passes up to and without `stop`, interpreting after each.
fn run_until(stop: &str, (mut graph, inputs): (Graph, Vec<TensorBytes>)) -> Graph {
    let expected = interpret(&graph, &inputs).expect("the graph runs").remove(0);
    let want = expected.to_f32().expect("floats");
    let scale = want.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    let mut cx = PassContext::new(MachineModel::BASELINE);
    for (name, pass) in PASSES {
        if *name == stop {
            return graph;
        }
        pass(&mut graph, &mut cx);
        assert_eq!(cx.unsupported, Vec::<String>::new(), "after {name}");
        verify::verify(&graph).unwrap_or_else(|e| panic!("after {name}: {e}"));
        let actual = interpret(&graph, &inputs).unwrap_or_else(|e| panic!("after {name}: {e}")).remove(0);
        assert_eq!(actual.shape, expected.shape, "after {name}");
        for (i, (a, w)) in actual.to_f32().expect("floats").iter().zip(&want).enumerate() {
            assert!((a - w).abs() <= 1e-5 * scale, "after {name}: element {i} is {a} instead of {w}");
        }
    }
    graph
}

/// How many nodes of the body are as `is` says.
fn count(graph: &Graph, is: impl Fn(&Op) -> bool) -> usize {
    graph.regions[graph.body()].nodes.iter().filter(|&&n| is(&graph.nodes[n].op)).count()
}

fn is_transpose(op: &Op) -> bool {
    matches!(op, Op::Transpose { .. })
}

fn conv(kernel: &[i64], stride: i64, pad: i64, groups: i64) -> Conv {
    let all = |n: i64| kernel.iter().map(|_| n).collect();
    Conv {
        strides: all(stride),
        pad_lo: all(pad),
        pad_hi: all(pad),
        lhs_dilation: all(1),
        rhs_dilation: all(1),
        groups,
        channels_last: false,
        acc: DType::F32,
        panel: None,
        winograd: None,
        kernel: kernel.into(),
    }
}

/// `x * scale + shift` along axis 1.
fn batch_norm(b: &mut Builder<'_>, x: Value, seed: u32, channels: i64) -> Result<Value, BuildError> {
    let (scale, shift) = (weight(b, seed, &[channels, 1, 1]), weight(b, seed + 1, &[channels, 1, 1]));
    b.map(&[x, scale, shift], |e| {
        let (x, s, t) = (e.arg(0), e.arg(1), e.arg(2));
        let product = e.mul(x, s);
        Ok(e.add(product, t))
    })
}

#[test]
fn a_residual_network_keeps_one_transpose() {
    let network = graph(&[&[2, 3, 9, 9]], |b, x| {
        let w = weight(b, 1, &[20, 3, 3, 3]);
        let y = b.conv(conv(&[3, 3], 2, 1, 1), x[0], w)?;
        let bias = weight(b, 2, &[20, 1, 1]);
        let y = b.add(y, bias)?;
        let y = batch_norm(b, y, 3, 20)?;
        let y = b.relu(y)?;
        let w = weight(b, 5, &[20, 20, 1, 1]);
        let z = b.conv(conv(&[1, 1], 1, 0, 1), y, w)?;
        let z = batch_norm(b, z, 6, 20)?;
        let w = weight(b, 8, &[20, 1, 3, 3]);
        let z = b.conv(conv(&[3, 3], 1, 1, 20), z, w)?;
        let z = b.add(z, y)?;
        let pool = Window {
            op: ReduceOp::Max,
            sizes: [1, 1, 2, 3].as_slice().into(),
            strides: [1, 1, 2, 1].as_slice().into(),
            dilations: [1, 1, 1, 1].as_slice().into(),
            pad_lo: [0, 0, 0, 1].as_slice().into(),
            pad_hi: [0, 0, 1, 0].as_slice().into(),
        };
        let z = b.window(pool, z)?;
        let z = b.mean(z, &[2, 3], true)?;
        let z = b.flatten(z, 1)?;
        let w = weight(b, 9, &[7, 20]);
        b.gemm(z, w, None, (false, true), (1.0, 1.0))
    });
    let end = run_until("fuse", network);
    assert_eq!(count(&end, is_transpose), 1, "only the input is transposed");
    let packed = |op: &Op| match op {
        Op::Conv(c) => c.panel.is_some() && c.channels_last && c.pad_lo.iter().all(|&p| p == 0),
        Op::Contract(c) => c.panel.is_some(),
        _ => false,
    };
    assert_eq!(count(&end, packed), 4);
    assert_eq!(count(&end, |op| matches!(op, Op::Conv(_))), 2, "the 1x1 convolution is a product");
    // What is left of the normalisations: an addition in the expression after each convolution.
    assert_eq!(count(&end, |op| matches!(op, Op::Elementwise(e) if e.insts.len() > 5)), 0);
}

#[test]
fn groups_that_fuse_makes_mean_the_same() {
    let network = graph(&[&[1, 4, 6, 6]], |b, x| {
        let w = weight(b, 1, &[8, 4, 3, 3]);
        let left = b.conv(conv(&[3, 3], 1, 1, 1), x[0], w)?;
        let w = weight(b, 2, &[8, 4, 1, 1]);
        let right = b.conv(conv(&[1, 1], 1, 0, 1), x[0], w)?;
        let sum = b.add(left, right)?;
        let sum = b.relu(sum)?;
        let joined = b.concat(&[sum, left], 1)?;
        let shape = b.shape(joined)?;
        let half = b.slice_axis(joined, 1, &Dim::from(2), &Dim::from(8), 1)?;
        let wide = b.broadcast(half, &[shape[0].clone(), Dim::from(8), shape[2].clone(), shape[3].clone()])?;
        b.reduce(ReduceOp::Sum, wide, &[3], false)
    });
    let end = run_until("", network);
    let left = |op: &Op| !matches!(op, Op::Group { .. } | Op::Constant(_) | Op::Reshape);
    assert_eq!(count(&end, left), 0);
}

#[test]
fn transposed_and_grouped_convolutions() {
    let network = graph(&[&[1, 4, 5, 4]], |b, x| {
        let w = weight(b, 1, &[6, 2, 3, 2]);
        let y = b.conv(Conv { kernel: [3, 2].as_slice().into(), ..conv(&[3, 2], 1, 1, 2) }, x[0], w)?;
        let w = weight(b, 2, &[5, 6, 2, 2]);
        let spread = Conv {
            lhs_dilation: [2, 3].as_slice().into(),
            pad_lo: [1, 0].as_slice().into(),
            pad_hi: [1, 2].as_slice().into(),
            ..conv(&[2, 2], 1, 0, 1)
        };
        b.conv(spread, y, w)
    });
    let end = run_until("fuse", network);
    assert_eq!(count(&end, |op| matches!(op, Op::Conv(c) if c.lhs_dilation.iter().any(|&d| d != 1))), 0);
    assert_eq!(count(&end, |op| matches!(op, Op::Conv(c) if c.panel.is_none())), 1, "groups of several channels");
}

#[test]
fn upsampling_stays_channels_last() {
    let network = graph(&[&[1, 3, 4, 4]], |b, x| {
        let w = weight(b, 1, &[8, 3, 3, 3]);
        let y = b.conv(conv(&[3, 3], 1, 1, 1), x[0], w)?;
        let rows = b.constant(TensorBytes::from_i64(&[8, 1], &[0, 0, 1, 1, 2, 2, 3, 3]), "rows")?;
        let columns = b.constant(TensorBytes::from_i64(&[8], &[0, 0, 1, 1, 2, 2, 3, 3]), "columns")?;
        let coords = [Coord::Axis(0), Coord::Axis(1), Coord::Input(0), Coord::Input(1)];
        let shape = [1, 8, 8, 8].map(Dim::from);
        let up = b.gather(y, &[rows, columns], &coords, &shape)?;
        let gate = b.mean(up, &[2, 3], true)?;
        let gate = b.sigmoid(gate)?;
        let up = b.mul(up, gate)?;
        let zero = b.scalar_f32(0.5);
        let lo = [0, 1, 0, 2].map(Dim::from);
        let padded = b.pad(up, zero, &lo, &[0, 0, 1, 0].map(Dim::from))?;
        let w = weight(b, 2, &[4, 9, 2, 2]);
        let z = b.conv(conv(&[2, 2], 2, 0, 1), padded, w)?;
        let shape = b.shape(z)?;
        let merged = b.reshape(z, &[shape[0].clone(), shape[1].clone(), Dim::product(&shape[2..])?])?;
        b.transpose(merged, &[0, 2, 1])
    });
    let end = run_until("fuse", network);
    assert_eq!(count(&end, is_transpose), 1, "only the input is transposed");
}

#[test]
fn attention_has_no_transposes() {
    let network = graph(&[&[1, 5, 12]], |b, x| {
        let mut heads = Vec::new();
        for seed in 0..3 {
            let w = weight(b, seed, &[12, 12]);
            let y = b.matmul(x[0], w, DType::F32)?;
            let y = b.reshape(y, &[1, 5, 3, 4].map(Dim::from))?;
            heads.push(b.transpose(y, &[0, 2, 1, 3])?);
        }
        let keys = b.transpose(heads[1], &[0, 1, 3, 2])?;
        let scores = b.matmul(heads[0], keys, DType::F32)?;
        let greatest = b.reduce(ReduceOp::Max, scores, &[-1], true)?;
        let shifted = b.sub(scores, greatest)?;
        let power = b.exp(shifted)?;
        let sum = b.reduce(ReduceOp::Sum, power, &[-1], true)?;
        let weights = b.div(power, sum)?;
        let mixed = b.matmul(weights, heads[2], DType::F32)?;
        let mixed = b.transpose(mixed, &[0, 2, 1, 3])?;
        b.reshape(mixed, &[1, 5, 12].map(Dim::from))
    });
    let end = run_until("fuse", network);
    assert_eq!(count(&end, is_transpose), 0);
    assert_eq!(count(&end, |op| matches!(op, Op::Composite { kind: CompositeKind::Softmax { axis: 2 | 3 }, .. })), 1);
    assert_eq!(
        count(&end, |op| matches!(op, Op::Contract(Contract { panel: Some(Panel { columns: 16, deep: 1 }), .. }))),
        3
    );
}

#[test]
fn norms_are_recognized_in_several_spellings() {
    for spelling in 0..4 {
        let network = graph(&[&[2, 3, 8]], |b, x| {
            let y = if spelling < 2 {
                let mean = b.mean(x[0], &[2], true)?;
                b.sub(x[0], mean)?
            } else {
                x[0]
            };
            let two = b.scalar_f32(2.0);
            let square = if spelling % 2 == 0 { b.pow(y, two)? } else { b.mul(y, y)? };
            let variance = b.mean(square, &[-1], true)?;
            let epsilon = b.scalar_f32(1e-5);
            let shifted = b.add(variance, epsilon)?;
            let root = b.sqrt(shifted)?;
            let normal = if spelling % 2 == 0 {
                b.div(y, root)?
            } else {
                let one = b.scalar_f32(1.0);
                let inverse = b.div(one, root)?;
                b.mul(inverse, y)?
            };
            let scale = weight(b, 1, &[8]);
            let scaled = b.mul(normal, scale)?;
            let bias = weight(b, 2, &[8]);
            b.add(scaled, bias)
        });
        let end = run_until("fuse", network);
        let epsilon = 1e-5f32.to_bits();
        let kind = if spelling < 2 {
            CompositeKind::LayerNorm { axis: 2, epsilon }
        } else {
            CompositeKind::RmsNorm { axis: 2, epsilon }
        };
        let found = count(&end, |op| matches!(op, Op::Composite { kind: k, .. } if *k == kind));
        assert_eq!(found, 1, "spelling {spelling}");
        let plain = count(&end, |op| matches!(op, Op::Reduce { .. } | Op::Elementwise(_)));
        assert_eq!(plain, usize::from(spelling >= 2), "spelling {spelling}: only the bias of an RmsNorm is outside");
    }
}

#[test]
fn growing_concatenations_are_chained() {
    let network = graph(&[&[1, 2, 3]], |b, x| {
        let mut parts = vec![x[0]];
        for _ in 0..4 {
            let all = b.concat(&parts, 1)?;
            let next = b.relu(all)?;
            let next = b.reduce(ReduceOp::Sum, next, &[1], true)?;
            parts.push(next);
        }
        b.concat(&parts, 1)
    });
    let end = run_until("fuse", network);
    assert_eq!(count(&end, |op| matches!(op, Op::Concat { .. })), 4);
    let widest = end.regions[end.body()].nodes.iter().filter(|&&n| matches!(end.nodes[n].op, Op::Concat { .. }));
    assert_eq!(widest.map(|&n| end.nodes[n].inputs.len()).max(), Some(2));
}

#[test]
fn loops_of_known_length_share_packed_weights() {
    let network = graph(&[&[1, 4], &[3, 4]], |b, x| {
        let (count, go) = (b.scalar_i64(3), b.scalar_bool(true));
        let ty = b.ty(x[0]).clone();
        let w = weight(b, 1, &[4, 4]);
        let spec = LoopSpec {
            trip_count: count,
            condition: go,
            carried: vec![(x[0], ty)],
            captures: vec![x[1], w],
            iterations: Some(Dim::from(3)),
        };
        let results = b.loop_(&spec, |b, i, carried, captures| {
            let row = b.gather(captures[0], &[i], &[Coord::Input(0), Coord::Axis(1)], &[1, 4].map(Dim::from))?;
            let h = b.matmul(carried[0], captures[1], DType::F32)?;
            let h = b.add(h, row)?;
            let h = b.tanh(h)?;
            let go = b.scalar_bool(true);
            Ok::<_, BuildError>((go, vec![h], vec![h]))
        })?;
        let last = b.unsqueeze(results[0], &[0])?;
        b.concat(&[last, results[1]], 0)
    });
    let end = run_until("fuse", network);
    assert_eq!(count(&end, |op| matches!(op, Op::Loop { .. } | Op::Gather { .. })), 0);
    assert_eq!(count(&end, |op| matches!(op, Op::Contract(c) if c.panel.is_some())), 3);
    assert_eq!(count(&end, |op| matches!(op, Op::Constant(_))), 1);
}

#[test]
fn loops_get_the_constants_that_folding_made() {
    let (mut network, inputs) = graph(&[&[1, 4]], |b, x| {
        let (count, go) = (b.scalar_i64(1 << 40), b.scalar_bool(true));
        let ty = b.ty(x[0]).clone();
        // No constant yet where it is captured.
        let w = weight(b, 1, &[4, 4]);
        let w = b.transpose(w, &[1, 0])?;
        let spec = LoopSpec {
            trip_count: count,
            condition: go,
            carried: vec![(x[0], ty)],
            captures: vec![w],
            iterations: None,
        };
        let results = b.loop_(&spec, |b, _, carried, captures| {
            let h = b.matmul(carried[0], captures[0], DType::F32)?;
            let h = b.tanh(h)?;
            let sum = b.reduce(ReduceOp::Sum, h, &[0, 1], false)?;
            let least = b.scalar(onnxc_ir::scalar::Scalar::f32(2.0));
            let go = b.compare(onnxc_ir::scalar::CmpOp::Gt, sum, least)?;
            Ok::<_, BuildError>((go, vec![h], vec![]))
        })?;
        Ok(results[0])
    });
    let expected = interpret(&network, &inputs).expect("the graph runs");
    let options = onnxc_lowering::pipeline::Options::new(MachineModel::BASELINE);
    onnxc_lowering::pipeline::run_passes(&mut network, &options, |_, _| ()).expect("it is supported");
    verify::verify(&network).unwrap_or_else(|e| panic!("{e}"));
    let found = interpret(&network, &inputs).expect("the graph runs");
    for (a, b) in found[0].to_f32().expect("floats").iter().zip(expected[0].to_f32().expect("floats")) {
        assert!((a - b).abs() <= 1e-5, "{a} instead of {b}");
    }
    let is_loop = |n: &&onnxc_ir::tensor::Node| matches!(network.nodes[**n].op, Op::Loop { .. });
    let node = network.regions[network.body()].nodes.iter().find(is_loop).expect("the loop stays");
    // Trip count, condition and state: nothing is captured any more.
    assert_eq!(network.nodes[*node].inputs.len(), 3);
}

#[test]
fn everything_unsupported_is_named() {
    let (mut graph, _) = graph(&[&[2]], |b, x| {
        let zero = b.scalar_i64(0);
        let first = b.gather(x[0], &[zero], &[Coord::Input(0)], &[])?;
        let limit = b.scalar_f32(0.0);
        let positive = b.greater(first, limit)?;
        let complex = |b: &mut Builder<'_>, v: &[Value]| Ok::<_, BuildError>(vec![b.cast(v[0], DType::C64)?]);
        let results = b.if_(positive, &[x[0]], complex, complex)?;
        b.cast(results[0], DType::C128)
    });
    let second = graph.origins.push(OriginData { path: "narrow".into(), operator: "Cast".into() });
    let last = *graph.regions[graph.body()].nodes.last().expect("the cast");
    graph.nodes[last].origins = std::iter::once(second).collect();
    let options = onnxc_lowering::pipeline::Options::new(MachineModel::BASELINE);
    let error = onnxc_lowering::pipeline::lower(graph, &options, |_, _| {}).expect_err("nothing of it is supported");
    let LowerError::Unsupported { nodes } = &error else { panic!("{error}") };
    assert_eq!(nodes.len(), 2, "{error}");
    assert!(nodes[0].starts_with("node (Op): elements of type"), "{error}");
    assert!(nodes[1].starts_with("narrow (Cast): elements of type"), "{error}");
}

#[test]
fn symbolic_batches_go_through() {
    let mut graph = Graph::new("t");
    let body = graph.body();
    let batch = Dim::from(graph.symbols.fresh("batch"));
    let origin = graph.origins.push(OriginData { path: "node".into(), operator: "Op".into() });
    let shape = [batch, Dim::from(3), Dim::from(6), Dim::from(6)];
    let x = graph.add_param(body, Type::from(TensorType::new(DType::F32, shape)));
    graph.input_names = vec!["x".into()];
    graph.output_names = vec!["y".into()];
    let mut b = Builder::new(&mut graph, body, vec![origin]);
    let build = |b: &mut Builder<'_>| -> Result<Value, BuildError> {
        let w = weight(b, 1, &[8, 3, 3, 3]);
        let y = b.conv(conv(&[3, 3], 1, 1, 1), x, w)?;
        let w = weight(b, 2, &[5, 8, 1, 1]);
        let y = b.conv(conv(&[1, 1], 1, 0, 1), y, w)?;
        let y = b.relu(y)?;
        let y = b.mean(y, &[2, 3], false)?;
        let w = weight(b, 3, &[5, 4]);
        b.matmul(y, w, DType::F32)
    };
    let y = build(&mut b).expect("the graph is well-typed");
    graph.regions[body].results.push(y);
    let end = run_until("fuse", (graph, vec![tensor(7, &[3, 3, 6, 6])]));
    assert_eq!(count(&end, is_transpose), 1);
}
