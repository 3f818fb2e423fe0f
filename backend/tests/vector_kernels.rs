//! Kernels of the wide backend against the interpreter of the Loop IR, on processors that have AVX-512.
#![cfg(target_arch = "x86_64")]

mod comparing;
mod running;

use onnxc_backend::vector::{self, Isa};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::interp::run_kernel;
use onnxc_ir::loops::{Access, Address, FmaMode, Kernel, KernelBuilder, LoopKind, Stride};
use onnxc_ir::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

use comparing::same;
use running::execute;

/// Runs a kernel on both, `buffers` as (bytes, written), and compares what is written bit by bit, or to a few units in the
/// last place where `close` says so. What lacks AVX2 code is compiled for AVX-512 only.
fn check(kernel: Kernel, buffers: &[Vec<u8>], params: &[i64], tasks: i64, close: bool) {
    let mut theirs = buffers.to_vec();
    let mut regions: Vec<&mut [u8]> = theirs.iter_mut().map(|b| &mut b[..]).collect();
    run_kernel(&kernel, &mut regions, params, 0, tasks, 0).unwrap_or_else(|e| panic!("{e}"));
    for isa in [Isa::Avx512Vnni, Isa::Avx512, Isa::Avx2] {
        if !runs_here(isa) {
            eprintln!("skipped: this processor has no {isa:?}");
            continue;
        }
        let Some(ours) = run(&kernel, isa, false, buffers, params, tasks) else { continue };
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            if !close {
                assert_eq!(a, b, "{isa:?}: buffer {i}\n{kernel}");
                continue;
            }
            for (j, (x, y)) in a.chunks(4).zip(b.chunks(4)).enumerate() {
                let same = same(DType::F32, x, y);
                let [x, y] = [x, y].map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
                assert!(
                    same || (x - y).abs() <= 1e-5 * y.abs().max(1e-3),
                    "{isa:?}: buffer {i} element {j}: {x} for {y}\n{kernel}"
                );
            }
        }
    }
}

/// The same for buffers of floats: whichever NaN is equal.
fn check_floats(kernel: Kernel, buffers: &[Vec<u8>], tasks: i64, flush: bool) {
    let mut theirs = buffers.to_vec();
    let mut regions: Vec<&mut [u8]> = theirs.iter_mut().map(|b| &mut b[..]).collect();
    run_kernel(&kernel, &mut regions, &[], 0, tasks, 0).unwrap_or_else(|e| panic!("{e}"));
    for isa in [Isa::Avx512, Isa::Avx2].into_iter().filter(|&isa| runs_here(isa)) {
        let ours = run(&kernel, isa, flush, buffers, &[], tasks).expect("there is code for both");
        for ((_, buffer), (a, b)) in kernel.arguments().zip(ours.iter().zip(&theirs)) {
            let size = buffer.dtype.bytes().expect("whole bytes") as usize;
            for (j, (x, y)) in a.chunks(size).zip(b.chunks(size)).enumerate() {
                assert!(same(buffer.dtype, x, y), "{isa:?}: {}[{j}] is {x:?}, not {y:?}\n{kernel}", buffer.name);
            }
        }
    }
}

fn runs_here(isa: Isa) -> bool {
    match isa {
        Isa::Avx512Vnni => is_x86_feature_detected!("avx512vnni") && runs_here(Isa::Avx512),
        Isa::Avx512 => is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl"),
        Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
    }
}

/// The buffers after a run of the compiled kernel; nothing where AVX2 lacks code for it.
fn run(
    kernel: &Kernel,
    isa: Isa,
    flush: bool,
    buffers: &[Vec<u8>],
    params: &[i64],
    tasks: i64,
) -> Option<Vec<Vec<u8>>> {
    match vector::compile(kernel, isa, flush) {
        Ok(code) => Some(execute(&code.bytes, kernel, buffers, params, tasks)),
        Err(_) if isa == Isa::Avx2 => None,
        Err(e) => panic!("{e}\n{kernel}"),
    }
}

