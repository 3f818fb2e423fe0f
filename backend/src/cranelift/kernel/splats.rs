//! Single elements in all lanes, several from one load.
//!
//! Where multiply-add takes a lane of a vector as an operand, elements that lie side by side are loaded as one vector, and
//! each of them is one of its lanes: Cranelift folds the shuffle that says so into the multiply-add.

use std::collections::BTreeMap;

use cranelift_codegen::ir::{ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value, types};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Address, Block, Buffer, Inst, InstData};

use super::Translate;

/// Lanes of a vector.
const LANES: i64 = 4;

/// The elements that are read at one place plus a constant.
type Reads = BTreeMap<i64, Vec<Inst>>;

impl Translate<'_> {
    /// Finds the elements of a block that are lanes of one load. Nothing is written between those of a group, and all of
    /// its elements are read anyhow, so that the load touches nothing else.
    pub(super) fn group_splats(&mut self, block: Block) -> Vec<(Buffer, Address)> {
        let kernel = self.kernel;
        let mut groups = Vec::new();
        let mut reads: Vec<(Buffer, Address, Reads)> = Vec::new();
        for &inst in &kernel.blocks[block].insts {
            let record = &kernel.insts[inst];
            match &record.data {
                InstData::LoadSplat { buffer, address } => {
                    let ty = kernel.ty(record.results[0]);
                    let stored = kernel.buffers[*buffer].dtype;
                    let is_lane =
                        matches!((ty.dtype, stored), (DType::F32, DType::F32) | (DType::I32, DType::I8 | DType::U8));
                    if !is_lane || i64::from(ty.lanes) % LANES != 0 {
                        continue;
                    }
                    let place = Address { offset: 0, terms: address.terms.clone() };
                    let found = reads.iter().position(|(b, at, _)| b == buffer && *at == place);
                    let found = found.unwrap_or_else(|| {
                        reads.push((*buffer, place, Reads::new()));
                        reads.len() - 1
                    });
                    reads[found].2.entry(address.offset).or_default().push(inst);
                }
                InstData::Store { .. }
                | InstData::Scatter { .. }
                | InstData::For { .. }
                | InstData::While { .. }
                | InstData::If { .. }
                | InstData::Yield(_) => {
                    for (buffer, place, reads) in reads.drain(..) {
                        self.group(buffer, &place, &reads, &mut groups);
                    }
                }
                _ => {}
            }
        }
        groups
    }

    fn group(&mut self, buffer: Buffer, place: &Address, reads: &Reads, groups: &mut Vec<(Buffer, Address)>) {
        // Elements of a lane: a word holds four.
        let step = 4 / self.element_bytes(buffer);
        let mut after = i64::MIN;
        for &first in reads.keys() {
            if first < after || !(0..LANES).all(|lane| reads.contains_key(&(first + lane * step))) {
                continue;
            }
            after = first + LANES * step;
            for lane in 0..LANES {
                for &inst in &reads[&(first + lane * step)] {
                    self.grouped.insert(inst, (groups.len() as u32, lane as u8));
                }
            }
            groups.push((buffer, Address { offset: first, terms: place.terms.clone() }));
        }
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
