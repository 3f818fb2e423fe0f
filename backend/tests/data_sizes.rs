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
use onnxc_ir::program::{Place, Port, Program, Step, Weight, verify};
use onnxc_ir::tensor::{ConstantData, ConstantSource, OriginData, TensorType};

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
fn cut() -> Program {
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

/// The first element of `x` as often as the second input says, appended one by one; a branch copies it to a slot first, which
/// is moved.
fn repeat() -> Program {
    let mut program = cut();
    program.data_symbols = 2;
    program.slots = 3;
    let iteration = program.symbols.intern("iteration");
    let d = program.symbols.lookup("d").unwrap();
    let one = TensorType::fixed(DType::F32, &[1]);
    program.arena_bytes = Dim::constant(128);
    let (counter, condition) = (Place::Arena(Dim::ZERO), Place::Arena(Dim::constant(64)));
    let origins = || [program.origins.keys().next().unwrap()].as_slice().into();
    let copy = |from, to, bytes: i64| {
        let (offset, bytes) = (Dim::ZERO, Dim::constant(bytes));
        Step::Copy { from, to, offset, bytes, origins: origins() }
    };
    let used = (&Dim::symbol(iteration) * &Dim::constant(4)).unwrap();
    let branch =
        |n: i64| vec![copy(Place::Input(0), Place::Slot(0), 4), Step::Assign { sizes: vec![(d, Dim::constant(n))] }];
    let body = vec![
        Step::Allocate { slot: 0, ty: one, origins: origins() },
        Step::If { condition: counter.clone(), then: branch(1), otherwise: branch(2), origins: origins() },
        Step::Move { from: 0, to: 1 },
        Step::Append { slot: 2, from: Place::Slot(1), bytes: Dim::constant(4), used, origins: origins() },
        Step::Release { slot: 1 },
    ];
    let bytes = (&Dim::symbol(d) * &Dim::constant(4)).unwrap();
    program.steps = vec![
        // Any byte that is not zero is true.
        copy(Place::Weights(0), condition.clone(), 1),
        Step::Loop { trips: Place::Input(1), condition, iteration, counter, body, origins: origins() },
        Step::Assign { sizes: vec![(d, Dim::symbol(iteration))] },
        Step::State { output: 0, origins: origins() },
        Step::Copy { from: Place::Slot(2), to: Place::Output(0), offset: Dim::ZERO, bytes, origins: origins() },
        Step::Release { slot: 2 },
    ];
    let source = ConstantSource::Bytes(vec![1].into());
    let constant =
        program.constants.push(ConstantData { ty: TensorType::fixed(DType::Bool, &[]), source, name: "true".into() });
    program.weights = vec![Weight { constant, offset: 0, bytes: 1 }];
    program.weight_bytes = 64;
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
    let x: [f32; 6] = std::array::from_fn(|i| i as f32 + 0.5);
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

fn load(program: &Program) -> LoadedModel {
    let target = Target::parse("x86_64").unwrap();
    let evaluate = |constant| match &program.constants[constant].source {
        ConstantSource::Bytes(bytes) => Ok(bytes.clone()),
        _ => unreachable!("the programs have only bytes"),
    };
    let compiled = compile(program, std::slice::from_ref(&target), [7; 32], &evaluate).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.o");
    emit::object_file(&compiled.spec, &path).unwrap();
    LoadedModel::load(ObjectImage::open(&path).unwrap(), &[]).unwrap()
}

#[test]
fn loops_grow_what_they_append() {
    let model = load(&repeat());
    #[repr(align(64))]
    struct Arena([u8; 128]);
    let mut arena = Arena([0; 128]);
    let memory = |c: &mut Call, arena: &mut Arena| (c.arena, c.arena_bytes) = (arena.0.as_mut_ptr().cast(), 128);
    for k in [-1, 0, 1, 17, 1000] {
        let right = call(&model, k, |_, c, _| memory(c, &mut arena));
        assert_eq!((right.status, right.leaked), (0, 0), "{k} iterations");
        assert_eq!(right.values, vec![0.5; k.max(0) as usize]);
    }
    // Each iteration allocates once, the first and the seventeenth also for what they append to.
    for left in 0..40 {
        let empty = call(&model, 30, |_, c, heap| {
            memory(c, &mut arena);
            heap.left = left;
        });
        let expected = if left < 33 { -21 } else { 0 };
        assert_eq!((empty.status, empty.leaked), (expected, 0), "{left} allocations");
    }
}

#[test]
fn sizes_that_data_decides() {
    let model = load(&cut());
    assert!(model.symbol("net_run_dl").is_none(), "plain tensors have no way to say what they need");

    for k in [0, 1, 6] {
        let right = call(&model, k, |_, _, _| {});
        assert_eq!((right.status, right.leaked), (0, 0));
        assert_eq!(right.values, (0..k).map(|i| i as f32 + 0.5).collect::<Vec<_>>());
    }
    let mut room = [-1f32; 4];
    let own = call(&model, 3, |y, _, _| (y.data, y.capacity) = (room.as_mut_ptr().cast(), 16));
    assert_eq!((own.status, own.leaked, own.values), (0, 0, vec![0.5, 1.5, 2.5]));

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
