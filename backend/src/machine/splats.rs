//! Single elements in all lanes that are lanes of one load: where multiply-add takes a lane of a vector as an operand,
//! elements that lie side by side are loaded as one vector.

use std::collections::{BTreeMap, HashMap};

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Address, Block, Buffer, Inst, InstData, Kernel};

/// Lanes of a group at least.
const LANES: i64 = 4;

/// Elements side by side: from where, and in how many bytes.
pub struct Group {
    /// The buffer.
    pub buffer: Buffer,
    /// Of the first one.
    pub address: Address,
    /// Of all of them: 16 or 8.
    pub bytes: i64,
}

/// The elements that are read at one place plus a constant.
type Reads = BTreeMap<i64, Vec<Inst>>;

/// Finds the elements of a block that are lanes of one load, and adds the number of the group and the lane of each to
/// `grouped`. Nothing is written between those of a group, and all of its elements are read anyhow, so that the load touches
/// nothing else. `lane_bytes` gives the size of a lane for a type in registers and one in memory; nothing for others.
pub fn group_splats(
    kernel: &Kernel,
    block: Block,
    lane_bytes: impl Fn(DType, DType) -> Option<i64>,
    grouped: &mut HashMap<Inst, (u32, u8)>,
) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut reads: Vec<(Buffer, Address, i64, Reads)> = Vec::new();
    for &inst in &kernel.blocks[block].insts {
        let record = &kernel.insts[inst];
        match &record.data {
            InstData::LoadSplat { buffer, address } => {
                let ty = kernel.ty(record.results[0]);
                let Some(size) = lane_bytes(ty.dtype, kernel.buffers[*buffer].dtype) else { continue };
                if i64::from(ty.lanes) % LANES != 0 {
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
                    // Elements of a lane: a word holds four.
                    let element = kernel.buffers[buffer].dtype.bytes().expect("elements have whole bytes");
                    let step = size / i64::from(element);
                    for (first, lanes) in runs(&reads, step, size) {
                        for lane in 0..lanes {
                            for &inst in &reads[&(first + lane * step)] {
                                grouped.insert(inst, (groups.len() as u32, lane as u8));
                            }
                        }
                        let address = Address { offset: first, terms: place.terms.clone() };
                        groups.push(Group { buffer, address, bytes: lanes * size });
                    }
                }
            }
            _ => {}
        }
    }
    groups
}

/// The first elements, and how many there are, of loads that read nothing else and do not overlap.
fn runs(reads: &Reads, step: i64, size: i64) -> Vec<(i64, i64)> {
    let mut runs = Vec::new();
    let mut after = i64::MIN;
    for &first in reads.keys() {
        let has = |lanes: i64| (0..lanes).all(|lane| reads.contains_key(&(first + lane * step)));
        let lanes = [16 / size, 8 / size].into_iter().find(|&n| n >= LANES && has(n));
        if let Some(lanes) = lanes.filter(|_| first >= after) {
            after = first + lanes * step;
            runs.push((first, lanes));
        }
    }
    runs
}
