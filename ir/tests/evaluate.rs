//! The exact results of scalar evaluation: rounding, ties, overflow, NaN and signs of each element type.

use onnxc_ir::dtype::DType::{self, *};
use onnxc_ir::evaluate::{binary, cast, compare, float_bits, float_value, int_range, int_value, unary};
use onnxc_ir::scalar::{BinaryOp, CmpOp, UnaryOp};

const SMALL: [DType; 8] = [F16, BF16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0, F4E2M1];
const INTEGERS: [DType; 12] = [I64, I32, I16, I8, I4, I2, U64, U32, U16, U8, U4, U2];
const INF: f64 = f64::INFINITY;

fn mask(dtype: DType) -> u64 {
    u64::MAX >> (64 - dtype.bits())
}

/// Numbers and the bits that they round to.
const ROUNDED: &[(DType, &[(f64, u64)])] = &[
    (
        F16,
        &[
            (1.0, 0x3c00),
            (-0.0, 0x8000),
            (65504.0, 0x7bff),
            (65519.9, 0x7bff),
            (65520.0, 0x7c00),
            (-1e300, 0xfc00),
            (INF, 0x7c00),
            (6.103515625e-5, 0x0400),
            (5.960464477539063e-8, 0x0001),
            (2.9802322387695312e-8, 0x0000),
            (2.98023223876954e-8, 0x0001),
            (1.0 + 1.0 / 2048.0, 0x3c00),
            (1.0 + 3.0 / 2048.0, 0x3c02),
            (1.0 + 1.0 / 2048.0 + 1e-15, 0x3c01),
        ],
    ),
    (
        BF16,
        &[
            (1.0, 0x3f80),
            (-2.0, 0xc000),
            (3.3895313892515355e38, 0x7f7f),
            (3.4e38, 0x7f80),
            (1.0 + 1.0 / 256.0, 0x3f80),
            (1.0 + 3.0 / 256.0, 0x3f82),
            (9.183549615799121e-41, 0x0001),
        ],
    ),
    (
        F8E4M3FN,
        &[
            (1.0, 0x38),
            (448.0, 0x7e),
            (464.0, 0x7e),
            (1e9, 0x7e),
            (-INF, 0xfe),
            (0.015625, 0x08),
            (0.001953125, 0x01),
            (0.0009765625, 0x00),
            (0.00097657, 0x01),
            (-0.0, 0x80),
            (1.0625, 0x38),
            (1.1875, 0x3a),
        ],
    ),
    (F8E4M3FNUZ, &[(1.0, 0x40), (240.0, 0x7f), (1e9, 0x7f), (-1e9, 0xff), (-0.0, 0x00), (-1e-9, 0x00)]),
    (F8E5M2, &[(1.0, 0x3c), (57344.0, 0x7b), (INF, 0x7b), (-1e9, 0xfb), (1.52587890625e-5, 0x01), (1.125, 0x3c)]),
    (F8E5M2FNUZ, &[(1.0, 0x40), (57344.0, 0x7f), (-INF, 0xff), (-0.0, 0x00), (7.62939453125e-6, 0x01)]),
    (F8E8M0, &[(1.0, 0x7f), (2.0, 0x80), (1.5, 0x80), (1.49, 0x7f), (1e-300, 0x00), (INF, 0xfe)]),
    (
        F4E2M1,
        &[
            (0.0, 0x0),
            (-0.0, 0x8),
            (0.25, 0x0),
            (0.26, 0x1),
            (0.75, 0x2),
            (1.25, 0x2),
            (1.75, 0x4),
            (2.5, 0x4),
            (3.5, 0x6),
            (5.0, 0x6),
            (5.1, 0x7),
            (100.0, 0x7),
            (-INF, 0xf),
        ],
    ),
];

#[test]
fn numbers_and_their_bits() {
    for (dtype, rows) in ROUNDED {
        for &(number, bits) in *rows {
            assert_eq!(float_bits(*dtype, number), bits, "{number} as {dtype}");
        }
    }
    assert!(float_value(F8E4M3FNUZ, 0x80).is_nan() && float_value(F8E8M0, 0xff).is_nan());
    assert_eq!((float_bits(F4E2M1, f64::NAN), float_bits(F4E2M1, -f64::NAN)), (0x7, 0x7));
    assert_eq!((float_value(F8E5M2, 0xfc), float_value(F4E2M1, 0xf)), (-INF, -6.0));
}

#[test]
fn every_pattern_comes_back() {
    for dtype in SMALL {
        for bits in 0..=mask(dtype) {
            let number = float_value(dtype, bits);
            let back = float_bits(dtype, number);
            if number.is_nan() {
                assert!(float_value(dtype, back).is_nan(), "{dtype} {bits:#x}");
            } else if dtype == F8E5M2 && number.is_infinite() {
                assert_eq!(float_value(dtype, back), 57344f64.copysign(number), "8-bit floats saturate");
            } else {
                assert_eq!(back, bits, "{dtype} {bits:#x} is {number}");
            }
        }
    }
}

