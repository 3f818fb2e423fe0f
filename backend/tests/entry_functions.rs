//! The entry functions of a compiled program, called as C does: right calls give the answer, wrong ones a status.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::ffi::{CStr, c_char, c_void};

use bytes::Bytes;
use onnxc_backend::cranelift::compile::compile;
use onnxc_backend::loader::{LoadedModel, ObjectImage};
use onnxc_backend::object::emit;
use onnxc_backend::target::Target;
use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Access, Address, KernelBuilder, Stride};
use onnxc_ir::program::{Launch, Place, Port, Program, Step, Weight};
use onnxc_ir::scalar::BinaryOp;
use onnxc_ir::tensor::{ConstantData, ConstantSource, OriginData, TensorType};

type Run = unsafe extern "C" fn(*const Value, *mut Value, *const Call) -> i32;
type Plan = unsafe extern "C" fn(*const i64, i32, *mut usize) -> i32;
type Message = unsafe extern "C" fn(i32) -> *const c_char;

/// `onnxc_value`, whose first 48 bytes are a `DLTensor`.
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
    user: *mut c_void,
    parallel_for: Option<ParallelFor>,
    max_workers: i32,
    flags: u32,
    callbacks: [usize; 3],
    weights: [usize; 2],
    fault: *mut [i32; 8],
    stream: usize,
}

type Task = unsafe extern "C" fn(*mut c_void, i64, i32);
type ParallelFor = unsafe extern "C" fn(*mut c_void, Task, *mut c_void, i64);

#[repr(align(64))]
struct Arena([u8; 1 << 12]);

