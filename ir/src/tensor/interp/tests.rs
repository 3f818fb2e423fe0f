//! Operations against answers worked out by hand.

use smallvec::smallvec;

use super::*;
use crate::scalar::{BinaryOp, ScalarExpr};
use crate::tensor::op::{Contract, Conv, Coord, Panel, ReduceOp, ScatterOp, Window};

fn run(op: Op, inputs: &[TensorBytes], ty: TensorType) -> TensorBytes {
    evaluate(&op, inputs, &[ty], &|_| 0).unwrap().remove(0)
}

fn f(shape: &[i64], values: &[f32]) -> TensorBytes {
    TensorBytes::from_f32(shape, values)
}

#[test]
fn elementwise_broadcasts() {
    let op = Op::Elementwise(ScalarExpr::binary(BinaryOp::Add));
    let sum = run(op, &[f(&[2, 1], &[1.0, 2.0]), f(&[3], &[10.0, 20.0, 30.0])], TensorType::fixed(DType::F32, &[2, 3]));
    assert_eq!(sum.to_f32().unwrap(), [11.0, 21.0, 31.0, 12.0, 22.0, 32.0]);
}

#[test]
fn matrices_multiply_and_panels_mean_the_same() {
    let mut c =
        Contract { lhs: smallvec![0, 1], rhs: smallvec![1, 2], out: smallvec![0, 2], acc: DType::F32, panel: None };
    let ty = TensorType::fixed(DType::F32, &[1, 3]);
    let lhs = f(&[1, 2], &[1.0, 2.0]);
    let product = run(Op::Contract(c.clone()), &[lhs.clone(), f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])], ty.clone());
    assert_eq!(product.to_f32().unwrap(), [9.0, 12.0, 15.0]);
    c.panel = Some(Panel::flat(2));
    let panels = f(&[2, 2, 2], &[1.0, 2.0, 4.0, 5.0, 3.0, 0.0, 6.0, 0.0]);
    assert_eq!(run(Op::Contract(c), &[lhs, panels], ty), product);
}

#[test]
fn the_last_word_of_a_depth_lies_over_the_one_before() {
    let bytes = |dtype, shape: &[i64], values: &[i64]| TensorBytes {
        dtype,
        shape: shape.into(),
        bytes: values.iter().map(|&v| v as u8).collect::<Vec<_>>().into(),
    };
    let c = Contract {
        lhs: smallvec![0, 1],
        rhs: smallvec![1, 2],
        out: smallvec![0, 2],
        acc: DType::I32,
        panel: Some(Panel::words(2)),
    };
    let x = bytes(DType::U8, &[1, 5], &[1, 2, 3, 4, 255]);
    // One column of 10, 20, ..., 50 and an empty one: the last word begins at element 1, whose weights stand before.
    let words = bytes(DType::I8, &[1, 2, 2, 4], &[10, 20, 30, 40, 0, 0, 0, 0, 0, 0, 0, 50, 0, 0, 0, 0]);
    let y = run(Op::Contract(c), &[x, words], TensorType::fixed(DType::I32, &[1, 1]));
    assert_eq!(y.to_i64().unwrap(), [10 + 40 + 90 + 160 + 255 * 50]);
}

#[test]
fn convolutions_pad_and_stride() {
    let conv = Conv {
        strides: smallvec![2],
        pad_lo: smallvec![1],
        pad_hi: smallvec![0],
        lhs_dilation: smallvec![1],
        rhs_dilation: smallvec![1],
        groups: 1,
        channels_last: false,
        acc: DType::F32,
        panel: None,
        winograd: None,
        kernel: smallvec![2],
    };
    let y = run(
        Op::Conv(conv),
        &[f(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]), f(&[1, 1, 2], &[10.0, 1.0])],
        TensorType::fixed(DType::F32, &[1, 1, 2]),
    );
    // Windows (pad, 1) and (2, 3).
    assert_eq!(y.to_f32().unwrap(), [1.0, 23.0]);
}

#[test]
fn windows_give_the_index_of_the_greatest() {
    let window = |op| Window {
        op,
        sizes: smallvec![2],
        strides: smallvec![2],
        dilations: smallvec![1],
        pad_lo: smallvec![0],
        pad_hi: smallvec![0],
    };
    let x = f(&[4], &[1.0, 5.0, 7.0, 2.0]);
    let most = run(Op::Window(window(ReduceOp::Max)), std::slice::from_ref(&x), TensorType::fixed(DType::F32, &[2]));
    assert_eq!(most.to_f32().unwrap(), [5.0, 7.0]);
    let at = run(Op::Window(window(ReduceOp::ArgMax { last: false })), &[x], TensorType::fixed(DType::I64, &[2]));
    assert_eq!(at.to_i64().unwrap(), [1, 2]);
}

