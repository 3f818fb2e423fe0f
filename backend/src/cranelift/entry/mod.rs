//! The functions around the kernels: `plan`, `run`, `run_dl`, `status`, and the checks and steps that they share.
//!
//! Everything that a caller hands in is checked before a kernel runs, in the order that `onnxc.h` promises. The checks of
//! a port are one function over the port's descriptor, so their size does not grow with the number of ports.

mod calls;
mod checks;
mod data;
mod dispatch;
mod execute;
mod gpu;
mod steps;
mod strings;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Function, InstBuilder, Value, types};
use cranelift_codegen::isa::TargetIsa;
use onnxc_ir::dim::Dim;
use onnxc_ir::program::{Program, Step};

pub use dispatch::{processor_words, variant_cell};

use super::code::{Code, DimCode, Names, function};
use crate::target::Target;

/// Statuses of the C ABI.
mod status {
    pub const NULL: i32 = -1;
    pub const ABI: i32 = -2;
    pub const STRUCT_SIZE: i32 = -3;
    pub const KIND: i32 = -4;
    pub const DTYPE: i32 = -5;
    pub const DEVICE: i32 = -6;
    pub const RANK: i32 = -7;
    pub const DIM: i32 = -8;
    pub const DIM_SYMBOL: i32 = -9;
    pub const DIM_RANGE: i32 = -10;
    pub const STRIDES: i32 = -11;
    pub const ALIGNMENT: i32 = -12;
    pub const OFFSET: i32 = -13;
    pub const CAPACITY: i32 = -14;
    pub const MORE: i32 = -15;
    pub const OVERLAP: i32 = -16;
    pub const WORKERS: i32 = -17;
    pub const ARENA_ALIGNMENT: i32 = -18;
    pub const ARENA_SIZE: i32 = -19;
    pub const NEED_ALLOC: i32 = -20;
    pub const NO_MEMORY: i32 = -21;
    pub const WEIGHTS: i32 = -22;
    pub const FLAGS: i32 = -23;
    pub const DATA_SHAPE: i32 = -26;
    pub const SIZE_LIMIT: i32 = -28;
    pub const USER: i32 = -33;
}

/// Byte offsets of the ABI's structures.
mod at {
    pub const DEVICE: i32 = 8;
    pub const DEVICE_ID: i32 = 12;
    pub const NDIM: i32 = 16;
    pub const DTYPE: i32 = 20;
    pub const SHAPE: i32 = 24;
    pub const STRIDES: i32 = 32;
    pub const BYTE_OFFSET: i32 = 40;
    pub const TENSOR_BYTES: i32 = 48;
    pub const CAPACITY: i32 = 48;
    pub const KIND: i32 = 56;
    pub const VALUE_FLAGS: i32 = 60;
    pub const DIMS: i32 = 64;
    pub const STRING_BYTES: i32 = 152;
    pub const STRING_CAPACITY: i32 = 168;
    pub const VALUE_BYTES: i32 = 192;

    pub const CALL_ABI: i32 = 4;
    pub const ARENA: i32 = 8;
    pub const ARENA_BYTES: i32 = 16;
    pub const USER: i32 = 24;
    pub const PARALLEL_FOR: i32 = 32;
    pub const MAX_WORKERS: i32 = 40;
    pub const FLAGS: i32 = 44;
    pub const ALLOC: i32 = 48;
    pub const RELEASE: i32 = 56;
    pub const TRACE: i32 = 64;
    pub const WEIGHTS: i32 = 72;
    pub const WEIGHTS_BYTES: i32 = 80;
    pub const FAULT: i32 = 88;
    pub const CALL_BYTES: i64 = 104;