#[test]
fn rounding_takes_the_nearest() {
    // Powers of two alone round halves up.
    for dtype in SMALL.into_iter().filter(|&d| d != F8E8M0) {
        for bits in 0..mask(dtype) >> 1 {
            let (low, high) = (float_value(dtype, bits), float_value(dtype, bits + 1));
            if !low.is_finite() || !high.is_finite() {
                continue;
            }
            let middle = low + (high - low) / 2.0;
            assert_eq!(float_bits(dtype, middle), bits + bits % 2, "{dtype} {middle}");
            assert_eq!(float_bits(dtype, middle.next_down()), bits, "{dtype} below {middle}");
            assert_eq!(float_bits(dtype, middle.next_up()), bits + 1, "{dtype} above {middle}");
        }
    }
}

#[test]
fn floats_become_integers_truncated_and_saturated() {
    for to in INTEGERS {
        let (least, greatest) = int_range(to);
        let of = |x: f64| int_value(to, cast(F64, to, x.to_bits()));
        assert_eq!((of(f64::NAN), of(0.999), of(-0.999)), (0, 0, 0), "{to}");
        assert_eq!((of(INF), of(-INF)), (greatest, least), "{to}");
        assert_eq!((of(1.9), of(-1.9)), (1, least.max(-1)), "{to}");
        assert_eq!((of(1e300), of(greatest as f64 + 1.0)), (greatest, greatest), "{to}");
    }
    for (x, truth) in [(0.1f32, 1), (-0.0, 0), (f32::NAN, 1)] {
        assert_eq!(cast(F32, Bool, u64::from(x.to_bits())), truth, "{x}");
    }
}

#[test]
fn integers_wrap() {
    for from in INTEGERS {
        for to in INTEGERS {
            for x in [0u64, 1, 2, 5, 0x7f, 0x80, 0x1234_5678_9abc_def0, u64::MAX].map(|x| x & mask(from)) {
                let wrapped = int_value(to, cast(from, to, x));
                let (least, greatest) = int_range(to);
                assert!((least..=greatest).contains(&wrapped), "{from} {x} to {to}");
                assert_eq!((wrapped - int_value(from, x)) % (1i128 << to.bits()), 0, "{from} {x} to {to}");
            }
        }
    }
    assert_eq!((cast(I8, U64, 0xff), cast(I4, I32, 0xf)), (u64::MAX, 0xffff_ffff));
}

#[test]
fn integers_become_floats_rounded_once() {
    let bf16 = |x: i64| float_value(BF16, cast(I64, BF16, x as u64));
    let (low, high) = (1i64 << 62, (1i64 << 62) + (1 << 55));
    let tie = low + (1 << 54);
    // The last bit is behind the 53 of f64 and decides.
    assert_eq!([tie - 1, tie, tie + 1, -tie - 1].map(bf16), [low, low, high, -high].map(|x| x as f64));
    assert_eq!(bf16(i64::MAX), 2f64.powi(63));
    assert_eq!(float_value(BF16, cast(U64, BF16, (0x101 << 55) + 1)), 258.0 * 2f64.powi(55));
    let f32_of = |x: i64| f32::from_bits(cast(I64, F32, x as u64) as u32);
    assert_eq!((f32_of((1 << 24) + 1), f32_of((1 << 24) + 3)), (16_777_216.0, 16_777_220.0));
    assert_eq!(f32_of((1 << 60) + (1 << 36) + 1), ((1i64 << 60) + (1 << 37)) as f32);
    assert_eq!((cast(I64, F16, 65519), cast(I64, F16, 65520)), (0x7bff, 0x7c00));
    assert_eq!(cast(U64, F64, u64::MAX), 2f64.powi(64).to_bits());
    assert_eq!(cast(F64, BF16, (1.0 + 1.0 / 256.0 + 1e-12f64).to_bits()), 0x3f81);
    assert_eq!(cast(I32, F4E2M1, 5), 0x6);
}

