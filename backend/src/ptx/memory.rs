//! Loads and stores: byte addresses, 16-byte accesses where elements and alignment allow, predicates for tails.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Access, Address, Buffer, LaneType, Stride, Val};

use super::facts::gcd;
use super::kernel::{Emit, Mapping, WARP, class_of, ins, per_thread};
use super::text::{Class, Reg};

/// Callers' tensors, the arena, scratch and weights begin at multiples of this many bytes.
const ALIGNMENT: u64 = 16;

/// Values of 16 bits that one access moves, as pairs in words.
const PAIRED: u16 = 8;

/// How an element is loaded or stored.
fn memory_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool | DType::U8 => "u8",
        DType::I8 => "s8",
        DType::U16 => "u16",
        DType::I16 => "s16",
        _ => match dtype.bits() {
            64 => "b64",
            32 => "b32",
            _ => panic!("legalisation leaves no {dtype} in memory"),
        },
    }
}

/// A place in memory: a register and bytes behind it.
#[derive(Clone, Copy)]
pub(super) struct Location {
    pub(super) base: Reg,
    pub(super) offset: i64,
    /// Divides the address.
    pub(super) alignment: u64,
}

impl Emit<'_> {
    pub(super) fn element_bytes(&self, buffer: Buffer) -> u64 {
        self.kernel.buffers[buffer].dtype.bytes().expect("elements have whole bytes").into()
    }

    /// `value * factor`, 64 bits.
    fn scaled(&mut self, value: Reg, factor: i64) -> Reg {
        if factor == 1 {
            return value;
        }
        let d = self.reg(Class::B64);
        if factor > 0 && factor.count_ones() == 1 {
            ins!(self, "shl.b64 {d}, {value}, {}", factor.trailing_zeros());
        } else {
            ins!(self, "mul.lo.s64 {d}, {value}, {factor}");
        }
        d
    }

    /// The buffer's start plus these terms plus the thread's first lane where a thread has `each` lanes (0: not).
    fn base(&mut self, buffer: Buffer, terms: &[(Val, Stride)], each: u16) -> Reg {
        let key = (buffer, terms.to_vec(), each);
        if let Some(&found) = self.addresses.iter().rev().find_map(|scope| scope.get(&key)) {
            return found;
        }
        let size = self.element_bytes(buffer) as i64;
        let address = match terms.split_last() {
            None if each == 0 => return self.buffers[buffer].expect("buffers have addresses from the start"),
            None => {
                // The lane's part is the same everywhere: it comes first.
                let start = self.base(buffer, &[], 0);
                let (d, lane) = (self.reg(Class::B64), self.lane_number(each * WARP, 0));
                ins!(self, "mad.wide.u32 {d}, {lane}, {size}, {start}");
                d
            }
            Some((&(val, stride), before)) => {
                let start = self.base(buffer, before, each);
                let index = self.get1(val);
                let offset = match stride {
                    Stride::Const(c) => self.scaled(index, c * size),
                    Stride::Value(s) => {
                        let (stride, d) = (self.get1(s), self.reg(Class::B64));
                        ins!(self, "mul.lo.s64 {d}, {index}, {stride}");
                        self.scaled(d, size)
                    }
                };
                let d = self.reg(Class::B64);
                ins!(self, "add.s64 {d}, {start}, {offset}");
                d
            }
        };
        self.addresses.last_mut().expect("a scope is open").insert(key, address);
        address
    }

    /// Where an address is; for a thread's own lanes if it has `each` of a vector.
    pub(super) fn location(&mut self, buffer: Buffer, address: &Address, each: u16) -> Location {
        let size = self.element_bytes(buffer);
        // Older values first: what a loop does not change is computed before it.
        let mut terms = address.terms.to_vec();
        terms.sort_by_key(|&(val, stride)| match stride {
            Stride::Const(_) => (val, val),
            Stride::Value(s) => (val.max(s), val),
        });
        let elements = terms.iter().fold(address.offset.unsigned_abs(), |all, &(val, stride)| {
            let stride = match stride {
                Stride::Const(c) => c.unsigned_abs(),
                Stride::Value(s) => self.facts[s].divisor,
            };
            gcd(all, self.facts[val].divisor.saturating_mul(stride))
        });
        let mut alignment = gcd(elements.saturating_mul(size), ALIGNMENT);
        if each > 0 {
            alignment = gcd(alignment, u64::from(each) * size);
        }
        let base = self.base(buffer, &terms, each);
        let offset = address.offset * size as i64;
        if i32::try_from(offset + 4096).is_ok() && i32::try_from(offset).is_ok() {
            return Location { base, offset, alignment };
        }
        let d = self.reg(Class::B64);
        ins!(self, "add.s64 {d}, {base}, {offset}");
        Location { base: d, offset: 0, alignment }
    }

    /// `lane < count`, and that the lane is one of the vector's; none if nothing has to be asked.
    fn lane_predicate(&mut self, lanes: u16, slot: usize, count: Option<Reg>) -> Option<Reg> {
        let valid = self.valid(lanes);
        let Some(count) = count else { return valid };
        let (p, lane) = (self.reg(Class::Pred), self.lane_number_of(lanes, slot));
        ins!(self, "setp.gt.s32 {p}, {count}, {lane}");
        if let Some(valid) = valid {
            ins!(self, "and.pred {p}, {p}, {valid}");
        }
        Some(p)
    }

    /// A count of lanes as 32 bits, bounded so that it fits.
    fn count32(&mut self, count: Option<Val>) -> Option<Reg> {
        let count = self.get1(count?);
        let (low, bounded, r) = (self.reg(Class::B64), self.reg(Class::B64), self.reg(Class::B32));
        ins!(self, "max.s64 {low}, {count}, 0");
        ins!(self, "min.s64 {bounded}, {low}, 65536");
        ins!(self, "cvt.u32.u64 {r}, {bounded}");
        Some(r)
    }

    fn meet(&mut self, buffer: Buffer, address: &Address, lanes: u16, writes: bool) {
        if self.hazards.access(buffer, address, lanes, writes) {
            self.barrier();
        }
    }

    fn space(&self, buffer: Buffer) -> &'static str {
        if self.is_constant(buffer) { "global.nc" } else { self.written_space(buffer) }
    }

    /// The state space of a buffer that may be written.
    fn written_space(&self, buffer: Buffer) -> &'static str {
        let scratch = self.kernel.buffers[buffer].access == Access::Scratch;
        if scratch && self.shared_scratch { "shared" } else { "global" }
    }

    /// The registers that a memory operation names for values of this type: predicates are bytes there.
    fn transfer(&mut self, dtype: DType, count: usize) -> Vec<Reg> {
        let class = if dtype == DType::Bool { Class::B32 } else { class_of(dtype) };
        (0..count).map(|_| self.reg(class)).collect()
    }

    fn zero(&mut self, regs: &[Reg]) {
        for &r in regs {
            ins!(self, "mov.{} {r}, 0", r.class.suffix());
        }
    }

    fn of_memory(&mut self, dtype: DType, regs: Vec<Reg>) -> Vec<Reg> {
        if dtype != DType::Bool {
            return regs;
        }
        regs.into_iter()
            .map(|r| {
                let p = self.reg(Class::Pred);
                ins!(self, "setp.ne.b32 {p}, {r}, 0");
                p
            })
            .collect()
    }

    pub(super) fn for_memory(&mut self, dtype: DType, regs: &[Reg]) -> Vec<Reg> {
        if dtype != DType::Bool {
            return regs.to_vec();
        }
        regs.iter()
            .map(|p| {
                let r = self.reg(Class::B32);
                ins!(self, "selp.b32 {r}, 1, 0, {p}");
                r
            })
            .collect()
    }

    /// How many values one instruction moves.
    fn at_once(each: u16, size: u64, alignment: u64) -> usize {
        if size == 2 && each.is_multiple_of(PAIRED) && alignment == ALIGNMENT {
            return PAIRED.into();
        }
        let mut n = u64::from(each).min(4);
        while n > 1
            && (!u64::from(each).is_multiple_of(n)
                || n == 3
                || n * size > ALIGNMENT
                || !alignment.is_multiple_of(n * size))
        {
            n -= 1;
        }
        n as usize
    }

    pub(super) fn load(&mut self, buffer: Buffer, address: &Address, ty: LaneType, count: Option<Val>) -> Vec<Reg> {
        self.meet(buffer, address, ty.lanes, false);
        let (each, dtype, size) = (per_thread(ty.lanes), ty.dtype, self.element_bytes(buffer));
        let place = self.location(buffer, address, if ty.lanes > 1 { each } else { 0 });
        let regs = self.transfer(dtype, usize::from(each));
        let (space, kind) = (self.space(buffer), memory_type(dtype));
        let count = self.count32(count);
        if count.is_some() || self.valid(ty.lanes).is_some() {
            self.zero(&regs);
        }
        let n = Self::at_once(each, size, place.alignment);
        // What a predicate may leave out is zero.
        let zeros = count.is_some() || self.valid(ty.lanes).is_some();
        self.pieces(&regs, n, ty.lanes, count, |this, guard, slot, list| {
            let at = place.offset + (slot as u64 * size) as i64;
            if list.len() == usize::from(PAIRED) {
                return this.load_pairs(&guard, space, &format!("{}+{at}", place.base), dtype, list, zeros);
            }
            ins!(this, "{guard}ld.{space}{}.{kind} {}, [{}+{at}]", vector(list), braced(list), place.base);
        });
        self.of_memory(dtype, regs)
    }

    /// Loads eight values of 16 bits as four words. Where the guard does not hold they are zeros.
    fn load_pairs(&mut self, guard: &str, space: &str, at: &str, dtype: DType, list: &[Reg], zeros: bool) {
        let words: Vec<Reg> = (0..PAIRED / 2).map(|_| self.reg(Class::B32)).collect();
        if zeros {
            self.zero(&words);
        }
        ins!(self, "{guard}ld.{space}.v4.b32 {}, [{at}]", braced(&words));
        let letter = if dtype.is_signed_int() { 's' } else { 'u' };
        for (&word, pair) in words.iter().zip(list.chunks(2)) {
            ins!(self, "cvt.{letter}32.{letter}16 {}, {word}", pair[0]);
            ins!(self, "shr.{letter}32 {}, {word}, 16", pair[1]);
        }
    }

    /// Stores eight values of 16 bits as four words.
    fn store_pairs(&mut self, guard: &str, space: &str, at: &str, list: &[Reg]) {
        let words: Vec<Reg> = list
            .chunks(2)
            .map(|pair| {
                let word = self.reg(Class::B32);
                ins!(self, "bfi.b32 {word}, {}, {}, 16, 16", pair[1], pair[0]);
                word
            })
            .collect();
        ins!(self, "{guard}st.{space}.v4.b32 [{at}], {}", braced(&words));
    }

    /// Calls `access` for the pieces of a thread's lanes: whole ones, and single lanes where a count ends within one.
    fn pieces(
        &mut self,
        regs: &[Reg],
        n: usize,
        lanes: u16,
        count: Option<Reg>,
        mut access: impl FnMut(&mut Self, String, usize, &[Reg]),
    ) {
        for (piece, list) in regs.chunks(n).enumerate() {
            let first = piece * n;
            let last = self.lane_predicate(lanes, first + list.len() - 1, count);
            access(self, guard(last), first, list);
            if let (Some(whole), Some(_)) = (last, count)
                && list.len() > 1
            {
                // The last lane of a piece is never alone: without it the piece is not whole.
                for (i, &reg) in list.iter().enumerate().take(list.len() - 1) {
                    let p = self.lane_predicate(lanes, first + i, count).expect("a count gives a predicate");
                    let part = self.reg(Class::Pred);
                    // Lanes before the count are valid where the whole piece is not.
                    ins!(self, "not.pred {part}, {whole}");
                    ins!(self, "and.pred {part}, {part}, {p}");
                    access(self, guard(Some(part)), first + i, &[reg]);
                }
            }
        }
    }

    pub(super) fn load_splat(&mut self, buffer: Buffer, address: &Address, ty: LaneType) -> Vec<Reg> {
        let scalar = self.load(buffer, address, LaneType::scalar(ty.dtype), None);
        vec![scalar[0]; Self::width(ty.lanes)]
    }

    /// The address of one lane of a gather or scatter.
    fn indexed(&mut self, buffer: Buffer, place: Location, index: Reg) -> Reg {
        let size = self.element_bytes(buffer) as i64;
        let (offset, d) = (self.scaled(index, size), self.reg(Class::B64));
        ins!(self, "add.s64 {d}, {}, {offset}", place.base);
        d
    }

    pub(super) fn gather(
        &mut self,
        buffer: Buffer,
        address: &Address,
        indices: Val,
        ty: LaneType,
        count: Option<Val>,
    ) -> Vec<Reg> {
        self.meet(buffer, address, 0, false);
        let place = self.location(buffer, address, 0);
        let regs = self.transfer(ty.dtype, Self::width(ty.lanes));
        let (space, kind) = (self.space(buffer), memory_type(ty.dtype));
        let count = self.count32(count);
        for (slot, (&r, &index)) in regs.iter().zip(&*self.get(indices)).enumerate() {
            let p = self.lane_predicate(ty.lanes, slot, count);
            if p.is_some() {
                self.zero(&[r]);
            }
            let d = self.indexed(buffer, place, index);
            ins!(self, "{}ld.{space}.{kind} {r}, [{d}+{}]", guard(p), place.offset);
        }
        self.of_memory(ty.dtype, regs)
    }

    pub(super) fn store(&mut self, buffer: Buffer, address: &Address, value: Val, count: Option<Val>) {
        let ty = self.ty(value);
        self.meet(buffer, address, ty.lanes, true);
        let (each, size) = (per_thread(ty.lanes), self.element_bytes(buffer));
        let values = self.get(value);
        let regs = self.for_memory(ty.dtype, &values);
        let count = self.count32(count);
        let (space, kind) = (self.written_space(buffer), memory_type(ty.dtype));
        if ty.lanes == 1 {
            let place = self.location(buffer, address, 0);
            let counted = self.lane_predicate(1, 0, count);
            let p = self.first_thread(counted);
            ins!(self, "{}st.{space}.{kind} [{}+{}], {}", guard(p), place.base, place.offset, regs[0]);
            return;
        }
        let place = self.location(buffer, address, each);
        let n = Self::at_once(each, size, place.alignment);
        self.pieces(&regs, n, ty.lanes, count, |this, guard, slot, list| {
            let at = place.offset + (slot as u64 * size) as i64;
            if list.len() == usize::from(PAIRED) {
                return this.store_pairs(&guard, space, &format!("{}+{at}", place.base), list);
            }
            ins!(this, "{guard}st.{space}{}.{kind} [{}+{at}], {}", vector(list), place.base, braced(list));
        });
    }

    /// Scalars are everywhere the same: the first thread of a warp stores them.
    fn first_thread(&mut self, also: Option<Reg>) -> Option<Reg> {
        if self.mapping == Mapping::Thread {
            return also;
        }
        let (p, thread) = (self.reg(Class::Pred), self.thread);
        ins!(self, "setp.eq.u32 {p}, {thread}, 0");
        if let Some(also) = also {
            ins!(self, "and.pred {p}, {p}, {also}");
        }
        Some(p)
    }

    pub(super) fn scatter(&mut self, buffer: Buffer, address: &Address, indices: Val, value: Val, count: Option<Val>) {
        let ty = self.ty(value);
        self.meet(buffer, address, 0, true);
        let place = self.location(buffer, address, 0);
        let values = self.get(value);
        let regs = self.for_memory(ty.dtype, &values);
        let count = self.count32(count);
        let (space, kind) = (self.written_space(buffer), memory_type(ty.dtype));
        let indices_regs = self.get(indices);
        let targets: Vec<(Option<Reg>, Reg)> = indices_regs
            .iter()
            .enumerate()
            .map(|(slot, &index)| (self.lane_predicate(ty.lanes, slot, count), self.indexed(buffer, place, index)))
            .collect();
        if ty.lanes == 1 {
            let p = self.first_thread(targets[0].0);
            ins!(self, "{}st.{space}.{kind} [{}+{}], {}", guard(p), targets[0].1, place.offset, regs[0]);
            return;
        }
        if self.has_distinct_lanes(indices) {
            for (&(p, target), r) in targets.iter().zip(&regs) {
                ins!(self, "{}st.{space}.{kind} [{target}+{}], {r}", guard(p), place.offset);
            }
            return;
        }
        // Lanes may meet: thread after thread, so that the last lane wins.
        let (turn, top) = (self.reg(Class::B32), self.text.label("turn"));
        let (mine, more, thread) = (self.reg(Class::Pred), self.reg(Class::Pred), self.thread);
        ins!(self, "mov.u32 {turn}, 0");
        self.text.place(&top);
        ins!(self, "setp.eq.u32 {mine}, {turn}, {thread}");
        for (&(p, target), r) in targets.iter().zip(&regs) {
            let now = match p {
                None => mine,
                Some(p) => {
                    let now = self.reg(Class::Pred);
                    ins!(self, "and.pred {now}, {mine}, {p}");
                    now
                }
            };
            ins!(self, "@{now} st.{space}.{kind} [{target}+{}], {r}", place.offset);
        }
        self.barrier();
        ins!(self, "add.u32 {turn}, {turn}, 1");
        ins!(self, "setp.lt.u32 {more}, {turn}, {WARP}");
        ins!(self, "@{more} bra {top}");
    }
}

fn guard(p: Option<Reg>) -> String {
    p.map(|p| format!("@{p} ")).unwrap_or_default()
}

fn vector(list: &[Reg]) -> &'static str {
    match list.len() {
        1 => "",
        2 => ".v2",
        4 => ".v4",
        n => panic!("no access moves {n} registers"),
    }
}

fn braced(list: &[Reg]) -> String {
    match list {
        [one] => one.to_string(),
        many => format!("{{{}}}", many.iter().map(Reg::to_string).collect::<Vec<_>>().join(", ")),
    }
}
