//! What the builder makes of arguments: shapes, labels, trivial operations, errors, and what it knows.

use super::*;
use crate::scalar::{BinaryOp, CmpOp};
use crate::tensor::op::{CompositeKind, Contract, Conv, Coord, Panel, ReduceOp, ScatterOp, Window};
use crate::tensor::verify::verify;
use crate::tensor::{Origin, OriginData};

/// A graph to build in: parameters are added with `param`, and `done` verifies.
struct Bench {
    graph: Graph,
    origin: Origin,
}

impl Bench {
    fn new() -> Bench {
        let mut graph = Graph::new("t");
        let origin = graph.origins.push(OriginData { path: "a".into(), operator: "A".into() });
        Bench { graph, origin }
    }

    fn param(&mut self, dtype: DType, dims: &[&str]) -> Value {
        let shape: Vec<Dim> = dims.iter().map(|d| Dim::parse(d, &mut self.graph.symbols).expect("a dim")).collect();
        let body = self.graph.body();
        self.graph.input_names.push(String::new());
        self.graph.add_param(body, TensorType::new(dtype, shape))
    }

    fn f32(&mut self, dims: &[&str]) -> Value {
        self.param(DType::F32, dims)
    }

    fn b(&mut self) -> Builder<'_> {
        let body = self.graph.body();
        Builder::new(&mut self.graph, body, [self.origin].as_slice())
    }

    fn dim(&mut self, text: &str) -> Dim {
        Dim::parse(text, &mut self.graph.symbols).expect("a dim")
    }

    fn text(&self, value: Value) -> String {
        self.graph.type_text(self.graph.ty(value))
    }

    fn done(&self) {
        verify(&self.graph).unwrap_or_else(|e| panic!("{e}"));
    }
}

fn dims(values: &[i64]) -> Vec<Dim> {
    values.iter().map(|&v| Dim::from(v)).collect()
}

#[test]
fn elementwise_broadcasts_and_assumes() {
    let mut t = Bench::new();
    let (a, b) = (t.f32(&["n", "1", "4"]), t.f32(&["3", "4"]));
    let sum = t.b().add(a, b).expect("broadcast");
    assert_eq!(t.text(sum), "f32[n, 3, 4]");
    let c = t.f32(&["m", "3", "4"]);
    let sum = t.b().add(sum, c).expect("assumed equal");
    assert_eq!((t.text(sum).as_str(), t.graph.assumptions.len()), ("f32[n, 3, 4]", 1));
    let fixed = t.f32(&["5", "3", "4"]);
    let sum = t.b().mul(sum, fixed).expect("assumed 5");
    assert_eq!(t.text(sum), "f32[5, 3, 4]");
    let wrong = t.f32(&["6", "1", "1"]);
    let error = t.b().add(sum, wrong).expect_err("5 is not 6").to_string();
    assert!(error.starts_with("shapes [5, 3, 4] and [6, 1, 1] do not broadcast"), "{error}");
    let int = t.param(DType::I64, &["1"]);
    let error = t.b().add(sum, int).expect_err("types differ").to_string();
    assert!(error.contains("add of f32 and i64"), "{error}");
    t.done();
}

#[test]
fn trivial_operations_add_nothing() {
    let mut t = Bench::new();
    let x = t.f32(&["n", "4"]);
    let shape = t.b().shape(x).expect("a tensor");
    let mut b = t.b();
    let same = [
        b.reshape(x, &shape),
        b.transpose(x, &[0, 1]),
        b.cast(x, DType::F32),
        b.slice(x, &dims(&[0, 0]), &shape, &[1, 1]),
        b.broadcast(x, &shape),
        b.concat(&[x], 1),
        b.squeeze(x, &[]),
        b.reduce(ReduceOp::Sum, x, &[], true),
    ];
    assert!(same.iter().all(|v| *v == Ok(x)), "{same:?}");
    assert_eq!(t.graph.nodes.len(), 0);
}

