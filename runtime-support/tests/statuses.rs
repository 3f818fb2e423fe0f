//! Every wrong argument of a call is a status that says where: the C ABI, called as generated code's users call it.

#![allow(unused_crate_dependencies)]

mod fake;

use std::ffi::c_void;

use onnxc_runtime::Status;
use onnxc_runtime::abi::*;

const X: [f32; 12] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.];
const BIAS: [f32; 3] = [100., 200., 300.];

#[repr(align(64))]
struct Arena([u8; 512]);

/// The arguments of one right call of `fake_static_run`, for a test to spoil.
struct Call {
    x: [f32; 12],
    bias: [f32; 3],
    y: [f32; 13],
    arena: Arena,
    strides: [i64; 2],
    fault: onnxc_fault,
    inputs: [onnxc_value; 2],
    outputs: [onnxc_value; 1],
    call: onnxc_call,
}

impl Call {
    fn new() -> Box<Self> {
        let none = onnxc_fault { output: -1, port: -1, axis: -1, step: -1, expected: -1, actual: -1 };
        let mut this = Box::new(Self {
            x: X,
            bias: BIAS,
            y: [0.; 13],
            arena: Arena([0xcc; 512]),
            strides: [3, 1],
            fault: none,
            inputs: [value(&[4, 3]), value(&[3])],
            outputs: [value(&[0, 0])],
            call: onnxc_call::INIT,
        });
        let Self { x, bias, y, arena, fault, inputs, outputs, call, .. } = &mut *this;
        for input in inputs.iter_mut() {
            input.tensor.shape = input.dims.as_mut_ptr();
        }
        inputs[0].tensor.data = x.as_mut_ptr().cast();
        inputs[1].tensor.data = bias.as_mut_ptr().cast();
        outputs[0].tensor.data = y.as_mut_ptr().cast();
        outputs[0].capacity_bytes = 48;
        call.arena = (&raw mut arena.0).cast();
        call.arena_bytes = 64;
        call.fault = fault;
        this
    }

    fn run(&mut self) -> i32 {
        let run = fake::fake_static.run.unwrap();
        // SAFETY: a test leaves every pointer either right or one that the model refuses before it follows it.
        unsafe { run(self.inputs.as_ptr(), self.outputs.as_mut_ptr(), &self.call) }
    }
}

fn value(shape: &[i64]) -> onnxc_value {
    let mut dims = [0; MAX_RANK];
    dims[..shape.len()].copy_from_slice(shape);
    onnxc_value {
        tensor: DLTensor {
            data: std::ptr::null_mut(),
            device: DLDevice { device_type: DEVICE_CPU, device_id: 0 },
            ndim: shape.len() as i32,
            dtype: DLDataType { code: 2, bits: 32, lanes: 1 },
            shape: std::ptr::null_mut(),
            strides: std::ptr::null_mut(),
            byte_offset: 0,
        },
        capacity_bytes: 0,
        kind: KIND_TENSOR,
        flags: 0,
        dims,
        items: std::ptr::null_mut(),
        item_count: 0,
        item_capacity: 0,
        string_bytes: std::ptr::null_mut(),
        string_used: 0,
        string_capacity: 0,
        reserved: [0; 2],
    }
}

#[track_caller]
fn refuses(status: Status, spoil: impl FnOnce(&mut Call)) -> onnxc_fault {
    let mut call = Call::new();
    spoil(&mut call);
    let before = call.y;
    assert_eq!(Status::from_code(call.run()), status);
    assert_eq!(call.y, before, "a refused call writes no output");
    call.fault
}

#[test]
fn a_right_call_runs_and_sets_the_output_shape() {
    let mut call = Call::new();
    assert_eq!(call.run(), 0);
    let expected: Vec<f32> = X.iter().enumerate().map(|(i, x)| 2. * x + BIAS[i % 3]).collect();
    assert_eq!(call.y[..12], expected);
    let tensor = call.outputs[0].tensor;
    assert_eq!((tensor.ndim, &call.outputs[0].dims[..2]), (2, &[4, 3][..]));
    assert_eq!(tensor.shape, call.outputs[0].dims.as_mut_ptr());
}

#[test]
fn an_absent_optional_input_and_compact_strides_and_offsets_are_served() {
    let mut call = Call::new();
    call.inputs[1].kind = KIND_NONE;
    call.inputs[0].tensor.strides = call.strides.as_mut_ptr();
    call.outputs[0].tensor.byte_offset = 4;
    assert_eq!(call.run(), 0);
    assert_eq!(call.y[..3], [0., 0., 2.]);
}

