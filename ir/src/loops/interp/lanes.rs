//! Pure operations on slots. The types that kernels mostly compute with have loops of their own; the rest goes through
//! [`crate::evaluate`] lane by lane.

use super::flatten::{Compute, Op};
use crate::dtype::DType;
use crate::evaluate;
use crate::loops::FmaMode;
use crate::scalar::{BinaryOp, UnaryOp};

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn bits_of(x: f32) -> u64 {
    u64::from(x.to_bits())
}

/// Executes one operation.
pub(super) fn compute(regs: &mut [u64], op: &Compute, fuse: bool) {
    let n = op.lanes;
    // The result lies behind its operands.
    let (operands, results) = regs.split_at_mut(op.out);
    let width = match op.op {
        Op::Reduce(_) => 1,
        _ => n,
    };
    let out = &mut results[..width];
    let arg = |i: usize| &operands[op.args[i]..op.args[i] + n];
    match &op.op {
        Op::Unary(o) => unary(*o, op.dtype, arg(0), out),
        Op::Binary(o) => binary(*o, op.dtype, arg(0), arg(1), out),
        Op::Compare(o) => {
            for ((r, &a), &b) in out.iter_mut().zip(arg(0)).zip(arg(1)) {
                *r = u64::from(match op.dtype {
                    DType::F32 => evaluate::compare_ordered(*o, f32_of(a), f32_of(b)),
                    DType::I64 => evaluate::compare_ordered(*o, a as i64, b as i64),
                    dtype => evaluate::compare(*o, dtype, a, b),
                });
            }
        }
        Op::Select => {
            for (((r, &c), &a), &b) in out.iter_mut().zip(arg(0)).zip(arg(1)).zip(arg(2)) {
                *r = if c != 0 { a } else { b };
            }
        }
        Op::MulAdd(mode) => mul_add(op.dtype, fuse && *mode == FmaMode::Fused, [arg(0), arg(1), arg(2)], out),
        Op::Dot4(types) => {
            for (((r, &a), &b), &c) in out.iter_mut().zip(arg(0)).zip(arg(1)).zip(arg(2)) {
                *r = dot4(*types, a as u32, b as u32, c as u32).into();
            }
        }
        Op::Cast(to) => {
            for (r, &a) in out.iter_mut().zip(arg(0)) {
                *r = evaluate::cast(op.dtype, *to, a);
            }
        }
        Op::Copy => out.copy_from_slice(arg(0)),
        Op::Splat => out.fill(operands[op.args[0]]),
        Op::Reduce(o) => out[0] = reduce(*o, op.dtype, arg(0)),
        Op::Pick(slots) => {
            for (r, &slot) in out.iter_mut().zip(slots) {
                *r = operands[op.args[0] + slot];
            }
        }
    }
}

fn unary(op: UnaryOp, dtype: DType, a: &[u64], out: &mut [u64]) {
    for (r, &a) in out.iter_mut().zip(a) {
        *r = evaluate::unary(op, dtype, a);
    }
}

fn binary(op: BinaryOp, dtype: DType, a: &[u64], b: &[u64], out: &mut [u64]) {
    let pairs = out.iter_mut().zip(a.iter().zip(b));
    match (dtype, op) {
        (DType::F32, BinaryOp::Add) => pairs.for_each(|(r, (&a, &b))| *r = bits_of(f32_of(a) + f32_of(b))),
        (DType::F32, BinaryOp::Sub) => pairs.for_each(|(r, (&a, &b))| *r = bits_of(f32_of(a) - f32_of(b))),
        (DType::F32, BinaryOp::Mul) => pairs.for_each(|(r, (&a, &b))| *r = bits_of(f32_of(a) * f32_of(b))),
        (DType::I64, BinaryOp::Add) => pairs.for_each(|(r, (&a, &b))| *r = a.wrapping_add(b)),
        (DType::I64, BinaryOp::Sub) => pairs.for_each(|(r, (&a, &b))| *r = a.wrapping_sub(b)),
        (DType::I64, BinaryOp::Mul) => pairs.for_each(|(r, (&a, &b))| *r = a.wrapping_mul(b)),
        _ => pairs.for_each(|(r, (&a, &b))| *r = evaluate::binary(op, dtype, a, b)),
    }
}

fn mul_add(dtype: DType, fuse: bool, [a, b, c]: [&[u64]; 3], out: &mut [u64]) {
    let triples = out.iter_mut().zip(a.iter().zip(b).zip(c));
    match (dtype, fuse) {
        (DType::F32, false) => {
            triples.for_each(|(r, ((&a, &b), &c))| *r = bits_of(f32_of(a) * f32_of(b) + f32_of(c)));
        }
        (DType::F32, true) => {
            triples.for_each(|(r, ((&a, &b), &c))| *r = bits_of(f32_of(a).mul_add(f32_of(b), f32_of(c))))
        }
        (DType::F64, true) => triples.for_each(|(r, ((&a, &b), &c))| {
            *r = f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits();
        }),
        (dtype, fuse) if dtype.is_float() && dtype != DType::F64 => triples.for_each(|(r, ((&a, &b), &c))| {
            // Narrow floats compute the whole step in f32.
            let [a, b, c] = [a, b, c].map(|v| evaluate::float_value(dtype, v) as f32);
            let result = if fuse { a.mul_add(b, c) } else { a * b + c };
            *r = evaluate::float_bits(dtype, f64::from(result));
        }),
        _ => triples.for_each(|(r, ((&a, &b), &c))| {
            let product = evaluate::binary(BinaryOp::Mul, dtype, a, b);
            *r = evaluate::binary(BinaryOp::Add, dtype, product, c);
        }),
    }
}

fn dot4(types: [DType; 2], a: u32, b: u32, acc: u32) -> u32 {
    let numbers = |word: u32, dtype| {
        word.to_le_bytes().map(|byte| if dtype == DType::I8 { i32::from(byte as i8) } else { i32::from(byte) })
    };
    let products = numbers(a, types[0]).into_iter().zip(numbers(b, types[1])).map(|(x, y)| x * y);
    products.fold(acc, |sum, product| sum.wrapping_add(product as u32))
}

/// Lanes `i` and `i + n/2` pair up, until one is left.
fn reduce(op: BinaryOp, dtype: DType, a: &[u64]) -> u64 {
    let mut lanes = a.to_vec();
    while lanes.len() > 1 {
        let half = lanes.len() / 2;
        for i in 0..half {
            lanes[i] = evaluate::binary(op, dtype, lanes[i], lanes[i + half]);
        }
        lanes.truncate(half);
    }
    lanes[0]
}
