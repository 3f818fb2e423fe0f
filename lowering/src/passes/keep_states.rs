//! Caches that grow along a dimension become memory of one size, to which a run appends in place.
//!
//! Before: the input `past [h, p, d]` and the output `present = concat 1 (past, new)`, which the caller asks to be kept, where
//! `p` is at most `n`. After: both are `f32[h, n, d]` in the caller's one buffer; `past = slice (state)[0..p]`, `kept = concat 1
//! (past, new, slice (state)[p + s..n])`, `present = slice (kept)[0..p + s]`, and the output is `kept`. The program writes the
//! middle part of that concatenation alone, because the others are where they were. States of one size stay as they are.

use onnxc_ir::dim::{DEFAULT_HIGH, Dim};
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::{Builder, Graph, Op, TensorType, Value, ValueData, ValueDef};

use super::rewrite::{KeptState, PassContext};

/// Runs the pass on the model's body; on regions in it there is nothing left to do.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    for (input, output) in std::mem::take(&mut cx.wanted_states) {
        match keep(graph, cx, input, output) {
            Ok(state) => cx.states.push(state),
            Err(why) => {
                let (past, present) = (&graph.input_names[input], &graph.output_names[output]);
                cx.unsupported.push(format!("state `{past}`, next `{present}`: {why}"));
            }
        }
    }
    graph.commit();
}

fn keep(graph: &mut Graph, cx: &mut PassContext, input: usize, output: usize) -> Result<KeptState, String> {
    let body = graph.body();
    let (param, result) = (graph.regions[body].params[input], graph.resolve(graph.regions[body].results[output]));
    let (before, after) = (graph.tensor_ty(param).clone(), graph.tensor_ty(result).clone());
    if before.dtype != after.dtype || before.rank() != after.rank() {
        return Err("their types differ".into());
    }
    if graph.same_shape(&before.shape, &after.shape) {
        let computed = graph.def_node(result).is_some_and(|n| !matches!(graph.nodes[n].op, Op::Constant(_)));
        return if computed {
            Ok(KeptState { input, output, axis: None, room: before })
        } else {
            Err("the next state is not computed".into())
        };
    }
    let grows = "the next state is no concatenation of the state and what is new";
    let node = graph.def_node(result).ok_or(grows)?;
    let Op::Concat { axis } = graph.nodes[node].op else { return Err(grows.into()) };
    let [past, new] = graph.nodes[node].inputs[..] else { return Err(grows.into()) };
    if graph.resolve(past) != param {
        return Err(grows.into());
    }
    let length = before.shape[axis as usize].clone();
    let symbol = length.as_symbol().ok_or("the size that grows has no name")?;
    let most = graph.symbols.bounds(symbol).1;
    if most >= DEFAULT_HIGH {
        let name = graph.symbols.name(symbol);
        return Err(format!("`{name}` grows; say how far with --dim {name}=0..N"));
    }
    let mut room = before.clone();
    room.shape[axis as usize] = Dim::from(most);
    let values = append(graph, node, param, new, input, axis, &room, &after);
    let kept = values.map_err(|e| e.to_string())?;
    graph.regions[body].results[output] = kept;
    cx.packed.inputs.insert(input, before);
    cx.packed.outputs.insert(output, after);
    Ok(KeptState { input, output, axis: Some(axis), room })
}

/// Builds what takes the place of the input and of the concatenation, and gives the whole state after the run.
#[allow(clippy::too_many_arguments)]
fn append(
    graph: &mut Graph,
    node: onnxc_ir::tensor::Node,
    param: Value,
    new: Value,
    input: usize,
    axis: u32,
    room: &TensorType,
    after: &TensorType,
) -> Result<Value, BuildError> {
    let body = graph.body();
    let (axis, dim) = (i64::from(axis), axis as usize);
    let (length, total) = (graph.tensor_ty(param).shape[dim].clone(), after.shape[dim].clone());
    let state = graph.values.push(ValueData { ty: room.clone().into(), def: ValueDef::Param(body, input as u32) });
    graph.regions[body].params[input] = state;
    let (origins, present) = (graph.nodes[node].origins.clone(), graph.output(node));
    let mut b = Builder::new(graph, body, origins);
    let past = b.slice_axis(state, axis, &Dim::ZERO, &length, 1)?;
    let rest = (&room.shape[dim] - &total)?;
    let behind = b.slice_axis(state, axis, &total, &rest, 1)?;
    let kept = b.concat(&[past, new, behind], axis)?;
    let now = b.slice_axis(kept, axis, &Dim::ZERO, &total, 1)?;
    graph.replace(param, past);
    graph.replace(present, now);
    Ok(kept)
}
