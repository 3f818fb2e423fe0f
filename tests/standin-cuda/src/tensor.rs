//! Tensor maps and the copies of boxes by them (`cp.async.bulk.tensor`).
//!
//! A copy reads its source when it is given; what it will overwrite is lost then. It is delivered when all others arrived
//! at its barrier and someone asks, as late as a device may. Maps are of this tool's own making: a device's are secret.

use crate::kernel::{Inst, Place, Reg};
use crate::memory::{Fault, Memory};
use crate::races::Touch;
use crate::warp::{Context, Trouble, Warp, lanes_of, trouble};

/// Generic addresses of the kernel's parameters begin here.
pub const PARAM_WINDOW: u64 = 1 << 58;

/// Bytes of a map.
pub const MAP: usize = 128;

/// The mark of a map of this tool.
const MARK: u64 = 0x70_616D_5F72_6F73;

/// Dimensions of a tensor.
const MOST: usize = 5;

/// What a map says.
pub struct Map {
    /// Bytes of an element.
    pub element: u64,
    /// Where the tensor begins.
    pub base: u64,
    /// Elements along each dimension.
    pub sizes: Vec<u64>,
    /// Bytes from one to the next, of all dimensions but the first.
    pub strides: Vec<u64>,
    /// Elements of a box.
    pub lengths: Vec<u32>,
    /// Bytes of a row whose chunks are exchanged; 16 where none are.
    pub width: u64,
}

impl Map {
    /// The map in 128 bytes; `None` is one that a driver refuses.
    pub fn encode(&self) -> Option<[u8; MAP]> {
        let rank = self.sizes.len();
        let inner = u64::from(self.lengths[0]) * self.element;
        let fits = (1..=MOST).contains(&rank)
            && self.base.is_multiple_of(16)
            && self.sizes.iter().all(|&n| (1..=1 << 32).contains(&n))
            && self.strides.iter().all(|&n| n.is_multiple_of(16) && n < 1 << 40)
            && self.lengths.iter().all(|n| (1..=256).contains(n))
            && inner.is_multiple_of(16)
            && (self.width == 16 || inner <= self.width);
        let mut words = vec![MARK, rank as u64 | self.element << 8 | self.width << 16, self.base];
        words.extend((0..MOST).map(|i| self.sizes.get(i).copied().unwrap_or(1)));
        words.extend((0..MOST - 1).map(|i| self.strides.get(i).copied().unwrap_or(0)));
        words.extend((0..2).map(|half| {
            let of = |i: usize| u64::from(self.lengths.get(4 * half + i).copied().unwrap_or(1)) << (16 * i);
            (0..4).map(of).sum::<u64>()
        }));
        words.resize(MAP / 8, 0);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        fits.then(|| bytes.try_into().expect("16 words"))
    }

    /// What 128 bytes say.
    fn decode(bytes: &[u8]) -> Option<Map> {
        let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("8 bytes"));
        let rank = (word(1) & 0xFF) as usize;
        (word(0) == MARK).then(|| Map {
            element: word(1) >> 8 & 0xFF,
            base: word(2),
            sizes: (0..rank).map(|i| word(3 + i)).collect(),
            strides: (1..rank).map(|i| word(7 + i)).collect(),
            lengths: (0..rank).map(|i| (word(12 + i / 4) >> (16 * (i % 4)) & 0xFFFF) as u32).collect(),
            width: word(1) >> 16,
        })
    }
}

/// A copy as an instruction says it.
#[derive(Clone, Debug)]
pub struct BoxCopy {
    pub to: Place,
    pub map: Reg,
    pub coordinates: Vec<Reg>,
    pub barrier: Place,
}

/// A copy under way: where each 16 bytes go, and what they are.
pub struct Underway {
    pub line: u32,
    pub pieces: Vec<(usize, [u8; 16])>,
}

/// The bytes of a row of a box, zeros where it is outside.
fn row(map: &Map, at: &[i64], memory: &mut Memory, read: &mut Vec<(u64, u64)>) -> Result<Vec<u8>, (u64, String)> {
    let length = u64::from(map.lengths[0]);
    let mut bytes = vec![0; (length * map.element) as usize];
    let inside = |i: usize| at[i] >= 0 && (at[i] as u64) < map.sizes[i];
    if !(1..at.len()).all(inside) {
        return Ok(bytes);
    }
    let (first, end) = (at[0].max(0), (at[0] + length as i64).min(map.sizes[0] as i64));
    if first >= end {
        return Ok(bytes);
    }
    let outer: u64 = (1..at.len()).map(|i| at[i] as u64 * map.strides[i - 1]).sum();
    let address = map.base + outer + first as u64 * map.element;
    let count = (end - first) as u64 * map.element;
    let told = |fault| match fault {
        Fault::Outside(near) => (address, format!("{count} bytes of a box out of bounds in Global memory, {near}")),
        Fault::Misaligned | Fault::Race(_) => (address, "a box".to_string()),
    };
    let source = memory.range(address, count).map_err(told)?;
    let skipped = ((first - at[0]) as u64 * map.element) as usize;
    bytes[skipped..skipped + count as usize].copy_from_slice(source);
    read.push((address, count));
    Ok(bytes)
}