fn floats(n: usize, f: impl Fn(usize) -> f32) -> Vec<u8> {
    (0..n).flat_map(|i| f(i).to_le_bytes()).collect()
}

/// `c[m, n] = sum a[m, k] * b[k, n]` in a tile of `rows` times 32 columns.
#[test]
fn a_tile_of_a_matrix_product() {
    for (rows, depth) in [(1, 1), (8, 7), (12, 33)] {
        let mut b = KernelBuilder::new("tile");
        let lhs = b.buffer("lhs", DType::F32, Access::Read, None);
        let rhs = b.buffer("rhs", DType::F32, Access::Read, None);
        let out = b.buffer("out", DType::F32, Access::Write, None);
        let k_bound = b.param("k");
        b.task_loop(|b, _| {
            let zero = b.constant(Scalar::f32(0.0), 16);
            let init = vec![zero; rows * 2];
            let sums = b.for_(LoopKind::Serial, Index::Const(0), k_bound.into(), 1, &init, |b, k, sums| {
                let right: Vec<_> =
                    (0..2).map(|j| b.load(rhs, Address::at(j * 16).plus(k, Stride::Const(32)), 16, None)).collect();
                (0..rows)
                    .flat_map(|r| {
                        let at = Address::at(r as i64 * depth).plus(k, Stride::Const(1));
                        let left = b.load_splat(lhs, at, 16);
                        [0, 1].map(|j| b.mul_add(left, right[j], sums[r * 2 + j], FmaMode::Fused))
                    })
                    .collect()
            });
            for (i, sum) in sums.into_iter().enumerate() {
                b.store(out, Address::at(i as i64 * 16), sum, None);
            }
        });
        let buffers = [
            floats(rows * depth as usize, |i| (i % 13) as f32 - 6.0),
            floats(depth as usize * 32, |i| (i % 7) as f32 * 0.5 - 1.0),
            floats(rows * 32, |_| 0.0),
        ];
        check(b.finish(), &buffers, &[depth], 1, false);
    }
}

/// Every transcendental function, on full vectors and predicated tails.
#[test]
fn functions_with_tails() {
    let ops = [
        UnaryOp::Exp,
        UnaryOp::Log,
        UnaryOp::Tanh,
        UnaryOp::Sigmoid,
        UnaryOp::Erf,
        UnaryOp::Sqrt,
        UnaryOp::Floor,
        UnaryOp::Round,
        UnaryOp::Neg,
        UnaryOp::Abs,
    ];
    for op in ops {
        for lanes in [4, 8, 16, 32] {
            let mut b = KernelBuilder::new("map");
            let x = b.buffer("x", DType::F32, Access::Read, None);
            let y = b.buffer("y", DType::F32, Access::Write, None);
            let n = b.param("n");
            b.task_loop(|b, _| {
                b.each(0, n, i64::from(lanes), |b, i| {
                    let rest = b.isub(n, i);
                    let rest = b.val(rest);
                    let at = Address::default().plus(i, Stride::Const(1));
                    let v = b.load(x, at.clone(), lanes, Some(rest));
                    let v = b.unary(op, v);
                    b.store(y, at, v, Some(rest));
                });
            });
            let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30, -87.0, 88.5, 0.5, -3.25];
            let values = floats(37, |i| special.get(i).copied().unwrap_or(i as f32 * 0.37 - 6.0));
            check(b.finish(), &[values, floats(37, |_| 9.0)], &[37], 1, true);
        }
    }
}

