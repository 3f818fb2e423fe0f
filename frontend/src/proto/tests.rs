//! Hostile and odd files: each must be an error that names the place, or the right tensor, and never a panic.

use super::*;
use bytes::Bytes;
use onnxc_ir::dtype::DType;
use prost::Message;
use std::fs;
use std::path::Path;

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_owned(), value: value.to_owned() }
}

fn tensor(dtype: DType, dims: &[i64]) -> TensorProto {
    TensorProto { name: "w".to_owned(), dims: dims.to_vec(), data_type: dtype_to_onnx(dtype), ..TensorProto::default() }
}

fn read(proto: &TensorProto) -> Result<TensorData, LoadError> {
    TensorData::from_proto(proto, &ExternalData::none())
}

fn bytes_of(proto: &TensorProto) -> Vec<u8> {
    read(proto).unwrap_or_else(|error| panic!("{error}")).bytes().unwrap().to_vec()
}

fn message_of(proto: &TensorProto) -> String {
    read(proto).expect_err("the tensor is wrong").to_string()
}

fn small_model() -> ModelProto {
    let weight = TensorProto { raw_data: Some(Bytes::from(vec![7; 4096])), ..tensor(DType::F32, &[32, 32]) };
    let node = NodeProto {
        op_type: "Add".to_owned(),
        input: vec!["x".to_owned(), "w".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto { node: vec![node], initializer: vec![weight], ..GraphProto::default() };
    ModelProto { ir_version: 10, graph: Some(Box::new(graph)), ..ModelProto::default() }
}

#[test]
fn weights_stay_in_the_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(&path, small_model().encode_to_vec()).unwrap();
    let bytes = map_file(&path).unwrap();
    let mapping = bytes.as_ptr_range();
    let model: ModelProto = decode(bytes).unwrap();
    let data = read(&model.graph.unwrap().initializer[0]).unwrap();
    let elements = data.bytes().unwrap().as_ptr_range();
    assert!(mapping.start <= elements.start && elements.end <= mapping.end);
}

#[test]
fn any_truncation_is_an_error_or_a_shorter_model() {
    let whole = small_model().encode_to_vec();
    for length in 0..whole.len() {
        let result = ModelFile::from_bytes(Bytes::copy_from_slice(&whole[..length]));
        assert!(result.is_err() || result.unwrap().model != small_model());
    }
}

#[test]
fn any_changed_byte_is_survived() {
    let whole = small_model().encode_to_vec();
    for at in (0..whole.len()).filter(|at| *at < 80 || *at > whole.len() - 80) {
        for value in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 7] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Ok(file) = ModelFile::from_bytes(Bytes::from(bytes)) {
                for tensor in file.model.graph.iter().flat_map(|graph| &graph.initializer) {
                    if let Ok(data) = TensorData::from_proto(tensor, &file.external) {
                        let needed = data.dtype().packed_bytes(data.len());
                        assert_eq!(data.bytes().map(|bytes| bytes.len() as u64), needed);
                    }
                }
            }
        }
    }
}

#[test]
fn deep_nesting_is_an_error() {
    // Put together by hand from the inside out: the encoder recurses too.
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        for field in [6u32, 5, 1] {
            let mut outer = Vec::new();
            prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut outer);
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            outer.extend(&bytes);
            bytes = outer;
        }
    }
    let mut model = Vec::new();
    prost::encoding::encode_key(7, prost::encoding::WireType::LengthDelimited, &mut model);
    prost::encoding::encode_varint(bytes.len() as u64, &mut model);
    model.extend(bytes);
    let error = ModelFile::from_bytes(Bytes::from(model)).unwrap_err();
    assert!(matches!(error.problem, LoadProblem::TooDeep(100)), "{error}");
}

#[test]
fn millions_of_empty_messages_are_an_error() {
    let nodes: Vec<u8> = [0x0a, 0].repeat(5 << 20);
    let mut model = vec![0x3a];
    prost::encoding::encode_varint(nodes.len() as u64, &mut model);
    model.extend(nodes);
    let error = ModelFile::from_bytes(Bytes::from(model)).unwrap_err();
    assert!(matches!(error.problem, LoadProblem::TooMany(_)), "{error}");
}

