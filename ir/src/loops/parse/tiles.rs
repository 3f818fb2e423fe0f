//! Tiles of products and of attention.

use smallvec::SmallVec;

use super::super::{Attend, Digit, Digits, INDEX, InstData, LaneType, Stride, Tile, TileKind, TileOperand};
use super::{Parser, Result};
use crate::dtype::DType;

impl Parser<'_> {
    pub(super) fn tile(&mut self, kind: TileKind, depth: usize) -> Result<InstData> {
        let rows = self.number()?;
        self.expect("x")?;
        let cols = self.number()?;
        self.expect("band")?;
        let band = self.number()?;
        self.expect("depth")?;
        let sum_depth = self.val()?;
        self.expect("sums")?;
        let sums = self.buffer_ref()?;
        self.expect("pitch")?;
        let pitch = self.number()?;
        self.expect("lhs")?;
        let lhs = self.tile_operand()?;
        self.expect("rhs")?;
        let rhs = self.tile_operand()?;
        self.expect("each")?;
        let name = self.new_name()?;
        let row = self.define(name, INDEX)?;
        let body = self.block(SmallVec::from_slice(&[row]), depth + 1)?;
        Ok(InstData::Tile(Box::new(Tile { kind, rows, cols, band, depth: sum_depth, lhs, rhs, sums, pitch, body })))
    }

    pub(super) fn attend(&mut self, kind: TileKind, depth: usize) -> Result<InstData> {
        let rows = self.number()?;
        self.expect("depth")?;
        let elements = self.number()?;
        self.expect("width")?;
        let width = self.number()?;
        self.expect("sums")?;
        let sums = self.buffer_ref()?;
        self.expect("pitch")?;
        let pitch = self.number()?;
        self.expect("queries")?;
        let queries = self.tile_operand()?;
        self.expect("keys")?;
        let keys = self.tile_operand()?;
        self.expect("values")?;
        let values = self.tile_operand()?;
        self.expect("score")?;
        self.expect("(")?;
        let mut params = SmallVec::new();
        for (end, ty) in [(",", INDEX), (",", INDEX), (")", LaneType::scalar(DType::F32))] {
            let name = self.new_name()?;
            self.expect(end)?;
            params.push(self.define(name, ty)?);
        }
        let score = self.block(params, depth + 1)?;
        self.expect("then")?;
        let body = self.block(SmallVec::new(), depth + 1)?;
        let attend = Attend { kind, rows, depth: elements, width, queries, keys, values, sums, pitch, score, body };
        Ok(InstData::Attend(Box::new(attend)))
    }

    fn tile_operand(&mut self) -> Result<TileOperand> {
        let (buffer, address) = (self.buffer_ref()?, self.address()?);
        self.expect("rows")?;
        let first = self.val()?;
        self.expect("..")?;
        let bound = self.val()?;
        let rows = self.digits()?;
        self.expect("depth")?;
        Ok(TileOperand { buffer, address, first, bound, rows, depth: self.digits()? })
    }

    fn digits(&mut self) -> Result<Digits> {
        self.expect("(")?;
        let mut digits = Digits::new();
        loop {
            let size = self.number()?;
            self.expect(":")?;
            let stride =
                if self.peek() == Some('%') { Stride::Value(self.val()?) } else { Stride::Const(self.number()?) };
            digits.push(Digit { size, stride });
            if !self.eat(",") {
                self.expect(")")?;
                return Ok(digits);
            }
        }
    }
}
