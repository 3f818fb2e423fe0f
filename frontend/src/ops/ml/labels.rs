//! Tables from keys to values, and one-hot vectors. Strings are numbers of a table.

use bytes::Bytes;
use onnxc_ir::dim::Dim;
use onnxc_ir::dtype::DType;
use onnxc_ir::scalar::Scalar;
use onnxc_ir::tensor::op::Coord;
use onnxc_ir::tensor::{TensorBytes, Value};

use super::super::Operator;
use super::row;
use crate::import::{NodeContext, OpError, OpResult};

/// The rows of this family.
pub(super) const OPERATORS: &[Operator] = &[
    row("CastMap", &[1], (1, 1), |cx| cx.unsupported(MAPS)),
    row("CategoryMapper", &[1], (1, 1), category_mapper),
    row("DictVectorizer", &[1], (1, 1), |cx| cx.unsupported(MAPS)),
    row("LabelEncoder", &[1, 2, 4], (1, 1), label_encoder),
    row("OneHotEncoder", &[1], (1, 1), one_hot_encoder),
    row("ZipMap", &[1], (1, 1), |cx| cx.unsupported(MAPS)),
];

const MAPS: &str =
    "maps: neither ports nor values of a compiled model can be one; use the tensor that the map is made from";

/// A list of numbers or strings given as an attribute of one of several types.
fn table(cx: &mut NodeContext<'_>, role: &str) -> Result<Option<TensorBytes>, OpError> {
    if let Some(strings) = cx.attribute(&format!("{role}_strings")) {
        return Ok(Some(texts(cx, &strings.strings)));
    }
    if let Some(data) = cx.tensor(&format!("{role}_tensor"))? {
        return Ok(Some(data.to_constant(&mut cx.b.graph.strings)));
    }
    if let Some(ints) = cx.ints(&format!("{role}_int64s")) {
        return Ok(Some(TensorBytes::from_i64(&[ints.len() as i64], ints)));
    }
    Ok(cx.floats(&format!("{role}_floats")).map(|floats| TensorBytes::from_f32(&[floats.len() as i64], floats)))
}

/// The numbers of strings.
fn texts(cx: &mut NodeContext<'_>, strings: &[Bytes]) -> TensorBytes {
    cx.b.graph.strings.numbers(&[strings.len() as i64], strings.iter().map(|s| &s[..]))
}

/// The elements as scalars.
fn scalars(tensor: &TensorBytes) -> Vec<Scalar> {
    let size = tensor.dtype.bits() as usize / 8;
    let scalar = |bytes: &[u8]| {
        let mut bits = [0; 8];
        bits[..size].copy_from_slice(bytes);
        Scalar { dtype: tensor.dtype, bits: u64::from_le_bytes(bits) }
    };
    tensor.bytes.chunks_exact(size).map(scalar).collect()
}

/// The order of keys as numbers. NaN comes last.
fn order(key: Scalar) -> impl Ord {
    // Positive floats are ordered like their bits, negative ones against them.
    let float = |sign: u64, bits: u64| if bits & sign != 0 { -((bits & (sign - 1)) as i128) } else { i128::from(bits) };
    match key.dtype {
        DType::F32 => float(1 << 31, key.bits),
        DType::F64 => float(1 << 63, key.bits),
        DType::String => i128::from(key.bits),
        _ => i128::from(key.as_i64().unwrap_or(0)),
    }
}

fn is_nan(key: Scalar) -> bool {
    match key.dtype {
        DType::F32 => f32::from_bits(key.bits as u32).is_nan(),
        DType::F64 => f64::from_bits(key.bits).is_nan(),
        _ => false,
    }
}

