//! Computes with integers what a model says on real numbers between dequantisation and quantisation.
//!
//! Before: `x = (cast f32 (q) - 3.0) * 0.1; w = cast f32 (u) * s; y = conv(x, w) + b;
//! r = saturate u8 (round(max(y, 0) / 0.2) + 5)`.
//! After: `p = pad(q, 3); a = conv i32 (p, u); r = saturate u8 (max(round(cast f32 (a + c) * t) + 5, 5))` with constants
//! `c = round(b / (0.1 s)) - 3 sum(u)` and `t = 0.1 s / 0.2` for each channel.
//!
//! - Products and convolutions of two dequantised operands, one of them constant, are sums of integers, which are exact,
//!   and are scaled once. Zero points of activations are sums of weights, which padding with the zero point makes valid
//!   at the borders as well.
//! - Sums of two tensors and means over axes are quantised from the integers.
//! - What only moves or compares elements, between integers of the same meaning, is done on the integers.
//!
//! The results differ from the real numbers' only where those lie at the middle between two integers, or nearly so.
//! They are rounded in the places where ONNX Runtime's kernels round on x86, so both give the same integers.
//! Not done where nothing but definitions may round (`strict`). Runs before constants are folded: weights are still
//! integers.

mod levels;

use cranelift_entity::SecondaryMap;
use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex};
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};
use onnxc_ir::tensor::op::{Contract, Conv, ReduceOp};
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Shape, TensorBytes, TensorType, Value};

use super::rewrite::{PassContext, Rewritten, one, only_users, rewrite};
use levels::{Dequantized, Parameter, Quantizer};

/// Sums of products of 8 bits and 8 bits of at most this many stay within 31 bits.
const MAX_DEPTH: i64 = (1 << 31) / (255 * 255);

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    if cx.strict {
        return;
    }
    let body = graph.body();
    rewrite(graph, body, |graph, region, node| match &graph.nodes[node].op {
        Op::Conv(_) => convolution(graph, region, node),
        Op::Contract(_) => product(graph, region, node),
        _ => Ok(None),
    });
    let users = only_users(graph, body);
    rewrite(graph, body, |graph, region, node| match &graph.nodes[node].op {
        Op::Elementwise(_) => quantization(graph, region, node, &users),
        _ => Ok(None),
    });
}

/// The user of each value that has only one.
type Users = SecondaryMap<Value, Option<Node>>;

fn builder<'g>(graph: &'g mut Graph, region: Region, nodes: &[Option<Node>]) -> Builder<'g> {
    let origins = graph.merged_origins(nodes.iter().copied().flatten());
    Builder::new(graph, region, origins)
}

/// A tensor of 8 bits with one scale and one zero point.
fn activation(graph: &Graph, value: Value) -> Option<(Value, f32, f32)> {
    let found = levels::dequantized(graph, value)?;
    is_byte(graph, found.integers).then_some((found.integers, found.scale.one()?, found.zero.one()?))
}

/// A constant of 8 bits, with its parameters along one axis at most.
fn weight(graph: &Graph, value: Value) -> Option<Dequantized> {
    let found = levels::dequantized(graph, value)?;
    (is_byte(graph, found.integers) && levels::is_constant(graph, found.integers)).then_some(found)
}

fn is_byte(graph: &Graph, value: Value) -> bool {
    matches!(graph.tensor_ty(value).dtype, DType::U8 | DType::I8)
}

/// Which axis a parameter runs along; `Some(None)` if along none, `None` if along another than those `allowed`.
fn axis_of(parameter: &Parameter, rank: usize, allowed: impl Fn(usize) -> bool) -> Option<Option<usize>> {
    match parameter {
        Parameter::One(_) => Some(None),
        Parameter::Along { from_end, .. } => {
            let axis = rank.checked_sub(*from_end)?;
            allowed(axis).then_some(Some(axis))
        }
    }
}

