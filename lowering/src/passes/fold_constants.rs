//! Replaces operations on constants by constants.
//!
//! Before: `s = constant f32[64]; r = sqrt(s); t = transpose(w)`. After: `r = constant ...; t = constant (a recipe)`.
//! Small results are computed at once, so that later passes can look at them. Large ones become recipes
//! ([`ConstantSource::Lazy`]) that are evaluated while the object is written: no weight is copied here. An operation that
//! makes a constant larger stays, because reading the small one is cheaper.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{Scalar, ScalarInst};
use onnxc_ir::tensor::constant::ConstantData;
use onnxc_ir::tensor::{
    Builder, Constant, ConstantSource, Graph, Node, Op, Region, TensorBytes, TensorType, Value, interp,
};
use smallvec::SmallVec;

use super::canonicalize::expr::Simplifier;
use super::rewrite::{PassContext, Rewritten, one, rewrite};

/// Results up to this many elements are computed at once.
const SMALL: i64 = 1 << 16;

/// The same where an element may need all elements of the operands.
const SMALL_WORK: i64 = 1 << 12;

/// A matrix of at most this many elements transforms weights: 6 x 3 is the largest of Winograd's.
const TINY: i64 = 18;

/// Tables that are computed from positions alone are cheaper to compute than to load from this size on.
const SMALL_TABLE: i64 = 256;

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, _: &mut PassContext) {
    let body = graph.body();
    rewrite(graph, body, rule);
}

fn rule(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = &graph.nodes[node];
    let [output] = data.outputs[..] else { return Ok(None) };
    if matches!(data.op, Op::Constant(_)) {
        return Ok(None);
    }
    if let Some(tensor) = known_elements(graph, output) {
        let origins = data.origins.clone();
        return one(Builder::new(graph, region, origins).constant(tensor, "")?);
    }
    let inputs: Option<SmallVec<[Constant; 4]>> = data.inputs.iter().map(|&v| graph.as_constant(v)).collect();
    let (Some(inputs), Some(ty)) = (inputs, graph.ty(output).as_tensor()) else { return Ok(None) };
    let Some(source) = fold(graph, &data.op, &inputs, ty) else { return Ok(None) };
    let name = inputs.first().map(|&c| graph.constants[c].name.clone()).unwrap_or_default();
    let (ty, origins) = (ty.clone(), data.origins.clone());
    let constant = graph.constants.push(ConstantData { ty, source, name });
    one(Builder::new(graph, region, origins).constant_node(constant))
}

/// The elements of a small integer value where the graph knows all of them.
fn known_elements(graph: &Graph, value: Value) -> Option<TensorBytes> {
    let ty = graph.ty(value).as_tensor()?;
    let shape = ty.static_shape()?;
    let elements = graph.known[value].as_ref()?.all()?;
    let values: Vec<i64> = elements.iter().map(|d| d.as_const()).collect::<Option<_>>()?;
    let bytes: Vec<u8> = match ty.dtype {
        DType::I64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I32 => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
        DType::Bool => values.iter().map(|&v| u8::from(v != 0)).collect(),
        _ => return None,
    };
    Some(TensorBytes { dtype: ty.dtype, shape: shape.into_iter().collect(), bytes: bytes.into() })
}

