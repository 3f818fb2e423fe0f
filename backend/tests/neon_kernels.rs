//! Kernels for AArch64 against the interpreter of the Loop IR, under an emulator.

mod comparing;
mod emulating;

use onnxc_backend::neon::{self, Features, NeonCode};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::interp::run_kernel;
use onnxc_ir::loops::{Access, Address, FmaMode, Kernel, KernelBuilder, LoopKind, Stride, Val};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

use comparing::same;
use emulating::{check_text, emulate};

const ALL: Features = Features { dotprod: true, i8mm: true, bf16: true };

/// Runs a kernel on both and compares what is written, bit by bit but for NaNs. Gives the code for all features.
fn check(kernel: &Kernel, buffers: &[Vec<u8>], params: &[i64], tasks: i64) -> NeonCode {
    let mut theirs = buffers.to_vec();
    let mut regions: Vec<&mut [u8]> = theirs.iter_mut().map(|b| &mut b[..]).collect();
    run_kernel(kernel, &mut regions, params, 0, tasks, 0).unwrap_or_else(|e| panic!("{e}"));
    let dots = kernel.insts.values().any(|inst| matches!(inst.data, onnxc_ir::loops::InstData::Dot4 { .. }));
    let less = Features { bf16: false, ..ALL };
    let least = if dots { less } else { Features::default() };
    for features in [least, ALL] {
        let code = neon::compile(kernel, features).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
        check_text(&code);
        let ours = emulate(&code.bytes, kernel, buffers, params, tasks);
        for ((_, buffer), (x, y)) in kernel.arguments().zip(ours.iter().zip(&theirs)) {
            let size = buffer.dtype.bytes().expect("whole bytes") as usize;
            for (i, (x, y)) in x.chunks(size).zip(y.chunks(size)).enumerate() {
                if !same(buffer.dtype, x, y) {
                    panic!("{}[{i}]: {x:?} for {y:?}\n{kernel}\n{}", buffer.name, code.disassembly());
                }
            }
        }
    }
    neon::compile(kernel, ALL).expect("it was compiled before")
}

fn floats(n: usize, f: impl Fn(usize) -> f32) -> Vec<u8> {
    (0..n).flat_map(|i| f(i).to_le_bytes()).collect()
}

/// All numbers of 16 bits, `n` of them from the `part`-th on.
fn halves(part: usize, n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| ((part * n + i) as u16).to_le_bytes()).collect()
}

/// `y[i] = of(x[i])` in vectors with a tail.
fn map(from: DType, to: DType, lanes: u16, mut of: impl FnMut(&mut KernelBuilder, Val) -> Val) -> Kernel {
    let mut b = KernelBuilder::new("map");
    let x = b.buffer("x", from, Access::Read, None);
    let y = b.buffer("y", to, Access::Write, None);
    let n = b.param("n");
    b.task_loop(|b, _| {
        b.each(0, n, i64::from(lanes), |b, i| {
            let rest = b.isub(n, i);
            let rest = b.val(rest);
            let at = Address::default().plus(i, Stride::Const(1));
            let v = b.load(x, at.clone(), lanes, Some(rest));
            let v = of(b, v);
            b.store(y, at, v, Some(rest));
        });
    });
    b.finish()
}

/// Every number of 16 bits to `f32`, and many back, in vectors of every length and with every tail.
#[test]
fn halves_convert_both_ways() {
    for half in [DType::F16, DType::BF16] {
        for (lanes, n) in [(1, 3), (2, 5), (4, 11), (8, 23), (16, 39), (32, 70)] {
            let widen = map(half, DType::F32, lanes, |b, v| b.cast(DType::F32, v));
            check(&widen, &[halves(9, n), floats(n, |_| 9.0)], &[n as i64], 1);
            let narrow = map(DType::F32, half, lanes, |b, v| b.cast(half, v));
            let values = floats(n, |i| (i as f32 - 11.3) * 1.000_977 * 2f32.powi(i as i32 % 40 - 26));
            check(&narrow, &[values, halves(0, n)], &[n as i64], 1);
        }
        let widen = map(half, DType::F32, 16, |b, v| b.cast(DType::F32, v));
        check(&widen, &[halves(0, 1 << 16), floats(1 << 16, |_| 9.0)], &[1 << 16], 1);
        // Halves between two numbers, the least and the greatest, and what is none.
        let bits = |i: usize| f32::from_bits((i as u32).wrapping_mul(0x0000_8000).wrapping_add(i as u32 % 3 - 1));
        let narrow = map(DType::F32, half, 16, |b, v| b.cast(half, v));
        check(&narrow, &[floats(1 << 17, bits), halves(0, 1 << 17)], &[1 << 17], 1);
    }
}

