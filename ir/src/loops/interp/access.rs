//! Loads and stores with their bounds checks.

use super::Binding;
use super::flatten::{Memory, MemoryKind};
use crate::dtype::DType;

/// A buffer of a run.
pub(super) struct Place {
    pub binding: Binding,
    /// In elements.
    pub len: u64,
    pub dtype: DType,
}

impl Place {
    /// The bytes of `count` elements of whole bytes from `index` on, which the caller has checked.
    fn range(&self, index: u64, count: usize, size: usize) -> std::ops::Range<usize> {
        let start = self.binding.offset + index as usize * size;
        start..start + count * size
    }
}

pub(super) fn read(memory: &[u8], place: &Place, index: u64) -> u64 {
    match place.dtype.bytes() {
        Some(size) => {
            let mut bits = [0; 8];
            bits[..size as usize].copy_from_slice(&memory[place.range(index, 1, size as usize)]);
            let bits = u64::from_le_bytes(bits);
            if place.dtype == DType::Bool { u64::from(bits != 0) } else { bits }
        }
        None => {
            let width = u64::from(place.dtype.bits());
            let bit = index * width;
            let byte = memory[place.binding.offset + (bit / 8) as usize];
            u64::from(byte) >> (bit % 8) & ((1 << width) - 1)
        }
    }
}

pub(super) fn write(memory: &mut [u8], place: &Place, index: u64, bits: u64) {
    match place.dtype.bytes() {
        Some(size) => {
            memory[place.range(index, 1, size as usize)].copy_from_slice(&bits.to_le_bytes()[..size as usize]);
        }
        None => {
            let width = u64::from(place.dtype.bits());
            let bit = index * width;
            let byte = &mut memory[place.binding.offset + (bit / 8) as usize];
            let mask = (((1u64 << width) - 1) << (bit % 8)) as u8;
            *byte = *byte & !mask | (bits << (bit % 8)) as u8 & mask;
        }
    }
}

/// Executes an access; an error is the first element out of bounds and the number of elements.
pub(super) fn execute(
    memory: &mut [&mut [u8]],
    places: &[Place],
    regs: &mut [u64],
    op: &Memory,
) -> Result<(), (i128, u64)> {
    let place = &places[op.buffer];
    let memory = &mut *memory[place.binding.region];
    let mut base = i128::from(op.offset);
    for &(slot, factor) in &op.constant_terms {
        base += i128::from(regs[slot] as i64) * i128::from(factor);
    }
    for &(slot, factor) in &op.value_terms {
        base += i128::from(regs[slot] as i64) * i128::from(regs[factor] as i64);
    }
    let active = match op.count {
        Some(slot) => (regs[slot] as i64).clamp(0, op.lanes as i64) as usize,
        None => op.lanes,
    };
    let check = |index: i128| {
        if index >= 0 && index < i128::from(place.len) { Ok(index as u64) } else { Err((index, place.len)) }
    };
    if op.words {
        let stride = if op.kind == MemoryKind::LoadSplat { 0 } else { 4 };
        for lane in 0..op.lanes {
            let first = check(base + (lane * stride) as i128)?;
            check(i128::from(first) + 3)?;
            let word = memory[place.range(first, 4, 1)].try_into().expect("four bytes");
            regs[op.value + lane] = u64::from(u32::from_le_bytes(word));
        }
        return Ok(());
    }
    if let Some(indices) = op.indices {
        for lane in 0..active {
            let index = check(base + i128::from(regs[indices + lane] as i64))?;
            match op.kind {
                MemoryKind::Store => write(memory, place, index, regs[op.value + lane]),
                MemoryKind::Load | MemoryKind::LoadSplat => regs[op.value + lane] = read(memory, place, index),
            }
        }
        if op.kind != MemoryKind::Store {
            regs[op.value + active..op.value + op.lanes].fill(0);
        }
        return Ok(());
    }
    if op.kind == MemoryKind::LoadSplat {
        let bits = read(memory, place, check(base)?);
        regs[op.value..op.value + op.lanes].fill(bits);
        return Ok(());
    }
    if active > 0 {
        check(base)?;
        check(base + active as i128 - 1)?;
    }
    let first = base as u64;
    let values = &mut regs[op.value..op.value + op.lanes];
    let whole_words = place.dtype.bits() == 32;
    match op.kind {
        MemoryKind::Store if whole_words && active > 0 => {
            let bytes = &mut memory[place.range(first, active, 4)];
            for (to, bits) in bytes.chunks_exact_mut(4).zip(&*values) {
                to.copy_from_slice(&(*bits as u32).to_le_bytes());
            }
        }
        MemoryKind::Store => {
            for (lane, &bits) in values[..active].iter().enumerate() {
                write(memory, place, first + lane as u64, bits);
            }
        }
        _ => {
            if whole_words && active > 0 {
                let bytes = &memory[place.range(first, active, 4)];
                for (value, from) in values.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value = u64::from(u32::from_le_bytes(from.try_into().expect("chunk of 4")));
                }
            } else {
                for (lane, value) in values[..active].iter_mut().enumerate() {
                    *value = read(memory, place, first + lane as u64);
                }
            }
            values[active..].fill(0);
        }
    }
    Ok(())
}
