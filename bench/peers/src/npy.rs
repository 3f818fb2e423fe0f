//! NumPy files with the element types that the benchmark models take.

use std::path::Path;

use crate::Error;

/// Elements in row-major order.
pub enum Elements {
    /// `<f4`
    F32(Vec<f32>),
    /// `<i8`
    I64(Vec<i64>),
}

/// A dense array.
pub struct Array {
    pub shape: Vec<usize>,
    pub elements: Elements,
}

impl Array {
    /// Reads a little-endian file in C order.
    pub fn read(path: &Path) -> Result<Array, Error> {
        let wrong = |what: &str| format!("{}: {what}", path.display());
        let bytes = std::fs::read(path)?;
        if bytes.get(..8) != Some(b"\x93NUMPY\x01\x00") {
            return Err(wrong("not a .npy file of version 1").into());
        }
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let (header, data) =
            bytes.get(10..).and_then(|rest| rest.split_at_checked(length)).ok_or_else(|| wrong("too short"))?;
        let header = std::str::from_utf8(header)?;
        if !header.contains("'fortran_order': False") {
            return Err(wrong("not in C order").into());
        }
        let inside = |open: &str, close: &str| header.split_once(open)?.1.split_once(close).map(|(inside, _)| inside);
        let shape = inside("'shape': (", ")").ok_or_else(|| wrong("no shape"))?;
        let extents = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
        let shape: Vec<usize> = extents.map(str::parse).collect::<Result<_, _>>()?;
        let elements = match inside("'descr': '", "'") {
            Some("<f4") => Elements::F32(data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
            Some("<i8") => Elements::I64(data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            other => return Err(wrong(&format!("elements of type {other:?}")).into()),
        };
        Ok(Array { shape, elements })
    }
}
