//! Verifies kernels: structure, visibility of values, types and lanes, addresses and access rules. What only a run can
//! show, that accesses stay in their buffers, the interpreter checks.

mod tiles;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use cranelift_entity::SecondaryMap;

use super::{Access, Address, Block, Buffer, INDEX, Inst, InstData, Kernel, LaneType, LoopKind, Stride, Val, print};
use crate::dtype::DType;
use crate::scalar::BinaryOp;

/// What is wrong with a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The kernel's name.
    pub kernel: String,
    /// Each violation with its instruction, if it has one.
    pub problems: Vec<(Option<Inst>, String)>,
    /// The kernel's text with the violations as comments below their instructions; empty if it cannot be printed.
    pub text: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel `{}` is invalid", self.kernel)?;
        for (_, message) in &self.problems {
            write!(f, "\n  {message}")?;
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, "\n{}", self.text) }
    }
}

impl std::error::Error for VerifyError {}

/// Checks a kernel.
pub fn verify(kernel: &Kernel) -> Result<(), VerifyError> {
    let mut verifier = Verifier {
        kernel,
        problems: Vec::new(),
        visible: SecondaryMap::new(),
        defined: SecondaryMap::new(),
        seen_blocks: SecondaryMap::new(),
        seen_insts: SecondaryMap::new(),
        constants: SecondaryMap::new(),
    };
    let printable = verifier.references();
    if printable {
        verifier.buffers();
        let params: Vec<LaneType> = kernel.blocks[kernel.body].params.iter().map(|&v| kernel.ty(v)).collect();
        if params != [INDEX; 3] {
            verifier.problems.push((None, "the body takes (begin, end, worker) as i64".into()));
        }
        if verifier.block(kernel.body, None).is_some_and(|yielded| !yielded.is_empty()) {
            verifier.problems.push((None, "the body yields nothing".into()));
        }
    }
    let problems = verifier.problems;
    if problems.is_empty() {
        return Ok(());
    }
    let mut notes: HashMap<Inst, Vec<String>> = HashMap::new();
    for (inst, message) in &problems {
        if let Some(inst) = inst {
            notes.entry(*inst).or_default().push(message.clone());
        }
    }
    let text = if printable { print::annotated(kernel, &notes) } else { String::new() };
    Err(VerifyError { kernel: kernel.name.clone(), problems, text })
}

struct Verifier<'k> {
    kernel: &'k Kernel,
    problems: Vec<(Option<Inst>, String)>,
    visible: SecondaryMap<Val, bool>,
    defined: SecondaryMap<Val, bool>,
    seen_blocks: SecondaryMap<Block, bool>,
    seen_insts: SecondaryMap<Inst, bool>,
    constants: SecondaryMap<Val, bool>,
}

impl<'k> Verifier<'k> {
    fn fail(&mut self, inst: Inst, message: impl Into<String>) {
        self.problems.push((Some(inst), message.into()));
    }

    /// Whether all references are in range and blocks form a tree, so that the rest can look things up and print.
    fn references(&mut self) -> bool {
        let kernel = self.kernel;
        let mut bad = |message: String| self.problems.push((None, message));
        let mut owners: SecondaryMap<Block, u32> = SecondaryMap::new();
        if !kernel.blocks.is_valid(kernel.body) {
            bad(format!("the body {} does not exist", kernel.body));
            return false;
        }
        owners[kernel.body] += 1;
        let mut fine = true;
        for (inst, record) in &kernel.insts {
            let mut check = |ok: bool, what: String| {
                if !ok {
                    bad(format!("{inst} refers to {what}, which does not exist"));
                    fine = false;
                }
            };
            record.data.for_each_operand(|v| check(kernel.vals.is_valid(v), v.to_string()));
            record.results.iter().for_each(|&v| check(kernel.vals.is_valid(v), v.to_string()));
            for block in record.data.blocks() {
                check(kernel.blocks.is_valid(block), block.to_string());
                owners[block] += 1;
            }
            for buffer in buffers_of(&record.data) {
                check(kernel.buffers.is_valid(buffer), buffer.to_string());
            }
        }
        for (block, data) in &kernel.blocks {
            if owners[block] > 1 {
                bad(format!("{block} has more than one owner"));
                fine = false;
            }
            if !data.params.iter().all(|&v| kernel.vals.is_valid(v))
                || !data.insts.iter().all(|&i| kernel.insts.is_valid(i))
            {
                bad(format!("{block} refers to what does not exist"));
                fine = false;
            }
        }
        // An instruction that a block below it holds would make the walk endless.
        fine && self.is_tree(kernel.body)
    }

