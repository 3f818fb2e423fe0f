//! Stores constant weights the way that kernels read them.
//!
//! Before: `y = contract [m, k] [k, n] -> [m, n] (x, w)` with the constant `w: f32[K, N]`.
//! After: `p = transpose [1, 0, 2] (reshape [K, N/16, 16] (pad (w))); y = contract, panel 16 (x, p)`, where `p` is a recipe once
//! `fold_constants` has run. Filters of convolutions become [M/16, kernel..., C, 16], those of depthwise ones
//! [kernel..., M], transformed ones for Winograd's algorithm [M/16, t * t, C, 16].
//!
//! Products with weights of a few bits are those of [`super::pack_bits`].
//!
//! Where products with a few rows are kernels of their own (see [`crate::schedules::gemv`]), weights of those are stored
//! column by column, `[N, K]`.
//!
//! Panels of 16 columns serve every target: one register of 512 bits, two of 256, four of 128. What is packed is `f32`,
//! weights of products in 16-bit floats (see [`super::widen_halves`]), and integers of 8 bits for `i32` sums: those as words of
//! four (see [`super::pack_words`]). Where matrix instructions take
//! them, filters of 16-bit floats are packed too; where the operands of `f32` products may be rounded to 16 bits
//! ([`MachineModel::f32_products`]), weights of products are stored so; a convolution's filter has the type of its input.

use std::collections::HashMap;

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::TileKind;
use onnxc_ir::machine::MachineModel;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{Contract, Conv, Label, Panel};
use onnxc_ir::tensor::winograd::Winograd;
use onnxc_ir::tensor::{Builder, Graph, Node, Op, Region, Shape, TensorBytes, Type, Value};
use smallvec::SmallVec;

use super::rewrite::{PassContext, Rewritten, one, rewrite};
use super::widen_halves::{is_half, keeps_weights};
use super::{pack_bits, pack_words};
use crate::schedules::gemm::PANEL;
use crate::schedules::gemv;

/// The packed forms of weights that are used more than once.
type Packed = HashMap<(Value, Order), Value>;

/// How a weight is packed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Order {
    /// In panels of its columns, which were this axis.
    Panels(usize),
    /// Column by column, which were this axis.
    Columns(usize),
    /// A filter, for Winograd's algorithm with this tile or (0) as it is.
    Filter(usize),
    /// A depthwise filter.
    Depthwise,
}

const NAME: &str = "pack_weights";

/// Runs the pass on the body.
pub fn run(graph: &mut Graph, cx: &mut PassContext) {
    let body = graph.body();
    let mut packed = Packed::default();
    let mut words = pack_words::Done::default();
    rewrite(graph, body, |graph, region, node| match &graph.nodes[node].op {
        Op::Contract(c) if c.panel.is_none() && c.acc == DType::I32 => {
            pack_words::pack_product(graph, region, node, &mut words, cx)
        }
        Op::Conv(c) if c.panel.is_none() && c.acc == DType::I32 && c.groups == 1 => {
            pack_words::pack_filter(graph, region, node, &mut words, cx)
        }
        Op::Contract(c) if c.panel.is_none() => pack_product(graph, region, node, &mut packed, &cx.machine),
        Op::Conv(c) if c.panel.is_none() => pack_filter(graph, region, node, &mut packed, cx),
        _ => Ok(None),
    });
}

/// The weight as products of this machine take it.
pub(super) fn rounded(b: &mut Builder<'_>, weight: Value, machine: &MachineModel) -> Result<Value, BuildError> {
    match (machine.f32_products, b.dtype(weight)?) {
        (Some(TileKind::F16), DType::F32) => b.cast(weight, DType::F16),
        (Some(TileKind::Bf16), DType::F32) => b.cast(weight, DType::BF16),
        _ => Ok(weight),
    }
}

/// A product whose right operand is a constant matrix.
pub(super) struct Product {
    /// With the constant on the right.
    pub(super) contract: Contract,
    pub(super) lhs: Value,
    pub(super) rhs: Value,
    /// The label of the contracted dimension.
    pub(super) depth: Label,
    /// That of the columns, the result's last dimension.
    pub(super) column: Label,
    /// The axis of the columns in the matrix.
    pub(super) axis: usize,
}

/// The product of something that a run computes and a constant matrix.
pub(super) fn product_with_weights(graph: &Graph, node: Node) -> Option<Product> {
    product_with(graph, node, |value| graph.as_constant(value).is_some())
}

