//! Loads and stores: addresses with what is invariant computed before loops, whole registers where they fit, lanes one by one
//! where they are counted and some are missing.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Address, Buffer, LaneType, Stride, Val};
use onnxc_ir::scalar::BinaryOp;
use regalloc2::VReg;
use smallvec::{SmallVec, smallvec};

use super::Unsupported;
use super::machine::{Condition, GENERAL, MachineInst, Operand, VECTOR, Word};
use super::select::{Held, Registers, Select, class, count, lane_size};
use super::words::{self, Moved, Size};

/// Distances below this are reached by most loads and stores.
const NEAR: i64 = 1 << 14;

/// How a part of a vector of so many bytes moves.
pub(super) fn part(bytes: i64) -> Moved {
    match bytes {
        1 => Moved::Lane(Size::B),
        2 => Moved::Lane(Size::H),
        4 => Moved::Lane(Size::S),
        8 => Moved::Lane(Size::D),
        _ => Moved::Vector,
    }
}

impl Select<'_> {
    pub(super) fn element_bytes(&self, buffer: Buffer) -> Result<i64, Unsupported> {
        let bytes = self.kernel.buffers[buffer].dtype.bytes();
        Ok(i64::from(bytes.ok_or(Unsupported("elements of less than a byte in memory"))?))
    }

    /// A register and the distance from it to an address. What does not change in the inner loops is computed before them.
    pub(super) fn place(&mut self, buffer: Buffer, address: &Address) -> Result<(VReg, i64), Unsupported> {
        let size = self.element_bytes(buffer)?;
        let depth_of = |this: &Self, (val, stride): (Val, Stride)| {
            let stride = match stride {
                Stride::Const(_) => 0,
                Stride::Value(s) => this.depths[s],
            };
            this.depths[val].max(stride)
        };
        let address = &self.taken_apart(address);
        let mut terms = address.terms.to_vec();
        terms.sort_by_key(|&t| (depth_of(self, t), t.0));
        let bytes = address.offset.checked_mul(size).ok_or(Unsupported("an offset of more than 64 bits"))?;
        // What no instruction reaches is added before anything that changes.
        let far = if (0..NEAR).contains(&bytes) { 0 } else { bytes.div_euclid(NEAR) * NEAR };
        let mut pointer = self.buffers[&buffer];
        if far != 0 {
            pointer = match self.scopes[0].far.get(&(pointer, far)) {
                Some(&found) => found,
                None => {
                    let made = self.plus_at(0, pointer, far);
                    self.scopes[0].far.insert((pointer, far), made);
                    made
                }
            };
        }
        let mut prefix: Vec<(Val, Stride)> = Vec::new();
        for &term in &terms {
            let depth = depth_of(self, term) as usize;
            prefix.push(term);
            let key = (buffer, far, prefix.clone());
            pointer = match self.scopes[depth].pointers.get(&key) {
                Some(&found) => found,
                None => {
                    let (register, shift) = self.scaled(depth, term, size)?;
                    let word = Word::new(words::ADD_SHIFTED).or(shift << 10).immediate(shift.into());
                    let made = self.op_at(depth, GENERAL, word, &[pointer, register]);
                    self.scopes[depth].pointers.insert(key, made);
                    made
                }
            };
        }
        Ok((pointer, bytes - far))
    }

    /// An address whose indices are taken apart where that makes a constant of a part, or something that inner loops do not
    /// change.
    fn taken_apart(&self, address: &Address) -> Address {
        let mut result = address.clone();
        loop {
            let split = result.terms.iter().find_map(|&(val, stride)| {
                let (Stride::Const(factor), &(op, a, b)) = (stride, self.sums.get(&val)?) else { return None };
                let (x, y) = (self.integer_of(a), self.integer_of(b));
                let (outer, inner) = (self.depths[b] < self.depths[a], self.depths[b] > self.depths[a]);
                // The negative of what is subtracted takes a product, which must not be in the inner loop.
                let is_split = x.is_some() != y.is_some() || outer || inner && op == BinaryOp::Add;
                is_split.then_some((val, factor, op, [(a, x), (b, y)]))
            });
            let Some((val, factor, op, parts)) = split else { return result };
            let mut next =
                Address { offset: result.offset, terms: result.terms.iter().copied().filter(|t| t.0 != val).collect() };
            for (n, (part, constant)) in parts.into_iter().enumerate() {
                let factor = if n == 1 && op == BinaryOp::Sub { factor.wrapping_neg() } else { factor };
                next = match constant {
                    Some(constant) => next.offset_by(constant.wrapping_mul(factor)),
                    None => next.plus(part, Stride::Const(factor)),
                };
            }
            result = next;
        }
    }

    /// `value * stride * size` as a register and a shift to the left.
    fn scaled(&mut self, depth: usize, (val, stride): (Val, Stride), size: i64) -> Result<(VReg, u32), Unsupported> {
        let register_of = |this: &mut Self, val: Val| match (&this.held[val], this.constants[val]) {
            (Some(Held::Registers(registers)), _) => registers[0],
            (_, Some(c)) => this.immediate_at(depth, c.bits as i64),
            _ => panic!("addresses use values that are defined"),
        };
        let register = register_of(self, val);
        let factor = match stride {
            Stride::Const(c) => c.checked_mul(size).ok_or(Unsupported("a stride of more than 64 bits"))?,
            Stride::Value(_) => size,
        };
        let (factor, shift) = match (stride, factor) {
            (Stride::Const(_), 1..) if factor.count_ones() == 1 => return Ok((register, factor.trailing_zeros())),
            (Stride::Const(_), _) => (factor, 0),
            (Stride::Value(_), _) => (1, size.trailing_zeros()),
        };
        let key = (val, stride, size);
        if let Some(&found) = self.scopes[depth].products.get(&key) {
            return Ok((found, shift));
        }
        let other = match stride {
            Stride::Const(_) => self.immediate_at(depth, factor),
            Stride::Value(s) => register_of(self, s),
        };
        let product = self.op_at(depth, GENERAL, words::general(words::MUL, true), &[register, other]);
        self.scopes[depth].products.insert(key, product);
        Ok((product, shift))
    }

    /// A register and a distance that a move of this kind reaches.
    fn reach(&mut self, moved: Moved, (base, offset): (VReg, i64)) -> (VReg, i64) {
        if moved.reaches(offset) {
            return (base, offset);
        }
        // Neighbours share the register.
        let low = if moved.reaches(offset & 0xff0) && offset & 0xf == 0 { offset & 0xff0 } else { 0 };
        (self.moved_on(base, offset - low), low)
    }

    /// A register plus a constant, computed once in a scope.
    fn moved_on(&mut self, base: VReg, by: i64) -> VReg {
        if by == 0 {
            return base;
        }
        let depth = self.depth();
        if let Some(&found) = self.scopes[depth].far.get(&(base, by)) {
            return found;
        }
        let made = self.plus(base, by);
        self.scopes[depth].far.insert((base, by), made);
        made
    }

    pub(super) fn read(&mut self, moved: Moved, place: (VReg, i64)) -> VReg {
        let (base, offset) = self.reach(moved, place);
        let class = if matches!(moved, Moved::General(..)) { GENERAL } else { VECTOR };
        self.op(class, moved.at(false, offset), &[base])
    }

    fn write(&mut self, moved: Moved, value: VReg, place: (VReg, i64)) {
        let (base, offset) = self.reach(moved, place);
        let operands = smallvec![Operand::Use(value), Operand::Use(base)];
        self.push(MachineInst::Op { words: smallvec![moved.at(true, offset)], operands, effect: true });
    }

    /// How a scalar of this type moves.
    fn scalar_move(dtype: DType) -> Moved {
        match dtype {
            DType::Bool => Moved::General(Size::B, false),
            other if other.is_float() => Moved::Lane(lane_size(other)),
            other => Moved::General(lane_size(other), other.is_signed_int()),
        }
    }

    /// A scalar from memory.
    fn load_scalar(&mut self, dtype: DType, place: (VReg, i64)) -> VReg {
        let value = self.read(Self::scalar_move(dtype), place);
        if dtype == DType::Bool { self.truth(value) } else { value }
    }

    /// 1 of a general register that is not 0.
    fn truth(&mut self, value: VReg) -> VReg {
        let (compare, _) = self.comparison(false, value, value, Some(0));
        let set = words::condition_set(Condition::NotEqual);
        self.several(GENERAL, &[compare.fields(&[(1, 5)]), set], &[value])
    }

    pub(super) fn load(
        &mut self,
        ty: LaneType,
        buffer: Buffer,
        address: &Address,
        counted: Option<Val>,
    ) -> Result<Registers, Unsupported> {
        let place = self.place(buffer, address)?;
        if ty.lanes == 1 {
            let Some(counted) = counted else { return Ok(smallvec![self.load_scalar(ty.dtype, place)]) };
            if ty.dtype == DType::Bool {
                return Err(Unsupported("a counted truth value"));
            }
            return self.load_scalar_if(ty, place, counted);
        }
        if ty.dtype == DType::Bool {
            let bytes = self.load_vector(LaneType { dtype: DType::U8, ..ty }, place, counted)?;
            let masks = bytes.iter().map(|&v| self.vector(words::lanes(words::V_CMTST, Size::B), &[v, v])).collect();
            return Ok(self.resized(masks, ty.lanes, [Size::B, Size::S], true));
        }
        self.load_vector(ty, place, counted)
    }

    fn load_scalar_if(&mut self, ty: LaneType, place: (VReg, i64), counted: Val) -> Result<Registers, Unsupported> {
        let limit = self.get1(counted)?;
        let moved = Self::scalar_move(ty.dtype);
        let (base, offset) = self.reach(moved, place);
        let zero = match class(ty) {
            GENERAL => words::move_part(words::MOVZ, 0, 0),
            _ => Word::new(words::Form(0x6f00_e400, "movi v%0.2d, #0")),
        };
        let below = self.comparison(true, limit, limit, Some(0)).0.fields(&[(2, 5)]);
        let list = [zero, below, words::skip(Condition::LessOrEqual, 2), moved.at(false, offset)];
        Ok(smallvec![self.several(class(ty), &list, &[base, limit])])
    }

    fn load_vector(
        &mut self,
        ty: LaneType,
        (pointer, offset): (VReg, i64),
        counted: Option<Val>,
    ) -> Result<Registers, Unsupported> {
        let size = lane_size(ty.dtype);
        let total = i64::from(ty.lanes) * size.bytes();
        let moved = part(total);
        let parts = count(ty)? as i64;
        let Some(counted) = counted else {
            return Ok((0..parts).map(|i| self.read(moved, (pointer, offset + 16 * i))).collect());
        };
        let limit = self.get1(counted)?;
        let per = i64::from(ty.lanes) / parts;
        let registers = (0..parts).map(|i| {
            let base = self.moved_on(pointer, offset + 16 * i);
            let (to, step) = (self.code.register(VECTOR), self.code.register(GENERAL));
            let operands: SmallVec<[Operand; 4]> =
                smallvec![Operand::Def(to), Operand::Use(base), Operand::Use(limit), Operand::Def(step)];
            let zero = Word::new(words::Form(0x6f00_e400, "movi v%0.2d, #0"));
            let list = self.counted(moved, false, size, i * per, per, zero.into());
            self.push(MachineInst::Op { words: list, operands, effect: false });
            to
        });
        Ok(registers.collect())
    }

    /// Moves a whole register where all its lanes are below the limit, else those that are. Operands: the register, the address,
    /// the limit, a register to count with.
    fn counted(
        &mut self,
        moved: Moved,
        store: bool,
        size: Size,
        first: i64,
        lanes: i64,
        before: Option<Word>,
    ) -> SmallVec<[Word; 1]> {
        let below = |lane: i64| {
            let word = words::general(words::CMP_IMMEDIATE, true).or(((lane + 1) as u32) << 10).immediate(lane + 1);
            word.fields(&[(2, 5)])
        };
        let copy = Word::new(words::Form(0xaa00_03e0, "mov x%0, x%1")).fields(&[(3, 0), (1, 16)]);
        let mut partial: Vec<Word> = before.into_iter().chain([copy]).collect();
        // The last lane is not there, or the register moves as a whole.
        let steps = lanes - 1;
        for lane in 0..steps {
            let rest = (steps - lane) * 3;
            partial.push(below(first + lane));
            partial.push(words::skip(Condition::Less, rest - 1));
            partial.push(words::lane_step(store, size, lane as u8).fields(&[(0, 0), (3, 5)]));
        }
        let mut list: SmallVec<[Word; 1]> = smallvec![below(first + lanes - 1), words::skip(Condition::Less, 3)];
        list.push(moved.at(store, 0));
        list.push(words::skip_always(partial.len() as i64 + 1));
        list.extend(partial);
        list
    }

    pub(super) fn load_splat(
        &mut self,
        ty: LaneType,
        buffer: Buffer,
        address: &Address,
    ) -> Result<Registers, Unsupported> {
        let place = self.place(buffer, address)?;
        if ty.lanes == 1 {
            return Ok(smallvec![self.load_scalar(ty.dtype, place)]);
        }
        if ty.dtype == DType::Bool {
            let one = self.load_scalar(ty.dtype, place);
            return self.splat(ty, one);
        }
        let base = self.moved_on(place.0, place.1);
        let register = self.vector(words::load_repeated(lane_size(ty.dtype)), &[base]);
        Ok(smallvec![register; count(ty)?])
    }

    pub(super) fn store(
        &mut self,
        buffer: Buffer,
        address: &Address,
        value: Val,
        counted: Option<Val>,
    ) -> Result<(), Unsupported> {
        let ty = self.ty(value);
        let mut registers = self.get(value)?;
        let (pointer, offset) = self.place(buffer, address)?;
        if ty.lanes == 1 {
            let moved = Self::scalar_move(ty.dtype);
            let Some(counted) = counted else {
                self.write(moved, registers[0], (pointer, offset));
                return Ok(());
            };
            let limit = self.get1(counted)?;
            let (base, offset) = self.reach(moved, (pointer, offset));
            let below = self.comparison(true, limit, limit, Some(0)).0.fields(&[(2, 5)]);
            let list = smallvec![below, words::skip(Condition::LessOrEqual, 2), moved.at(true, offset)];
            let operands = smallvec![Operand::Use(registers[0]), Operand::Use(base), Operand::Use(limit)];
            self.push(MachineInst::Op { words: list, operands, effect: true });
            return Ok(());
        }
        let mut size = lane_size(ty.dtype);
        if ty.dtype == DType::Bool {
            let bytes = self.resized(registers, ty.lanes, [Size::S, Size::B], false);
            registers = bytes.iter().map(|&v| self.vector(words::lanes(words::V_NEG, Size::B), &[v])).collect();
            size = Size::B;
        }
        let total = i64::from(ty.lanes) * size.bytes();
        let moved = part(total);
        let per = i64::from(ty.lanes) / registers.len() as i64;
        let limit = counted.map(|c| self.get1(c)).transpose()?;
        for (i, &value) in (0..).zip(&registers) {
            let at = offset + 16 * i;
            let Some(limit) = limit else {
                self.write(moved, value, (pointer, at));
                continue;
            };
            let base = self.moved_on(pointer, at);
            let step = self.code.register(GENERAL);
            let operands = smallvec![Operand::Use(value), Operand::Use(base), Operand::Use(limit), Operand::Def(step)];
            let list = self.counted(moved, true, size, i * per, per, None);
            self.push(MachineInst::Op { words: list, operands, effect: true });
        }
        Ok(())
    }

    /// The address of an element by its index.
    fn indexed(&mut self, base: VReg, index: VReg, size: i64) -> VReg {
        let shift = size.trailing_zeros();
        self.op(GENERAL, Word::new(words::ADD_SHIFTED).or(shift << 10).immediate(shift.into()), &[base, index])
    }

    pub(super) fn gather(
        &mut self,
        ty: LaneType,
        buffer: Buffer,
        address: &Address,
        indices: Val,
        counted: Option<Val>,
    ) -> Result<Registers, Unsupported> {
        let bytes = self.element_bytes(buffer)?;
        if ty.dtype == DType::Bool || ty.lanes == 1 && counted.is_some() {
            return Err(Unsupported("gathered truth values"));
        }
        let (pointer, offset) = self.place(buffer, address)?;
        let index_ty = self.ty(indices);
        let registers = self.get(indices)?;
        let base = self.moved_on(pointer, offset);
        if ty.lanes == 1 {
            let at = self.indexed(base, registers[0], bytes);
            return Ok(smallvec![self.load_scalar(ty.dtype, (at, 0))]);
        }
        let indices = self.lanes_of(index_ty, &registers)?;
        let limit = counted.map(|c| self.get1(c)).transpose()?;
        let size = lane_size(ty.dtype);
        let per = usize::from(ty.lanes) / count(ty)?;
        let mut result = Registers::new();
        for (i, &index) in indices.iter().enumerate() {
            if i % per == 0 {
                let zero = self.pattern(Size::D, 0);
                result.push(zero);
            }
            let at = self.indexed(base, index, bytes);
            let load = words::lane_at(false, size, (i % per) as u8);
            let from = result.pop().expect("a register was begun");
            let to = match limit {
                None => self.tied(load, from, &[at]),
                Some(limit) => {
                    let below = self.comparison(true, limit, limit, Some(i as i64)).0.fields(&[(2, 5)]);
                    let list = smallvec![below, words::skip(Condition::LessOrEqual, 2), load];
                    let to = self.code.register(VECTOR);
                    let operands = smallvec![Operand::Tied(from, to), Operand::Use(at), Operand::Use(limit)];
                    self.push(MachineInst::Op { words: list, operands, effect: false });
                    to
                }
            };
            result.push(to);
        }
        Ok(result)
    }

    pub(super) fn scatter(
        &mut self,
        buffer: Buffer,
        address: &Address,
        indices: Val,
        value: Val,
        counted: Option<Val>,
    ) -> Result<(), Unsupported> {
        let bytes = self.element_bytes(buffer)?;
        let (ty, index_ty) = (self.ty(value), self.ty(indices));
        if ty.dtype == DType::Bool || ty.lanes == 1 && counted.is_some() {
            return Err(Unsupported("scattered truth values"));
        }
        let (values, registers) = (self.get(value)?, self.get(indices)?);
        let (pointer, offset) = self.place(buffer, address)?;
        let base = self.moved_on(pointer, offset);
        if ty.lanes == 1 {
            let at = self.indexed(base, registers[0], bytes);
            self.write(Self::scalar_move(ty.dtype), values[0], (at, 0));
            return Ok(());
        }
        let indices = self.lanes_of(index_ty, &registers)?;
        let limit = counted.map(|c| self.get1(c)).transpose()?;
        let (size, per) = (lane_size(ty.dtype), usize::from(ty.lanes) / values.len());
        for (i, &index) in indices.iter().enumerate() {
            let at = self.indexed(base, index, bytes);
            let store = words::lane_at(true, size, (i % per) as u8);
            let mut operands: SmallVec<[Operand; 4]> = smallvec![Operand::Use(values[i / per]), Operand::Use(at)];
            let mut list: SmallVec<[Word; 1]> = SmallVec::new();
            if let Some(limit) = limit {
                list.push(self.comparison(true, limit, limit, Some(i as i64)).0.fields(&[(2, 5)]));
                list.push(words::skip(Condition::LessOrEqual, 2));
                operands.push(Operand::Use(limit));
            }
            list.push(store);
            self.push(MachineInst::Op { words: list, operands, effect: true });
        }
        Ok(())
    }
}