    fn is_tree(&mut self, block: Block) -> bool {
        let kernel = self.kernel;
        for &inst in &kernel.blocks[block].insts {
            if std::mem::replace(&mut self.seen_insts[inst], true) {
                self.problems.push((None, format!("{inst} is in more than one place")));
                return false;
            }
            if !kernel.insts[inst].data.blocks().into_iter().all(|inner| self.is_tree(inner)) {
                return false;
            }
        }
        true
    }

    fn buffers(&mut self) {
        let mut scratch = false;
        for (buffer, data) in &self.kernel.buffers {
            let mut bad = |message: &str| self.problems.push((None, format!("{buffer} `{}` {message}", data.name)));
            if matches!(data.dtype, DType::String | DType::C64 | DType::C128) {
                bad("has elements that the Loop IR has no values for");
            }
            match data.access {
                Access::Scratch if data.len.is_none() => bad("is scratch of unknown extent"),
                Access::Read | Access::Write if scratch => bad("is an argument behind scratch"),
                _ => {}
            }
            scratch |= data.access == Access::Scratch;
            if let Some(read) = data.in_place {
                match self.kernel.buffers.get(read) {
                    Some(r) if r.access == Access::Read && r.dtype == data.dtype && data.access == Access::Write => {}
                    _ => bad("is in place of what is no input of its type"),
                }
            }
        }
    }

    fn define(&mut self, val: Val, inst: Option<Inst>) {
        if std::mem::replace(&mut self.defined[val], true) {
            self.problems.push((inst, format!("{val} is defined twice")));
        }
        if self.kernel.ty(val).lanes == 0 {
            self.problems.push((inst, format!("{val} has no lanes")));
        }
        if matches!(self.kernel.ty(val).dtype, DType::String | DType::C64 | DType::C128) {
            self.problems.push((inst, format!("{val} has a type that the Loop IR has no values for")));
        }
        self.visible[val] = true;
    }

    /// Checks a block and gives the types that it yields, if it ends in a yield.
    fn block(&mut self, block: Block, owner: Option<Inst>) -> Option<Vec<LaneType>> {
        let kernel = self.kernel;
        if std::mem::replace(&mut self.seen_blocks[block], true) {
            self.problems.push((owner, format!("{block} is in more than one place")));
            return None;
        }
        let data = &kernel.blocks[block];
        let mut own: Vec<Val> = data.params.to_vec();
        data.params.iter().for_each(|&v| self.define(v, owner));
        let mut yielded = None;
        for (i, &inst) in data.insts.iter().enumerate() {
            let record = &kernel.insts[inst];
            let mut hidden = Vec::new();
            record.data.for_each_operand(|v| {
                if !self.visible[v] {
                    hidden.push(v);
                }
            });
            for val in hidden {
                self.fail(inst, format!("{val} is not visible here"));
            }
            if let InstData::Yield(vals) = &record.data {
                if i + 1 != data.insts.len() {
                    self.fail(inst, "a yield ends its block");
                }
                if !record.results.is_empty() {
                    self.fail(inst, "a yield has no result");
                }
                yielded = Some(vals.iter().map(|&v| kernel.ty(v)).collect());
                break;
            }
            self.inst(inst);
            record.results.iter().for_each(|&v| self.define(v, Some(inst)));
            own.extend(&record.results);
        }
        if yielded.is_none() {
            self.problems.push((owner, format!("{block} does not end in a yield")));
        }
        own.iter().for_each(|&v| self.visible[v] = false);
        yielded
    }

