//! Branches and loops that data decides: a lowered program gives what the graph's interpreter gives, for every way that the
//! data may decide.

use onnxc_ir::machine::MachineModel;
use onnxc_ir::program::interp::{run_program, weight_section};
use onnxc_ir::program::verify::verify_steps;
use onnxc_ir::program::{Program, Step};
use onnxc_ir::tensor::interp::{constant_bytes, interpret};
use onnxc_ir::tensor::{TensorBytes, parse, verify};
use onnxc_lowering::pipeline::{Options, lower};

/// Lowers a graph and compares the program with it on each list of inputs; gives the program.
fn agree(text: &str, inputs: &[Vec<TensorBytes>]) -> Program {
    let graph = parse::parse(text).expect("the graph parses");
    verify::verify(&graph).expect("the graph is valid");
    let options = Options::new(MachineModel::BASELINE);
    let program = lower(graph.clone(), &options, |_, _| {}).expect("the graph compiles");
    verify_steps(&program).expect("the steps are in order");
    let weights = weight_section(&program, |c, k| Ok::<_, ()>(constant_bytes(c, k))).expect("constants have values");
    for inputs in inputs {
        let want = interpret(&graph, inputs).expect("the graph runs");
        let found = run_program(&program, &weights, inputs).expect("the program runs");
        assert_eq!(found, want, "{program}");
    }
    program
}

fn f(values: &[f32]) -> TensorBytes {
    TensorBytes::from_f32(&[values.len() as i64], values)
}

fn i(value: i64) -> TensorBytes {
    TensorBytes::from_i64(&[], &[value])
}

fn truth(value: bool) -> TensorBytes {
    TensorBytes { dtype: onnxc_ir::dtype::DType::Bool, shape: [].as_slice().into(), bytes: vec![value as u8].into() }
}

#[test]
fn branches_of_different_sizes() {
    let program = agree(
        r#"graph "g" {
  symbol n in 0..100
  symbol r in 0..200
  origin o0 "if" "If"
  body (v0: f32[n], v1: bool[]) {
    v2: f32[r] = if sizes [r] (v3: f32[n]) {
      v4: f32[2*n] = concat 0 (v3, v3) @ o0
      return v4
    } (v3: f32[n]) {
      v4: f32[n] = elementwise { arg 0; neg 0 } (v3) @ o0
      return v4
    } (v1, v0) @ o0
    v5: f32[r] = elementwise { arg 0; arg 0; add 0 1 } (v2) @ o0
    return v5
  }
  inputs "x", "c"
  outputs "y"
}"#,
        &[vec![f(&[1.0, 2.0]), truth(true)], vec![f(&[1.0, 2.0]), truth(false)], vec![f(&[]), truth(true)]],
    );
    assert!(program.allocates());
    assert!(program.steps.iter().any(|s| matches!(s, Step::If { .. })));
}

#[test]
fn a_carried_tensor_grows_and_ends_the_loop() {
    let grow = r#"graph "g" {
  symbol n in 0..100
  symbol c in 0..1000
  symbol e in 0..1000
  symbol k in 0..1000
  origin o0 "loop" "Loop"
  const c0 bool[] "" = bytes "01"
  body (v0: f32[n], v1: i64[], v2: f32[]) {
    v3: bool[] = constant c0 () @ o0
    v4: f32[e], v5: f32[k] = loop 1 varying [c] sizes [e, k] (v5: i64[], v6: f32[c], v7: f32[]) {
      v8: f32[1] = reshape (v7) @ o0
      v9: f32[c + 1] = concat 0 (v6, v8) @ o0
      v10: f32[] = reduce sum [0] (v9) @ o0
      v11: bool[] = elementwise { arg 0; const f32 0x41200000; lt 0 1 } (v10) @ o0
      return v11, v9, v10
    } (v1, v3, v0, v2) @ o0
    return v4, v5
  }
  inputs "x", "n", "s"
  outputs "y", "sums"
}"#;
    let s = |v: f32| TensorBytes::from_f32(&[], &[v]);
    agree(
        grow,
        &[
            vec![f(&[1.0, 2.0]), i(3), s(1.0)],
            vec![f(&[1.0, 2.0]), i(100), s(1.5)],
            vec![f(&[]), i(0), s(1.0)],
            vec![f(&[20.0]), i(5), s(1.0)],
        ],
    );
}

#[test]
fn carried_values_change_places() {
    let program = agree(
        r#"graph "g" {
  symbol t in 0..50
  origin o0 "loop" "Loop"
  const c0 bool[] "" = bytes "01"
  body (v0: f32[4], v1: f32[4], v2: f32[t]) {
    v3: bool[] = constant c0 () @ o0
    v4: i64[] = dim_value [t] () @ o0
    v5: f32[4], v6: f32[4], v7: f32[t, 4] = loop 2 (v5: i64[], v6: f32[4], v7: f32[4]) {
      v8: bool[] = constant c0 () @ o0
      v9: f32[4] = elementwise { arg 0; arg 1; sub 0 1 } (v6, v7) @ o0
      return v8, v7, v6, v9
    } (v4, v3, v0, v1) @ o0
    return v5, v6, v7
  }
  inputs "a", "b", "x"
  outputs "p", "q", "d"
}"#,
        &[0, 1, 2, 7].map(|t| vec![f(&[1.0, 2.0, 3.0, 4.0]), f(&[8.0, 7.0, 6.0, 5.0]), f(&vec![0.0; t])]),
    );
    assert!(!program.allocates(), "every size follows from the inputs' shapes");
}