/// The same where `is_weight` says which values are constants, or will be.
pub(super) fn product_with(graph: &Graph, node: Node, is_weight: impl Fn(Value) -> bool) -> Option<Product> {
    let data = &graph.nodes[node];
    let Op::Contract(contract) = &data.op else { return None };
    let mut contract = contract.clone();
    let [mut lhs, mut rhs] = data.inputs[..] else { return None };
    let &column = contract.out.last()?;
    if contract.lhs.contains(&column) && !contract.rhs.contains(&column) {
        std::mem::swap(&mut lhs, &mut rhs);
        std::mem::swap(&mut contract.lhs, &mut contract.rhs);
    }
    if !is_weight(rhs) || is_weight(lhs) || contract.lhs.contains(&column) {
        return None;
    }
    let (depth, axis) = match contract.rhs[..] {
        [k, n] if n == column => (k, 1),
        [n, k] if n == column => (k, 0),
        _ => return None,
    };
    let contracted = contract.lhs.contains(&depth) && !contract.out.contains(&depth);
    contracted.then_some(Product { contract, lhs, rhs, depth, column, axis })
}

fn pack_product(
    graph: &mut Graph,
    region: Region,
    node: Node,
    packed: &mut Packed,
    machine: &MachineModel,
) -> Rewritten {
    let Some(Product { contract, lhs, rhs, depth, column, axis }) = product_with_weights(graph, node) else {
        return Ok(None);
    };
    let dtype = graph.tensor_ty(rhs).dtype;
    let lines = contract.lhs.iter().zip(&graph.tensor_ty(lhs).shape).filter(|(label, _)| **label != depth);
    let few = Dim::product(lines.map(|(_, size)| size)).is_ok_and(|rows| gemv::takes(machine, &rows, contract.acc));
    let short = is_half(dtype) && if machine.tiles { few } else { keeps_weights(machine, dtype) };
    if contract.acc != DType::F32 || dtype != DType::F32 && !short {
        return Ok(None);
    }
    if !short && let Some(values) = pack_bits::pack(graph, region, node, &contract, [lhs, rhs])? {
        return Ok(Some(values));
    }
    let (ty, origins) = (graph.ty(graph.output(node)).clone(), graph.nodes[node].origins.clone());
    let mut b = Builder::new(graph, region, origins);
    if few {
        return pack_columns(b, Product { contract, lhs, rhs, depth, column, axis }, machine, packed, &ty);
    }
    let panels = match packed.get(&(rhs, Order::Panels(axis))) {
        Some(&panels) => panels,
        None => {
            let weight = rounded(&mut b, rhs, machine)?;
            panels(&mut b, weight, axis, PANEL.into())?
        }
    };
    packed.insert((rhs, Order::Panels(axis)), panels);
    let contract =
        Contract { rhs: SmallVec::from_slice(&[depth, column]), panel: Some(Panel::flat(PANEL)), ..contract };
    let node = b.node(Op::Contract(contract), &[lhs, panels], &[ty])?;
    one(b.graph.output(node))
}

/// The product with its weights stored column by column; none if they are already.
fn pack_columns(
    mut b: Builder<'_>,
    product: Product,
    machine: &MachineModel,
    packed: &mut Packed,
    ty: &Type,
) -> Rewritten {
    let Product { contract, lhs, rhs, depth, column, axis } = product;
    let key = (rhs, Order::Columns(axis));
    let columns = match packed.get(&key) {
        Some(&columns) => columns,
        None => {
            let weight = rounded(&mut b, rhs, machine)?;
            if axis == 0 { weight } else { b.transpose(weight, &[1, 0])? }
        }
    };
    if columns == rhs {
        return Ok(None);
    }
    packed.insert(key, columns);
    let contract = Contract { rhs: SmallVec::from_slice(&[column, depth]), ..contract };
    let node = b.node(Op::Contract(contract), &[lhs, columns], std::slice::from_ref(ty))?;
    one(b.graph.output(node))
}

/// Cuts an axis of a constant into panels: `[panels, other axes..., width]`, with zeros where there are no elements.
pub(super) fn panels(b: &mut Builder<'_>, weight: Value, axis: usize, width: i64) -> Result<Value, BuildError> {
    let width = Dim::from(width);
    let shape = b.shape(weight)?;
    let count = shape[axis].ceil_div(&width)?;
    let padded = with_zeros(b, weight, axis, [Dim::ZERO, (&(&count * &width)? - &shape[axis])?])?;
    let mut split = shape.clone();
    split[axis] = count;
    split.insert(axis + 1, width);
    let split = b.reshape(padded, &split)?;
    let others = (0..=shape.len()).filter(|&i| i != axis && i != axis + 1);
    let perm: Vec<usize> = std::iter::once(axis).chain(others).chain([axis + 1]).collect();
    b.transpose(split, &perm)
}

