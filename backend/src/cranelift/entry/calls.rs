//! Calls of a user's functions: views of the tensors on the stack, the operator's description, the status.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use onnxc_ir::program::{Call, Place};
use onnxc_ir::tensor::TensorType;

use super::super::code::Code;
use super::super::compile::dlpack;
use super::super::operators::operator_symbol;
use super::steps::Memory;
use super::{Entry, at, eval, status};

/// `kDLCPU`.
const CPU: i32 = 1;

impl Entry<'_> {
    /// A call, traced like a launch. A result other than 0 is the fault's actual value.
    pub(super) fn call_step(&self, c: &mut Code<'_>, call: &Call, number: usize, frame: Value, memory: &Memory) {
        let context = c.load(types::I64, frame, at::FRAME_CALL);
        let mut given = call.inputs.iter();
        let inputs: Vec<Option<&(Place, TensorType)>> =
            call.external.present.iter().map(|&there| if there { given.next() } else { None }).collect();
        let outputs: Vec<Option<&(Place, TensorType)>> = call.outputs.iter().map(Some).collect();
        let lists = [&inputs, &outputs].map(|tensors| {
            let views = self.views(c, tensors, memory);
            (views, c.int32(tensors.len() as i32))
        });
        let operator = c.symbol(&operator_symbol(&self.program.name, number), true);
        self.trace(c, context, number, true);
        let [(inputs, input_count), (outputs, output_count)] = lists;
        let arguments = [operator, inputs, input_count, outputs, output_count, context];
        let result = c.call(&call.external.symbol, false, Some(types::I32), &arguments).expect("it has a result");
        self.trace(c, context, number, false);
        let failed = c.compare_with(IntCC::NotEqual, result, 0);
        let (step, actual) = (c.int32(number as i32), c.f.ins().sextend(types::I64, result));
        let none = c.int(0);
        self.fail_step_if(c, failed, status::USER, context, step, [Some(none), Some(actual)]);
    }

    /// An array of `DLTensor` on the stack; what is absent is all zeros.
    fn views(&self, c: &mut Code<'_>, tensors: &[Option<&(Place, TensorType)>], memory: &Memory) -> Value {
        let views = c.stack((tensors.len() as i32 * at::TENSOR_BYTES) as u32);
        for (n, tensor) in tensors.iter().enumerate() {
            let base = n as i32 * at::TENSOR_BYTES;
            let null = c.int(0);
            let Some((place, ty)) = tensor else {
                (0..at::TENSOR_BYTES).step_by(8).for_each(|offset| c.store(null, views, base + offset));
                continue;
            };
            let shape = c.stack(ty.rank() as u32 * 8);
            for (axis, dim) in ty.shape.iter().enumerate() {
                let extent = eval(c, dim, memory.dims);
                c.store(extent, shape, axis as i32 * 8);
            }
            let data = self.place(c, place, memory);
            let (device, zero, rank) = (c.int32(CPU), c.int32(0), c.int32(ty.rank() as i32));
            let dtype = c.int32(i32::from_le_bytes(dlpack(ty.dtype)));
            for (offset, value) in [
                (0, data),
                (at::DEVICE, device),
                (at::DEVICE_ID, zero),
                (at::NDIM, rank),
                (at::DTYPE, dtype),
                (at::SHAPE, shape),
                (at::STRIDES, null),
                (at::BYTE_OFFSET, null),
            ] {
                c.store(value, views, base + offset);
            }
        }
        views
    }

    /// Tells the caller that a step begins or ends, where it wants to know.
    pub(super) fn trace(&self, c: &mut Code<'_>, call: Value, number: usize, begin: bool) {
        let (trace, user) = (c.load(types::I64, call, at::TRACE), c.load(types::I64, call, at::USER));
        let traced = c.compare_with(IntCC::NotEqual, trace, 0);
        c.when(traced, |c| {
            let (step, begin) = (c.int(number as i64), c.int32(i32::from(begin)));
            c.call_pointer(trace, &[user, step, begin]);
        });
    }
}
