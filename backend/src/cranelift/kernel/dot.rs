//! Dot products of four 8-bit integers.
//!
//! Cranelift has no operation for them, but finds the instruction (`sdot`, `usdot`, `vpdpbusd`) in the sum of widened
//! products that says the same. Elsewhere that sum is a few instructions on 128 bits, all of them exact: a product of two
//! numbers of 8 bits fits 16 bits, signed unless both are unsigned.

use cranelift_codegen::ir::{Endianness, InstBuilder, MemFlagsData, Value, types};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::Val;

use super::Translate;

impl Translate<'_> {
    /// `acc` plus the products of the four numbers in each lane of `a` and `b`.
    pub(super) fn dot4(&mut self, [a, b, acc]: [Val; 3], types: [DType; 2]) -> Vec<Value> {
        // The instructions take the unsigned factor first.
        let ([a, b], types) = match types {
            [DType::I8, DType::U8] => ([b, a], [DType::U8, DType::I8]),
            _ => ([a, b], types),
        };
        let (a, b, acc) = (self.get(a), self.get(b), self.get(acc));
        let pieces = a.into_iter().zip(b).zip(acc);
        pieces.map(|((a, b), acc)| self.dot4_piece([a, b, acc], types)).collect()
    }

    fn dot4_piece(&mut self, [a, b, acc]: [Value; 3], types: [DType; 2]) -> Value {
        let little = MemFlagsData::new().with_endianness(Endianness::Little);
        let [a, b] = [a, b].map(|words| self.f.ins().bitcast(types::I8X16, little, words));
        let sums = [false, true].map(|high| {
            let [x, y] = [(a, types[0]), (b, types[1])].map(|(v, t)| self.widen(v, t == DType::I8, high));
            let products = self.f.ins().imul(x, y);
            let signed = types != [DType::U8; 2];
            let [low, high] = [false, true].map(|high| self.widen(products, signed, high));
            self.f.ins().iadd_pairwise(low, high)
        });
        let sum = self.f.ins().iadd_pairwise(sums[0], sums[1]);
        self.f.ins().iadd(sum, acc)
    }

    /// The lower or upper half of the lanes in twice their width.
    fn widen(&mut self, a: Value, signed: bool, high: bool) -> Value {
        match (signed, high) {
            (true, false) => self.f.ins().swiden_low(a),
            (true, true) => self.f.ins().swiden_high(a),
            (false, false) => self.f.ins().uwiden_low(a),
            (false, true) => self.f.ins().uwiden_high(a),
        }
    }
}