#[test]
fn integer_operators_do_not_trap() {
    for t in INTEGERS {
        let (least, greatest) = int_range(t);
        let bits = |x: i128| x as u64 & mask(t);
        let of = |op, a: i128, b: i128| int_value(t, binary(op, t, bits(a), bits(b)));
        for op in [BinaryOp::Div, BinaryOp::Rem, BinaryOp::Mod] {
            assert_eq!(of(op, 1, 0), 0, "{} of {t} by 0", op.name());
        }
        assert_eq!((of(BinaryOp::Add, greatest, 1), of(BinaryOp::Sub, least, 1)), (least, greatest), "{t}");
        if t.is_signed_int() {
            assert_eq!(of(BinaryOp::Div, least, -1), least, "{t}");
            assert_eq!((of(BinaryOp::Rem, least, -1), of(BinaryOp::Mod, least, -1)), (0, 0), "{t}");
            assert_eq!(int_value(t, unary(UnaryOp::Abs, t, bits(least))), least, "{t}");
            assert_eq!(int_value(t, unary(UnaryOp::Neg, t, bits(least))), least, "{t}");
            assert_eq!(of(BinaryOp::Shr, -1, 1), -1, "{t}");
        } else {
            assert_eq!(of(BinaryOp::Shr, greatest, 1), greatest / 2, "{t}");
        }
    }
    let i32s = |op, a: i32, b: i32| binary(op, I32, u64::from(a as u32), u64::from(b as u32)) as u32 as i32;
    assert_eq!((i32s(BinaryOp::Rem, -7, 3), i32s(BinaryOp::Mod, -7, 3), i32s(BinaryOp::Mod, 7, -3)), (-1, 2, -2));
    assert_eq!((i32s(BinaryOp::Pow, 3, 4), i32s(BinaryOp::Pow, 2, -1), i32s(BinaryOp::Pow, -1, -3)), (81, 0, -1));
    assert_eq!(
        (i32s(BinaryOp::Shl, 1, 32), i32s(BinaryOp::Shr, -8, 99), i32s(BinaryOp::Shl, 3, 31)),
        (0, -1, i32::MIN)
    );
    assert_eq!((binary(BinaryOp::Shr, U8, 0x80, 8), binary(BinaryOp::Shl, I4, 7, 1)), (0, 0xe));
}

#[test]
fn float_operators_keep_nans_and_signs() {
    for t in [F64, F32, F16, BF16] {
        let of = |op, a: f64, b: f64| float_value(t, binary(op, t, float_bits(t, a), float_bits(t, b)));
        for op in [BinaryOp::Min, BinaryOp::Max] {
            assert!(of(op, f64::NAN, 1.0).is_nan() && of(op, 1.0, f64::NAN).is_nan(), "{} of {t}", op.name());
        }
        assert!(of(BinaryOp::Min, 0.0, -0.0).is_sign_negative() && of(BinaryOp::Min, -0.0, 0.0).is_sign_negative());
        assert!(of(BinaryOp::Max, 0.0, -0.0).is_sign_positive() && of(BinaryOp::Max, -0.0, 0.0).is_sign_positive());
        assert_eq!(of(BinaryOp::Div, 1.0, -0.0), -INF, "{t}");
        assert!(of(BinaryOp::Div, 0.0, 0.0).is_nan() && of(BinaryOp::Rem, 1.0, 0.0).is_nan(), "{t}");
        assert_eq!((of(BinaryOp::Rem, -7.0, 3.0), of(BinaryOp::Mod, -7.0, 3.0)), (-1.0, 2.0), "{t}");
        assert!(of(BinaryOp::Mod, -6.0, 3.0).is_sign_positive() && of(BinaryOp::Mod, 6.0, -3.0).is_sign_negative());
        let one = |op, a: f64| float_value(t, unary(op, t, float_bits(t, a)));
        assert_eq!([0.5, 1.5, 2.5, -2.5].map(|x| one(UnaryOp::Round, x)), [0.0, 2.0, 2.0, -2.0], "{t}");
        assert!(one(UnaryOp::Round, -0.2).is_sign_negative() && one(UnaryOp::Ceil, -0.2).is_sign_negative(), "{t}");
        assert!(one(UnaryOp::Sqrt, -1.0).is_nan() && one(UnaryOp::Log, -1.0).is_nan(), "{t}");
        assert_eq!(one(UnaryOp::Log, 0.0), -INF, "{t}");
        let holds = |op, a: f64, b: f64| compare(op, t, float_bits(t, a), float_bits(t, b));
        for &op in CmpOp::ALL {
            assert_eq!(holds(op, f64::NAN, f64::NAN), op == CmpOp::Ne, "{} of {t}", op.name());
        }
        assert!(holds(CmpOp::Eq, 0.0, -0.0) && !holds(CmpOp::Lt, -0.0, 0.0), "{t}");
    }
    // Each step of a narrow type is computed in f32 and rounded.
    assert_eq!(binary(BinaryOp::Add, BF16, float_bits(BF16, 256.0), float_bits(BF16, 1.0)), float_bits(BF16, 256.0));
    assert_eq!(binary(BinaryOp::Add, F16, float_bits(F16, 65504.0), float_bits(F16, 16.0)), 0x7c00);
    assert_eq!(binary(BinaryOp::Add, F4E2M1, 0x7, 0x7), 0x7);
}

#[test]
fn booleans() {
    let all = |op| [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| binary(op, Bool, a, b));
    assert_eq!((all(BinaryOp::And), all(BinaryOp::Min)), ([0, 0, 0, 1], [0, 0, 0, 1]));
    assert_eq!((all(BinaryOp::Or), all(BinaryOp::Max)), ([0, 1, 1, 1], [0, 1, 1, 1]));
    assert_eq!((all(BinaryOp::Xor), unary(UnaryOp::Not, Bool, 7)), ([0, 1, 1, 0], 0));
    assert_eq!((int_value(Bool, 9), cast(Bool, F32, 1)), (1, u64::from(1f32.to_bits())));
}
