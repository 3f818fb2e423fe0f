//! Finds what cannot be compiled, all of it at once: values that are no tensors, element
//! types without kernels, and sizes that neither the inputs nor the graph itself bind.
//!
//! Changes nothing. Each finding names the ONNX node and its operator.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::tensor::{Graph, Node, Type};

use super::rewrite::PassContext;

/// Runs the check on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    let body = graph.body();
    let mut sizes = std::mem::take(&mut cx.sizes);
    for (i, &param) in graph.regions[body].params.iter().enumerate() {
        // What is packed has its sizes from its elements, not from its bytes.
        sizes.extend(cx.packed.inputs.get(&i).iter().flat_map(|ty| &ty.shape).filter_map(Dim::as_symbol));
        if let Type::Tensor(ty) = graph.ty(param) {
            sizes.extend(ty.shape.iter().filter_map(Dim::as_symbol));
        }
    }
    for (&param, name) in graph.regions[body].params.iter().zip(&graph.input_names) {
        let Type::Tensor(ty) = graph.ty(param) else { continue };
        for dim in &ty.shape {
            if let Some(symbol) = dim.symbols().find(|s| !sizes.contains(s)) {
                let (size, symbol) = (dim.display(&graph.symbols), graph.symbols.name(symbol));
                cx.unsupported.push(format!(
                    "input `{name}`: its size {size} does not say what {symbol} is; state it with --dim {symbol}=N"
                ));
            }
        }
    }
    for &node in &graph.regions[body].nodes {
        sizes.extend(graph.nodes[node].op.own_sizes());
        if let Some(problem) = problem(graph, node, |d| d.symbols().all(|s| sizes.contains(&s))) {
            let text = graph.nodes[node].origins.first().map(|&o| &graph.origins[o]);
            let text = text.map_or_else(String::new, |o| format!("{} ({}): {problem}", o.path, o.operator));
            if !cx.unsupported.contains(&text) {
                cx.unsupported.push(text);
            }
        }
    }
    cx.sizes = sizes;
}

/// Why a node cannot be compiled. `is_known` tells whether a size follows from the sizes of the inputs.
fn problem(graph: &Graph, node: Node, is_known: impl Fn(&Dim) -> bool) -> Option<String> {
    let data = &graph.nodes[node];
    for &value in data.inputs.iter().chain(&data.outputs) {
        let Type::Tensor(ty) = graph.ty(value) else {
            return Some(format!("values of type {}", graph.type_text(graph.ty(value))));
        };
        if matches!(ty.dtype, DType::String | DType::C64 | DType::C128) {
            return Some(format!("elements of type {}", ty.dtype));
        }
        if let Some(size) = ty.shape.iter().find(|d| !is_known(d)) {
            return Some(format!("the size {} depends on data", size.display(&graph.symbols)));
        }
    }
    None
}
