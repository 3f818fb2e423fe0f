//! Statements to instructions: names to numbers, opcodes to functions.
//!
//! After: every operand is a register or predicate by number; constants, parameters and special registers are registers
//! that the launch fills. What is not in the subset is an error here, never one at run time.

use std::collections::HashMap;

use crate::arith::{Flags, class, comparison, operation};
use crate::convert::{Conversion, Rounding};
use crate::flow;
use crate::kernel::{
    Atomic, Given, Guard, Inst, Kernel, LOCAL_WINDOW, Logic, Module, Multiplicand, Op, Place, Pred, Reg, SHARED_WINDOW,
    Shuffle, Space, Vote,
};
use crate::launch::DEFAULT_SHARED;
use crate::matrix;
use crate::memory::Memory;
use crate::text::{Entry, Item, Operand, Read, Refusal, Source, Statement, Variable, refuse};
use crate::types::{LaneFn, Lanes, Ty, lanes, with_int};

const ALWAYS: Guard = Guard { pred: 0, negated: false };

#[derive(Clone, Copy)]
enum Symbol {
    Reg(Reg),
    Pred(Pred),
    /// An address, which in shared and local memory counts from their start.
    At(u64),
    /// Offset of a parameter.
    Param(u32),
    DynamicShared,
}

/// Decodes a module.
pub fn module(source: &Source, capability: u32, memory: &mut Memory) -> Read<Module> {
    let digits: String = source.target.chars().filter(char::is_ascii_digit).collect();
    let target: u32 = digits.parse().map_err(|_| Refusal { line: 1, what: "there is no .target".into() })?;
    // What ends in `a` runs on its own generation only.
    let own = source.target.ends_with('a');
    if target > capability || own && target != capability {
        let has = format!("{}.{}", capability / 10, capability % 10);
        return refuse(1, format!("the text is for {}, the device has compute capability {has}", source.target));
    }
    let mut symbols = HashMap::new();
    let mut variables = Vec::new();
    let mut shared = 0u64;
    for v in &source.variables {
        match (v.space.as_str(), v.count) {
            ("shared", None) => {
                symbols.insert(v.name.clone(), Symbol::DynamicShared);
            }
            ("shared", Some(count)) => {
                shared = shared.next_multiple_of(v.align);
                symbols.insert(v.name.clone(), Symbol::At(shared));
                shared += v.element * count;
            }
            _ => {
                let address = initialise(v, memory)?;
                symbols.insert(v.name.clone(), Symbol::At(address));
                variables.push((v.name.clone(), address, v.element * v.count.unwrap_or(0)));
            }
        }
    }
    let kernels = source.entries.iter().map(|e| kernel(e, &symbols, shared)).collect::<Read<Vec<_>>>()?;
    Ok(Module { kernels, variables })
}

fn initialise(v: &Variable, memory: &mut Memory) -> Read<u64> {
    let bytes = v.element * v.count.unwrap_or(0);
    let address = memory.allocate(bytes);
    let range = memory.range(address, bytes).expect("just allocated");
    range.fill(0);
    for (value, into) in v.values.iter().zip(range.chunks_exact_mut(v.element as usize)) {
        let bits = match *value {
            Operand::Int(n) => n as u64,
            Operand::F32(bits) => u64::from(bits),
            Operand::F64(bits) if v.element == 4 => u64::from((f64::from_bits(bits) as f32).to_bits()),
            Operand::F64(bits) => bits,
            _ => return refuse(1, format!("'{}' has values that are no numbers", v.name)),
        };
        into.copy_from_slice(&bits.to_le_bytes()[..v.element as usize]);
    }
    Ok(address)
}

struct Decoder<'a> {
    scopes: Vec<HashMap<String, Symbol>>,
    module: &'a HashMap<String, Symbol>,
    given: Vec<(Reg, Given)>,
    constants: HashMap<u64, Reg>,
    registers: u32,
    predicates: u32,
    insts: Vec<Inst>,
    labels: HashMap<String, u32>,
    jumps: Vec<(usize, String, u32)>,
    shared: u64,
    local: u64,
}