/// A parameter as a constant that broadcasts to a tensor, whose axis it runs along.
fn constant(b: &mut Builder<'_>, parameter: &Parameter, dtype: DType) -> Result<Value, BuildError> {
    match parameter {
        Parameter::One(number) => b.number(dtype, f64::from(*number)),
        Parameter::Along { values, from_end } => {
            let shape: Vec<i64> = (0..*from_end).map(|i| if i == 0 { values.len() as i64 } else { 1 }).collect();
            let values = b.constant(TensorBytes::from_f32(&shape, values), "")?;
            b.cast(values, dtype)
        }
    }
}

/// The integers of a weight less their zero points, as they are where these are 0.
fn centered(b: &mut Builder<'_>, weight: &Dequantized) -> Result<Value, BuildError> {
    if weight.zero.all(|z| z == 0.0) {
        return Ok(weight.integers);
    }
    let zero = constant(b, &weight.zero, DType::I32)?;
    let wide = b.cast(weight.integers, DType::I32)?;
    b.sub(wide, zero)
}

/// `cast f32 (sums) * scale`: what the second walk finds again.
fn scaled(b: &mut Builder<'_>, sums: Value, scale: &Parameter) -> Result<Value, BuildError> {
    let scale = constant(b, scale, DType::F32)?;
    b.map(&[sums, scale], |e| {
        let (sums, scale) = (e.arg(0), e.arg(1));
        let real = e.cast(DType::F32, sums);
        Ok(e.mul(real, scale))
    })
}

/// Convolutions of a tensor with a constant filter.
fn convolution(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Conv(conv) = data.op else { return Ok(None) };
    let plain = conv.acc == DType::F32 && conv.panel.is_none() && !conv.channels_last;
    if !plain || conv.lhs_dilation.iter().any(|&d| d != 1) {
        return Ok(None);
    }
    let (Some((x, x_scale, x_zero)), Some(w)) = (activation(graph, data.inputs[0]), weight(graph, data.inputs[1]))
    else {
        return Ok(None);
    };
    let rank = conv.kernel.len() + 2;
    let along_filters = [&w.scale, &w.zero].into_iter().all(|p| axis_of(p, rank, |axis| axis == 0).is_some());
    let depth = Dim::product(&graph.tensor_ty(w.integers).shape[1..])?.as_const();
    if !along_filters || depth.is_none_or(|depth| depth > MAX_DEPTH) {
        return Ok(None);
    }
    let nodes = [Some(node), graph.def_node(data.inputs[0]), graph.def_node(data.inputs[1])];
    let mut b = builder(graph, region, &nodes);
    // Channels are the second axis of the result, filters the first of the weights.
    let along_channels = |parameter: &Parameter| match parameter.clone() {
        Parameter::Along { values, .. } => Parameter::Along { values, from_end: rank - 1 },
        one => one,
    };
    let scale = along_channels(&w.scale.map(|s| x_scale * s));
    let sums = integer_sums(&mut b, conv, (x, x_zero), &w)?;
    one(scaled(&mut b, sums, &scale)?)
}

/// A convolution in `i32`, padded with the zero point.
fn integer_sums(b: &mut Builder<'_>, conv: Conv, x: (Value, f32), w: &Dequantized) -> Result<Value, BuildError> {
    let ((mut x, zero), mut conv) = (x, conv);
    conv.acc = DType::I32;
    let filter = centered(b, w)?;
    if zero != 0.0 {
        let amounts = |pads: &mut [i64]| -> Shape {
            let padded = pads.iter_mut().map(|pad| Dim::from(std::mem::replace(pad, (*pad).min(0)).max(0)));
            [Dim::ZERO, Dim::ZERO].into_iter().chain(padded).collect()
        };
        let (lo, hi) = (amounts(&mut conv.pad_lo), amounts(&mut conv.pad_hi));
        let fill = b.number(b.dtype(x)?, f64::from(zero))?;
        x = b.pad(x, fill, &lo, &hi)?;
    }
    let rank = conv.kernel.len() + 2;
    let sums = b.conv(conv, x, filter)?;
    if zero == 0.0 {
        return Ok(sums);
    }
    let wide = b.cast(filter, DType::I32)?;
    let others: Vec<i64> = (1..rank as i64).collect();
    let of_filters = b.reduce(ReduceOp::Sum, wide, &others, false)?;
    let spread: Vec<i64> = (1..rank as i64 - 1).collect();
    let of_filters = b.unsqueeze(of_filters, &spread)?;
    let excess = b.binary_number(BinaryOp::Mul, of_filters, -f64::from(zero))?;
    b.add(sums, excess)
}

