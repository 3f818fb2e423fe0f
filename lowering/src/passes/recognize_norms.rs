//! Finds softmax and normalisations that exporters spell out, and makes composites of them, so that a schedule reads each
//! row while it is in the nearest cache.
//!
//! Before: `s = sum(x * x); r = 1 / sqrt(s / n + 1e-6); y = x * r * scale`. After: `y = composite RmsNorm (x, scale)`.
//!
//! Models write the same function of a row's sum in many ways (a division or a product, a root and a reciprocal or a
//! power). So the steps between the sum and its use are joined into one expression, and its values tell what it is.
//!
//! Activations need nothing of the kind: a spelled-out GELU or sigmoid is one expression once `fuse_elementwise` has run.
//! Normalisations of a convolution's channels-first output stay in primitives, because `assign_layout` can move transposes
//! through those.

use cranelift_entity::SecondaryMap;
use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::evaluate;
use onnxc_ir::scalar::{BinaryOp, Scalar, ScalarExpr, ScalarInst, UnaryOp};
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::ReduceOp;
use onnxc_ir::tensor::{Builder, CompositeKind, Graph, Node, Op, Region, Shape, Value};

use super::canonicalize::expr::Simplifier;
use super::rewrite::{PassContext, Rewritten, one, only_users, rewrite};

const NAME: &str = "recognize_norms";

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    let body = graph.body();
    let users = only_users(graph, body);
    rewrite(graph, body, |graph, region, node| match softmax(graph, region, node)? {
        Some(values) => Ok(Some(values)),
        None => norm(graph, region, node, &users, cx),
    });
}

/// `op(a, b)` with the operands in order.
fn binary(graph: &Graph, node: Node, wanted: BinaryOp) -> Option<(Value, Value)> {
    let data = &graph.nodes[node];
    let Op::Elementwise(expr) = &data.op else { return None };
    match expr.insts[..] {
        [ScalarInst::Arg(a), ScalarInst::Arg(b), ScalarInst::Binary(op, x, y)] if op == wanted => {
            let args = [a, b];
            let operand = |i: u32| data.inputs[args[i as usize] as usize];
            Some((operand(x), operand(y)))
        }
        _ => None,
    }
}

/// The reduction that a value with one element per row comes from, and what is done with its result.
struct RowFunction {
    reduced: Value,
    op: ReduceOp,
    /// First reduced axis; the reduced ones are the last.
    axis: usize,
    function: ScalarExpr,
}

/// The dimensions that are not 1.
fn proper(graph: &Graph, value: Value) -> Vec<Dim> {
    graph.tensor_ty(value).shape.iter().filter(|d| **d != 1).cloned().collect()
}

/// Follows a value back to a reduction over the last axes of a tensor whose rows it has one element for. `full` is the
/// shape of that tensor.
fn row_function(graph: &Graph, value: Value, full: &[Dim]) -> Option<RowFunction> {
    let mut function = ScalarExpr::identity();
    let mut at = value;
    loop {
        let data = &graph.nodes[graph.def_node(at)?];
        match &data.op {
            Op::Reshape if proper(graph, at) == proper(graph, data.inputs[0]) => at = data.inputs[0],
            Op::Elementwise(expr) if data.inputs.len() == 1 && proper(graph, at) == proper(graph, data.inputs[0]) => {
                let plain = |i: &ScalarInst| !matches!(i, ScalarInst::Index(_) | ScalarInst::Dim(_));
                if !expr.insts.iter().all(plain) || function.insts.len() > 32 {
                    return None;
                }
                function = function.compose(0, expr, &[0], &[0]);
                at = data.inputs[0];
            }
            Op::Reduce { op, axes } => {
                let reduced = data.inputs[0];
                let rank = full.len();
                let axis = rank.checked_sub(axes.len()).filter(|&a| a < rank)?;
                let last = axes.iter().enumerate().all(|(i, &a)| a as usize == axis + i);
                // The value lies along the rows as the broadcast of elementwise operations sees it.
                let shape = &graph.tensor_ty(value).shape;
                let pad = rank.checked_sub(shape.len())?;
                let dim = |i: usize| if i < pad { Dim::ONE } else { shape[i - pad].clone() };
                let rows = (0..rank).all(|i| if i < axis { dim(i) == full[i] } else { dim(i) == 1 });
                let fits = last && rows && graph.tensor_ty(reduced).shape[..] == *full;
                return fits.then(|| RowFunction { reduced, op: *op, axis, function });
            }
            _ => return None,
        }
    }
}

