//! A look over a message before it is decoded: nesting and number of messages.
//!
//! An empty message takes two bytes in a file and hundreds in memory, so a small hostile file could ask for all of it.
//! The walk follows only fields that hold messages, skips everything else by its length and allocates nothing.
//! Malformed bytes end the walk without an error: the decoder then names what is wrong.

use super::error::LoadProblem;

/// Most messages in one file. The largest published models have some 10^5.
const MAX_MESSAGES: u64 = 1 << 22;
/// Deepest nesting of messages; prost has the same limit. Each nested graph takes three.
const MAX_DEPTH: u32 = 100;

/// The messages that have messages inside. The others are leaves, whose fields need no look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Training,
    Tensor,
    SparseTensor,
    ValueInfo,
    Type,
    TensorType,
    ElementType,
    MapType,
    Shape,
    Annotation,
    NodeDevices,
    Sharding,
    ShardedDim,
    Sequence,
    Map,
    Optional,
    Leaf,
}

impl Kind {
    /// The kind of message that a field holds; None for fields of any other type.
    pub(super) fn child(self, field: u64) -> Option<Kind> {
        use Kind::*;
        Some(match (self, field) {
            (Model, 7) => Graph,
            (Model, 8 | 14 | 26) => Leaf,
            (Model, 20) => Training,
            (Model, 25) => Function,
            (Graph, 1) => Node,
            (Graph, 5) => Tensor,
            (Graph, 15) => SparseTensor,
            (Graph, 11..=13) => ValueInfo,
            (Graph, 14) => Annotation,
            (Graph, 16) => Leaf,
            (Node, 5) => Attribute,
            (Node, 9) => Leaf,
            (Node, 10) => NodeDevices,
            (Attribute, 5 | 10) => Tensor,
            (Attribute, 6 | 11) => Graph,
            (Attribute, 22 | 23) => SparseTensor,
            (Attribute, 14 | 15) => Type,
            (Function, 11) => Attribute,
            (Function, 7) => Node,
            (Function, 9 | 14) => Leaf,
            (Function, 12) => ValueInfo,
            (Training, 1 | 2) => Graph,
            (Training, 3 | 4) => Leaf,
            (Tensor, 3 | 13 | 16) => Leaf,
            (SparseTensor, 1 | 2) => Tensor,
            (ValueInfo, 2) => Type,
            (ValueInfo, 4) => Leaf,
            (Type, 1 | 8) => TensorType,
            (Type, 4 | 9) => ElementType,
            (Type, 5) => MapType,
            (Type, 7) => Leaf,
            (TensorType, 2) => Shape,
            (ElementType, 1) => Type,
            (MapType, 2) => Type,
            (Shape, 1) => Leaf,
            (Annotation, 2) => Leaf,
            (NodeDevices, 2) => Sharding,
            (Sharding, 3) => Leaf,
            (Sharding, 4) => ShardedDim,
            (ShardedDim, 2) => Leaf,
            (Sequence, 3) => Tensor,
            (Sequence, 4) => SparseTensor,
            (Sequence, 5) => Sequence,
            (Sequence, 6) => Map,
            (Sequence, 7) => Optional,
            (Map, 5) => Sequence,
            (Optional, 3) => Tensor,
            (Optional, 4) => SparseTensor,
            (Optional, 5) => Sequence,
            (Optional, 6) => Map,
            (Optional, 7) => Optional,
            _ => return None,
        })
    }
}

/// Checks the limits on a message of a kind.
pub(super) fn check(bytes: &[u8], kind: Kind) -> Result<(), LoadProblem> {
    walk(bytes, kind, 1, &mut 0)
}

fn walk(mut bytes: &[u8], kind: Kind, depth: u32, count: &mut u64) -> Result<(), LoadProblem> {
    if depth > MAX_DEPTH {
        return Err(LoadProblem::TooDeep(MAX_DEPTH));
    }
    while let Some((field, body)) = next_field(&mut bytes) {
        if let (Some(child), Some(body)) = (kind.child(field), body) {
            *count += 1;
            if *count > MAX_MESSAGES {
                return Err(LoadProblem::TooMany(MAX_MESSAGES));
            }
            if child != Kind::Leaf {
                walk(body, child, depth + 1, count)?;
            }
        }
    }
    Ok(())
}

/// The next field's number, with its bytes where it is length-delimited; None at the end or where the bytes are
/// malformed.
fn next_field<'b>(bytes: &mut &'b [u8]) -> Option<(u64, Option<&'b [u8]>)> {
    let key = varint(bytes)?;
    let (length, is_body) = match key & 7 {
        0 => return varint(bytes).map(|_| (key >> 3, None)),
        1 => (8, false),
        2 => (varint(bytes)?, true),
        5 => (4, false),
        _ => return None,
    };
    let (body, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some((key >> 3, is_body.then_some(body)))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
