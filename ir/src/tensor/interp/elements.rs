//! Tensors while they are computed, and elementwise expressions.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::dim::Symbol;
use crate::dtype::DType;
use crate::evaluate;
use crate::scalar::{ScalarExpr, ScalarInst};
use crate::tensor::TensorBytes;

/// A tensor whose elements can be set, as bit patterns.
pub struct Elements {
    dtype: DType,
    shape: SmallVec<[i64; 5]>,
    bytes: Vec<u8>,
}

impl Elements {
    /// A tensor of zero bits.
    pub fn zeros(dtype: DType, shape: &[i64]) -> Elements {
        let len: i64 = shape.iter().product();
        let bytes = dtype.packed_bytes(len as u64).expect("the size was checked") as usize;
        Elements { dtype, shape: shape.into(), bytes: vec![0; bytes] }
    }

    /// A copy that can be changed.
    pub fn copy_of(tensor: &TensorBytes) -> Elements {
        Elements { dtype: tensor.dtype, shape: tensor.shape.clone(), bytes: tensor.bytes.to_vec() }
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Sets an element's bits.
    pub fn set(&mut self, index: usize, bits: u64) {
        write(self.dtype, &mut self.bytes, index, bits);
    }

    /// An element's bits.
    pub fn get(&self, index: usize) -> u64 {
        read(self.dtype, &self.bytes, index)
    }

    /// Sets all elements.
    pub fn fill(&mut self, bits: u64) {
        match self.dtype.bytes() {
            Some(size) => {
                let pattern = &bits.to_le_bytes()[..size as usize];
                self.bytes.chunks_exact_mut(size as usize).for_each(|c| c.copy_from_slice(pattern));
            }
            None => (0..self.count()).for_each(|i| self.set(i, bits)),
        }
    }

    /// The bytes, for moves of whole elements.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Ends the computation.
    pub fn into_tensor(self) -> TensorBytes {
        TensorBytes { dtype: self.dtype, shape: self.shape, bytes: Bytes::from(self.bytes) }
    }
}

/// The bits of an element; a `Bool` is 0 or 1.
pub fn read(dtype: DType, bytes: &[u8], index: usize) -> u64 {
    match dtype.bits() {
        64 => u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("8 bytes")),
        32 => u64::from(u32::from_le_bytes(bytes[index * 4..index * 4 + 4].try_into().expect("4 bytes"))),
        16 => u64::from(u16::from_le_bytes([bytes[index * 2], bytes[index * 2 + 1]])),
        8 if dtype == DType::Bool => u64::from(bytes[index] != 0),
        8 => u64::from(bytes[index]),
        bits => {
            let per = (8 / bits) as usize;
            let shift = (index % per) as u32 * bits;
            u64::from(bytes[index / per] >> shift) & ((1 << bits) - 1)
        }
    }
}

fn write(dtype: DType, bytes: &mut [u8], index: usize, value: u64) {
    match dtype.bits() {
        64 => bytes[index * 8..index * 8 + 8].copy_from_slice(&value.to_le_bytes()),
        32 => bytes[index * 4..index * 4 + 4].copy_from_slice(&(value as u32).to_le_bytes()),
        16 => bytes[index * 2..index * 2 + 2].copy_from_slice(&(value as u16).to_le_bytes()),
        8 => bytes[index] = value as u8,
        bits => {
            let per = (8 / bits) as usize;
            let shift = (index % per) as u32 * bits;
            let mask = ((1u8 << bits) - 1) << shift;
            let byte = &mut bytes[index / per];
            *byte = *byte & !mask | (value as u8) << shift & mask;
        }
    }
}

/// Row-major strides in elements.
pub fn strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1];
    }
    strides
}

/// The strides by which a tensor of `from` is read at the positions of `to`: 0 where it is repeated.
pub fn broadcast_strides(from: &[i64], to: &[i64]) -> Vec<i64> {
    let own = strides(from);
    let skip = to.len() - from.len();
    (0..to.len()).map(|i| if i < skip || from[i - skip] == 1 { 0 } else { own[i - skip] }).collect()
}

/// Visits the positions of an index space in row-major order, with offsets that move by `steps[i]` along axis `i` for each
/// of several walkers.
pub fn walk(shape: &[i64], steps: &[&[i64]], mut visit: impl FnMut(&[i64], &[i64])) {
    if shape.contains(&0) {
        return;
    }
    let mut position = vec![0i64; shape.len()];
    let mut offsets = vec![0i64; steps.len()];
    loop {
        visit(&position, &offsets);
        let mut axis = shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            position[axis] += 1;
            offsets.iter_mut().zip(steps).for_each(|(o, s)| *o += s[axis]);
            if position[axis] < shape[axis] {
                break;
            }
            offsets.iter_mut().zip(steps).for_each(|(o, s)| *o -= s[axis] * shape[axis]);
            position[axis] = 0;
        }
    }
}

