//! Weights of few bits with a scale for each block: unpacked and scaled to floats, for which ordinary products are made.
//! For constant weights that happens while the model is compiled, but where many of 2 or 4 bits are the right operand of
//! one product: those stay as they are (the pass `pack_bits` of lowering).

use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::{ConstantSource, Shape, TensorBytes, Value};

use super::super::Operator;
use super::super::quantize::repeated_blocks;
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(in crate::ops) const OPERATORS: &[Operator] = &[
    row("MatMulNBits", (3, 6), matmul_n_bits)
        .limited("2, 4 and 8 bits; computed in f32 whatever `accuracy_level` allows; no weights that are packed for a processor."),
    row("MatMulBnb4", (3, 3), matmul_bnb4)
        .limited("`transB` 1."),
    row("MatMulFpQ4", (3, 3), matmul_fp_q4)
        .limited("Blocks of 32 (`blk_quant_type` 0 and 1)."),
    row("GatherBlockQuantized", (3, 4), gather_blocks),
];

/// The numbers of `bits` bits in the bytes of the last axis, the lowest first.
fn unpacked(cx: &mut NodeContext<'_>, packed: Value, bits: i64) -> Result<Value, OpError> {
    if bits == 8 {
        return Ok(packed);
    }
    let (shape, each) = (cx.b.shape(packed)?, 8 / bits);
    let spread = cx.b.unsqueeze(packed, &[-1])?;
    let mut split = shape.clone();
    split.push(Dim::from(each));
    let axis = shape.len() as u32;
    let parts = cx.b.map_to(&split, &[spread], |e| {
        let (byte, at) = (e.arg(0), e.index(axis));
        let (width, mask) = (e.number(DType::U8, bits as f64)?, e.number(DType::U8, ((1 << bits) - 1) as f64)?);
        let at = e.cast(DType::U8, at);
        let shift = e.mul(at, width);
        let shifted = e.binary(BinaryOp::Shr, byte, shift);
        Ok(e.and(shifted, mask))
    })?;
    let mut joined = shape;
    if let Some(last) = joined.last_mut() {
        *last = (&*last * &Dim::from(each))?;
    }
    Ok(cx.b.reshape(parts, &joined)?)
}

/// The bytes of a constant as a tensor of the type that packs its elements so: what depends on it alone is computed while
/// the model is compiled.
fn packed_constant(
    cx: &mut NodeContext<'_>,
    packed: Value,
    bits: i64,
    shape: &[i64],
) -> Result<Option<Value>, OpError> {
    let dtype = match bits {
        2 => DType::U2,
        4 => DType::U4,
        _ => return Ok(None),
    };
    let Some(constant) = cx.b.graph.as_constant(packed) else { return Ok(None) };
    let data = &cx.b.graph.constants[constant];
    let ConstantSource::Bytes(bytes) = &data.source else { return Ok(None) };
    let elements: i64 = shape.iter().product();
    if dtype.packed_bytes(elements as u64) != Some(bytes.len() as u64) {
        return cx.invalid(format!("{} bytes of weights for {elements} numbers of {bits} bits", bytes.len()));
    }
    let (tensor, name) = (TensorBytes { dtype, shape: shape.into(), bytes: bytes.clone() }, data.name.clone());
    Ok(Some(cx.b.constant(tensor, &name)?))
}

/// An attribute that has to be there and positive.
fn size(cx: &NodeContext<'_>, name: &str) -> Result<i64, OpError> {
    match cx.int_opt(name) {
        Some(n) if (1..=i64::from(i32::MAX)).contains(&n) => Ok(n),
        Some(n) => cx.invalid(format!("attribute `{name}` is {n}")),
        None => cx.invalid(format!("attribute `{name}` is missing")),
    }
}

/// The number of bits of an element of packed bytes.
fn bit_count(cx: &NodeContext<'_>) -> Result<i64, OpError> {
    match cx.int("bits", 4) {
        bits @ (2 | 4 | 8) => Ok(bits),
        bits => cx.unsupported(format!("weights of {bits} bits")),
    }
}

