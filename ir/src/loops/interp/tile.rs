//! The sums of a tile, in the order of the depth, and its bands.

use super::access::{self, Place};
use super::flatten::{FlatDigit, TileSide, TileSums};
use crate::dtype::DType;
use crate::evaluate;
use crate::loops::TileKind;

/// Where an access went wrong: the buffer, the element, and how many it has.
pub(super) type Outside = (usize, i128, u64);

/// What a place adds to an address.
fn offset(digits: &[FlatDigit], number: i64, regs: &[u64]) -> i128 {
    let (first, others) = digits.split_first().expect("there is a digit");
    let mut rest = number;
    let mut sum = 0;
    let stride = |digit: &FlatDigit| i128::from(digit.stride.unwrap_or_else(|slot| regs[slot] as i64));
    for digit in others.iter().rev() {
        sum += i128::from(rest % digit.size) * stride(digit);
        rest /= digit.size;
    }
    sum + i128::from(rest) * stride(first)
}

/// The operand's elements, rounded: `f32` bits, or those of an `i32`.
pub(super) fn elements(
    memory: &[&mut [u8]],
    places: &[Place],
    regs: &[u64],
    side: &TileSide,
    (kind, rows, depth): (TileKind, usize, i64),
) -> Result<Vec<u32>, Outside> {
    let place = &places[side.buffer];
    let memory = &memory[place.binding.region];
    let mut base = i128::from(side.offset);
    for &(slot, factor) in &side.constant_terms {
        base += i128::from(regs[slot] as i64) * i128::from(factor);
    }
    for &(slot, factor) in &side.value_terms {
        base += i128::from(regs[slot] as i64) * i128::from(regs[factor] as i64);
    }
    let (first, bound) = (regs[side.first] as i64, regs[side.bound] as i64);
    let depths: Vec<i128> = (0..depth).map(|d| offset(&side.depth, d, regs)).collect();
    let mut all = Vec::with_capacity(rows * depths.len());
    for row in first..first + rows as i64 {
        if row >= bound {
            all.resize(all.len() + depths.len(), 0);
            continue;
        }
        let start = base + offset(&side.rows, row, regs);
        for &depth in &depths {
            let index = start + depth;
            if index < 0 || index >= i128::from(place.len) {
                return Err((side.buffer, index, place.len));
            }
            all.push(rounded(kind, place.dtype, access::read(memory, place, index as u64)));
        }
    }
    Ok(all)
}

/// An element in memory as the matrix instructions see it.
pub(super) fn rounded(kind: TileKind, memory: DType, bits: u64) -> u32 {
    let float = |dtype: DType, bits: u64| evaluate::cast(dtype, DType::F32, bits) as u32;
    let of_f32 = |dtype: DType| float(dtype, evaluate::cast(DType::F32, dtype, bits));
    match (kind, memory) {
        (TileKind::F16, DType::F32) => of_f32(DType::F16),
        (TileKind::F16, _) => float(DType::F16, bits),
        (TileKind::Bf16, DType::F32) => of_f32(DType::BF16),
        (TileKind::Bf16, _) => float(DType::BF16, bits),
        (TileKind::Tf32, _) => tf32(bits as u32),
        (TileKind::I8, DType::I8) => i32::from(bits as u8 as i8) as u32,
        (TileKind::I8, _) => bits as u32,
    }
}

/// The nearest `f32` of 11 bits of mantissa, ties away from zero.
fn tf32(bits: u32) -> u32 {
    if bits & 0x7F80_0000 == 0x7F80_0000 { bits } else { bits.wrapping_add(0x1000) & !0x1FFF }
}

/// The sums, row by row.
pub(super) fn sums(memory: &[&mut [u8]], places: &[Place], regs: &[u64], tile: &TileSums) -> Result<Vec<u32>, Outside> {
    let depth = (regs[tile.depth] as i64).max(0);
    let side = |side: &TileSide, rows| elements(memory, places, regs, side, (tile.kind, rows, depth));
    let (left, right) = (side(&tile.operands[0], tile.rows)?, side(&tile.operands[1], tile.columns)?);
    let depth = depth as usize;
    let row = |all: &[u32], n: usize| all[n * depth..(n + 1) * depth].to_vec();
    let mut sums = Vec::with_capacity(tile.rows * tile.columns);
    for i in 0..tile.rows {
        let left = row(&left, i);
        for j in 0..tile.columns {
            let pairs = left.iter().zip(&right[j * depth..(j + 1) * depth]);
            sums.push(match tile.kind {
                TileKind::I8 => pairs.fold(0u32, |sum, (&a, &b)| sum.wrapping_add(a.wrapping_mul(b))),
                _ => pairs.fold(0f32, |sum, (&a, &b)| sum + f32::from_bits(a) * f32::from_bits(b)).to_bits(),
            });
        }
    }
    Ok(sums)
}

/// Puts rows of sums into their buffer, whose other elements become unusable.
pub(super) fn put(memory: &mut [&mut [u8]], place: &Place, sums: &[u32], (columns, pitch): (usize, usize)) {
    let memory = &mut memory[place.binding.region];
    memory[place.binding.offset..place.binding.offset + place.binding.bytes].fill(0xFF);
    for (row, sums) in sums.chunks_exact(columns).enumerate() {
        for (column, &sum) in sums.iter().enumerate() {
            access::write(memory, place, (row * pitch + column) as u64, sum.into());
        }
    }
}