fn default_value(cx: &mut NodeContext<'_>, dtype: DType) -> Result<Scalar, OpError> {
    if let Some(data) = cx.tensor("default_tensor")? {
        let tensor = data.to_constant(&mut cx.b.graph.strings);
        return match scalars(&tensor)[..] {
            [scalar] if scalar.dtype == dtype => Ok(scalar),
            _ => cx.invalid("attribute `default_tensor` is not one element of the type of the values"),
        };
    }
    if dtype == DType::String {
        return Ok(default_string(cx));
    }
    let number =
        if dtype.is_float() { f64::from(cx.float("default_float", -0.0)) } else { cx.int("default_int64", -1) as f64 };
    Scalar::number(dtype, number).ok_or_else(|| OpError::Unsupported(format!("values of type {dtype}")))
}

fn default_string(cx: &mut NodeContext<'_>) -> Scalar {
    let text = cx.attribute("default_string").and_then(|a| a.s.clone());
    let text = text.unwrap_or_else(|| Bytes::from_static(b"_Unused"));
    Scalar { dtype: DType::String, bits: cx.b.graph.strings.number(&text) }
}

/// Classes that are strings, each with its number.
fn category_mapper(cx: &mut NodeContext<'_>) -> OpResult {
    let names = cx.attribute("cats_strings").map(|a| a.strings.clone()).unwrap_or_default();
    let numbers = cx.ints("cats_int64s").unwrap_or_default();
    let (names, numbers) = (texts(cx, &names), TensorBytes::from_i64(&[numbers.len() as i64], numbers));
    map_names(cx, names, numbers)
}

/// Strings become their numbers, and numbers strings.
fn map_names(cx: &mut NodeContext<'_>, names: TensorBytes, numbers: TensorBytes) -> OpResult {
    let x = cx.input(0)?;
    if cx.b.dtype(x)? == DType::String { encode(cx, x, &names, &numbers) } else { encode(cx, x, &numbers, &names) }
}

fn label_encoder(cx: &mut NodeContext<'_>) -> OpResult {
    let x = cx.input(0)?;
    if cx.version < 2 {
        let names = cx.attribute("classes_strings").map(|a| a.strings.clone()).unwrap_or_default();
        let numbers: Vec<i64> = (0..names.len() as i64).collect();
        let names = texts(cx, &names);
        return map_names(cx, names, TensorBytes::from_i64(&[numbers.len() as i64], &numbers));
    }
    let (Some(keys), Some(values)) = (table(cx, "keys")?, table(cx, "values")?) else {
        return cx.invalid("keys or values are missing");
    };
    encode(cx, x, &keys, &values)
}

fn encode(cx: &mut NodeContext<'_>, x: Value, keys: &TensorBytes, values: &TensorBytes) -> OpResult {
    if keys.len() != values.len() {
        return cx.invalid(format!("{} keys for {} values", keys.len(), values.len()));
    }
    let plain = |t: DType| t.is_int() || matches!(t, DType::F32 | DType::F64 | DType::Bool | DType::String);
    let supported = |t: DType| t.bits() >= 8 && plain(t);
    if !supported(keys.dtype) || !supported(values.dtype) {
        return cx.unsupported(format!("a table from {} to {}", keys.dtype, values.dtype));
    }
    if cx.b.dtype(x)? != keys.dtype {
        return cx.invalid(format!("keys of type {} for an input of type {}", keys.dtype, cx.b.dtype(x)?));
    }
    let default = default_value(cx, values.dtype)?;
    let mut pairs: Vec<(Scalar, Scalar)> = scalars(keys).into_iter().zip(scalars(values)).collect();
    // Before version 4 NaN is no key: it equals nothing.
    let nan = pairs.iter().find(|p| is_nan(p.0)).map(|p| p.1).filter(|_| cx.version >= 4);
    pairs.retain(|p| !is_nan(p.0));
    // Stable, so that the first of equal keys holds.
    pairs.sort_by_key(|p| order(p.0));
    pairs.dedup_by(|b, a| order(a.0) == order(b.0));
    Ok(vec![look_up(cx, x, &pairs, default, nan)?])
}

