//! What is checked of a port: kind, type, shape, strides, memory, capacity, overlap. Each check is one function over the
//! port's descriptor.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Function, InstBuilder, Value, types};

use super::super::code::{Code, Names, function};
use super::{Entry, PortValues, at, eval_size, leave_unless_ok, status};

impl Entry<'_> {
    /// `fail(call, status, output, port, axis, expected, actual) -> status`: writes the fault where one is wanted.
    pub(super) fn fail(&self) -> (Function, Names) {
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
    pub(super) fn fail_if(
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
    pub(super) fn memory(&self) -> (Function, Names) {
        use types::{I8, I32, I64};
        function(self.isa, &[I64, I64, I64, I64, I32, I32], Some(I32), |c, p| {
            let [value, port, bytes] = [p[0], p[1], p[2]];
            let about = PortValues { call: p[3], output: p[4], index: p[5] };
            let (is, want) = (c.load(I32, value, at::DTYPE), c.load(I32, port, at::PORT_DTYPE));
            let differs = c.compare(IntCC::NotEqual, is, want);
            self.fail_if(c, differs, status::DTYPE, &about, None, [None; 2]);
            let device = c.load(I32, value, at::DEVICE);
            let elsewhere = self.elsewhere(c, device);
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
    pub(super) fn strides(&self) -> (Function, Names) {
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
    pub(super) fn input(&self) -> (Function, Names) {
        use types::{I8, I16, I32, I64};
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
            let lanes = c.load(I16, port, at::PORT_LANES);
            let lanes = c.f.ins().uextend(I64, lanes);
            let bits = c.f.ins().imul(bits, lanes);
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
    pub(super) fn bind(
        &self,
        c: &mut Code<'_>,
        about: &PortValues,
        port: Value,
        dims: Value,
        axis: Value,
        extent: Value,
    ) {
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
    pub(super) fn output(&self) -> (Function, Names) {
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
    pub(super) fn disjoint(&self) -> (Function, Names) {
        use types::{I32, I64};
        function(self.isa, &[I64; 6], Some(I32), |c, p| {
            let [bases, sizes, first, all, arena, arena_bytes] = [p[0], p[1], p[2], p[3], p[4], p[5]];
            let overlaps = |c: &mut Code<'_>, a: Value, a_bytes: Value, b: Value, b_bytes: Value| {
                // One begins inside of the other: differences stay exact where an end would wrap.
                let (after, before) = (c.f.ins().isub(a, b), c.f.ins().isub(b, a));
                let after = c.compare(IntCC::UnsignedLessThan, after, b_bytes);
                let before = c.compare(IntCC::UnsignedLessThan, before, a_bytes);
                let both = c.f.ins().bor(before, after);
                let some = c.compare_with(IntCC::NotEqual, a_bytes, 0);
                let other = c.compare_with(IntCC::NotEqual, b_bytes, 0);
                let sized = c.f.ins().band(some, other);
                c.f.ins().band(both, sized)
            };
            let zero = c.int(0);
            // An arena cannot go on behind the last address, whatever its caller says.
            let room = c.f.ins().ineg(arena);
            let room = c.add(room, -1);
            let arena_bytes = c.f.ins().umin(arena_bytes, room);
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

    /// Checks that states have room and that input and output are one buffer, of which `sizes` has the whole then.
    pub(super) fn check_states(
        &self,
        c: &mut Code<'_>,
        values_in: Value,
        call: Value,
        dims: Value,
        bases: Value,
        sizes: Value,
    ) {
        use types::I64;
        for state in &self.program.states {
            let (input, output) = (state.input as i32, (self.program.inputs.len() + state.output as usize) as i32);
            let about = PortValues { call, output: c.int32(0), index: c.int32(input) };
            let (bytes, wrong) = eval_size(c, &state.bytes, dims);
            self.fail_if(c, wrong, status::SIZE_LIMIT, &about, None, [None; 2]);
            let capacity = c.load(I64, values_in, input * at::VALUE_BYTES + at::CAPACITY);
            let given = c.compare_with(IntCC::NotEqual, capacity, 0);
            let small = c.compare(IntCC::UnsignedLessThan, capacity, bytes);
            let wrong = c.f.ins().band(given, small);
            self.fail_if(c, wrong, status::CAPACITY, &about, None, [Some(bytes), Some(capacity)]);
            let (before, after) = (c.load(I64, bases, input * 8), c.load(I64, bases, output * 8));
            let differ = c.compare(IntCC::NotEqual, before, after);
            self.fail_if(c, differ, status::OVERLAP, &about, None, [None; 2]);
            let none = c.int(0);
            c.store(bytes, sizes, input * 8);
            c.store(none, sizes, output * 8);
        }
    }
}