    fn expect(&mut self, inst: Inst, what: &str, got: LaneType, expected: LaneType) {
        if got != expected {
            self.fail(inst, format!("{what} is {got}, not {expected}"));
        }
    }

    fn address(&mut self, inst: Inst, address: &Address) {
        for (i, &(val, stride)) in address.terms.iter().enumerate() {
            self.expect(inst, "an index", self.kernel.ty(val), INDEX);
            if let Stride::Value(stride) = stride {
                self.expect(inst, "a stride", self.kernel.ty(stride), INDEX);
            }
            if address.terms[..i].iter().any(|(v, _)| *v == val) {
                self.fail(inst, format!("{val} appears twice in the address"));
            }
        }
    }

    fn count(&mut self, inst: Inst, count: Option<Val>) {
        if let Some(count) = count {
            self.expect(inst, "the count", self.kernel.ty(count), INDEX);
        }
    }

    fn indices(&mut self, inst: Inst, indices: Val, lanes: u16) {
        self.expect(inst, "the index vector", self.kernel.ty(indices), LaneType::vector(DType::I64, lanes));
    }

    fn stored(&mut self, inst: Inst, buffer: Buffer, value: Val) {
        let data = &self.kernel.buffers[buffer];
        let ty = self.kernel.ty(value);
        self.expect(inst, "the stored value", ty, LaneType::vector(data.dtype, ty.lanes));
        if data.access == Access::Read {
            self.fail(inst, format!("{buffer} `{}` is only read", data.name));
        }
    }

