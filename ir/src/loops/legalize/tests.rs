//! Legalised kernels against the interpreter's own evaluation of the operators.

use super::*;
use crate::evaluate;
use crate::loops::interp::{Binding, FlatKernel, Options};
use crate::loops::{Access, Address};

/// A kernel that applies `op` to whole buffers of the given types, `lanes` at a time; the last buffer is the result's.
fn elementwise(types: &[DType], lanes: u16, op: impl Fn(&mut KernelBuilder, &[Val]) -> Val) -> Kernel {
    let mut b = KernelBuilder::new("test");
    let buffers: Vec<_> = types
        .iter()
        .enumerate()
        .map(|(i, &t)| b.buffer("x", t, if i + 1 == types.len() { Access::Write } else { Access::Read }, None))
        .collect();
    b.task_loop(|b, task| {
        let at = || Address::default().plus(task, Stride::Const(i64::from(lanes)));
        let (result, args) = buffers.split_last().expect("there is a result");
        let args: Vec<Val> = args.iter().map(|&x| b.load(x, at(), lanes, None)).collect();
        let value = op(b, &args);
        b.store(*result, at(), value, None);
    });
    b.finish()
}

/// Runs an elementwise kernel on bits of the types' representation.
fn run(kernel: &Kernel, types: &[DType], lanes: u16, args: &[&[u64]], fuse: bool) -> Vec<u64> {
    let len = args[0].len();
    assert_eq!(len % usize::from(lanes), 0);
    let size = |t: DType| t.bytes().expect("whole bytes") as usize;
    let mut memory: Vec<Vec<u8>> = args
        .iter()
        .zip(types)
        .map(|(a, &t)| a.iter().flat_map(|v| v.to_le_bytes()[..size(t)].to_vec()).collect())
        .collect();
    let out = *types.last().expect("there is a result");
    memory.push(vec![0; len * size(out)]);
    let mut regions: Vec<&mut [u8]> = memory.iter_mut().map(|m| &mut m[..]).collect();
    let bindings: Vec<Binding> =
        regions.iter().enumerate().map(|(region, m)| Binding { region, offset: 0, bytes: m.len() }).collect();
    let tasks = (len / usize::from(lanes)) as i64;
    let options = Options { fuse, ..Options::default() };
    FlatKernel::new(kernel).run(&mut regions, &bindings, &[], [0, tasks, 0], &options).expect("the kernel runs");
    memory[args.len()]
        .chunks_exact(size(out))
        .map(|c| {
            let mut bits = [0; 8];
            bits[..c.len()].copy_from_slice(c);
            u64::from_le_bytes(bits)
        })
        .collect()
}

/// The distance of a result from the exact value, in units in the last place; a wrong special value is infinitely far.
fn ulps(dtype: DType, got: u64, exact: f64) -> f64 {
    let rounded = evaluate::float_value(dtype, evaluate::float_bits(dtype, exact));
    let got = evaluate::float_value(dtype, got);
    if exact.is_nan() || got.is_nan() {
        return if exact.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if rounded == 0.0 && got == 0.0 {
        return if rounded.is_sign_negative() == got.is_sign_negative() { 0.0 } else { f64::INFINITY };
    }
    if rounded.is_infinite() && got == rounded {
        return 0.0;
    }
    let (fraction, least) = if dtype == DType::F32 { (23, -126) } else { (52, -1022) };
    let exponent = ((exact.abs().to_bits() >> 52) as i32 - 1023).max(least) - fraction;
    let difference = (got - exact).abs();
    difference / f64::from(exponent).exp2()
}

/// Numbers of all magnitudes, with the special ones in front; a multiple of 16 many.
fn samples(dtype: DType, dense: &[(f64, f64)]) -> Vec<u64> {
    let specials = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::from(f32::MAX),
        f64::from(f32::MIN_POSITIVE),
        -f64::from(f32::MIN_POSITIVE) / 4.0,
        f64::from(f32::from_bits(1)),
        5e-324,
    ];
    let mut out: Vec<u64> = specials.iter().map(|&x| evaluate::float_bits(dtype, x)).collect();
    if dtype == DType::F32 {
        out.extend((0..=u32::MAX).step_by(104_729).map(u64::from));
    } else {
        out.extend((0..40_000u64).map(|i| i.wrapping_mul(0x0001_a36e_2eb1_c433)));
    }
    for &(lo, hi) in dense {
        out.extend((0..20_000).map(|i| evaluate::float_bits(dtype, lo + (hi - lo) * f64::from(i) / 19_999.0)));
    }
    out.resize(out.len().next_multiple_of(16), 0);
    out
}

