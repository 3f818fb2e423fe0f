//! Words: four 8-bit integers that follow each other, which dot products take.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Address, Buffer, Val};
use onnxc_ir::scalar::{BinaryOp, Scalar};
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::op::Panel;

use super::pull::{Position, Pulled};
use super::{Coord, GroupKernel};

/// Numbers of a word.
pub const NUMBERS: i64 = 4;

impl GroupKernel<'_> {
    /// Where the element of a group input lies.
    fn place_of(&mut self, value: Value, coords: &[Index]) -> (Buffer, Address) {
        let coords: Vec<Coord> = coords.iter().map(|&c| Coord::uniform(c)).collect();
        let strides = self.strides(value);
        let buffer = self.input(value);
        (buffer, self.locate(&coords, &strides, 1).0)
    }

    /// The word of a group input that begins at these coordinates, in all lanes. The last dimension is contiguous, and the
    /// word may go on in the next row.
    pub fn word_splat(&mut self, value: Value, coords: &[Index], lanes: u16) -> Val {
        let (buffer, address) = self.place_of(value, coords);
        self.b.load_word_splat(buffer, address, lanes)
    }

    /// Words that follow each other in a group input, the first at these coordinates.
    pub fn words(&mut self, value: Value, coords: &[Index], lanes: u16) -> Val {
        let (buffer, address) = self.place_of(value, coords);
        self.b.load_words(buffer, address, lanes)
    }

    /// A word of elements that are pulled one by one, in all lanes; `at` gives the coordinates of each.
    pub fn gathered_word(&mut self, value: Value, lanes: u16, mut at: impl FnMut(&mut Self, i64) -> Vec<Coord>) -> Val {
        let mut word: Option<Val> = None;
        for number in 0..NUMBERS {
            let coords = at(self, number);
            let byte = self.pull(value, &Position { coords, lanes: 1, count: None }, &mut Pulled::default());
            let byte = self.b.cast(DType::U8, byte);
            let mut part = self.b.cast(DType::I32, byte);
            if number > 0 {
                let by = self.b.constant(Scalar { dtype: DType::I32, bits: 8 * number as u64 }, 1);
                part = self.b.binary(BinaryOp::Shl, part, by);
            }
            word = Some(word.map_or(part, |word| self.b.binary(BinaryOp::Or, word, part)));
        }
        let word = word.expect("a word has numbers");
        self.b.splat(word, lanes)
    }

    /// Where a word of a depth begins; see [`Panel`].
    pub fn word_start(&mut self, word: Index, depth: i64) -> Index {
        let start = self.b.imul(word, NUMBERS);
        if depth % NUMBERS == 0 { start } else { self.b.imin(start, depth - NUMBERS) }
    }
}

/// Words of a depth.
pub fn count(depth: i64) -> i64 {
    depth.div_euclid(NUMBERS) + i64::from(depth % NUMBERS != 0)
}

/// Whether a panel holds words.
pub fn is_deep(panel: Option<Panel>) -> bool {
    panel.is_some_and(Panel::is_deep)
}