#[test]
fn matmul_follows_numpy() {
    let cases: [(&[&str], &[&str], &str); 7] = [
        (&["2", "3"], &["3", "4"], "f32[2, 4]"),
        (&["3"], &["3"], "f32[]"),
        (&["3"], &["5", "3", "4"], "f32[5, 4]"),
        (&["5", "2", "3"], &["3"], "f32[5, 2]"),
        (&["b", "s", "3"], &["3", "4"], "f32[b, s, 4]"),
        (&["5", "1", "2", "3"], &["6", "3", "4"], "f32[5, 6, 2, 4]"),
        (&["1", "7", "2", "3"], &["5", "1", "3", "4"], "f32[5, 7, 2, 4]"),
    ];
    for (a, b, expected) in cases {
        let mut t = Bench::new();
        let (a, b) = (t.f32(a), t.f32(b));
        let y = t.b().matmul(a, b, DType::F32).expect("fits");
        assert_eq!(t.text(y), expected);
        let broadcasts = t.graph.nodes.values().filter(|n| matches!(n.op, Op::Broadcast)).count();
        assert_eq!(broadcasts, 0);
        t.done();
    }
    let mut t = Bench::new();
    let (a, b) = (t.f32(&["2", "3"]), t.f32(&["4", "5"]));
    let error = t.b().matmul(a, b, DType::F32).expect_err("3 is not 4").to_string();
    assert!(error.starts_with("matrix product of [2, 3] and [4, 5]"), "{error}");
    assert!(error.ends_with("sizes 3 and 4 differ"), "{error}");
}

#[test]
fn gemm_folds_scales_into_one_node() {
    let mut t = Bench::new();
    let (a, b, c) = (t.f32(&["3", "2"]), t.f32(&["4", "3"]), t.f32(&["4"]));
    let y = t.b().gemm(a, b, Some(c), (true, true), (0.5, 1.0)).expect("fits");
    assert_eq!((t.text(y).as_str(), t.graph.nodes.len()), ("f32[2, 4]", 2));
    let bad = t.f32(&["5", "1", "1"]);
    assert!(t.b().gemm(a, b, Some(bad), (true, true), (1.0, 1.0)).is_err());
    t.done();
}

fn conv_of(n: usize, kernel: i64) -> Conv {
    Conv {
        strides: smallvec::smallvec![2; n],
        pad_lo: smallvec::smallvec![1; n],
        pad_hi: smallvec::smallvec![1; n],
        lhs_dilation: smallvec::smallvec![1; n],
        rhs_dilation: smallvec::smallvec![1; n],
        groups: 1,
        channels_last: false,
        acc: DType::F32,
        panel: None,
        winograd: None,
        kernel: smallvec::smallvec![kernel; n],
    }
}

#[test]
fn convolution_sizes() {
    let mut t = Bench::new();
    let (x, w) = (t.f32(&["n", "8", "15", "h"]), t.f32(&["16", "8", "3", "3"]));
    let y = t.b().conv(conv_of(2, 3), x, w).expect("fits");
    assert_eq!(t.text(y), "f32[n, 16, 8, floordiv(h + 1, 2)]");
    let error = t.b().conv(Conv { groups: 2, ..conv_of(2, 3) }, x, w).expect_err("channels").to_string();
    assert!(error.contains("channels of a convolution of [n, 8, 15, h] with [16, 8, 3, 3] in 2 groups"), "{error}");
    assert!(t.b().conv(conv_of(2, 5), x, w).is_err(), "the kernel is 3x3");
    // A transposed convolution: 4 inputs, stride 2 and kernel 3 give 9 = (4 - 1) * 2 + 3.
    let (x, w) = (t.f32(&["1", "8", "4"]), t.f32(&["16", "8", "3"]));
    let spread = Conv {
        strides: smallvec::smallvec![1],
        pad_lo: smallvec::smallvec![2],
        pad_hi: smallvec::smallvec![2],
        lhs_dilation: smallvec::smallvec![2],
        ..conv_of(1, 3)
    };
    let y = t.b().conv(spread, x, w).expect("fits");
    assert_eq!(t.text(y), "f32[1, 16, 9]");
    t.done();
}

