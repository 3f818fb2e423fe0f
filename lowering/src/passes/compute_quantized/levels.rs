//! What integers stand for: finds, in elementwise operations, `real = (integer - zero point) * scale` and its inverse with
//! constant parameters, and what lies between the two.
//!
//! Holds before constants are folded: parameters are constants behind reshapes, not yet numbers in the expressions.

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex, Scalar, ScalarExpr, ScalarInst, UnaryOp};
use onnxc_ir::tensor::{Graph, Node, Op, TensorBytes, Value, Values, interp};

use crate::passes::canonicalize::expr::Simplifier;
use crate::passes::rewrite::uniform_element;

/// Parameters of more elements belong to something else than channels.
const MAX_CHANNELS: i64 = 1 << 16;

/// A parameter of a tensor: one number for all elements, or one for each index of an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Parameter {
    One(f32),
    Along {
        /// The numbers along the axis.
        values: Vec<f32>,
        /// Which axis: 1 for the last.
        from_end: usize,
    },
}

impl Parameter {
    /// The number, if it is one for all.
    pub(super) fn one(&self) -> Option<f32> {
        match self {
            Parameter::One(number) => Some(*number),
            Parameter::Along { .. } => None,
        }
    }

    /// Each number through a function.
    pub(super) fn map(&self, f: impl Fn(f32) -> f32) -> Parameter {
        match self {
            Parameter::One(number) => Parameter::One(f(*number)),
            Parameter::Along { values, from_end } => {
                Parameter::Along { values: values.iter().map(|&v| f(v)).collect(), from_end: *from_end }
            }
        }
    }

    pub(super) fn all(&self, test: impl Fn(f32) -> bool) -> bool {
        match self {
            Parameter::One(number) => test(*number),
            Parameter::Along { values, .. } => values.iter().all(|&v| test(v)),
        }
    }
}

/// A real tensor that is `(integers - zero) * scale`.
#[derive(Clone, Debug)]
pub(super) struct Dequantized {
    /// The integers: `u8`, `i8` or `i32`.
    pub integers: Value,
    /// The integer that stands for 0.
    pub zero: Parameter,
    /// The size of a step: finite and more than 0.
    pub scale: Parameter,
}

/// `integers = saturate(round(real / scale) + zero)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quantizer {
    pub zero: f32,
    pub scale: f32,
    pub to: DType,
}

/// The real tensor that a value is, if it is made of integers.
pub(super) fn dequantized(graph: &Graph, value: Value) -> Option<Dequantized> {
    let (expr, args) = simplified(graph, graph.def_node(value)?)?;
    let matcher = Matcher { graph, expr: &expr, args: &args };
    let last = expr.insts.len() as u32 - 1;
    let (difference, scale) = match *matcher.inst(last) {
        ScalarInst::Binary(BinaryOp::Mul, a, b) => match (matcher.parameter(a), matcher.parameter(b)) {
            (None, Some(scale)) => (a, scale),
            (Some(scale), None) => (b, scale),
            _ => return None,
        },
        _ => (last, Parameter::One(1.0)),
    };
    let ScalarInst::Cast(DType::F32, whole) = *matcher.inst(difference) else { return None };
    let (integers, zero) = match *matcher.inst(whole) {
        ScalarInst::Binary(BinaryOp::Sub, a, b) => (matcher.integers(a)?, matcher.parameter(b)?),
        _ => (matcher.integers(whole)?, Parameter::One(0.0)),
    };
    let (ty, real) = (graph.tensor_ty(integers), graph.tensor_ty(value));
    let fits = matches!(ty.dtype, DType::U8 | DType::I8 | DType::I32) && ty.shape == real.shape;
    (fits && scale.all(|s| s.is_finite() && s > 0.0)).then_some(Dequantized { integers, zero, scale })
}