/// Comparisons, selects, min and max with NaN, conversions.
#[test]
fn masks_and_extremes() {
    for lanes in [1, 4, 16, 32] {
        let mut b = KernelBuilder::new("masks");
        let x = b.buffer("x", DType::F32, Access::Read, None);
        let y = b.buffer("y", DType::F32, Access::Write, None);
        b.task_loop(|b, _| {
            let v = b.load(x, Address::at(0), lanes, None);
            let w = b.load(x, Address::at(32), lanes, None);
            let less = b.compare(CmpOp::Lt, v, w);
            let picked = b.select(less, v, w);
            let most = b.binary(BinaryOp::Max, v, w);
            let least = b.binary(BinaryOp::Min, w, v);
            let zero = b.constant(Scalar::f32(0.0), lanes);
            let relu = b.binary(BinaryOp::Max, v, zero);
            let whole = b.cast(DType::I32, v);
            let whole = b.cast(DType::F32, whole);
            for (i, val) in [picked, most, least, relu, whole].into_iter().enumerate() {
                b.store(y, Address::at(i as i64 * 32), val, None);
            }
        });
        let values = floats(64, |i| match i % 9 {
            3 => f32::NAN,
            5 => f32::INFINITY,
            7 => -1e20,
            _ => (i as f32 * 1.7).sin() * 50.0,
        });
        check(b.finish(), &[values, floats(160, |_| 0.0)], &[], 1, true);
    }
}

/// Integer arithmetic, with every sign and by zero.
#[test]
fn integers_never_trap() {
    let ops = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Rem,
        BinaryOp::Min,
        BinaryOp::Max,
        BinaryOp::And,
        BinaryOp::Or,
        BinaryOp::Xor,
    ];
    let mut b = KernelBuilder::new("integers");
    let x = b.buffer("x", DType::I64, Access::Read, None);
    let y = b.buffer("y", DType::I64, Access::Write, None);
    b.task_loop(|b, task| {
        let v = b.load(x, Address::default().plus(task, Stride::Const(2)), 1, None);
        let w = b.load(x, Address::at(1).plus(task, Stride::Const(2)), 1, None);
        for (i, op) in ops.into_iter().enumerate() {
            let val = b.binary(op, v, w);
            b.store(y, Address::at(i as i64).plus(task, Stride::Const(ops.len() as i64)), val, None);
        }
    });
    let pairs = [(7, 2), (-7, 2), (7, -2), (5, 0), (i64::MIN, -1), (i64::MIN, 0), (0, 3), (i64::MAX, i64::MAX)];
    let values: Vec<u8> = pairs.iter().flat_map(|&(a, b)| [a, b]).flat_map(i64::to_le_bytes).collect();
    check(b.finish(), &[values, vec![0; pairs.len() * ops.len() * 8]], &[], pairs.len() as i64, false);
}

/// The halves of gathered 64-bit records, one as a float and one as an index.
#[test]
fn wide_integers_come_apart() {
    for lanes in [16, 32] {
        let mut b = KernelBuilder::new("records");
        let x = b.buffer("x", DType::I64, Access::Read, None);
        let y = b.buffer("y", DType::F32, Access::Write, None);
        let z = b.buffer("z", DType::I32, Access::Write, None);
        b.task_loop(|b, _| {
            let ramp = b.iota(DType::I64, lanes);
            let records = b.gather(x, Address::at(0), ramp, None);
            let half = b.constant(Scalar::i64(32), lanes);
            let high = b.binary(BinaryOp::Shr, records, half);
            let high = b.cast(DType::I32, high);
            let float = b.bitcast(DType::F32, high);
            b.store(y, Address::at(0), float, None);
            let low = b.cast(DType::I32, records);
            b.store(z, Address::at(0), low, None);
        });
        let record = |i: i64| (i64::from((i as f32 * 0.7 - 3.0).to_bits()) << 32) | (0xffff_fff0 + i);
        let records: Vec<u8> = (0..32).flat_map(|i| record(i).to_le_bytes()).collect();
        check(b.finish(), &[records, floats(32, |_| 0.0), vec![0; 128]], &[], 1, false);
    }
}