#[test]
fn packed_operands_state_their_columns() {
    let mut t = Bench::new();
    let (x, panels) = (t.f32(&["7", "32"]), t.f32(&["3", "32", "16"]));
    let c = Contract {
        lhs: [0, 1].as_slice().into(),
        rhs: [1, 2].as_slice().into(),
        out: [0, 2].as_slice().into(),
        acc: DType::F32,
        panel: Some(Panel::flat(16)),
    };
    let stated = |n| [TensorType::fixed(DType::F32, &[7, n]).into()];
    assert!(t.b().node(Op::Contract(c.clone()), &[x, panels], &stated(40)).is_ok());
    let error = t.b().node(Op::Contract(c), &[x, panels], &stated(49)).expect_err("4 panels").to_string();
    assert_eq!(error, "contract: 49 columns in 3 panels of 16");
    let (image, filter) = (t.f32(&["1", "9", "9", "8"]), t.f32(&["2", "3", "3", "8", "16"]));
    let conv = Conv { channels_last: true, panel: Some(Panel::flat(16)), ..conv_of(2, 3) };
    let stated = |n| [TensorType::fixed(DType::F32, &[1, 5, 5, n]).into()];
    assert!(t.b().node(Op::Conv(conv.clone()), &[image, filter], &stated(20)).is_ok());
    assert!(t.b().node(Op::Conv(conv), &[image, filter], &stated(16)).is_err());
    t.done();
}

#[test]
fn reductions_and_windows() {
    let mut t = Bench::new();
    let x = t.f32(&["n", "3", "8", "8"]);
    let mut b = t.b();
    let mean = b.mean(x, &[-1, 2], true).expect("axes exist");
    let arg = b.reduce(ReduceOp::ArgMax { last: false }, x, &[1], false).expect("one axis");
    let window = Window {
        op: ReduceOp::Max,
        sizes: [1, 1, 3, 3].as_slice().into(),
        strides: [1, 1, 2, 2].as_slice().into(),
        dilations: [1, 1, 1, 1].as_slice().into(),
        pad_lo: [0, 0, 1, 1].as_slice().into(),
        pad_hi: [0, 0, 1, 1].as_slice().into(),
    };
    let pooled = b.window(window, x).expect("fits");
    assert!(b.reduce(ReduceOp::Sum, x, &[1, -3], false).is_err(), "one axis twice");
    assert!(b.reduce(ReduceOp::Sum, x, &[4], false).is_err());
    assert_eq!(t.text(mean), "f32[n, 3, 1, 1]");
    assert_eq!(t.text(arg), "i64[n, 8, 8]");
    assert_eq!(t.text(pooled), "f32[n, 3, 4, 4]");
    t.done();
}

#[test]
fn shapes_of_views() {
    let mut t = Bench::new();
    let x = t.f32(&["n", "1", "6"]);
    let flat = t.b().flatten(x, -1).expect("axis");
    assert_eq!(t.text(flat), "f32[n, 6]");
    let y = t.b().unsqueeze(x, &[0, -1]).expect("axes");
    assert_eq!(t.text(y), "f32[1, n, 1, 6, 1]");
    let target = [t.dim("floordiv(n*6, 4)"), Dim::from(4)];
    let y = t.b().reshape(x, &target).expect("assumed to divide");
    assert_eq!((t.text(y).as_str(), t.graph.assumptions.len()), ("f32[n + floordiv(n, 2), 4]", 1));
    let fixed = t.f32(&["2", "3"]);
    let error = t.b().reshape(fixed, &dims(&[7])).expect_err("6 is not 7").to_string();
    assert!(error.starts_with("reshape of [2, 3] to [7]"), "{error}");
    assert!(t.b().squeeze(fixed, &[0]).is_err());
    let y = t.b().expand(fixed, &dims(&[4, 1, 3])).expect("broadcast");
    assert_eq!(t.text(y), "f32[4, 2, 3]");
    let fill = t.b().scalar_f32(0.0);
    let y = t.b().pad(fixed, fill, &dims(&[1, -1]), &dims(&[0, 2])).expect("pads and crops");
    assert_eq!(t.text(y), "f32[3, 4]");
    let both = t.b().concat(&[fixed, y], 0);
    assert!(both.is_err(), "3 columns and 4");
}