    fn inst(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let ty = |v: Val| kernel.ty(v);
        let results: Vec<LaneType> = record.results.iter().map(|&v| ty(v)).collect();
        let expected_results = match &record.data {
            InstData::Store { .. } | InstData::Scatter { .. } | InstData::Prefetch { .. } => Some(0),
            InstData::Tile(_) | InstData::Attend(_) => Some(0),
            InstData::For { .. } | InstData::While { .. } | InstData::If { .. } | InstData::Yield(_) => None,
            _ => Some(1),
        };
        if expected_results.is_some_and(|n| n != results.len()) {
            self.fail(inst, format!("has {} results", results.len()));
            return;
        }
        let result = results.first().copied().unwrap_or(INDEX);
        match &record.data {
            InstData::Const(c) => {
                self.expect(inst, "the result", result, LaneType { dtype: c.dtype, lanes: result.lanes });
                if c.dtype.bits() < 64 && c.bits >> c.dtype.bits() != 0 {
                    self.fail(inst, "the constant has more bits than its type");
                }
                self.constants[record.results[0]] = true;
            }
            InstData::Param(n) => {
                self.expect(inst, "the result", result, INDEX);
                if *n as usize >= kernel.params.len() {
                    self.fail(inst, format!("the kernel has {} parameters", kernel.params.len()));
                }
            }
            InstData::Iota => {
                if !matches!(result.dtype, DType::I64 | DType::I32) {
                    self.fail(inst, "iota is of i64 or i32");
                }
            }
            InstData::Unary(op, a) => {
                if !op.accepts(ty(*a).dtype) {
                    self.fail(inst, format!("there is no {} of {}", op.name(), ty(*a).dtype));
                }
                self.expect(inst, "the result", result, ty(*a));
            }
            InstData::Binary(op, a, b) => {
                if !op.accepts(ty(*a).dtype) {
                    self.fail(inst, format!("there is no {} of {}", op.name(), ty(*a).dtype));
                }
                self.expect(inst, "the second operand", ty(*b), ty(*a));
                self.expect(inst, "the result", result, ty(*a));
            }
            InstData::Compare(_, a, b) => {
                self.expect(inst, "the second operand", ty(*b), ty(*a));
                self.expect(inst, "the result", result, LaneType::vector(DType::Bool, ty(*a).lanes));
            }
            InstData::Select(mask, a, b) => {
                self.expect(inst, "the mask", ty(*mask), LaneType::vector(DType::Bool, ty(*a).lanes));
                self.expect(inst, "the second choice", ty(*b), ty(*a));
                self.expect(inst, "the result", result, ty(*a));
            }
            InstData::MulAdd { a, b, acc, .. } => {
                if !BinaryOp::Mul.accepts(ty(*acc).dtype) {
                    self.fail(inst, format!("there is no multiply-add of {}", ty(*acc).dtype));
                }
                self.expect(inst, "the first factor", ty(*a), ty(*acc));
                self.expect(inst, "the second factor", ty(*b), ty(*acc));
                self.expect(inst, "the result", result, ty(*acc));
            }
            InstData::Dot4 { a, b, acc, types } => {
                if types.iter().any(|t| !is_byte(*t)) {
                    self.fail(inst, "the numbers of a dot product are i8 or u8");
                }
                let words = LaneType { dtype: DType::I32, ..result };
                for (what, of) in [("the first factor", a), ("the second factor", b), ("the accumulator", acc)] {
                    self.expect(inst, what, ty(*of), words);
                }
                self.expect(inst, "the result", result, words);
            }
            InstData::Cast(a) => self.expect(inst, "the result", result, LaneType { lanes: ty(*a).lanes, ..result }),
            InstData::Bitcast(a) => {
                let from = ty(*a);
                self.expect(inst, "the result", result, LaneType { lanes: from.lanes, ..result });
                if from.dtype.bits() != result.dtype.bits() || from.dtype == DType::Bool || result.dtype == DType::Bool
                {
                    self.fail(inst, format!("{} and {} do not share a representation", from.dtype, result.dtype));
                }
            }
            InstData::Splat(a) => self.expect(inst, "the operand", ty(*a), LaneType::scalar(result.dtype)),
            InstData::ReduceLanes(op, a) => {
                use BinaryOp::*;
                let from = ty(*a);
                if !matches!(op, Add | Mul | Min | Max | And | Or | Xor) || !op.accepts(from.dtype) {
                    self.fail(inst, format!("lanes of {} do not combine by {}", from.dtype, op.name()));
                }
                if !from.lanes.is_power_of_two() {
                    self.fail(inst, "lanes that are combined pair up: their number is a power of two");
                }
                self.expect(inst, "the result", result, LaneType::scalar(from.dtype));
            }
            InstData::Extract(a, lane) => {
                if *lane >= ty(*a).lanes {
                    self.fail(inst, format!("{a} has {} lanes", ty(*a).lanes));
                }
                self.expect(inst, "the result", result, LaneType::scalar(ty(*a).dtype));
            }
            InstData::Shuffle(a, b, lanes) => {
                self.expect(inst, "the second operand", ty(*b), ty(*a));
                let available = u32::from(ty(*a).lanes) * 2;
                if lanes.iter().any(|&l| u32::from(l) >= available) {
                    self.fail(inst, format!("the operands have {available} lanes"));
                }
                let count = u16::try_from(lanes.len()).unwrap_or(u16::MAX);
                self.expect(inst, "the result", result, LaneType::vector(ty(*a).dtype, count));
            }
            InstData::Load { buffer, address, count } => {
                self.address(inst, address);
                self.count(inst, *count);
                let dtype = kernel.buffers[*buffer].dtype;
                if is_byte(dtype) && result.dtype == DType::I32 {
                    if count.is_some() {
                        self.fail(inst, "words are loaded without a count");
                    }
                } else {
                    self.expect(inst, "the result", result, LaneType { dtype, ..result });
                }
            }
            InstData::LoadSplat { buffer, address } => {
                self.address(inst, address);
                let dtype = kernel.buffers[*buffer].dtype;
                if !(is_byte(dtype) && result.dtype == DType::I32) {
                    self.expect(inst, "the result", result, LaneType { dtype, ..result });
                }
            }
            InstData::Gather { buffer, address, indices, count } => {
                self.address(inst, address);
                self.count(inst, *count);
                self.indices(inst, *indices, result.lanes);
                let dtype = kernel.buffers[*buffer].dtype;
                self.expect(inst, "the result", result, LaneType { dtype, ..result });
            }
            InstData::Store { buffer, address, value, count } => {
                self.address(inst, address);
                self.count(inst, *count);
                self.stored(inst, *buffer, *value);
            }
            InstData::Scatter { buffer, address, indices, value, count } => {
                self.address(inst, address);
                self.count(inst, *count);
                self.indices(inst, *indices, ty(*value).lanes);
                self.stored(inst, *buffer, *value);
            }
            InstData::Prefetch { address, .. } => self.address(inst, address),
            InstData::For { kind, lo, hi, step, init, body } => {
                self.expect(inst, "the start", ty(*lo), INDEX);
                self.expect(inst, "the bound", ty(*hi), INDEX);
                if *step <= 0 {
                    self.fail(inst, "the step is positive");
                }
                match kind {
                    LoopKind::Unrolled if !(self.constants[*lo] && self.constants[*hi]) => {
                        self.fail(inst, "an unrolled loop has constant bounds");
                    }
                    LoopKind::GpuBlock(axis) | LoopKind::GpuThread(axis) if *axis > 2 => {
                        self.fail(inst, "a GPU has axes 0 to 2");
                    }
                    _ => {}
                }
                let carried: Vec<LaneType> = init.iter().map(|&v| ty(v)).collect();
                let params: Vec<LaneType> = std::iter::once(INDEX).chain(carried.iter().copied()).collect();
                self.carried(inst, *body, &params, &carried, &results);
            }
            InstData::While { init, body } => {
                let carried: Vec<LaneType> = init.iter().map(|&v| ty(v)).collect();
                let yields: Vec<LaneType> =
                    std::iter::once(LaneType::scalar(DType::Bool)).chain(carried.iter().copied()).collect();
                self.carried(inst, *body, &carried, &yields, &carried);
                if results != carried {
                    self.fail(inst, "the results have the types of what is carried");
                }
            }
            InstData::If { cond, then, otherwise } => {
                self.expect(inst, "the condition", ty(*cond), LaneType::scalar(DType::Bool));
                self.carried(inst, *then, &[], &results, &results);
                self.carried(inst, *otherwise, &[], &results, &results);
            }
            InstData::Tile(tile) => self.tile(inst, tile),
            InstData::Attend(attend) => self.attend(inst, attend),
            InstData::Yield(_) => unreachable!("the block's walk handles its yield"),
        }
    }