fn kernel(entry: &Entry, module: &HashMap<String, Symbol>, shared: u64) -> Read<Kernel> {
    let mut scope = HashMap::new();
    let mut params = Vec::new();
    let mut end = 0;
    for p in &entry.params {
        let bytes = p.element * p.count.unwrap_or(1);
        end = u64::next_multiple_of(end, p.align);
        scope.insert(p.name.clone(), Symbol::Param(end as u32));
        params.push((end as u32, bytes as u32));
        end += bytes;
    }
    let mut d = Decoder {
        scopes: vec![scope],
        module,
        given: Vec::new(),
        constants: HashMap::new(),
        registers: 0,
        predicates: 1,
        insts: Vec::new(),
        labels: HashMap::new(),
        jumps: Vec::new(),
        shared,
        local: 0,
    };
    for item in &entry.body {
        d.item(item)?;
    }
    if d.shared > DEFAULT_SHARED {
        return refuse(
            1,
            format!(
                "'{}' declares {} bytes of shared memory, of which {DEFAULT_SHARED} are there",
                entry.name, d.shared
            ),
        );
    }
    let end = d.insts.len() as u32;
    d.insts.push(Inst { line: 0, guard: ALWAYS, op: Op::Exit });
    for (at, label, line) in std::mem::take(&mut d.jumps) {
        let Some(&to) = d.labels.get(&label) else { return refuse(line, format!("there is no label '{label}'")) };
        d.insts[at].op = Op::Branch { target: to.min(end), join: 0 };
    }
    flow::set_joins(&mut d.insts);
    Ok(Kernel {
        name: entry.name.clone(),
        params,
        insts: d.insts,
        registers: d.registers as usize,
        predicates: d.predicates as usize,
        given: d.given,
        shared: d.shared,
        local: d.local,
        max_threads: entry.max_threads.unwrap_or(1024),
    })
}

