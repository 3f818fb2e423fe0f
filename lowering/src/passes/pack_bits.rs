//! Weights of 2 or 4 bits stay what they are: kernels unpack and scale them in registers, just before they multiply by them.
//!
//! Before: `y = contract [m, k] [n, k] -> [m, n] (x, w)`, where `w: f32[N, K]` is a recipe that ends with an elementwise
//! operation over numbers of a few bits, in blocks along K, and what belongs to each block: a scale and perhaps a zero
//! point. After: `y = contract [m, b, h, p] [q, b, h, p, n] -> [m, q, n] (x', u)` with
//! `u = elementwise (words: i32[N/32, B, H, 1, 32], shifts: i32[P, 1], scales: f32[N/32, B, 1, 1, 32], ...)`: a word holds the
//! numbers of P places behind each other, for one of 32 columns. `fold_constants` leaves `u`, as it is larger than what it
//! is made of, and `fuse` computes it where it is used.

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, Scalar, ScalarExpr, ScalarInst};
use onnxc_ir::tensor::build::BuildError;
use onnxc_ir::tensor::op::{Contract, Label};
use onnxc_ir::tensor::{Builder, Constant, ConstantSource, Graph, Node, Op, Region, Shape, TensorBytes, Value};
use smallvec::SmallVec;

use super::pack_weights::panels;
use super::rewrite::{Rewritten, one};
use crate::schedules::contract::UNPACKED_COLUMNS;

/// Weights of fewer elements are not worth it: as floats they fit into a cache.
const FEW: i64 = 1 << 16;

/// What weights of few bits are made of.
struct Packed {
    /// The numbers, a byte each: `u8[N, B, K / B]`.
    numbers: Constant,
    /// How many bits of each byte count.
    bits: i64,
    /// The elements, from the numbers and from what belongs to the blocks.
    expr: ScalarExpr,
    /// `[N, B, 1]` each.
    of_blocks: SmallVec<[Constant; 4]>,
    /// N, B, and the numbers of a block.
    sizes: [i64; 3],
}

/// Rewrites a product whose right operand is a constant of few bits; `rhs` has the labels [column, depth] or the reverse.
pub fn pack(graph: &mut Graph, region: Region, node: Node, contract: &Contract, [lhs, rhs]: [Value; 2]) -> Rewritten {
    let Some(constant) = graph.as_constant(rhs) else { return Ok(None) };
    let &[first, second] = &contract.rhs[..] else { return Ok(None) };
    let columns_first = contract.out.last() == Some(&first);
    let (column, depth) = if columns_first { (first, second) } else { (second, first) };
    let Some(packed) = find(graph, constant, columns_first) else { return Ok(None) };
    let origins = graph.nodes[node].origins.clone();
    let mut b = Builder::new(graph, region, origins);
    let weights = unpacked(&mut b, &packed)?;
    let [n, blocks, block] = packed.sizes;
    let parts = 32 / packed.bits;

    // The depth becomes blocks, words and places.
    let at = contract.lhs.iter().position(|&l| l == depth).expect("both operands have the depth");
    let mut shape = b.shape(lhs)?;
    shape.remove(at);
    shape.insert_many(at, [blocks, block / parts, parts].map(Dim::from));
    let lhs = b.reshape(lhs, &shape)?;
    let free = contract.lhs.iter().chain(&contract.rhs).max().expect("there are labels") + 1;
    let split: [Label; 3] = [free, free + 1, free + 2];
    let panel = free + 3;
    let mut left = contract.lhs.clone();
    left.remove(at);
    left.insert_many(at, split);
    let mut out = contract.out.clone();
    out.insert(out.len() - 1, panel);
    let right = [panel, split[0], split[1], split[2], column];
    let product = Contract { lhs: left, rhs: SmallVec::from_slice(&right), out, acc: contract.acc, panel: None };
    let y = b.contract(product, lhs, weights)?;
    let mut shape = b.shape(y)?;
    shape.truncate(shape.len() - 2);
    shape.push(Dim::from((n + UNPACKED_COLUMNS - 1) / UNPACKED_COLUMNS * UNPACKED_COLUMNS));
    let y = b.reshape(y, &shape)?;
    one(b.slice_axis(y, -1, &Dim::ZERO, &Dim::from(n), 1)?)
}