/// The value of an `f32` function of one argument.
fn call(function: &ScalarExpr, x: f32) -> Option<f64> {
    let mut simplifier = Simplifier::default();
    let mut map = Vec::with_capacity(function.insts.len());
    for inst in &function.insts {
        let inst = match inst {
            ScalarInst::Arg(_) => ScalarInst::Const(Scalar::f32(x)),
            other => other.map_operands(|o| map[o as usize]),
        };
        map.push(simplifier.push(inst, &[]));
    }
    let result = simplifier.constant(*map.last()?)?;
    (result.dtype == DType::F32).then(|| evaluate::float_value(result.dtype, result.bits))
}

fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-5 * b.abs()
}

/// The epsilon with which the function is `1 / sqrt(x / count + epsilon)`.
fn inverse_root_epsilon(function: &ScalarExpr, count: f64) -> Option<f32> {
    let at_zero = call(function, 0.0)?;
    let epsilon = 1.0 / (at_zero * at_zero);
    if !(1e-20..1.0).contains(&epsilon) {
        return None;
    }
    for x in [1e-6, 0.01, 0.7, 3.0, 1e4] {
        let x = (x * count) as f32;
        if !is_close(call(function, x)?, 1.0 / (f64::from(x) / count + epsilon).sqrt()) {
            return None;
        }
    }
    // The constant that is written there, rather than what it is computed to be.
    let written = function.insts.iter().filter_map(|i| match i {
        ScalarInst::Const(c) if c.dtype == DType::F32 => Some(f32::from_bits(c.bits as u32)),
        _ => None,
    });
    written.into_iter().find(|&c| is_close(f64::from(c), epsilon))
}

fn is_mean(function: &ScalarExpr, count: f64) -> bool {
    [1.0f32, -3.5, 1e5].into_iter().all(|x| call(function, x).is_some_and(|y| is_close(y, f64::from(x) / count)))
}

/// `y * r` or `y / r` with the inverse root of the mean square of `y` is a normalisation.
fn norm(
    graph: &mut Graph,
    region: Region,
    node: Node,
    users: &SecondaryMap<Value, Option<Node>>,
    cx: &mut PassContext,
) -> Rewritten {
    let Some(found) = find_norm(graph, node) else { return Ok(None) };
    if follows_convolution(graph, found.x) {
        cx.remark(NAME, graph, node, "not taken as one: it normalises the output of a convolution");
        return Ok(None);
    }
    let ty = graph.tensor_ty(found.x).clone();
    let inner: Shape = ty.shape[found.axis..].into();
    let Some(sizes) = inner.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>() else { return Ok(None) };
    let mut last = graph.nodes[node].outputs[0];
    let mut nodes = vec![node];
    let (mut scale, mut bias) = (None, None);
    if let Some((next, value)) = vector_operand(graph, users, last, BinaryOp::Mul, &inner) {
        scale = Some(value);
        last = graph.nodes[next].outputs[0];
        nodes.push(next);
    }
    if found.centered
        && let Some((next, value)) = vector_operand(graph, users, last, BinaryOp::Add, &inner)
    {
        bias = Some(value);
        last = graph.nodes[next].outputs[0];
        nodes.push(next);
    }
    let origins = graph.merged_origins(nodes);
    let mut b = Builder::new(graph, region, origins);
    let scale = match scale {
        Some(scale) => b.reshape(scale, &inner)?,
        None => b.splat(Scalar::one(DType::F32), &sizes)?,
    };
    let bias = bias.map(|v| b.reshape(v, &inner)).transpose()?;
    let (axis, epsilon) = (found.axis as u32, found.epsilon.to_bits());
    let kind = if found.centered {
        CompositeKind::LayerNorm { axis, epsilon }
    } else {
        CompositeKind::RmsNorm { axis, epsilon }
    };
    let inputs: Vec<Value> = [found.x, scale].into_iter().chain(bias).collect();
    let axes: Vec<i64> = (found.axis..ty.rank()).map(|a| a as i64).collect();
    let results = b.composite(kind, &inputs, |b, p| define_norm(b, p, &axes, &found))?;
    graph.replace(last, results[0]);
    one(results[0])
}

