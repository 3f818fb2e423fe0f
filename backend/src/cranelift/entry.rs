//! The functions around the kernels: `plan`, `run`, `run_dl`, `status`, and the checks and steps that they share.
//!
//! Everything that a caller hands in is checked before a kernel runs, in the order that `onnxc.h` promises. The checks of
//! a port are one function over the port's descriptor, so their size does not grow with the number of ports.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Function, InstBuilder, Value, types};
use cranelift_codegen::isa::TargetIsa;
use onnxc_ir::dim::Dim;
use onnxc_ir::program::{Place, Program, Step};

use super::code::{Code, DimCode, Names, function};

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
    pub const FLAGS: i32 = -23;
    pub const SIZE_LIMIT: i32 = -28;
}

/// Byte offsets of the ABI's structures.
mod at {
    pub const DEVICE: i32 = 8;
    pub const NDIM: i32 = 16;
    pub const DTYPE: i32 = 20;
    pub const SHAPE: i32 = 24;
    pub const STRIDES: i32 = 32;
    pub const BYTE_OFFSET: i32 = 40;
    pub const CAPACITY: i32 = 48;
    pub const KIND: i32 = 56;
    pub const DIMS: i32 = 64;
    pub const VALUE_BYTES: i32 = 192;

    pub const CALL_ABI: i32 = 4;
    pub const ARENA: i32 = 8;
    pub const ARENA_BYTES: i32 = 16;
    pub const USER: i32 = 24;
    pub const PARALLEL_FOR: i32 = 32;
    pub const MAX_WORKERS: i32 = 40;
    pub const FLAGS: i32 = 44;
    pub const TRACE: i32 = 64;
    pub const FAULT: i32 = 88;
    pub const CALL_BYTES: i64 = 104;