    pub const PORT_KIND: i32 = 8;
    pub const PORT_NDIM: i32 = 12;
    pub const PORT_DTYPE: i32 = 16;
    pub const PORT_BITS: i32 = 17;
    pub const PORT_LANES: i32 = 18;
    pub const PORT_DIMS: i64 = 24;
    pub const PORT_SYMBOLS: i64 = 88;
    pub const PORT_BYTES: i64 = 144;
    pub const SYMBOL_BYTES: i64 = 24;
    pub const SYMBOL_MIN: i32 = 8;
    pub const SYMBOL_MAX: i32 = 16;

    /// What the steps work with: a structure of this module only.
    pub const FRAME_CALL: i32 = 0;
    pub const FRAME_ARENA: i32 = 8;
    pub const FRAME_SCRATCH: i32 = 16;
    pub const FRAME_DIMS: i32 = 24;
    pub const FRAME_BASES: i32 = 32;
    pub const FRAME_SIZES: i32 = 40;
    pub const FRAME_SLOTS: i32 = 48;
    pub const FRAME_OUTPUTS: i32 = 56;
    pub const FRAME_ARENA_BYTES: i32 = 64;
    pub const FRAME_INPUTS: i32 = 72;
    pub const FRAME_BYTES: u32 = 80;

    /// A slot: its pointer, NULL when it is empty, and its bytes.
    pub const SLOT_BYTES: i64 = 16;
}

/// Most workers of a call.
const MAX_WORKERS: i64 = 256;

/// Most ranks of a port.
pub const MAX_RANK: usize = 8;

/// Steps that one function runs; more are spread over several, so that compile time stays linear.
const STEPS_PER_FUNCTION: usize = 48;

/// A function of the host program.
pub struct HostFunction {
    /// Its symbol.
    pub name: String,
    /// Whether it is visible outside.
    pub global: bool,
    /// The code.
    pub function: Function,
    /// What it refers to.
    pub names: Names,
}

/// What the functions are made for.
pub struct Entry<'a> {
    /// The instruction set.
    pub isa: &'a dyn TargetIsa,
    /// The program.
    pub program: &'a Program,
    /// The symbol of each kernel.
    pub kernels: &'a [String],
    /// The targets of the program's variants, or the one target.
    pub targets: &'a [Target],
    /// How many symbols the descriptor has: those that the inputs' shapes bind.
    pub symbols: usize,
    /// Whether the caller has the weights, in memory that the call names.
    pub external_weights: bool,
    /// Whether the kernels run on a GPU: then launches and copies go to the support library, see [`gpu`].
    pub gpu: bool,
}