#[test]
fn python_slices() {
    let cases: [(i64, i64, i64, &str, i64); 7] = [
        (0, i64::MAX, 1, "f32[10]", 0),
        (2, -1, 1, "f32[7]", 2),
        (-3, 100, 1, "f32[3]", 7),
        (7, 3, 1, "f32[0]", 7),
        (1, 9, 3, "f32[3]", 1),
        (-1, i64::MIN, -1, "f32[10]", 9),
        (8, 2, -4, "f32[2]", 8),
    ];
    for (start, end, step, expected, first) in cases {
        let mut t = Bench::new();
        let x = t.f32(&["10"]);
        let y = t.b().slice_range(x, 0, &start.into(), &end.into(), step).expect("clamped");
        assert_eq!(t.text(y), expected, "[{start}:{end}:{step}]");
        if let Some(node) = t.graph.def_node(y) {
            let Op::Slice { starts, .. } = &t.graph.nodes[node].op else { panic!("a slice") };
            assert_eq!(starts[0], first);
        }
        t.done();
    }
    let mut t = Bench::new();
    let x = t.f32(&["n + 2"]);
    let y = t.b().slice_range(x, 0, &1.into(), &Dim::from(-1), 1).expect("within the bounds");
    assert_eq!(t.text(y), "f32[n]");
    assert!(t.b().slice_range(x, 0, &0.into(), &1.into(), 0).is_err());
}

#[test]
fn gathers() {
    let mut t = Bench::new();
    let (data, index) = (t.f32(&["5", "6", "7"]), t.param(DType::I64, &["2", "3"]));
    let y = t.b().take(data, index, 1).expect("fits");
    assert_eq!(t.text(y), "f32[5, 2, 3, 7]");
    let node = t.graph.def_node(y).expect("a node");
    let Op::Gather { coords } = &t.graph.nodes[node].op else { panic!("a gather") };
    assert_eq!(coords[..], [Coord::Axis(0), Coord::Input(0), Coord::Axis(3)]);
    let pairs = t.param(DType::I32, &["4", "2"]);
    let y = t.b().gather_nd(data, pairs, 0).expect("fits");
    assert_eq!(t.text(y), "f32[4, 7]");
    let rows = t.param(DType::I64, &["5", "1"]);
    let y = t.b().gather_nd(data, rows, 1).expect("fits");
    assert_eq!(t.text(y), "f32[5, 7]");
    let same_rank = t.param(DType::I64, &["5", "2", "7"]);
    let y = t.b().take_along_axis(data, same_rank, -2).expect("fits");
    assert_eq!(t.text(y), "f32[5, 2, 7]");
    let last = t.b().scalar_i64(-1);
    let y = t.b().take(data, last, 2).expect("a view");
    assert_eq!(t.text(y), "f32[5, 6]");
    assert!(matches!(t.graph.nodes[t.graph.def_node(y).expect("a node")].op, Op::Reshape));
    let updates = t.f32(&["4", "7"]);
    let y = t.b().scatter_nd(ScatterOp::Add, data, pairs, updates).expect("fits");
    assert_eq!(t.text(y), "f32[5, 6, 7]");
    let updates = t.f32(&["5", "2", "7"]);
    assert!(t.b().scatter_elements(ScatterOp::Set, data, same_rank, updates, 1).is_ok());
    assert!(t.b().scatter_nd(ScatterOp::Set, data, pairs, updates).is_err());
    t.done();
}