/// Asserts the error bound of a unary operator for one lane and many, with and without fused multiply-adds.
fn check_unary(op: UnaryOp, dtype: DType, bound: f64, valid: impl Fn(f64) -> bool, dense: &[(f64, f64)]) {
    let types = [dtype, dtype];
    let samples: Vec<u64> = {
        let mut s = samples(dtype, dense);
        s.retain(|&x| valid(evaluate::float_value(dtype, x)));
        s.truncate(s.len() / 16 * 16);
        s
    };
    let kernel = elementwise(&types, 16, |b, args| b.unary(op, args[0]));
    let legal = legalize(&kernel, &Caps::default());
    let mut worst = (0.0, 0.0);
    let mut first = Vec::new();
    for fuse in [false, true] {
        let got = run(&legal, &types, 16, &[&samples], fuse);
        for (&x, &y) in samples.iter().zip(&got) {
            let x = evaluate::float_value(dtype, x);
            let error = ulps(dtype, y, evaluate::unary_f64(op, x));
            if error > worst.0 {
                worst = (error, x);
            }
        }
        if !fuse {
            first = got;
        }
    }
    assert!(worst.0 <= bound, "{} of {dtype}: {} ulp at {:e}", op.name(), worst.0, worst.1);
    let scalar = elementwise(&types, 1, |b, args| b.unary(op, args[0]));
    let few = &samples[..4096];
    let got = run(&legalize(&scalar, &Caps::default()), &types, 1, &[few], false);
    let same =
        |a: u64, b: u64| a == b || evaluate::float_value(dtype, a).is_nan() && evaluate::float_value(dtype, b).is_nan();
    assert!(got.iter().zip(&first).all(|(&a, &b)| same(a, b)), "{}: one lane differs from many", op.name());
}

fn everywhere(_: f64) -> bool {
    true
}

#[test]
fn exp_is_close() {
    // Between these the result is below 2^-125 and vanishes.
    let normal = |x: f64| x.is_nan() || !(-104.0..-86.643).contains(&x);
    check_unary(UnaryOp::Exp, DType::F32, 1.0, normal, &[(-104.0, 89.0), (-1.0, 1.0)]);
    check_unary(UnaryOp::Exp, DType::F64, 1.5, everywhere, &[(-746.0, 710.0), (-1.0, 1.0)]);
}

#[test]
fn log_is_close() {
    check_unary(UnaryOp::Log, DType::F32, 1.0, everywhere, &[(0.0, 4.0), (0.99, 1.01)]);
    check_unary(UnaryOp::Log, DType::F64, 1.5, everywhere, &[(0.0, 4.0), (0.99, 1.01)]);
}

#[test]
fn tanh_is_close() {
    check_unary(UnaryOp::Tanh, DType::F32, 3.0, everywhere, &[(-10.0, 10.0), (-1.0, 1.0)]);
    check_unary(UnaryOp::Tanh, DType::F64, 3.0, everywhere, &[(-22.0, 22.0), (-1.0, 1.0)]);
}

#[test]
fn sigmoid_is_close() {
    let normal = |x: f64| x.is_nan() || x > -87.0;
    check_unary(UnaryOp::Sigmoid, DType::F32, 2.5, normal, &[(-87.0, 90.0), (-1.0, 1.0)]);
    check_unary(UnaryOp::Sigmoid, DType::F64, 2.0, |x| x.is_nan() || x > -708.0, &[(-700.0, 40.0), (-1.0, 1.0)]);
}

#[test]
fn erf_is_close() {
    check_unary(UnaryOp::Erf, DType::F32, 3.0, everywhere, &[(-4.5, 4.5), (-1.1, 1.1)]);
    check_unary(UnaryOp::Erf, DType::F64, 2.5, everywhere, &[(-6.5, 6.5), (-1.1, 1.1)]);
}

#[test]
fn sin_and_cos_are_close() {
    for op in [UnaryOp::Sin, UnaryOp::Cos] {
        check_unary(op, DType::F32, 1.5, everywhere, &[(-10.0, 10.0), (-1e5, 1e5), (1e8, 1e9)]);
        let small = |x: f64| x.abs() < 4.5e15 || !x.is_finite();
        check_unary(op, DType::F64, 2.0, small, &[(-10.0, 10.0), (-1e5, 1e5), (1e8, 1e9), (1e12, 1e15)]);
    }
}

