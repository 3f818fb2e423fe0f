//! `wgmma`: products of groups of four warps, whose operands lie in shared memory as descriptors say.
//!
//! Each warp computes its own 16 of the 64 rows when the product is given. Its sums are the accumulators' only when a
//! `wgmma.wait_group` waited for them: until then the registers hold NaN, and whoever touches one is reported, as is what
//! changed in the operands' memory meanwhile, and accumulators that other instructions touched with no `wgmma.fence` since.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::kernel::{Guard, Inst, Multiplicand, Reg};
use crate::matrix;
use crate::memory::Fault;
use crate::races::Touch;
use crate::types::Lanes;
use crate::warp::{Context, Trouble, Warp, trouble};

/// A product as an instruction says it.
#[derive(Clone, Debug)]
pub struct Product {
    pub sums: Vec<Reg>,
    /// Registers of the descriptors.
    pub descriptors: [Reg; 2],
    pub kinds: [Multiplicand; 2],
    /// The operand's rows are neighbours: it is major in M or N.
    pub turned: [bool; 2],
    pub add: Guard,
}

/// Values of a register that are on their way.
type Values = [u64; 32];

/// A product under way.
struct Flight {
    line: u32,
    sums: Vec<Reg>,
    /// Pieces of shared memory that it reads, 16 bytes each, and what was there.
    read: Vec<(usize, [u8; 16])>,
}

/// A warp's products.
#[derive(Default)]
pub struct Products {
    open: Vec<Flight>,
    groups: VecDeque<Vec<Flight>>,
    /// Accumulators under way: the value, and how many products will still write it.
    coming: HashMap<Reg, (Values, u32)>,
    /// Accumulators that were touched since the last fence.
    touched: HashSet<Reg>,
    given: u32,
}

impl Products {
    pub fn clear(&mut self) {
        *self = Products::default();
    }

    /// Whether products are under way.
    pub fn any(&self) -> bool {
        !self.open.is_empty() || !self.groups.is_empty()
    }
}

/// How an operand lies in shared memory.
struct Matrix {
    start: usize,
    leading: usize,
    stride: usize,
    /// Bytes of a pattern's row; 16 without a swizzle.
    width: usize,
}

impl Matrix {
    /// What a descriptor says; `Err` is what is wrong with it.
    fn of(descriptor: u64) -> Result<Matrix, String> {
        let field = |at: u32| (descriptor >> at & 0x3FFF) as usize * 16;
        let width = [16, 128, 64, 32][(descriptor >> 62) as usize];
        if descriptor & 0x3FF1_C000_C000_C000 != 0 {
            return Err(format!("{descriptor:#x} is no descriptor of a matrix: bits that mean nothing are set"));
        }
        if descriptor >> 49 & 7 != 0 {
            return Err(format!("{descriptor:#x}: patterns that begin off their boundary are not in the subset"));
        }
        Ok(Matrix { start: field(0), leading: field(16), stride: field(32), width })
    }

    /// The address of chunk `j` along the contiguous dimension in line `i` of the other.
    fn chunk(&self, i: usize, j: usize, turned: bool) -> usize {
        let per_row = self.width / 16;
        let plain = match (turned, per_row) {
            // Rows by depth: patterns of eight rows; without a swizzle chunks are apart.
            (false, 1) => i % 8 * 16 + i / 8 * self.stride + j * self.leading,
            (false, _) => i % 8 * self.width + i / 8 * self.stride + j * 16,
            // Depths by rows: patterns of eight depths.
            (true, 1) => i % 8 * 16 + i / 8 * self.leading + j * self.stride,
            (true, _) => i % 8 * self.width + i / 8 * self.stride + j % per_row * 16 + j / per_row * self.leading,
        };
        let address = self.start + plain;
        // Bits 4 to 6 are exchanged by as many of bits 7 to 9 as the pattern is wide.
        address ^ (address >> 7 & (per_row - 1)) << 4
    }
}

/// Bytes of an element.
fn bytes(kind: Multiplicand) -> usize {
    match kind {
        Multiplicand::Half | Multiplicand::Brain => 2,
        Multiplicand::Tensor => 4,
        Multiplicand::Byte { .. } => 1,
    }
}

impl Warp {
    /// Before an instruction that touches accumulators.
    pub fn touch_sums(&mut self, inst: &Inst) -> Result<(), Trouble> {
        for reg in &inst.sums {
            if self.products.coming.contains_key(reg) {
                let what = "touches an accumulator that a wgmma under way will write".to_string();
                return Err(trouble(inst, 0, what));
            }
            self.products.touched.insert(*reg);
        }
        Ok(())
    }

    pub fn fence_products(&mut self) {
        self.products.touched.clear();
    }