/// The quantiser that a node is, and what it quantises.
pub(super) fn quantizer(graph: &Graph, node: Node) -> Option<(Value, Quantizer)> {
    let (expr, args) = simplified(graph, node)?;
    let matcher = Matcher { graph, expr: &expr, args: &args };
    let ScalarInst::Cast(to @ (DType::U8 | DType::I8), sum) = *matcher.inst(expr.insts.len() as u32 - 1) else {
        return None;
    };
    let (rounded, zero) = match *matcher.inst(sum) {
        ScalarInst::Binary(BinaryOp::Add, rounded, zero) => (rounded, matcher.parameter(zero)?.one()?),
        _ => (sum, 0.0),
    };
    let ScalarInst::Unary(UnaryOp::Round, quotient) = *matcher.inst(rounded) else { return None };
    let (real, scale) = match *matcher.inst(quotient) {
        ScalarInst::Binary(BinaryOp::Div, real, scale) => (real, matcher.parameter(scale)?.one()?),
        // The reciprocal of a power of two is exact.
        ScalarInst::Binary(BinaryOp::Mul, real, inverse) => (real, 1.0 / matcher.parameter(inverse)?.one()?),
        ScalarInst::Arg(_) => (quotient, 1.0),
        _ => return None,
    };
    let ScalarInst::Arg(n) = *matcher.inst(real) else { return None };
    let real = args[n as usize];
    let same = graph.tensor_ty(real).shape == graph.tensor_ty(graph.output(node)).shape;
    let fits = same && graph.tensor_ty(real).dtype == DType::F32 && scale.is_finite() && scale > 0.0;
    fits.then_some((real, Quantizer { zero, scale, to }))
}

/// The bound of one side that an operation keeps its operand to: the operand, the bound and whether it is the least value.
pub(super) fn clamped(graph: &Graph, value: Value) -> Option<(Value, f32, bool)> {
    let (expr, args) = simplified(graph, graph.def_node(value)?)?;
    let [x] = args[..] else { return None };
    let matcher = Matcher { graph, expr: &expr, args: &args };
    let ScalarInst::Binary(op @ (BinaryOp::Max | BinaryOp::Min), a, b) = *expr.insts.last()? else { return None };
    let bound = match (matcher.inst(a), matcher.inst(b)) {
        (ScalarInst::Arg(_), ScalarInst::Const(_)) => matcher.parameter(b)?.one()?,
        (ScalarInst::Const(_), ScalarInst::Arg(_)) => matcher.parameter(a)?.one()?,
        _ => return None,
    };
    (graph.tensor_ty(x) == graph.tensor_ty(value)).then_some((x, bound, op == BinaryOp::Max))
}

/// The two operands of an addition.
pub(super) fn addends(graph: &Graph, value: Value) -> Option<[Value; 2]> {
    let node = graph.def_node(value)?;
    let sum = Op::Elementwise(ScalarExpr::binary(BinaryOp::Add));
    let [a, b] = graph.nodes[node].inputs[..] else { return None };
    (graph.nodes[node].op == sum).then_some([a, b])
}

/// A quotient by a number: the operand and the number.
pub(super) fn divided(graph: &Graph, value: Value) -> Option<(Value, f32)> {
    let (expr, args) = simplified(graph, graph.def_node(value)?)?;
    let [x] = args[..] else { return None };
    let matcher = Matcher { graph, expr: &expr, args: &args };
    match *expr.insts.last()? {
        ScalarInst::Binary(BinaryOp::Div, a, b) if matches!(matcher.inst(a), ScalarInst::Arg(_)) => {
            Some((x, matcher.parameter(b)?.one()?))
        }
        ScalarInst::Binary(BinaryOp::Mul, a, b) if matches!(matcher.inst(a), ScalarInst::Arg(_)) => {
            Some((x, 1.0 / matcher.parameter(b)?.one()?))
        }
        _ => None,
    }
}

/// A constant of a few numbers, or what is computed of such ones: one for all, or one for each index of one axis.
pub(super) fn constant_parameter(graph: &Graph, value: Value) -> Option<Parameter> {
    if let Some(number) = uniform(graph, value) {
        return number_of(number).map(Parameter::One);
    }
    let shape = graph.tensor_ty(value).static_shape()?;
    let mut wide = shape.iter().enumerate().filter(|(_, n)| **n != 1);
    let along = wide.next();
    if wide.next().is_some() || along.is_some_and(|(_, &count)| count > MAX_CHANNELS) {
        return None;
    }
    let tensor = small_constant(graph, value)?;
    let values: Vec<f32> = match tensor.dtype {
        DType::F32 => tensor.to_f32()?,
        t if t.is_int() => tensor.to_i64()?.into_iter().map(|v| exact(v as f64)).collect::<Option<_>>()?,
        _ => return None,
    };
    Some(match along {
        Some((axis, _)) => Parameter::Along { values, from_end: shape.len() - axis },
        None => Parameter::One(*values.first()?),
    })
}

