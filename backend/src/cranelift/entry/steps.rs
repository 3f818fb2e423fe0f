//! The steps of a run: launches, serial or through the caller's `parallel_for`, and copies.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Function, InstBuilder, Value, types};
use cranelift_entity::EntityRef;
use onnxc_ir::program::{Place, Step};

use super::super::code::{Code, Names, function};
use super::{Entry, MAX_WORKERS, at, eval, eval_size, list_name, status};

/// Where a frame's places are: arrays of pointers, the arena, the symbols' values.
pub(super) struct Memory {
    pub(super) bases: Value,
    pub(super) arena: Value,
    pub(super) dims: Value,
    pub(super) slots: Value,
    /// Where the caller has the weights; none where the object has them.
    pub(super) weights: Option<Value>,
}

impl Entry<'_> {
    /// `task(job, task, worker)`: one task of a launch; the job is what `launch` puts on its stack.
    pub(super) fn task(&self) -> (Function, Names) {
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
    pub(super) fn launch(&self) -> (Function, Names) {
        use types::I64;
        function(self.isa, &[I64; 6], None, |c, p| {
            let [frame, kernel, buffers, params, tasks, step] = [p[0], p[1], p[2], p[3], p[4], p[5]];
            let call = c.load(I64, frame, at::FRAME_CALL);
            let scratch = c.load(I64, frame, at::FRAME_SCRATCH);
            self.traced(c, call, step, |c, user| {
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
            });
            c.f.ins().return_(&[]);
        })
    }

    /// Emits a launch, which is given the caller's `user`, between the two calls of `trace`, if there is one.
    pub(super) fn traced(&self, c: &mut Code<'_>, call: Value, step: Value, launch: impl FnOnce(&mut Code<'_>, Value)) {
        let (trace, user) = (c.load(types::I64, call, at::TRACE), c.load(types::I64, call, at::USER));
        let traced = c.compare_with(IntCC::NotEqual, trace, 0);
        let tell = |c: &mut Code<'_>, begins: i32| {
            c.when(traced, |c| {
                let begins = c.int32(begins);
                c.call_pointer(trace, &[user, step, begins]);
            });
        };
        tell(c, 1);
        launch(c, user);
        tell(c, 0);
    }

    /// A part of the steps.
    pub(super) fn steps(&self, steps: &[(usize, &Step)]) -> (Function, Names) {
        use types::I64;
        // Only steps that look at data and calls of the user's functions can fail.
        let result = self.program.steps_fail().then_some(types::I32);
        function(self.isa, &[I64], result, |c, p| {
            let frame = p[0];
            let bases = c.load(I64, frame, at::FRAME_BASES);
            let arena = c.load(I64, frame, at::FRAME_ARENA);
            let dims = c.load(I64, frame, at::FRAME_DIMS);
            let slots = c.load(I64, frame, at::FRAME_SLOTS);
            let weights = self.external_weights.then(|| {
                let call = c.load(I64, frame, at::FRAME_CALL);
                c.load(I64, call, at::WEIGHTS)
            });
            let memory = Memory { bases, arena, dims, slots, weights };
            let launches = steps.iter().filter_map(|(_, s)| if let Step::Launch(l) = s { Some(l) } else { None });
            let most_buffers = launches.clone().map(|l| l.buffers.len()).max().unwrap_or(0);
            let most_params = launches.map(|l| l.params.len()).max().unwrap_or(0);
            let buffers = c.stack(most_buffers as u32 * 8);
            let params = c.stack(most_params as u32 * 8);
            for &(number, step) in steps {
                match step {
                    Step::Launch(launch) => {
                        for (n, place) in launch.buffers.iter().enumerate() {
                            let pointer = self.place(c, place, &memory);
                            c.store(pointer, buffers, n as i32 * 8);
                        }
                        for (n, param) in launch.params.iter().enumerate() {
                            let value = eval(c, param, dims);
                            c.store(value, params, n as i32 * 8);
                        }
                        let tasks = eval(c, &launch.tasks, dims);
                        if self.program.apart.is_some_and(|apart| apart.at_end) {
                            // The kernel's own scratch ends where the workers' does.
                            let own = self.program.kernels[launch.kernel].scratch_layout().1;
                            let tensors = eval(c, &self.program.arena_bytes, dims);
                            let end = c.f.ins().iadd(arena, tensors);
                            let scratch = c.add(end, (self.program.scratch_bytes - own) as i64);
                            c.store(scratch, frame, at::FRAME_SCRATCH);
                        }
                        let kernel = c.symbol(&self.kernels[launch.kernel.index()], true);
                        let number = c.int(number as i64);
                        c.call(&self.symbol("_launch"), true, None, &[frame, kernel, buffers, params, tasks, number]);
                    }
                    Step::Call(call) => self.call_step(c, call, number, frame, &memory),
                    Step::Copy { from, to, offset, bytes, .. } => {
                        let from = self.place(c, from, &memory);
                        let mut to = self.place(c, to, &memory);
                        if *offset != 0 {
                            let offset = eval(c, offset, dims);
                            to = c.f.ins().iadd(to, offset);
                        }
                        let bytes = eval(c, bytes, dims);
                        // No bytes, no call: an empty tensor's pointer may be NULL.
                        let some = c.compare_with(IntCC::NotEqual, bytes, 0);
                        c.when(some, |c| self.copy(c, to, from, bytes));
                    }
                    Step::If { condition, then, otherwise, .. } => {
                        let condition = self.place(c, condition, &memory);
                        let one = c.int(1);
                        let condition = self.gpu_read(c, condition, one);
                        let condition = c.load(types::I8, condition, 0);
                        let (first, second, after) = (c.f.create_block(), c.f.create_block(), c.f.create_block());
                        c.f.ins().brif(condition, first, &[], second, &[]);
                        for (n, (block, list)) in [(first, then), (second, otherwise)].into_iter().enumerate() {
                            c.f.switch_to_block(block);
                            self.run_list(c, &list_name(number, n), list.len(), frame);
                            c.f.ins().jump(after, &[]);
                        }
                        c.f.switch_to_block(after);
                    }
                    Step::Loop { trips, condition, iteration, counter, body, .. } => {
                        let [trips, condition, counter] =
                            [trips, condition, counter].map(|p| self.place(c, p, &memory));
                        let (one, eight) = (c.int(1), c.int(8));
                        let trips = self.gpu_read(c, trips, eight);
                        let trips = c.load(I64, trips, 0);
                        let (zero, iteration) = (c.int(0), iteration.index() as i32 * 8);
                        let (top, more) = (c.f.create_block(), c.f.create_block());
                        let (inside, after) = (c.f.create_block(), c.f.create_block());
                        let i = c.f.append_block_param(top, I64);
                        c.f.ins().jump(top, &[zero.into()]);
                        c.f.switch_to_block(top);
                        c.store(i, dims, iteration);
                        let below = c.compare(IntCC::SignedLessThan, i, trips);
                        c.f.ins().brif(below, more, &[], after, &[]);
                        c.f.switch_to_block(more);
                        let condition = self.gpu_read(c, condition, one);
                        let again = c.load(types::I8, condition, 0);
                        c.f.ins().brif(again, inside, &[], after, &[]);
                        c.f.switch_to_block(inside);
                        c.store(i, counter, 0);
                        self.gpu_write(c, counter, eight);
                        self.run_list(c, &list_name(number, 0), body.len(), frame);
                        let next = c.add(i, 1);
                        c.f.ins().jump(top, &[next.into()]);
                        c.f.switch_to_block(after);
                    }
                    Step::Dispatch { lists } => {
                        let variant = c.call(&self.symbol("_choose"), true, Some(types::I32), &[]);
                        let variant = variant.expect("choose gives a number");
                        let after = c.f.create_block();
                        for (n, list) in lists.iter().enumerate() {
                            let (here, next) = (c.f.create_block(), c.f.create_block());
                            let chosen = c.compare_with(IntCC::Equal, variant, n as i64);
                            c.f.ins().brif(chosen, here, &[], next, &[]);
                            c.f.switch_to_block(here);
                            self.run_list(c, &list_name(number, n), list.len(), frame);
                            c.f.ins().jump(after, &[]);
                            c.f.switch_to_block(next);
                        }
                        c.f.ins().jump(after, &[]);
                        c.f.switch_to_block(after);
                    }
                    Step::Select { cases, lists } => {
                        let after = c.f.create_block();
                        for (n, case) in cases.iter().enumerate() {
                            let (here, next) = (c.f.create_block(), c.f.create_block());
                            let mut all = None;
                            for &(symbol, size) in case {
                                let value = c.load(I64, dims, symbol.index() as i32 * 8);
                                let same = c.compare_with(IntCC::Equal, value, size);
                                all = Some(all.map_or(same, |all| c.f.ins().band(all, same)));
                            }
                            let all = all.expect("a case says something");
                            c.f.ins().brif(all, here, &[], next, &[]);
                            c.f.switch_to_block(here);
                            self.run_list(c, &list_name(number, n + 1), lists[n + 1].len(), frame);
                            c.f.ins().jump(after, &[]);
                            c.f.switch_to_block(next);
                        }
                        self.run_list(c, &list_name(number, 0), lists[0].len(), frame);
                        c.f.ins().jump(after, &[]);
                        c.f.switch_to_block(after);
                    }
                    Step::Strings { function, inputs, output, .. } => {
                        self.strings_step(c, *function, inputs, output, number, frame, &memory);
                    }
                    Step::Bind { .. }
                    | Step::Assign { .. }
                    | Step::Append { .. }
                    | Step::Move { .. }
                    | Step::Require { .. }
                    | Step::Allocate { .. }
                    | Step::Release { .. }
                    | Step::State { .. } => self.data_step(c, step, number, frame, &memory),
                }
            }
            let ok = result.map(|_| c.int32(0));
            c.f.ins().return_(ok.as_slice());
        })
    }

    /// Copies bytes from one place to another.
    pub(super) fn copy(&self, c: &mut Code<'_>, to: Value, from: Value, bytes: Value) {
        if self.gpu {
            c.call("onnxc_cuda_copy", false, None, &[to, from, bytes]);
        } else {
            c.call("memcpy", false, Some(types::I64), &[to, from, bytes]);
        }
    }

    pub(super) fn place(&self, c: &mut Code<'_>, place: &Place, memory: &Memory) -> Value {
        match place {
            Place::Input(i) => c.load(types::I64, memory.bases, *i as i32 * 8),
            Place::Output(i) => c.load(types::I64, memory.bases, (self.program.inputs.len() as i32 + *i as i32) * 8),
            Place::Slot(i) => c.load(types::I64, memory.slots, *i as i32 * at::SLOT_BYTES as i32),
            Place::Weights(offset) => {
                let weights = memory.weights.unwrap_or_else(|| c.symbol(&self.symbol("weights"), false));
                c.add(weights, *offset as i64)
            }
            Place::Arena(offset) => match offset.as_const() {
                Some(offset) => c.add(memory.arena, offset),
                None => {
                    let offset = eval(c, offset, memory.dims);
                    c.f.ins().iadd(memory.arena, offset)
                }
            },
        }
    }

    /// The arena's size for these dims and workers, and an `i8` that tells whether it is past what can be addressed.
    pub(super) fn arena(&self, c: &mut Code<'_>, dims: Value, workers: Value) -> (Value, Value) {
        let (tensors, wrong) = eval_size(c, &self.program.arena_bytes, dims);
        let scratch = c.f.ins().imul_imm_s(workers, self.program.scratch_bytes as i64);
        let bytes = c.f.ins().iadd(tensors, scratch);
        // Scratch is small: past the greatest size the sum is negative.
        let over = c.compare_with(IntCC::SignedLessThan, bytes, 0);
        (bytes, c.f.ins().bor(wrong, over))
    }

    /// The number of workers: 0 counts as 1. Leaves the function where it is out of range.
    pub(super) fn workers(&self, c: &mut Code<'_>, workers: Value) -> Value {
        let workers = c.f.ins().sextend(types::I64, workers);
        let out = c.compare_with(IntCC::UnsignedGreaterThan, workers, MAX_WORKERS);
        c.leave_with(out, status::WORKERS);
        let one = c.int(1);
        c.f.ins().smax(workers, one)
    }
}
