//! Strings as numbers: a run keeps the strings that it meets in a table, and a tensor of strings holds their numbers.
//!
//! Equal strings have equal numbers, so that comparing, looking up and moving strings is ordinary arithmetic on integers.
//! Number 0 is the empty string. The strings of a model come first in the table, in an order that is part of the
//! compiled model; a run adds those of its inputs and those that it makes. Nothing but equality follows from a number.
//!
//! Outside of a run, in a [`TensorBytes`] of `DType::String` that a caller gives or gets, strings are in one buffer: for
//! each element its offset and its length as two `u64`, then the bytes that the offsets count in.

mod functions;
mod numbers;

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;

use crate::dtype::DType;
use crate::tensor::TensorBytes;

pub use functions::{StringFunction, automaton, simple_case};

/// The strings of a model, or of one run of it.
#[derive(Clone)]
pub struct StringTable {
    list: Vec<Bytes>,
    numbers: HashMap<Bytes, u64>,
}

impl Default for StringTable {
    fn default() -> StringTable {
        StringTable { list: vec![Bytes::new()], numbers: HashMap::from([(Bytes::new(), 0)]) }
    }
}

impl fmt::Debug for StringTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}

impl StringTable {
    /// The number of a string, which is added where it is new.
    pub fn number(&mut self, string: &[u8]) -> u64 {
        if let Some(&number) = self.numbers.get(string) {
            return number;
        }
        let (number, string) = (self.list.len() as u64, Bytes::copy_from_slice(string));
        self.list.push(string.clone());
        self.numbers.insert(string, number);
        number
    }

    /// The string of a number.
    pub fn get(&self, number: u64) -> Option<&[u8]> {
        self.list.get(usize::try_from(number).ok()?).map(|s| &s[..])
    }

    /// How many there are; the empty string is always one.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// All strings in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.list.iter().map(|s| &s[..])
    }

    /// A tensor of the numbers of strings.
    pub fn numbers<'s>(&mut self, shape: &[i64], strings: impl IntoIterator<Item = &'s [u8]>) -> TensorBytes {
        let bytes: Vec<u8> = strings.into_iter().flat_map(|s| self.number(s).to_le_bytes()).collect();
        TensorBytes { dtype: DType::String, shape: shape.into(), bytes: bytes.into() }
    }

    /// The numbers of the strings of a caller's tensor; `None` where one does not lie in its buffer.
    pub fn enter(&mut self, tensor: &TensorBytes) -> Option<TensorBytes> {
        let strings = unpacked(tensor)?;
        Some(self.numbers(&tensor.shape, strings))
    }

    /// A caller's tensor of the strings of these numbers; `None` where the table lacks one.
    pub fn leave(&self, tensor: &TensorBytes) -> Option<TensorBytes> {
        let numbers = tensor.bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunk of 8")));
        let strings: Vec<&[u8]> = numbers.map(|n| self.get(n)).collect::<Option<_>>()?;
        Some(packed(&tensor.shape, &strings))
    }
}

/// The bytes that the offset and the length of a string take.
pub const PAIR_BYTES: usize = 16;

/// A caller's tensor of strings.
pub fn packed(shape: &[i64], strings: &[&[u8]]) -> TensorBytes {
    let mut bytes = Vec::with_capacity(strings.iter().map(|s| s.len() + PAIR_BYTES).sum());
    let mut offset = 0u64;
    for string in strings {
        bytes.extend(offset.to_le_bytes());
        bytes.extend((string.len() as u64).to_le_bytes());
        offset += string.len() as u64;
    }
    strings.iter().for_each(|s| bytes.extend_from_slice(s));
    // Whole words, so that the pairs are aligned also where the buffer's end is.
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    TensorBytes { dtype: DType::String, shape: shape.into(), bytes: bytes.into() }
}

/// The strings of a caller's tensor; `None` where one does not lie in its buffer.
pub fn unpacked(tensor: &TensorBytes) -> Option<Vec<&[u8]>> {
    let elements = tensor.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))?;
    let pairs = usize::try_from(elements).ok()?.checked_mul(PAIR_BYTES)?;
    let (pairs, text) = tensor.bytes.split_at_checked(pairs)?;
    let word = |at: usize| u64::from_le_bytes(pairs[at..at + 8].try_into().expect("8 bytes"));
    let string = |at: usize| {
        let (offset, length) = (usize::try_from(word(at)).ok()?, usize::try_from(word(at + 8)).ok()?);
        text.get(offset..offset.checked_add(length)?)
    };
    (0..pairs.len()).step_by(PAIR_BYTES).map(string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_have_equal_numbers() {
        let mut table = StringTable::default();
        let given = packed(&[2, 2], &[b"a", b"", b"bc", b"a"]);
        let numbers = table.enter(&given).unwrap();
        assert_eq!(TensorBytes { dtype: DType::I64, ..numbers.clone() }.to_i64().unwrap(), [1, 0, 2, 1]);
        assert_eq!(table.leave(&numbers).unwrap(), given);
        assert_eq!(table.count(), 3);
    }

    #[test]
    fn strings_lie_in_their_buffer() {
        let mut tensor = packed(&[1], &[b"abc"]);
        assert_eq!(unpacked(&tensor).unwrap(), [b"abc"]);
        tensor.bytes = tensor.bytes.slice(..PAIR_BYTES + 2);
        assert_eq!(unpacked(&tensor), None);
        let mut bytes = tensor.bytes.to_vec();
        bytes[..8].fill(0xff);
        assert_eq!(unpacked(&TensorBytes { bytes: bytes.into(), ..tensor }), None);
        assert_eq!(unpacked(&TensorBytes { shape: [2i64][..].into(), ..packed(&[1], &[b""]) }), None);
    }

    #[test]
    fn unknown_numbers_are_no_strings() {
        let table = StringTable::default();
        assert_eq!(table.leave(&TensorBytes::from_i64(&[1], &[7])), None);
    }
}
