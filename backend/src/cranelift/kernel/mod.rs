//! A legalised kernel as a Cranelift function.
//!
//! Vectors are cut into 128-bit pieces. What Cranelift has no 128-bit vectors for (8- and 16-bit types, odd lane
//! counts) and operations that it lacks on vectors go lane by lane. Masks are pieces of four 32-bit lanes of all ones or
//! zeros, whatever they were compared from. Constants are made where they are used, so that they hold no registers across
//! loops; addresses that a loop does not change are computed before it.

mod dot;
mod lanes;
mod memory;
mod narrow;
mod operations;
mod splats;

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    self, AbiParam, Function, InstBuilder, MemFlagsData, Signature, Type, UserFuncName, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetFrontendConfig};
use cranelift_entity::SecondaryMap;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::legalize::Caps;
use onnxc_ir::loops::{Block, Buffer, Inst, InstData, Kernel, LaneType, Stride, Val};
use onnxc_ir::scalar::Scalar;

use crate::machine::splats::Group;
use crate::target::{Arch, Target};

/// What Cranelift has beyond the common operations.
pub const CAPS: Caps =
    Caps { native_unary: Vec::new(), converts: &[], multiplies_bytes: true, narrow_tails_apart: false };

/// What the target adds to the common instructions.
#[derive(Clone, Copy, Debug)]
pub struct KernelOptions {
    /// Fused multiply-add is one instruction.
    pub has_fma: bool,
    /// It takes one lane of a vector for all lanes of an operand.
    pub multiplies_by_lanes: bool,
    /// Products of 16-bit lanes are added in pairs by one instruction.
    pub multiplies_pairs: bool,
}

impl KernelOptions {
    /// What a target has.
    pub fn of(target: &Target) -> KernelOptions {
        let machine = target.machine();
        KernelOptions {
            has_fma: machine.has_fma,
            multiplies_by_lanes: machine.multiplies_by_lanes,
            multiplies_pairs: target.arch() == Arch::X86,
        }
    }
}

/// Translates a kernel.
pub fn translate(
    kernel: &Kernel,
    options: KernelOptions,
    config: TargetFrontendConfig,
    context: &mut FunctionBuilderContext,
) -> Function {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params =
        [types::I64, types::I64, types::I64, types::I64, types::I64, types::I32].map(AbiParam::new).to_vec();
    let mut function = Function::with_name_signature(UserFuncName::default(), signature);
    let mut f = FunctionBuilder::new(&mut function, context);
    let entry = f.create_block();
    f.append_block_params_for_function_params(entry);
    f.switch_to_block(entry);
    f.seal_block(entry);
    let arguments = f.block_params(entry).to_vec();
    let mut this = Translate {
        kernel,
        options,
        f,
        values: SecondaryMap::new(),
        constants: SecondaryMap::new(),
        depths: SecondaryMap::new(),
        made: HashMap::new(),
        extended: HashMap::new(),
        halved: HashMap::new(),
        buffers: HashMap::new(),
        pointers: vec![HashMap::new()],
        grouped: HashMap::new(),
        params: arguments[1],
    };
    for (i, (buffer, _)) in kernel.arguments().enumerate() {
        let pointer = this.f.ins().load(types::I64, MemFlagsData::trusted(), arguments[0], i as i32 * 8);
        this.buffers.insert(buffer, pointer);
    }
    for (buffer, offset) in kernel.scratch_layout().0 {
        let pointer = this.f.ins().iadd_imm_s(arguments[4], offset as i64);
        this.buffers.insert(buffer, pointer);
    }
    let worker = this.f.ins().sextend(types::I64, arguments[5]);
    for (&param, value) in kernel.blocks[kernel.body].params.iter().zip([arguments[2], arguments[3], worker]) {
        this.values[param] = Some(vec![value]);
    }
    this.block(kernel.body);
    this.f.ins().return_(&[]);
    this.f.seal_all_blocks();
    this.f.finalize(config);
    function
}

/// A part of an address: a buffer and some of its terms.
type Partial = (Buffer, Vec<(Val, Stride)>);

/// How a value of the kernel is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One scalar for each lane.
    Lanes,
    /// Vectors of this type.
    Vectors(Type),
}

struct Translate<'k> {
    kernel: &'k Kernel,
    options: KernelOptions,
    f: FunctionBuilder<'k>,
    values: SecondaryMap<Val, Option<Vec<Value>>>,
    constants: SecondaryMap<Val, Option<Scalar>>,
    /// How many loops and branches are around a value's definition.
    depths: SecondaryMap<Val, usize>,
    /// Constants of the present block.
    made: HashMap<(Scalar, u16), Vec<Value>>,
    /// Vectors of 8- and 16-bit integers as 32-bit lanes.
    extended: HashMap<Val, Vec<Value>>,
    /// The even and the odd numbers of words, of the present block.
    halved: HashMap<(Value, DType), [Value; 2]>,
    buffers: HashMap<Buffer, Value>,
    /// Partial addresses, by open scope.
    pointers: Vec<HashMap<Partial, Value>>,
    /// Elements in all lanes that are lanes of one load, with the group's number and the lane.
    grouped: HashMap<Inst, (u32, u8)>,
    params: Value,
}

