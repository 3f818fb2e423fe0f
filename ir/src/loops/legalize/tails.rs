//! The first lanes of vectors of less than 32 bits in memory, one after the other.
//!
//! Before: `y: u8x8 = load @0[%i] count %n`. After: an `If` for each lane that loads one element, as lanes of `i32` which are
//! cast at the end. Such loads and stores stand in the last step of a loop, if at all.

use crate::dtype::DType;
use crate::loops::{Address, Buffer, KernelBuilder, Val};
use crate::scalar::{CmpOp, Scalar};

/// Loads `count` elements; the other lanes are 0.
pub(super) fn load(
    b: &mut KernelBuilder,
    buffer: Buffer,
    address: &Address,
    dtype: DType,
    lanes: u16,
    count: Val,
) -> Val {
    let mut whole = b.constant(Scalar::zero(DType::I32), lanes);
    let numbers = b.iota(DType::I32, lanes);
    for lane in 0..lanes {
        let at = b.i64(lane.into());
        let is_there = b.compare(CmpOp::Gt, count, at);
        let before = whole;
        let with = |b: &mut KernelBuilder| {
            let element = b.load(buffer, address.clone().offset_by(lane.into()), 1, None);
            let element = b.cast(DType::I32, element);
            let element = b.splat(element, lanes);
            let own = b.constant(Scalar { dtype: DType::I32, bits: lane.into() }, lanes);
            let own = b.compare(CmpOp::Eq, numbers, own);
            vec![b.select(own, element, before)]
        };
        whole = b.if_(is_there, with, |_| vec![before])[0];
    }
    b.cast(dtype, whole)
}

/// Stores the first `count` lanes.
pub(super) fn store(b: &mut KernelBuilder, buffer: Buffer, address: &Address, value: Val, count: Val) {
    let ty = b.ty(value);
    let wide = b.cast(DType::I32, value);
    for lane in 0..ty.lanes {
        let at = b.i64(lane.into());
        let is_there = b.compare(CmpOp::Gt, count, at);
        b.when(is_there, |b| {
            let element = b.extract(wide, lane);
            let element = b.cast(ty.dtype, element);
            b.store(buffer, address.clone().offset_by(lane.into()), element, None);
        });
    }
}
