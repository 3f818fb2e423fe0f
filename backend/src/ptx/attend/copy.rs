//! How queries, keys and values come to shared memory: by `cp.async` where they lie as they are needed, else through
//! registers, which convert them on the way. A thread copies some of the chunks of 16 bytes of each step.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Attend, Stride, TileKind, TileOperand};

use super::super::facts::gcd;
use super::super::kernel::{Emit, ins};
use super::super::text::{Class, Reg};
use super::super::tile::Way;
use super::{CHUNK, Plan};

/// An operand on its way to shared memory.
pub(super) struct Source<'t> {
    operand: &'t TileOperand,
    kind: TileKind,
    memory: DType,
    /// The elements of a chunk are neighbours in memory.
    contiguous: bool,
    pub(super) way: Way,
    /// All chunks are whole.
    whole: bool,
    pub(super) bound: Reg,
    chunks: Vec<Chunk>,
}

/// What a thread knows of one of its chunks for a whole task.
struct Chunk {
    /// Whether the thread has such a chunk; none if all have.
    mine: Option<Reg>,
    /// The chunk's row, of 64 bits, and rows that it is behind that.
    row: (Reg, u32),
    /// Its place in shared memory, and bytes that it is behind that.
    place: (Reg, u32),
    /// Byte addresses of its elements in row 0: of the first alone where they are neighbours.
    elements: Vec<Reg>,
    /// How many of its elements exist.
    present: Reg,
}

impl Source<'_> {
    fn bytes(&self) -> u32 {
        self.memory.bytes().expect("elements have whole bytes")
    }
}