/// The value of each element's key by bisection, all elements in step.
fn look_up(
    cx: &mut NodeContext<'_>,
    x: Value,
    pairs: &[(Scalar, Scalar)],
    default: Scalar,
    nan: Option<Scalar>,
) -> Result<Value, OpError> {
    let shape = cx.b.shape(x)?;
    let mut y = cx.b.scalar(default);
    if !pairs.is_empty() {
        let keys = column(cx, pairs.iter().map(|p| p.0))?;
        let values = column(cx, pairs.iter().map(|p| p.1))?;
        let last = pairs.len() as i64 - 1;
        // The greatest index whose key is not above the element, or 0.
        let mut at = cx.b.map_to(&shape, &[], |e| Ok(e.dim(&Dim::ZERO)))?;
        let mut step = (pairs.len() as u64).next_power_of_two() as i64 / 2;
        while step > 0 {
            let next = cx.b.map(&[at], |e| {
                let (at, step, last) = (e.arg(0), e.constant(Scalar::i64(step)), e.constant(Scalar::i64(last)));
                let next = e.add(at, step);
                Ok(e.min(next, last))
            })?;
            let key = cx.b.gather(keys, &[next], &[Coord::Input(0)], &shape)?;
            at = cx.b.map(&[x, key, next, at], |e| {
                let (x, key, next, at) = (e.arg(0), e.arg(1), e.arg(2), e.arg(3));
                let reached = e.ge(x, key);
                Ok(e.select(reached, next, at))
            })?;
            step /= 2;
        }
        let key = cx.b.gather(keys, &[at], &[Coord::Input(0)], &shape)?;
        let value = cx.b.gather(values, &[at], &[Coord::Input(0)], &shape)?;
        y = cx.b.map(&[x, key, value], |e| {
            let (x, key, value, default) = (e.arg(0), e.arg(1), e.arg(2), e.constant(default));
            let found = e.eq(x, key);
            Ok(e.select(found, value, default))
        })?;
    }
    match nan {
        Some(nan) => Ok(cx.b.map_to(&shape, &[x, y], |e| {
            let (x, y, nan) = (e.arg(0), e.arg(1), e.constant(nan));
            let is_nan = e.ne(x, x);
            Ok(e.select(is_nan, nan, y))
        })?),
        None => Ok(cx.b.broadcast(y, &shape)?),
    }
}

/// A constant vector.
fn column(cx: &mut NodeContext<'_>, elements: impl Iterator<Item = Scalar>) -> Result<Value, OpError> {
    let elements: Vec<Scalar> = elements.collect();
    let dtype = elements[0].dtype;
    let size = dtype.bits() as usize / 8;
    let bytes: Vec<u8> = elements.iter().flat_map(|s| s.bits.to_le_bytes()[..size].to_vec()).collect();
    let shape = [elements.len() as i64].as_slice().into();
    Ok(cx.b.constant(TensorBytes { dtype, shape, bytes: bytes.into() }, "")?)
}

/// A new last axis with 1 where the element is that category. An element that is none of them gives zeros, also where
/// `zeros` is 0 and asks for an error: what an element holds cannot fail a run.
fn one_hot_encoder(cx: &mut NodeContext<'_>) -> OpResult {
    let mut x = cx.input(0)?;
    let categories = if cx.b.dtype(x)? == DType::String {
        let names = cx.attribute("cats_strings").map(|a| a.strings.clone()).unwrap_or_default();
        texts(cx, &names)
    } else {
        x = cx.b.cast(x, DType::I64)?;
        let numbers = cx.ints("cats_int64s").unwrap_or_default();
        TensorBytes::from_i64(&[numbers.len() as i64], numbers)
    };
    if categories.is_empty() {
        return cx.invalid("there are no categories of the type of the input");
    }
    let rank = cx.b.rank(x)? as i64;
    let x = cx.b.unsqueeze(x, &[rank])?;
    let categories = cx.b.constant(categories, "")?;
    Ok(vec![cx.b.map(&[x, categories], |e| {
        let (x, category, one, zero) = (e.arg(0), e.arg(1), e.number(DType::F32, 1.0)?, e.number(DType::F32, 0.0)?);
        let same = e.eq(x, category);
        Ok(e.select(same, one, zero))
    })?])
}

