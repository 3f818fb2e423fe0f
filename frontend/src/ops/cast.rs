//! Conversions between element types.

use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::{BinaryOp, ExprIndex, Scalar};
use onnxc_ir::strings::StringFunction;
use onnxc_ir::tensor::Value;
use onnxc_ir::tensor::build::{BuildError, ExprBuilder};

use super::{Operator, text};
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    Operator::onnx("Cast", &[1, 6, 9, 13, 19, 21, 23, 24, 25, 28], (1, 1), cast),
    Operator::onnx("CastLike", &[15, 19, 21, 23, 24, 25], (2, 2), |cx| {
        let (x, like) = (cx.input(0)?, cx.input(1)?);
        let to = cx.b.dtype(like)?;
        Ok(vec![convert(cx, x, to)?])
    }),
    Operator::onnx("BitCast", &[26], (1, 1), bit_cast),
    Operator::onnx("Identity", &[1, 13, 14, 16, 19, 21, 23, 24, 25], (1, 1), |cx| Ok(vec![cx.input(0)?])),
];

/// In opset 1 `to` is the type's name.
fn cast(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let to = if cx.version < 6 && cx.int_opt("to").is_none_or(|n| n == 0) {
        let name = cx.text("to")?.unwrap_or_default();
        name_to_dtype(name)
    } else {
        cx.dtype("to")?
    };
    let Some(to) = to else { return cx.invalid("attribute `to` is missing") };
    Ok(vec![convert(cx, x, to)?])
}

fn name_to_dtype(name: &str) -> Option<DType> {
    Some(match name.to_ascii_uppercase().as_str() {
        "FLOAT" => DType::F32,
        "DOUBLE" => DType::F64,
        "FLOAT16" => DType::F16,
        "INT64" => DType::I64,
        "INT32" => DType::I32,
        "INT16" => DType::I16,
        "INT8" => DType::I8,
        "UINT64" => DType::U64,
        "UINT32" => DType::U32,
        "UINT16" => DType::U16,
        "UINT8" => DType::U8,
        "BOOL" => DType::Bool,
        "STRING" => DType::String,
        _ => return None,
    })
}

/// Conversion as the node's attributes ask.
fn convert(cx: &mut NodeContext<'_>, x: Value, to: DType) -> Result<Value, OpError> {
    let from = cx.b.dtype(x)?;
    if from != to && (from == DType::String || to == DType::String) {
        return if from == DType::String { parsed(cx, x, to) } else { written(cx, x) };
    }
    for dtype in [from, to] {
        if matches!(dtype, DType::C64 | DType::C128) {
            return cx.unsupported(format!("conversion of {from} to {to}"));
        }
    }
    let rounding = match cx.text("round_mode")? {
        None | Some("up") => ExponentRounding::Up,
        Some("down") => ExponentRounding::Down,
        Some("nearest") => ExponentRounding::Nearest,
        Some(other) => return cx.invalid(format!("round_mode `{other}`")),
    };
    let saturate = cx.flag("saturate", true);
    Ok(cast_with(cx, x, to, saturate, rounding)?)
}

/// The numbers that strings state.
fn parsed(cx: &mut NodeContext<'_>, x: Value, to: DType) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    let (function, wide) = match to {
        _ if to.is_float() => (StringFunction::ParseFloat, DType::F64),
        _ if to.is_int() || to == DType::Bool => (StringFunction::ParseInt, DType::I64),
        _ => return cx.unsupported(format!("conversion of strings to {to}")),
    };
    let numbers = text::call(cx, function, &[x], wide, &shape)?;
    Ok(cx.b.cast(numbers, to)?)
}

/// Numbers as strings.
fn written(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, OpError> {
    let (shape, from) = (cx.b.shape(x)?, cx.b.dtype(x)?);
    let (function, wide) = match from {
        DType::F64 | DType::F32 => (StringFunction::FormatFloat, from),
        _ if from.is_float() => (StringFunction::FormatFloat, DType::F32),
        _ if from.is_unsigned_int() => (StringFunction::FormatInt, DType::U64),
        _ if from.is_int() || from == DType::Bool => (StringFunction::FormatInt, DType::I64),
        _ => return cx.unsupported(format!("conversion of {from} to strings")),
    };
    let x = cx.b.cast(x, wide)?;
    text::call(cx, function, &[x], DType::String, &shape)
}

/// How a number becomes a power of two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExponentRounding {
    Up,
    Down,
    Nearest,
}