/// Lane reductions in the tree that the IR states, and gathers.
/// Scattered stores write the lanes that count, in their order: later ones win where indices meet.
#[test]
fn lanes_scatter() {
    for (dtype, lanes) in [DType::F32, DType::I64].into_iter().flat_map(|dtype| [2, 4, 8, 16, 32].map(|n| (dtype, n))) {
        if u32::from(lanes) * dtype.bits() < 128 {
            continue;
        }
        let mut b = KernelBuilder::new("scatter");
        let x = b.buffer("x", dtype, Access::Read, None);
        let y = b.buffer("y", dtype, Access::Write, None);
        b.task_loop(|b, task| {
            let v = b.load(x, Address::at(0), lanes, None);
            let ramp = b.iota(DType::I64, lanes);
            let three = b.constant(Scalar::i64(3), lanes);
            let indices = b.binary(BinaryOp::Mul, ramp, three);
            let first = Address::at(1).plus(task, Stride::Const(120));
            b.scatter(y, first.clone(), indices, v, Some(task));
            let half = b.constant(Scalar::i64(1), lanes);
            let meeting = b.binary(BinaryOp::Shr, ramp, half);
            b.scatter(y, first.offset_by(97), meeting, v, None);
        });
        let tasks = i64::from(lanes) + 1;
        let bytes = (0..256u32).map(|i| (i * 37 % 251) as u8).collect();
        check(b.finish(), &[bytes, vec![0xee; 120 * tasks as usize * 8]], &[], tasks, false);
    }
}

/// Whether all lanes of a mask are set, and whether any is.
#[test]
fn masks_become_one_truth() {
    for lanes in [4, 8, 16, 32] {
        let mut b = KernelBuilder::new("truth");
        let x = b.buffer("x", DType::F32, Access::Read, None);
        let y = b.buffer("y", DType::Bool, Access::Write, None);
        b.task_loop(|b, task| {
            let v = b.load(x, Address::default().plus(task, Stride::Const(1)), lanes, None);
            let zero = b.constant(Scalar::f32(0.0), lanes);
            let above = b.compare(CmpOp::Gt, v, zero);
            for (i, op) in [BinaryOp::And, BinaryOp::Or].into_iter().enumerate() {
                let truth = b.reduce_lanes(op, above);
                b.store(y, Address::at(i as i64).plus(task, Stride::Const(2)), truth, None);
            }
        });
        let numbers = floats(200, |i| if (50..100).contains(&i) || i % 60 == 0 { 1.0 } else { -1.0 });
        check(b.finish(), &[numbers, vec![7; 300]], &[], 150, false);
    }
}

#[test]
fn lanes_combine_and_gather() {
    for lanes in [4, 16, 32] {
        let mut b = KernelBuilder::new("lanes");
        let x = b.buffer("x", DType::F32, Access::Read, None);
        let y = b.buffer("y", DType::F32, Access::Write, None);
        b.task_loop(|b, _| {
            let v = b.load(x, Address::at(0), lanes, None);
            for (i, op) in [BinaryOp::Add, BinaryOp::Max, BinaryOp::Min].into_iter().enumerate() {
                let val = b.reduce_lanes(op, v);
                b.store(y, Address::at(i as i64), val, None);
            }
            let ramp = b.iota(DType::I64, lanes);
            let three = b.constant(Scalar::i64(3), lanes);
            let indices = b.binary(BinaryOp::Mul, ramp, three);
            let count = b.i64(i64::from(lanes) - 1);
            let gathered = b.gather(x, Address::at(1), indices, Some(count));
            b.store(y, Address::at(8), gathered, None);
        });
        check(b.finish(), &[floats(100, |i| (i as f32).sin()), floats(40, |_| 0.0)], &[], 1, false);
    }
}