#[cfg(test)]
mod tests {
    use onnxc_ir::strings::{packed, unpacked};
    use onnxc_ir::tensor::TensorBytes;

    use crate::ops::test_model::TestModel;

    fn encoder() -> TestModel {
        TestModel::new("LabelEncoder", 4).domain("ai.onnx.ml")
    }

    #[test]
    fn keys_are_found_in_any_order_and_the_first_of_equals_holds() {
        for count in [1i64, 2, 5, 16, 33] {
            let keys: Vec<i64> = (0..count).map(|i| (i * 7919) % 101 - 50).chain([-50]).collect();
            let values: Vec<i64> = (0..=count).collect();
            let asked: Vec<i64> = (-60..60).collect();
            let expected = asked.iter().map(|x| keys.iter().position(|k| k == x).map_or(-9, |i| i as i64));
            let expected: Vec<i64> = expected.collect();
            let model = encoder().ints("keys_int64s", &keys).ints("values_int64s", &values).int("default_int64", -9);
            let y = model.declared(&[120], TensorBytes::from_i64(&[120], &asked)).run_all();
            assert_eq!(y[0].to_i64(), Some(expected), "{count} keys");
        }
    }

    #[test]
    fn nan_and_negative_floats_are_keys() {
        let model = encoder().floats_attribute("keys_floats", &[1.5, f32::NAN, -2.0, -3.0, 0.0]);
        let model = model.floats_attribute("values_floats", &[1.0, 2.0, 3.0, 4.0, 5.0]).float("default_float", 9.0);
        let y = model.input(&[6], &[-3.0, -2.0, f32::NAN, 1.5, 1.0, -0.0]).run();
        assert_eq!(y.1, [4.0, 3.0, 2.0, 1.0, 9.0, 5.0]);
    }

    #[test]
    fn text_is_a_key_and_a_value() {
        let names = ["b", "a", "c"];
        let x = packed(&[4], &[b"a", b"x", b"c", b"b"]);
        let numbers = encoder().texts("keys_strings", &names).ints("values_int64s", &[7, 8, 9]);
        let y = numbers.declared(&[4], x.clone()).run_all();
        assert_eq!(y[0].to_i64().unwrap(), [8, -1, 9, 7]);
        let model = encoder().ints("keys_int64s", &[7, 8, 9]).texts("values_strings", &names);
        let y = model.declared(&[2], TensorBytes::from_i64(&[2], &[9, 5])).run_all();
        assert_eq!(unpacked(&y[0]).unwrap(), [&b"c"[..], b"_Unused"]);
        let old = TestModel::new("LabelEncoder", 1).domain("ai.onnx.ml").texts("classes_strings", &names);
        assert_eq!(old.declared(&[4], x.clone()).run_all()[0].to_i64().unwrap(), [1, -1, 2, 0]);
        let mapper = TestModel::new("CategoryMapper", 1).domain("ai.onnx.ml").texts("cats_strings", &names);
        let y = mapper.ints("cats_int64s", &[1, 2, 3]).declared(&[4], x.clone()).run_all();
        assert_eq!(y[0].to_i64().unwrap(), [2, -1, 3, 1]);
        let one_hot = TestModel::new("OneHotEncoder", 1).domain("ai.onnx.ml").texts("cats_strings", &["a", "b"]);
        let y = one_hot.declared(&[4], x).run_all();
        assert_eq!(y[0].to_f32().unwrap(), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn maps_are_refused() {
        assert!(TestModel::new("ZipMap", 1).domain("ai.onnx.ml").input(&[1], &[0.0]).error().contains("maps"));
    }

    #[test]
    fn categories_make_a_new_axis() {
        let model = TestModel::new("OneHotEncoder", 1).domain("ai.onnx.ml").ints("cats_int64s", &[4, 2]);
        let y = model.input(&[3], &[2.0, 4.0, 7.0]).run();
        assert_eq!(y, (vec![3, 2], vec![0.0, 1.0, 1.0, 0.0, 0.0, 0.0]));
    }
}
