//! A program with a symbolic dimension, run, printed and broken.

use smallvec::smallvec;

use super::interp::{RunError, run_program, weight_section};
use super::verify::verify;
use super::*;
use crate::dtype::DType;
use crate::loops::{Access, Address, KernelBuilder, Stride};
use crate::scalar::BinaryOp;
use crate::tensor::{ConstantSource, TensorBytes, TensorType};

/// z[i] = x[i] `op` y[i] for `n` tasks, or x[i] op w[0].
fn pointwise(name: &str, op: BinaryOp, one_weight: bool) -> Kernel {
    let mut b = KernelBuilder::new(name);
    let x = b.buffer("x", DType::F32, Access::Read, None);
    let y = b.buffer("y", DType::F32, Access::Read, one_weight.then_some(1));
    let z = b.buffer("z", DType::F32, Access::Write, None);
    b.allow_in_place(z, x);
    b.task_loop(|b, task| {
        let at = Address::default().plus(task, Stride::Const(1));
        let left = b.load(x, at.clone(), 1, None);
        let right = b.load(y, if one_weight { Address::at(0) } else { at.clone() }, 1, None);
        let value = b.binary(op, left, right);
        b.store(z, at, value, None);
    });
    b.finish()
}

/// out[n] = (a[n] * b[m]) + 10, with n = m.
fn example() -> Program {
    let mut p = Program { name: "example".into(), ..Program::default() };
    let n = Dim::symbol(p.symbols.intern("n"));
    let m = Dim::symbol(p.symbols.intern("m"));
    let port = |name: &str, d: &Dim| Port { name: name.into(), ty: TensorType::new(DType::F32, [d.clone()]) };
    p.inputs = vec![port("a", &n), port("b", &m)];
    p.outputs = vec![port("out", &n)];
    p.assumptions.push((n.clone(), m.clone()));
    let product = p.kernels.push(pointwise("product", BinaryOp::Mul, false));
    let sum = p.kernels.push(pointwise("sum", BinaryOp::Add, true));
    let constant = p.constants.push(ConstantData {
        ty: TensorType::fixed(DType::F32, &[1]),
        source: ConstantSource::Bytes(10f32.to_le_bytes().to_vec().into()),
        name: "ten".into(),
    });
    p.weights = vec![Weight { constant, offset: 64, bytes: 4 }];
    p.weight_bytes = 128;
    p.arena_bytes = Dim::product([&n, &Dim::constant(4)]).expect("small");
    let origin = p.origins.push(OriginData { path: "mul".into(), operator: "Mul".into() });
    let arena = Place::Arena(Dim::ZERO);
    let launch = |kernel, buffers| {
        Step::Launch(Launch {
            kernel,
            buffers,
            params: vec![],
            tasks: n.clone(),
            origins: smallvec![origin],
            flops: n.clone(),
        })
    };
    p.steps = vec![
        launch(product, vec![Place::Input(0), Place::Input(1), arena.clone()]),
        launch(sum, vec![arena.clone(), Place::Weights(64), arena.clone()]),
        Step::Copy {
            from: arena,
            to: Place::Output(0),
            offset: Dim::ZERO,
            bytes: p.arena_bytes.clone(),
            origins: smallvec![],
        },
    ];
    p
}

fn weights() -> Vec<u8> {
    let section = weight_section(&example(), |constants, constant| match &constants[constant].source {
        ConstantSource::Bytes(bytes) => {
            Ok(TensorBytes { dtype: DType::F32, shape: smallvec![1], bytes: bytes.clone() })
        }
        other => Err(format!("{other:?}")),
    });
    section.expect("the example's constant has bytes")
}

#[test]
fn runs_for_any_size() {
    let p = example();
    verify(&p).unwrap_or_else(|e| panic!("{e}"));
    for n in [0, 1, 5] {
        let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let tensor = TensorBytes::from_f32(&[n], &a);
        let out = run_program(&p, &weights(), &[tensor.clone(), tensor]).expect("it runs");
        let expected: Vec<f32> = a.iter().map(|v| v * v + 10.0).collect();
        assert_eq!(out[0].to_f32(), Some(expected));
        assert_eq!(out[0].shape[..], [n]);
    }
}

#[test]
fn wrong_inputs_are_errors() {
    let p = example();
    let tensor = |n: i64| TensorBytes::from_f32(&[n], &vec![1.0; n as usize]);
    let run = |inputs: &[TensorBytes]| run_program(&p, &weights(), inputs).expect_err("it must not run");
    assert_eq!(run(&[tensor(2)]), RunError::InputCount { given: 1, expected: 2 });
    let RunError::Assumption { left_value: 2, right_value: 3, .. } = run(&[tensor(2), tensor(3)]) else {
        panic!("n = m is an assumption")
    };
    let integers = TensorBytes::from_i64(&[2], &[1, 2]);
    assert!(matches!(run(&[tensor(2), integers]), RunError::Input { number: 1, .. }));
    let cut = TensorBytes { shape: smallvec![3], ..tensor(2) };
    assert!(matches!(run(&[cut, tensor(2)]), RunError::Input { number: 0, .. }));
    assert_eq!(run_program(&p, &[], &[]).expect_err("no weights"), RunError::Weights { given: 0, expected: 128 });
}

#[test]
fn accesses_behind_a_buffer_name_their_step() {
    let mut p = example();
    let Step::Launch(launch) = &mut p.steps[0] else { panic!("the first step is a launch") };
    launch.tasks = Dim::constant(3);
    let tensor = TensorBytes::from_f32(&[2], &[1.0, 2.0]);
    let error = run_program(&p, &weights(), &[tensor.clone(), tensor]).expect_err("three tasks for two elements");
    assert!(matches!(error, RunError::Kernel { step: 0, .. }), "{error}");
}