    /// Checks an inner block's parameters and what it yields.
    fn carried(&mut self, inst: Inst, body: Block, params: &[LaneType], yields: &[LaneType], results: &[LaneType]) {
        let list = |types: &[LaneType]| types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
        let given: Vec<LaneType> = self.kernel.blocks[body].params.iter().map(|&v| self.kernel.ty(v)).collect();
        if given != params {
            self.fail(inst, format!("{body} takes ({}), not ({})", list(&given), list(params)));
        }
        if let Some(yielded) = self.block(body, Some(inst)).filter(|yielded| yielded != yields) {
            self.fail(inst, format!("{body} yields ({}), not ({})", list(&yielded), list(yields)));
        }
        if matches!(self.kernel.insts[inst].data, InstData::For { .. }) && results != yields {
            self.fail(inst, format!("the results are ({}), not ({})", list(results), list(yields)));
        }
    }
}

/// The types of which words hold four.
fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::U8)
}

fn buffers_of(data: &InstData) -> Vec<Buffer> {
    match data {
        InstData::Load { buffer, .. }
        | InstData::LoadSplat { buffer, .. }
        | InstData::Gather { buffer, .. }
        | InstData::Store { buffer, .. }
        | InstData::Scatter { buffer, .. }
        | InstData::Prefetch { buffer, .. } => vec![*buffer],
        InstData::Tile(tile) => vec![tile.lhs.buffer, tile.rhs.buffer, tile.sums],
        InstData::Attend(attend) => {
            attend.operands().into_iter().map(|operand| operand.buffer).chain([attend.sums]).collect()
        }
        _ => vec![],
    }
}