#[test]
fn text_and_pointers_are_no_models() {
    for text in ["", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "ir_version: 10"] {
        let error = ModelFile::from_bytes(Bytes::from(text)).unwrap_err();
        assert_eq!(error.code(), "M001", "{text:?}");
    }
    assert_eq!(ModelFile::open(Path::new("/")).unwrap_err().code(), "I001");
    assert_eq!(ModelFile::open(Path::new("no/such/file.onnx")).unwrap_err().code(), "I001");
}

#[test]
fn impossible_dimensions_are_errors() {
    let huge = i64::MAX;
    for dims in [vec![-1], vec![2, -3], vec![huge, 2], vec![0, huge, huge], vec![1 << 32, 1 << 32], vec![huge, 1]] {
        let proto = TensorProto { raw_data: Some(Bytes::from_static(&[0; 8])), ..tensor(DType::C128, &dims) };
        assert_eq!(read(&proto).unwrap_err().code(), "M002", "{dims:?}");
    }
    let proto = TensorProto { float_data: vec![0.0], ..tensor(DType::F32, &[1; 33]) };
    assert_eq!(read(&proto).unwrap_err().code(), "U002");
    assert_eq!(bytes_of(&tensor(DType::F32, &[huge, 0])), Vec::<u8>::new());
}

#[test]
fn wrong_lengths_and_fields_are_errors() {
    let raw = Some(Bytes::from_static(&[0; 12]));
    let long = TensorProto { raw_data: raw.clone(), ..tensor(DType::F32, &[2]) };
    assert_eq!(message_of(&long), "tensor `w`: f32 [2] needs 8 bytes, the file has 12");
    let other = TensorProto { float_data: vec![1.0], ..tensor(DType::I64, &[1]) };
    assert_eq!(message_of(&other), "tensor `w`: float_data: i64 elements cannot be in `float_data`");
    let both = TensorProto { raw_data: raw.clone(), float_data: vec![1.0; 3], ..tensor(DType::F32, &[3]) };
    assert!(message_of(&both).contains("float_data"));
    let text = TensorProto { raw_data: raw, ..tensor(DType::String, &[12]) };
    assert!(message_of(&text).contains("raw_data"));
    assert!(message_of(&tensor(DType::F32, &[1])).contains("needs 4 bytes"));
    let byte = TensorProto { int32_data: vec![256], ..tensor(DType::U8, &[1]) };
    assert_eq!(message_of(&byte), "tensor `w`: int32_data: 256 is no u8");
    for number in [0, 27, 99, -1] {
        let proto = TensorProto { data_type: number, ..tensor(DType::F32, &[0]) };
        assert!(matches!(read(&proto).unwrap_err().problem, LoadProblem::UnknownDType(n) if n == number));
    }
    let part = TensorProto { segment: Some(Segment { begin: 0, end: 1 }), ..tensor(DType::F32, &[0]) };
    assert_eq!(read(&part).unwrap_err().code(), "U002");
}

#[test]
fn typed_fields_become_packed_bytes() {
    let ints = |dtype, dims: &[i64], values: &[i32]| {
        bytes_of(&TensorProto { int32_data: values.to_vec(), ..tensor(dtype, dims) })
    };
    assert_eq!(ints(DType::F16, &[2], &[0x3c00, 0xbc00]), [0, 0x3c, 0, 0xbc]);
    assert_eq!(ints(DType::I16, &[1], &[-2]), [0xfe, 0xff]);
    assert_eq!(ints(DType::I8, &[2], &[-1, 5]), [0xff, 5]);
    assert_eq!(ints(DType::Bool, &[3], &[0, 1, 2]), [0, 1, 1]);
    assert_eq!(ints(DType::I4, &[3], &[0x21, 0x0f]), [0x21, 0x0f]);
    assert_eq!(ints(DType::U2, &[5], &[0xe4, 0x01]), [0xe4, 1]);
    assert_eq!(ints(DType::I32, &[1], &[i32::MIN]), [0, 0, 0, 0x80]);
    let complex = TensorProto { float_data: vec![1.0, 0.0], ..tensor(DType::C64, &[1]) };
    assert_eq!(bytes_of(&complex), [0, 0, 0x80, 0x3f, 0, 0, 0, 0]);
    let unsigned = TensorProto { uint64_data: vec![u64::from(u32::MAX)], ..tensor(DType::U32, &[]) };
    assert_eq!(bytes_of(&unsigned), [0xff; 4]);
    let text = TensorProto { string_data: vec![Bytes::from_static(b"a"), Bytes::new()], ..tensor(DType::String, &[2]) };
    assert_eq!(read(&text).unwrap().elements(), &Elements::Strings(text.string_data.clone()));
}