    /// Gives a product.
    pub fn give_product(&mut self, inst: &Inst, product: &Product, context: &mut Context) -> Result<(), Trouble> {
        let wrong = |what: String| Err(trouble(inst, 0, what));
        if let Some(reg) = product.sums.iter().find(|reg| self.products.touched.contains(reg)) {
            return wrong(format!("accumulator {reg} was touched with no wgmma.fence since"));
        }
        let descriptors = product.descriptors.map(|reg| self.reg(reg)[0].get());
        for (reg, value) in product.descriptors.iter().zip(descriptors) {
            if self.reg(*reg).iter().any(|lane| lane.get() != value) {
                return wrong("lanes have different descriptors".to_string());
            }
        }
        let key = (self.number() / 4, self.products.given);
        self.products.given += 1;
        let mine = (inst.line, descriptors);
        if *context.products.entry(key).or_insert(mine) != mine {
            return wrong("the warps of a group give different products".to_string());
        }
        let columns = product.sums.len() * 2;
        let depth = 32 / bytes(product.kinds[0]);
        let first = 16 * (self.number() as usize % 4);
        let mut read = Vec::new();
        let mut operands = [vec![], vec![]];
        for (n, rows) in [(0, first..first + 16), (1, 0..columns)] {
            let (kind, turned) = (product.kinds[n], product.turned[n]);
            let matrix = match Matrix::of(descriptors[n]) {
                Ok(matrix) => matrix,
                Err(what) => return wrong(what),
            };
            let elements = 16 / bytes(kind);
            let mut values = vec![0f32; rows.len() * depth];
            let lines = if turned { 0..depth } else { rows.clone() };
            let chunks = if turned { rows.start / elements..rows.end / elements } else { 0..2 };
            for i in lines {
                for j in chunks.clone() {
                    let at = matrix.chunk(i, j, turned);
                    let chunk = self.read_behind(inst, at, context)?;
                    read.push((at, chunk));
                    for e in 0..elements {
                        let (row, deep) = if turned { (j * elements + e, i) } else { (i, j * elements + e) };
                        values[(row - rows.start) * depth + deep] = matrix::element_of(kind, &chunk, e);
                    }
                }
            }
            operands[n] = values;
        }
        let adds = self.holds(product.add) != 0;
        let integers = matches!(product.kinds[0], Multiplicand::Byte { .. });
        for (n, &reg) in product.sums.iter().enumerate() {
            let before = match self.products.coming.get(&reg) {
                Some((values, _)) => *values,
                None => std::array::from_fn(|lane| self.reg(reg)[lane].get()),
            };
            let values: Values = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4 + n / 2 % 2 * 8, n / 4 * 8 + lane % 4 * 2 + n % 2);
                let left = &operands[0][row * depth..(row + 1) * depth];
                let right = &operands[1][column * depth..(column + 1) * depth];
                let pairs = left.iter().zip(right);
                if integers {
                    // 32 products of bytes and their sum are exact.
                    let sum = pairs.map(|(a, b)| a * b).sum::<f32>() as i32;
                    let start = if adds { before[lane] as i32 } else { 0 };
                    return u64::from(start.wrapping_add(sum) as u32);
                }
                let start = if adds { f32::from_bits(before[lane] as u32) } else { 0.0 };
                u64::from(pairs.fold(start, |sum, (a, b)| sum + a * b).to_bits())
            });
            let writes = self.products.coming.get(&reg).map_or(0, |coming| coming.1) + 1;
            self.products.coming.insert(reg, (values, writes));
            self.reg(reg).iter().for_each(|lane| lane.set(u64::from(f32::NAN.to_bits())));
        }
        self.products.open.push(Flight { line: inst.line, sums: product.sums.clone(), read });
        Ok(())
    }

    /// Reads a chunk of shared memory for the matrix units.
    fn read_behind(&mut self, inst: &Inst, at: usize, context: &mut Context) -> Result<[u8; 16], Trouble> {
        let here = |what: String, race| Trouble { address: Some(at as u64), race, ..trouble(inst, 0, what) };
        if at + 16 > context.shared.bytes.len() {
            let all = context.shared.bytes.len();
            return Err(here(
                format!("wgmma reads out of bounds in shared memory, of which the block has {all} bytes"),
                false,
            ));
        }
        if context.check_races {
            if let Some(line) = context.arriving[at / 4..at / 4 + 4].iter().find(|line| **line != 0) {
                return Err(here(format!("the copy of line {line} to what wgmma reads is under way"), true));
            }
            let touch = Touch::Behind;
            if let Some(conflict) = context.shared.touch(at, 16, &mut context.clock, &self.moment, 0, touch) {
                let Fault::Race(other) = Fault::from(conflict) else { unreachable!("a conflict is a race") };
                return Err(here(format!("race in Shared memory: wgmma reads, {other}"), true));
            }
        }
        Ok(context.shared.bytes[at..at + 16].try_into().expect("16 bytes"))
    }

    pub fn commit_products(&mut self) {
        let open = std::mem::take(&mut self.products.open);
        self.products.groups.push_back(open);
    }

    /// Waits until at most `pending` groups are under way.
    pub fn wait_for_products(&mut self, inst: &Inst, pending: u32, context: &mut Context) -> Result<(), Trouble> {
        while self.products.groups.len() > pending as usize {
            for flight in self.products.groups.pop_front().expect("there are some") {
                for (at, data) in &flight.read {
                    let now = self.read_behind(inst, *at, context)?;
                    if context.check_races && now != *data {
                        let what = format!("what the wgmma of line {} reads changed before it was done", flight.line);
                        return Err(Trouble { address: Some(*at as u64), race: true, ..trouble(inst, 0, what) });
                    }
                }
                for reg in flight.sums {
                    let coming = self.products.coming.get_mut(&reg).expect("it is under way");
                    coming.1 -= 1;
                    if coming.1 == 0 {
                        let values = coming.0;
                        self.products.coming.remove(&reg);
                        let into: &Lanes = self.reg(reg);
                        into.iter().zip(values).for_each(|(lane, value)| lane.set(value));
                    }
                }
            }
        }
        // All threads of the warp are here, and what it read is read.
        self.moment = context.clock.after(self.moment);
        Ok(())
    }
}
