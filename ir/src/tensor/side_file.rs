//! The large constants of a printed graph: a file beside the text, from which the parser takes what has a hash.
//!
//! Records one after the other: the hash and the length, each as 8 little-endian bytes, then the bytes themselves.

use std::collections::HashMap;
use std::io::{self, Write};

use bytes::Bytes;

use super::Graph;
use super::constant::ConstantSource;
use super::print::{hash_bytes, prints_as_hash};

/// Writes every constant that prints as a hash, each once.
pub fn write(graph: &Graph, out: &mut dyn Write) -> io::Result<()> {
    let mut written = std::collections::HashSet::new();
    for data in graph.constants.values() {
        let ConstantSource::Bytes(bytes) = &data.source else { continue };
        let hash = hash_bytes(bytes);
        if prints_as_hash(&data.ty) && written.insert(hash) {
            out.write_all(&hash.to_le_bytes())?;
            out.write_all(&(bytes.len() as u64).to_le_bytes())?;
            out.write_all(bytes)?;
        }
    }
    Ok(())
}

/// Reads such a file; `None` if it is cut short.
pub fn read(file: &Bytes) -> Option<HashMap<u64, Bytes>> {
    let word = |at: usize| Some(u64::from_le_bytes(file.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let mut constants = HashMap::new();
    let mut at = 0;
    while at < file.len() {
        let (hash, length) = (word(at)?, usize::try_from(word(at + 8)?).ok()?);
        let end = at.checked_add(16)?.checked_add(length)?;
        if end > file.len() {
            return None;
        }
        constants.insert(hash, file.slice(at + 16..end));
        at = end;
    }
    Some(constants)
}