/// Arithmetic on 16-bit floats, each operation rounded.
#[test]
fn halves_compute() {
    for half in [DType::F16, DType::BF16] {
        for (lanes, op) in
            [(8, BinaryOp::Add), (16, BinaryOp::Mul), (16, BinaryOp::Div), (1, BinaryOp::Sub), (8, BinaryOp::Max)]
        {
            let kernel = map(half, half, lanes, |b, v| {
                let third = b.constant(Scalar::number(half, 0.333).expect("a float"), lanes);
                let sum = b.binary(op, v, third);
                b.unary(UnaryOp::Sqrt, sum)
            });
            check(&kernel, &[halves(7, 4097), halves(0, 4097)], &[4097], 1);
        }
        let mut b = KernelBuilder::new("sum");
        let x = b.buffer("x", half, Access::Read, None);
        let y = b.buffer("y", half, Access::Write, None);
        b.task_loop(|b, task| {
            let at = Address::default().plus(task, Stride::Const(16));
            let v = b.load(x, at, 16, None);
            for (i, op) in [BinaryOp::Add, BinaryOp::Max, BinaryOp::Min].into_iter().enumerate() {
                let sum = b.reduce_lanes(op, v);
                b.store(y, Address::at(i as i64).plus(task, Stride::Const(3)), sum, None);
            }
        });
        check(&b.finish(), &[halves(31, 64), halves(0, 12)], &[], 4);
    }
}

/// Functions of 16-bit floats, which take most of the operations on `f32` and `i32`.
#[test]
fn functions_of_halves() {
    for op in [UnaryOp::Exp, UnaryOp::Log, UnaryOp::Tanh, UnaryOp::Erf, UnaryOp::Sigmoid, UnaryOp::Sin, UnaryOp::Round]
    {
        for lanes in [1, 8] {
            let kernel = map(DType::F16, DType::F16, lanes, |b, v| b.unary(op, v));
            check(&kernel, &[halves(17, 515), halves(0, 515)], &[515], 1);
        }
    }
}

/// `c[m, n] = sum a[m, k] * b[k, n]` in tiles whose left elements are lanes of one load.
#[test]
fn tiles_of_products() {
    for (left, right) in
        [(DType::F32, DType::F32), (DType::F32, DType::F16), (DType::F16, DType::F16), (DType::BF16, DType::BF16)]
    {
        let (rows, depth, steps) = (4usize, 16i64, 4i64);
        let mut b = KernelBuilder::new("tile");
        let lhs = b.buffer("lhs", left, Access::Read, None);
        let rhs = b.buffer("rhs", right, Access::Read, None);
        let out = b.buffer("out", DType::F32, Access::Write, None);
        let k_bound = b.param("k");
        b.task_loop(|b, _| {
            let zero = b.constant(Scalar::f32(0.0), 16);
            let init = vec![zero; rows];
            let sums = b.for_(LoopKind::Serial, Index::Const(0), k_bound.into(), steps, &init, |b, k, sums| {
                let mut sums = sums.to_vec();
                for step in 0..steps {
                    let panel = b.load(rhs, Address::at(step * 16).plus(k, Stride::Const(16)), 16, None);
                    let panel = if right == DType::F32 { panel } else { b.cast(DType::F32, panel) };
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let at = Address::at(r as i64 * depth + step).plus(k, Stride::Const(1));
                        let one = b.load_splat(lhs, at, 16);
                        let one = if left == DType::F32 { one } else { b.cast(DType::F32, one) };
                        *sum = b.mul_add(one, panel, *sum, FmaMode::Fused);
                    }
                }
                sums
            });
            for (i, sum) in sums.into_iter().enumerate() {
                b.store(out, Address::at(i as i64 * 16), sum, None);
            }
        });
        let data = |dtype: DType, n: usize| match dtype {
            DType::F32 => floats(n, |i| (i % 13) as f32 * 0.25 - 1.5),
            _ => (0..n).flat_map(|i| (0x3c00u16 + (i as u16 * 37) % 0x400).to_le_bytes()).collect(),
        };
        let buffers = [data(left, rows * depth as usize), data(right, depth as usize * 16), floats(rows * 16, |_| 0.0)];
        let text = check(&b.finish(), &buffers, &[depth], 1).disassembly();
        let count = |name: &str| text.lines().filter(|line| line.trim_start().starts_with(name)).count();
        assert_eq!(count("fmla"), 4 * rows * steps as usize, "{text}");
        assert_eq!(text.matches(".s[").count(), 4 * rows * steps as usize, "{text}");
        assert_eq!(count("dup"), 0, "{text}");
        let stack = text.lines().filter(|line| line.contains("ldr q") && line.contains("[sp")).count();
        assert_eq!(stack, 0, "{text}");
    }
}