/// Products of a tensor and a constant matrix, on either side.
fn product(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Contract(contract) = data.op else { return Ok(None) };
    if contract.acc != DType::F32 || contract.panel.is_some() {
        return Ok(None);
    }
    let Some(side) = data.inputs.iter().position(|&v| weight(graph, v).is_some()) else { return Ok(None) };
    let (Some((x, x_scale, x_zero)), Some(w)) =
        (activation(graph, data.inputs[1 - side]), weight(graph, data.inputs[side]))
    else {
        return Ok(None);
    };
    let labels = if side == 0 { contract.lhs.clone() } else { contract.rhs.clone() };
    let is_kept = |axis: usize| contract.out.contains(&labels[axis]);
    let ty = graph.tensor_ty(w.integers).clone();
    let mut depth = (0..labels.len()).filter(|&axis| !is_kept(axis)).map(|axis| ty.shape[axis].as_const());
    let depth = depth.try_fold(1i64, |product, size| product.checked_mul(size?));
    let fits = [&w.scale, &w.zero].into_iter().all(|p| axis_of(p, labels.len(), is_kept).is_some());
    if !fits || depth.is_none_or(|depth| depth > MAX_DEPTH) {
        return Ok(None);
    }
    let along_result = |parameter: &Parameter| match parameter.clone() {
        Parameter::Along { values, from_end } => {
            let label = labels[labels.len() - from_end];
            let axis = contract.out.iter().position(|&l| l == label).expect("the axis is one of the result");
            Parameter::Along { values, from_end: contract.out.len() - axis }
        }
        one => one,
    };
    let scale = along_result(&w.scale.map(|s| x_scale * s));
    let nodes = [Some(node), graph.def_node(data.inputs[0]), graph.def_node(data.inputs[1])];
    let mut b = builder(graph, region, &nodes);
    let factor = centered(&mut b, &w)?;
    let integers = Contract { acc: DType::I32, ..contract.clone() };
    let mut sums = if side == 0 { b.contract(integers, factor, x)? } else { b.contract(integers, x, factor)? };
    if x_zero != 0.0 {
        let wide = b.cast(factor, DType::I32)?;
        let gone: Vec<i64> = (0..labels.len()).filter(|&axis| !is_kept(axis)).map(|axis| axis as i64).collect();
        let of_columns = b.reduce(ReduceOp::Sum, wide, &gone, false)?;
        let kept: Vec<_> = labels.iter().filter(|l| contract.out.contains(l)).collect();
        let order: Vec<usize> = contract.out.iter().filter_map(|l| kept.iter().position(|&k| k == l)).collect();
        let of_columns = b.transpose(of_columns, &order)?;
        let absent = (0..contract.out.len()).filter(|&i| !labels.contains(&contract.out[i])).map(|i| i as i64);
        let of_columns = b.unsqueeze(of_columns, &absent.collect::<Vec<i64>>())?;
        let excess = b.binary_number(BinaryOp::Mul, of_columns, -f64::from(x_zero))?;
        sums = b.add(sums, excess)?;
    }
    one(scaled(&mut b, sums, &scale)?)
}