impl Entry<'_> {
    fn symbol(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.program.name)
    }

    /// All functions.
    pub fn functions(&self) -> Vec<HostFunction> {
        let mut all = Vec::new();
        let mut add = |name: String, global: bool, (function, names): (Function, Names)| {
            all.push(HostFunction { name, global, function, names });
        };
        add(self.symbol("_fail"), false, self.fail());
        add(self.symbol("_memory"), false, self.memory());
        add(self.symbol("_strides"), false, self.strides());
        add(self.symbol("_input"), false, self.input());
        add(self.symbol("_output"), false, self.output());
        add(self.symbol("_disjoint"), false, self.disjoint());
        if self.gpu {
            add(self.symbol("_launch"), false, self.gpu_launch());
        } else {
            add(self.symbol("_task"), false, self.task());
            add(self.symbol("_launch"), false, self.launch());
        }
        for list in self.lists() {
            for (part, steps) in list.steps.chunks(STEPS_PER_FUNCTION).enumerate() {
                add(self.symbol(&format!("{}{part}", list.name)), false, self.steps(steps));
            }
        }
        add(self.symbol("_execute"), false, self.execute());
        if !self.program.variants.is_empty() {
            add(self.symbol("_choose"), false, self.choose());
        }
        add(self.symbol("plan"), true, self.plan());
        add(self.symbol("run"), true, self.run());
        if self.program.steps_fail() {
            add(self.symbol("_fail_step"), false, self.fail_step());
        }
        if self.program.allocates() {
            add(self.symbol("_allocate"), false, self.allocate());
            add(self.symbol("_append"), false, self.append());
            add(self.symbol("_make_room"), false, self.make_room());
            add(self.symbol("_guarded"), false, self.guarded());
        } else {
            add(self.symbol("run_dl"), true, self.run_dl());
        }
        add(self.symbol("status"), true, self.status());
        all
    }

    /// The lists of steps: the program's own and those of branches and loops.
    fn lists(&self) -> Vec<StepList<'_>> {
        fn add<'p>(name: String, steps: &'p [Step], next: &mut usize, all: &mut Vec<StepList<'p>>) {
            let mut numbered = Vec::with_capacity(steps.len());
            for step in steps {
                let number = *next;
                *next += 1;
                numbered.push((number, step));
                for (n, inner) in step.lists().into_iter().enumerate() {
                    add(list_name(number, n), inner, next, all);
                }
            }
            all.push(StepList { name, steps: numbered });
        }
        let mut all = Vec::new();
        add("_steps".into(), &self.program.steps, &mut 0, &mut all);
        all
    }

    /// Runs a list of `count` steps; leaves the function if one fails.
    fn run_list(&self, c: &mut Code<'_>, name: &str, count: usize, frame: Value) {
        for part in 0..count.div_ceil(STEPS_PER_FUNCTION) {
            let name = self.symbol(&format!("{name}{part}"));
            if self.program.steps_fail() {
                let status = c.call(&name, true, Some(types::I32), &[frame]);
                leave_unless_ok(c, status);
            } else {
                c.call(&name, true, None, &[frame]);
            }
        }
    }

    /// `plan(dims, max_workers, arena_bytes) -> status`.
    fn plan(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64, I32, I64], Some(I32), |c, p| {
            let [dims, workers, out] = [p[0], p[1], p[2]];
            let null = c.compare_with(IntCC::Equal, out, 0);
            c.leave_with(null, status::NULL);
            if self.symbols > 0 {
                let null = c.compare_with(IntCC::Equal, dims, 0);
                c.leave_with(null, status::NULL);
            }
            let workers = self.workers(c, workers);
            for (i, symbol) in self.program.symbols.iter().take(self.symbols).enumerate() {
                let (least, most) = self.program.symbols.bounds(symbol);
                let value = c.load(I64, dims, i as i32 * 8);
                let (least, most) = (c.int(least), c.int(most));
                let below = c.compare(IntCC::SignedLessThan, value, least);
                let above = c.compare(IntCC::SignedGreaterThan, value, most);
                let outside = c.f.ins().bor(below, above);
                c.leave_with(outside, status::DIM_RANGE);
            }
            for size in &self.program.sizes {
                let (_, wrong) = eval_size(c, size, dims);
                c.leave_with(wrong, status::DIM_RANGE);
            }
            let (bytes, wrong) = self.arena(c, dims, workers);
            c.leave_with(wrong, status::SIZE_LIMIT);
            c.store(bytes, out, 0);
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// `run(in, out, call) -> status`.
    fn run(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64; 3], Some(I32), |c, p| {
            self.check_call(c, p[0], p[1], p[2]);
            let (plain, no_slots) = (c.int32(0), c.int(0));
            let status = if self.program.allocates() {
                c.call(&self.symbol("_guarded"), true, Some(I32), &[p[0], p[1], p[2]])
            } else {
                c.call(&self.symbol("_execute"), true, Some(I32), &[p[0], p[1], p[2], plain, no_slots])
            };
            let status = self.gpu_leave(c, status.expect("execute gives a status"));
            c.f.ins().return_(&[status]);
        })
    }

    /// `run_dl(in, out, call) -> status`: plain tensors become values on the stack.
    fn run_dl(&self) -> (Function, Names) {
        use types::{I32, I64};
        let (inputs, outputs) = (self.program.inputs.len(), self.program.outputs.len());
        function(self.isa, &[I64; 3], Some(I32), |c, p| {
            self.check_call(c, p[0], p[1], p[2]);
            let values = c.stack((inputs + outputs) as u32 * at::VALUE_BYTES as u32);
            let zero = c.int(0);
            let copy = |c: &mut Code<'_>, list: Value, count: usize, first: usize| {
                let count = c.int(count as i64);
                c.each(zero, count, |c, i| {
                    let byte = c.f.ins().ishl_imm_u(i, 3);
                    let tensor_at = c.f.ins().iadd(list, byte);
                    let tensor = c.load(I64, tensor_at, 0);
                    let null = c.compare_with(IntCC::Equal, tensor, 0);
                    c.leave_with(null, status::NULL);
                    let number = c.add(i, first as i64);
                    let value = c.f.ins().imul_imm_s(number, i64::from(at::VALUE_BYTES));
                    let value = c.f.ins().iadd(values, value);
                    for offset in (0..48).step_by(8) {
                        let word = c.load(I64, tensor, offset);
                        c.store(word, value, offset);
                    }
                    c.store(zero, value, at::CAPACITY);
                    let kind = c.int(1);
                    c.store(kind, value, at::KIND);
                });
            };
            copy(c, p[0], inputs, 0);
            copy(c, p[1], outputs, inputs);
            let values_out = c.add(values, inputs as i64 * i64::from(at::VALUE_BYTES));
            let (plain, no_slots) = (c.int32(1), c.int(0));
            let arguments = [values, values_out, p[2], plain, no_slots];
            let status = c.call(&self.symbol("_execute"), true, Some(I32), &arguments);
            let status = self.gpu_leave(c, status.expect("execute gives a status"));
            c.f.ins().return_(&[status]);
        })
    }

    /// `status(status) -> text`: from a table of pointers; the last is for statuses that the table lacks.
    fn status(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I32], Some(I64), |c, p| {
            let last = super::compile::status_messages().len() as i64;
            let index = c.f.ins().sextend(I64, p[0]);
            let index = c.f.ins().ineg(index);
            // A positive status becomes a huge unsigned index.
            let last = c.int(last);
            let index = c.f.ins().umin(index, last);
            let byte = c.f.ins().ishl_imm_u(index, 3);
            let table = c.symbol(&self.symbol("_messages"), true);
            let entry = c.f.ins().iadd(table, byte);
            let text = c.load(I64, entry, 0);
            c.f.ins().return_(&[text]);
        })
    }
}