impl Warp {
    /// Copies are given.
    pub fn begin_boxes(
        &mut self,
        inst: &Inst,
        at: usize,
        mask: u32,
        context: &mut Context,
        copy: &BoxCopy,
    ) -> Result<(), Trouble> {
        for lane in lanes_of(mask) {
            let wrong = |address: u64, what: &str| Trouble {
                address: Some(address),
                ..trouble(inst, lane as u32, what.to_string())
            };
            let place = self.reg(copy.map)[lane].get();
            let offset = place.wrapping_sub(PARAM_WINDOW) as usize;
            let map = context.params.get(offset..offset.saturating_add(MAP)).and_then(Map::decode);
            let Some(map) = map.filter(|map| offset.is_multiple_of(64) && map.sizes.len() == copy.coordinates.len())
            else {
                return Err(wrong(place, "no tensor map of this rank is here"));
            };
            let inner = u64::from(map.lengths[0]) * map.element;
            if map.width > 16 && inner != map.width {
                return Err(wrong(place, "boxes narrower than their pattern are not in the subset"));
            }
            let to = (self.address(&copy.to, lane) & 0xFFFF_FFFF) as usize;
            if !to.is_multiple_of(128) {
                return Err(wrong(to as u64, "a box goes to a multiple of 128 bytes"));
            }
            let start: Vec<i64> = copy.coordinates.iter().map(|r| i64::from(self.reg(*r)[lane].get() as i32)).collect();
            let rows: u32 = map.lengths[1..].iter().product();
            let (mut pieces, mut read) = (Vec::new(), Vec::new());
            for number in 0..rows {
                let (mut rest, mut here) = (number, start.clone());
                for (i, length) in map.lengths.iter().enumerate().skip(1) {
                    here[i] += i64::from(rest % length);
                    rest /= length;
                }
                let bytes =
                    row(&map, &here, context.memory, &mut read).map_err(|(address, what)| wrong(address, &what))?;
                for (chunk, data) in bytes.chunks_exact(16).enumerate() {
                    let plain = to + number as usize * inner as usize + 16 * chunk;
                    let exchanged = plain ^ (plain >> 7 & (map.width as usize / 16 - 1)) << 4;
                    pieces.push((exchanged, data.try_into().expect("16 bytes")));
                }
            }
            // Reads of the source are in order with what wrote it.
            if context.check_races {
                for (address, count) in read {
                    self.read_source(inst, at, lane, (address, count), context)?;
                }
            }
            let all = context.shared.bytes.len();
            for (piece, _) in &pieces {
                if piece + 16 > all {
                    let what = format!("a box goes out of bounds in Shared memory, of which the block has {all} bytes");
                    return Err(wrong(*piece as u64, &what));
                }
                if context.check_races {
                    if let Some(line) = context.arriving[piece / 4..piece / 4 + 4].iter().find(|line| **line != 0) {
                        let what = format!("the copy of line {line} to these bytes is under way");
                        return Err(Trouble { race: true, ..wrong(*piece as u64, &what) });
                    }
                    let (clock, now) = (&mut context.clock, &self.moment);
                    if let Some(conflict) = context.shared.touch(*piece, 16, clock, now, lane as u32, Touch::Write) {
                        let Fault::Race(other) = Fault::from(conflict) else { unreachable!("a conflict is a race") };
                        let what = format!("race in Shared memory: this box is written, {other}");
                        return Err(Trouble { race: true, ..wrong(*piece as u64, &what) });
                    }
                }
                context.shared.bytes[*piece..piece + 16].fill(0xFF);
                context.arriving[piece / 4..piece / 4 + 4].fill(inst.line);
            }
            let barrier = (self.address(&copy.barrier, lane) & 0xFFFF_FFFF) as usize;
            context.expect_box(inst, lane, barrier, Underway { line: inst.line, pieces })?;
        }
        Ok(())
    }

    /// Notes that a box's source is read.
    fn read_source(
        &self,
        inst: &Inst,
        at: usize,
        lane: usize,
        (address, count): (u64, u64),
        context: &mut Context,
    ) -> Result<(), Trouble> {
        let mut done = 0;
        while done < count {
            let here = address + done;
            let size = [16, 8, 4, 2].into_iter().find(|&n| here.is_multiple_of(n) && done + n <= count).unwrap_or(1);
            let (piece, start) = context.memory.find(here, size, &mut context.hints[at]).expect("it was just read");
            let (clock, now) = (&mut context.clock, &self.moment);
            if let Some(conflict) = piece.touch(start, size as usize, clock, now, lane as u32, Touch::Read) {
                let Fault::Race(other) = Fault::from(conflict) else { unreachable!("a conflict is a race") };
                let what = format!("race in Global memory: this box is read, {other}");
                return Err(Trouble { address: Some(here), race: true, ..trouble(inst, lane as u32, what) });
            }
            done += size;
        }
        Ok(())
    }
}