#[test]
fn tan_is_close() {
    check_unary(UnaryOp::Tan, DType::F32, 3.5, everywhere, &[(-10.0, 10.0), (-1e5, 1e5)]);
    let small = |x: f64| x.abs() < 4.5e15 || !x.is_finite();
    check_unary(UnaryOp::Tan, DType::F64, 4.0, small, &[(-10.0, 10.0), (-1e5, 1e5)]);
}

#[test]
fn inverse_functions_are_close() {
    for dtype in [DType::F32, DType::F64] {
        check_unary(UnaryOp::Asin, dtype, 2.5, everywhere, &[(-1.1, 1.1), (0.9, 1.0)]);
        check_unary(UnaryOp::Acos, dtype, 2.5, everywhere, &[(-1.1, 1.1), (0.9, 1.0)]);
        check_unary(UnaryOp::Atan, dtype, 2.5, everywhere, &[(-5.0, 5.0), (-100.0, 100.0)]);
    }
}

/// All pairs of interesting numbers.
fn pairs(dtype: DType, numbers: &[f64]) -> (Vec<u64>, Vec<u64>) {
    let (mut xs, mut ys) = (Vec::new(), Vec::new());
    for &x in numbers {
        for &y in numbers {
            xs.push(evaluate::float_bits(dtype, x));
            ys.push(evaluate::float_bits(dtype, y));
        }
    }
    let len = xs.len().next_multiple_of(8);
    xs.resize(len, 0);
    ys.resize(len, 0);
    (xs, ys)
}

const NUMBERS: [f64; 42] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    -2.0,
    3.0,
    -3.0,
    0.5,
    -0.5,
    0.1,
    -0.1,
    1.5,
    2.5,
    -2.5,
    7.0,
    -7.0,
    10.0,
    100.25,
    -33.0,
    0.9999999,
    1.0000001,
    1e-3,
    1e3,
    1e10,
    -1e10,
    1e-10,
    16777216.0,
    16777217.0,
    4503599627370497.0,
    1e38,
    -1e38,
    1e-38,
    1e-45,
    3e-42,
    1e300,
    1e-310,
    709.0,
    -745.0,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
];

#[test]
fn pow_is_close() {
    for (dtype, bound) in [(DType::F32, 1.0), (DType::F64, 2.0)] {
        let types = [dtype, dtype, dtype];
        let kernel = legalize(&elementwise(&types, 8, |b, a| b.binary(BinaryOp::Pow, a[0], a[1])), &Caps::default());
        let (mut xs, mut ys) = pairs(dtype, &NUMBERS);
        for i in 0..8000 {
            xs.push(evaluate::float_bits(dtype, 0.01 + f64::from(i) * 0.0123));
            ys.push(evaluate::float_bits(dtype, -20.0 + f64::from(i % 419) * 0.1));
        }
        for fuse in [false, true] {
            let got = run(&kernel, &types, 8, &[&xs, &ys], fuse);
            for i in 0..xs.len() {
                let (x, y) = (evaluate::float_value(dtype, xs[i]), evaluate::float_value(dtype, ys[i]));
                let error = ulps(dtype, got[i], evaluate::binary_f64(BinaryOp::Pow, x, y));
                assert!(error <= bound, "pow({x:e}, {y:e}) of {dtype}: {error} ulp");
            }
        }
    }
}

#[test]
fn float_remainders_are_exact() {
    for dtype in [DType::F32, DType::F64] {
        for op in [BinaryOp::Rem, BinaryOp::Mod] {
            for lanes in [1, 8] {
                let types = [dtype, dtype, dtype];
                let kernel = legalize(&elementwise(&types, lanes, |b, a| b.binary(op, a[0], a[1])), &Caps::default());
                let (xs, ys) = pairs(dtype, &NUMBERS);
                let got = run(&kernel, &types, lanes, &[&xs, &ys], false);
                for i in 0..xs.len() {
                    let exact = evaluate::binary(op, dtype, xs[i], ys[i]);
                    let both_nan =
                        evaluate::float_value(dtype, exact).is_nan() && evaluate::float_value(dtype, got[i]).is_nan();
                    let (x, y) = (evaluate::float_value(dtype, xs[i]), evaluate::float_value(dtype, ys[i]));
                    assert!(
                        exact == got[i] || both_nan,
                        "{}({x:e}, {y:e}) of {dtype}: {:#x} for {exact:#x}",
                        op.name(),
                        got[i]
                    );
                }
            }
        }
    }
}

