//! Calls of functions on strings of the support library.
//!
//! Such a function gets an `onnxc_strings_call`: pointers to its operands as `onnxc_value`s, which are made on the stack, and
//! where the strings of the model and of the run are. A status other than 0 ends the run.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use onnxc_ir::dtype::DType;
use onnxc_ir::program::Place;
use onnxc_ir::strings::StringFunction;
use onnxc_ir::tensor::TensorType;

use super::super::code::Code;
use super::super::compile::dlpack;
use super::steps::Memory;
use super::{Entry, at, eval};

/// Byte offsets in `onnxc_strings_call`.
mod call {
    pub const INPUTS: i32 = 0;
    pub const OUTPUT: i32 = 8;
    pub const CALL: i32 = 16;
    pub const CONSTANTS: i32 = 24;
    pub const STRINGS: i32 = 32;
    pub const BYTES: u32 = 40;
}

impl Entry<'_> {
    /// A call with these operands.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn strings_step(
        &self,
        c: &mut Code<'_>,
        function: StringFunction,
        inputs: &[(Place, TensorType)],
        output: &(Place, TensorType),
        number: usize,
        frame: Value,
        memory: &Memory,
    ) {
        use types::{I32, I64};
        let context = c.load(I64, frame, at::FRAME_CALL);
        let pointers = c.stack(inputs.len() as u32 * 8);
        for (i, input) in inputs.iter().enumerate() {
            let value = self.operand(c, input, frame, memory);
            c.store(value, pointers, i as i32 * 8);
        }
        let output = self.operand(c, output, frame, memory);
        let slot = self.program.string_slots.expect("a program with strings has slots for them");
        let strings = c.add(memory.slots, i64::from(slot) * at::SLOT_BYTES);
        let constants = c.symbol(&self.symbol("_strings"), true);
        let arguments = c.stack(call::BYTES);
        for (value, offset) in [
            (pointers, call::INPUTS),
            (output, call::OUTPUT),
            (context, call::CALL),
            (constants, call::CONSTANTS),
            (strings, call::STRINGS),
        ] {
            c.store(value, arguments, offset);
        }
        self.trace(c, context, number, true);
        let status = c.call(function.symbol(), false, Some(I32), &[arguments]).expect("it gives a status");
        self.trace(c, context, number, false);
        let failed = c.compare_with(IntCC::NotEqual, status, 0);
        let name = self.symbol("_fail_step");
        c.leave_if(failed, |c| {
            let (step, none) = (c.int32(number as i32), c.int(-1));
            c.call(&name, true, Some(I32), &[context, status, step, none, none]).expect("fail gives the status")
        });
    }

    /// The address of an operand's `onnxc_value`: the caller's own for strings that the model takes or gives.
    fn operand(&self, c: &mut Code<'_>, (place, ty): &(Place, TensorType), frame: Value, memory: &Memory) -> Value {
        use types::I64;
        let ports = match place {
            Place::Input(i) => Some((&self.program.inputs, *i, at::FRAME_INPUTS)),
            Place::Output(i) => Some((&self.program.outputs, *i, at::FRAME_OUTPUTS)),
            Place::Weights(_) | Place::Arena(_) | Place::Slot(_) => None,
        };
        if let Some((ports, i, values)) = ports
            && ports[i as usize].ty.dtype == DType::String
        {
            let values = c.load(I64, frame, values);
            return c.add(values, i64::from(i) * i64::from(at::VALUE_BYTES));
        }
        let value = c.stack(at::VALUE_BYTES as u32);
        let zero = c.int(0);
        for offset in (0..at::VALUE_BYTES).step_by(8) {
            c.store(zero, value, offset);
        }
        let data = self.place(c, place, memory);
        c.store(data, value, 0);
        let one = c.int32(1);
        c.store(one, value, at::DEVICE);
        c.store(one, value, at::KIND);
        let rank = c.int32(ty.rank() as i32);
        c.store(rank, value, at::NDIM);
        let dtype = c.int32(i32::from_le_bytes(dlpack(ty.dtype)));
        c.store(dtype, value, at::DTYPE);
        let dims = c.add(value, at::DIMS.into());
        c.store(dims, value, at::SHAPE);
        let mut count = c.int(1);
        for (axis, dim) in ty.shape.iter().enumerate() {
            let extent = eval(c, dim, memory.dims);
            c.store(extent, dims, axis as i32 * 8);
            count = c.f.ins().imul(count, extent);
        }
        let bits = c.f.ins().imul_imm_s(count, i64::from(ty.dtype.bits()));
        let bits = c.add(bits, 7);
        let bytes = c.f.ins().ushr_imm_u(bits, 3);
        c.store(bytes, value, at::CAPACITY);
        value
    }
}