#[test]
fn known_shape_arithmetic() {
    let mut t = Bench::new();
    let x = t.f32(&["n", "3", "8", "8"]);
    let shape = t.b().shape(x).expect("a tensor");
    let mut b = t.b();
    // reshape(x, concat(shape(x)[0:1], [-1 -> 3 * 64])) as exporters write it.
    let all = b.dim_values(&shape).expect("few");
    let zero = b.scalar_i64(0);
    let batch = b.take(all, zero, 0).expect("in range");
    let batch = b.unsqueeze(batch, &[0]).expect("scalar");
    let rest = b.slice_range(all, 0, &1.into(), &i64::MAX.into(), 1).expect("range");
    let product = b.reduce(ReduceOp::Prod, rest, &[0], true).expect("ints");
    let target = b.concat(&[batch, product], 0).expect("vectors");
    let target = b.cast(target, DType::I32).expect("ints");
    let target = b.binary_number(BinaryOp::Max, target, 0.0).expect("ints");
    let known = b.known_dims(target).expect("all known");
    assert_eq!(known, [shape[0].clone(), Dim::from(192)]);
    let y = b.reshape(x, &known).expect("same count");
    // Half of the height, by way of floats.
    let height = b.slice_axis(all, 0, &2.into(), &1.into(), 1).expect("in range");
    let float = b.cast(height, DType::F32).expect("cast");
    let half = b.binary_number(BinaryOp::Mul, float, 0.5).expect("floats");
    let half = b.cast(half, DType::I64).expect("cast");
    assert_eq!(b.known_i64s(half), Some(vec![4]));
    // Through 16 bits, which hold 0.7 as 0.7001953125.
    let part = b.constant(
        TensorBytes { dtype: DType::F16, shape: [1].as_slice().into(), bytes: vec![0x9a, 0x39].into() },
        "part",
    );
    let part = part.and_then(|part| b.cast(part, DType::F32)).expect("cast");
    assert_eq!(b.graph.known[part].as_ref().and_then(|k| k.all_floats()), Some(vec![0.7001953125]));
    let four = b.i64s(&[4]);
    let small = b.compare(CmpOp::Lt, half, four).expect("ints");
    assert_eq!(b.known_i64s(small), Some(vec![0]));
    let unknown = b.compare(CmpOp::Gt, batch, four).expect("ints");
    assert_eq!(b.known_dims(unknown), None);
    let (either, other) = (b.select(unknown, half, four).expect("ints"), b.select(unknown, half, batch).expect("ints"));
    assert_eq!((b.known_i64s(either), b.known_dims(other)), (Some(vec![4]), None));
    assert_eq!(t.text(y), "f32[n, 192]");
    t.done();
}

#[test]
fn known_generated_and_scattered() {
    let mut t = Bench::new();
    let mut b = t.b();
    // range(0, 6) as [2, 3], transposed, padded with 9.
    let range = b.map_to(&dims(&[6]), &[], |e| Ok(e.index(0))).expect("index");
    let matrix = b.reshape(range, &dims(&[2, 3])).expect("same count");
    let turned = b.transpose(matrix, &[1, 0]).expect("permutation");
    assert_eq!(b.known_i64s(turned), Some(vec![0, 3, 1, 4, 2, 5]));
    let nine = b.scalar_i64(9);
    let padded = b.pad(turned, nine, &dims(&[0, 1]), &dims(&[0, 0])).expect("pads");
    assert_eq!(b.known_i64s(padded), Some(vec![9, 0, 3, 9, 1, 4, 9, 2, 5]));
    let rows = b.reduce(ReduceOp::Max, padded, &[1], false).expect("axis");
    assert_eq!(b.known_i64s(rows), Some(vec![9, 9, 9]));
    let place = b.i64s(&[-1]);
    let update = b.scalar_i64(7);
    let place = b.unsqueeze(place, &[0]).expect("axis");
    let update = b.unsqueeze(update, &[0]).expect("axis");
    let changed = b.scatter_nd(ScatterOp::Set, rows, place, update).expect("fits");
    assert_eq!(b.known_i64s(changed), Some(vec![9, 9, 7]));
    let wide = b.broadcast(changed, &dims(&[2, 3])).expect("broadcast");
    assert_eq!(b.known_i64s(wide), Some(vec![9, 9, 7, 9, 9, 7]));
    t.done();
}

#[test]
fn wrapping_arithmetic_is_not_known() {
    let mut t = Bench::new();
    let mut b = t.b();
    let big = b.number(DType::I32, f64::from(i32::MAX)).expect("i32");
    let sum = b.binary_number(BinaryOp::Add, big, 1.0).expect("i32");
    assert_eq!(b.known_dims(sum), None);
    let least = b.binary_number(BinaryOp::Sub, big, 1.0).expect("i32");
    assert_eq!(b.known_i64s(least), Some(vec![i64::from(i32::MAX) - 1]));
}

