//! What only models need whose sizes data decides: steps that bind and test sizes, memory from the caller's `alloc`, and its
//! release when the run ends, however it ends.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Function, InstBuilder, Value, types};
use cranelift_entity::EntityRef;
use onnxc_ir::dim::DEFAULT_HIGH;
use onnxc_ir::program::Step;

use super::super::code::{Code, Names, function};
use super::steps::Memory;
use super::{Entry, MAX_RANK, at, eval, eval_size, leave_unless_ok, status};

/// `ONNXC_VALUE_OWNS_DATA`.
const OWNS_DATA: i32 = 1;

/// `ONNXC_VALUE_OWNS_STRINGS`.
const OWNS_STRINGS: i32 = 4;

/// The alignment of tensors in bytes.
const ALIGNMENT: i64 = 64;

impl Entry<'_> {
    /// `fail_step(call, status, step, expected, actual) -> status`: writes the fault of a step where one is wanted.
    pub(super) fn fail_step(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64, I32, I32, I64, I64], Some(I32), |c, p| {
            let fault = c.load(I64, p[0], at::FAULT);
            let wanted = c.compare_with(IntCC::NotEqual, fault, 0);
            c.when(wanted, |c| {
                let (no, none) = (c.int32(0), c.int32(-1));
                for (value, offset) in [(no, 0), (none, 4), (none, 8), (p[2], 12), (p[3], 16), (p[4], 24)] {
                    c.store(value, fault, offset);
                }
            });
            c.f.ins().return_(&[p[1]]);
        })
    }

    /// `allocate(frame, slot, bytes, step) -> status`: memory for a slot.
    pub(super) fn allocate(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64, I64, I64, I32], Some(I32), |c, p| {
            let [frame, slot, bytes, step] = [p[0], p[1], p[2], p[3]];
            let call = c.load(I64, frame, at::FRAME_CALL);
            let (alloc, user) = (c.load(I64, call, at::ALLOC), c.load(I64, call, at::USER));
            // A tensor without elements still has a place.
            let (one, align) = (c.int(1), c.int(ALIGNMENT));
            let bytes = c.f.ins().umax(bytes, one);
            let pointer = c.call_pointer_for(alloc, Some(I64), &[user, bytes, align]).expect("alloc gives a pointer");
            let missing = c.compare_with(IntCC::Equal, pointer, 0);
            self.fail_step_if(c, missing, status::NO_MEMORY, call, step, [Some(bytes), None]);
            c.store(pointer, slot, 0);
            c.store(bytes, slot, 8);
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// Gives a slot's memory back, if it has any.
    fn release(&self, c: &mut Code<'_>, call: Value, slot: Value) {
        let pointer = c.load(types::I64, slot, 0);
        let full = c.compare_with(IntCC::NotEqual, pointer, 0);
        c.when(full, |c| {
            let bytes = c.load(types::I64, slot, 8);
            let (release, user) = (c.load(types::I64, call, at::RELEASE), c.load(types::I64, call, at::USER));
            c.call_pointer(release, &[user, pointer, bytes]);
            let empty = c.int(0);
            c.store(empty, slot, 0);
        });
    }

    /// `append(frame, slot, from, bytes, used, step) -> status`: puts bytes behind the `used` ones of a slot, whose memory
    /// doubles where it is full.
    pub(super) fn append(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64, I64, I64, I64, I64, I32], Some(I32), |c, p| {
            let [frame, slot, from, bytes, used, step] = [p[0], p[1], p[2], p[3], p[4], p[5]];
            let call = c.load(I64, frame, at::FRAME_CALL);
            let needed = c.f.ins().iadd(used, bytes);
            let over = c.compare_with(IntCC::SignedLessThan, needed, 0);
            self.fail_step_if(c, over, status::SIZE_LIMIT, call, step, [None, Some(used)]);
            let (old, capacity) = (c.load(I64, slot, 0), c.load(I64, slot, 8));
            // An empty slot says nothing about its bytes.
            let (empty, zero) = (c.compare_with(IntCC::Equal, old, 0), c.int(0));
            let capacity = c.f.ins().select(empty, zero, capacity);
            let small = c.compare(IntCC::SignedLessThan, capacity, needed);
            let grows = c.f.ins().bor(small, empty);
            c.when(grows, |c| {
                let doubled = c.f.ins().iadd(capacity, capacity);
                let least = c.int(ALIGNMENT);
                let wanted = c.f.ins().smax(doubled, needed);
                let wanted = c.f.ins().smax(wanted, least);
                let (alloc, user) = (c.load(I64, call, at::ALLOC), c.load(I64, call, at::USER));
                let align = c.int(ALIGNMENT);
                let new = c.call_pointer_for(alloc, Some(I64), &[user, wanted, align]).expect("alloc gives a pointer");
                let missing = c.compare_with(IntCC::Equal, new, 0);
                self.fail_step_if(c, missing, status::NO_MEMORY, call, step, [Some(wanted), None]);
                let full = c.compare_with(IntCC::NotEqual, old, 0);
                c.when(full, |c| {
                    let old = self.gpu_read(c, old, used);
                    c.call("memcpy", false, Some(I64), &[new, old, used]);
                    self.release(c, call, slot);
                });
                c.store(new, slot, 0);
                c.store(wanted, slot, 8);
                self.gpu_write(c, new, used);
            });
            let some = c.compare_with(IntCC::NotEqual, bytes, 0);
            c.when(some, |c| {
                let base = c.load(I64, slot, 0);
                let to = c.f.ins().iadd(base, used);
                self.copy(c, to, from, bytes);
            });
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// `make_room(value, port, bytes, call) -> status`: an output without memory gets some from the caller's `alloc`.
    pub(super) fn make_room(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64; 4], Some(I32), |c, p| {
            let [value, port, bytes, call] = [p[0], p[1], p[2], p[3]];
            let (data, capacity) = (c.load(I64, value, 0), c.load(I64, value, at::CAPACITY));
            let some = c.f.ins().bor(data, capacity);
            let has = c.compare_with(IntCC::NotEqual, some, 0);
            c.leave_with(has, 0);
            let (alloc, user) = (c.load(I64, call, at::ALLOC), c.load(I64, call, at::USER));
            let (one, align) = (c.int(1), c.int(ALIGNMENT));
            let bytes = c.f.ins().umax(bytes, one);
            let pointer = c.call_pointer_for(alloc, Some(I64), &[user, bytes, align]).expect("alloc gives a pointer");
            let missing = c.compare_with(IntCC::Equal, pointer, 0);
            c.leave_with(missing, status::NO_MEMORY);
            let (zero, owns, dtype) = (c.int(0), c.int32(OWNS_DATA), c.load(I32, port, at::PORT_DTYPE));
            c.store(pointer, value, 0);
            c.store(zero, value, at::BYTE_OFFSET);
            c.store(bytes, value, at::CAPACITY);
            c.store(owns, value, at::VALUE_FLAGS);
            c.store(dtype, value, at::DTYPE);
            // DLPack's CPU.
            let device = c.int(1);
            c.store(device, value, at::DEVICE);
            let ok = c.int32(0);
            c.f.ins().return_(&[ok]);
        })
    }

    /// `guarded(in, out, call) -> status`: a run with slots, of which none outlives it; after a failure no output holds memory
    /// that the run allocated.
    pub(super) fn guarded(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64; 3], Some(I32), |c, p| {
            let [values_in, values_out, call] = [p[0], p[1], p[2]];
            let (alloc, release) = (c.load(I64, call, at::ALLOC), c.load(I64, call, at::RELEASE));
            for callback in [alloc, release] {
                let null = c.compare_with(IntCC::Equal, callback, 0);
                c.leave_with(null, status::NEED_ALLOC);
            }
            let count = i64::from(self.program.slots);
            let slots = c.stack((count * at::SLOT_BYTES) as u32);
            let (zero, none) = (c.int(0), c.int32(0));
            let (slot_count, output_count) = (c.int(count), c.int(self.program.outputs.len() as i64));
            c.each(zero, slot_count, |c, i| {
                let byte = c.f.ins().imul_imm_s(i, at::SLOT_BYTES);
                let slot = c.f.ins().iadd(slots, byte);
                c.store(zero, slot, 0);
            });
            c.each(zero, output_count, |c, i| {
                let byte = c.f.ins().imul_imm_s(i, i64::from(at::VALUE_BYTES));
                let value = c.f.ins().iadd(values_out, byte);
                c.store(none, value, at::VALUE_FLAGS);
            });
            let plain = c.int32(0);
            let arguments = [values_in, values_out, call, plain, slots];
            let status = c.call(&self.symbol("_execute"), true, Some(I32), &arguments).expect("execute gives a status");
            let user = c.load(I64, call, at::USER);
            c.each(zero, slot_count, |c, i| {
                let byte = c.f.ins().imul_imm_s(i, at::SLOT_BYTES);
                let slot = c.f.ins().iadd(slots, byte);
                let (pointer, bytes) = (c.load(I64, slot, 0), c.load(I64, slot, 8));
                let full = c.compare_with(IntCC::NotEqual, pointer, 0);
                c.when(full, |c| c.call_pointer(release, &[user, pointer, bytes]));
            });
            let failed = c.compare_with(IntCC::NotEqual, status, 0);
            c.when(failed, |c| {
                c.each(zero, output_count, |c, i| {
                    let byte = c.f.ins().imul_imm_s(i, i64::from(at::VALUE_BYTES));
                    let value = c.f.ins().iadd(values_out, byte);
                    let flags = c.load(I32, value, at::VALUE_FLAGS);
                    let parts = [(OWNS_DATA, 0, at::CAPACITY), (OWNS_STRINGS, at::STRING_BYTES, at::STRING_CAPACITY)];
                    for (flag, pointer_at, bytes_at) in parts {
                        let flag = c.int32(flag);
                        let owned = c.f.ins().band(flags, flag);
                        c.when(owned, |c| {
                            let (pointer, bytes) = (c.load(I64, value, pointer_at), c.load(I64, value, bytes_at));
                            c.call_pointer(release, &[user, pointer, bytes]);
                            c.store(zero, value, pointer_at);
                            c.store(zero, value, bytes_at);
                        });
                    }
                    c.store(none, value, at::VALUE_FLAGS);
                });
            });
            c.f.ins().return_(&[status]);
        })
    }

    /// Leaves with a status about a step if the condition holds.
    pub(super) fn fail_step_if(
        &self,
        c: &mut Code<'_>,
        condition: Value,
        status: i32,
        call: Value,
        step: Value,
        found: [Option<Value>; 2],
    ) {
        let name = self.symbol("_fail_step");
        c.leave_if(condition, |c| {
            let status = c.int32(status);
            let [expected, actual] = found.map(|v| v.unwrap_or_else(|| c.int(-1)));
            c.call(&name, true, Some(types::I32), &[call, status, step, expected, actual])
                .expect("fail gives the status")
        });
    }

    /// A step about sizes and memory that data decides.
    pub(super) fn data_step(&self, c: &mut Code<'_>, step: &Step, number: usize, frame: Value, memory: &Memory) {
        use types::{I32, I64};
        let dims = memory.dims;
        let call = c.load(I64, frame, at::FRAME_CALL);
        let step_number = c.int32(number as i32);
        match step {
            Step::Launch(_)
            | Step::Call(_)
            | Step::Strings { .. }
            | Step::Copy { .. }
            | Step::If { .. }
            | Step::Loop { .. }
            | Step::Dispatch { .. }
            | Step::Select { .. } => {
                unreachable!("these are no steps about sizes")
            }
            Step::Assign { sizes } => {
                let values: Vec<Value> = sizes.iter().map(|(_, dim)| eval(c, dim, dims)).collect();
                for ((symbol, _), value) in sizes.iter().zip(values) {
                    c.store(value, dims, symbol.index() as i32 * 8);
                }
            }
            Step::Append { slot, from, bytes, used, .. } => {
                let from = self.place(c, from, memory);
                let ((bytes, wrong), (used, over)) = (eval_size(c, bytes, dims), eval_size(c, used, dims));
                let wrong = c.f.ins().bor(wrong, over);
                self.fail_step_if(c, wrong, status::SIZE_LIMIT, call, step_number, [None, Some(used)]);
                let slot = c.add(memory.slots, i64::from(*slot) * at::SLOT_BYTES);
                let arguments = [frame, slot, from, bytes, used, step_number];
                let status = c.call(&self.symbol("_append"), true, Some(I32), &arguments);
                leave_unless_ok(c, status);
            }
            Step::Move { from, to } => {
                let [from, to] = [from, to].map(|slot| c.add(memory.slots, i64::from(*slot) * at::SLOT_BYTES));
                for offset in [0, 8] {
                    let word = c.load(I64, from, offset);
                    c.store(word, to, offset);
                }
                let empty = c.int(0);
                c.store(empty, from, 0);
            }
            Step::Bind { symbol, from, element, low, high, .. } => {
                let tensor = self.place(c, from, memory);
                let (first, eight) = (c.add(tensor, i64::from(*element) * 8), c.int(8));
                let first = self.gpu_read(c, first, eight);
                let size = c.load(I64, first, 0);
                // Past the greatest size of all is too much memory; other limits are the shapes' own.
                let above = if *high == DEFAULT_HIGH { status::SIZE_LIMIT } else { status::DATA_SHAPE };
                let (low, high) = (eval(c, low, dims), eval(c, high, dims));
                let wrong = c.compare(IntCC::SignedLessThan, size, low);
                self.fail_step_if(c, wrong, status::DATA_SHAPE, call, step_number, [Some(low), Some(size)]);
                let wrong = c.compare(IntCC::SignedGreaterThan, size, high);
                self.fail_step_if(c, wrong, above, call, step_number, [Some(high), Some(size)]);
                c.store(size, dims, symbol.index() as i32 * 8);
            }
            Step::Require { left, right, .. } => {
                let (a, b) = (eval(c, left, dims), eval(c, right, dims));
                let differs = c.compare(IntCC::NotEqual, a, b);
                self.fail_step_if(c, differs, status::DATA_SHAPE, call, step_number, [Some(a), Some(b)]);
            }
            Step::Allocate { slot, ty, .. } => {
                let shape = c.stack(ty.rank() as u32 * 8);
                let bytes = self.shape_and_bytes(c, ty, dims, shape, |c, _, wrong, extent| {
                    self.fail_step_if(c, wrong, status::SIZE_LIMIT, call, step_number, [None, Some(extent)]);
                });
                let slot = c.add(memory.slots, i64::from(*slot) * at::SLOT_BYTES);
                let status = c.call(&self.symbol("_allocate"), true, Some(I32), &[frame, slot, bytes, step_number]);
                leave_unless_ok(c, status);
            }
            Step::Release { slot } => {
                let slot = c.add(memory.slots, i64::from(*slot) * at::SLOT_BYTES);
                self.release(c, call, slot);
            }
            Step::State { output, .. } => self.state_output(c, *output as usize, call, step_number, frame, memory),
        }
    }

    /// Checks an output as [`Entry::check_outputs`] does at entry, now that its shape is known.
    fn state_output(&self, c: &mut Code<'_>, output: usize, call: Value, step: Value, frame: Value, memory: &Memory) {
        use types::{I32, I64};
        let (inputs, count) = (self.program.inputs.len(), self.program.outputs.len());
        let port = &self.program.outputs[output];
        let shape = c.stack(MAX_RANK as u32 * 8);
        let bytes = self.shape_and_bytes(c, &port.ty, memory.dims, shape, |c, _, wrong, extent| {
            self.fail_step_if(c, wrong, status::SIZE_LIMIT, call, step, [None, Some(extent)]);
        });
        let values = c.load(I64, frame, at::FRAME_OUTPUTS);
        let sizes = c.load(I64, frame, at::FRAME_SIZES);
        let ports = c.symbol(&self.symbol("_ports"), true);
        let value = c.add(values, output as i64 * i64::from(at::VALUE_BYTES));
        let port = c.add(ports, (inputs + output) as i64 * at::PORT_BYTES);
        let (index, one, plain) = (c.int32(output as i32), c.int32(1), c.int32(0));
        let status = c.call(&self.symbol("_make_room"), true, Some(I32), &[value, port, bytes, call]);
        leave_unless_ok(c, status);
        let arguments = [value, port, shape, bytes, call, index, plain];
        let status = c.call(&self.symbol("_output"), true, Some(I32), &arguments);
        leave_unless_ok(c, status);
        let status = c.call(&self.symbol("_memory"), true, Some(I32), &[value, port, bytes, call, one, index]);
        leave_unless_ok(c, status);
        let (data, offset) = (c.load(I64, value, 0), c.load(I64, value, at::BYTE_OFFSET));
        let base = c.f.ins().iadd(data, offset);
        c.store(base, memory.bases, (inputs + output) as i32 * 8);
        c.store(bytes, sizes, (inputs + output) as i32 * 8);
        let (first, all) = (c.int(inputs as i64), c.int((inputs + count) as i64));
        let arena_bytes = c.load(I64, frame, at::FRAME_ARENA_BYTES);
        let arguments = [memory.bases, sizes, first, all, memory.arena, arena_bytes];
        let hit = c.call(&self.symbol("_disjoint"), true, Some(I32), &arguments).expect("disjoint gives an index");
        let overlap = c.compare_with(IntCC::SignedGreaterThanOrEqual, hit, 0);
        let about = super::PortValues { call, output: one, index: hit };
        self.fail_if(c, overlap, status::OVERLAP, &about, None, [None; 2]);
    }
}
