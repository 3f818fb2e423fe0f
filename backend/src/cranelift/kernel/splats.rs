//! Single elements in all lanes, several from one load.
//!
//! Where multiply-add takes a lane of a vector as an operand, elements that lie side by side are loaded as one vector, and
//! each of them is one of its lanes: Cranelift folds the shuffle that says so into the multiply-add.

use cranelift_codegen::ir::{ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value, types};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Address, Block, Buffer};

use super::Translate;
use crate::machine::splats::{Group, group_splats};

impl Translate<'_> {
    /// Finds the elements of a block that are lanes of one load.
    pub(super) fn group_splats(&mut self, block: Block) -> Vec<Group> {
        let lane_bytes = |held: DType, stored: DType| {
            matches!((held, stored), (DType::F32, DType::F32) | (DType::I32, DType::I8 | DType::U8)).then_some(4)
        };
        group_splats(self.kernel, block, lane_bytes, &mut self.grouped)
    }

    /// A vector's bytes from memory.
    pub(super) fn load_bytes(&mut self, buffer: Buffer, address: &Address) -> Value {
        let (pointer, offset) = self.place(buffer, address);
        self.f.ins().load(types::I8X16, MemFlagsData::trusted(), pointer, offset)
    }

    /// One lane of 32 bits in all lanes.
    pub(super) fn splat_lane(&mut self, bytes: Value, lane: u8, ty: Type) -> Value {
        let picks: Vec<u8> = (0..16).map(|i| lane * 4 + i % 4).collect();
        let mask = self.f.func.dfg.immediates.push(ConstantData::from(picks.as_slice()));
        let shuffled = self.f.ins().shuffle(bytes, bytes, mask);
        self.f.ins().bitcast(ty, MemFlagsData::new().with_endianness(Endianness::Little), shuffled)
    }
}
