//! Sessions of all three memory classes, their errors in words, and one model on many threads at once.

#![allow(unused_crate_dependencies)]

mod fake;

use std::sync::{Arc, Mutex};

use fake::{fake_data, fake_dims, fake_static, model};
use onnxc_runtime::abi::{PORT_STATE, onnxc_model};
use onnxc_runtime::{DataType, Dim, Error, Memory, Model, Pool, Session, Status, TensorView};

const X: [f32; 12] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.];

fn affine(session: &mut Session, x: &[f32], bias: &[f32]) -> Vec<f32> {
    let inputs = [TensorView::new(&[4, 3], x).unwrap(), TensorView::new(&[3], bias).unwrap()];
    session.run(&inputs).unwrap();
    session.output(0).unwrap().elements().unwrap().to_vec()
}

fn affine_of(x: &[f32], bias: &[f32]) -> Vec<f32> {
    x.iter().enumerate().map(|(i, x)| 2. * x + bias[i % 3]).collect()
}

#[test]
fn a_descriptor_is_read() {
    let model = model(&fake_static);
    assert_eq!((model.name(), model.target(), model.memory()), ("fake_static", "none", Memory::Static));
    assert_eq!(model.hash()[..4], [1, 2, 3, 0]);
    assert_eq!((model.code_bytes(), model.weight_bytes(), model.steps().len()), (1000, 0, 1));
    let bias = &model.inputs()[1];
    assert_eq!((bias.name.as_str(), bias.dtype, bias.optional), ("bias", Some(DataType::F32), true));
    assert_eq!(bias.dims, Some(vec![Dim::Fixed(3)]));
    assert_eq!(model.plan(&[], 3), Ok(192));

    let model = fake::model(&fake_dims);
    assert_eq!((model.symbols()[0].name.as_str(), model.symbols()[0].max), ("n", 1000));
    assert_eq!(model.inputs()[0].dims, Some(vec![Dim::Symbol(0)]));
    assert_eq!(model.outputs()[0].dims, Some(vec![Dim::Unknown]));
}

#[test]
fn a_spoiled_descriptor_is_refused() {
    let keep = Arc::new(());
    let refused = |spoil: fn(&mut onnxc_model)| {
        let mut descriptor = fake_dims;
        spoil(&mut descriptor);
        // SAFETY: a copy of a right descriptor, spoiled in a way that is refused, alive until the call returns.
        unsafe { Model::from_raw(&descriptor, keep.clone()) }.err()
    };
    assert_eq!(refused(|_| ()), None);
    assert_eq!(refused(|d| d.abi_version = 2), Some(Error::Descriptor("its ABI version is another")));
    assert_eq!(refused(|d| d.struct_size = 100), Some(Error::Descriptor("its struct is too small")));
    assert_eq!(refused(|d| d.run = None), Some(Error::Descriptor("it lacks a function")));
    assert_eq!(refused(|d| d.memory = 9), Some(Error::Descriptor("its memory class is unknown")));
    assert_eq!(refused(|d| d.inputs = std::ptr::null()), Some(Error::Descriptor("a table is null or misaligned")));
    assert_eq!(refused(|d| d.symbol_count = 0), Some(Error::Descriptor("a dim's symbol does not exist")));
    // A state whose next value is the second output, or that grows along its second axis.
    for flags in [PORT_STATE | 1 << 8, PORT_STATE | 2 << 4] {
        // SAFETY: the table of a right descriptor.
        let mut port = unsafe { fake_dims.inputs.read() };
        port.flags |= flags;
        let descriptor = onnxc_model { inputs: &port, ..fake_dims };
        // SAFETY: as above.
        let result = unsafe { Model::from_raw(&descriptor, keep.clone()) };
        assert_eq!(result.err(), Some(Error::Descriptor("a state's output or axis does not exist")));
    }
}

