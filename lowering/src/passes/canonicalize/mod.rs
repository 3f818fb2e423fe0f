//! Brings operations into one form, so that later passes and schedules see few shapes of the same thing.
//!
//! Before: `b = broadcast(constant 2.0); p = pow(x, b); t = transpose [1, 0] (transpose [1, 0] (p))`.
//! After: `p = elementwise { arg0 * arg0 } (x)`, and `p` for `t`.
//!
//! - Scalars go into the expressions of elementwise operations ([`expr`]); a broadcast before one is dropped.
//! - Transposes, reshapes, slices and broadcasts of one another become one; those that change nothing go. Of a reshape by
//!   dimensions of 1 and a slice of symbolic size, the slice comes last.
//! - Contractions take transposes of operands into their labels, lose labels of size 1 and merge neighbours ([`contract`]).
//! - Reductions over axes of size 1 are reshapes. Gathers at constant indices are slices.
//! - A concatenation that goes on where another one ends takes that one's result.
//! - Nodes that compute the same become one.

mod contract;
pub mod expr;

use std::collections::HashMap;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{ScalarExpr, ScalarInst};
use onnxc_ir::tensor::op::{Coord, ReduceOp};
use onnxc_ir::tensor::{Builder, ConstantSource, Graph, Node, Op, Region, Shape, Type, Value, Values};
use smallvec::SmallVec;

use super::rewrite::{PassContext, Rewritten, one, only_users, rewrite, uniform_value};
use expr::Simplifier;

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, _: &mut PassContext) {
    let body = graph.body();
    let mut seen: HashMap<(Op, Values, Vec<Type>), Node> = HashMap::new();
    let mut constants: HashMap<(Type, onnxc_ir::scalar::Scalar), Value> = HashMap::new();
    let users = only_users(graph, body);
    let mut joined: HashMap<(u32, Values), Value> = HashMap::new();
    rewrite(graph, body, |graph, region, node| {
        let result = match &graph.nodes[node].op {
            Op::Elementwise(_) => elementwise(graph, region, node),
            Op::Contract(_) => {
                let user = users.get(graph.output(node)).copied().flatten();
                contract::simplify(graph, region, node, user)
            }
            Op::Transpose { .. } => transpose(graph, region, node),
            Op::Reshape => reshape(graph, region, node),
            Op::Broadcast => broadcast(graph, region, node),
            Op::Slice { .. } => slice(graph, region, node),
            Op::Reduce { .. } => reduce(graph, region, node),
            Op::Concat { .. } => concat(graph, region, node, &mut joined),
            Op::Gather { .. } => gather(graph, region, node),
            Op::Constant(c) => {
                if let ConstantSource::Splat(scalar) = graph.constants[*c].source {
                    let output = graph.output(node);
                    let first = *constants.entry((graph.ty(output).clone(), scalar)).or_insert(output);
                    return if first == output { Ok(None) } else { one(first) };
                }
                Ok(None)
            }
            Op::Pad { lo, hi } if lo.iter().chain(hi).all(|d| *d == 0) => one(graph.nodes[node].inputs[0]),
            Op::Pad { .. }
            | Op::DimValue(_)
            | Op::BindSizes { .. }
            | Op::Cumulate { .. }
            | Op::Conv(_)
            | Op::Window(_)
            | Op::Scatter { .. }
            | Op::Sort { .. }
            | Op::External(_) => Ok(None),
            // What gives strings to the caller writes the memory of its own output.
            Op::Strings(_) | Op::If { .. } | Op::Loop { .. } | Op::Composite { .. } | Op::Group { .. } => {
                return Ok(None);
            }
        }?;
        if result.is_some() {
            return Ok(result);
        }
        // What is left of equal nodes is the first.
        let data = &graph.nodes[node];
        let types = data.outputs.iter().map(|&v| graph.ty(v).clone()).collect();
        let first = *seen.entry((data.op.clone(), data.inputs.clone(), types)).or_insert(node);
        if first == node {
            return Ok(None);
        }
        let origins = graph.merged_origins([first, node]);
        graph.nodes[first].origins = origins;
        Ok(Some(graph.nodes[first].outputs.clone()))
    });
}

/// The operand of the operation that defines `value`, if it is one of those that `is` names and has operands.
fn operand_of(graph: &Graph, value: Value, is: impl Fn(&Op) -> bool) -> Option<(Node, Value)> {
    let node = graph.def_node(value)?;
    let data = &graph.nodes[node];
    is(&data.op).then(|| (node, data.inputs[0]))
}