/// Looks through the recipe of a weight.
fn find(graph: &Graph, weight: Constant, mut columns_first: bool) -> Option<Packed> {
    let depth = *graph.constants[weight].ty.static_shape()?.get(usize::from(columns_first))?;
    let mut at = weight;
    let (expr, inputs) = loop {
        let ConstantSource::Lazy { op, inputs } = &graph.constants[at].source else { return None };
        match op {
            Op::Transpose { perm } if perm[..] == [1, 0] => columns_first = !columns_first,
            // Only the one that joins the blocks of each row, whose padding there is none of.
            Op::Reshape => {}
            Op::Slice { .. } if graph.constants[inputs[0]].ty == graph.constants[at].ty => {}
            Op::Elementwise(expr) => break (expr, inputs),
            _ => return None,
        }
        at = inputs[0];
    };
    let &[n, blocks, block] = &graph.constants[at].ty.static_shape()?[..] else { return None };
    let (&numbers, of_blocks) = inputs.split_first()?;
    let shape = |c: Constant| graph.constants[c].ty.static_shape();
    let fits = shape(numbers)?[..] == [n, blocks, block]
        && of_blocks.iter().all(|&c| shape(c).is_some_and(|s| s[..] == [n, blocks, 1]));
    let ConstantSource::Lazy { op: Op::Elementwise(held), inputs } = &graph.constants[numbers].source else {
        return None;
    };
    let bits = match graph.constants[*inputs.first()?].ty.dtype {
        DType::U4 => 4,
        DType::U2 => 2,
        _ => return None,
    };
    // What is no float becomes one: the numbers in the kernel, zero points and narrow scales when the object is written.
    let is_float = |n: u32| n > 0 && graph.constants[of_blocks[n as usize - 1]].ty.dtype == DType::F32;
    let is_narrow = |o: u32| matches!(expr.insts[o as usize], ScalarInst::Arg(n) if !is_float(n));
    let converted =
        |inst: &ScalarInst| matches!(inst, ScalarInst::Cast(DType::F32, _)) || !inst.operands().any(is_narrow);
    let fits = fits
        && columns_first
        && blocks * block == depth
        && block % (32 / bits) == 0
        && n * depth > FEW
        && held.insts.len() == 2
        && expr.insts.iter().all(converted);
    fits.then(|| Packed { numbers, bits, expr: expr.clone(), of_blocks: of_blocks.into(), sizes: [n, blocks, block] })
}

/// The weights `f32[N/32, B, H, P, 32]`, unpacked from words and scaled.
fn unpacked(b: &mut Builder<'_>, packed: &Packed) -> Result<Value, BuildError> {
    let [n, blocks, block] = packed.sizes;
    let (bits, parts) = (packed.bits, 32 / packed.bits);
    let dims = |sizes: &[i64]| sizes.iter().map(|&n| Dim::from(n)).collect::<Shape>();
    let numbers = b.constant_node(packed.numbers);
    let numbers = b.reshape(numbers, &dims(&[n, blocks, block / parts, parts]))?;
    let places = (0..parts)
        .map(|p| b.slice_axis(numbers, 3, &Dim::from(p), &Dim::ONE, 1))
        .collect::<Result<Vec<Value>, BuildError>>()?;
    let words = b.map(&places, |e| {
        let mut word = e.number(DType::I32, 0.0)?;
        for p in 0..parts as u32 {
            let (number, shift) = (e.arg(p), e.number(DType::I32, f64::from(p * bits as u32))?);
            let number = e.cast(DType::I32, number);
            let shifted = e.binary(BinaryOp::Shl, number, shift);
            word = e.or(word, shifted);
        }
        Ok(word)
    })?;
    let words = panels(b, words, 0, UNPACKED_COLUMNS)?;
    let shifts: Vec<u8> = (0..parts).flat_map(|p| ((p * bits) as i32).to_le_bytes()).collect();
    let shifts = TensorBytes { dtype: DType::I32, shape: SmallVec::from_slice(&[parts, 1]), bytes: shifts.into() };
    let mut inputs = vec![words, b.constant(shifts, "shifts")?];
    for &constant in &packed.of_blocks {
        let value = b.constant_node(constant);
        let value = b.cast(value, DType::F32)?;
        let value = b.reshape(value, &dims(&[n, blocks, 1, 1]))?;
        inputs.push(panels(b, value, 0, UNPACKED_COLUMNS)?);
    }
    // The number takes the place of argument 0, what belongs to the blocks moves behind the shifts.
    let mask = ScalarInst::Const(Scalar::number(DType::I32, f64::from((1 << bits) - 1)).expect("a number of 32 bits"));
    let mut insts = vec![
        ScalarInst::Arg(0),
        ScalarInst::Arg(1),
        ScalarInst::Binary(BinaryOp::Shr, 0, 1),
        mask,
        ScalarInst::Binary(BinaryOp::And, 2, 3),
    ];
    let number = insts.len() as u32 - 1;
    let mut moved = Vec::with_capacity(packed.expr.insts.len());
    for inst in &packed.expr.insts {
        if *inst == ScalarInst::Arg(0) {
            moved.push(number);
            continue;
        }
        let inst = match inst {
            ScalarInst::Arg(n) => ScalarInst::Arg(n + 1),
            other => other.map_operands(|o| moved[o as usize]),
        };
        insts.push(inst);
        moved.push(insts.len() as u32 - 1);
    }
    b.elementwise(ScalarExpr { insts }, &inputs)
}