/// `y[n, 4] = x[n, 4] + weights[4]`, a row a task; the second input has the extent `2 n` and is not read.
fn program() -> Program {
    let mut program = Program { name: "net".into(), ..Program::default() };
    let n = program.symbols.intern("n");
    program.symbols.restrict(n, 1, 8);
    let (n, four) = (Dim::symbol(n), Dim::constant(4));
    let rows = TensorType::new(DType::F32, [n.clone(), four.clone()]);
    let twice = TensorType::new(DType::I64, [(&n * &Dim::constant(2)).unwrap()]);
    program.inputs = vec![Port { name: "x".into(), ty: rows.clone() }, Port { name: "z".into(), ty: twice }];
    program.outputs = vec![Port { name: "y".into(), ty: rows }];
    let mut b = KernelBuilder::new("add");
    let x = b.buffer("x", DType::F32, Access::Read, None);
    let w = b.buffer("w", DType::F32, Access::Read, Some(4));
    let y = b.buffer("y", DType::F32, Access::Write, None);
    b.task_loop(|b, task| {
        let row = Address::default().plus(task, Stride::Const(4));
        let v = b.load(x, row.clone(), 4, None);
        let w = b.load(w, Address::at(0), 4, None);
        let sum = b.binary(BinaryOp::Add, v, w);
        b.store(y, row, sum, None);
    });
    let kernel = program.kernels.push(b.finish());
    let origin = program.origins.push(OriginData { path: "add".into(), operator: "Add".into() });
    let bytes: Vec<u8> = [10f32, 20.0, 30.0, 40.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let ty = TensorType::fixed(DType::F32, &[4]);
    let source = ConstantSource::Bytes(Bytes::from(bytes));
    let constant = program.constants.push(ConstantData { ty, source, name: "w".into() });
    program.weights = vec![Weight { constant, offset: 0, bytes: 16 }];
    program.weight_bytes = 16;
    program.arena_bytes = (&n * &Dim::constant(64)).unwrap();
    program.steps = vec![Step::Launch(Launch {
        kernel,
        buffers: vec![Place::Input(0), Place::Weights(0), Place::Output(0)],
        params: vec![],
        tasks: n,
        origins: [origin].as_slice().into(),
        flops: four,
    })];
    program
}

/// Runs the tasks backwards, as worker 0, and counts them.
unsafe extern "C" fn backwards(user: *mut c_void, task: Task, arg: *mut c_void, tasks: i64) {
    for i in (0..tasks).rev() {
        // SAFETY: the model's own task function with its own argument.
        unsafe { task(arg, i, 0) };
        // SAFETY: the tests hand in a counter.
        unsafe { *user.cast::<i64>() += 1 };
    }
}

/// One call of a model with three rows, right but for what `spoil` changes: the status and the output.
fn call(model: &LoadedModel, spoil: impl FnOnce(&mut [Value; 2], &mut [Value; 1], &mut Call)) -> (i32, Vec<f32>) {
    let mut x: Vec<f32> = (0..40).map(|i| i as f32).collect();
    let mut z = [0i64; 16];
    let mut y = vec![-1f32; 40];
    let mut arena = Box::new(Arena([0; 1 << 12]));
    let mut fault = [0; 8];
    let value = |data: *mut c_void, ndim: i32, dtype: [u8; 4], dims: [i64; 8], capacity: u64| Value {
        data,
        device: [1, 0],
        ndim,
        dtype,
        shape: std::ptr::null(),
        strides: std::ptr::null(),
        byte_offset: 0,
        capacity,
        kind: 1,
        flags: 0,
        dims,
        rest: [0; 8],
    };
    let mut inputs = [
        value(x.as_mut_ptr().cast(), 2, [2, 32, 1, 0], [3, 4, 0, 0, 0, 0, 0, 0], 0),
        value(z.as_mut_ptr().cast(), 1, [0, 64, 1, 0], [6, 0, 0, 0, 0, 0, 0, 0], 0),
    ];
    let mut outputs = [value(y.as_mut_ptr().cast(), 2, [2, 32, 1, 0], [0; 8], 160)];
    let mut call = Call {
        struct_size: 104,
        abi_version: 1,
        arena: (&mut arena.0 as *mut [u8; 1 << 12]).cast(),
        arena_bytes: 1 << 12,
        user: std::ptr::null_mut(),
        parallel_for: None,
        max_workers: 1,
        flags: 0,
        callbacks: [0; 3],
        weights: [0; 2],
        fault: &mut fault,
        stream: 0,
    };
    for input in &mut inputs {
        input.shape = &input.dims as *const i64;
    }
    let shapes: Vec<*const i64> = inputs.iter().map(|i| &i.dims as *const i64).collect();
    spoil(&mut inputs, &mut outputs, &mut call);
    assert_eq!(shapes, inputs.iter().map(|i| &i.dims as *const i64).collect::<Vec<_>>(), "values stay in place");
    // SAFETY: the symbol is the model's run function.
    let run: Run = unsafe { std::mem::transmute(model.symbol("net_run").unwrap()) };
    // SAFETY: all pointers are valid or spoilt in a way that a run must notice.
    let status = unsafe { run(inputs.as_ptr(), outputs.as_mut_ptr(), &call) };
    if status == 0 {
        assert_eq!((outputs[0].ndim, &outputs[0].dims[..2]), (2, &[inputs[0].dims[0], 4][..]));
    }
    (status, y)
}

fn load() -> LoadedModel {
    load_program(&program())
}

fn load_program(program: &Program) -> LoadedModel {
    let target = Target::parse("x86_64").unwrap();
    let evaluate = |constant| match &program.constants[constant].source {
        ConstantSource::Bytes(bytes) => Ok(bytes.clone()),
        _ => unreachable!("the program has only bytes"),
    };
    let compiled = compile(program, std::slice::from_ref(&target), [7; 32], &evaluate).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.o");
    emit::object_file(&compiled.spec, &path).unwrap();
    LoadedModel::load(ObjectImage::open(&path).unwrap(), &[]).unwrap()
}

#[test]
fn right_calls_compute() {
    let model = load();
    let want: Vec<f32> = (0..40).map(|i| if i < 12 { i as f32 + (i % 4 * 10 + 10) as f32 } else { -1.0 }).collect();
    assert_eq!(call(&model, |_, _, _| {}), (0, want.clone()));
    let mut count = 0i64;
    let counter: *mut i64 = &mut count;
    let parallel = call(&model, |_, _, call| {
        call.parallel_for = Some(backwards);
        call.user = counter.cast();
    });
    assert_eq!((parallel, count), ((0, want), 3));
    // SAFETY: the symbol is the model's plan function.
    let plan: Plan = unsafe { std::mem::transmute(model.symbol("net_plan").unwrap()) };
    let mut bytes = 0;
    // SAFETY: one symbol, one size.
    assert_eq!((unsafe { plan(&3, 1, &mut bytes) }, bytes), (0, 192));
    // SAFETY: as above.
    assert_eq!(unsafe { plan(&9, 1, &mut bytes) }, -10);
    // SAFETY: a missing array is a status.
    assert_eq!(unsafe { plan(std::ptr::null(), 1, &mut bytes) }, -1);
}

#[test]
fn wrong_arguments_are_statuses() {
    let model = load();
    type Spoil = fn(&mut [Value; 2], &mut [Value; 1], &mut Call);
    let cases: [(i32, Spoil); 24] = [
        (-1, |i, _, _| i[0].data = std::ptr::null_mut()),
        (-1, |i, _, _| i[1].shape = std::ptr::null()),
        (-1, |_, o, _| o[0].data = std::ptr::null_mut()),
        (-1, |_, _, c| c.arena = std::ptr::null_mut()),
        (-2, |_, _, c| c.abi_version = 9),
        (-3, |_, _, c| c.struct_size = 96),
        (-4, |i, _, _| i[1].kind = 2),
        (-5, |i, _, _| i[0].dtype = [0, 32, 1, 0]),
        (-5, |_, o, _| o[0].dtype = [2, 64, 1, 0]),
        (-6, |i, _, _| i[0].device = [2, 0]),
        (-7, |i, _, _| i[0].ndim = 3),
        (-8, |i, _, _| i[0].dims[1] = 5),
        (-8, |i, _, _| i[1].dims[0] = 5),
        (-10, |i, _, _| i[0].dims[0] = 9),
        (-10, |i, _, _| i[0].dims[0] = -1),
        (-12, |i, _, _| i[0].byte_offset = 2),
        (-13, |i, _, _| i[0].byte_offset = 1 << 63),
        (-14, |i, _, _| i[0].capacity = 47),
        (-15, |_, o, _| o[0].capacity = 47),
        (-16, |i, o, _| o[0].data = i[0].data.wrapping_byte_add(44)),
        (-16, |_, o, c| {
            o[0].data = c.arena.wrapping_byte_add(128);
            c.arena_bytes = usize::MAX;
        }),
        (-17, |_, _, c| c.max_workers = 257),
        (-18, |_, _, c| c.arena = c.arena.wrapping_byte_add(4)),
        (-19, |_, _, c| c.arena_bytes = 128),
    ];
    // SAFETY: the symbol is the model's status function.
    let message: Message = unsafe { std::mem::transmute(model.symbol("net_status").unwrap()) };
    for (n, (want, spoil)) in cases.into_iter().enumerate() {
        let (status, y) = call(&model, spoil);
        assert_eq!(status, want, "case {n}");
        assert!(y.iter().all(|&v| v == -1.0), "case {n} wrote");
        // SAFETY: any status has a text.
        let text = unsafe { CStr::from_ptr(message(status)) };
        assert_ne!(text.to_str().unwrap(), "unknown status");
    }
    let strides = [5i64, 1];
    let strided = call(&model, |i, _, _| i[0].strides = strides.as_ptr());
    assert_eq!(strided.0, -11);
    // SAFETY: any number has a text.
    assert_eq!(unsafe { CStr::from_ptr(message(5)) }.to_str().unwrap(), "unknown status");
}

#[test]
fn sizes_past_64_bits_and_below_zero_are_statuses() {
    let mut program = program();
    let n = Dim::symbol(program.symbols.lookup("n").unwrap());
    program.arena_bytes = (&n * &Dim::constant(1 << 61)).unwrap();
    program.sizes = vec![(&n - &Dim::constant(2)).unwrap()];
    let model = load_program(&program);
    // SAFETY: the symbol is the model's plan function.
    let plan: Plan = unsafe { std::mem::transmute(model.symbol("net_plan").unwrap()) };
    let mut bytes = 0;
    for (n, status) in [(1, -10), (2, 0), (3, 0), (4, -28), (8, -28)] {
        // SAFETY: one symbol, one size.
        assert_eq!(unsafe { plan(&n, 1, &mut bytes) }, status, "{n} rows");
    }
    for (n, status) in [(1, -10), (3, -19), (4, -28), (8, -28)] {
        let (answer, _) = call(&model, |i, _, _| (i[0].dims[0], i[1].dims[0]) = (n, 2 * n));
        assert_eq!(answer, status, "{n} rows");
    }
}