/// The constant that an operation on constants gives; `None` if it is to be computed at run time.
fn fold(graph: &Graph, op: &Op, inputs: &[Constant], ty: &TensorType) -> Option<ConstantSource> {
    let len = ty.static_len().filter(|_| !depends_on_sizes(op))?;
    if let Some(scalar) = fold_uniform(graph, op, inputs) {
        return Some(ConstantSource::Splat(scalar));
    }
    let largest = inputs.iter().map(|&c| graph.constants[c].ty.static_len().unwrap_or(i64::MAX)).max().unwrap_or(0);
    if matches!(op, Op::Elementwise(_)) && largest <= 1 && len > SMALL_TABLE {
        return None;
    }
    let lazy = || ConstantSource::Lazy { op: op.clone(), inputs: inputs.into() };
    match op {
        Op::Elementwise(_)
        | Op::Reshape
        | Op::Transpose { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Broadcast
        | Op::Gather { .. }
        | Op::Reduce { .. } => {
            if len <= SMALL && largest <= SMALL {
                return compute(graph, op, inputs, ty);
            }
            // Padding to whole panels is growth that the kernels want.
            let grows = len > largest && !matches!(op, Op::Pad { .. } | Op::Concat { .. });
            (!grows).then(lazy)
        }
        // A product with a tiny matrix is a transform of weights, which takes a pass over them.
        Op::Contract(_) if len > SMALL_WORK && inputs.iter().any(|&c| tiny(graph, c)) => Some(lazy()),
        Op::Cumulate { .. } | Op::Contract(_) | Op::Conv(_) | Op::Window(_) | Op::Scatter { .. } => {
            (len <= SMALL_WORK && largest <= SMALL_WORK).then(|| compute(graph, op, inputs, ty))?
        }
        Op::Constant(_)
        | Op::DimValue(_)
        | Op::BindSizes { .. }
        | Op::Strings(_)
        | Op::Sort { .. }
        | Op::External(_)
        | Op::If { .. }
        | Op::Loop { .. }
        | Op::Composite { .. }
        | Op::Group { .. } => None,
    }
}

fn tiny(graph: &Graph, constant: Constant) -> bool {
    graph.constants[constant].ty.static_len().is_some_and(|len| len <= TINY)
}

/// Whether the operation reads a size that only a run knows.
fn depends_on_sizes(op: &Op) -> bool {
    let unknown = |d: &Dim| d.as_const().is_none();
    match op {
        Op::Elementwise(expr) => expr.insts.iter().any(|i| matches!(i, ScalarInst::Dim(d) if unknown(d))),
        Op::Slice { starts, .. } => starts.iter().any(unknown),
        Op::Pad { lo, hi } => lo.iter().chain(hi).any(unknown),
        _ => false,
    }
}

fn compute(graph: &Graph, op: &Op, inputs: &[Constant], ty: &TensorType) -> Option<ConstantSource> {
    let inputs: Vec<TensorBytes> = inputs.iter().map(|&c| interp::constant_bytes(&graph.constants, c)).collect();
    // Types without an interpretation, such as text, stay as they are.
    let mut results = interp::evaluate(op, &inputs, std::slice::from_ref(ty), &|_| 0).ok()?;
    Some(ConstantSource::Bytes(results.remove(0).bytes))
}

/// The element of the result where every input is one element repeated and the operation keeps it so.
fn fold_uniform(graph: &Graph, op: &Op, inputs: &[Constant]) -> Option<Scalar> {
    let elements: Option<Vec<Scalar>> = inputs
        .iter()
        .map(|&c| match graph.constants[c].source {
            ConstantSource::Splat(scalar) => Some(scalar),
            ConstantSource::Bytes(_) | ConstantSource::Lazy { .. } => None,
        })
        .collect();
    match (op, &elements?[..]) {
        (Op::Elementwise(expr), elements) => {
            let mut simplifier = Simplifier::default();
            let mut last = 0;
            let mut map = Vec::with_capacity(expr.insts.len());
            for inst in &expr.insts {
                last = match inst {
                    ScalarInst::Arg(n) => simplifier.push(ScalarInst::Const(elements[*n as usize]), &[]),
                    other => simplifier.push(other.map_operands(|o| map[o as usize]), &[]),
                };
                map.push(last);
            }
            simplifier.constant(last)
        }
        (Op::Reshape | Op::Transpose { .. } | Op::Slice { .. } | Op::Broadcast, [x]) => Some(*x),
        (Op::Gather { .. }, [x, ..]) => Some(*x),
        (Op::Pad { .. }, [x, fill]) if x == fill => Some(*x),
        (Op::Concat { .. }, [x, rest @ ..]) if rest.iter().all(|y| x == y) => Some(*x),
        _ => None,
    }
}
