//! `ldmatrix` and `mma.sync`: which lane holds which element, and the product.
//!
//! Sums are made in f32 (or i32), in the order of `k`, starting from `c`. A device's order and rounding differ a little.

use crate::kernel::Multiplicand;
use crate::types::{F16, Float, Lanes, half_to_f32};

/// The 8x8 matrices that `ldmatrix` gives: rows of 16 bytes, as the lanes named them.
pub fn spread(rows: &[[u8; 16]], transposed: bool, into: &[&Lanes]) {
    for (m, register) in into.iter().enumerate() {
        for lane in 0..32 {
            let element = |j: usize| {
                let (row, column) =
                    if transposed { (2 * (lane % 4) + j, lane / 4) } else { (lane / 4, 2 * (lane % 4) + j) };
                let bytes = &rows[8 * m + row][2 * column..2 * column + 2];
                u64::from(u16::from_le_bytes([bytes[0], bytes[1]]))
            };
            register[lane].set(element(0) | element(1) << 16);
        }
    }
}

/// Registers of the operands of m16n8k`k`: of `a`, `b` and of `c` and `d` with 32-bit sums.
pub fn registers(kind: Multiplicand, k: u32) -> Option<(usize, usize)> {
    Some(match (kind, k) {
        (Multiplicand::Half | Multiplicand::Brain, 16)
        | (Multiplicand::Byte { .. }, 32)
        | (Multiplicand::Tensor, 8) => (4, 2),
        (Multiplicand::Half | Multiplicand::Brain, 8) | (Multiplicand::Byte { .. }, 16) | (Multiplicand::Tensor, 4) => {
            (2, 1)
        }
        _ => return None,
    })
}

/// Elements of one register, and how one is read.
fn per_register(kind: Multiplicand) -> usize {
    match kind {
        Multiplicand::Half | Multiplicand::Brain => 2,
        Multiplicand::Tensor => 1,
        Multiplicand::Byte { .. } => 4,
    }
}

fn element(kind: Multiplicand, register: u64, i: usize) -> f32 {
    match kind {
        Multiplicand::Half => half_to_f32((register >> (16 * i)) as u16),
        Multiplicand::Brain => f32::from_bits(((register >> (16 * i)) as u32) << 16),
        // The low 13 bits are not looked at.
        Multiplicand::Tensor => f32::from_bits(register as u32 & 0xFFFF_E000),
        Multiplicand::Byte { signed: true } => f32::from((register >> (8 * i)) as i8),
        Multiplicand::Byte { signed: false } => f32::from((register >> (8 * i)) as u8),
    }
}

/// An element of a chunk of 16 bytes in memory.
pub fn element_of(kind: Multiplicand, chunk: &[u8; 16], i: usize) -> f32 {
    let per = per_register(kind);
    let word = u32::from_le_bytes(chunk[i / per * 4..i / per * 4 + 4].try_into().expect("4 bytes"));
    element(kind, u64::from(word), i % per)
}

/// `d = a * b + c` with 16 rows of `a` and 8 columns of `b`. Sums are f32, f16 (`half`), or i32 for bytes.
pub fn multiply(
    d: &[&Lanes],
    a: &[&Lanes],
    b: &[&Lanes],
    c: &[&Lanes],
    types: (Multiplicand, Multiplicand),
    half: bool,
) {
    let per = per_register(types.0);
    // A register of `a` covers `4 * per` columns: even ones rows 0 to 7, odd ones rows 8 to 15.
    let mut left = [[0f32; 32]; 16];
    for (r, register) in a.iter().enumerate() {
        for lane in 0..32 {
            let (row, column) = (lane / 4 + 8 * (r % 2), (lane % 4) * per + 4 * per * (r / 2));
            for i in 0..per {
                left[row][column + i] = element(types.0, register[lane].get(), i);
            }
        }
    }
    let mut right = [[0f32; 8]; 32];
    for (r, register) in b.iter().enumerate() {
        for lane in 0..32 {
            let (row, column) = ((lane % 4) * per + 4 * per * r, lane / 4);
            for i in 0..per {
                right[row + i][column] = element(types.1, register[lane].get(), i);
            }
        }
    }
    let k = 4 * per * b.len();
    let bytes = matches!(types.0, Multiplicand::Byte { .. });
    for (row, left) in left.iter().enumerate() {
        // Lane and register of two columns of this row.
        let place = |column: usize| ((row % 8) * 4 + column / 2, 2 * (row / 8) + column % 2);
        if bytes {
            for column in 0..8 {
                let (lane, register) = place(column);
                // Products of bytes and 32 of their sums are exact in f32.
                let sum: f32 = left[..k].iter().zip(&right).map(|(a, b)| a * b[column]).sum();
                d[register][lane].set((c[register][lane].get() as i32).wrapping_add(sum as i32) as u64);
            }
            continue;
        }
        let mut sums = [0f32; 8];
        for (column, sum) in sums.iter_mut().enumerate() {
            let (lane, register) = place(column);
            *sum = if half {
                half_to_f32((c[register / 2][lane].get() >> (16 * (register % 2))) as u16)
            } else {
                f32::of(c[register][lane].get())
            };
        }
        for (a, b) in left[..k].iter().zip(&right) {
            for (sum, &factor) in sums.iter_mut().zip(b) {
                *sum += a * factor;
            }
        }
        for (column, &sum) in sums.iter().enumerate() {
            let (lane, register) = place(column);
            if !half {
                d[register][lane].set(sum.lane());
            } else if column % 2 == 0 {
                let upper = F16::near(f64::from(sums[column + 1])).lane();
                d[register / 2][lane].set(upper << 16 | F16::near(f64::from(sum)).lane());
            }
        }
    }
}
