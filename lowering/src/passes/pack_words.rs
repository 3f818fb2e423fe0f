//! Stores constant weights of 8 bits as words of four along the depth, for machines that multiply such words.
//!
//! Before: `y: i32 = contract [m, k] [n, k] -> [m, n] (x, w)` with `x` of `i8` or `u8` and the constant `w` of `i8` or `u8`; or
//! such a convolution with channels last. After: `y = contract, panel 16 words (x, p)`, where `p` is [N/16, K/4, 16, 4]; see
//! [`Panel`]. Where the machine has no products of these two types, `x` changes its type: as `x + 128` or `x - 128`, which is
//! one flipped bit, and what that adds to each column is subtracted: 128 times the sum of its weights.

use std::collections::HashMap;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::machine::Dots;
use onnxc_ir::scalar::{BinaryOp, Scalar};
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{Contract, Conv, Panel, ReduceOp};
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Shape, Value};
use smallvec::SmallVec;

use super::pack_weights::{Product, panels, product_with_weights, with_zeros};
use super::rewrite::{PassContext, Rewritten, one};
use crate::codegen::words::{NUMBERS, count};
use crate::schedules::gemm::PANEL;

/// What several nodes share: packed weights, by the weight and the axis of its columns, and flipped operands.
#[derive(Default)]
pub struct Done {
    packed: HashMap<(Value, usize), Value>,
    flipped: HashMap<Value, Value>,
}

const NAME: &str = "pack_weights";

/// How a product of these types is made: whether the left operand is flipped, or not at all.
fn flips(dots: &Dots, left: DType, right: DType) -> Option<bool> {
    let has = |left| dots.has(left, right);
    if has(left) { Some(false) } else { has(other(left)).then_some(true) }
}

/// The other type of 8 bits.
fn other(dtype: DType) -> DType {
    if dtype == DType::I8 { DType::U8 } else { DType::I8 }
}

/// Stores the weights of a product.
pub fn pack_product(graph: &mut Graph, region: Region, node: Node, done: &mut Done, cx: &mut PassContext) -> Rewritten {
    let Some(Product { contract, lhs, rhs, depth, column, axis }) = product_with_weights(graph, node) else {
        return Ok(None);
    };
    if !contract.lhs.iter().all(|l| *l == depth || contract.out.contains(l)) {
        return Ok(None);
    }
    let elements = graph.tensor_ty(rhs).shape[1 - axis].as_const();
    let Some(flip) = plan(graph, node, [lhs, rhs], elements, cx) else { return Ok(None) };
    let (ty, origins) = (graph.ty(graph.output(node)).clone(), graph.nodes[node].origins.clone());
    let mut b = Builder::new(graph, region, origins);
    let packed = match done.packed.get(&(rhs, axis)) {
        Some(&packed) => packed,
        None => {
            let matrix = b.transpose(rhs, if axis == 1 { &[0, 1] } else { &[1, 0] })?;
            words(&mut b, matrix)?
        }
    };
    done.packed.insert((rhs, axis), packed);
    let left = if flip { flipped(&mut b, lhs, &mut done.flipped)? } else { lhs };
    let rhs_labels = SmallVec::from_slice(&[depth, column]);
    let contract = Contract { rhs: rhs_labels, panel: Some(Panel::words(PANEL)), ..contract };
    let node = b.node(Op::Contract(contract), &[left, packed], &[ty])?;
    let y = b.graph.output(node);
    one(if flip { corrected(&mut b, y, lhs, rhs, axis)? } else { y })
}

/// Stores the filter of a convolution.
pub fn pack_filter(graph: &mut Graph, region: Region, node: Node, done: &mut Done, cx: &mut PassContext) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Conv(conv) = data.op else { return Ok(None) };
    let [x, filter] = data.inputs[..] else { return Ok(None) };
    let (Some(&taps), Some(&dilation)) = (conv.kernel.last(), conv.rhs_dilation.last()) else { return Ok(None) };
    if !conv.channels_last || graph.as_constant(filter).is_none() {
        return Ok(None);
    }
    let channels = graph.tensor_ty(filter).shape[1].as_const();
    // Taps that lie apart are words of their own.
    let whole = dilation == 1 || channels.is_some_and(|c| c % NUMBERS == 0);
    let elements = channels.map(|c| c * taps).filter(|_| whole);
    let Some(flip) = plan(graph, node, [x, filter], elements, cx) else { return Ok(None) };
    let ty = graph.ty(data.outputs[0]).clone();
    let mut b = Builder::new(graph, region, data.origins);
    let packed = match done.packed.get(&(filter, 0)) {
        Some(&packed) => packed,
        None => {
            // [M, C, kernel...] -> [kernel..., C, M], and the last tap and the channel as one dimension.
            let spatial = conv.kernel.len();
            let perm: Vec<usize> = (2..spatial + 2).chain([1, 0]).collect();
            let last = b.transpose(filter, &perm)?;
            let mut shape = b.shape(last)?;
            let channels = shape.remove(spatial);
            shape[spatial - 1] = (&shape[spatial - 1] * &channels)?;
            let last = b.reshape(last, &shape)?;
            words(&mut b, last)?
        }
    };
    done.packed.insert((filter, 0), packed);
    let left = if flip { flipped(&mut b, x, &mut done.flipped)? } else { x };
    let conv = Conv { panel: Some(Panel::words(PANEL)), ..conv };
    let node = b.node(Op::Conv(conv), &[left, packed], &[ty])?;
    let y = b.graph.output(node);
    one(if flip { corrected(&mut b, y, x, filter, 0)? } else { y })
}

