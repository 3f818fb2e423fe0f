//! What the host program of a GPU model does instead: its addresses are the host's still, and the support library
//! (`csrc/cuda.c`) gives kernels those of the mirrors on the device.
//!
//! A run begins and ends there; launches and copies are handed over; what a step reads of a tensor is copied from the device
//! first, and what it writes is copied there. For other targets all of this is nothing.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Function, InstBuilder, Value, types};

use super::super::code::{Code, Names, function};
use super::{Entry, at, leave_unless_ok};

/// DLPack's `kDLCPU` and `kDLCUDA`.
const CPU: i64 = 1;
const CUDA: i64 = 2;

impl Entry<'_> {
    /// `launch(frame, kernel, buffers, params, tasks, step)`: hands a launch over; the kernel is its description.
    pub(super) fn gpu_launch(&self) -> (Function, Names) {
        use types::I64;
        function(self.isa, &[I64; 6], None, |c, p| {
            let [frame, kernel, buffers, params, tasks, step] = [p[0], p[1], p[2], p[3], p[4], p[5]];
            let call = c.load(I64, frame, at::FRAME_CALL);
            self.traced(c, call, step, |c, _| {
                c.call("onnxc_cuda_launch", false, None, &[kernel, buffers, params, tasks]);
            });
            c.f.ins().return_(&[]);
        })
    }

    /// Uploads the inputs, or leaves the function where there is no device.
    pub(super) fn gpu_begin(&self, c: &mut Code<'_>, frame: Value) {
        if self.gpu {
            let model = c.symbol(&self.symbol("_cuda"), true);
            let began = c.call("onnxc_cuda_begin", false, Some(types::I32), &[model, frame]);
            leave_unless_ok(c, began);
        }
    }

    /// Downloads the outputs; the status of the run.
    pub(super) fn gpu_end(&self, c: &mut Code<'_>) -> Value {
        if self.gpu {
            return c.call("onnxc_cuda_end", false, Some(types::I32), &[]).expect("it gives a status");
        }
        c.int32(0)
    }

    /// Ends a run that a failed step left with a status; the driver's own failure, if there was one, is the reason.
    pub(super) fn gpu_leave(&self, c: &mut Code<'_>, status: Value) -> Value {
        if self.gpu {
            return c.call("onnxc_cuda_leave", false, Some(types::I32), &[status]).expect("it gives a status");
        }
        status
    }

    /// Where a step finds the bytes at `pointer` that it is about to read: a word, or a slot. They stay until the next call.
    pub(super) fn gpu_read(&self, c: &mut Code<'_>, pointer: Value, bytes: Value) -> Value {
        if self.gpu {
            let found = c.call("onnxc_cuda_read", false, Some(types::I64), &[pointer, bytes]);
            return found.expect("it gives a pointer");
        }
        pointer
    }

    /// Copies what a step has written.
    pub(super) fn gpu_write(&self, c: &mut Code<'_>, pointer: Value, bytes: Value) {
        if self.gpu {
            c.call("onnxc_cuda_write", false, None, &[pointer, bytes]);
        }
    }

    /// Whether a tensor's device is none that the model takes.
    pub(super) fn elsewhere(&self, c: &mut Code<'_>, device: Value) -> Value {
        let elsewhere = c.compare_with(IntCC::NotEqual, device, CPU);
        if !self.gpu {
            return elsewhere;
        }
        let no_gpu = c.compare_with(IntCC::NotEqual, device, CUDA);
        c.f.ins().band(elsewhere, no_gpu)
    }
}
