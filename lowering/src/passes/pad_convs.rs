//! Makes the padding of convolutions explicit, so that every window of a schedule lies inside of its input.
//!
//! Before: `y = conv(x, w), pad 1 1, 1 1`. After: `p = pad(x, 0.0) [0, 0, 1, 1] [0, 0, 1, 1]; y = conv(p, w)`. Inputs that are
//! spread (`lhs_dilation`, as transposed convolutions have it) get zeros between their elements: each element becomes a
//! row of its own, which is padded and joined with the next.
//!
//! Convolutions whose input has a size that is not known when the model is compiled are treated alike.

use onnxc_ir::dim::Dim;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::Conv;
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Shape, Value};

use super::rewrite::{PassContext, Rewritten, one, rewrite};

/// Up to this many channels make rows of pixels the better vectors.
const FEW_CHANNELS: i64 = 4;

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, _: &mut PassContext) {
    let body = graph.body();
    rewrite(graph, body, pad_conv);
}

fn pad_conv(graph: &mut Graph, region: Region, node: Node) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Conv(conv) = data.op else { return Ok(None) };
    let first_spatial = if conv.channels_last { 1 } else { 2 };
    let rank = conv.kernel.len();
    // Winograd's tiles cover the input to their last row and column; the convolution crops what no output needs.
    let mut uncovered = vec![0; rank];
    if let Some(tile) = conv.winograd {
        for (i, rest) in uncovered.iter_mut().enumerate() {
            let size = graph.tensor_ty(data.outputs[0]).shape[first_spatial + i].as_const();
            *rest = (-size.expect("Winograd's algorithm is chosen for known sizes")).rem_euclid(i64::from(tile));
        }
    }
    let cropped = conv.pad_hi.iter().zip(&uncovered).all(|(&pad, &rest)| pad == -rest);
    let padded = conv.pad_lo.iter().any(|&p| p != 0) || !cropped;
    if !padded && conv.lhs_dilation.iter().all(|&d| d == 1) {
        return Ok(None);
    }
    let ty = graph.ty(data.outputs[0]).clone();
    let mut b = Builder::new(graph, region, data.origins);
    let dtype = b.dtype(data.inputs[0])?;
    let zero = b.scalar(Scalar::zero(dtype));
    let mut x = data.inputs[0];
    let mut surplus = vec![0; conv.kernel.len()];
    for (i, &dilation) in conv.lhs_dilation.iter().enumerate() {
        if dilation != 1 {
            x = spread(&mut b, x, zero, first_spatial + i, dilation)?;
            // The zeros after the last element are cropped with the padding.
            surplus[i] = dilation - 1;
        }
    }
    let mut lo: Shape = b.shape(x)?.iter().map(|_| Dim::ZERO).collect();
    let mut hi = lo.clone();
    for (i, &extra) in surplus.iter().enumerate() {
        lo[first_spatial + i] = Dim::from(conv.pad_lo[i]);
        hi[first_spatial + i] = Dim::from(conv.pad_hi[i] - extra + uncovered[i]);
    }
    let x = pad_input(&mut b, x, zero, &lo, &hi)?;
    let conv = Conv {
        pad_lo: std::iter::repeat_n(0, rank).collect(),
        pad_hi: uncovered.iter().map(|&rest| -rest).collect(),
        lhs_dilation: std::iter::repeat_n(1, rank).collect(),
        ..conv
    };
    let node = b.node(Op::Conv(conv), &[x, data.inputs[1]], &[ty])?;
    one(b.graph.output(node))
}

/// Pads the input of a convolution. Pictures of a few channels that were transposed to channels last are padded before
/// that: rows of pixels are copied at once, and the convolution reads single elements in any order.
fn pad_input(b: &mut Builder<'_>, x: Value, zero: Value, lo: &[Dim], hi: &[Dim]) -> Result<Value, BuildError> {
    let few = b.shape(x)?.last().and_then(Dim::as_const).is_some_and(|channels| channels <= FEW_CHANNELS);
    let producer = b.graph.def_node(x).map(|node| &b.graph.nodes[node]);
    let transposed = match producer.map(|data| (&data.op, data.inputs[..].first())) {
        Some((Op::Transpose { perm }, Some(&source))) if few => Some((perm.clone(), source)),
        _ => None,
    };
    let Some((perm, source)) = transposed else { return b.pad(x, zero, lo, hi) };
    let mut amounts = [lo.to_vec(), hi.to_vec()];
    for (to, &axis) in perm.iter().enumerate() {
        amounts[0][axis as usize] = lo[to].clone();
        amounts[1][axis as usize] = hi[to].clone();
    }
    let padded = b.pad(source, zero, &amounts[0], &amounts[1])?;
    let perm: Vec<usize> = perm.iter().map(|&axis| axis as usize).collect();
    b.transpose(padded, &perm)
}

/// Puts `dilation - 1` zeros after each element along an axis.
fn spread(b: &mut Builder<'_>, x: Value, zero: Value, axis: usize, dilation: i64) -> Result<Value, BuildError> {
    let mut shape = b.shape(x)?;
    let size = shape[axis].clone();
    shape.insert(axis + 1, Dim::ONE);
    let rows = b.reshape(x, &shape)?;
    let lo: Shape = shape.iter().map(|_| Dim::ZERO).collect();
    let mut hi = lo.clone();
    hi[axis + 1] = Dim::from(dilation - 1);
    let rows = b.pad(rows, zero, &lo, &hi)?;
    shape.remove(axis + 1);
    shape[axis] = (&size * &Dim::from(dilation))?;
    b.reshape(rows, &shape)
}