/// A normalisation that is spelled out.
struct Norm {
    x: Value,
    axis: usize,
    epsilon: f32,
    /// Whether the mean is subtracted.
    centered: bool,
}

fn find_norm(graph: &Graph, node: Node) -> Option<Norm> {
    let output = graph.nodes[node].outputs[0];
    let ty = graph.ty(output).as_tensor().filter(|t| t.dtype == DType::F32)?;
    let has_all = |v: Value| graph.tensor_ty(v).shape == ty.shape;
    let (y, root) = match (binary(graph, node, BinaryOp::Mul), binary(graph, node, BinaryOp::Div)) {
        (Some((y, root)), _) if has_all(y) => (y, row_function(graph, root, &ty.shape)?),
        (Some((root, y)), _) if has_all(y) => (y, row_function(graph, root, &ty.shape)?),
        (None, Some((y, root))) if has_all(y) => {
            let mut row = row_function(graph, root, &ty.shape)?;
            let mut inverse = ScalarExpr::new();
            let unit = inverse.push(ScalarInst::Const(Scalar::f32(1.0)));
            let x = inverse.push(ScalarInst::Arg(0));
            inverse.push(ScalarInst::Binary(BinaryOp::Div, unit, x));
            row.function = inverse.compose(0, &row.function, &[0], &[0]);
            (y, row)
        }
        _ => return None,
    };
    let count = element_count(&ty.shape[root.axis..])?;
    let square = &graph.nodes[graph.def_node(root.reduced)?];
    let squares = ScalarExpr { insts: vec![ScalarInst::Arg(0), ScalarInst::Binary(BinaryOp::Mul, 0, 0)] };
    if root.op != ReduceOp::Sum || square.op != Op::Elementwise(squares) || square.inputs[0] != y {
        return None;
    }
    let epsilon = inverse_root_epsilon(&root.function, count)?;
    let mean_of = || {
        let (x, mean) = binary(graph, graph.def_node(y)?, BinaryOp::Sub)?;
        let mean = row_function(graph, mean, &ty.shape)?;
        let fits = mean.op == ReduceOp::Sum && mean.axis == root.axis && mean.reduced == x;
        (fits && is_mean(&mean.function, count)).then_some(x)
    };
    Some(match mean_of() {
        Some(x) => Norm { x, axis: root.axis, epsilon, centered: true },
        None => Norm { x: y, axis: root.axis, epsilon, centered: false },
    })
}

fn element_count(dims: &[Dim]) -> Option<f64> {
    let count = dims.iter().try_fold(1i64, |n, d| n.checked_mul(d.as_const()?))?;
    (count > 0).then_some(count as f64)
}

/// The only user of a value, if it combines it with a vector along the normalised axes.
fn vector_operand(
    graph: &Graph,
    users: &SecondaryMap<Value, Option<Node>>,
    value: Value,
    op: BinaryOp,
    inner: &[Dim],
) -> Option<(Node, Value)> {
    let user = (*users.get(value)?)?;
    let (a, b) = binary(graph, user, op)?;
    let other = if a == value { b } else { a };
    let shape = &graph.tensor_ty(other).shape;
    let lead = shape.len().checked_sub(inner.len())?;
    let fits = shape[..lead].iter().all(|d| *d == 1) && shape[lead..] == *inner;
    let keeps = graph.tensor_ty(graph.nodes[user].outputs[0]) == graph.tensor_ty(value);
    (fits && keeps && graph.as_constant(other).is_some()).then_some((user, other))
}

