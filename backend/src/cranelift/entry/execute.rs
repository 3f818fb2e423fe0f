//! The function that checks a call's values and runs the steps.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Function, InstBuilder, Value, types};
use onnxc_ir::tensor::TensorType;

use super::super::code::{Code, Names, function};
use super::{Entry, MAX_RANK, PortValues, at, eval, eval_size, leave_unless_ok, status};

impl Entry<'_> {
    /// `execute(in, out, call, plain, slots) -> status`: everything that `run` and `run_dl` share. Of slots there are any only
    /// where data decides sizes.
    pub(super) fn execute(&self) -> (Function, Names) {
        use types::{I32, I64};
        let (inputs, outputs) = (self.program.inputs.len(), self.program.outputs.len());
        function(self.isa, &[I64, I64, I64, I32, I64], Some(I32), |c, p| {
            let [values_in, values_out, call, plain, slots] = [p[0], p[1], p[2], p[3], p[4]];
            let given = c.load(I32, call, at::MAX_WORKERS);
            let workers = self.workers(c, given);
            let ports = c.symbol(&self.symbol("_ports"), true);
            let dims = c.stack(self.program.symbols.len() as u32 * 8);
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
            for size in &self.program.sizes {
                let (value, wrong) = eval_size(c, size, dims);
                self.fail_if(c, wrong, status::DIM_RANGE, &about, None, [None, Some(value)]);
            }
            self.check_outputs(c, values_out, call, plain, ports, dims, bases, sizes);
            self.check_states(c, values_in, call, dims, bases, sizes);
            let (needed, wrong) = self.arena(c, dims, workers);
            self.fail_if(c, wrong, status::SIZE_LIMIT, &about, None, [None; 2]);
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
                (at::FRAME_SIZES, sizes),
                (at::FRAME_SLOTS, slots),
                (at::FRAME_INPUTS, values_in),
                (at::FRAME_OUTPUTS, values_out),
                (at::FRAME_ARENA_BYTES, arena_bytes),
            ] {
                c.store(value, frame, offset);
            }
            self.gpu_begin(c, frame);
            self.run_list(c, "_steps", self.program.steps.len(), frame);
            let ok = self.gpu_end(c);
            c.f.ins().return_(&[ok]);
        })
    }

    /// Compares the extents that are no plain symbols with what the symbols, now bound, make of them.
    pub(super) fn check_expressions(&self, c: &mut Code<'_>, values: Value, call: Value, dims: Value) {
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
    pub(super) fn check_outputs(
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
        let nothing = c.int(0);
        for (i, output) in self.program.outputs.iter().enumerate() {
            let (value, port, index) = place(c, i);
            if !self.program.states_at_entry(output) {
                c.store(nothing, sizes, (inputs + i) as i32 * 8);
                continue;
            }
            let about = PortValues { call, output: c.int32(1), index };
            let bytes = self.shape_and_bytes(c, &output.ty, dims, shape, |c, axis, wrong, extent| {
                let axis = c.int(axis as i64);
                self.fail_if(c, wrong, status::SIZE_LIMIT, &about, Some(axis), [None, Some(extent)]);
            });
            c.store(bytes, sizes, (inputs + i) as i32 * 8);
            if self.program.allocates() {
                let room = c.call(&self.symbol("_make_room"), true, Some(I32), &[value, port, bytes, call]);
                leave_unless_ok(c, room);
            }
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
        for (i, output) in self.program.outputs.iter().enumerate() {
            if !self.program.states_at_entry(output) {
                continue;
            }
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

    /// Stores a tensor's extents at `shape` and gives its bytes. `fail` leaves the function if an extent is negative, or if
    /// the tensor has more elements up to an axis than the ABI counts: 2^56, so that no product of bits overflows.
    pub(super) fn shape_and_bytes(
        &self,
        c: &mut Code<'_>,
        ty: &TensorType,
        dims: Value,
        shape: Value,
        fail: impl Fn(&mut Code<'_>, usize, Value, Value),
    ) -> Value {
        let mut count = c.int(1);
        for (axis, dim) in ty.shape.iter().enumerate() {
            let (extent, wrong) = eval_size(c, dim, dims);
            c.store(extent, shape, axis as i32 * 8);
            if ty.static_len().is_none() {
                let high = c.f.ins().umulhi(count, extent);
                count = c.f.ins().imul(count, extent);
                let top = c.f.ins().ushr_imm_u(count, 56);
                let over = c.f.ins().bor(high, top);
                let over = c.compare_with(IntCC::NotEqual, over, 0);
                let wrong = c.f.ins().bor(wrong, over);
                fail(c, axis, wrong, extent);
            }
        }
        if let Some(len) = ty.static_len() {
            count = c.int(len);
        }
        let bits = c.f.ins().imul_imm_s(count, i64::from(ty.dtype.port_bits()));
        let bits = c.add(bits, 7);
        c.f.ins().ushr_imm_u(bits, 3)
    }

    /// What can be wrong with a call whatever the model.
    pub(super) fn check_call(&self, c: &mut Code<'_>, values_in: Value, values_out: Value, call: Value) {
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
        let other = c.compare_with(IntCC::NotEqual, version, super::super::compile::ABI_VERSION.into());
        c.leave_with(other, status::ABI);
        let flags = c.load(I32, call, at::FLAGS);
        let unknown = c.compare_with(IntCC::NotEqual, flags, 0);
        c.leave_with(unknown, status::FLAGS);
        if self.external_weights {
            // Whether these are the model's weights is for who opens the file to say: no run hashes them.
            let (weights, bytes) = (c.load(types::I64, call, at::WEIGHTS), c.load(types::I64, call, at::WEIGHTS_BYTES));
            let null = c.compare_with(IntCC::Equal, weights, 0);
            let low = c.int(63);
            let low = c.f.ins().band(weights, low);
            let crooked = c.compare_with(IntCC::NotEqual, low, 0);
            let others = c.compare_with(IntCC::NotEqual, bytes, self.program.weight_bytes as i64);
            let wrong = c.f.ins().bor(null, crooked);
            let wrong = c.f.ins().bor(wrong, others);
            c.leave_with(wrong, status::WEIGHTS);
        }
    }
}
