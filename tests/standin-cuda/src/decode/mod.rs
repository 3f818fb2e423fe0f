//! Statements to instructions: names to numbers, opcodes to functions.
//!
//! After: every operand is a register or predicate by number; constants, parameters and special registers are registers
//! that the launch fills. What is not in the subset is an error here, never one at run time.

use std::collections::{HashMap, HashSet};

use crate::flow;
use crate::kernel::{Given, Guard, Inst, Kernel, Module, Op, Place, Pred, Reg, Space};
use crate::launch::{DEFAULT_SHARED, max_shared};
use crate::memory::Memory;
use crate::tensor::PARAM_WINDOW;
use crate::text::{Entry, Item, Operand, Read, Refusal, Source, Variable, refuse};
use crate::types::Ty;

mod groups;
mod memory;
mod statement;

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
    let kernels =
        source.entries.iter().map(|e| kernel(e, &symbols, shared, max_shared(target))).collect::<Read<Vec<_>>>()?;
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
    /// Registers that the present statement names.
    used: Vec<Reg>,
}

fn kernel(entry: &Entry, module: &HashMap<String, Symbol>, shared: u64, most_shared: u64) -> Read<Kernel> {
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
        used: Vec::new(),
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
    d.insts.push(Inst { line: 0, guard: ALWAYS, op: Op::Exit, sums: Vec::new() });
    for (at, label, line) in std::mem::take(&mut d.jumps) {
        let Some(&to) = d.labels.get(&label) else { return refuse(line, format!("there is no label '{label}'")) };
        d.insts[at].op = Op::Branch { target: to.min(end), join: 0 };
    }
    flow::set_joins(&mut d.insts);
    let products = d.insts.iter().filter_map(|inst| match &inst.op {
        Op::Product(product) => Some(&product.sums),
        _ => None,
    });
    let sums: HashSet<Reg> = products.flatten().copied().collect();
    for inst in &mut d.insts {
        let own = matches!(inst.op, Op::Product(_));
        inst.sums.retain(|reg| !own && sums.contains(reg));
        inst.sums.shrink_to_fit();
    }
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
        most_shared,
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
                let sums = std::mem::take(&mut self.used);
                self.insts.push(Inst { line: s.line, guard, op, sums });
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
                Some(Symbol::Reg(reg)) => {
                    self.used.push(reg);
                    reg
                }
                Some(Symbol::At(address)) => self.constant(address),
                Some(Symbol::DynamicShared) => self.give(Given::DynamicShared),
                Some(Symbol::Param(offset)) => self.constant(PARAM_WINDOW + u64::from(offset)),
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
                Some(Symbol::Reg(reg)) => {
                    self.used.push(reg);
                    Ok(reg)
                }
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