/// What an argument of an expression becomes.
enum Argument {
    Value(Value),
    Step(ScalarInst),
}

/// What `value` becomes as an operand of an elementwise operation whose result has the shape `full`.
fn argument(graph: &Graph, mut value: Value, full: &[Dim]) -> Argument {
    loop {
        if let Some(scalar) = uniform_value(graph, value) {
            return Argument::Step(ScalarInst::Const(scalar));
        }
        let Some(node) = graph.def_node(value) else { return Argument::Value(value) };
        let data = &graph.nodes[node];
        match &data.op {
            Op::DimValue(dim) => return Argument::Step(ScalarInst::Dim(dim.clone())),
            // Operands are broadcast anyway.
            Op::Broadcast => value = data.inputs[0],
            // An operand with all elements keeps its shape, so that its producer and this operation fuse.
            Op::Reshape
                if drops_leading_ones(graph, data.inputs[0], value) && graph.tensor_ty(value).shape[..] != *full =>
            {
                value = data.inputs[0];
            }
            _ => return Argument::Value(value),
        }
    }
}

/// Whether `to` is `from` with more leading dimensions of 1.
fn drops_leading_ones(graph: &Graph, from: Value, to: Value) -> bool {
    let (from, to) = (&graph.tensor_ty(from).shape, &graph.tensor_ty(to).shape);
    to.len() > from.len()
        && to[..to.len() - from.len()].iter().all(|d| *d == 1)
        && to[to.len() - from.len()..] == from[..]
}

fn elementwise(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let Op::Elementwise(expr) = &data.op else { return Ok(None) };
    let mut inputs = Values::new();
    let mut types: Vec<DType> = Vec::new();
    let mut steps = Vec::with_capacity(data.inputs.len());
    let full = &graph.tensor_ty(data.outputs[0]).shape;
    for &value in &data.inputs {
        steps.push(match argument(graph, value, full) {
            Argument::Step(step) => step,
            Argument::Value(v) => {
                let n = inputs.iter().position(|&x| x == v).unwrap_or_else(|| {
                    inputs.push(v);
                    types.push(graph.tensor_ty(v).dtype);
                    inputs.len() - 1
                });
                ScalarInst::Arg(n as u32)
            }
        });
    }
    let mut simplifier = Simplifier::default();
    let mut map = Vec::with_capacity(expr.insts.len());
    for inst in &expr.insts {
        let inst = match inst {
            ScalarInst::Arg(n) => steps[*n as usize].clone(),
            other => other.map_operands(|o| map[o as usize]),
        };
        map.push(simplifier.push(inst, &types));
    }
    let simple = simplifier.finish(*map.last().expect("expressions are not empty"));
    let (simple, inputs) = without_unused(simple, &inputs);
    let output = data.outputs[0];
    let ty = graph.tensor_ty(output).clone();
    let origins = data.origins.clone();
    match simple.insts[..] {
        [ScalarInst::Arg(_)] => {
            let mut b = Builder::new(graph, region, origins);
            let value = b.broadcast(inputs[0], &ty.shape)?;
            return one(value);
        }
        [ScalarInst::Const(scalar)] => {
            if let Some(shape) = ty.static_shape() {
                return one(Builder::new(graph, region, origins).splat(scalar, &shape)?);
            }
        }
        _ => {}
    }
    let data = &mut graph.nodes[node];
    data.op = Op::Elementwise(simple);
    data.inputs = inputs;
    Ok(None)
}

/// The expression with only the inputs that it uses.
fn without_unused(mut expr: ScalarExpr, inputs: &[Value]) -> (ScalarExpr, Values) {
    let mut kept = Values::new();
    for inst in &mut expr.insts {
        if let ScalarInst::Arg(n) = inst {
            let value = inputs[*n as usize];
            let at = kept.iter().position(|&v| v == value).unwrap_or_else(|| {
                kept.push(value);
                kept.len() - 1
            });
            *n = at as u32;
        }
    }
    (expr, kept)
}

