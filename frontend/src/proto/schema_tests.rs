//! Our messages against the list of fields that the `onnx` package gives (`fields.txt`, written by `fields.py`).

use super::limits::Kind;
use super::*;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use std::collections::BTreeSet;

/// Decodes and encodes again.
fn reencode<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}")).encode_to_vec()
}

type Reencode = fn(&[u8]) -> Vec<u8>;

/// Every message by its published name, with the kind that the limits give it.
const MESSAGES: &[(&str, Reencode, Kind)] = &[
    ("ModelProto", reencode::<ModelProto>, Kind::Model),
    ("OperatorSetIdProto", reencode::<OperatorSetIdProto>, Kind::Leaf),
    ("FunctionProto", reencode::<FunctionProto>, Kind::Function),
    ("GraphProto", reencode::<GraphProto>, Kind::Graph),
    ("NodeProto", reencode::<NodeProto>, Kind::Node),
    ("AttributeProto", reencode::<AttributeProto>, Kind::Attribute),
    ("StringStringEntryProto", reencode::<StringStringEntryProto>, Kind::Leaf),
    ("TensorAnnotation", reencode::<TensorAnnotation>, Kind::Annotation),
    ("TrainingInfoProto", reencode::<TrainingInfoProto>, Kind::Training),
    ("DeviceConfigurationProto", reencode::<DeviceConfigurationProto>, Kind::Leaf),
    ("NodeDeviceConfigurationProto", reencode::<NodeDeviceConfigurationProto>, Kind::NodeDevices),
    ("ShardingSpecProto", reencode::<ShardingSpecProto>, Kind::Sharding),
    ("IntIntListEntryProto", reencode::<IntIntListEntryProto>, Kind::Leaf),
    ("ShardedDimProto", reencode::<ShardedDimProto>, Kind::ShardedDim),
    ("SimpleShardedDimProto", reencode::<SimpleShardedDimProto>, Kind::Leaf),
    ("ValueInfoProto", reencode::<ValueInfoProto>, Kind::ValueInfo),
    ("TypeProto", reencode::<TypeProto>, Kind::Type),
    ("TypeProto.Tensor", reencode::<TypeTensor>, Kind::TensorType),
    ("TypeProto.Sequence", reencode::<TypeSequence>, Kind::ElementType),
    ("TypeProto.Map", reencode::<TypeMap>, Kind::MapType),
    ("TypeProto.Optional", reencode::<TypeOptional>, Kind::ElementType),
    ("TypeProto.SparseTensor", reencode::<TypeSparseTensor>, Kind::TensorType),
    ("TypeProto.Opaque", reencode::<TypeOpaque>, Kind::Leaf),
    ("TensorShapeProto", reencode::<TensorShapeProto>, Kind::Shape),
    ("TensorShapeProto.Dimension", reencode::<Dimension>, Kind::Leaf),
    ("TensorProto", reencode::<TensorProto>, Kind::Tensor),
    ("TensorProto.Segment", reencode::<Segment>, Kind::Leaf),
    ("SparseTensorProto", reencode::<SparseTensorProto>, Kind::SparseTensor),
    ("SequenceProto", reencode::<SequenceProto>, Kind::Sequence),
    ("MapProto", reencode::<MapProto>, Kind::Map),
    ("OptionalProto", reencode::<OptionalProto>, Kind::Optional),
];

fn message(name: &str) -> &'static (&'static str, Reencode, Kind) {
    MESSAGES.iter().find(|(n, ..)| *n == name).unwrap_or_else(|| panic!("no message {name}"))
}

/// One value of a type, as it lies after its key; a value that a narrower or other type would not give back.
fn sample(kind: &str, index: u64) -> (WireType, Vec<u8>) {
    let mut bytes = Vec::new();
    let wire = match kind {
        "int64" => {
            encode_varint((i64::MIN + 1).unsigned_abs() + index, &mut bytes);
            WireType::Varint
        }
        "uint64" => {
            encode_varint(u64::MAX - index, &mut bytes);
            WireType::Varint
        }
        "int32" => {
            encode_varint(1 + index, &mut bytes);
            WireType::Varint
        }
        "float" => {
            bytes.extend((1.5f32 + index as f32).to_le_bytes());
            WireType::ThirtyTwoBit
        }
        "double" => {
            bytes.extend((1.5f64 + index as f64).to_le_bytes());
            WireType::SixtyFourBit
        }
        "string" | "bytes" => {
            bytes.extend([2, b'a', b'b' + index as u8]);
            WireType::LengthDelimited
        }
        nested => {
            message(nested);
            bytes.push(0);
            WireType::LengthDelimited
        }
    };
    (wire, bytes)
}

fn rows() -> impl Iterator<Item = [&'static str; 5]> {
    let lines = include_str!("fields.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').collect::<Vec<_>>().try_into().expect("five columns"))
}

#[test]
fn every_published_field_survives_decoding() {
    for [name, number, field, kind, label] in rows() {
        let number: u32 = number.parse().unwrap();
        let mut bytes = Vec::new();
        let (wire, first) = sample(kind, 0);
        let (_, second) = sample(kind, 1);
        match label {
            "single" => {
                encode_key(number, wire, &mut bytes);
                bytes.extend(&first);
            }
            "repeated" => {
                for value in [&first, &second] {
                    encode_key(number, wire, &mut bytes);
                    bytes.extend(value);
                }
            }
            "packed" => {
                encode_key(number, WireType::LengthDelimited, &mut bytes);
                encode_varint((first.len() + second.len()) as u64, &mut bytes);
                bytes.extend(first.iter().chain(&second));
            }
            other => panic!("label {other}"),
        }
        assert_eq!(message(name).1(&bytes), bytes, "{name}.{field}");
        if label == "single" && wire != WireType::LengthDelimited {
            // The last of two wins; a repeated field would keep both.
            let mut twice = Vec::new();
            encode_key(number, wire, &mut twice);
            twice.extend(&second);
            twice.extend(&bytes);
            assert_eq!(message(name).1(&twice), bytes, "{name}.{field} is repeated here");
        }
    }
}

#[test]
fn the_limits_know_every_message_field() {
    let mut nested = BTreeSet::new();
    for [name, number, field, kind, _] in rows() {
        let expected = MESSAGES.iter().find(|(n, ..)| *n == kind).map(|row| row.2);
        if expected.is_some() {
            nested.insert(name);
        }
        assert_eq!(message(name).2.child(number.parse().unwrap()), expected, "{name}.{field}");
    }
    for (name, _, kind) in MESSAGES {
        assert_eq!(nested.contains(name), *kind != Kind::Leaf, "{name}");
    }
}