/// The elements of a constant, or of what is computed of constants, each with few elements.
fn small_constant(graph: &Graph, value: Value) -> Option<TensorBytes> {
    let value = graph.resolve(value);
    let ty = graph.tensor_ty(value);
    ty.static_len().filter(|&len| len <= MAX_CHANNELS)?;
    if let Some(constant) = graph.as_constant(value) {
        return Some(interp::constant_bytes(&graph.constants, constant));
    }
    let data = &graph.nodes[graph.def_node(value)?];
    if !matches!(data.op, Op::Reshape | Op::Broadcast | Op::Elementwise(_)) || data.inputs.is_empty() {
        return None;
    }
    let inputs: Vec<TensorBytes> = data.inputs.iter().map(|&v| small_constant(graph, v)).collect::<Option<_>>()?;
    interp::evaluate(&data.op, &inputs, std::slice::from_ref(ty), &|_| 0).ok()?.pop()
}

/// What a value is before reshapes.
pub(super) fn before_reshapes(graph: &Graph, value: Value) -> Value {
    through_views(graph, value, |op| matches!(op, Op::Reshape))
}

/// Whether a value is a constant, perhaps of another shape.
pub(super) fn is_constant(graph: &Graph, value: Value) -> bool {
    graph.as_constant(before_reshapes(graph, value)).is_some()
}

fn through_views(graph: &Graph, mut value: Value, is_view: impl Fn(&Op) -> bool) -> Value {
    while let Some(node) = graph.def_node(value).filter(|&n| is_view(&graph.nodes[n].op)) {
        value = graph.resolve(graph.nodes[node].inputs[0]);
    }
    value
}

/// The number that a constant consists of.
fn uniform(graph: &Graph, value: Value) -> Option<Scalar> {
    let source = through_views(graph, value, |op| matches!(op, Op::Reshape | Op::Broadcast));
    uniform_element(graph, graph.as_constant(source)?)
}

/// A number that `f32` holds exactly.
fn exact(value: f64) -> Option<f32> {
    let rounded = value as f32;
    (f64::from(rounded) == value).then_some(rounded)
}

fn number_of(scalar: Scalar) -> Option<f32> {
    match scalar.dtype {
        DType::F32 => Some(f32::from_bits(scalar.bits as u32)),
        t if t.is_int() => exact(scalar.as_i64()? as f64),
        _ => None,
    }
}

/// An elementwise operation whose uniform operands are numbers in its expression, and the operands that are left.
fn simplified(graph: &Graph, node: Node) -> Option<(ScalarExpr, Values)> {
    let data = &graph.nodes[node];
    let Op::Elementwise(expr) = &data.op else { return None };
    let mut args = Values::new();
    let mut types = Vec::new();
    let mut steps = Simplifier::default();
    let mut map: Vec<ExprIndex> = Vec::with_capacity(expr.insts.len());
    for inst in &expr.insts {
        let inst = match inst {
            ScalarInst::Arg(n) => {
                let value = graph.resolve(data.inputs[*n as usize]);
                match uniform(graph, value) {
                    Some(number) => ScalarInst::Const(number),
                    None => {
                        let at = args.iter().position(|&v| v == value).unwrap_or_else(|| {
                            args.push(value);
                            types.push(graph.tensor_ty(value).dtype);
                            args.len() - 1
                        });
                        ScalarInst::Arg(at as u32)
                    }
                }
            }
            other => other.map_operands(|o| map[o as usize]),
        };
        map.push(steps.push(inst, &types));
    }
    Some((steps.finish(*map.last()?), args))
}

struct Matcher<'a> {
    graph: &'a Graph,
    expr: &'a ScalarExpr,
    args: &'a [Value],
}

impl Matcher<'_> {
    fn inst(&self, index: ExprIndex) -> &ScalarInst {
        &self.expr.insts[index as usize]
    }

    /// A step that is a constant, converted or not.
    fn parameter(&self, index: ExprIndex) -> Option<Parameter> {
        match *self.inst(index) {
            ScalarInst::Const(number) => number_of(number).map(Parameter::One),
            ScalarInst::Arg(n) => constant_parameter(self.graph, self.args[n as usize]),
            ScalarInst::Cast(to, a) => {
                let exact = to == DType::F32 || to == DType::I32 || to == DType::I64;
                self.parameter(a).filter(|p| exact && p.all(|v| v.fract() == 0.0))
            }
            _ => None,
        }
    }

    /// A step that is an operand, converted to wider integers or not.
    fn integers(&self, index: ExprIndex) -> Option<Value> {
        match *self.inst(index) {
            ScalarInst::Arg(n) => Some(self.args[n as usize]).filter(|&v| self.graph.tensor_ty(v).dtype.is_int()),
            ScalarInst::Cast(DType::I32 | DType::I64, a) => match *self.inst(a) {
                ScalarInst::Arg(n) => Some(self.args[n as usize]).filter(|&v| self.graph.tensor_ty(v).dtype.is_int()),
                _ => None,
            },
            _ => None,
        }
    }
}