/// Subnormal numbers vanish in kernels of `f32` when asked for, and the caller's arithmetic keeps them.
#[test]
fn subnormal_numbers_vanish_on_request() {
    if !is_x86_feature_detected!("avx512dq") || !is_x86_feature_detected!("avx512vl") {
        eprintln!("skipped: this processor has no AVX-512");
        return;
    }
    let tiny = f32::from_bits(0x0000_4000);
    let mut b = KernelBuilder::new("halves");
    let input = b.buffer("in", DType::F32, Access::Read, Some(16));
    let output = b.buffer("out", DType::F32, Access::Write, Some(16));
    b.task_loop(|b, _| {
        let x = b.load(input, Address::default(), 16, None);
        let half = b.constant(Scalar::f32(0.5), 16);
        let y = b.binary(BinaryOp::Mul, x, half);
        b.store(output, Address::default(), y, None);
    });
    let kernel = b.finish();
    for (flush, expected) in [(false, tiny / 2.0), (true, 0.0)] {
        let buffers = [floats(16, |_| tiny), vec![0xff; 64]];
        let written = &run(&kernel, Isa::Avx512, flush, &buffers, &[], 1).expect("there is code")[1][..4];
        assert_eq!(f32::from_le_bytes(written.try_into().unwrap()), expected, "flush {flush}");
        assert_eq!(std::hint::black_box(tiny) * std::hint::black_box(0.5), tiny / 2.0);
    }
}

/// Dot products of four bytes of every pair of types, with the extremes in them, and vectors of bytes from and to memory.
#[test]
fn dot_products_and_vectors_of_bytes() {
    let bytes: Vec<u8> =
        (0..256u32).map(|i| [0, 255, 128, 127, 1][(i * 7 % 5) as usize] ^ (i * 37 / 9) as u8).collect();
    for (first, second) in
        [DType::I8, DType::U8].into_iter().flat_map(|x| [DType::I8, DType::U8].map(|second| (x, second)))
    {
        for lanes in [4, 8, 16, 32] {
            let mut b = KernelBuilder::new("bytes");
            let x = b.buffer("x", first, Access::Read, Some(256));
            let y = b.buffer("y", second, Access::Read, Some(256));
            let sums = b.buffer("sums", DType::I32, Access::Write, Some(64));
            let narrowed = b.buffer("narrowed", second, Access::Write, Some(64));
            b.task_loop(|b, task| {
                let words = b.load_words(x, Address::at(5).plus(task, Stride::Const(16)), lanes);
                let word = b.load_word_splat(y, Address::at(9), lanes);
                let numbers = b.load(x, Address::at(1), lanes, None);
                let acc = b.cast(DType::I32, numbers);
                let once = b.dot4(words, word, acc, [first, second]);
                let twice = b.dot4(word, words, once, [second, first]);
                b.store(sums, Address::default(), twice, None);
                let same = b.load_splat(y, Address::at(2), lanes);
                let narrow = b.cast(second, twice);
                let least = b.binary(BinaryOp::Min, narrow, same);
                b.store(narrowed, Address::at(3), least, None);
            });
            let buffers = [bytes.clone(), bytes.clone(), vec![0; 256], vec![0; 64]];
            check(b.finish(), &buffers, &[], 3, false);
            // Without a dot product for the count, so that what is counted stands alone.
            let mut b = KernelBuilder::new("counted");
            let x = b.buffer("x", first, Access::Read, Some(256));
            let y = b.buffer("y", second, Access::Write, Some(64));
            let n = b.param("n");
            b.task_loop(|b, _| {
                let numbers = b.load(x, Address::at(1), lanes, Some(n));
                let narrow = b.cast(second, numbers);
                b.store(y, Address::at(0), narrow, Some(n));
            });
            let kernel = b.finish();
            for n in [0, 1, i64::from(lanes) - 1, 40] {
                check(kernel.clone(), &[bytes.clone(), vec![7; 64]], &[n], 1, false);
            }
        }
    }
}

