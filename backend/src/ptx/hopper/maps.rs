//! Operands that the copy engine brings by itself: boxes of a tensor map.
//!
//! A map says where a tensor of up to five dimensions lies, and how large a box of it one instruction copies to shared
//! memory, with chunks exchanged on the way as `wgmma` wants them. What lies outside of the tensor comes as zeros. The host
//! makes maps when it launches: sizes and strides are numbers or multiples of the launch's parameters.

use std::collections::HashMap;

use onnxc_ir::loops::{Inst, InstData, Kernel, Stride, Tile, TileKind, TileOperand, Val};
use onnxc_ir::scalar::BinaryOp;

use super::STEP;

/// What a launch knows: a number, or so many times one of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The number.
    pub factor: i64,
    /// The kernel's parameter.
    pub param: Option<u32>,
}

/// A tensor map that a kernel takes as a parameter behind all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// The kernel's buffer, among those that are no scratch.
    pub buffer: u32,
    /// Bytes of an element: 1 or 2.
    pub element_bytes: u32,
    /// Bytes from the buffer's start to the tensor's.
    pub offset: u64,
    /// Elements of each dimension, those that lie side by side first.
    pub sizes: Vec<Known>,
    /// Bytes from one to the next along each dimension but the first.
    pub strides: Vec<Known>,
    /// Elements of a box.
    pub lengths: Vec<u32>,
    /// Bytes of a pattern's row in shared memory: 32 or 128.
    pub swizzle: u32,
}

/// How an operand's boxes lie in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Its rows: one box.
    Rows,
    /// Depths of 64 of its rows: a box for each 64.
    Depths,
    /// Depths of a panel of 16 of its rows, panel by panel: one box.
    Panels,
}

/// An operand that comes in boxes.
pub(super) struct Boxed {
    pub(super) form: Form,
    pub(super) map: TensorMap,
    /// Coordinates of the dimensions behind the operand's own.
    pub(super) outer: Vec<Val>,
}

/// Dimensions of a tensor map.
const MOST_DIMENSIONS: usize = 5;

/// What a kernel's values are.
pub(super) struct Values<'k> {
    kernel: &'k Kernel,
    defined: HashMap<Val, Inst>,
}

impl<'k> Values<'k> {
    /// Of a legalised kernel.
    pub(super) fn of(kernel: &'k Kernel) -> Values<'k> {
        let results = kernel.insts.iter().flat_map(|(inst, data)| data.results.iter().map(move |&val| (val, inst)));
        Values { kernel, defined: results.collect() }
    }

    fn known(&self, val: Val) -> Option<Known> {
        match &self.kernel.insts[*self.defined.get(&val)?].data {
            InstData::Const(c) => Some(Known { factor: c.as_i64()?, param: None }),
            InstData::Param(n) => Some(Known { factor: 1, param: Some(*n) }),
            InstData::Binary(BinaryOp::Mul, a, b) => {
                let (a, b) = (self.known(*a)?, self.known(*b)?);
                let param = if a.param.is_some() && b.param.is_some() { return None } else { a.param.or(b.param) };
                Some(Known { factor: a.factor.checked_mul(b.factor)?, param })
            }
            _ => None,
        }
    }

    /// A stride in bytes, if it is one that maps can have.
    fn stride(&self, stride: Stride, bytes: i64) -> Option<Known> {
        let known = match stride {
            Stride::Const(c) => Known { factor: c, param: None },
            Stride::Value(val) => self.known(val)?,
        };
        let factor = known.factor.checked_mul(bytes)?;
        (factor > 0 && factor % 16 == 0).then_some(Known { factor, ..known })
    }

    /// The boxes of an operand with `rows` rows in a tile, if the copy engine can bring it as it is.
    pub(super) fn boxes(&self, tile: &Tile, operand: &TileOperand, rows: u16) -> Option<Boxed> {
        let bytes = tile.kind.bytes();
        let memory = self.kernel.buffers[operand.buffer].dtype;
        // Words would have to be rounded.
        if memory.bytes() != Some(bytes.into()) || tile.kind == TileKind::Tf32 {
            return None;
        }
        let (count, deep) = (self.known(operand.bound)?, self.known(tile.depth)?);
        let [depth] = operand.depth[..] else { return None };
        let of = |stride| self.stride(stride, bytes.into());
        let (rows, step) = (u32::from(rows), STEP / u32::from(bytes));
        let one = Stride::Const(1);
        let number = |factor| Known { factor, param: None };
        let (form, mut sizes, mut strides, mut lengths) = match operand.rows[..] {
            [row] if depth.stride == one => (Form::Rows, vec![deep, count], vec![of(row.stride)?], vec![step, rows]),
            [row] if row.stride == one && bytes == 2 => {
                (Form::Depths, vec![count, deep], vec![of(depth.stride)?], vec![64, step])
            }
            [panel, row] if row.stride == one && row.size == 16 && bytes == 2 && count.param.is_none() => {
                let panels = number((count.factor + 15) / 16);
                let strides = vec![of(depth.stride)?, of(panel.stride)?];
                (Form::Panels, vec![number(16), deep, panels], strides, vec![16, step, rows / 16])
            }
            _ => return None,
        };
        let mut outer = Vec::new();
        for &(val, stride) in &operand.address.terms {
            // Nothing else bounds these: the kernel's coordinates are inside.
            sizes.push(number(1 << 31));
            strides.push(of(stride)?);
            lengths.push(1);
            outer.push(val);
        }
        let offset = u64::try_from(operand.address.offset).ok()?.checked_mul(bytes.into())?;
        if sizes.len() > MOST_DIMENSIONS || !offset.is_multiple_of(16) {
            return None;
        }
        let buffer = self.kernel.arguments().position(|(buffer, _)| buffer == operand.buffer)? as u32;
        let swizzle = if form == Form::Panels { 32 } else { STEP };
        let map = TensorMap { buffer, element_bytes: bytes.into(), offset, sizes, strides, lengths, swizzle };
        Some(Boxed { form, map, outer })
    }
}