impl Decoder<'_> {
    fn item(&mut self, item: &Item) -> Read<()> {
        match item {
            Item::Open => self.scopes.push(HashMap::new()),
            Item::Close => {
                self.scopes.pop();
            }
            Item::Label(name) => {
                self.labels.insert(name.clone(), self.insts.len() as u32);
            }
            Item::Registers(ty, names) => {
                for (name, count) in names {
                    match count {
                        None => self.declare(name.clone(), ty),
                        Some(n) => (0..*n).for_each(|i| self.declare(format!("{name}{i}"), ty)),
                    }
                }
            }
            Item::Variable(v) => {
                let end = if v.space == "shared" { &mut self.shared } else { &mut self.local };
                let at = end.next_multiple_of(v.align);
                *end = at + v.element * v.count.unwrap_or(0);
                self.scope().insert(v.name.clone(), Symbol::At(at));
            }
            Item::Statement(s) => {
                let guard = match &s.guard {
                    None => ALWAYS,
                    Some((name, negated)) => Guard { pred: self.pred(name, s.line)?, negated: *negated },
                };
                let op = self.statement(s)?;
                self.insts.push(Inst { line: s.line, guard, op });
            }
        }
        Ok(())
    }

    fn scope(&mut self) -> &mut HashMap<String, Symbol> {
        self.scopes.last_mut().expect("the kernel's own scope stays")
    }

    fn declare(&mut self, name: String, ty: &str) {
        let symbol = if ty == ".pred" {
            self.predicates += 1;
            Symbol::Pred(self.predicates - 1)
        } else {
            Symbol::Reg(self.fresh())
        };
        self.scope().insert(name, symbol);
    }

    fn fresh(&mut self) -> Reg {
        self.registers += 1;
        self.registers - 1
    }

    fn give(&mut self, given: Given) -> Reg {
        if let Some((reg, _)) = self.given.iter().find(|(_, g)| *g == given) {
            return *reg;
        }
        let reg = self.fresh();
        self.given.push((reg, given));
        reg
    }

    fn constant(&mut self, value: u64) -> Reg {
        if let Some(&reg) = self.constants.get(&value) {
            return reg;
        }
        let reg = self.fresh();
        self.given.push((reg, Given::Constant(value)));
        self.constants.insert(value, reg);
        reg
    }

    fn symbol(&self, name: &str) -> Option<Symbol> {
        self.scopes.iter().rev().find_map(|s| s.get(name)).or_else(|| self.module.get(name)).copied()
    }

    fn pred(&self, name: &str, line: u32) -> Read<Pred> {
        match self.symbol(name) {
            Some(Symbol::Pred(p)) => Ok(p),
            _ => refuse(line, format!("'{name}' is no predicate")),
        }
    }

    fn guard(&mut self, operand: &Operand, line: u32) -> Read<Guard> {
        Ok(match operand {
            Operand::Name(name) => Guard { pred: self.pred(name, line)?, negated: false },
            Operand::Not(name) => Guard { pred: self.pred(name, line)?, negated: true },
            Operand::Int(n) => Guard { pred: 0, negated: *n == 0 },
            other => return refuse(line, format!("{other:?} is no predicate")),
        })
    }

    /// An operand that is read, as a type would write its constants.
    fn reg(&mut self, operand: &Operand, ty: Ty, line: u32) -> Read<Reg> {
        Ok(match operand {
            Operand::Int(n) if ty == Ty::F32 => self.constant(u64::from((*n as f32).to_bits())),
            Operand::Int(n) if ty == Ty::F64 => self.constant((*n as f64).to_bits()),
            Operand::Int(n) => self.constant(*n as u64),
            Operand::F32(bits) if ty == Ty::F64 => self.constant(f64::from(f32::from_bits(*bits)).to_bits()),
            Operand::F32(bits) => self.constant(u64::from(*bits)),
            Operand::F64(bits) if ty.bytes() == 4 => self.constant(u64::from((f64::from_bits(*bits) as f32).to_bits())),
            Operand::F64(bits) => self.constant(*bits),
            Operand::Name(name) => match self.symbol(name) {
                Some(Symbol::Reg(reg)) => reg,
                Some(Symbol::At(address)) => self.constant(address),
                Some(Symbol::DynamicShared) => self.give(Given::DynamicShared),
                _ => match special(name) {
                    Some(given) => self.give(given),
                    None => return refuse(line, format!("'{name}' is no register")),
                },
            },
            Operand::Sum(name, offset) => match self.symbol(name) {
                Some(Symbol::At(address)) => self.constant(address.wrapping_add_signed(*offset)),
                _ => return refuse(line, format!("'{name}' is no variable")),
            },
            other => return refuse(line, format!("{other:?} is no register")),
        })
    }

    /// An operand that is written; `_` is nowhere.
    fn into(&mut self, operand: &Operand, line: u32) -> Read<Reg> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(self.fresh()),
            Operand::Name(name) => match self.symbol(name) {
                Some(Symbol::Reg(reg)) => Ok(reg),
                _ => refuse(line, format!("'{name}' is no register")),
            },
            other => refuse(line, format!("{other:?} cannot be written")),
        }
    }

    fn list(&mut self, operand: &Operand, ty: Ty, line: u32) -> Read<Vec<Reg>> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|p| self.reg(p, ty, line)).collect(),
            one => Ok(vec![self.reg(one, ty, line)?]),
        }
    }

    fn list_into(&mut self, operand: &Operand, line: u32) -> Read<Vec<Reg>> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|p| self.into(p, line)).collect(),
            one => Ok(vec![self.into(one, line)?]),
        }
    }

    fn place(&mut self, operand: &Operand, space: Space, line: u32) -> Read<Place> {
        let Operand::Address(base, offset) = operand else { return refuse(line, format!("{operand:?} is no address")) };
        let base = match base {
            None => self.constant(0),
            Some(name) => self.reg(&Operand::Name(name.clone()), Ty::U64, line)?,
        };
        Ok(Place { space, base, offset: *offset })
    }

    fn statement(&mut self, s: &Statement) -> Read<Op> {
        let unknown = || refuse(s.line, format!("'{}' is not in the subset", s.opcode.join(".")));
        let least = match s.opcode[0].as_str() {
            "ret" | "exit" | "trap" | "membar" | "fence" | "cp" | "griddepcontrol" => 0,
            "bar" | "barrier" | "bra" | "activemask" | "prefetch" | "prefetchu" | "nanosleep" | "discard"
            | "applypriority" => 1,
            "shfl" => 5,
            "bfi" | "lop3" => 4,
            "selp" => 4,
            "mad" | "fma" | "setp" | "vote" | "redux" | "match" | "atom" | "mma" | "sad" | "prmt" | "shf" | "bfe"
            | "dp4a" => 3,
            "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor" | "shl" | "shr"
            | "copysign" => 3,
            _ => 2,
        };
        if s.operands.len() < least {
            return refuse(s.line, format!("'{}' lacks operands", s.opcode.join(".")));
        }
        let types: Vec<Ty> = s.opcode[1..].iter().filter_map(|p| Ty::of(p)).collect();
        let has = |part: &str| s.opcode[1..].iter().any(|p| p == part);
        let o = &s.operands;
        let line = s.line;
        let ty = types.first().copied();
        Ok(match s.opcode[0].as_str() {
            "ret" | "exit" => Op::Exit,
            "trap" => Op::Trap,
            "membar" | "fence" | "prefetch" | "prefetchu" | "nanosleep" | "discard" | "applypriority"
            | "griddepcontrol" => Op::Nothing,
            "bra" => {
                let Operand::Name(label) = &o[0] else { return unknown() };
                self.jumps.push((self.insts.len(), label.clone(), line));
                Op::Nothing
            }
            "bar" | "barrier" if has("warp") => Op::WarpBarrier { members: self.reg(&o[0], Ty::U32, line)? },
            "bar" | "barrier" if has("sync") => Op::BlockBarrier {
                id: self.reg(&o[0], Ty::U32, line)?,
                threads: o.get(1).map(|t| self.reg(t, Ty::U32, line)).transpose()?,
            },
            "activemask" => Op::ActiveMask { d: self.into(&o[0], line)? },
            "ld" | "ldu" => return self.load(s),
            "st" => {
                let Some(ty) = ty else { return unknown() };
                let space = space(s);
                Op::Store {
                    from: self.list(&o[1], ty, line)?,
                    place: self.place(&o[0], space, line)?,
                    ty,
                    ordered: ordered(s),
                }
            }
            "atom" | "red" => return self.atomic(s),
            "mov" => return self.mov(s, ty),
            "cvt" => return self.convert(s, &types),
            "cvta" => {
                let d = self.into(&o[0], line)?;
                let a = self.reg(&o[1], Ty::U64, line)?;
                let window = if has("shared") {
                    SHARED_WINDOW
                } else if has("local") {
                    LOCAL_WINDOW
                } else {
                    0
                };
                let b = self.constant(if has("to") { window.wrapping_neg() } else { window });
                Op::Lanes { f: lanes!(a, b, c => a.wrapping_add(b)), d, a, b, c: a }
            }
            "setp" => return self.setp(s, ty),
            "testp" => {
                let (Some(ty), Operand::Name(p)) = (ty, &o[0]) else { return unknown() };
                let Some(f) = class(&s.opcode[1], ty) else { return unknown() };
                let a = self.reg(&o[1], ty, line)?;
                Op::Compare { f, p: self.pred(p, line)?, q: None, a, b: a, logic: Logic::Same, other: ALWAYS }
            }
            "selp" => {
                let Some(ty) = ty else { return unknown() };
                Op::Select {
                    d: self.into(&o[0], line)?,
                    a: self.reg(&o[1], ty, line)?,
                    b: self.reg(&o[2], ty, line)?,
                    p: self.guard(&o[3], line)?,
                }
            }
            "and" | "or" | "xor" | "not" if ty == Some(Ty::Pred) => {
                let Operand::Name(p) = &o[0] else { return unknown() };
                let p = self.pred(p, line)?;
                let a = self.guard(&o[1], line)?;
                match s.opcode[0].as_str() {
                    "not" => Op::Logic { logic: Logic::Same, p, a: Guard { negated: !a.negated, ..a }, b: a },
                    name => Op::Logic { logic: logic(name).expect("one of three"), p, a, b: self.guard(&o[2], line)? },
                }
            }
            "shfl" => {
                let how = match s.opcode.get(2).map(String::as_str) {
                    Some("up") => Shuffle::Up,
                    Some("down") => Shuffle::Down,
                    Some("bfly") => Shuffle::Butterfly,
                    Some("idx") => Shuffle::Index,
                    _ => return unknown(),
                };
                let (d, p) = match &o[0] {
                    Operand::Pair(d, p) => (self.into(&Operand::Name(d.clone()), line)?, Some(self.pred(p, line)?)),
                    one => (self.into(one, line)?, None),
                };
                let [a, b, c, members] = [1, 2, 3, 4].map(|i| self.reg(&o[i], Ty::U32, line));
                Op::Shuffle { d, p, a: a?, b: b?, c: c?, members: members?, how }
            }
            "vote" => {
                let a = self.guard(&o[1], line)?;
                let members = self.reg(&o[2], Ty::U32, line)?;
                if has("ballot") {
                    return Ok(Op::Ballot { d: self.into(&o[0], line)?, a, members });
                }
                let how = if has("all") {
                    Vote::All
                } else if has("any") {
                    Vote::Any
                } else if has("uni") {
                    Vote::Uniform
                } else {
                    return unknown();
                };
                let Operand::Name(p) = &o[0] else { return unknown() };
                Op::Vote { p: self.pred(p, line)?, a, members, how }
            }
            "match" if has("any") => {
                let Some(ty) = ty else { return unknown() };
                Op::Match {
                    d: self.into(&o[0], line)?,
                    a: self.reg(&o[1], ty, line)?,
                    members: self.reg(&o[2], Ty::U32, line)?,
                    ty,
                }
            }
            "redux" => {
                let Some(ty @ (Ty::U32 | Ty::S32 | Ty::B32)) = ty else { return unknown() };
                let Some(name) = s.opcode.get(2) else { return unknown() };
                let Some(f) = operation(name, ty, Flags::default()) else { return unknown() };
                let identity = match (name.as_str(), ty) {
                    ("add" | "or" | "xor", _) | ("max", Ty::U32) => 0,
                    ("and", _) | ("min", Ty::U32) => u64::from(u32::MAX),
                    ("min", _) => i32::MAX as u64,
                    ("max", _) => i32::MIN as u64,
                    _ => return unknown(),
                };
                Op::Reduce {
                    d: self.into(&o[0], line)?,
                    a: self.reg(&o[1], ty, line)?,
                    members: self.reg(&o[2], Ty::U32, line)?,
                    f,
                    identity,
                }
            }
            "cp" => return self.copy(s),
            "ldmatrix" => {
                let into = self.list_into(&o[0], line)?;
                let count = if has("x4") {
                    4
                } else if has("x2") {
                    2
                } else {
                    1
                };
                if into.len() != count || !has("sync") || !has("aligned") || !has("m8n8") || !has("b16") {
                    return unknown();
                }
                let space = space(s);
                Op::LoadMatrix { into, place: self.place(&o[1], space, line)?, transposed: has("trans") }
            }
            "mma" => return self.mma(s, &types),
            "lop3" => {
                let (Operand::Int(table), Some(_)) = (o.get(4).unwrap_or(&o[0]), ty) else { return unknown() };
                let table = *table as u8;
                let d = self.into(&o[0], line)?;
                let [a, b, c] = [1, 2, 3].map(|i| self.reg(&o[i], Ty::B32, line));
                Op::Lop3 { d, a: a?, b: b?, c: c?, table }
            }
            "bfi" => {
                let (Some(ty), Some(length)) = (ty, o.get(4)) else { return unknown() };
                let d = self.into(&o[0], line)?;
                let [field, into, start] = [1, 2, 3].map(|i| self.reg(&o[i], ty, line));
                Op::Insert {
                    d,
                    field: field?,
                    into: into?,
                    start: start?,
                    length: self.reg(length, Ty::U32, line)?,
                    bits: 8 * ty.bytes(),
                }
            }
            name => {
                let Some(ty) = types.last().copied() else { return unknown() };
                let name = match name {
                    "shf" if has("l") => "shf_l",
                    "shf" if has("r") => "shf_r",
                    other => other,
                };
                let Some(f) = operation(name, ty, flags(s)) else { return unknown() };
                let d = self.into(&o[0], line)?;
                // The shift amount is an u32 whatever the type, and an addend may be wider: constants do not care.
                let mut operands = [0; 3];
                for i in 0..3 {
                    operands[i] = match o.get(i + 1) {
                        Some(operand) => self.reg(operand, ty, line)?,
                        None => operands[0],
                    };
                }
                let [a, b, c] = operands;
                Op::Lanes { f, d, a, b, c }
            }
        })
    }

    fn load(&mut self, s: &Statement) -> Read<Op> {
        let o = &s.operands;
        let Some(ty) = s.opcode.last().and_then(|t| Ty::of(t)) else { return refuse(s.line, "a load has a type") };
        let into = self.list_into(&o[0], s.line)?;
        if s.opcode.iter().any(|p| p == "param") {
            let Operand::Address(Some(name), offset) = &o[1] else { return refuse(s.line, "a parameter has a name") };
            let Some(Symbol::Param(at)) = self.symbol(name) else {
                return refuse(s.line, format!("'{name}' is no parameter"));
            };
            let [d] = into[..] else { return refuse(s.line, "vectors of parameters are not in the subset") };
            let offset = at.wrapping_add_signed(*offset as i32);
            let a = self.give(Given::Param { offset, bytes: ty.bytes(), signed: ty.signed() });
            return Ok(Op::Lanes { f: lanes!(a, b, c => a), d, a, b: a, c: a });
        }
        let space = space(s);
        Ok(Op::Load { into, place: self.place(&o[1], space, s.line)?, ty, ordered: ordered(s) })
    }

    fn mov(&mut self, s: &Statement, ty: Option<Ty>) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let Some(ty) = ty else { return refuse(line, "a mov has a type") };
        let bits = 8 * ty.bytes();
        Ok(match (&o[0], &o[1]) {
            (Operand::Name(p), a) if ty == Ty::Pred => {
                let a = self.guard(a, line)?;
                Op::Logic { logic: Logic::Same, p: self.pred(p, line)?, a, b: a }
            }
            (d, Operand::Vector(parts)) => {
                let bits = bits / parts.len() as u32;
                let parts = parts.iter().map(|p| self.reg(p, ty, line)).collect::<Read<_>>()?;
                Op::Pack { d: self.into(d, line)?, parts, bits }
            }
            (Operand::Vector(parts), a) => {
                let bits = bits / parts.len() as u32;
                let parts = parts.iter().map(|p| self.into(p, line)).collect::<Read<_>>()?;
                Op::Unpack { parts, a: self.reg(a, ty, line)?, bits }
            }
            (d, a) => {
                let d = self.into(d, line)?;
                let a = self.reg(a, ty, line)?;
                Op::Lanes { f: lanes!(a, b, c => a), d, a, b: a, c: a }
            }
        })
    }

    fn convert(&mut self, s: &Statement, types: &[Ty]) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let &[to, from] = types else { return refuse(line, "a cvt has two types") };
        let flags = flags(s);
        let integral = s.opcode.iter().any(|p| matches!(p.as_str(), "rni" | "rzi" | "rmi" | "rpi"));
        if from.float() && !to.float() && !integral {
            return refuse(line, "a cvt to an integer needs .rni, .rzi, .rmi or .rpi");
        }
        let narrows = from.float() && to.float() && to.bytes() < from.bytes() || to.float() && !from.float();
        if narrows && flags.rounding.is_none() {
            return refuse(line, "a cvt that narrows needs a rounding");
        }
        let d = self.into(&o[0], line)?;
        let conversion = Conversion {
            to,
            from,
            rounding: flags.rounding.unwrap_or(Rounding::Near),
            integral,
            saturate: flags.saturate,
            flush: flags.flush,
            relu: flags.relu,
        };
        if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
            let Some(low) = o.get(2) else { return refuse(line, "a pair has two numbers") };
            let high = self.reg(&o[1], from, line)?;
            return Ok(Op::ConvertPair { conversion, d, high, low: self.reg(low, from, line)? });
        }
        let a = self.reg(&o[1], from, line)?;
        if !to.float() && !from.float() && !flags.saturate {
            let narrow = if from.bytes() < to.bytes() { from } else { to };
            let f: Option<LaneFn> = with_int!(narrow, T => lanes!(a, b, c => a as T as u64));
            if let Some(f) = f {
                return Ok(Op::Lanes { f, d, a, b: a, c: a });
            }
        }
        Ok(Op::Convert { conversion, d, a })
    }

    fn setp(&mut self, s: &Statement, ty: Option<Ty>) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let found = ty.and_then(|ty| comparison(&s.opcode[1], ty, flags(s).flush).map(|f| (f, ty)));
        let Some((f, ty)) = found else {
            return refuse(line, format!("'{}' is not in the subset", s.opcode.join(".")));
        };
        let (p, q) = match &o[0] {
            Operand::Pair(p, q) => (self.pred(p, line)?, Some(self.pred(q, line)?)),
            Operand::Name(p) => (self.pred(p, line)?, None),
            other => return refuse(line, format!("{other:?} is no predicate")),
        };
        let (logic, other) = match o.get(3) {
            None => (Logic::Same, ALWAYS),
            Some(other) => match s.opcode.get(2).and_then(|name| logic(name)) {
                Some(l) => (l, self.guard(other, line)?),
                None => return refuse(line, "a third predicate needs .and, .or or .xor"),
            },
        };
        let a = self.reg(&o[1], ty, line)?;
        Ok(Op::Compare { f, p, q, a, b: self.reg(&o[2], ty, line)?, logic, other })
    }

    fn atomic(&mut self, s: &Statement) -> Read<Op> {
        let unknown = || refuse(s.line, format!("'{}' is not in the subset", s.opcode.join(".")));
        let find = |names: &[&str]| s.opcode[1..].iter().find(|p| names.contains(&p.as_str())).cloned();
        let Some(ty) = s.opcode.last().and_then(|t| Ty::of(t)) else { return unknown() };
        let op = match find(&["add", "min", "max", "and", "or", "xor", "exch", "cas"]).as_deref() {
            Some("add") => Atomic::Add,
            Some("min") => Atomic::Min,
            Some("max") => Atomic::Max,
            Some("and") => Atomic::And,
            Some("or") => Atomic::Or,
            Some("xor") => Atomic::Xor,
            Some("exch") => Atomic::Exchange,
            Some("cas") => Atomic::CompareExchange,
            _ => return unknown(),
        };
        let returns = s.opcode[0] == "atom";
        let (d, rest) = if returns {
            (Some(self.into(&s.operands[0], s.line)?), &s.operands[1..])
        } else {
            (None, &s.operands[..])
        };
        if rest.len() != if op == Atomic::CompareExchange { 3 } else { 2 } || matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            return unknown();
        }
        let place = self.place(&rest[0], space(s), s.line)?;
        let a = self.reg(&rest[1], ty, s.line)?;
        let b = rest.get(2).map_or(Ok(a), |b| self.reg(b, ty, s.line))?;
        Ok(Op::Atomic { d, place, a, b, ty, op })
    }

    fn copy(&mut self, s: &Statement) -> Read<Op> {
        let (o, line) = (&s.operands, s.line);
        let parts: Vec<&str> = s.opcode[1..].iter().map(String::as_str).collect();
        Ok(match parts[..] {
            ["async", "commit_group"] => Op::CopyCommit,
            ["async", "wait_all"] => Op::CopyWait(None),
            ["async", "wait_group"] => match o.first() {
                Some(Operand::Int(n)) => Op::CopyWait(Some(*n as u32)),
                _ => return refuse(line, "cp.async.wait_group takes a number"),
            },
            ["async", cache, "shared" | "shared::cta", "global"]
            | ["async", cache, "shared" | "shared::cta", "global", "L2::64B" | "L2::128B" | "L2::256B"] => {
                let (Some(Operand::Int(bytes)), 3 | 4) = (o.get(2), o.len()) else {
                    return refuse(line, "cp.async takes two addresses and a size");
                };
                let bytes = *bytes as u32;
                if !matches!((cache, bytes), ("ca", 4 | 8 | 16) | ("cg", 16)) {
                    return refuse(line, format!("cp.async.{cache} cannot copy {bytes} bytes"));
                }
                let to = self.place(&o[0], Space::Shared, line)?;
                let from = self.place(&o[1], Space::Global, line)?;
                let valid = o.get(3).map(|v| self.reg(v, Ty::U32, line)).transpose()?;
                Op::Copy { to, from, bytes, valid }
            }
            _ => return refuse(line, format!("'{}' is not in the subset", s.opcode.join("."))),
        })
    }

    fn mma(&mut self, s: &Statement, types: &[Ty]) -> Read<Op> {
        let unknown = || refuse(s.line, format!("'{}' is not in the subset", s.opcode.join(".")));
        let kind = |ty| match ty {
            Ty::F16 => Some(Multiplicand::Half),
            Ty::Bf16 => Some(Multiplicand::Brain),
            Ty::Tf32 => Some(Multiplicand::Tensor),
            Ty::S8 => Some(Multiplicand::Byte { signed: true }),
            Ty::U8 => Some(Multiplicand::Byte { signed: false }),
            _ => None,
        };
        // A is by rows and B by columns in all shapes; sums of bytes wrap.
        let shape = match s.opcode[1..].iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["sync", "aligned", shape, "row", "col", _, _, _, _] => shape,
            _ => return unknown(),
        };
        let k = shape.strip_prefix("m16n8k").and_then(|k| k.parse().ok());
        let (&[to, a, b, from], Some(k), 4) = (types, k, s.operands.len()) else { return unknown() };
        let (Some(left), Some(right)) = (kind(a), kind(b)) else { return unknown() };
        let bytes = |m| matches!(m, Multiplicand::Byte { .. });
        let Some((na, nb)) = matrix::registers(left, k) else { return unknown() };
        let half = to == Ty::F16 && left == Multiplicand::Half;
        let sums = if bytes(left) {
            Ty::S32
        } else if half {
            Ty::F16
        } else {
            Ty::F32
        };
        if to != sums || from != sums || !(left == right || bytes(left) && bytes(right)) {
            return unknown();
        }
        let d = self.list_into(&s.operands[0], s.line)?;
        let [a, b, c] = [1, 2, 3].map(|i| self.list(&s.operands[i], Ty::B32, s.line));
        let (a, b, c) = (a?, b?, c?);
        let nc = if half { 2 } else { 4 };
        if (d.len(), a.len(), b.len(), c.len()) != (nc, na, nb, nc) {
            return refuse(s.line, "an operand of mma has another number of registers");
        }
        Ok(Op::Multiply { d, a, b, c, types: (left, right), half })
    }
}