/// The type of a scalar.
fn scalar_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 => types::F32,
        DType::F64 => types::F64,
        DType::I64 | DType::U64 => types::I64,
        DType::I32 | DType::U32 => types::I32,
        DType::I16 | DType::U16 => types::I16,
        DType::I8 | DType::U8 | DType::Bool => types::I8,
        other => panic!("legalisation leaves no {other}"),
    }
}

fn shape(ty: LaneType) -> Shape {
    if ty.lanes < 2 || !ty.lanes.is_power_of_two() {
        return Shape::Lanes;
    }
    match ty.dtype {
        DType::F32 if ty.lanes >= 4 => Shape::Vectors(types::F32X4),
        DType::I32 | DType::U32 | DType::Bool if ty.lanes >= 4 => Shape::Vectors(types::I32X4),
        DType::F64 => Shape::Vectors(types::F64X2),
        DType::I64 | DType::U64 => Shape::Vectors(types::I64X2),
        _ => Shape::Lanes,
    }
}

/// How many registers hold a value.
fn pieces(ty: LaneType) -> usize {
    match shape(ty) {
        Shape::Lanes => ty.lanes.into(),
        Shape::Vectors(v) => usize::from(ty.lanes) / v.lane_count() as usize,
    }
}

/// The type of each register.
fn piece_type(ty: LaneType) -> Type {
    match shape(ty) {
        Shape::Lanes => scalar_type(ty.dtype),
        Shape::Vectors(v) => v,
    }
}