/// Dot products of bytes of every signedness, by vectors and by lanes.
#[test]
fn dot_products() {
    for types in [[DType::I8, DType::I8], [DType::U8, DType::U8], [DType::U8, DType::I8], [DType::I8, DType::U8]] {
        for by_lane in [true, false] {
            let mut b = KernelBuilder::new("dots");
            let lhs = b.buffer("lhs", types[0], Access::Read, None);
            let rhs = b.buffer("rhs", types[1], Access::Read, None);
            let out = b.buffer("out", DType::I32, Access::Write, None);
            b.task_loop(|b, _| {
                let zero = b.constant(Scalar { dtype: DType::I32, bits: 0 }, 8);
                let mut sum = zero;
                for step in 0..if by_lane { 4 } else { 3 } {
                    let word = b.load_word_splat(lhs, Address::at(step * 4), 8);
                    let panel = b.load_words(rhs, Address::at(step * 32), 8);
                    sum = b.dot4(word, panel, sum, types);
                }
                b.store(out, Address::at(0), sum, None);
            });
            let bytes = |n: usize| (0..n).map(|i| (i * 89 + 120) as u8).collect::<Vec<u8>>();
            let text = check(&b.finish(), &[bytes(16), bytes(128), floats(8, |_| 0.0)], &[], 1).disassembly();
            assert_eq!(text.contains(".4b["), by_lane, "{text}");
        }
    }
}

/// Integers of all widths, masks and selections between them.
#[test]
fn integers_of_all_widths() {
    use DType::*;
    let widths = [I8, U8, I16, U16, I32, U32, I64, U64, F32, F64];
    for from in widths {
        for lanes in [1, 2, 4, 16] {
            let mut b = KernelBuilder::new("widths");
            let x = b.buffer("x", from, Access::Read, None);
            let outputs = widths.map(|to| b.buffer(format!("to_{to}"), to, Access::Write, None));
            b.task_loop(|b, _| {
                let v = b.load(x, Address::at(0), lanes, None);
                let w = b.load(x, Address::at(16), lanes, None);
                let less = b.compare(CmpOp::Lt, v, w);
                let sum = b.binary(BinaryOp::Add, v, w);
                for (y, to) in outputs.into_iter().zip(widths) {
                    let (v, sum) = (b.cast(to, v), b.cast(to, sum));
                    let chosen = b.select(less, v, sum);
                    b.store(y, Address::at(0), chosen, None);
                }
            });
            let element = |i: usize| -> Vec<u8> {
                let n = (i as i64 * 0x0123_4567_89ab_cdef) >> (i % 50);
                match from {
                    F32 => (n as f32 * 1e-9).to_le_bytes().to_vec(),
                    F64 => (n as f64 * 1e-9).to_le_bytes().to_vec(),
                    _ => n.to_le_bytes()[..from.bytes().expect("whole bytes") as usize].to_vec(),
                }
            };
            let mut buffers = vec![(0..32).flat_map(element).collect()];
            buffers.extend(widths.map(|to| vec![7; 16 * to.bytes().expect("whole bytes") as usize]));
            check(&b.finish(), &buffers, &[], 1);
        }
    }
}