#[test]
fn a_loaded_model_keeps_its_memory_until_the_last_session_is_gone() {
    let memory = Arc::new(());
    // SAFETY: a static descriptor; `memory` stands for what a loader would own.
    let model = unsafe { Model::from_raw(&fake_static, memory.clone()) }.unwrap();
    let session = Session::new(&model, &[], 1).unwrap();
    drop(model);
    assert_eq!(Arc::strong_count(&memory), 2);
    drop(session);
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn a_static_session_runs_and_reports_its_steps() {
    let mut session = Session::new(&model(&fake_static), &[], 1).unwrap();
    assert_eq!(session.arena_bytes(), 64);
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = steps.clone();
    session.set_trace(Some(Box::new(move |step, begin| seen.lock().unwrap().push((step, begin)))));
    assert_eq!(affine(&mut session, &X, &[1., 2., 3.]), affine_of(&X, &[1., 2., 3.]));
    session.set_trace(None);
    assert_eq!(affine(&mut session, &X, &[0.; 3]), affine_of(&X, &[0.; 3]));
    assert_eq!(*steps.lock().unwrap(), [(0, true), (0, false)]);
}

#[test]
fn errors_name_the_port_and_the_numbers() {
    let mut session = Session::new(&model(&fake_static), &[], 1).unwrap();
    let bias = TensorView::new(&[3], &X[..3]).unwrap();
    let error = session.run(&[TensorView::new(&[3, 3], &X[..9]).unwrap(), bias]).unwrap_err();
    assert_eq!(error.to_string(), "input 0 (\"x\"), axis 0: a tensor's dim is not the port's (expected 4, got 3)");
    let error = session.run(&[TensorView::new(&[4, 3], &[1i32; 12]).unwrap(), bias]).unwrap_err();
    assert_eq!(error.to_string(), "input 0 (\"x\"): a tensor's dtype is not the port's");
    assert_eq!(session.run(&[bias]), Err(Error::InputCount { expected: 2, actual: 1 }));
    assert!(matches!(Session::new(&model(&fake_static), &[1], 1), Err(Error::SymbolCount { expected: 0, actual: 1 })));
}

#[test]
fn a_dims_session_grows_its_output_and_plans_again() {
    let mut session = Session::new(&model(&fake_dims), &[2], 1).unwrap();
    for n in [2usize, 100, 3, 1000] {
        session.set_dims(&[n as i64]).unwrap();
        for shift in 0..2 {
            let x: Vec<i64> = (0..n as i64).map(|i| i * i + shift).collect();
            session.run(&[TensorView::new(&[n as i64], &x).unwrap()]).unwrap();
            let y = session.output(0).unwrap();
            assert_eq!(y.shape(), [2 * n as i64]);
            assert_eq!(y.elements::<i64>().unwrap(), [&x[..], &x[..]].concat());
        }
    }
    let error = session.set_dims(&[1001]).unwrap_err();
    assert!(matches!(error, Error::Call { status: Status::DimRange, .. }), "{error}");
    // The arena of the last good plan still serves it, and less of it serves smaller inputs.
    session.run(&[TensorView::new(&[1], &[7i64]).unwrap()]).unwrap();
    assert_eq!(session.output(0).unwrap().elements::<i64>().unwrap(), [7, 7]);
}

#[test]
fn a_data_session_owns_what_the_model_allocates() {
    let mut session = Session::new(&model(&fake_data), &[6], 1).unwrap();
    for x in [&[0f32, 1., 0., 2., 3., 0.][..], &[0., 0.], &[], &[5.]] {
        session.run(&[TensorView::new(&[x.len() as i64], x).unwrap()]).unwrap();
        let kept: Vec<f32> = x.iter().copied().filter(|&x| x != 0.).collect();
        let y = session.output(0).unwrap();
        assert_eq!((y.shape(), y.elements::<f32>().unwrap()), (&[kept.len() as i64][..], &kept[..]));
    }
    let error = session.run(&[TensorView::new(&[1], &[13f32]).unwrap()]).unwrap_err();
    assert_eq!(error.to_string(), "keep: a value in the data is outside its operator's domain");
}

#[test]
fn sixteen_threads_run_one_model_on_one_pool_as_one_thread_does() {
    let model = model(&fake_static);
    let pool = Arc::new(Pool::new(4).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (model, pool) = (&model, pool.clone());
            scope.spawn(move || {
                let mut session = Session::with_pool(model, &[], Some(pool)).unwrap();
                assert_eq!(session.arena_bytes(), 256);
                for round in 0..200 {
                    let x: Vec<f32> = (0..12).map(|i| (thread * 1000 + round * 12 + i) as f32).collect();
                    let bias = [thread as f32, 0.5, -1.];
                    assert_eq!(affine(&mut session, &x, &bias), affine_of(&x, &bias));
                }
            });
        }
    });
}