impl Translate<'_> {
    fn ty(&self, val: Val) -> LaneType {
        self.kernel.ty(val)
    }

    fn get(&mut self, val: Val) -> Vec<Value> {
        if let Some(values) = &self.values[val] {
            return values.clone();
        }
        if let Some(values) = self.extended.get(&val).cloned() {
            return self.extended_lanes(self.ty(val).dtype, &values);
        }
        let scalar = self.constants[val].expect("operands are defined before their use");
        let ty = self.ty(val);
        if let Some(values) = self.made.get(&(scalar, ty.lanes)) {
            return values.clone();
        }
        let value = match shape(ty) {
            Shape::Lanes => self.constant(scalar, ty.dtype),
            Shape::Vectors(v) => {
                // In a mask's lane, true is all ones.
                let one = match ty.dtype {
                    DType::Bool if scalar.bits != 0 => self.f.ins().iconst(v.lane_type(), 0xffff_ffff),
                    DType::Bool => self.f.ins().iconst(v.lane_type(), 0),
                    dtype => self.constant(scalar, dtype),
                };
                self.f.ins().splat(v, one)
            }
        };
        let values = vec![value; pieces(ty)];
        self.made.insert((scalar, ty.lanes), values.clone());
        values
    }

    fn get1(&mut self, val: Val) -> Value {
        self.get(val)[0]
    }

    /// A scalar constant.
    fn constant(&mut self, scalar: Scalar, dtype: DType) -> Value {
        let bits = scalar.bits;
        match dtype {
            DType::F32 => self.f.ins().f32const(f32::from_bits(bits as u32)),
            DType::F64 => self.f.ins().f64const(f64::from_bits(bits)),
            dtype => {
                let width = dtype.bits();
                // Cranelift wants immediates zero-extended from their width.
                let bits = if width == 64 { bits } else { bits & ((1 << width) - 1) };
                self.f.ins().iconst(scalar_type(dtype), bits as i64)
            }
        }
    }

    fn set(&mut self, val: Val, values: Vec<Value>) {
        self.depths[val] = self.pointers.len() - 1;
        self.values[val] = Some(values);
    }

    fn switch_to(&mut self, block: ir::Block) {
        self.f.switch_to_block(block);
        self.made.clear();
        self.halved.clear();
    }

    fn block(&mut self, block: Block) -> Vec<Vec<Value>> {
        let kernel = self.kernel;
        let groups = if self.options.multiplies_by_lanes { self.group_splats(block) } else { Vec::new() };
        let mut loaded = HashMap::new();
        for &inst in &kernel.blocks[block].insts {
            let record = &kernel.insts[inst];
            match &record.data {
                InstData::LoadSplat { .. } if self.grouped.contains_key(&inst) => {
                    let (group, lane) = self.grouped[&inst];
                    let Group { buffer, address, .. } = &groups[group as usize];
                    let vector = *loaded.entry(group).or_insert_with(|| self.load_bytes(*buffer, address));
                    let ty = self.ty(record.results[0]);
                    let splat = self.splat_lane(vector, lane, piece_type(ty));
                    self.set(record.results[0], vec![splat; pieces(ty)]);
                }
                InstData::Yield(vals) => return vals.iter().map(|&v| self.get(v)).collect(),
                InstData::Const(scalar) => self.constants[record.results[0]] = Some(*scalar),
                InstData::For { .. } => self.for_loop(inst),
                InstData::While { .. } => self.while_loop(inst),
                InstData::If { .. } => self.branch(inst),
                InstData::Store { buffer, address, value, count } => self.store(*buffer, address, *value, *count),
                InstData::Scatter { buffer, address, indices, value, count } => {
                    self.scatter(*buffer, address, *indices, *value, *count);
                }
                // Cranelift has no prefetch.
                InstData::Prefetch { .. } => {}
                InstData::Tile(_) | InstData::Attend(_) => unreachable!("schedules make tiles for GPUs only"),
                data => {
                    let (result, ty) = (record.results[0], self.ty(record.results[0]));
                    if let Some(values) = self.extended_inst(data, ty) {
                        self.extended.insert(result, values);
                    } else {
                        let values = self.inst(data, ty);
                        self.set(result, values);
                    }
                }
            }
        }
        panic!("{block} does not end in a yield");
    }

    /// Appends parameters for values of these kernel values' types.
    fn append_params(&mut self, block: ir::Block, vals: &[Val]) {
        for &val in vals {
            let ty = self.ty(val);
            let values = (0..pieces(ty)).map(|_| self.f.append_block_param(block, piece_type(ty))).collect();
            self.set(val, values);
        }
    }

    fn arguments(values: impl IntoIterator<Item = Vec<Value>>) -> Vec<ir::BlockArg> {
        values.into_iter().flatten().map(ir::BlockArg::from).collect()
    }

    fn for_loop(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let InstData::For { lo, hi, step, init, body, .. } = &record.data else { unreachable!("a loop") };
        self.prepare_addresses(*body);
        let (first, start) = (self.get1(*lo), init.iter().map(|&v| self.get(v)).collect::<Vec<_>>());
        let bound = self.get1(*hi);
        let (top, after) = (self.f.create_block(), self.f.create_block());
        let enters = self.f.ins().icmp(IntCC::SignedLessThan, first, bound);
        let over = Self::arguments(start.iter().cloned());
        let into = Self::arguments(std::iter::once(vec![first]).chain(start));
        self.f.ins().brif(enters, top, &into, after, &over);
        self.pointers.push(HashMap::new());
        self.append_params(top, &kernel.blocks[*body].params);
        self.switch_to(top);
        let index = self.get1(kernel.blocks[*body].params[0]);
        let next = self.block(*body);
        let index = self.f.ins().iadd_imm_s(index, *step);
        // A bound that is a constant is made again here; one that is a value lives through the loop.
        let bound = self.get1(*hi);
        let again = self.f.ins().icmp(IntCC::SignedLessThan, index, bound);
        let done = Self::arguments(next.iter().cloned());
        let back = Self::arguments(std::iter::once(vec![index]).chain(next));
        self.f.ins().brif(again, top, &back, after, &done);
        self.pointers.pop();
        self.append_params(after, &record.results);
        self.switch_to(after);
    }

    fn while_loop(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let InstData::While { init, body } = &record.data else { unreachable!("a loop") };
        self.prepare_addresses(*body);
        let start = init.iter().map(|&v| self.get(v)).collect::<Vec<_>>();
        let (top, after) = (self.f.create_block(), self.f.create_block());
        self.f.ins().jump(top, &Self::arguments(start));
        self.pointers.push(HashMap::new());
        self.append_params(top, &kernel.blocks[*body].params);
        self.switch_to(top);
        let mut yielded = self.block(*body);
        let again = yielded.remove(0)[0];
        let next = Self::arguments(yielded);
        self.f.ins().brif(again, top, &next, after, &next);
        self.pointers.pop();
        self.append_params(after, &record.results);
        self.switch_to(after);
    }

    fn branch(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let record = &kernel.insts[inst];
        let InstData::If { cond, then, otherwise } = &record.data else { unreachable!("a branch") };
        let condition = self.get1(*cond);
        let sides = [self.f.create_block(), self.f.create_block()];
        let after = self.f.create_block();
        self.f.ins().brif(condition, sides[0], &[], sides[1], &[]);
        for (side, block) in sides.into_iter().zip([then, otherwise]) {
            self.switch_to(side);
            self.pointers.push(HashMap::new());
            let results = self.block(*block);
            self.f.ins().jump(after, &Self::arguments(results));
            self.pointers.pop();
        }
        self.append_params(after, &record.results);
        self.switch_to(after);
    }
}