#[test]
fn arguments_of_the_call_are_refused() {
    refuses(Status::StructSize, |c| c.call.struct_size = 103);
    refuses(Status::Abi, |c| c.call.abi_version += 1);
    refuses(Status::Flags, |c| c.call.flags = 8);
    refuses(Status::Workers, |c| c.call.max_workers = -1);
    refuses(Status::Workers, |c| c.call.max_workers = MAX_WORKERS as i32 + 1);
    refuses(Status::Null, |c| c.call.arena = std::ptr::null_mut());
    refuses(Status::ArenaAlignment, |c| c.call.arena = c.call.arena.wrapping_byte_add(32));
    let fault = refuses(Status::ArenaSize, |c| c.call.max_workers = 2);
    assert_eq!((fault.port, fault.expected, fault.actual), (-1, 128, 64));
}

#[test]
fn arguments_of_a_tensor_are_refused() {
    let fault = refuses(Status::Kind, |c| c.inputs[0].kind = KIND_SEQUENCE);
    assert_eq!((fault.output, fault.port), (0, 0));
    let fault = refuses(Status::Dtype, |c| c.inputs[1].tensor.dtype.bits = 64);
    assert_eq!((fault.output, fault.port), (0, 1));
    refuses(Status::Device, |c| c.inputs[0].tensor.device.device_type = 2);
    let fault = refuses(Status::Rank, |c| c.inputs[0].tensor.ndim = 3);
    assert_eq!((fault.expected, fault.actual), (2, 3));
    let fault = refuses(Status::Dim, |c| c.inputs[0].dims[1] = 5);
    assert_eq!((fault.port, fault.axis, fault.expected, fault.actual), (0, 1, 3, 5));
    refuses(Status::Strides, |c| {
        c.strides = [1, 4];
        c.inputs[0].tensor.strides = c.strides.as_mut_ptr();
    });
    refuses(Status::Alignment, |c| c.inputs[0].tensor.byte_offset = 2);
    refuses(Status::Offset, |c| c.inputs[0].tensor.byte_offset = u64::MAX - 3);
    refuses(Status::Capacity, |c| c.inputs[0].capacity_bytes = 44);
    refuses(Status::Null, |c| c.inputs[0].tensor.data = std::ptr::null_mut());
    refuses(Status::Null, |c| c.inputs[0].tensor.shape = std::ptr::null_mut());
    let fault = refuses(Status::Null, |c| c.outputs[0].tensor.data = std::ptr::null_mut());
    assert_eq!((fault.output, fault.port), (1, 0));
    refuses(Status::Overlap, |c| c.outputs[0].tensor.data = c.inputs[0].tensor.data);
    refuses(Status::Overlap, |c| c.outputs[0].tensor.data = c.call.arena);
}

#[test]
fn a_small_output_says_what_it_needs() {
    let mut call = Call::new();
    call.outputs[0].capacity_bytes = 47;
    assert_eq!(Status::from_code(call.run()), Status::More);
    assert_eq!(call.outputs[0].dims[..2], [4, 3]);
    assert_eq!((call.fault.output, call.fault.expected, call.fault.actual), (1, 48, 47));
}

#[test]
fn plain_tensors_run_and_are_checked() {
    let mut call = Call::new();
    let mut shape = [4i64, 3];
    call.outputs[0].tensor.ndim = 2;
    call.outputs[0].tensor.shape = shape.as_mut_ptr();
    let run = fake::fake_static.run_dl.unwrap();
    let inputs = [&raw const call.inputs[0].tensor, std::ptr::null()];
    let outputs = [&raw mut call.outputs[0].tensor];
    // SAFETY: the tensors are those of a right call; NULL is the absent bias.
    assert_eq!(unsafe { run(inputs.as_ptr(), outputs.as_ptr(), &call.call) }, 0);
    assert_eq!(call.y[..4], [0., 2., 4., 6.]);
    // SAFETY: the tensor's shape is this array.
    unsafe { *call.outputs[0].tensor.shape = 5 };
    // SAFETY: as above; the wrong shape is what the model refuses.
    let status = unsafe { run(inputs.as_ptr(), outputs.as_ptr(), &call.call) };
    assert_eq!(Status::from_code(status), Status::Dim);
}

#[test]
fn a_data_model_without_alloc_is_refused_and_one_without_memory_says_so() {
    unsafe extern "C" fn nothing(_: *mut c_void, _: usize, _: usize) -> *mut c_void {
        std::ptr::null_mut()
    }
    unsafe extern "C" fn no_release(_: *mut c_void, _: *mut c_void, _: usize) {
        panic!("nothing was allocated");
    }
    let mut call = Call::new();
    call.inputs[0].tensor.ndim = 1;
    call.outputs = [value(&[0])];
    let run = fake::fake_data.run.unwrap();
    // SAFETY: x is a vector of 4 of the 12 elements.
    let status = unsafe { run(call.inputs.as_ptr(), call.outputs.as_mut_ptr(), &call.call) };
    assert_eq!(Status::from_code(status), Status::NeedAlloc);
    call.call.alloc = Some(nothing);
    call.call.release = Some(no_release);
    // SAFETY: as above.
    let status = unsafe { run(call.inputs.as_ptr(), call.outputs.as_mut_ptr(), &call.call) };
    assert_eq!(Status::from_code(status), Status::NoMemory);
}