fn cast_with(
    cx: &mut NodeContext<'_>,
    x: Value,
    to: DType,
    saturate: bool,
    rounding: ExponentRounding,
) -> Result<Value, BuildError> {
    let from = cx.b.dtype(x)?;
    if to == DType::F8E8M0 && from != to {
        return cx.b.map(&[x], |e| {
            let x = e.arg(0);
            let x = if from == DType::F32 { x } else { e.cast(DType::F32, x) };
            to_power_of_two(e, x, saturate, rounding)
        });
    }
    if from.is_float() && to.is_int() && to.bits() < 8 {
        // What is out of range wraps, as in the conversions of integers.
        let wide = cx.b.cast(x, DType::I32)?;
        return cx.b.cast(wide, to);
    }
    if to == DType::F4E2M1 && from.is_float() && from != to {
        return to_float4(cx, x);
    }
    if saturate || Overflow::of(to).is_none() {
        return cx.b.cast(x, to);
    }
    saturating_off(cx, x, to)
}

/// Conversion where what is too great becomes infinity, or NaN where there is none.
pub(super) fn saturating_off(cx: &mut NodeContext<'_>, x: Value, to: DType) -> Result<Value, BuildError> {
    let from = cx.b.dtype(x)?;
    let Some(overflow) = Overflow::of(to).filter(|_| from != to) else { return cx.b.cast(x, to) };
    cx.b.map(&[x], |e| {
        let x = e.arg(0);
        // Rounding to `f32` first would round `f64` twice.
        let by = if from == DType::F64 { DType::F64 } else { DType::F32 };
        let wide = if from == by { x } else { e.cast(by, x) };
        let zero = e.number(by, 0.0)?;
        let limit = e.number(by, overflow.least)?;
        let (magnitude, negative) = (e.abs(wide), e.lt(wide, zero));
        let outside = if overflow.or_equal { e.ge(magnitude, limit) } else { e.gt(magnitude, limit) };
        let constant = |e: &mut ExprBuilder, bits| e.constant(Scalar { dtype: to, bits });
        let (plus, minus) = (constant(e, overflow.positive), constant(e, overflow.negative));
        let beyond = e.select(negative, minus, plus);
        let rounded = e.cast(to, wide);
        Ok(e.select(outside, beyond, rounded))
    })
}

/// `f4e2m1` has no NaN: it becomes negative zero, as in the reference implementation.
fn to_float4(cx: &mut NodeContext<'_>, x: Value) -> Result<Value, BuildError> {
    cx.b.map(&[x], |e| {
        let wide = e.arg(0);
        let negative_zero = e.constant(Scalar { dtype: DType::F4E2M1, bits: 0x8 });
        let (nan, rounded) = (e.ne(wide, wide), e.cast(DType::F4E2M1, wide));
        Ok(e.select(nan, negative_zero, rounded))
    })
}

/// From which magnitude on a number rounds to more than a type's greatest, and what it becomes without saturation.
struct Overflow {
    least: f64,
    /// Whether the limit itself does, as halves go to the even number.
    or_equal: bool,
    positive: u64,
    negative: u64,
}

impl Overflow {
    fn of(dtype: DType) -> Option<Overflow> {
        let overflow = |least, or_equal, positive, negative| Some(Overflow { least, or_equal, positive, negative });
        match dtype {
            // 464 lies between 448 and 480 and rounds to the even 448.
            DType::F8E4M3FN => overflow(464.0, false, 0x7f, 0xff),
            DType::F8E4M3FNUZ => overflow(248.0, true, 0x80, 0x80),
            DType::F8E5M2 => overflow(61440.0, true, 0x7c, 0xfc),
            DType::F8E5M2FNUZ => overflow(61440.0, true, 0x80, 0x80),
            _ => None,
        }
    }
}

/// The exponent of an `f32` as `f8e8m0`, which has nothing else: 2^-127 to 2^127, and NaN.
fn to_power_of_two(
    e: &mut ExprBuilder,
    x: ExprIndex,
    saturate: bool,
    rounding: ExponentRounding,
) -> Result<ExprIndex, BuildError> {
    const NAN: i64 = 255;
    let int = DType::I32;
    let bits = e.bitcast(int, x);
    let (exponent_mask, mantissa_mask) = (e.number(int, 255.0)?, e.number(int, f64::from((1 << 23) - 1))?);
    let shift = e.number(int, 23.0)?;
    let shifted = e.binary(BinaryOp::Shr, bits, shift);
    let exponent = e.and(shifted, exponent_mask);
    let mantissa = e.and(bits, mantissa_mask);
    let (zero, one) = (e.number(int, 0.0)?, e.number(int, 1.0)?);
    // Subnormal numbers are 2^-127 times a mantissa whose first bit stands for 2^-127 itself.
    let half = e.number(int, f64::from(1 << 22))?;
    let subnormal = e.eq(exponent, zero);
    let up = match rounding {
        ExponentRounding::Down => e.constant(Scalar::bool(false)),
        ExponentRounding::Up => {
            let threshold = e.select(subnormal, half, zero);
            e.gt(mantissa, threshold)
        }
        ExponentRounding::Nearest => {
            let three_halves = e.number(int, f64::from((1 << 22) + (1 << 21)))?;
            let threshold = e.select(subnormal, three_halves, half);
            e.ge(mantissa, threshold)
        }
    };
    let next = e.add(exponent, one);
    let mut power = e.select(up, next, exponent);
    let greatest = e.number(int, 254.0)?;
    let nan = e.number(int, NAN as f64)?;
    if saturate {
        power = e.min(power, greatest);
    } else {
        let least = e.number(DType::F32, 2f64.powi(-127))?;
        let magnitude = e.abs(x);
        let below = e.lt(magnitude, least);
        power = e.min(power, nan);
        power = e.select(below, nan, power);
    }
    let is_nan = e.ne(x, x);
    power = e.select(is_nan, nan, power);
    let byte = e.cast(DType::U8, power);
    Ok(e.bitcast(DType::F8E8M0, byte))
}