/// Zeros before and after a constant's elements along an axis.
pub(super) fn with_zeros(
    b: &mut Builder<'_>,
    weight: Value,
    axis: usize,
    [before, after]: [Dim; 2],
) -> Result<Value, BuildError> {
    let mut hi: Shape = b.shape(weight)?.iter().map(|_| Dim::ZERO).collect();
    let mut lo = hi.clone();
    (lo[axis], hi[axis]) = (before, after);
    let zero = b.scalar(Scalar::zero(b.dtype(weight)?));
    b.pad(weight, zero, &lo, &hi)
}

/// `G g Gᵀ` of a filter [M, C, 3, 3], as [t * t, M, C].
fn transform(b: &mut Builder<'_>, filter: Value, w: &Winograd) -> Result<Value, BuildError> {
    let t = w.patch() as i64;
    let elements: Vec<f32> = w.filter.iter().map(|&x| x as f32).collect();
    let g = b.constant(TensorBytes::from_f32(&[t, 3], &elements), "winograd")?;
    let [m, c, i, j, a, z] = [0, 1, 2, 3, 4, 5];
    let labels = SmallVec::from_slice;
    let contract = |lhs: &[Label], rhs: &[Label], out: &[Label]| Contract {
        lhs: labels(lhs),
        rhs: labels(rhs),
        out: labels(out),
        acc: DType::F32,
        panel: None,
    };
    let rows = b.contract(contract(&[m, c, a, z], &[i, a], &[i, m, c, z]), filter, g)?;
    let both = b.contract(contract(&[i, m, c, z], &[j, z], &[i, j, m, c]), rows, g)?;
    let mut shape = b.shape(both)?;
    shape.remove(0);
    shape[0] = Dim::from(t * t);
    b.reshape(both, &shape)
}

fn pack_filter(graph: &mut Graph, region: Region, node: Node, packed: &mut Packed, cx: &mut PassContext) -> Rewritten {
    let data = graph.nodes[node].clone();
    let Op::Conv(conv) = data.op else { return Ok(None) };
    let filter = data.inputs[1];
    let spatial = conv.kernel.len();
    let bytes = |v| matches!(graph.tensor_ty(v).dtype, DType::I8 | DType::U8);
    let short = matches!(graph.tensor_ty(filter).dtype, DType::F16 | DType::BF16);
    let packs = graph.tensor_ty(filter).dtype == DType::F32 || cx.machine.tiles && short && conv.groups == 1;
    let floats = conv.acc == DType::F32 && packs;
    // Of integers, only the filters of depthwise convolutions come here.
    let fits = floats || conv.acc == DType::I32 && bytes(filter) && bytes(data.inputs[0]);
    if !fits || !conv.channels_last || graph.as_constant(filter).is_none() || spatial == 0 {
        return Ok(None);
    }
    let shape = graph.tensor_ty(filter).shape.clone();
    let ty = graph.ty(data.outputs[0]).clone();
    let depthwise = shape[0] == conv.groups && shape[1] == 1;
    if conv.groups != 1 && !depthwise {
        cx.remark(NAME, graph, node, "not packed: the filter has groups of several channels");
        return Ok(None);
    }
    let origins = data.origins.clone();
    let mut b = Builder::new(graph, region, origins);
    let order = if conv.groups == 1 { Order::Filter(conv.winograd.unwrap_or(0) as usize) } else { Order::Depthwise };
    let key = (filter, order);
    let weights = if let Some(&weights) = packed.get(&key) {
        weights
    } else if let Some(tile) = conv.winograd {
        let transformed = transform(&mut b, filter, Winograd::of(tile).expect("a known tile"))?;
        panels(&mut b, transformed, 1, PANEL.into())?
    } else if conv.groups == 1 {
        // [M, C, kernel...] -> [M, kernel..., C], and then panels of M.
        let perm: Vec<usize> = std::iter::once(0).chain(2..spatial + 2).chain([1]).collect();
        let last = b.transpose(filter, &perm)?;
        panels(&mut b, last, 0, PANEL.into())?
    } else {
        let flat: Shape = shape.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, d)| d.clone()).collect();
        let flat = b.reshape(filter, &flat)?;
        let perm: Vec<usize> = (1..=spatial).chain([0]).collect();
        b.transpose(flat, &perm)?
    };
    packed.insert(key, weights);
    let node = b.node(Op::Conv(Conv { panel: Some(Panel::flat(PANEL)), ..conv }), &[data.inputs[0], weights], &[ty])?;
    one(b.graph.output(node))
}