/// Positions that are computed together, step by step of the expression.
const BLOCK: usize = 512;

/// Computes an expression at each position.
pub fn elementwise(
    expr: &ScalarExpr,
    inputs: &[TensorBytes],
    dtype: DType,
    shape: &[i64],
    symbols: &dyn Fn(Symbol) -> i64,
) -> TensorBytes {
    let types: Vec<DType> = inputs.iter().map(|t| t.dtype).collect();
    let types = expr.types(&types).expect("the expression was checked when the graph was built");
    let steps: Vec<Vec<i64>> = inputs.iter().map(|t| broadcast_strides(&t.shape, shape)).collect();
    let steps: Vec<&[i64]> = steps.iter().map(|s| &s[..]).collect();
    let mut out = Elements::zeros(dtype, shape);
    let mut done = 0;
    // The block's positions and each input's offsets.
    let mut positions: Vec<i64> = Vec::with_capacity(BLOCK * shape.len());
    let mut offsets: Vec<Vec<usize>> = vec![Vec::with_capacity(BLOCK); inputs.len()];
    let needs_positions = expr.insts.iter().any(|i| matches!(i, ScalarInst::Index(_)));
    let mut compute = |positions: &mut Vec<i64>, offsets: &mut [Vec<usize>], count: usize, out: &mut Elements| {
        let mut values: Vec<Vec<u64>> = Vec::with_capacity(expr.insts.len());
        for (inst, ty) in expr.insts.iter().zip(&types) {
            let of = |i: &u32| (&values[*i as usize], types[*i as usize]);
            let column: Vec<u64> = match inst {
                ScalarInst::Arg(n) => {
                    let input = &inputs[*n as usize];
                    offsets[*n as usize].iter().map(|&o| read(input.dtype, &input.bytes, o)).collect()
                }
                ScalarInst::Index(axis) => {
                    (0..count).map(|i| positions[i * shape.len() + *axis as usize] as u64).collect()
                }
                ScalarInst::Const(c) => vec![c.bits; count],
                ScalarInst::Dim(d) => vec![d.eval(symbols).unwrap_or(0) as u64; count],
                ScalarInst::Unary(op, a) => {
                    let (a, t) = of(a);
                    a.iter().map(|&x| evaluate::unary(*op, t, x)).collect()
                }
                ScalarInst::Binary(op, a, b) => {
                    let ((a, t), (b, _)) = (of(a), of(b));
                    a.iter().zip(b).map(|(&x, &y)| evaluate::binary(*op, t, x, y)).collect()
                }
                ScalarInst::Compare(op, a, b) => {
                    let ((a, t), (b, _)) = (of(a), of(b));
                    a.iter().zip(b).map(|(&x, &y)| u64::from(evaluate::compare(*op, t, x, y))).collect()
                }
                ScalarInst::MulAdd(a, b, c) => {
                    let ((a, _), (b, _), (c, _)) = (of(a), of(b), of(c));
                    let float = |bits: &u64| f32::from_bits(*bits as u32);
                    let sum = |((x, y), z)| u64::from(float(x).mul_add(float(y), float(z)).to_bits());
                    a.iter().zip(b).zip(c).map(sum).collect()
                }
                ScalarInst::Select(c, a, b) => {
                    let ((c, _), (a, _), (b, _)) = (of(c), of(a), of(b));
                    c.iter().zip(a).zip(b).map(|((&c, &x), &y)| if c != 0 { x } else { y }).collect()
                }
                ScalarInst::Cast(_, a) => {
                    let (a, t) = of(a);
                    a.iter().map(|&x| evaluate::cast(t, *ty, x)).collect()
                }
                ScalarInst::Bitcast(_, a) => of(a).0.clone(),
            };
            values.push(column);
        }
        for (i, bits) in values.last().expect("expressions are not empty").iter().enumerate() {
            out.set(done + i, *bits);
        }
        done += count;
        positions.clear();
        offsets.iter_mut().for_each(Vec::clear);
    };
    let mut count = 0;
    walk(shape, &steps, |position, at| {
        if needs_positions {
            positions.extend_from_slice(position);
        }
        offsets.iter_mut().zip(at).for_each(|(list, &o)| list.push(o as usize));
        count += 1;
        if count == BLOCK {
            compute(&mut positions, &mut offsets, count, &mut out);
            count = 0;
        }
    });
    if count > 0 {
        compute(&mut positions, &mut offsets, count, &mut out);
    }
    out.into_tensor()
}