/// Types of equal width only.
fn bit_cast(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    let Some(to) = cx.dtype("to")? else { return cx.invalid("attribute `to` is missing") };
    let from = cx.b.dtype(x)?;
    if from.bits() != to.bits() || to == DType::String {
        return cx.invalid(format!("the bits of {from} as {to}"));
    }
    Ok(vec![cx.b.map(&[x], |e| {
        let x = e.arg(0);
        Ok(e.bitcast(to, x))
    })?])
}

#[cfg(test)]
mod tests {
    use onnxc_ir::dtype::DType;
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::test_model::TestModel;
    use crate::proto::dtype_to_onnx;

    /// The bits that numbers become in an 8-bit type.
    fn cast(from: DType, to: DType, saturate: i64, numbers: &[f64]) -> Vec<u8> {
        let bits = |x: f64| onnxc_ir::evaluate::float_bits(from, x).to_le_bytes()[..from.bits() as usize / 8].to_vec();
        let shape = [numbers.len() as i64];
        let bytes: Vec<u8> = numbers.iter().flat_map(|&x| bits(x)).collect();
        let x = TensorBytes { dtype: from, shape: shape.as_slice().into(), bytes: bytes.into() };
        let model = TestModel::new("Cast", 19).int("to", dtype_to_onnx(to).into()).int("saturate", saturate);
        model.declared(&shape, x).run_all()[0].bytes.to_vec()
    }

    #[test]
    fn too_great_numbers_saturate_or_do_not() {
        let inf = f64::INFINITY;
        let numbers = [464.0, -464.5, 248.0, 247.5, 61440.0, -61408.0, inf, -inf];
        for from in [DType::F64, DType::F32] {
            let of = |to, saturate| cast(from, to, saturate, &numbers);
            assert_eq!(of(DType::F8E4M3FN, 1), [0x7e, 0xfe, 0x78, 0x77, 0x7e, 0xfe, 0x7e, 0xfe], "{from}");
            assert_eq!(of(DType::F8E4M3FN, 0), [0x7e, 0xff, 0x78, 0x77, 0x7f, 0xff, 0x7f, 0xff], "{from}");
            assert_eq!(of(DType::F8E4M3FNUZ, 1), [0x7f, 0xff, 0x7f, 0x7f, 0x7f, 0xff, 0x7f, 0xff], "{from}");
            assert_eq!(of(DType::F8E4M3FNUZ, 0), [0x80, 0x80, 0x80, 0x7f, 0x80, 0x80, 0x80, 0x80], "{from}");
            assert_eq!(of(DType::F8E5M2, 1)[4..], [0x7b, 0xfb, 0x7b, 0xfb], "{from}");
            assert_eq!(of(DType::F8E5M2, 0)[4..], [0x7c, 0xfb, 0x7c, 0xfc], "{from}");
            assert_eq!(of(DType::F8E5M2FNUZ, 1)[4..], [0x7f, 0xff, 0x7f, 0xff], "{from}");
            assert_eq!(of(DType::F8E5M2FNUZ, 0)[4..], [0x80, 0xff, 0x80, 0x80], "{from}");
        }
    }

    #[test]
    fn double_precision_is_rounded_once() {
        // Each is beside the middle of two numbers, and in the middle as `f32`.
        let numbers = [464.0 + 1e-10, 248.0 - 1e-10, 1.0625 + 1e-12, 1.1875 - 1e-12];
        let of = |saturate| cast(DType::F64, DType::F8E4M3FN, saturate, &numbers);
        assert_eq!(of(1), [0x7e, 0x77, 0x39, 0x39]);
        assert_eq!(of(0), [0x7f, 0x77, 0x39, 0x39]);
        let numbers = [248.0 - 1e-10, 61440.0 - 1e-10];
        assert_eq!(cast(DType::F64, DType::F8E4M3FNUZ, 0, &numbers), [0x7f, 0x80]);
        assert_eq!(cast(DType::F64, DType::F8E5M2, 0, &numbers)[1], 0x7b);
    }
}