    pub const PORT_KIND: i32 = 8;
    pub const PORT_NDIM: i32 = 12;
    pub const PORT_DTYPE: i32 = 16;
    pub const PORT_BITS: i32 = 17;
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
    pub const FRAME_BYTES: u32 = 40;
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
    /// The program's dimension symbols in the order of the descriptor.
    pub symbols: usize,
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
        add(self.symbol("_task"), false, self.task());
        add(self.symbol("_launch"), false, self.launch());
        for i in 0..self.step_functions() {
            add(self.symbol(&format!("_steps{i}")), false, self.steps(i));
        }
        add(self.symbol("_execute"), false, self.execute());
        add(self.symbol("plan"), true, self.plan());
        add(self.symbol("run"), true, self.run());
        add(self.symbol("run_dl"), true, self.run_dl());
        add(self.symbol("status"), true, self.status());
        all
    }

    fn step_functions(&self) -> usize {
        self.program.steps.len().div_ceil(STEPS_PER_FUNCTION)
    }

    /// `fail(call, status, output, port, axis, expected, actual) -> status`: writes the fault where one is wanted.
    fn fail(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64, I32, I32, I32, I32, I64, I64], Some(I32), |c, p| {
            let fault = c.load(I64, p[0], at::FAULT);
            let wanted = c.compare_with(IntCC::NotEqual, fault, 0);
            c.when(wanted, |c| {
                c.store(p[2], fault, 0);
                c.store(p[3], fault, 4);
                c.store(p[4], fault, 8);
                let none = c.int32(-1);
                c.store(none, fault, 12);
                c.store(p[5], fault, 16);
                c.store(p[6], fault, 24);
            });
            c.f.ins().return_(&[p[1]]);
        })
    }

    /// Leaves with a status about a port if the condition holds.
    fn fail_if(
        &self,
        c: &mut Code<'_>,
        condition: Value,
        status: i32,
        port: &PortValues,
        axis: Option<Value>,
        found: [Option<Value>; 2],
    ) {
        let name = self.symbol("_fail");
        c.leave_if(condition, |c| {
            let status = c.int32(status);
            let axis = match axis {
                Some(axis) => c.f.ins().ireduce(types::I32, axis),
                None => c.int32(-1),
            };
            let [expected, actual] = found.map(|v| v.unwrap_or_else(|| c.int(-1)));
            let arguments = [port.call, status, port.output, port.index, axis, expected, actual];
            c.call(&name, true, Some(types::I32), &arguments).expect("fail gives the status")
        });
    }

    /// `memory(value, port, bytes, call, output, index) -> status`: dtype, device, pointer, offset, alignment.
    fn memory(&self) -> (Function, Names) {
        use types::{I8, I32, I64};
        function(self.isa, &[I64, I64, I64, I64, I32, I32], Some(I32), |c, p| {
            let [value, port, bytes] = [p[0], p[1], p[2]];
            let about = PortValues { call: p[3], output: p[4], index: p[5] };
            let (is, want) = (c.load(I32, value, at::DTYPE), c.load(I32, port, at::PORT_DTYPE));
            let differs = c.compare(IntCC::NotEqual, is, want);
            self.fail_if(c, differs, status::DTYPE, &about, None, [None; 2]);
            let device = c.load(I32, value, at::DEVICE);
            let elsewhere = c.compare_with(IntCC::NotEqual, device, 1);
            self.fail_if(c, elsewhere, status::DEVICE, &about, None, [None; 2]);
            let data = c.load(I64, value, 0);
            let null = c.compare_with(IntCC::Equal, data, 0);
            let some = c.compare_with(IntCC::NotEqual, bytes, 0);
            let missing = c.f.ins().band(null, some);
            self.fail_if(c, missing, status::NULL, &about, None, [None; 2]);
            let offset = c.load(I64, value, at::BYTE_OFFSET);
            let too_far = c.compare_with(IntCC::SignedLessThan, offset, 0);
            self.fail_if(c, too_far, status::OFFSET, &about, None, [None; 2]);
            let bits = c.load(I8, port, at::PORT_BITS);
            let bits = c.f.ins().uextend(I64, bits);
            let size = c.f.ins().ushr_imm_u(bits, 3);
            let one = c.int(1);
            let size = c.f.ins().umax(size, one);
            let base = c.f.ins().iadd(data, offset);
            let end = c.f.ins().iadd(base, bytes);
            let wraps = c.compare(IntCC::UnsignedLessThan, base, data);
            let ends = c.compare(IntCC::UnsignedLessThan, end, base);
            let wraps = c.f.ins().bor(wraps, ends);
            self.fail_if(c, wraps, status::OFFSET, &about, None, [None; 2]);
            let mask = c.add(size, -1);
            let low = c.f.ins().band(base, mask);
            let crooked = c.compare_with(IntCC::NotEqual, low, 0);
            self.fail_if(c, crooked, status::ALIGNMENT, &about, None, [Some(size), None]);
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// `strides(value, shape, ndim, call, output, index) -> status`: dense row-major order, where strides are given.
    fn strides(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64, I64, I64, I64, I32, I32], Some(I32), |c, p| {
            let [value, shape, ndim] = [p[0], p[1], p[2]];
            let about = PortValues { call: p[3], output: p[4], index: p[5] };
            let strides = c.load(I64, value, at::STRIDES);
            let none = c.compare_with(IntCC::Equal, strides, 0);
            c.leave_with(none, 0);
            let expected = c.stack(8);
            let one = c.int(1);
            c.store(one, expected, 0);
            let zero = c.int(0);
            c.each(zero, ndim, |c, i| {
                let last = c.add(ndim, -1);
                let axis = c.f.ins().isub(last, i);
                let byte = c.f.ins().ishl_imm_u(axis, 3);
                let (extent_at, stride_at) = (c.f.ins().iadd(shape, byte), c.f.ins().iadd(strides, byte));
                let (extent, stride) = (c.load(I64, extent_at, 0), c.load(I64, stride_at, 0));
                let want = c.load(I64, expected, 0);
                let matters = c.compare_with(IntCC::SignedGreaterThan, extent, 1);
                let differs = c.compare(IntCC::NotEqual, stride, want);
                let wrong = c.f.ins().band(matters, differs);
                self.fail_if(c, wrong, status::STRIDES, &about, Some(axis), [Some(want), Some(stride)]);
                let next = c.f.ins().imul(want, extent);
                c.store(next, expected, 0);
            });
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// `input(value, port, dims, bytes, call, index) -> status`: checks an input, binds the symbols of its shape and stores
    /// its size.
    fn input(&self) -> (Function, Names) {
        use types::{I8, I32, I64};
        function(self.isa, &[I64, I64, I64, I64, I64, I32], Some(I32), |c, p| {
            let [value, port, dims, bytes_at, call, index] = [p[0], p[1], p[2], p[3], p[4], p[5]];
            let about = PortValues { call, output: c.int32(0), index };
            let (kind, want) = (c.load(I32, value, at::KIND), c.load(I32, port, at::PORT_KIND));
            let differs = c.compare(IntCC::NotEqual, kind, want);
            self.fail_if(c, differs, status::KIND, &about, None, [None; 2]);
            let (ndim, want) = (c.load(I32, value, at::NDIM), c.load(I32, port, at::PORT_NDIM));
            let differs = c.compare(IntCC::NotEqual, ndim, want);
            let ndim = c.f.ins().sextend(I64, ndim);
            let want = c.f.ins().sextend(I64, want);
            self.fail_if(c, differs, status::RANK, &about, None, [Some(want), Some(ndim)]);
            let shape = c.load(I64, value, at::SHAPE);
            let null = c.compare_with(IntCC::Equal, shape, 0);
            let ranked = c.compare_with(IntCC::NotEqual, ndim, 0);
            let missing = c.f.ins().band(null, ranked);
            self.fail_if(c, missing, status::NULL, &about, None, [None; 2]);
            let count_at = c.stack(8);
            let one = c.int(1);
            c.store(one, count_at, 0);
            let zero = c.int(0);
            c.each(zero, ndim, |c, axis| {
                let byte = c.f.ins().ishl_imm_u(axis, 3);
                let extent_at = c.f.ins().iadd(shape, byte);
                let extent = c.load(I64, extent_at, 0);
                let negative = c.compare_with(IntCC::SignedLessThan, extent, 0);
                self.fail_if(c, negative, status::DIM_RANGE, &about, Some(axis), [None, Some(extent)]);
                let want_at = c.add(port, at::PORT_DIMS);
                let want_at = c.f.ins().iadd(want_at, byte);
                let want = c.load(I64, want_at, 0);
                let fixed = c.compare_with(IntCC::SignedGreaterThanOrEqual, want, 0);
                let differs = c.compare(IntCC::NotEqual, want, extent);
                let wrong = c.f.ins().band(fixed, differs);
                self.fail_if(c, wrong, status::DIM, &about, Some(axis), [Some(want), Some(extent)]);
                if self.symbols > 0 {
                    self.bind(c, &about, port, dims, axis, extent);
                }
                // Sizes are counted in elements below 2^56, so that no product of bits overflows.
                let count = c.load(I64, count_at, 0);
                let high = c.f.ins().umulhi(count, extent);
                let count = c.f.ins().imul(count, extent);
                let top = c.f.ins().ushr_imm_u(count, 56);
                let over = c.f.ins().bor(high, top);
                let over = c.compare_with(IntCC::NotEqual, over, 0);
                self.fail_if(c, over, status::SIZE_LIMIT, &about, Some(axis), [None, Some(extent)]);
                c.store(count, count_at, 0);
            });
            let bits = c.load(I8, port, at::PORT_BITS);
            let bits = c.f.ins().uextend(I64, bits);
            let count = c.load(I64, count_at, 0);
            let bits = c.f.ins().imul(count, bits);
            let bits = c.add(bits, 7);
            let bytes = c.f.ins().ushr_imm_u(bits, 3);
            c.store(bytes, bytes_at, 0);
            let strides = self.symbol("_strides");
            let checked = c.call(&strides, true, Some(I32), &[value, shape, ndim, call, about.output, index]);
            leave_unless_ok(c, checked);
            let memory = self.symbol("_memory");
            let checked = c.call(&memory, true, Some(I32), &[value, port, bytes, call, about.output, index]);
            leave_unless_ok(c, checked);
            let capacity = c.load(I64, value, at::CAPACITY);
            let given = c.compare_with(IntCC::NotEqual, capacity, 0);
            let small = c.compare(IntCC::UnsignedLessThan, capacity, bytes);
            let wrong = c.f.ins().band(given, small);
            self.fail_if(c, wrong, status::CAPACITY, &about, None, [Some(bytes), Some(capacity)]);
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// Binds the symbol of an axis, or compares the extent with what it is bound to.
    fn bind(&self, c: &mut Code<'_>, about: &PortValues, port: Value, dims: Value, axis: Value, extent: Value) {
        use types::{I32, I64};
        let word = c.f.ins().ishl_imm_u(axis, 2);
        let symbol_at = c.add(port, at::PORT_SYMBOLS);
        let symbol_at = c.f.ins().iadd(symbol_at, word);
        let symbol = c.load(I32, symbol_at, 0);
        let symbol = c.f.ins().sextend(I64, symbol);
        let named = c.compare_with(IntCC::SignedGreaterThanOrEqual, symbol, 0);
        let table = self.symbol("_symbols");
        c.when(named, |c| {
            let byte = c.f.ins().ishl_imm_u(symbol, 3);
            let held_at = c.f.ins().iadd(dims, byte);
            let held = c.load(I64, held_at, 0);
            let bound = c.compare_with(IntCC::SignedGreaterThanOrEqual, held, 0);
            let differs = c.compare(IntCC::NotEqual, held, extent);
            let wrong = c.f.ins().band(bound, differs);
            self.fail_if(c, wrong, status::DIM_SYMBOL, about, Some(axis), [Some(held), Some(extent)]);
            let table = c.symbol(&table, true);
            let entry = c.f.ins().imul_imm_s(symbol, at::SYMBOL_BYTES);
            let entry = c.f.ins().iadd(table, entry);
            let (least, most) = (c.load(I64, entry, at::SYMBOL_MIN), c.load(I64, entry, at::SYMBOL_MAX));
            let below = c.compare(IntCC::SignedLessThan, extent, least);
            let above = c.compare(IntCC::SignedGreaterThan, extent, most);
            let outside = c.f.ins().bor(below, above);
            self.fail_if(c, outside, status::DIM_RANGE, about, Some(axis), [None, Some(extent)]);
            c.store(extent, held_at, 0);
        });
    }

    /// `output(value, port, shape, bytes, call, index, plain) -> status`: states the shape of an output, or with `plain` (a
    /// DLPack tensor) checks the one that it has.
    fn output(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64, I64, I64, I64, I64, I32, I32], Some(I32), |c, p| {
            let [value, port, shape, bytes, call, index, plain] = [p[0], p[1], p[2], p[3], p[4], p[5], p[6]];
            let about = PortValues { call, output: c.int32(1), index };
            let (kind, want) = (c.load(I32, value, at::KIND), c.load(I32, port, at::PORT_KIND));
            let differs = c.compare(IntCC::NotEqual, kind, want);
            self.fail_if(c, differs, status::KIND, &about, None, [None; 2]);
            let rank = c.load(I32, port, at::PORT_NDIM);
            let ndim = c.f.ins().sextend(I64, rank);
            let zero = c.int(0);
            let strides = self.symbol("_strides");
            c.when(plain, |c| {
                let has = c.load(I32, value, at::NDIM);
                let differs = c.compare(IntCC::NotEqual, has, rank);
                let has = c.f.ins().sextend(I64, has);
                self.fail_if(c, differs, status::RANK, &about, None, [Some(ndim), Some(has)]);
                let given = c.load(I64, value, at::SHAPE);
                let null = c.compare_with(IntCC::Equal, given, 0);
                let ranked = c.compare_with(IntCC::NotEqual, ndim, 0);
                let missing = c.f.ins().band(null, ranked);
                self.fail_if(c, missing, status::NULL, &about, None, [None; 2]);
                c.each(zero, ndim, |c, axis| {
                    let byte = c.f.ins().ishl_imm_u(axis, 3);
                    let (want_at, has_at) = (c.f.ins().iadd(shape, byte), c.f.ins().iadd(given, byte));
                    let (want, has) = (c.load(I64, want_at, 0), c.load(I64, has_at, 0));
                    let differs = c.compare(IntCC::NotEqual, want, has);
                    self.fail_if(c, differs, status::DIM, &about, Some(axis), [Some(want), Some(has)]);
                });
                let checked = c.call(&strides, true, Some(I32), &[value, given, ndim, call, about.output, index]);
                leave_unless_ok(c, checked);
            });
            let own = c.compare_with(IntCC::Equal, plain, 0);
            c.when(own, |c| {
                c.store(rank, value, at::NDIM);
                let dims = c.add(value, at::DIMS.into());
                c.each(zero, ndim, |c, axis| {
                    let byte = c.f.ins().ishl_imm_u(axis, 3);
                    let (from, to) = (c.f.ins().iadd(shape, byte), c.f.ins().iadd(dims, byte));
                    let extent = c.load(I64, from, 0);
                    c.store(extent, to, 0);
                });
                c.store(dims, value, at::SHAPE);
                c.store(zero, value, at::STRIDES);
                let capacity = c.load(I64, value, at::CAPACITY);
                let small = c.compare(IntCC::UnsignedLessThan, capacity, bytes);
                self.fail_if(c, small, status::MORE, &about, None, [Some(bytes), Some(capacity)]);
            });
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// `disjoint(bases, sizes, first output, all, arena, arena bytes) -> index`: an output that overlaps something that it
    /// must not, or -1.
    fn disjoint(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64; 6], Some(I32), |c, p| {
            let [bases, sizes, first, all, arena, arena_bytes] = [p[0], p[1], p[2], p[3], p[4], p[5]];
            let overlaps = |c: &mut Code<'_>, a: Value, a_bytes: Value, b: Value, b_bytes: Value| {
                let (a_end, b_end) = (c.f.ins().iadd(a, a_bytes), c.f.ins().iadd(b, b_bytes));
                let before = c.compare(IntCC::UnsignedLessThan, a, b_end);
                let after = c.compare(IntCC::UnsignedLessThan, b, a_end);
                let both = c.f.ins().band(before, after);
                let some = c.compare_with(IntCC::NotEqual, a_bytes, 0);
                let other = c.compare_with(IntCC::NotEqual, b_bytes, 0);
                let sized = c.f.ins().band(some, other);
                c.f.ins().band(both, sized)
            };
            let zero = c.int(0);
            c.each(first, all, |c, i| {
                let byte = c.f.ins().ishl_imm_u(i, 3);
                let (base_at, size_at) = (c.f.ins().iadd(bases, byte), c.f.ins().iadd(sizes, byte));
                let (base, size) = (c.load(I64, base_at, 0), c.load(I64, size_at, 0));
                let with_arena = overlaps(c, base, size, arena, arena_bytes);
                c.leave_if(with_arena, |c| {
                    let output = c.f.ins().isub(i, first);
                    c.f.ins().ireduce(I32, output)
                });
                // Every pair of an output with an input or an earlier output, once.
                c.each(zero, i, |c, j| {
                    let byte = c.f.ins().ishl_imm_u(j, 3);
                    let (other_at, other_size_at) = (c.f.ins().iadd(bases, byte), c.f.ins().iadd(sizes, byte));
                    let (other, other_size) = (c.load(I64, other_at, 0), c.load(I64, other_size_at, 0));
                    let with_other = overlaps(c, base, size, other, other_size);
                    c.leave_if(with_other, |c| {
                        let output = c.f.ins().isub(i, first);
                        c.f.ins().ireduce(I32, output)
                    });
                });
            });
            let none = c.int32(-1);
            c.f.ins().return_(&[none]);
        })
    }

    /// `task(job, task, worker)`: one task of a launch; the job is what `launch` puts on its stack.
    fn task(&self) -> (Function, Names) {
        use types::{I32, I64};
        let stride = self.program.scratch_bytes as i64;
        function(self.isa, &[I64, I64, I32], None, |c, p| {
            let [job, task, worker] = [p[0], p[1], p[2]];
            let [kernel, buffers, params, scratch] = [0, 8, 16, 24].map(|offset| c.load(I64, job, offset));
            let number = c.f.ins().sextend(I64, worker);
            let offset = c.f.ins().imul_imm_s(number, stride);
            let scratch = c.f.ins().iadd(scratch, offset);
            let end = c.add(task, 1);
            c.call_kernel(kernel, &[buffers, params, task, end, scratch, worker]);
            c.f.ins().return_(&[]);
        })
    }

    /// `launch(frame, kernel, buffers, params, tasks, step)`: runs a kernel's tasks, in parallel where the caller can.
    fn launch(&self) -> (Function, Names) {
        use types::I64;
        function(self.isa, &[I64; 6], None, |c, p| {
            let [frame, kernel, buffers, params, tasks, step] = [p[0], p[1], p[2], p[3], p[4], p[5]];
            let call = c.load(I64, frame, at::FRAME_CALL);
            let scratch = c.load(I64, frame, at::FRAME_SCRATCH);
            let (trace, user) = (c.load(I64, call, at::TRACE), c.load(I64, call, at::USER));
            let traced = c.compare_with(IntCC::NotEqual, trace, 0);
            c.when(traced, |c| {
                let begin = c.int32(1);
                c.call_pointer(trace, &[user, step, begin]);
            });
            let parallel_for = c.load(I64, call, at::PARALLEL_FOR);
            let able = c.compare_with(IntCC::NotEqual, parallel_for, 0);
            let several = c.compare_with(IntCC::SignedGreaterThan, tasks, 1);
            let parallel = c.f.ins().band(able, several);
            let (spread, serial, after) = (c.f.create_block(), c.f.create_block(), c.f.create_block());
            c.f.ins().brif(parallel, spread, &[], serial, &[]);
            c.f.switch_to_block(spread);
            let job = c.stack(32);
            for (offset, value) in [(0, kernel), (8, buffers), (16, params), (24, scratch)] {
                c.store(value, job, offset);
            }
            let task = c.symbol(&self.symbol("_task"), true);
            c.call_pointer(parallel_for, &[user, task, job, tasks]);
            c.f.ins().jump(after, &[]);
            c.f.switch_to_block(serial);
            let (zero, worker) = (c.int(0), c.int32(0));
            c.call_kernel(kernel, &[buffers, params, zero, tasks, scratch, worker]);
            c.f.ins().jump(after, &[]);
            c.f.switch_to_block(after);
            c.when(traced, |c| {
                let end = c.int32(0);
                c.call_pointer(trace, &[user, step, end]);
            });
            c.f.ins().return_(&[]);
        })
    }

    /// A part of the steps.
    fn steps(&self, part: usize) -> (Function, Names) {
        use types::I64;
        let first = part * STEPS_PER_FUNCTION;
        let steps = &self.program.steps[first..self.program.steps.len().min(first + STEPS_PER_FUNCTION)];
        function(self.isa, &[I64], None, |c, p| {
            let frame = p[0];
            let bases = c.load(I64, frame, at::FRAME_BASES);
            let arena = c.load(I64, frame, at::FRAME_ARENA);
            let dims = c.load(I64, frame, at::FRAME_DIMS);
            let launches = steps.iter().filter_map(|s| if let Step::Launch(l) = s { Some(l) } else { None });
            let most_buffers = launches.clone().map(|l| l.buffers.len()).max().unwrap_or(0);
            let most_params = launches.map(|l| l.params.len()).max().unwrap_or(0);
            let buffers = c.stack(most_buffers as u32 * 8);
            let params = c.stack(most_params as u32 * 8);
            for (i, step) in steps.iter().enumerate() {
                match step {
                    Step::Launch(launch) => {
                        for (n, place) in launch.buffers.iter().enumerate() {
                            let pointer = self.place(c, place, bases, arena, dims);
                            c.store(pointer, buffers, n as i32 * 8);
                        }
                        for (n, param) in launch.params.iter().enumerate() {
                            let value = eval(c, param, dims);
                            c.store(value, params, n as i32 * 8);
                        }
                        let tasks = eval(c, &launch.tasks, dims);
                        use cranelift_entity::EntityRef;
                        let kernel = c.symbol(&self.kernels[launch.kernel.index()], true);
                        let number = c.int((first + i) as i64);
                        c.call(&self.symbol("_launch"), true, None, &[frame, kernel, buffers, params, tasks, number]);
                    }
                    Step::Copy { from, to, bytes, .. } => {
                        let from = self.place(c, from, bases, arena, dims);
                        let to = self.place(c, to, bases, arena, dims);
                        let bytes = eval(c, bytes, dims);
                        // No bytes, no call: an empty tensor's pointer may be NULL.
                        let some = c.compare_with(IntCC::NotEqual, bytes, 0);
                        c.when(some, |c| {
                            c.call("memcpy", false, Some(I64), &[to, from, bytes]);
                        });
                    }
                }
            }
            c.f.ins().return_(&[]);
        })
    }

    fn place(&self, c: &mut Code<'_>, place: &Place, bases: Value, arena: Value, dims: Value) -> Value {
        match place {
            Place::Input(i) => c.load(types::I64, bases, *i as i32 * 8),
            Place::Output(i) => c.load(types::I64, bases, (self.program.inputs.len() as i32 + *i as i32) * 8),
            Place::Weights(offset) => {
                let weights = c.symbol(&self.symbol("weights"), false);
                c.add(weights, *offset as i64)
            }
            Place::Arena(offset) => match offset.as_const() {
                Some(offset) => c.add(arena, offset),
                None => {
                    let offset = eval(c, offset, dims);
                    c.f.ins().iadd(arena, offset)
                }
            },
        }
    }

    /// The arena's size for these dims and workers.
    fn arena(&self, c: &mut Code<'_>, dims: Value, workers: Value) -> Value {
        let tensors = eval(c, &self.program.arena_bytes, dims);
        let scratch = c.f.ins().imul_imm_s(workers, self.program.scratch_bytes as i64);
        c.f.ins().iadd(tensors, scratch)
    }

    /// The number of workers: 0 counts as 1. Leaves the function where it is out of range.
    fn workers(&self, c: &mut Code<'_>, workers: Value) -> Value {
        let workers = c.f.ins().sextend(types::I64, workers);
        let out = c.compare_with(IntCC::UnsignedGreaterThan, workers, MAX_WORKERS);
        c.leave_with(out, status::WORKERS);
        let one = c.int(1);
        c.f.ins().smax(workers, one)
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
            for (i, symbol) in self.program.symbols.iter().enumerate() {
                let (least, most) = self.program.symbols.bounds(symbol);
                let value = c.load(I64, dims, i as i32 * 8);
                let (least, most) = (c.int(least), c.int(most));
                let below = c.compare(IntCC::SignedLessThan, value, least);
                let above = c.compare(IntCC::SignedGreaterThan, value, most);
                let outside = c.f.ins().bor(below, above);
                c.leave_with(outside, status::DIM_RANGE);
            }
            let bytes = self.arena(c, dims, workers);
            c.store(bytes, out, 0);
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// `execute(in, out, call, plain) -> status`: everything that `run` and `run_dl` share.
    fn execute(&self) -> (Function, Names) {
        use types::{I32, I64};
        let (inputs, outputs) = (self.program.inputs.len(), self.program.outputs.len());
        function(self.isa, &[I64, I64, I64, I32], Some(I32), |c, p| {
            let [values_in, values_out, call, plain] = [p[0], p[1], p[2], p[3]];
            let given = c.load(I32, call, at::MAX_WORKERS);
            let workers = self.workers(c, given);
            let ports = c.symbol(&self.symbol("_ports"), true);
            let dims = c.stack(self.symbols as u32 * 8);
            let unset = c.int(-1);
            for i in 0..self.symbols {
                c.store(unset, dims, i as i32 * 8);
            }
            let bases = c.stack((inputs + outputs) as u32 * 8);
            let sizes = c.stack((inputs + outputs) as u32 * 8);
            let (zero, count) = (c.int(0), c.int(inputs as i64));
            let check = self.symbol("_input");
            c.each(zero, count, |c, i| {
                let value = c.f.ins().imul_imm_s(i, i64::from(at::VALUE_BYTES));
                let value = c.f.ins().iadd(values_in, value);
                let port = c.f.ins().imul_imm_s(i, at::PORT_BYTES);
                let port = c.f.ins().iadd(ports, port);
                let byte = c.f.ins().ishl_imm_u(i, 3);
                let size_at = c.f.ins().iadd(sizes, byte);
                let index = c.f.ins().ireduce(I32, i);
                let checked = c.call(&check, true, Some(I32), &[value, port, dims, size_at, call, index]);
                leave_unless_ok(c, checked);
                let (data, offset) = (c.load(I64, value, 0), c.load(I64, value, at::BYTE_OFFSET));
                let base = c.f.ins().iadd(data, offset);
                let base_at = c.f.ins().iadd(bases, byte);
                c.store(base, base_at, 0);
            });
            self.check_expressions(c, values_in, call, dims);
            let about = PortValues { call, output: c.int32(0), index: c.int32(-1) };
            for (a, b) in &self.program.assumptions {
                let (a, b) = (eval(c, a, dims), eval(c, b, dims));
                let differs = c.compare(IntCC::NotEqual, a, b);
                self.fail_if(c, differs, status::DIM_SYMBOL, &about, None, [Some(a), Some(b)]);
            }
            self.check_outputs(c, values_out, call, plain, ports, dims, bases, sizes);
            let needed = self.arena(c, dims, workers);
            let (arena, arena_bytes) = (c.load(I64, call, at::ARENA), c.load(I64, call, at::ARENA_BYTES));
            let null = c.compare_with(IntCC::Equal, arena, 0);
            let wanted = c.compare_with(IntCC::NotEqual, needed, 0);
            let missing = c.f.ins().band(null, wanted);
            c.leave_with(missing, status::NULL);
            let low = c.int(63);
            let low = c.f.ins().band(arena, low);
            let crooked = c.compare_with(IntCC::NotEqual, low, 0);
            c.leave_with(crooked, status::ARENA_ALIGNMENT);
            let small = c.compare(IntCC::UnsignedLessThan, arena_bytes, needed);
            self.fail_if(c, small, status::ARENA_SIZE, &about, None, [Some(needed), Some(arena_bytes)]);
            let (first, all) = (c.int(inputs as i64), c.int((inputs + outputs) as i64));
            let disjoint = self.symbol("_disjoint");
            let hit = c
                .call(&disjoint, true, Some(I32), &[bases, sizes, first, all, arena, arena_bytes])
                .expect("disjoint gives an index");
            let overlap = c.compare_with(IntCC::SignedGreaterThanOrEqual, hit, 0);
            let about = PortValues { call, output: c.int32(1), index: hit };
            self.fail_if(c, overlap, status::OVERLAP, &about, None, [None; 2]);

            let frame = c.stack(at::FRAME_BYTES);
            let tensors = eval(c, &self.program.arena_bytes, dims);
            let scratch = c.f.ins().iadd(arena, tensors);
            for (offset, value) in [
                (at::FRAME_CALL, call),
                (at::FRAME_ARENA, arena),
                (at::FRAME_SCRATCH, scratch),
                (at::FRAME_DIMS, dims),
                (at::FRAME_BASES, bases),
            ] {
                c.store(value, frame, offset);
            }
            for i in 0..self.step_functions() {
                c.call(&self.symbol(&format!("_steps{i}")), true, None, &[frame]);
            }
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// Compares the extents that are no plain symbols with what the symbols, now bound, make of them.
    fn check_expressions(&self, c: &mut Code<'_>, values: Value, call: Value, dims: Value) {
        for (i, input) in self.program.inputs.iter().enumerate() {
            for (axis, dim) in input.ty.shape.iter().enumerate() {
                if dim.as_const().is_some() || dim.as_symbol().is_some() {
                    continue;
                }
                let shape = c.load(types::I64, values, i as i32 * at::VALUE_BYTES + at::SHAPE);
                let extent = c.load(types::I64, shape, axis as i32 * 8);
                let expected = eval(c, dim, dims);
                let differs = c.compare(IntCC::NotEqual, extent, expected);
                let about = PortValues { call, output: c.int32(0), index: c.int32(i as i32) };
                let axis = c.int(axis as i64);
                self.fail_if(c, differs, status::DIM, &about, Some(axis), [Some(expected), Some(extent)]);
            }
        }
    }

    /// States the shapes of all outputs, so that a caller whose memory is too small learns them all, then checks them.
    #[allow(clippy::too_many_arguments)]
    fn check_outputs(
        &self,
        c: &mut Code<'_>,
        values: Value,
        call: Value,
        plain: Value,
        ports: Value,
        dims: Value,
        bases: Value,
        sizes: Value,
    ) {
        use types::I32;
        let inputs = self.program.inputs.len();
        let verdict = c.stack(8);
        let ok = c.int32(0);
        c.store(ok, verdict, 0);
        let shape = c.stack(MAX_RANK as u32 * 8);
        let place = |c: &mut Code<'_>, i: usize| {
            let value = c.add(values, i as i64 * i64::from(at::VALUE_BYTES));
            let port = c.add(ports, (inputs + i) as i64 * at::PORT_BYTES);
            (value, port, c.int32(i as i32))
        };
        for (i, output) in self.program.outputs.iter().enumerate() {
            let (value, port, index) = place(c, i);
            let mut count = c.int(1);
            for (axis, dim) in output.ty.shape.iter().enumerate() {
                let extent = eval(c, dim, dims);
                c.store(extent, shape, axis as i32 * 8);
                count = c.f.ins().imul(count, extent);
            }
            let bits = c.f.ins().imul_imm_s(count, i64::from(output.ty.dtype.bits()));
            let bits = c.add(bits, 7);
            let bytes = c.f.ins().ushr_imm_u(bits, 3);
            c.store(bytes, sizes, (inputs + i) as i32 * 8);
            let checked = c
                .call(&self.symbol("_output"), true, Some(I32), &[value, port, shape, bytes, call, index, plain])
                .expect("output gives a status");
            let failed = c.compare_with(IntCC::NotEqual, checked, 0);
            let more = c.compare_with(IntCC::NotEqual, checked, status::MORE.into());
            let fatal = c.f.ins().band(failed, more);
            c.leave_if(fatal, |_| checked);
            c.when(failed, |c| c.store(checked, verdict, 0));
        }
        let verdict = c.load(I32, verdict, 0);
        let more = c.compare_with(IntCC::NotEqual, verdict, 0);
        c.leave_if(more, |_| verdict);
        for i in 0..self.program.outputs.len() {
            let (value, port, index) = place(c, i);
            let bytes = c.load(types::I64, sizes, (inputs + i) as i32 * 8);
            let one = c.int32(1);
            let checked = c.call(&self.symbol("_memory"), true, Some(I32), &[value, port, bytes, call, one, index]);
            leave_unless_ok(c, checked);
            let (data, offset) = (c.load(types::I64, value, 0), c.load(types::I64, value, at::BYTE_OFFSET));
            let base = c.f.ins().iadd(data, offset);
            c.store(base, bases, (inputs + i) as i32 * 8);
        }
    }

    /// What can be wrong with a call whatever the model.
    fn check_call(&self, c: &mut Code<'_>, values_in: Value, values_out: Value, call: Value) {
        use types::I32;
        let mut required = vec![call];
        required.extend((!self.program.inputs.is_empty()).then_some(values_in));
        required.extend((!self.program.outputs.is_empty()).then_some(values_out));
        for pointer in required {
            let null = c.compare_with(IntCC::Equal, pointer, 0);
            c.leave_with(null, status::NULL);
        }
        let size = c.load(I32, call, 0);
        let small = c.compare_with(IntCC::UnsignedLessThan, size, at::CALL_BYTES);
        c.leave_with(small, status::STRUCT_SIZE);
        let version = c.load(I32, call, at::CALL_ABI);
        let other = c.compare_with(IntCC::NotEqual, version, super::compile::ABI_VERSION.into());
        c.leave_with(other, status::ABI);
        let flags = c.load(I32, call, at::FLAGS);
        let unknown = c.compare_with(IntCC::NotEqual, flags, 0);
        c.leave_with(unknown, status::FLAGS);
    }

    /// `run(in, out, call) -> status`.
    fn run(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64; 3], Some(I32), |c, p| {
            self.check_call(c, p[0], p[1], p[2]);
            let plain = c.int32(0);
            let status = c.call(&self.symbol("_execute"), true, Some(I32), &[p[0], p[1], p[2], plain]);
            c.f.ins().return_(&[status.expect("execute gives a status")]);
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
            let plain = c.int32(1);
            let status = c.call(&self.symbol("_execute"), true, Some(I32), &[values, values_out, p[2], plain]);
            c.f.ins().return_(&[status.expect("execute gives a status")]);
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
    dim.fold(&mut DimCode { code: c, dims })
}