fn logic(name: &str) -> Option<Logic> {
    Some(match name {
        "and" => Logic::And,
        "or" => Logic::Or,
        "xor" => Logic::Xor,
        _ => return None,
    })
}

fn space(s: &Statement) -> Space {
    let mut parts = s.opcode[1..].iter().map(String::as_str);
    parts
        .find_map(|p| match p {
            "global" | "const" => Some(Space::Global),
            "shared" | "shared::cta" => Some(Space::Shared),
            "local" => Some(Space::Local),
            _ => None,
        })
        .unwrap_or(Space::Generic)
}

/// Whether the access takes part in the memory order by itself.
fn ordered(s: &Statement) -> bool {
    s.opcode.iter().any(|p| matches!(p.as_str(), "relaxed" | "acquire" | "release" | "volatile"))
}

fn flags(s: &Statement) -> Flags {
    let mut flags = Flags::default();
    for part in &s.opcode[1..] {
        match part.as_str() {
            "rn" | "rni" => flags.rounding = Some(Rounding::Near),
            "rz" | "rzi" => flags.rounding = Some(Rounding::Zero),
            "rm" | "rmi" => flags.rounding = Some(Rounding::Down),
            "rp" | "rpi" => flags.rounding = Some(Rounding::Up),
            "rna" => flags.rounding = Some(Rounding::Away),
            "ftz" => flags.flush = true,
            "sat" | "satfinite" => flags.saturate = true,
            "relu" => flags.relu = true,
            "NaN" => flags.nan = true,
            "hi" => flags.hi = true,
            "wide" => flags.wide = true,
            "clamp" => flags.clamp = true,
            _ => {}
        }
    }
    flags
}

fn special(name: &str) -> Option<Given> {
    let axis = |rest: &str| {
        Some(match rest {
            "x" => 0,
            "y" => 1,
            "z" => 2,
            _ => return None,
        })
    };
    Some(match name {
        "%laneid" => Given::Lane,
        "%warpid" => Given::WarpInBlock,
        "%clock" | "%clock64" => Given::Clock,
        "%lanemask_lt" => Given::LaneMaskBelow,
        "WARP_SZ" => Given::Constant(32),
        _ => match name.split_once('.')? {
            ("%tid", rest) => Given::Thread(axis(rest)?),
            ("%ntid", rest) => Given::Threads(axis(rest)?),
            ("%ctaid", rest) => Given::Block(axis(rest)?),
            ("%nctaid", rest) => Given::Blocks(axis(rest)?),
            _ => return None,
        },
    })
}
