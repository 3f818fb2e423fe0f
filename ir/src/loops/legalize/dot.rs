//! Dot products of four 8-bit integers in arithmetic on 32-bit lanes, and words of four elements from their bytes.

use super::lanes::integer;
use crate::dtype::DType;
use crate::loops::{Address, Buffer, KernelBuilder, Val};
use crate::scalar::{BinaryOp, Scalar};

/// `acc` plus the products of the four numbers in each lane of the factors.
pub(super) fn expand(b: &mut KernelBuilder, [x, y, acc]: [Val; 3], types: [DType; 2]) -> Val {
    (0..4).fold(acc, |sum, number| {
        let (x, y) = (extended(b, x, number, types[0]), extended(b, y, number, types[1]));
        let product = b.binary(BinaryOp::Mul, x, y);
        b.binary(BinaryOp::Add, sum, product)
    })
}

/// One of the four numbers in each lane, extended to 32 bits.
fn extended(b: &mut KernelBuilder, words: Val, number: i64, dtype: DType) -> Val {
    let highest = shifted(b, BinaryOp::Shl, words, 24 - 8 * number);
    if dtype == DType::I8 {
        return shifted(b, BinaryOp::Shr, highest, 24);
    }
    let bits = b.bitcast(DType::U32, highest);
    let low = shifted(b, BinaryOp::Shr, bits, 24);
    b.bitcast(DType::I32, low)
}

fn shifted(b: &mut KernelBuilder, op: BinaryOp, a: Val, by: i64) -> Val {
    if by == 0 {
        return a;
    }
    let ty = b.ty(a);
    let by = b.constant(integer(ty.dtype, by), ty.lanes);
    b.binary(op, a, by)
}

/// Words of four consecutive elements of a buffer of 8-bit integers, byte by byte.
pub(super) fn words(b: &mut KernelBuilder, buffer: Buffer, address: &Address, lanes: u16) -> Val {
    let bytes = (0..4).map(|number| {
        let address = address.clone().offset_by(number);
        let byte = if lanes == 1 {
            b.load(buffer, address, 1, None)
        } else {
            let ramp = b.iota(DType::I64, lanes);
            let four = b.constant(Scalar::i64(4), lanes);
            let indices = b.binary(BinaryOp::Mul, ramp, four);
            b.gather(buffer, address, indices, None)
        };
        let byte = b.cast(DType::U8, byte);
        let wide = b.cast(DType::I32, byte);
        shifted(b, BinaryOp::Shl, wide, 8 * number)
    });
    let bytes: Vec<Val> = bytes.collect();
    bytes.into_iter().reduce(|word, byte| b.binary(BinaryOp::Or, word, byte)).expect("a word has four bytes")
}
