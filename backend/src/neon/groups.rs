//! Several values from one load: single elements in all lanes that are lanes of one vector, and halves of registers that lie
//! side by side.

use std::collections::BTreeMap;

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Address, Block, Buffer, Inst, InstData, LaneType};
use regalloc2::VReg;

use super::Unsupported;
use super::memory::part;
use super::select::Select;
use super::words::Size;

/// Elements side by side that are each wanted in all lanes: from where, and in how many bytes.
pub(super) struct Group {
    buffer: Buffer,
    address: Address,
    bytes: i64,
}

/// The elements that are read at one place plus a constant.
type Reads = BTreeMap<i64, Vec<Inst>>;

impl Select<'_> {
    /// Finds the elements of a block that are lanes of one load. Nothing is written between those of a group, and all of
    /// its elements are read anyhow, so that the load touches nothing else.
    pub(super) fn group_splats(&mut self, block: Block) -> Vec<Group> {
        let kernel = self.kernel;
        let mut groups = Vec::new();
        let mut reads: Vec<(Buffer, Address, Size, Reads)> = Vec::new();
        for &inst in &kernel.blocks[block].insts {
            let record = &kernel.insts[inst];
            match &record.data {
                InstData::LoadSplat { buffer, address } => {
                    let ty = kernel.ty(record.results[0]);
                    let size = match (ty.dtype, kernel.buffers[*buffer].dtype) {
                        (DType::F32, DType::F32) | (DType::I32, DType::I8 | DType::U8) => Size::S,
                        (DType::U16, DType::U16) => Size::H,
                        _ => continue,
                    };
                    if !ty.lanes.is_multiple_of(4) {
                        continue;
                    }
                    let place = Address { offset: 0, terms: address.terms.clone() };
                    let found = reads.iter().position(|(b, at, _, _)| b == buffer && *at == place);
                    let found = found.unwrap_or_else(|| {
                        reads.push((*buffer, place, size, Reads::new()));
                        reads.len() - 1
                    });
                    reads[found].3.entry(address.offset).or_default().push(inst);
                }
                InstData::Store { .. }
                | InstData::Scatter { .. }
                | InstData::For { .. }
                | InstData::While { .. }
                | InstData::If { .. }
                | InstData::Yield(_) => {
                    for (buffer, place, size, reads) in reads.drain(..) {
                        self.group(buffer, &place, size, &reads, &mut groups);
                    }
                }
                _ => {}
            }
        }
        groups
    }

    fn group(&mut self, buffer: Buffer, place: &Address, size: Size, reads: &Reads, groups: &mut Vec<Group>) {
        let Ok(element) = self.element_bytes(buffer) else { return };
        // Elements of a lane: a word holds four.
        let step = size.bytes() / element;
        let mut after = i64::MIN;
        for &first in reads.keys() {
            let has = |lanes: i64| (0..lanes).all(|lane| reads.contains_key(&(first + lane * step)));
            let Some(lanes) = [16 / size.bytes(), 8 / size.bytes()].into_iter().find(|&n| n >= 4 && has(n)) else {
                continue;
            };
            if first < after {
                continue;
            }
            after = first + lanes * step;
            for lane in 0..lanes {
                for &inst in &reads[&(first + lane * step)] {
                    self.grouped.insert(inst, (groups.len() as u32, lane as u8));
                }
            }
            let address = Address { offset: first, terms: place.terms.clone() };
            groups.push(Group { buffer, address, bytes: lanes * size.bytes() });
        }
    }

    /// Finds halves of registers of 16-bit numbers that lie side by side, as [`Select::group_splats`] does.
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