/// Whether the left operand is flipped, if the weights are stored as words.
fn plan(
    graph: &Graph,
    node: Node,
    [x, weight]: [Value; 2],
    elements: Option<i64>,
    cx: &mut PassContext,
) -> Option<bool> {
    let [left, right] = [x, weight].map(|v| graph.tensor_ty(v).dtype);
    let bytes = |dtype| matches!(dtype, DType::I8 | DType::U8);
    if cx.machine.dots == Dots::NONE || !bytes(left) || !bytes(right) {
        return None;
    }
    let refuse = |cx: &mut PassContext, why: &str| {
        cx.remark(NAME, graph, node, format!("not packed: {why}"));
        None
    };
    match (elements, flips(&cx.machine.dots, left, right)) {
        (Some(NUMBERS..), Some(flip)) => Some(flip),
        (Some(NUMBERS..), None) => refuse(cx, "the machine has no dot products with unsigned weights"),
        _ => refuse(cx, "the depth has no words"),
    }
}

/// Weights [..., K, N] as panels of words [N/16, ..., K/4, 16, 4].
fn words(b: &mut Builder<'_>, weight: Value) -> Result<Value, BuildError> {
    let mut shape = b.shape(weight)?;
    let (depth, columns) = (shape.len() - 2, shape.len() - 1);
    let elements = shape[depth].as_const().expect("the depth is known");
    let steps = count(elements);
    let mut filled = weight;
    if elements % NUMBERS != 0 {
        // The last word begins where it ends with the depth; the zeros stand for what the one before it has.
        let before = (steps - 1) * NUMBERS;
        let part = |b: &mut Builder<'_>, from: i64, to: i64| {
            let mut starts: Shape = shape.iter().map(|_| Dim::ZERO).collect();
            let mut sizes = shape.clone();
            (starts[depth], sizes[depth]) = (Dim::from(from), Dim::from(to - from));
            b.slice(weight, &starts, &sizes, &vec![1; sizes.len()])
        };
        let (whole, rest) = (part(b, 0, before)?, part(b, before, elements)?);
        let zeros = Dim::from(NUMBERS - elements % NUMBERS);
        let rest = with_zeros(b, rest, depth, [zeros, Dim::ZERO])?;
        filled = b.concat(&[whole, rest], depth as i64)?;
    }
    shape[depth] = Dim::from(steps);
    shape.insert(depth + 1, Dim::from(NUMBERS));
    let split = b.reshape(filled, &shape)?;
    // [..., K/4, 4, N] -> [..., K/4, N, 4], and then panels of N.
    let perm: Vec<usize> = (0..=depth).chain([columns + 1, depth + 1]).collect();
    let numbers_last = b.transpose(split, &perm)?;
    // `panels` puts the columns last: [N/16, ..., K/4, 4, 16].
    let cut = panels(b, numbers_last, depth + 1, PANEL.into())?;
    let rank = b.rank(cut)?;
    let perm: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
    b.transpose(cut, &perm)
}

/// An operand with its highest bits flipped: in the other type, less or greater by 128.
fn flipped(b: &mut Builder<'_>, x: Value, done: &mut HashMap<Value, Value>) -> Result<Value, BuildError> {
    if let Some(&known) = done.get(&x) {
        return Ok(known);
    }
    // Before a pad, where what makes the elements can flip them too.
    let producer = b.graph.def_node(x).map(|node| b.graph.nodes[node].clone());
    let result = match producer.map(|data| (data.op, data.inputs)) {
        Some((Op::Pad { lo, hi }, inputs)) => {
            let inner = flipped(b, inputs[0], done)?;
            let fill = flipped(b, inputs[1], done)?;
            b.pad(inner, fill, &lo, &hi)?
        }
        _ => {
            let to = other(b.dtype(x)?);
            b.map(&[x], |e| {
                let x = e.arg(0);
                let x = e.bitcast(to, x);
                let highest = e.constant(Scalar { dtype: to, bits: 0x80 });
                Ok(e.binary(BinaryOp::Xor, x, highest))
            })?
        }
    };
    done.insert(x, result);
    Ok(result)
}

/// The sums that a product with a flipped left operand would have had with `x`; `axis` is that of the weight's columns.
fn corrected(b: &mut Builder<'_>, y: Value, x: Value, weight: Value, axis: usize) -> Result<Value, BuildError> {
    let excess = if b.dtype(x)? == DType::I8 { 128 } else { -128 };
    let wide = b.cast(weight, DType::I32)?;
    let axes: Vec<i64> = (0..b.rank(weight)?).filter(|&a| a != axis).map(|a| a as i64).collect();
    let sums = b.reduce(ReduceOp::Sum, wide, &axes, false)?;
    let factor = b.number(DType::I32, f64::from(excess))?;
    let excess = b.mul(sums, factor)?;
    b.sub(y, excess)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_left_operand_changes_its_type_where_that_helps() {
        let (i8, u8) = (DType::I8, DType::U8);
        let mixed = Dots { mixed: true, ..Dots::NONE };
        let signed = Dots { signed: true, ..Dots::NONE };
        let found = |dots| [(i8, i8), (i8, u8), (u8, i8), (u8, u8)].map(|(x, w)| flips(dots, x, w));
        assert_eq!(found(&mixed), [Some(true), Some(false), Some(false), Some(true)]);
        assert_eq!(found(&signed), [Some(false), None, Some(true), None]);
    }
}