/// Whether the value is a convolution's output but for a few elementwise steps.
fn follows_convolution(graph: &Graph, mut value: Value) -> bool {
    for _ in 0..4 {
        let Some(node) = graph.def_node(value) else { return false };
        match &graph.nodes[node].op {
            Op::Conv(_) => return true,
            Op::Elementwise(_) | Op::Reshape if !graph.nodes[node].inputs.is_empty() => {
                value = graph.nodes[node].inputs[0]
            }
            _ => return false,
        }
    }
    false
}

/// The meaning of a normalisation in primitives.
fn define_norm(b: &mut Builder<'_>, inputs: &[Value], axes: &[i64], norm: &Norm) -> Result<Vec<Value>, BuildError> {
    let x = inputs[0];
    let y = if norm.centered {
        let mean = b.mean(x, axes, true)?;
        b.sub(x, mean)?
    } else {
        x
    };
    let square = b.mul(y, y)?;
    let variance = b.mean(square, axes, true)?;
    let shifted = b.binary_number(BinaryOp::Add, variance, f64::from(norm.epsilon))?;
    let deviation = b.sqrt(shifted)?;
    let mut result = b.div(y, deviation)?;
    result = b.mul(result, inputs[1])?;
    if let Some(&bias) = inputs.get(2) {
        result = b.add(result, bias)?;
    }
    Ok(vec![result])
}

/// `e / sum(e)` with `e = exp(x - max(x))` is a softmax.
fn softmax(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let Some((x, axis)) = find_softmax(graph, node) else { return Ok(None) };
    let origins = graph.nodes[node].origins.clone();
    let mut b = Builder::new(graph, region, origins);
    one(softmax_from(&mut b, x, axis)?)
}

/// The softmax over all axes from `axis` on, as one operation.
pub(super) fn softmax_from(b: &mut Builder<'_>, x: Value, axis: usize) -> Result<Value, BuildError> {
    let axes: Vec<i64> = (axis..b.rank(x)?).map(|a| a as i64).collect();
    let results = b.composite(CompositeKind::Softmax { axis: axis as u32 }, &[x], |b, p| {
        let greatest = b.reduce(ReduceOp::Max, p[0], &axes, true)?;
        let shifted = b.sub(p[0], greatest)?;
        let power = b.exp(shifted)?;
        let sum = b.reduce(ReduceOp::Sum, power, &axes, true)?;
        Ok::<_, BuildError>(vec![b.div(power, sum)?])
    })?;
    Ok(results[0])
}

fn find_softmax(graph: &Graph, node: Node) -> Option<(Value, usize)> {
    let (power, sum) = binary(graph, node, BinaryOp::Div)?;
    let ty = graph.tensor_ty(power);
    if ty.dtype != DType::F32 || graph.tensor_ty(graph.nodes[node].outputs[0]) != ty {
        return None;
    }
    let sum = row_function(graph, sum, &ty.shape)?;
    if sum.op != ReduceOp::Sum || sum.reduced != power || sum.function != ScalarExpr::identity() {
        return None;
    }
    let exp = graph.def_node(power)?;
    let Op::Elementwise(expr) = &graph.nodes[exp].op else { return None };
    if *expr != ScalarExpr::unary(UnaryOp::Exp) {
        return None;
    }
    let (x, greatest) = binary(graph, graph.def_node(graph.nodes[exp].inputs[0])?, BinaryOp::Sub)?;
    let greatest = row_function(graph, greatest, &ty.shape)?;
    let fits = greatest.op == ReduceOp::Max
        && greatest.axis == sum.axis
        && greatest.reduced == x
        && greatest.function == ScalarExpr::identity();
    fits.then_some((x, sum.axis))
}
