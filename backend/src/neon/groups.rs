//! Several values from one load: single elements in all lanes that are lanes of one vector, and halves of registers that lie
//! side by side.

use std::collections::BTreeMap;

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Address, Block, Buffer, Inst, InstData, LaneType};
use regalloc2::VReg;

use super::Unsupported;
use super::memory::part;
use super::select::Select;
use crate::machine::splats::{Group, group_splats};

impl Select<'_> {
    /// Finds the elements of a block that are lanes of one load.
    pub(super) fn group_splats(&mut self, block: Block) -> Vec<Group> {
        let lane_bytes = |held: DType, stored: DType| match (held, stored) {
            (DType::F32, DType::F32) | (DType::I32, DType::I8 | DType::U8) => Some(4),
            (DType::U16, DType::U16) => Some(2),
            _ => None,
        };
        group_splats(self.kernel, block, lane_bytes, &mut self.grouped)
    }

    /// Finds halves of registers of 16-bit numbers that lie side by side, as [`group_splats`] does.
    pub(super) fn pair_loads(&mut self, block: Block) -> Vec<Group> {
        let kernel = self.kernel;
        let mut pairs = Vec::new();
        // The address without its offset, and the lower halves that wait for their upper one.
        let mut reads: Vec<(Buffer, Address, BTreeMap<i64, Inst>)> = Vec::new();
        for &inst in &kernel.blocks[block].insts {
            match &kernel.insts[inst].data {
                InstData::Load { buffer, address, count: None } => {
                    let ty = kernel.ty(kernel.insts[inst].results[0]);
                    if ty != LaneType::vector(DType::U16, 4) || kernel.buffers[*buffer].dtype != DType::U16 {
                        continue;
                    }
                    let place = Address { offset: 0, terms: address.terms.clone() };
                    let found = reads.iter().position(|(b, at, _)| b == buffer && *at == place);
                    let found = found.unwrap_or_else(|| {
                        reads.push((*buffer, place, BTreeMap::new()));
                        reads.len() - 1
                    });
                    let waiting = &mut reads[found].2;
                    match waiting.remove(&(address.offset - 4)) {
                        Some(lower) => {
                            self.paired.insert(lower, (pairs.len() as u32, false));
                            self.paired.insert(inst, (pairs.len() as u32, true));
                            pairs.push(Group { buffer: *buffer, address: address.clone().offset_by(-4), bytes: 16 });
                        }
                        None => {
                            waiting.insert(address.offset, inst);
                        }
                    }
                }
                InstData::Store { .. }
                | InstData::Scatter { .. }
                | InstData::For { .. }
                | InstData::While { .. }
                | InstData::If { .. } => reads.clear(),
                _ => {}
            }
        }
        pairs
    }

    /// A group's elements in the lanes of a register.
    pub(super) fn load_group(&mut self, group: &Group) -> Result<VReg, Unsupported> {
        let place = self.place(group.buffer, &group.address)?;
        Ok(self.read(part(group.bytes), place))
    }
}