fn transpose(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let Op::Transpose { perm } = &data.op else { return Ok(None) };
    let (input, output) = (data.inputs[0], data.outputs[0]);
    let origins = data.origins.clone();
    if let Some((inner, x)) = operand_of(graph, input, |op| matches!(op, Op::Transpose { .. })) {
        let Op::Transpose { perm: first } = &graph.nodes[inner].op else { return Ok(None) };
        let both: Vec<usize> = perm.iter().map(|&p| first[p as usize] as usize).collect();
        return one(Builder::new(graph, region, origins).transpose(x, &both)?);
    }
    // Only dimensions of 1 move: the elements stay where they are.
    let from = &graph.tensor_ty(input).shape;
    let moved: SmallVec<[u32; 5]> = perm.iter().copied().filter(|&p| from[p as usize] != 1).collect();
    if moved.windows(2).all(|w| w[0] < w[1]) {
        let shape = graph.tensor_ty(output).shape.clone();
        return one(Builder::new(graph, region, origins).reshape(input, &shape)?);
    }
    Ok(None)
}

fn reshape(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let (input, output) = (data.inputs[0], data.outputs[0]);
    let shape = graph.tensor_ty(output).shape.clone();
    if graph.same_shape(&graph.tensor_ty(input).shape, &shape) {
        return one(input);
    }
    if let Some((_, x)) = operand_of(graph, input, |op| matches!(op, Op::Reshape)) {
        let origins = data.origins.clone();
        return one(Builder::new(graph, region, origins).reshape(x, &shape)?);
    }
    slice_after(graph, region, node)
}

/// A reshape of a slice that only adds and drops dimensions of 1 comes before the slice. So what multiplies by a part of a
/// cache, whose length a run decides, reads it where it is.
fn slice_after(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let Some((inner, x)) = operand_of(graph, data.inputs[0], |op| matches!(op, Op::Slice { .. })) else {
        return Ok(None);
    };
    let Op::Slice { starts, steps } = &graph.nodes[inner].op else { return Ok(None) };
    let (from, to) = (graph.tensor_ty(data.inputs[0]).shape.clone(), graph.tensor_ty(data.outputs[0]).shape.clone());
    let whole = graph.tensor_ty(x).shape.clone();
    if from.iter().all(|d| d.as_const().is_some()) || (0..from.len()).any(|i| from[i] == 1 && whole[i] != 1) {
        return Ok(None);
    }
    let mut others = (0..from.len()).filter(|&i| from[i] != 1);
    let (mut before, mut at, mut by) = (Shape::new(), Shape::new(), Vec::new());
    for dim in &to {
        let (size, start, step) = if *dim == 1 {
            (Dim::from(1), Dim::ZERO, 1)
        } else {
            match others.next().filter(|&i| from[i] == *dim) {
                Some(i) => (whole[i].clone(), starts[i].clone(), steps[i]),
                None => return Ok(None),
            }
        };
        before.push(size);
        at.push(start);
        by.push(step);
    }
    if others.next().is_some() {
        return Ok(None);
    }
    let origins = data.origins.clone();
    let mut b = Builder::new(graph, region, origins);
    let x = b.reshape(x, &before)?;
    one(b.slice(x, &at, &to, &by)?)
}

fn broadcast(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let (input, output) = (data.inputs[0], data.outputs[0]);
    let shape = graph.tensor_ty(output).shape.clone();
    if graph.same_shape(&graph.tensor_ty(input).shape, &shape) {
        return one(input);
    }
    if let Some((_, x)) = operand_of(graph, input, |op| matches!(op, Op::Broadcast)) {
        let origins = data.origins.clone();
        return one(Builder::new(graph, region, origins).broadcast(x, &shape)?);
    }
    Ok(None)
}

fn slice(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let Op::Slice { starts, steps } = &data.op else { return Ok(None) };
    let (input, output) = (data.inputs[0], data.outputs[0]);
    let sizes = graph.tensor_ty(output).shape.clone();
    let from = &graph.tensor_ty(input).shape;
    let whole = |i: usize| starts[i] == 0 && steps[i] == 1 && graph.same_dim(&from[i], &sizes[i]);
    if (0..sizes.len()).all(whole) {
        return one(input);
    }
    if let Some((inner, x)) = operand_of(graph, input, |op| matches!(op, Op::Slice { .. })) {
        let Op::Slice { starts: first, steps: by } = &graph.nodes[inner].op else { return Ok(None) };
        let mut both = Shape::new();
        for (i, start) in starts.iter().enumerate() {
            both.push((&first[i] + &(start * &Dim::from(by[i]))?)?);
        }
        let steps: Option<Vec<i64>> = steps.iter().zip(by).map(|(a, b)| a.checked_mul(*b)).collect();
        let Some(steps) = steps else { return Ok(None) };
        let origins = data.origins.clone();
        return one(Builder::new(graph, region, origins).slice(x, &both, &sizes, &steps)?);
    }
    Ok(None)
}