/// Every number of 16 bits through a vector, a splat and a scalar, plus what some arithmetic makes of it.
#[test]
fn floats_of_16_bits() {
    for (dtype, lanes) in [DType::F16, DType::BF16].into_iter().flat_map(|dtype| [4, 8, 16, 32].map(|n| (dtype, n))) {
        let mut b = KernelBuilder::new("halves");
        let x = b.buffer("x", dtype, Access::Read, Some(1 << 16));
        let wide = b.buffer("wide", DType::F32, Access::Write, Some(1 << 16));
        let thirds = b.buffer("thirds", dtype, Access::Write, Some(1 << 16));
        let sums = b.buffer("sums", dtype, Access::Write, Some(1 << 16));
        let copies = b.buffer("copies", dtype, Access::Write, Some(1 << 16));
        b.task_loop(|b, task| {
            let at = Address::default().plus(task, Stride::Const(i64::from(lanes)));
            let halves = b.load(x, at.clone(), lanes, None);
            let number = b.cast(DType::F32, halves);
            b.store(wide, at.clone(), number, None);
            let third = b.constant(Scalar::f32(1.0 / 3.0), lanes);
            let product = b.binary(BinaryOp::Mul, number, third);
            let rounded = b.cast(dtype, product);
            b.store(thirds, at.clone(), rounded, None);
            let splat = b.load_splat(x, at.clone(), lanes);
            let sum = b.binary(BinaryOp::Add, splat, halves);
            b.store(sums, at.clone(), sum, None);
            let one = b.load(x, at.clone(), 1, None);
            let one = b.cast(DType::F32, one);
            let one = b.cast(dtype, one);
            b.store(copies, at.clone(), one, None);
        });
        let bits = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let halves = vec![0; 1 << 17];
        let buffers = [bits, vec![0; 1 << 18], halves.clone(), halves.clone(), halves];
        check_floats(b.finish(), &buffers, (1 << 16) / i64::from(lanes), false);
    }
}

/// The first lanes of narrow vectors, and nothing else, are read and written, with AVX2 too.
#[test]
fn some_lanes_of_narrow_vectors() {
    for lanes in [4, 8, 16, 32] {
        let mut b = KernelBuilder::new("some");
        let x = b.buffer("x", DType::F16, Access::Read, Some(64));
        let y = b.buffer("y", DType::F16, Access::Write, Some(64));
        let bytes = b.buffer("bytes", DType::U8, Access::Read, Some(64));
        let doubles = b.buffer("doubles", DType::I8, Access::Write, Some(64));
        b.task_loop(|b, task| {
            let numbers = b.load(bytes, Address::at(7), lanes, Some(task));
            let wide = b.cast(DType::I32, numbers);
            let wide = b.binary(BinaryOp::Add, wide, wide);
            let narrow = b.cast(DType::I8, wide);
            b.store(doubles, Address::at(9), narrow, Some(task));
            let halves = b.load(x, Address::at(3), lanes, Some(task));
            let doubled = b.binary(BinaryOp::Add, halves, halves);
            b.store(y, Address::at(5), doubled, Some(task));
        });
        let numbers = (0..64u16).flat_map(|i| (0x3c00 + 16 * i).to_le_bytes()).collect::<Vec<u8>>();
        let buffers = [numbers, vec![0xee; 128], (100..164).collect(), vec![0xee; 64]];
        check_floats(b.finish(), &buffers, i64::from(lanes) + 1, false);
    }
}

/// Numbers of 8 bits are subnormal numbers of `f32` on their way: their kernels keep those.
#[test]
fn floats_of_8_bits_stay_where_kernels_flush() {
    let mut b = KernelBuilder::new("bytes");
    let x = b.buffer("x", DType::F8E4M3FN, Access::Read, Some(256));
    let y = b.buffer("y", DType::F32, Access::Write, Some(256));
    b.task_loop(|b, task| {
        let at = Address::default().plus(task, Stride::Const(16));
        let bytes = b.load(x, at.clone(), 16, None);
        let numbers = b.cast(DType::F32, bytes);
        b.store(y, at, numbers, None);
    });
    check_floats(b.finish(), &[(0..=255).collect(), vec![0; 1024]], 16, true);
}
