//! An elementwise result takes the memory of an operand that nobody reads afterwards, and only then.

use onnxc_ir::dtype::DType;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::program::interp::{run_program, weight_section};
use onnxc_ir::tensor::interp::{constant_bytes, interpret};
use onnxc_ir::tensor::{Builder, Graph, OriginData, TensorBytes, TensorType};
use onnxc_lowering::pipeline::{Options, lower};

/// `a = concat(x, x); b = relu(a)`, and with `again` something that reads `a` after that.
fn graph(again: bool) -> Graph {
    let mut graph = Graph::new("in_place");
    let origin = graph.origins.push(OriginData { path: "n".into(), operator: "Relu".into() });
    let body = graph.body();
    let x = graph.add_param(body, TensorType::fixed(DType::F32, &[16]));
    graph.input_names.push("x".into());
    let mut b = Builder::new(&mut graph, body, &[origin][..]);
    let joined = b.concat(&[x, x], 0).unwrap();
    let relu = b.relu(joined).unwrap();
    // Sorting takes its operand from memory, so that nothing fuses.
    let mut results = vec![b.sort(relu, 0, false).unwrap().0];
    if again {
        results.push(b.sort(joined, 0, true).unwrap().0);
    }
    graph.output_names = (0..results.len()).map(|i| format!("y{i}")).collect();
    graph.regions[body].results = results;
    graph
}

#[test]
fn the_last_reader_may_overwrite() {
    // One tensor of 32 floats or two, and the 32 indices of a sort.
    for (again, arena) in [(false, 384), (true, 512)] {
        let graph = graph(again);
        let x = TensorBytes::from_f32(&[16], &std::array::from_fn::<f32, 16, _>(|i| i as f32 - 8.0));
        let expected = interpret(&graph, std::slice::from_ref(&x)).unwrap();
        let program = lower(graph, &Options::new(MachineModel::BASELINE), |_, _| {}).unwrap();
        assert_eq!(program.arena_bytes.as_const(), Some(arena), "{program}");
        let weights = weight_section(&program, |c, i| Ok::<_, ()>(constant_bytes(c, i))).unwrap();
        assert_eq!(run_program(&program, &weights, &[x]).unwrap(), expected);
    }
}