/// `(q - zero) * scale` as `f32`; an absent zero is a number.
fn scaled(cx: &mut NodeContext<'_>, q: Value, zero: Result<Value, f64>, scale: Value) -> Result<Value, OpError> {
    let inputs: Vec<Value> = [q, scale].into_iter().chain(zero.ok()).collect();
    Ok(cx.b.map(&inputs, |e| {
        let (q, scale) = (e.arg(0), e.arg(1));
        let (q, scale) = (e.cast(DType::F32, q), e.cast(DType::F32, scale));
        let zero = match zero {
            Ok(_) => {
                let zero = e.arg(2);
                e.cast(DType::F32, zero)
            }
            Err(number) => e.number(DType::F32, number)?,
        };
        let difference = e.sub(q, zero);
        Ok(e.mul(difference, scale))
    })?)
}

/// `a * w'` for weights `[N, K]`, `f32`, in the type of `a`, with a bias.
fn product(cx: &mut NodeContext<'_>, a: Value, weights: Value, bias: Option<Value>) -> OpResult {
    let dtype = cx.b.dtype(a)?;
    let a = cx.b.cast(a, DType::F32)?;
    let weights = cx.b.transpose(weights, &[1, 0])?;
    let mut y = cx.b.matmul(a, weights, DType::F32)?;
    if let Some(bias) = bias {
        let bias = cx.b.cast(bias, DType::F32)?;
        y = cx.b.add(y, bias)?;
    }
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// A matrix product with weights `[N, K]` in blocks along K. The attribute `accuracy_level` allows less than `f32`, which
/// nothing makes use of.
fn matmul_n_bits(cx: &mut NodeContext<'_>) -> OpResult {
    let (a, packed, scales) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (k, n, block, bits) = (size(cx, "K")?, size(cx, "N")?, size(cx, "block_size")?, bit_count(cx)?);
    if cx.flag("weight_prepacked", false) {
        return cx.unsupported("weights that are packed for a processor");
    }
    if block * bits % 8 != 0 {
        return cx.invalid(format!("attribute `block_size` is {block}"));
    }
    let blocks = (k + block - 1) / block;
    let dims = |sizes: &[i64]| sizes.iter().map(|&n| Dim::from(n)).collect::<Shape>();
    let q = match packed_constant(cx, packed, bits, &[n, blocks, block])? {
        Some(q) => q,
        None => {
            let packed = cx.b.reshape(packed, &dims(&[n, blocks, block * bits / 8]))?;
            unpacked(cx, packed, bits)?
        }
    };
    let scales = cx.b.reshape(scales, &dims(&[n, blocks, 1]))?;
    let zero = match cx.optional(3) {
        None => Err(f64::from(1 << (bits - 1))),
        Some(zero) if cx.b.dtype(zero)? == DType::U8 => {
            let zero = cx.b.reshape(zero, &dims(&[n, (blocks * bits + 7) / 8]))?;
            let zero = unpacked(cx, zero, bits)?;
            let zero = cx.b.slice_axis(zero, 1, &Dim::ZERO, &Dim::from(blocks), 1)?;
            Ok(cx.b.unsqueeze(zero, &[2])?)
        }
        Some(zero) => Ok(cx.b.reshape(zero, &dims(&[n, blocks, 1]))?),
    };
    let whole = |cx: &mut NodeContext<'_>, x: Value| -> Result<Value, OpError> {
        let x = cx.b.reshape(x, &dims(&[n, blocks * block]))?;
        Ok(cx.b.slice_axis(x, 1, &Dim::ZERO, &Dim::from(k), 1)?)
    };
    let weights = match cx.optional(4) {
        None => {
            let weights = scaled(cx, q, zero, scales)?;
            whole(cx, weights)?
        }
        // Each column says which block's scale and zero point are its own.
        Some(groups) => {
            let groups = cx.b.slice_axis(groups, 0, &Dim::ZERO, &Dim::from(k), 1)?;
            let column = |cx: &mut NodeContext<'_>, x: Value| -> Result<Value, OpError> {
                let x = cx.b.squeeze(x, &[2])?;
                Ok(cx.b.take(x, groups, 1)?)
            };
            let scales = column(cx, scales)?;
            let zero = match zero {
                Ok(zero) => Ok(column(cx, zero)?),
                Err(number) => Err(number),
            };
            let q = whole(cx, q)?;
            scaled(cx, q, zero, scales)?
        }
    };
    let bias = cx.optional(5);
    product(cx, a, weights, bias)
}