impl Emit<'_> {
    /// Everything about an operand that does not change with the step.
    pub(super) fn source<'t>(
        &mut self,
        attend: &Attend,
        operand: &'t TileOperand,
        (rows, length): (u32, u32),
        pitch: u32,
    ) -> Source<'t> {
        let kind = attend.kind;
        let memory = self.kernel.buffers[operand.buffer].dtype;
        let threads = Plan::of(attend).team().threads;
        let (size, elements) = (memory.bytes().expect("elements have whole bytes"), CHUNK / u32::from(kind.bytes()));
        let per_row = pitch / CHUNK - 1;
        let inner = operand.depth.last().expect("there is a digit");
        let contiguous = inner.stride == Stride::Const(1) && inner.size % i64::from(elements) == 0;
        let place = self.location(operand.buffer, &operand.address, 0);
        let base = self.start(&place);
        // All other strides move a chunk; a piece of it is there or is not.
        let whole = u64::from(length * size);
        let alignment = self.alignment_but_along(operand, inner, gcd(place.alignment, whole));
        let way = match alignment {
            _ if !contiguous => Way::Registers(1),
            4.. if size == u32::from(kind.bytes()) => Way::Async(alignment.min(CHUNK.into()) as u32),
            _ => Way::Registers((alignment / u64::from(size)).clamp(1, 4) as u32),
        };
        let bound = self.get1(operand.bound);
        let whole = length == per_row * elements;
        let mut source = Source { operand, kind, memory, contiguous, way, whole, bound, chunks: vec![] };
        let total = rows * per_row;
        for n in 0..total.div_ceil(threads) {
            // Where rows have as many chunks as divide the threads, a thread's chunks lie below each other.
            if let (Some(chunk), true, true) =
                (source.chunks.first(), threads.is_multiple_of(per_row), total.is_multiple_of(threads))
            {
                let ahead = n * threads / per_row;
                let (row, place) = ((chunk.row.0, ahead), (chunk.place.0, ahead * pitch));
                let (elements, present) = (chunk.elements.clone(), chunk.present);
                source.chunks.push(Chunk { mine: None, row, place, elements, present });
                continue;
            }
            let tid = self.tid;
            let number = self.by("add.u32", tid, n * threads);
            let mine = ((n + 1) * threads > total).then(|| {
                let p = self.reg(Class::Pred);
                ins!(self, "setp.lt.u32 {p}, {number}, {total}");
                p
            });
            let (row, chunk) = (self.by("div.u32", number, per_row), self.by("rem.u32", number, per_row));
            let start = self.by("mul.lo.u32", chunk, elements);
            let within = self.by("mul.lo.u32", chunk, CHUNK);
            let place = self.scale_add(row, pitch, within);
            let wide = self.reg(Class::B64);
            ins!(self, "cvt.u64.u32 {wide}, {row}");
            let present = self.b32();
            ins!(self, "sub.s32 {present}, {length}, {start}");
            let addresses = (0..if contiguous { 1 } else { elements })
                .map(|e| {
                    let element = if e == 0 { start } else { self.by("add.u32", start, e) };
                    let offset = self.offset(&operand.depth, element, size);
                    let address = self.reg(Class::B64);
                    ins!(self, "add.s64 {address}, {base}, {offset}");
                    address
                })
                .collect();
            source.chunks.push(Chunk { mine, row: (wide, 0), place: (place, 0), elements: addresses, present });
        }
        source
    }

    /// Copies the rows from `from` on to shared memory, `behind` bytes behind `slot`.
    pub(super) fn copy_rows(&mut self, source: &Source<'_>, slot: Reg, behind: u32, from: Reg) {
        let waiting = self.fetch_rows(source, slot, behind, from);
        self.deliver_rows(source, slot, behind, &waiting);
    }

    /// Starts such a copy; gives the elements of each chunk that goes through registers.
    pub(super) fn fetch_rows(&mut self, source: &Source<'_>, slot: Reg, behind: u32, from: Reg) -> Vec<Vec<Reg>> {
        let mut waiting = Vec::new();
        for chunk in &source.chunks {
            let (row, exists) = (self.reg(Class::B64), self.reg(Class::Pred));
            ins!(self, "add.s64 {row}, {from}, {}", chunk.row.0);
            if chunk.row.1 > 0 {
                ins!(self, "add.s64 {row}, {row}, {}", chunk.row.1);
            }
            ins!(self, "setp.lt.s64 {exists}, {row}, {}", source.bound);
            let offset = self.offset(&source.operand.rows, row, source.bytes());
            match source.way {
                Way::Async(bytes) => {
                    let target = self.plus(slot, chunk.place.0);
                    let behind = behind + chunk.place.1;
                    let guard = chunk.mine.map(|p| format!("@{p} ")).unwrap_or_default();
                    let address = self.reg(Class::B64);
                    ins!(self, "add.s64 {address}, {}, {offset}", chunk.elements[0]);
                    let cache = if bytes == CHUNK { "cg" } else { "ca" };
                    for at in (0..CHUNK).step_by(bytes as usize) {
                        let (there, valid) = (self.there(source, chunk, exists, at / source.bytes()), self.b32());
                        ins!(self, "selp.b32 {valid}, {bytes}, 0, {there}");
                        ins!(
                            self,
                            "{guard}cp.async.{cache}.shared.global [{target}+{}], [{address}+{at}], {bytes}, {valid}",
                            behind + at
                        );
                    }
                }
                Way::Registers(together) => {
                    waiting.push(self.collect_rows(source, chunk, (exists, offset), together));
                }
            }
        }
        waiting
    }

    /// Ends a copy: stores what went through registers, rounded and packed.
    pub(super) fn deliver_rows(&mut self, source: &Source<'_>, slot: Reg, behind: u32, waiting: &[Vec<Reg>]) {
        for (chunk, elements) in source.chunks.iter().zip(waiting) {
            let words = self.packed_words(source, elements);
            let list: Vec<String> = words.iter().map(Reg::to_string).collect();
            let target = self.plus(slot, chunk.place.0);
            let guard = chunk.mine.map(|p| format!("@{p} ")).unwrap_or_default();
            ins!(self, "{guard}st.shared.v4.b32 [{target}+{}], {{{}}}", behind + chunk.place.1, list.join(", "));
        }
    }

    /// Whether a chunk's element exists where its row does.
    fn there(&mut self, source: &Source<'_>, chunk: &Chunk, row: Reg, element: u32) -> Reg {
        if source.whole {
            return row;
        }
        let p = self.reg(Class::Pred);
        ins!(self, "setp.gt.s32 {p}, {}, {element}", chunk.present);
        ins!(self, "and.pred {p}, {p}, {row}");
        p
    }

    /// Loads the elements of a chunk; zeros where there are none.
    fn collect_rows(
        &mut self,
        source: &Source<'_>,
        chunk: &Chunk,
        (exists, offset): (Reg, Reg),
        together: u32,
    ) -> Vec<Reg> {
        let size = source.bytes();
        let count = CHUNK / u32::from(source.kind.bytes());
        let memory = if size == 2 { "u16" } else { "b32" };
        let regs: Vec<Reg> = (0..count).map(|_| self.b32()).collect();
        for &r in &regs {
            ins!(self, "mov.b32 {r}, 0");
        }
        let mut address = offset;
        for (n, group) in regs.chunks(together as usize).enumerate() {
            let first = n as u32 * together;
            if n == 0 || !source.contiguous {
                address = self.reg(Class::B64);
                let start = chunk.elements[if source.contiguous { 0 } else { n }];
                ins!(self, "add.s64 {address}, {start}, {offset}");
            }
            let there = self.there(source, chunk, exists, first);
            let guard = match chunk.mine {
                None => there,
                Some(mine) => {
                    let p = self.reg(Class::Pred);
                    ins!(self, "and.pred {p}, {mine}, {there}");
                    p
                }
            };
            let shift = if source.contiguous { first * size } else { 0 };
            let list: Vec<String> = group.iter().map(Reg::to_string).collect();
            match group {
                [one] => ins!(self, "@{guard} ld.global.nc.{memory} {one}, [{address}+{shift}]"),
                _ => ins!(
                    self,
                    "@{guard} ld.global.nc.v{together}.{memory} {{{}}}, [{address}+{shift}]",
                    list.join(", ")
                ),
            }
        }
        regs
    }

    /// The words of a chunk of elements, rounded and packed; those of `tf32` are rounded where they are used.
    fn packed_words(&mut self, source: &Source<'_>, elements: &[Reg]) -> Vec<Reg> {
        if source.kind == TileKind::Tf32 {
            return elements.to_vec();
        }
        elements
            .chunks(2)
            .map(|pair| match source.memory {
                DType::F32 => self.halves(source.kind, pair[0], pair[1]),
                _ => {
                    let d = self.b32();
                    ins!(self, "bfi.b32 {d}, {}, {}, 16, 16", pair[1], pair[0]);
                    d
                }
            })
            .collect()
    }
}