#[test]
fn gathers_clamp_and_scatters_skip() {
    let data = f(&[3], &[1.0, 2.0, 3.0]);
    let index = TensorBytes::from_i64(&[3], &[9, -4, 1]);
    let ty = TensorType::fixed(DType::F32, &[3]);
    let coords = smallvec![Coord::Input(0)];
    let taken = run(Op::Gather { coords: coords.clone() }, &[data.clone(), index.clone()], ty.clone());
    assert_eq!(taken.to_f32().unwrap(), [3.0, 1.0, 2.0]);
    let updates = f(&[3], &[10.0, 20.0, 30.0]);
    let put = run(Op::Scatter { coords, op: ScatterOp::Add }, &[data, updates, index], ty);
    assert_eq!(put.to_f32().unwrap(), [1.0, 32.0, 3.0]);
}

#[test]
fn sorts_put_nan_last_and_keep_equals_in_order() {
    let x = f(&[4], &[2.0, f32::NAN, 1.0, 2.0]);
    let types = [TensorType::fixed(DType::F32, &[4]), TensorType::fixed(DType::I64, &[4])];
    let results = evaluate(&Op::Sort { axis: 0, descending: false }, &[x], &types, &|_| 0).unwrap();
    assert_eq!(results[1].to_i64().unwrap(), [2, 0, 3, 1]);
}

#[test]
fn views_move_elements() {
    let x = f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let t =
        run(Op::Transpose { perm: smallvec![1, 0] }, std::slice::from_ref(&x), TensorType::fixed(DType::F32, &[3, 2]));
    assert_eq!(t.to_f32().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let starts = smallvec![Dim::from(1), Dim::from(2)];
    let backwards = run(
        Op::Slice { starts, steps: smallvec![1, -2] },
        std::slice::from_ref(&x),
        TensorType::fixed(DType::F32, &[1, 2]),
    );
    assert_eq!(backwards.to_f32().unwrap(), [6.0, 4.0]);
    let amounts = |a: i64, b: i64| smallvec![Dim::from(a), Dim::from(b)];
    let padded = run(
        Op::Pad { lo: amounts(0, 1), hi: amounts(1, 0) },
        &[x, f(&[], &[9.0])],
        TensorType::fixed(DType::F32, &[3, 4]),
    );
    assert_eq!(padded.to_f32().unwrap(), [9.0, 1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0, 9.0, 9.0, 9.0, 9.0]);
}

/// A graph of one input of this shape that is its own output.
fn identity(shape: impl FnOnce(&mut Graph) -> Vec<Dim>) -> Graph {
    let mut graph = Graph::new("t");
    let shape = shape(&mut graph);
    let body = graph.body();
    let x = graph.add_param(body, TensorType::new(DType::F32, shape));
    graph.regions[body].results.push(x);
    graph
}

#[test]
fn inputs_have_the_sizes_that_the_graph_says() {
    let graph = identity(|g| {
        let n = Dim::from(g.symbols.intern("n"));
        vec![n.clone(), (&n * &Dim::from(2)).unwrap()]
    });
    assert!(interpret(&graph, &[f(&[1, 2], &[1.0, 2.0])]).is_ok());
    let error = interpret(&graph, &[f(&[1, 3], &[1.0, 2.0, 3.0])]).unwrap_err().to_string();
    assert_eq!(error, "a dimension of input 0 is 3 instead of 2");

    let unbound = identity(|g| vec![(&Dim::from(g.symbols.intern("n")) * &Dim::from(2)).unwrap()]);
    let error = interpret(&unbound, &[f(&[2], &[1.0, 2.0])]).unwrap_err().to_string();
    assert_eq!(error, "no input says what `n` is");

    let mut assumed = identity(|g| ["n", "m"].map(|name| g.symbols.intern(name).into()).into());
    let [n, m] = ["n", "m"].map(|name| Dim::from(assumed.symbols.intern(name)));
    assumed.assume_equal(&n, &m).unwrap();
    assert!(interpret(&assumed, &[f(&[1, 1], &[1.0])]).is_ok());
    let error = interpret(&assumed, &[f(&[1, 2], &[1.0, 2.0])]).unwrap_err().to_string();
    assert!(error.contains("m = n"), "{error}");
}

#[test]
fn shared_recipes_are_evaluated_once() {
    // Each constant is the sum of the one before it with itself: 2^60 evaluations, or 60.
    let mut constants = PrimaryMap::new();
    let ty = TensorType::fixed(DType::I64, &[1]);
    let source = ConstantSource::Splat(crate::scalar::Scalar::i64(1));
    let mut last = constants.push(ConstantData { ty: ty.clone(), source, name: String::new() });
    for _ in 0..60 {
        let op = Op::Elementwise(ScalarExpr::binary(BinaryOp::Add));
        let source = ConstantSource::Lazy { op, inputs: smallvec![last, last] };
        last = constants.push(ConstantData { ty: ty.clone(), source, name: String::new() });
    }
    assert_eq!(constant_bytes(&constants, last).to_i64().unwrap(), [1 << 60]);
}