/// The fractions that the numbers of 4 bits stand for: a sign, and a power of two with or without a half more of it.
const FP4: [f32; 8] = [0.0, 1.0 / 192.0, 2.0 / 3.0, 1.0, 1.0 / 3.0, 0.5, 1.0 / 6.0, 0.25];

/// The quantiles of the normal distribution, scaled to -1 to 1, that the numbers of 4 bits stand for.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_04,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A matrix product with weights `[N, K]` of 4 bits that stand for entries of a table, the first in the high half of a
/// byte, with the greatest magnitude of each block of the flat matrix.
fn matmul_bnb4(cx: &mut NodeContext<'_>) -> OpResult {
    let (a, packed, absmax) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (k, n, block) = (size(cx, "K")?, size(cx, "N")?, size(cx, "block_size")?);
    if !cx.flag("transB", true) {
        return cx.unsupported("weights that are not transposed");
    }
    let table: Vec<f32> = match cx.int("quant_type", 1) {
        0 => FP4.into_iter().chain(FP4.into_iter().map(|x| -x)).collect(),
        1 => NF4.to_vec(),
        other => return cx.invalid(format!("attribute `quant_type` is {other}")),
    };
    let elements = k * n;
    let bytes = (elements + 1) / 2;
    let packed = cx.b.reshape(packed, &[Dim::from(bytes), Dim::ONE])?;
    let codes = cx.b.map_to(&[Dim::from(bytes), Dim::from(2)], &[packed], |e| {
        let (byte, at, four) = (e.arg(0), e.index(1), e.number(DType::U8, 4.0)?);
        let (one, low) = (e.number(DType::U8, 1.0)?, e.number(DType::U8, 15.0)?);
        let at = e.cast(DType::U8, at);
        let from_end = e.sub(one, at);
        let shift = e.mul(from_end, four);
        let shifted = e.binary(BinaryOp::Shr, byte, shift);
        let code = e.and(shifted, low);
        Ok(e.cast(DType::I64, code))
    })?;
    let codes = cx.b.reshape(codes, &[Dim::from(2 * bytes)])?;
    let codes = cx.b.slice_axis(codes, 0, &Dim::ZERO, &Dim::from(elements), 1)?;
    let table = cx.b.constant(TensorBytes::from_f32(&[16], &table), "")?;
    let fractions = cx.b.take(table, codes, 0)?;
    let absmax = cx.b.reshape(absmax, &[Dim::from((elements + block - 1) / block)])?;
    let absmax = repeated_blocks(cx, absmax, 0, block, &[Dim::from(elements)])?;
    let weights = cx.b.mul(fractions, absmax)?;
    let weights = cx.b.reshape(weights, &[Dim::from(n), Dim::from(k)])?;
    product(cx, a, weights, None)
}