#[test]
fn tensors_and_messages_are_inverse() {
    for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::String) {
        let bytes = Bytes::from(vec![1; dtype.packed_bytes(6).unwrap() as usize]);
        let data = TensorData::dense(dtype, vec![2, 3], bytes).unwrap();
        assert_eq!(read(&data.to_proto("t")).unwrap(), data);
    }
}

#[test]
fn external_data_stays_beneath_the_model() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(outer.path().join("secret"), [1; 16]).unwrap();
    fs::write(folder.join("sub/w.bin"), (0..16).collect::<Vec<u8>>()).unwrap();
    let external = ExternalData::beneath(folder.clone());
    let read = |entries: &[(&str, &str)]| {
        let entries = entries.iter().map(|(key, value)| entry(key, value)).collect();
        let proto = TensorProto { data_location: 1, external_data: entries, ..tensor(DType::U8, &[4]) };
        TensorData::from_proto(&proto, &external)
    };
    let fine = read(&[("location", "./sub/w.bin"), ("offset", "8"), ("length", "4")]).unwrap();
    assert_eq!(fine.bytes().unwrap().as_ref(), [8, 9, 10, 11]);
    let absolute = outer.path().join("secret").display().to_string();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outer.path(), folder.join("up")).unwrap();
        std::os::unix::fs::symlink("sub/w.bin", folder.join("link")).unwrap();
    }
    for entries in [
        vec![("location", "../secret")],
        vec![("location", "sub/../../secret")],
        vec![("location", absolute.as_str())],
        vec![("location", "up/secret")],
        vec![("location", "link")],
        vec![("location", "sub")],
        vec![("location", "..\\secret")],
        vec![("location", "")],
        vec![("location", "missing")],
        vec![("offset", "0")],
        vec![("location", "sub/w.bin"), ("offset", "13")],
        vec![("location", "sub/w.bin"), ("offset", "18446744073709551615")],
        vec![("location", "sub/w.bin"), ("offset", "-1")],
        vec![("location", "sub/w.bin"), ("length", "5")],
    ] {
        let error = read(&entries).expect_err("external data that is not allowed");
        assert_eq!(error.code(), "M003", "{entries:?}: {error}");
    }
    let proto = TensorProto { data_location: 1, ..tensor(DType::U8, &[4]) };
    assert_eq!(super::tests::read(&proto).unwrap_err().code(), "M003");
}

#[test]
fn sparse_tensors_become_dense_within_limits() {
    let values = TensorProto { float_data: vec![1.0, 2.0], ..tensor(DType::F32, &[2]) };
    let make = |indices: &[i64], index_dims: &[i64], dims: &[i64]| {
        let indices = TensorProto { int64_data: indices.to_vec(), ..tensor(DType::I64, index_dims) };
        let proto = SparseTensorProto { values: Some(values.clone()), indices: Some(indices), dims: dims.to_vec() };
        densify(&proto, &ExternalData::none()).map(|tensor| tensor.to_tensor_bytes().unwrap().to_f32().unwrap())
    };
    assert_eq!(make(&[1, 3], &[2], &[2, 2]).unwrap(), [0.0, 1.0, 0.0, 2.0]);
    assert_eq!(make(&[0, 1, 1, 0], &[2, 2], &[2, 2]).unwrap(), [0.0, 1.0, 2.0, 0.0]);
    assert!(make(&[1, 4], &[2], &[2, 2]).is_err());
    assert!(make(&[-1, 0], &[2], &[2, 2]).is_err());
    assert!(make(&[0, 1], &[1, 2], &[2, 2]).is_err());
    assert!(make(&[0, 1], &[2], &[1 << 40]).is_err());
    assert!(make(&[], &[2, 0], &[]).is_ok_and(|dense| dense == [2.0]));
}
