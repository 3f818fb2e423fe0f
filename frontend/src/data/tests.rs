//! Files of values: inverse reading and writing, NumPy's own bytes, hostile headers; and NumPy's rule of agreement.

use super::*;
use crate::proto::{ElementKind, LoadError, OptionalProto, TensorData};
use bytes::Bytes;
use onnxc_ir::dtype::DType;
use prost::Message;

fn file(header: &str, data: &[u8]) -> Bytes {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    Bytes::from(bytes)
}

fn described(descr: &str, order: &str, shape: &str, data: &[u8]) -> Result<TensorData, LoadError> {
    read_npy(file(&format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n"), data), None)
}

fn f32s(dims: &[i64], values: &[f32]) -> TensorData {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorData::dense(DType::F32, dims.to_vec(), Bytes::from(bytes)).unwrap()
}

fn i64s(values: &[i64]) -> TensorData {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorData::dense(DType::I64, vec![values.len() as i64], Bytes::from(bytes)).unwrap()
}

#[test]
fn npy_is_inverse_for_every_type() {
    for dtype in DType::ALL {
        for dims in [vec![], vec![5], vec![2, 3], vec![0, 3], vec![1, 1, 1, 1, 1, 1, 1, 7]] {
            let count: i64 = dims.iter().product();
            let tensor = if dtype == DType::String {
                let texts = ["", "abc", "ü日", "x y", "\u{1f600}", "5", "6"];
                TensorData::strings(dims, texts[..count as usize].iter().map(|t| Bytes::from(*t)).collect())
            } else {
                let length = dtype.packed_bytes(count as u64).unwrap();
                let mut bytes: Vec<u8> = (0..length as u8).map(|byte| byte.wrapping_mul(37)).collect();
                if dtype == DType::Bool {
                    bytes.iter_mut().for_each(|byte| *byte &= 1);
                }
                // Bits past the last element are no part of the tensor.
                if let (Some(last), 1..8) = (bytes.last_mut(), count as u64 * u64::from(dtype.bits()) % 8) {
                    *last &= (1 << (count as u64 * u64::from(dtype.bits()) % 8)) - 1;
                }
                TensorData::dense(dtype, dims, Bytes::from(bytes))
            }
            .unwrap();
            let mut written = Vec::new();
            write_npy(&tensor, &mut written).unwrap();
            let start = written.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            assert_eq!(start % 64, 0);
            assert_eq!(read_npy(Bytes::from(written), Some(dtype)).unwrap(), tensor, "{dtype}");
        }
    }
}

#[test]
fn reads_what_numpy_writes() {
    let big = described(">f4", "False", "(1,)", &1.5f32.to_be_bytes()).unwrap();
    assert_eq!(big, f32s(&[1], &[1.5]));
    let complex = described(">c8", "False", "()", &[1.5f32.to_be_bytes(), 2f32.to_be_bytes()].concat()).unwrap();
    assert_eq!(complex.element(0), Element::Complex(1.5, 2.0));
    let fortran = described("|i1", "True", "(2, 3)", &[0, 3, 1, 4, 2, 5]).unwrap();
    assert_eq!(fortran.bytes().unwrap().as_ref(), [0, 1, 2, 3, 4, 5]);
    let deep = described("|u1", "True", "(2, 2, 2)", &[0, 4, 2, 6, 1, 5, 3, 7]).unwrap();
    assert_eq!(deep.bytes().unwrap().as_ref(), [0, 1, 2, 3, 4, 5, 6, 7]);
    let python2 = described("<f4", "False", "(1L, 1L)", &[0; 4]).unwrap();
    assert_eq!(python2.dims(), [1, 1]);
    let text = described("|S3", "False", "(2,)", b"abcd\0\0").unwrap();
    assert_eq!(text.element(1), Element::Text(Bytes::from("d")));
    let float8 = described("<f1", "False", "(1,)", &[0x3c]).unwrap();
    assert_eq!((float8.dtype(), float8.element(0)), (DType::F8E5M2, Element::Real(1.0)));
    let void = file("{'descr': '<V1', 'fortran_order': False, 'shape': (3,), }", &[0xff, 1, 7]);
    let packed = read_npy(void.clone(), Some(DType::I4)).unwrap();
    assert_eq!((0..3).map(|i| packed.element(i)).collect::<Vec<_>>(), [-1, 1, 7].map(Element::Int));
    assert!(read_npy(void.clone(), None).unwrap_err().to_string().contains(".pb"));
    assert!(read_npy(void, Some(DType::BF16)).is_err());
}

#[test]
fn elements_stay_in_the_file() {
    let mut written = Vec::new();
    write_npy(&f32s(&[2], &[1.0, 2.0]), &mut written).unwrap();
    let bytes = Bytes::from(written);
    let tensor = read_npy(bytes.clone(), None).unwrap();
    assert_eq!(tensor.bytes().unwrap().as_ptr(), bytes[bytes.len() - 8..].as_ptr());
}

#[test]
fn hostile_headers_are_errors() {
    for (descr, shape, length) in [
        ("<f4", "(2,)", 7),
        ("<f4", "(2,)", 9),
        ("<f4", "(-1,)", 4),
        ("<f4", "(9223372036854775807, 4)", 4),
        ("<f4", "(99999999999999999999,)", 4),
        ("<f4", "(4611686018427387904,)", 0),
        ("<S0", "(9223372036854775807,)", 0),
        ("<U99999999999", "(1,)", 4),
        ("<U4611686018427387905", "(1,)", 4),
        ("<f3", "(1,)", 3),
        ("<f4x", "(1,)", 4),
        ("<M8[ns]", "(1,)", 8),
        ("|O", "(1,)", 8),
        ("", "(1,)", 1),
        ("é", "(1,)", 1),
        ("<f4", "1", 4),
        ("<f4", "(1 1)", 4),
    ] {
        assert!(described(descr, "False", shape, &vec![0; length]).is_err(), "{descr} {shape}");
    }
    assert!(described("<U1", "False", "(1,)", &0x0011_0000u32.to_le_bytes()).is_err());
    assert!(described("<f4", "Maybe", "(1,)", &[0; 4]).is_err());
    let many = format!("({})", "1,".repeat(100_000));
    assert!(described("<f4", "False", &many[..60_000], &[0; 4]).is_err());
    for header in ["", "{", "{}", "{'descr': '<f4'}", "{'descr'", "{'shape': (1,), 'shape': (1,), 'descr': '<f4'}"] {
        assert!(read_npy(file(header, &[0; 4]), None).is_err(), "{header}");
    }
    let mut whole = Vec::new();
    write_npy(&f32s(&[3, 1], &[1.0, 2.0, 3.0]), &mut whole).unwrap();
    for length in 0..whole.len() {
        assert!(read_npy(Bytes::copy_from_slice(&whole[..length]), None).is_err(), "{length} bytes");
    }
}

#[test]
fn containers_and_messages_are_inverse() {
    let tensor = DataValue::Tensor(f32s(&[2], &[1.0, -1.0]));
    let text = TensorData::strings(vec![1], vec![Bytes::from("k")]).unwrap();
    let map = DataValue::Map { keys: text, values: vec![tensor.clone()] };
    let numbers = DataValue::Map { keys: i64s(&[3, -4]), values: vec![tensor.clone(), tensor.clone()] };
    let sequence = DataValue::Sequence(vec![tensor.clone(), tensor.clone()]);
    for value in [
        tensor.clone(),
        sequence.clone(),
        map.clone(),
        numbers,
        DataValue::Sequence(Vec::new()),
        DataValue::Sequence(vec![map.clone(), map]),
        DataValue::Sequence(vec![sequence.clone()]),
        DataValue::Optional(None),
        DataValue::Optional(Some(Box::new(tensor))),
        DataValue::Optional(Some(Box::new(DataValue::Optional(Some(Box::new(sequence)))))),
    ] {
        let bytes = Bytes::from(value.to_message("v"));
        assert_eq!(DataValue::from_message(bytes, value.kind()).unwrap(), value);
    }
    let hollow = OptionalProto { elem_type: ElementKind::Tensor as i32, ..OptionalProto::default() };
    assert!(DataValue::from_message(Bytes::from(hollow.encode_to_vec()), ValueKind::Optional).is_err());
}

#[test]
fn small_floats_decode_to_their_published_values() {
    let decode = |dtype: DType, bits: u8| {
        let tensor = TensorData::dense(dtype, vec![1], Bytes::from(vec![bits])).unwrap();
        let Element::Real(value) = tensor.element(0) else { panic!("{dtype} is real") };
        value
    };
    for (dtype, bits, value) in [
        (DType::F8E4M3FN, 0x7e, 448.0),
        (DType::F8E4M3FN, 0x01, 0.001953125),
        (DType::F8E4M3FN, 0x88, -0.015625),
        (DType::F8E4M3FNUZ, 0x7f, 240.0),
        (DType::F8E4M3FNUZ, 0x01, 0.0009765625),
        (DType::F8E5M2, 0x7b, 57344.0),
        (DType::F8E5M2, 0x7c, f64::INFINITY),
        (DType::F8E5M2, 0xfc, f64::NEG_INFINITY),
        (DType::F8E5M2FNUZ, 0x7f, 57344.0),
        (DType::F8E8M0, 0, 2f64.powi(-127)),
        (DType::F8E8M0, 127, 1.0),
        (DType::F4E2M1, 0x7, 6.0),
        (DType::F4E2M1, 0x1, 0.5),
        (DType::F4E2M1, 0xf, -6.0),
    ] {
        assert_eq!(decode(dtype, bits), value, "{dtype} {bits:#x}");
    }
    for (dtype, bits) in [
        (DType::F8E4M3FN, 0x7f),
        (DType::F8E4M3FN, 0xff),
        (DType::F8E4M3FNUZ, 0x80),
        (DType::F8E5M2, 0x7d),
        (DType::F8E5M2FNUZ, 0x80),
        (DType::F8E8M0, 0xff),
    ] {
        assert!(decode(dtype, bits).is_nan(), "{dtype} {bits:#x}");
    }
}

#[test]
fn agreement_is_numpys() {
    let tolerance = Tolerance { rtol: 0.1, atol: 0.01 };
    let run = |y: &[f32], to: &[f32]| {
        let dims = [y.len() as i64];
        compare(&DataValue::Tensor(f32s(&dims, y)), &DataValue::Tensor(f32s(&dims, to)), tolerance).unwrap()
    };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    assert!(run(&[nan, inf, -inf, 1.1, 0.01], &[nan, inf, -inf, 1.0, 0.0]).agrees());
    for (y, to) in [(nan, 1.0), (1.0, nan), (inf, -inf), (1.0, inf), (inf, 1.0), (1.2, 1.0), (0.02, 0.0)] {
        assert_eq!(run(&[0.0, y], &[0.0, to]).mismatches, 1, "{y} for {to}");
    }
    let found = run(&[1.0, 2.0, 9.0, 4.0], &[1.0, 3.0, 1.0, 4.0]);
    assert_eq!((found.elements, found.mismatches, found.max_error, found.max_reference), (4, 2, 8.0, 4.0));
    assert_eq!((found.squared_errors, found.squared_references), (65.0, 27.0));
    assert_eq!(found.worst.unwrap().index, [2]);
    let matrix = |last| DataValue::Sequence(vec![DataValue::Tensor(f32s(&[2, 3], &[0.0, 0.0, 0.0, 0.0, last, 0.0]))]);
    let worst = compare(&matrix(1.0), &matrix(0.0), tolerance).unwrap().worst.unwrap();
    assert_eq!((worst.place.as_str(), worst.index), ("element 0: ", vec![1, 1]));
}

#[test]
fn integers_and_strings_are_exact() {
    let zero = Tolerance { rtol: 0.0, atol: 0.0 };
    let ints = |values: &[i64]| DataValue::Tensor(i64s(values));
    let found = compare(&ints(&[i64::MAX, i64::MIN]), &ints(&[i64::MAX - 1, i64::MAX]), zero).unwrap();
    assert_eq!(found.mismatches, 2);
    let texts = |text: &'static str| DataValue::Tensor(TensorData::strings(vec![1], vec![Bytes::from(text)]).unwrap());
    assert_eq!(compare(&texts("a"), &texts("b"), zero).unwrap().mismatches, 1);
    assert!(compare(&texts("a"), &texts("a"), zero).unwrap().agrees());
}

#[test]
fn values_of_different_form_cannot_be_compared() {
    let tolerance = Tolerance { rtol: 0.0, atol: 0.0 };
    let (a, b) = (DataValue::Tensor(f32s(&[2], &[0.0; 2])), DataValue::Tensor(f32s(&[1, 2], &[0.0; 2])));
    assert_eq!(compare(&a, &b, tolerance).unwrap_err().to_string(), "shape is [2], the reference has [1, 2]");
    let lists = [DataValue::Sequence(vec![a.clone()]), DataValue::Sequence(vec![])];
    assert_eq!(compare(&lists[0], &lists[1], tolerance).unwrap_err().what, "length");
    assert_eq!(compare(&a, &lists[0], tolerance).unwrap_err().what, "kind");
    assert_eq!(compare(&a, &DataValue::Tensor(i64s(&[0, 0])), tolerance).unwrap_err().what, "element type");
    assert!(compare(&DataValue::Optional(None), &DataValue::Optional(None), tolerance).unwrap().agrees());
    let some = DataValue::Optional(Some(Box::new(a)));
    assert_eq!(compare(&some, &DataValue::Optional(None), tolerance).unwrap_err().what, "presence");
}