/// A matrix product with weights of 4 bits that lie column by column in blocks of 32 numbers, each behind its scale and
/// zero point: the first 16 numbers of a block are the low halves of its bytes, the others the high halves.
fn matmul_fp_q4(cx: &mut NodeContext<'_>) -> OpResult {
    const BLOCK: i64 = 32;
    let (a, blob, sizes) = (cx.input(0)?, cx.input(1)?, cx.known_i64s(2)?);
    let &[k, n] = &sizes[..] else { return cx.invalid("the shape of the weights is not that of a matrix") };
    let zero_bytes = match cx.int("blk_quant_type", 1) {
        0 => 0,
        1 => 1,
        other => return cx.unsupported(format!("weights of type {other} (attribute `blk_quant_type`)")),
    };
    if !(1..=i64::from(i32::MAX)).contains(&k) || !(1..=i64::from(i32::MAX)).contains(&n) {
        return cx.invalid(format!("weights of shape [{k}, {n}]"));
    }
    let dims = |sizes: &[i64]| sizes.iter().map(|&n| Dim::from(n)).collect::<Shape>();
    let (blocks, head) = ((k + BLOCK - 1) / BLOCK, 4 + zero_bytes);
    let b = &mut cx.b;
    let bytes = b.reshape(blob, &dims(&[n, blocks, head + BLOCK / 2]))?;
    let mut byte = |at: i64, count: i64| b.slice_axis(bytes, 2, &Dim::from(at), &Dim::from(count), 1);
    let scale = [byte(0, 1)?, byte(1, 1)?, byte(2, 1)?, byte(3, 1)?];
    let (zero, packed) = (byte(4, zero_bytes)?, byte(head, BLOCK / 2)?);
    let scale = b.map(&scale, |e| {
        let mut bits = e.number(DType::U32, 0.0)?;
        for i in 0..4 {
            let (byte, shift) = (e.arg(i), e.number(DType::U32, f64::from(8 * i))?);
            let byte = e.cast(DType::U32, byte);
            let byte = e.binary(BinaryOp::Shl, byte, shift);
            bits = e.or(bits, byte);
        }
        Ok(e.bitcast(DType::F32, bits))
    })?;
    let packed = b.unsqueeze(packed, &[2])?;
    let halves = b.map_to(&dims(&[n, blocks, 2, BLOCK / 2]), &[packed], |e| {
        let (byte, half) = (e.arg(0), e.index(2));
        let (four, low) = (e.number(DType::U8, 4.0)?, e.number(DType::U8, 15.0)?);
        let half = e.cast(DType::U8, half);
        let shift = e.mul(half, four);
        let shifted = e.binary(BinaryOp::Shr, byte, shift);
        Ok(e.and(shifted, low))
    })?;
    let q = b.reshape(halves, &dims(&[n, blocks, BLOCK]))?;
    let zero = if zero_bytes == 1 { Ok(zero) } else { Err(8.0) };
    let weights = scaled(cx, q, zero, scale)?;
    let weights = cx.b.reshape(weights, &dims(&[n, blocks * BLOCK]))?;
    let weights = cx.b.slice_axis(weights, 1, &Dim::ZERO, &Dim::from(k), 1)?;
    product(cx, a, weights, None)
}