#[test]
fn prints_what_it_does() {
    let text = example().to_string();
    for line in [
        "program \"example\" {",
        "  symbol n in 0..",
        "  input 1 \"b\": f32[m]",
        "  assume n == m",
        "  weight +64 4: f32[1] = c0 \"ten\"",
        "  launch k1 \"sum\" (arena +0, weights +64, arena +0) tasks n flops n // mul",
        "  copy arena +0 to output 0 4*n bytes",
    ] {
        assert!(text.lines().any(|l| l == line), "no line `{line}` in\n{text}");
    }
    assert_eq!(
        crate::loops::parse::parse_all(&text[text.find("// k0").expect("kernels follow")..]).map(|k| k.len()),
        Ok(2)
    );
}

#[test]
fn broken_programs_are_found() {
    let broken = |change: &dyn Fn(&mut Program), message: &str| {
        let mut p = example();
        change(&mut p);
        let error = verify(&p).expect_err(message);
        assert!(error.problems.iter().any(|m| m.contains(message)), "{message}: {error}");
    };
    let launch = |p: &mut Program, i: usize, change: &dyn Fn(&mut Launch)| {
        let Step::Launch(launch) = &mut p.steps[i] else { panic!("a launch") };
        change(launch);
    };
    broken(&|p| p.weights[0].offset = 60, "not a multiple of 64");
    broken(&|p| p.weights[0].bytes = 8, "another number");
    broken(&|p| p.weight_bytes = 64, "ends behind the weight section");
    broken(&|p| p.scratch_bytes = 3, "bytes of scratch");
    broken(&|p| launch(p, 0, &|l| l.buffers[0] = Place::Input(2)), "input 2 does not exist");
    broken(&|p| launch(p, 0, &|l| l.buffers[2] = Place::Input(1)), "is written");
    broken(&|p| launch(p, 0, &|l| l.buffers[1] = Place::Arena(Dim::ZERO)), "share a place");
    broken(&|p| launch(p, 1, &|l| l.buffers[1] = Place::Weights(0)), "does not lie in one weight");
    broken(&|p| launch(p, 1, &|l| l.buffers[0] = Place::Arena(Dim::constant(4))), "not a multiple of 64");
    broken(&|p| launch(p, 1, &|l| l.params.push(Dim::ONE)), "1 parameters for 0");
    broken(&|p| p.arena_bytes = Dim::constant(-64), "negative");
    broken(&|p| p.kernels[KernelRef::from_u32(0)].name = "sum".into(), "two kernels are named `sum`");
}

/// out[d] = the first d elements of a[n], where d is the second input's element; by way of a slot.
fn cut() -> Program {
    let mut p = Program { name: "cut".into(), data_symbols: 1, slots: 1, ..Program::default() };
    let n = Dim::symbol(p.symbols.intern("n"));
    let symbol = p.symbols.intern("d");
    let d = Dim::symbol(symbol);
    let part = TensorType::new(DType::F32, [d.clone()]);
    p.inputs = vec![
        Port { name: "a".into(), ty: TensorType::new(DType::F32, [n.clone()]) },
        Port { name: "k".into(), ty: TensorType::fixed(DType::I64, &[1]) },
    ];
    p.outputs = vec![Port { name: "out".into(), ty: part.clone() }];
    let bytes = Dim::product([&d, &Dim::constant(4)]).expect("small");
    let copy = |from, to| Step::Copy { from, to, offset: Dim::ZERO, bytes: bytes.clone(), origins: smallvec![] };
    p.steps = vec![
        Step::Bind { symbol, from: Place::Input(1), element: 0, low: Dim::ZERO, high: n, origins: smallvec![] },
        Step::Allocate { slot: 0, ty: part, origins: smallvec![] },
        copy(Place::Input(0), Place::Slot(0)),
        Step::State { output: 0, origins: smallvec![] },
        copy(Place::Slot(0), Place::Output(0)),
        Step::Release { slot: 0 },
    ];
    p
}

#[test]
fn data_decides_a_size() {
    let program = cut();
    assert_eq!(verify(&program), Ok(()));
    let run = |k| {
        run_program(&program, &[], &[TensorBytes::from_f32(&[3], &[1.0, 2.0, 3.0]), TensorBytes::from_i64(&[1], &[k])])
    };
    let out = run(2).expect("in range").remove(0);
    assert_eq!((&out.shape[..], out.to_f32().expect("floats")), (&[2][..], vec![1.0, 2.0]));
    let message = "d is 4, not in 0..=3".to_owned();
    assert_eq!(run(4), Err(RunError::Data { step: 0, message }));
    let text = program.to_string();
    assert!(
        text.contains("bind d to element 0 of input 1 in 0..=n") && text.contains("allocate slot 0: f32[d]"),
        "{text}"
    );
}

#[test]
fn sizes_are_used_after_they_are_bound() {
    let problems = |change: fn(&mut Program)| {
        let mut program = cut();
        change(&mut program);
        verify(&program).expect_err("broken").problems.join("\n")
    };
    let late = problems(|p| p.steps.rotate_left(1));
    assert!(late.contains("step 0: allocate: d has no value yet"), "{late}");
    let empty = problems(|p| drop(p.steps.remove(1)));
    assert!(empty.contains("step 1: copy: slot 0 has no memory"), "{empty}");
    let unstated = problems(|p| drop(p.steps.remove(3)));
    assert!(unstated.contains("output 0 has no memory yet") && unstated.contains("never stated"), "{unstated}");
    let twice = problems(|p| p.steps.push(Step::Release { slot: 0 }));
    assert!(twice.contains("step 6: release: slot 0"), "{twice}");
}