/// A quantisation whose operand is made of integers.
fn quantization(graph: &mut Graph, region: Region, node: Node, users: &Users) -> Rewritten {
    let Some((mut real, quantizer)) = levels::quantizer(graph, node) else { return Ok(None) };
    let mut last = Rounding { quantizer, low: f32::NEG_INFINITY, high: f32::INFINITY };
    // Rounding keeps the order: bounds of the real number are bounds of the integer.
    while let Some((inner, bound, is_least)) = levels::clamped(graph, real).filter(|_| has_one_user(users, real)) {
        let bound = (bound / quantizer.scale).round_ties_even() + quantizer.zero;
        match is_least {
            true => last.low = last.low.max(bound),
            false => last.high = last.high.min(bound),
        }
        real = inner;
    }
    let inside = Inside { real, node, users };
    for rule in [requantized, sum, mean, moved] {
        if let Some(value) = rule(graph, region, &inside, &last)? {
            return one(value);
        }
    }
    Ok(None)
}

fn has_one_user(users: &Users, value: Value) -> bool {
    users.get(value).is_some_and(Option::is_some)
}

/// A quantisation and the real tensor that it rounds in the end.
struct Inside<'a> {
    real: Value,
    node: Node,
    users: &'a Users,
}

/// How a result becomes an integer.
struct Rounding {
    quantizer: Quantizer,
    /// Bounds of the integer.
    low: f32,
    high: f32,
}

impl Rounding {
    /// The integer of a rounded number to which the zero point was added.
    fn saturated(&self, e: &mut ExprBuilder, mut y: ExprIndex) -> Result<ExprIndex, BuildError> {
        let to = self.quantizer.to;
        let (least, greatest) = if to == DType::I8 { (-128.0, 127.0) } else { (0.0, 255.0) };
        if self.low > least {
            let low = e.number(DType::F32, f64::from(self.low))?;
            y = e.max(y, low);
        }
        if self.high < greatest {
            let high = e.number(DType::F32, f64::from(self.high))?;
            y = e.min(y, high);
        }
        Ok(e.cast(to, y))
    }

    /// `round(cast f32 (sums + shift) * scale) + zero point`, saturated.
    fn scaled(&self, b: &mut Builder<'_>, sums: Value, scale: &Parameter) -> Result<Value, BuildError> {
        let scale = constant(b, scale, DType::F32)?;
        b.map(&[sums, scale], |e| {
            let (sums, scale) = (e.arg(0), e.arg(1));
            let real = e.cast(DType::F32, sums);
            let scaled = e.mul(real, scale);
            let rounded = e.round(scaled);
            let zero = e.number(DType::F32, f64::from(self.quantizer.zero))?;
            let y = e.add(rounded, zero);
            self.saturated(e, y)
        })
    }

    /// Whether it gives the integers that a real tensor was made of.
    fn undoes(&self, scale: f32, zero: f32, dtype: DType) -> bool {
        self.quantizer == Quantizer { zero, scale, to: dtype }
    }
}

/// The integers that a rule gives instead of a quantisation.
type Found = Result<Option<Value>, BuildError>;

/// Sums of products, perhaps with a constant added.
fn requantized(graph: &mut Graph, region: Region, inside: &Inside<'_>, last: &Rounding) -> Found {
    let sums_of = |value: Value| {
        let found = levels::dequantized(graph, value)?;
        let is_sum = graph.tensor_ty(found.integers).dtype == DType::I32 && found.zero == Parameter::One(0.0);
        (is_sum && has_one_user(inside.users, value)).then_some(found)
    };
    let with_bias = || {
        let [a, c] = levels::addends(graph, inside.real).filter(|_| has_one_user(inside.users, inside.real))?;
        let (found, bias) = sums_of(a).map(|found| (found, c)).or_else(|| Some((sums_of(c)?, a)))?;
        let shift = quotients(&levels::constant_parameter(graph, bias)?, &found.scale)?;
        Some((found, Some(shift)))
    };
    let Some((found, shift)) = sums_of(inside.real).map(|found| (found, None)).or_else(with_bias) else {
        return Ok(None);
    };
    let nodes = [Some(inside.node), graph.def_node(inside.real), graph.def_node(found.integers)];
    let mut sums = found.integers;
    // What the zero point adds is constant as well.
    let excess = levels::addends(graph, sums).and_then(|operands| {
        let at = operands.iter().position(|&v| is_small_sum(graph, v))?;
        Some((operands[1 - at], operands[at]))
    });
    let mut b = builder(graph, region, &nodes);
    if let Some(shift) = shift {
        let mut shift = constant(&mut b, &shift, DType::I32)?;
        if let Some((product, excess)) = excess {
            sums = product;
            shift = b.add(shift, excess)?;
        }
        sums = b.add(sums, shift)?;
    }
    let scale = found.scale.map(|s| s / last.quantizer.scale);
    last.scaled(&mut b, sums, &scale).map(Some)
}