#[test]
fn branches_capture_and_agree() {
    let mut t = Bench::new();
    let (condition, x, y) = (t.param(DType::Bool, &[]), t.f32(&["2", "n"]), t.f32(&["2", "m"]));
    let mut b = t.b();
    let two = b.scalar_f32(2.0);
    let results = b
        .if_::<BuildError>(
            condition,
            &[x, y, two],
            |b, c| Ok(vec![b.mul(c[0], c[2])?]),
            |b, c| Ok(vec![b.mul(c[1], c[2])?]),
        )
        .expect("the types fit");
    assert!(t.text(results[0]).starts_with("f32[2, if_"), "{}", t.text(results[0]));
    let node = t.graph.def_node(results[0]).expect("a node");
    assert_eq!(t.graph.nodes[node].inputs[..], [condition, x, y], "the constant is repeated inside");
    let different =
        t.b().if_::<BuildError>(condition, &[x], |_, c| Ok(vec![c[0]]), |b, c| Ok(vec![b.cast(c[0], DType::F64)?]));
    assert!(different.is_err());
    t.done();
}

#[test]
fn loops_carry_and_scan() {
    let mut t = Bench::new();
    let (x, step) = (t.f32(&["n", "4"]), t.f32(&["n", "4"]));
    let grown = t.dim("grown");
    let mut b = t.b();
    let (trip_count, condition) = (b.scalar_i64(5), b.scalar_bool(true));
    let spec = LoopSpec {
        trip_count,
        condition,
        carried: vec![(x, b.ty(x).clone()), (x, TensorType::new(DType::F32, [grown.clone(), 4.into()]).into())],
        captures: vec![step],
        iterations: Some(5.into()),
    };
    let results = b
        .loop_::<BuildError>(&spec, |b, _, carried, captures| {
            let next = b.add(carried[0], captures[0])?;
            let longer = b.concat(&[carried[1], captures[0]], 0)?;
            Ok((b.scalar_bool(true), vec![next, longer], vec![next]))
        })
        .expect("the types fit");
    assert_eq!(t.text(results[0]), "f32[n, 4]");
    assert!(t.text(results[1]).starts_with("f32[loop_"), "{}", t.text(results[1]));
    assert_eq!(t.text(results[2]), "f32[5, n, 4]");
    t.done();
}

#[test]
fn composites_inline() {
    let mut t = Bench::new();
    let x = t.f32(&["2", "8"]);
    let mut b = t.b();
    let softmax = b
        .composite::<BuildError>(CompositeKind::Softmax { axis: 1 }, &[x], |b, p| {
            let max = b.reduce(ReduceOp::Max, p[0], &[1], true)?;
            let shifted = b.sub(p[0], max)?;
            let power = b.exp(shifted)?;
            let sum = b.reduce(ReduceOp::Sum, power, &[1], true)?;
            Ok(vec![b.div(power, sum)?])
        })
        .expect("builds");
    let Op::Composite { body, .. } = t.graph.nodes[t.graph.def_node(softmax[0]).expect("a node")].op else {
        panic!("a composite")
    };
    let inlined = t.b().inline(body, &[x]);
    t.graph.replace(softmax[0], inlined[0]);
    let root = t.graph.body();
    t.graph.regions[root].results.push(softmax[0]);
    t.graph.output_names.push("y".into());
    t.graph.commit();
    t.done();
    assert_eq!(t.graph.regions[root].nodes.len(), 7);
    assert_eq!(t.text(inlined[0]), "f32[2, 8]");
}

#[test]
fn constants_need_their_bytes() {
    let mut t = Bench::new();
    let mut b = t.b();
    let tensor = TensorBytes::from_f32(&[2], &[1.0, 2.0]);
    assert!(b.constant(tensor.clone(), "w").is_ok());
    for shape in [&[3][..], &[-2], &[i64::MAX, 4]] {
        let wrong = TensorBytes { shape: shape.into(), ..tensor.clone() };
        assert!(b.constant(wrong, "w").is_err(), "{shape:?}");
    }
    assert!(b.splat(Scalar::f32(0.0), &[-1]).is_err());
    assert!(b.number(DType::String, 1.0).is_err());
}