/// Steps that run one after the other, with their numbers.
struct StepList<'p> {
    /// What the names of its functions begin with.
    name: String,
    steps: Vec<(usize, &'p Step)>,
}

/// What the functions of a list in a step are called.
fn list_name(step: usize, list: usize) -> String {
    format!("_steps_{step}_{list}_")
}

/// The port that a failure is about.
struct PortValues {
    call: Value,
    output: Value,
    index: Value,
}

fn leave_unless_ok(c: &mut Code<'_>, status: Option<Value>) {
    let status = status.expect("a check gives a status");
    let failed = c.compare_with(IntCC::NotEqual, status, 0);
    c.leave_if(failed, |_| status);
}

fn eval(c: &mut Code<'_>, dim: &Dim, dims: Value) -> Value {
    dim.fold(&mut DimCode { code: c, dims, wraps: None })
}

/// The value of a size, and an `i8` that tells whether it is negative or does not fit 64 bits.
fn eval_size(c: &mut Code<'_>, dim: &Dim, dims: Value) -> (Value, Value) {
    let fits = c.f.ins().iconst(types::I8, 0);
    let mut code = DimCode { code: c, dims, wraps: Some(fits) };
    let value = dim.fold(&mut code);
    let wraps = code.wraps.expect("the sums are watched");
    let negative = c.compare_with(IntCC::SignedLessThan, value, 0);
    (value, c.f.ins().bor(wraps, negative))
}