/// Whether a value has a channel's size and is computed from constants; the product it is added to is not.
fn is_small_sum(graph: &Graph, value: Value) -> bool {
    let Some(node) = graph.def_node(value) else { return false };
    let data = &graph.nodes[node];
    match &data.op {
        Op::Constant(_) => true,
        Op::Elementwise(_) | Op::Reshape | Op::Transpose { .. } | Op::Reduce { .. } => {
            data.inputs.iter().all(|&v| is_small_sum(graph, graph.resolve(v)))
        }
        _ => false,
    }
}

/// Numbers of a bias as multiples of the scale, rounded; none where one does not fit 31 bits.
fn quotients(bias: &Parameter, scale: &Parameter) -> Option<Parameter> {
    let rounded = |b: f32, s: f32| (f64::from(b) / f64::from(s)).round_ties_even() as f32;
    let quotients = match (bias, scale) {
        (Parameter::One(b), Parameter::One(s)) => Parameter::One(rounded(*b, *s)),
        (Parameter::Along { values, from_end }, Parameter::One(s)) => {
            Parameter::Along { values: values.iter().map(|&b| rounded(b, *s)).collect(), from_end: *from_end }
        }
        (Parameter::One(b), Parameter::Along { values, from_end }) => {
            Parameter::Along { values: values.iter().map(|&s| rounded(*b, s)).collect(), from_end: *from_end }
        }
        (Parameter::Along { values: b, from_end }, Parameter::Along { values: s, from_end: same }) => {
            if from_end != same || b.len() != s.len() {
                return None;
            }
            let values = b.iter().zip(s).map(|(&b, &s)| rounded(b, s)).collect();
            Parameter::Along { values, from_end: *from_end }
        }
    };
    quotients.all(|q| q.abs() < (1 << 30) as f32).then_some(quotients)
}

/// Sums of two tensors: `round(a * (sa / s) + (b * (sb / s) + rest))`, each product and its sum rounded once.
fn sum(graph: &mut Graph, region: Region, inside: &Inside<'_>, last: &Rounding) -> Found {
    let Some([a, c]) = levels::addends(graph, inside.real).filter(|_| has_one_user(inside.users, inside.real)) else {
        return Ok(None);
    };
    let (Some((x, x_scale, x_zero)), Some((y, y_scale, y_zero))) = (activation(graph, a), activation(graph, c)) else {
        return Ok(None);
    };
    let Quantizer { zero, scale, .. } = last.quantizer;
    let (x_ratio, y_ratio) = (x_scale / scale, y_scale / scale);
    let rest = zero - (x_ratio * x_zero + y_ratio * y_zero);
    let nodes = [Some(inside.node), graph.def_node(inside.real), graph.def_node(a), graph.def_node(c)];
    let mut b = builder(graph, region, &nodes);
    b.map(&[x, y], |e| {
        let number = |e: &mut ExprBuilder, n: f32| e.number(DType::F32, f64::from(n));
        let (x, y) = (e.arg(0), e.arg(1));
        let (x, y) = (e.cast(DType::F32, x), e.cast(DType::F32, y));
        let (x_ratio, y_ratio, rest) = (number(e, x_ratio)?, number(e, y_ratio)?, number(e, rest)?);
        let shifted = e.mul_add(y, y_ratio, rest);
        let real = e.mul_add(x, x_ratio, shifted);
        let rounded = e.round(real);
        last.saturated(e, rounded)
    })
    .map(Some)
}