/// The matrices `f32[E, N, K]` of QMoE's experts, from inputs with the packed numbers, the scales of rows or of blocks of
/// rows, and the zero points, which may be absent.
pub(super) fn expert_weights(
    cx: &mut NodeContext<'_>,
    [packed, scales, zeros]: [usize; 3],
    bits: i64,
) -> Result<Value, OpError> {
    if !matches!(bits, 2 | 4 | 8) {
        return cx.unsupported(format!("weights of {bits} bits"));
    }
    let (packed, scales) = (cx.input(packed)?, cx.input(scales)?);
    let shape = cx.b.shape(packed)?;
    let [experts, rows, bytes] = &shape[..] else { return cx.invalid("the experts' weights have not 3 dimensions") };
    let depth = (bytes * &Dim::from(8 / bits))?;
    let block = match cx.int("block_size", 0) {
        0 => depth.clone(),
        block if block > 0 => Dim::from(block),
        block => return cx.invalid(format!("attribute `block_size` is {block}")),
    };
    let blocks = depth.floor_div(&block)?;
    let known: Option<Vec<i64>> = [experts, rows, &depth].into_iter().map(Dim::as_const).collect();
    let q = match known {
        Some(known) => packed_constant(cx, packed, bits, &known)?,
        None => None,
    };
    let q = match q {
        Some(q) => q,
        None => unpacked(cx, packed, bits)?,
    };
    let q = cx.b.reshape(q, &[experts.clone(), rows.clone(), blocks.clone(), block])?;
    let scales = cx.b.reshape(scales, &[experts.clone(), rows.clone(), blocks.clone(), Dim::ONE])?;
    let zero = match cx.optional(zeros) {
        None => Err(f64::from(1 << (bits - 1))),
        Some(zero) => {
            let zero = unpacked(cx, zero, bits)?;
            // Rows of packed zero points end with a whole byte.
            let count = if cx.b.rank(zero)? == 3 { &blocks } else { rows };
            let zero = cx.b.slice_axis(zero, -1, &Dim::ZERO, count, 1)?;
            Ok(cx.b.reshape(zero, &[experts.clone(), rows.clone(), blocks.clone(), Dim::ONE])?)
        }
    };
    let weights = scaled(cx, q, zero, scales)?;
    Ok(cx.b.reshape(weights, &[experts.clone(), rows.clone(), depth])?)
}

/// Rows of a matrix in blocks: gathered as they are stored, then scaled.
fn gather_blocks(cx: &mut NodeContext<'_>) -> OpResult {
    let (data, indices, scales) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (from, to) = (cx.b.dtype(data)?, cx.b.dtype(scales)?);
    let (rank, index_rank) = (cx.b.rank(data)?, cx.b.rank(indices)?);
    let gather_axis = cx.b.axis(cx.int("gather_axis", 0), rank)?;
    let quantize_axis = cx.b.axis(cx.int("quantize_axis", 1), rank)?;
    let bits = if from == DType::U8 { bit_count(cx)? } else { 8 };
    if cx.b.rank(scales)? != rank || gather_axis == quantize_axis || (bits < 8 && quantize_axis + 1 != rank) {
        return cx.invalid(format!("axes {gather_axis} and {quantize_axis} of a tensor of rank {rank}"));
    }
    let axis = if quantize_axis < gather_axis { quantize_axis } else { quantize_axis + index_rank - 1 };
    let rows = |cx: &mut NodeContext<'_>, x: Value| -> Result<Value, OpError> {
        // One row that stands for all is found under every index, as indices are clamped.
        Ok(cx.b.take(x, indices, gather_axis as i64)?)
    };
    let q = rows(cx, data)?;
    let q = if bits < 8 { unpacked(cx, q, bits)? } else { q };
    let (shape, blocks) = (cx.b.shape(q)?, cx.b.shape(scales)?[quantize_axis].clone());
    let block = cx.int("block_size", 128);
    let scales = rows(cx, scales)?;
    let zero = match cx.optional(3) {
        None if from == DType::U8 => Err(f64::from(1 << (bits - 1))),
        None => Err(0.0),
        Some(zero) => {
            let zero = rows(cx, zero)?;
            let zero = if bits < 8 { unpacked(cx, zero, bits)? } else { zero };
            Ok(cx.b.slice_axis(zero, axis as i64, &Dim::ZERO, &blocks, 1)?)
        }
    };
    let repeated = |cx: &mut NodeContext<'_>, x: Value| -> Result<Value, OpError> {
        if block == 0 {
            return Ok(x);
        }
        let mut spread = cx.b.shape(x)?;
        spread[axis] = shape[axis].clone();
        repeated_blocks(cx, x, axis, block, &spread)
    };
    let scales = repeated(cx, scales)?;
    let zero = match zero {
        Ok(zero) => Ok(repeated(cx, zero)?),
        Err(number) => Err(number),
    };
    let y = scaled(cx, q, zero, scales)?;
    Ok(vec![cx.b.cast(y, to)?])
}