#[test]
fn integer_operators_keep_their_meaning() {
    let ops = [BinaryOp::Pow, BinaryOp::Mod, BinaryOp::Rem, BinaryOp::Div, BinaryOp::Shl, BinaryOp::Shr];
    for dtype in [DType::I64, DType::I32, DType::I8, DType::U8, DType::U32, DType::U64, DType::I16] {
        let (least, greatest) = evaluate::int_range(dtype);
        let mask = u64::MAX >> (64 - dtype.bits());
        let numbers: Vec<u64> = [0, 1, -1, 2, -2, 3, 7, 8, 31, 32, 63, 64, 100, -100, least, greatest, least + 1]
            .iter()
            .map(|&x| x as u64 & mask)
            .collect();
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        for &x in &numbers {
            for &y in &numbers {
                xs.push(x);
                ys.push(y);
            }
        }
        xs.resize(xs.len().next_multiple_of(4), 1);
        ys.resize(xs.len(), 1);
        for op in ops {
            let types = [dtype, dtype, dtype];
            let kernel = legalize(&elementwise(&types, 4, |b, a| b.binary(op, a[0], a[1])), &Caps::default());
            let got = run(&kernel, &types, 4, &[&xs, &ys], false);
            for i in 0..xs.len() {
                let exact = evaluate::binary(op, dtype, xs[i], ys[i]);
                assert_eq!(got[i], exact, "{} of {dtype} {:#x}, {:#x}", op.name(), xs[i], ys[i]);
            }
        }
    }
}

#[test]
fn casts_keep_their_meaning() {
    use DType::*;
    let all = [
        F64, F32, F16, BF16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0, I64, I32, I16, I8, U64, U32, U16, U8,
        Bool,
    ];
    for from in all {
        let mask = u64::MAX >> (64 - from.bits());
        let mut xs: Vec<u64> = if from.bits() <= 16 {
            (0..if from == Bool { 2 } else { 1 << from.bits() }).collect()
        } else if from.is_float() {
            samples(from, &[(-300.0, 300.0), (-70000.0, 70000.0), (-1e-4, 1e-4), (-1e10, 1e10)])
        } else {
            // The last ones lie beside the middle of two bf16 numbers.
            (0..64)
                .flat_map(|s| [1u64 << s, (1 << s) - 1, (1 << s) + 1, !(1 << s), 0x5555 << s])
                .chain((0..56).flat_map(|s| [0x101 << s, (0x101 << s) + 1, (0x103 << s) - 1, !(0x101 << s)]))
                .map(|x| x & mask)
                .collect()
        };
        xs.resize(xs.len().next_multiple_of(8), 0);
        for to in all {
            let types = [from, to];
            let kernel = elementwise(&types, 8, |b, a| b.cast(to, a[0]));
            let legal = legalize(&kernel, &Caps::default());
            for inst in legal.insts.values() {
                inst.results.iter().for_each(|&v| assert!(!narrow::is_narrow(legal.ty(v).dtype)));
            }
            let got = run(&legal, &types, 8, &[&xs], false);
            for (&x, &y) in xs.iter().zip(&got) {
                let exact = evaluate::cast(from, to, x);
                let is_nan = |bits| to.is_float() && evaluate::float_value(to, bits).is_nan();
                assert!(y == exact || is_nan(y) && is_nan(exact), "{from} {x:#x} to {to}: {y:#x} for {exact:#x}");
            }
        }
    }
}

#[test]
fn narrow_arithmetic_rounds_each_step() {
    for dtype in [DType::F16, DType::BF16] {
        let types = [dtype, dtype, dtype];
        let kernel = elementwise(&types, 8, |b, a| {
            let sum = b.binary(BinaryOp::Add, a[0], a[1]);
            let product = b.mul_add(sum, a[0], a[1], FmaMode::Separate);
            let less = b.compare(CmpOp::Lt, product, sum);
            let root = b.unary(UnaryOp::Neg, product);
            b.select(less, root, product)
        });
        let legal = legalize(&kernel, &Caps::default());
        let xs: Vec<u64> = (0..65536).map(|i: u64| (i * 40503) & 0xffff).collect();
        let ys: Vec<u64> = (0..65536).map(|i: u64| (i * 25173 + 13849) & 0xffff).collect();
        let got = run(&legal, &types, 8, &[&xs, &ys], false);
        let exact = run(&kernel, &types, 8, &[&xs, &ys], false);
        for i in 0..xs.len() {
            let is_nan = |bits| evaluate::float_value(dtype, bits).is_nan();
            assert!(got[i] == exact[i] || is_nan(got[i]) && is_nan(exact[i]), "{dtype}: {:#x}, {:#x}", xs[i], ys[i]);
        }
    }
}

