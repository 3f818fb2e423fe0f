//! A model whose output has a size that data decides, called as C does: memory comes from the caller's `alloc`, and whatever
//! happens all of it but a successful output's goes back.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::alloc::Layout;
use std::collections::HashMap;
use std::ffi::c_void;

use onnxc_backend::cranelift::compile::compile;
use onnxc_backend::loader::{LoadedModel, ObjectImage};
use onnxc_backend::object::emit;
use onnxc_backend::target::Target;
use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::program::{Place, Port, Program, Step, verify};
use onnxc_ir::tensor::{OriginData, TensorType};

type Run = unsafe extern "C" fn(*const Value, *mut Value, *const Call) -> i32;

/// `onnxc_value`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Value {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    dtype: [u8; 4],
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
    capacity: u64,
    kind: i32,
    flags: u32,
    dims: [i64; 8],
    rest: [u64; 8],
}

#[repr(C)]
struct Call {
    struct_size: u32,
    abi_version: u32,
    arena: *mut c_void,
    arena_bytes: usize,
    user: *mut Heap,
    parallel_for: usize,
    max_workers: i32,
    flags: u32,
    alloc: Option<unsafe extern "C" fn(*mut Heap, usize, usize) -> *mut c_void>,
    release: Option<unsafe extern "C" fn(*mut Heap, *mut c_void, usize)>,
    trace: usize,
    weights: [usize; 2],
    fault: *mut Fault,
    stream: usize,
}

#[repr(C)]
#[derive(Default)]
struct Fault {
    output: i32,
    port: i32,
    axis: i32,
    step: i32,
    expected: i64,
    actual: i64,
}

/// What a run holds, by address, and how often it may still ask.
struct Heap {
    held: HashMap<usize, Layout>,
    left: usize,
}

unsafe extern "C" fn alloc(heap: *mut Heap, bytes: usize, align: usize) -> *mut c_void {
    // SAFETY: the test hands in its heap, which nobody else uses meanwhile.
    let heap = unsafe { &mut *heap };
    assert!(bytes > 0 && align == 64);
    let Some(left) = heap.left.checked_sub(1) else { return std::ptr::null_mut() };
    heap.left = left;
    let layout = Layout::from_size_align(bytes, align).unwrap();
    // SAFETY: the layout has a size.
    let pointer = unsafe { std::alloc::alloc(layout) };
    heap.held.insert(pointer as usize, layout);
    pointer.cast()
}

unsafe extern "C" fn release(heap: *mut Heap, pointer: *mut c_void, bytes: usize) {
    // SAFETY: as above.
    let heap = unsafe { &mut *heap };
    let layout = heap.held.remove(&(pointer as usize)).expect("only what alloc gave comes back");
    assert_eq!(layout.size(), bytes);
    // SAFETY: it came from `alloc` with this layout.
    unsafe { std::alloc::dealloc(pointer.cast(), layout) };
}

/// `y[0..d] = x[0..d]` by way of a slot, where `d` is the element of the second input.
fn program() -> Program {
    let mut program = Program { name: "net".into(), data_symbols: 1, slots: 1, ..Program::default() };
    let n = Dim::symbol(program.symbols.intern("n"));
    let symbol = program.symbols.intern("d");
    let d = Dim::symbol(symbol);
    let part = TensorType::new(DType::F32, [d.clone()]);
    program.inputs = vec![
        Port { name: "x".into(), ty: TensorType::new(DType::F32, [n.clone()]) },
        Port { name: "k".into(), ty: TensorType::fixed(DType::I64, &[1]) },
    ];
    program.outputs = vec![Port { name: "y".into(), ty: part.clone() }];
    let origin = program.origins.push(OriginData { path: "cut".into(), operator: "Slice".into() });
    let origins = || [origin].as_slice().into();
    let bytes = (&d * &Dim::constant(4)).unwrap();
    let copy = |from, to| Step::Copy { from, to, offset: Dim::ZERO, bytes: bytes.clone(), origins: origins() };
    program.steps = vec![
        Step::Bind { symbol, from: Place::Input(1), element: 0, low: Dim::ZERO, high: n, origins: origins() },
        Step::Allocate { slot: 0, ty: part, origins: origins() },
        copy(Place::Input(0), Place::Slot(0)),
        Step::State { output: 0, origins: origins() },
        copy(Place::Slot(0), Place::Output(0)),
        Step::Release { slot: 0 },
    ];
    verify::verify(&program).unwrap();
    program
}