/// Means over axes: sums of integers, scaled once.
fn mean(graph: &mut Graph, region: Region, inside: &Inside<'_>, last: &Rounding) -> Found {
    let Some((total, count)) = levels::divided(graph, inside.real).filter(|_| has_one_user(inside.users, inside.real))
    else {
        return Ok(None);
    };
    let reduced = levels::before_reshapes(graph, total);
    let Some(node) = graph.def_node(reduced).filter(|_| has_one_user(inside.users, reduced)) else { return Ok(None) };
    let Op::Reduce { op: ReduceOp::Sum, axes } = graph.nodes[node].op.clone() else { return Ok(None) };
    let operand = graph.nodes[node].inputs[0];
    let Some((x, scale, zero)) = activation(graph, operand) else { return Ok(None) };
    let shape = &graph.tensor_ty(x).shape;
    let elements = axes.iter().map(|&a| shape[a as usize].as_const()).try_fold(1i64, |n, size| n.checked_mul(size?));
    if elements.is_none_or(|n| n as f32 != count || n >= 1 << 23) {
        return Ok(None);
    }
    let (nodes, result) =
        ([Some(inside.node), Some(node), graph.def_node(operand)], graph.tensor_ty(inside.real).shape.clone());
    let mut b = builder(graph, region, &nodes);
    let wide = b.cast(x, DType::I32)?;
    let axes: Vec<i64> = axes.iter().map(|&a| i64::from(a)).collect();
    let sums = b.reduce(ReduceOp::Sum, wide, &axes, false)?;
    let sums = b.reshape(sums, &result)?;
    let sums = b.binary_number(BinaryOp::Sub, sums, f64::from(zero) * f64::from(count))?;
    let scale = Parameter::One(scale / (last.quantizer.scale * count));
    last.scaled(&mut b, sums, &scale).map(Some)
}

/// Operations that only move or compare elements, of integers whose meaning is that of the result.
fn moved(graph: &mut Graph, region: Region, inside: &Inside<'_>, last: &Rounding) -> Found {
    let mut steps: Vec<Node> = Vec::new();
    let mut value = inside.real;
    let (integers, scale, zero) = loop {
        if let Some(found) = activation(graph, value) {
            break found;
        }
        let Some(node) = graph.def_node(value).filter(|_| has_one_user(inside.users, value)) else { return Ok(None) };
        let moves = match &graph.nodes[node].op {
            Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } => true,
            Op::Window(window) => matches!(window.op, ReduceOp::Max | ReduceOp::Min),
            _ => false,
        };
        if !moves {
            return Ok(None);
        }
        steps.push(node);
        value = graph.resolve(graph.nodes[node].inputs[0]);
    };
    let dtype = graph.tensor_ty(integers).dtype;
    if !last.undoes(scale, zero, dtype) {
        return Ok(None);
    }
    let nodes: Vec<Option<Node>> = steps.iter().chain([&inside.node]).map(|&n| Some(n)).collect();
    let mut b = builder(graph, region, &nodes);
    let mut y = integers;
    for &step in steps.iter().rev() {
        let data = b.graph.nodes[step].clone();
        let ty = TensorType { dtype, shape: b.graph.tensor_ty(data.outputs[0]).shape.clone() };
        let node = b.node(data.op, &[y], &[ty.into()])?;
        y = b.graph.output(node);
    }
    if last.low == f32::NEG_INFINITY && last.high == f32::INFINITY {
        return Ok(Some(y));
    }
    b.map(&[y], |e| {
        let y = e.arg(0);
        let y = e.cast(DType::F32, y);
        last.saturated(e, y)
    })
    .map(Some)
}