fn reduce(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let Op::Reduce { op, axes } = &data.op else { return Ok(None) };
    if matches!(op, ReduceOp::ArgMin { .. } | ReduceOp::ArgMax { .. }) {
        return Ok(None);
    }
    let (op, input, output) = (*op, data.inputs[0], data.outputs[0]);
    let from = graph.tensor_ty(input).shape.clone();
    let is_unit = |a: usize| axes.contains(&(a as u32)) && from[a] == 1;
    if !(0..from.len()).any(is_unit) {
        return Ok(None);
    }
    let kept: Vec<usize> = (0..from.len()).filter(|&a| !is_unit(a)).collect();
    let squeezed: Shape = kept.iter().map(|&a| from[a].clone()).collect();
    let rest: Vec<i64> = (0..kept.len()).filter(|&i| axes.contains(&(kept[i] as u32))).map(|i| i as i64).collect();
    let shape = graph.tensor_ty(output).shape.clone();
    let origins = data.origins.clone();
    let mut b = Builder::new(graph, region, origins);
    let value = b.reshape(input, &squeezed)?;
    let value = b.reduce(op, value, &rest, false)?;
    one(b.reshape(value, &shape)?)
}

/// Parts without elements go. A concatenation of what another one joins and one more part takes that one's result:
/// densely connected networks have chains of them. `joined` holds the results by axis and parts.
fn concat(graph: &mut Graph, region: Region, node: Node, joined: &mut HashMap<(u32, Values), Value>) -> Rewritten {
    let data = &graph.nodes[node];
    let Op::Concat { axis } = data.op else { return Ok(None) };
    let is_empty = |v: &Value| graph.tensor_ty(*v).shape[axis as usize] == 0;
    let parts: Values = data.inputs.iter().copied().filter(|v| !is_empty(v)).collect();
    let origins = data.origins.clone();
    let Some((&last, before)) = parts.split_last() else { return one(data.inputs[0]) };
    if before.is_empty() {
        return one(last);
    }
    if let Some(&start) = joined.get(&(axis, Values::from_slice(before))) {
        let value = Builder::new(graph, region, origins).concat(&[start, last], i64::from(axis))?;
        joined.insert((axis, parts), value);
        return one(value);
    }
    if parts.len() < data.inputs.len() {
        return one(Builder::new(graph, region, origins).concat(&parts, i64::from(axis))?);
    }
    joined.insert((axis, parts), data.outputs[0]);
    Ok(None)
}

/// A gather at one constant index per indexed dimension takes a slice.
fn gather(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let Op::Gather { coords } = &data.op else { return Ok(None) };
    let (input, output) = (data.inputs[0], data.outputs[0]);
    let from = graph.tensor_ty(input).shape.clone();
    let to = graph.tensor_ty(output).shape.clone();
    let mut starts = Shape::new();
    let mut sizes = Shape::new();
    let mut axes: Vec<u32> = Vec::new();
    for (coord, size) in coords.iter().zip(&from) {
        match *coord {
            Coord::Axis(a) => {
                axes.push(a);
                starts.push(Dim::ZERO);
                sizes.push(to[a as usize].clone());
            }
            Coord::Input(n) => {
                let index = uniform_value(graph, data.inputs[1 + n as usize]).and_then(|s| s.as_i64());
                let (Some(index), Some(size)) = (index, size.as_const()) else { return Ok(None) };
                if size == 0 {
                    return Ok(None);
                }
                starts.push(Dim::from(index.clamp(0, size - 1)));
                sizes.push(Dim::ONE);
            }
        }
    }
    // The slice has the positions' dimensions in their order, apart from those of size 1.
    let in_order = axes.windows(2).all(|w| w[0] < w[1]);
    let covers = (0..to.len()).all(|a| to[a] == 1 || axes.contains(&(a as u32)));
    if !in_order || !covers {
        return Ok(None);
    }
    let steps = vec![1; from.len()];
    let origins = data.origins.clone();
    let mut b = Builder::new(graph, region, origins);
    let value = b.slice(input, &starts, &sizes, &steps)?;
    one(b.reshape(value, &to)?)
}