/// What a call left behind.
struct Outcome {
    status: i32,
    dims: i64,
    values: Vec<f32>,
    fault: Fault,
    /// Memory that is still held, without the output's.
    leaked: usize,
}

fn call(model: &LoadedModel, k: i64, spoil: impl FnOnce(&mut Value, &mut Call, &mut Heap)) -> Outcome {
    let x: [f32; 6] = std::array::from_fn(|i| i as f32);
    let value = |data: *const c_void, dtype, dims: [i64; 8]| Value {
        data: data.cast_mut(),
        device: [1, 0],
        ndim: 1,
        dtype,
        shape: std::ptr::null(),
        strides: std::ptr::null(),
        byte_offset: 0,
        capacity: 0,
        kind: 1,
        flags: 0,
        dims,
        rest: [0; 8],
    };
    let mut inputs = [
        value(x.as_ptr().cast(), [2, 32, 1, 0], [6, 0, 0, 0, 0, 0, 0, 0]),
        value((&raw const k).cast(), [0, 64, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0]),
    ];
    inputs.iter_mut().for_each(|v| v.shape = &raw const v.dims as *const i64);
    let mut output = value(std::ptr::null(), [2, 32, 1, 0], [-1; 8]);
    let mut heap = Heap { held: HashMap::new(), left: usize::MAX };
    let mut fault = Fault::default();
    let mut call = Call {
        struct_size: 104,
        abi_version: 1,
        arena: std::ptr::null_mut(),
        arena_bytes: 0,
        user: std::ptr::null_mut(),
        parallel_for: 0,
        max_workers: 1,
        flags: 0,
        alloc: Some(alloc),
        release: Some(release),
        trace: 0,
        weights: [0; 2],
        fault: &mut fault,
        stream: 0,
    };
    spoil(&mut output, &mut call, &mut heap);
    call.user = &mut heap;
    // SAFETY: the symbol is the model's run function.
    let run: Run = unsafe { std::mem::transmute(model.symbol("net_run").unwrap()) };
    // SAFETY: all pointers are valid, and the outputs' memory is as large as they say.
    let status = unsafe { run(inputs.as_ptr(), &mut output, &call) };
    let mut values = Vec::new();
    if status == 0 {
        assert_eq!(output.ndim, 1);
        // SAFETY: a successful run filled as many elements as it says.
        values = unsafe { std::slice::from_raw_parts(output.data.cast::<f32>(), output.dims[0] as usize) }.to_vec();
    }
    if output.flags == 1 {
        assert_eq!(status, 0, "a failed run leaves no memory to its caller");
        // SAFETY: the flag says that it came from `alloc`.
        unsafe { release(&mut heap, output.data, output.capacity as usize) };
    }
    Outcome { status, dims: output.dims[0], values, fault, leaked: heap.held.len() }
}

#[test]
fn sizes_that_data_decides() {
    let program = program();
    let target = Target::parse("x86_64").unwrap();
    let compiled = compile(&program, &target, [7; 32], &|_| unreachable!("there are no weights")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.o");
    emit::object_file(&compiled.spec, &path).unwrap();
    let model = LoadedModel::load(ObjectImage::open(&path).unwrap(), &[]).unwrap();
    assert!(model.symbol("net_run_dl").is_none(), "plain tensors have no way to say what they need");

    for k in [0, 1, 6] {
        let right = call(&model, k, |_, _, _| {});
        assert_eq!((right.status, right.leaked), (0, 0));
        assert_eq!(right.values, (0..k).map(|i| i as f32).collect::<Vec<_>>());
    }
    let mut room = [-1f32; 4];
    let own = call(&model, 3, |y, _, _| (y.data, y.capacity) = (room.as_mut_ptr().cast(), 16));
    assert_eq!((own.status, own.leaked, own.values), (0, 0, vec![0.0, 1.0, 2.0]));

    let small = call(&model, 5, |y, _, _| (y.data, y.capacity) = (room.as_mut_ptr().cast(), 16));
    assert_eq!((small.status, small.dims, small.leaked), (-15, 5, 0), "the dims say what it needs");
    for k in [-1, 7] {
        let outside = call(&model, k, |_, _, _| {});
        assert_eq!((outside.status, outside.leaked), (-26, 0));
        assert_eq!((outside.fault.port, outside.fault.step, outside.fault.actual), (-1, 0, k));
    }
    assert_eq!(call(&model, 3, |_, c, _| c.alloc = None).status, -20);
    for left in [0, 1] {
        let empty = call(&model, 3, |_, _, heap| heap.left = left);
        assert_eq!((empty.status, empty.leaked), (-21, 0), "{left} allocations");
    }
}
