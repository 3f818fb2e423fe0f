//! Dot products of four 8-bit integers.
//!
//! Cranelift has no operation for them, but finds the instruction (`sdot`, `usdot`) in the sum of widened products that says
//! the same, and elsewhere makes a few instructions of that sum. On x86 less of them take words apart: even and odd numbers
//! as 16 bits, whose products `pmaddwd` adds in pairs. All of it is exact: a product of two numbers of 8 bits fits 16 bits,
//! signed unless both are unsigned.

use cranelift_codegen::ir::{InstBuilder, Value, types};
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
        pieces
            .map(|((a, b), acc)| {
                let sum = if self.options.multiplies_pairs {
                    self.dot_of_halves([a, b], types)
                } else {
                    self.dot_of_widened([a, b], types)
                };
                self.f.ins().iadd(sum, acc)
            })
            .collect()
    }

    fn dot_of_widened(&mut self, [a, b]: [Value; 2], types: [DType; 2]) -> Value {
        let [a, b] = [a, b].map(|words| self.reinterpret(types::I8X16, words));
        let sums = [false, true].map(|high| {
            let [x, y] = [(a, types[0]), (b, types[1])].map(|(v, t)| self.widen(v, t == DType::I8, high));
            let products = self.f.ins().imul(x, y);
            let signed = types != [DType::U8; 2];
            let [low, high] = [false, true].map(|high| self.widen(products, signed, high));
            self.f.ins().iadd_pairwise(low, high)
        });
        self.f.ins().iadd_pairwise(sums[0], sums[1])
    }

    fn dot_of_halves(&mut self, [a, b]: [Value; 2], types: [DType; 2]) -> Value {
        let (a, b) = (self.halves(a, types[0]), self.halves(b, types[1]));
        let [even, odd] = [0, 1].map(|half| {
            // This is `pmaddwd`.
            let [low, high] = [false, true].map(|high| {
                let [x, y] = [a[half], b[half]].map(|v| self.widen(v, true, high));
                self.f.ins().imul(x, y)
            });
            self.f.ins().iadd_pairwise(low, high)
        });
        self.f.ins().iadd(even, odd)
    }

    /// The even and the odd numbers of words in 16 bits each. Each factor is taken apart once in a block.
    fn halves(&mut self, words: Value, dtype: DType) -> [Value; 2] {
        if let Some(&found) = self.halved.get(&(words, dtype)) {
            return found;
        }
        let lanes = self.reinterpret(types::I16X8, words);
        let halves = if dtype == DType::I8 {
            let high = self.f.ins().ishl_imm_u(lanes, 8);
            [self.f.ins().sshr_imm_u(high, 8), self.f.ins().sshr_imm_u(lanes, 8)]
        } else {
            let high = self.f.ins().ishl_imm_u(lanes, 8);
            [self.f.ins().ushr_imm_u(high, 8), self.f.ins().ushr_imm_u(lanes, 8)]
        };
        self.halved.insert((words, dtype), halves);
        halves
    }

    /// The lower or upper half of the lanes in twice their width.
    pub(super) fn widen(&mut self, a: Value, signed: bool, high: bool) -> Value {
        match (signed, high) {
            (true, false) => self.f.ins().swiden_low(a),
            (true, true) => self.f.ins().swiden_high(a),
            (false, false) => self.f.ins().uwiden_low(a),
            (false, true) => self.f.ins().uwiden_high(a),
        }
    }
}