#[test]
fn dot_products_are_exact_and_wrap() {
    let bytes: Vec<u8> = (0..64u32).map(|i| [0, 255, 128, 127, 1][(i * 7 % 5) as usize] ^ (i * 37 / 9) as u8).collect();
    let number = |dtype, byte: u8| if dtype == DType::I8 { i32::from(byte as i8) } else { i32::from(byte) };
    for (types, lanes) in [DType::I8, DType::U8]
        .into_iter()
        .flat_map(|x| [DType::I8, DType::U8].into_iter().flat_map(move |y| [1, 4, 8].map(|lanes| ([x, y], lanes))))
    {
        let mut b = KernelBuilder::new("test");
        let x = b.buffer("x", types[0], Access::Read, Some(64));
        let y = b.buffer("y", types[1], Access::Read, Some(64));
        let z = b.buffer("z", DType::I32, Access::Write, Some(16));
        b.task_loop(|b, task| {
            let at = Address::default().plus(task, Stride::Const(4 * i64::from(lanes)));
            let (words, word) = (b.load_words(x, at, lanes), b.load_word_splat(y, Address::at(9), lanes));
            let acc = b.constant(Scalar { dtype: DType::I32, bits: i32::MAX as u64 }, lanes);
            let sum = b.dot4(words, word, acc, types);
            b.store(z, Address::default().plus(task, Stride::Const(i64::from(lanes))), sum, None);
        });
        let kernel = b.finish();
        crate::loops::verify::verify(&kernel).unwrap_or_else(|e| panic!("{e}"));
        let expected: Vec<i32> = bytes
            .chunks(4)
            .map(|four| {
                let products = four.iter().zip(&bytes[9..13]).map(|(&p, &q)| number(types[0], p) * number(types[1], q));
                products.fold(i32::MAX, i32::wrapping_add)
            })
            .collect();
        let all = Caps { multiplies_bytes: true, ..Caps::default() };
        for kernel in [legalize(&kernel, &Caps::default()), legalize(&kernel, &all), kernel] {
            let mut regions = [bytes.clone(), bytes.clone(), vec![0; 64]];
            let mut regions = regions.each_mut().map(|r| &mut r[..]);
            crate::loops::interp::run_kernel(&kernel, &mut regions, &[], 0, 16 / i64::from(lanes), 0).expect("it runs");
            let got: Vec<i32> = regions[2].chunks(4).map(|c| i32::from_le_bytes(c.try_into().expect("four"))).collect();
            assert_eq!(got, expected, "{types:?} {lanes}\n{kernel}");
        }
    }
}

#[test]
fn words_stay_inside_of_their_buffer() {
    let mut b = KernelBuilder::new("test");
    let x = b.buffer("x", DType::U8, Access::Read, Some(18));
    let z = b.buffer("z", DType::I32, Access::Write, Some(4));
    b.task_loop(|b, task| {
        let words = b.load_words(x, Address::default().plus(task, Stride::Const(1)), 4);
        b.store(z, Address::at(0), words, None);
    });
    let kernel = b.finish();
    for kernel in [legalize(&kernel, &Caps::default()), kernel] {
        let run = |first| {
            let (mut x, mut z) = ([7; 18], [0; 16]);
            crate::loops::interp::run_kernel(&kernel, &mut [&mut x, &mut z], &[], first, first + 1, 0)
        };
        assert!(run(2).is_ok() && run(3).is_err());
    }
}

#[test]
fn unrolled_loops_become_constant_addresses() {
    let mut b = KernelBuilder::new("test");
    let x = b.buffer("x", DType::F32, Access::Read, Some(12));
    let y = b.buffer("y", DType::F32, Access::Write, Some(1));
    b.task_loop(|b, _| {
        let zero = b.constant(Scalar::f32(0.0), 1);
        let sum = b.for_(LoopKind::Unrolled, 0.into(), 12.into(), 4, &[zero], |b, i, carried| {
            let v = b.load(x, Address::default().plus(i, Stride::Const(1)).offset_by(3), 1, None);
            vec![b.binary(BinaryOp::Add, carried[0], v)]
        });
        b.store(y, Address::at(0), sum[0], None);
    });
    let legal = legalize(&b.finish(), &Caps::default());
    let offsets: Vec<i64> = legal
        .insts
        .values()
        .filter_map(|i| match &i.data {
            InstData::Load { address, .. } if address.terms.is_empty() => Some(address.offset),
            _ => None,
        })
        .collect();
    assert_eq!(offsets, [3, 7, 11]);
    let mut input: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let mut output = [0; 4];
    crate::loops::interp::run_kernel(&legal, &mut [&mut input, &mut output], &[], 0, 1, 0).expect("it runs");
    assert_eq!(f32::from_le_bytes(output), 21.0);
}
