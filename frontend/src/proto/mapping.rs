//! Opening files: a mapping, and messages whose `Bytes` fields are slices of it.

use bytes::Bytes;
use memmap2::Mmap;
use prost::Message;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::error::{LoadError, LoadProblem};
use super::external::ExternalData;
use super::limits::{self, Kind};
use super::model::ModelProto;
use super::values::{MapProto, OptionalProto, SequenceProto, TensorProto};

/// A decoded model together with the access to its external data.
#[derive(Debug)]
pub struct ModelFile {
    /// The message. Its weights are slices of the mapped file.
    pub model: ModelProto,
    /// The files beside it.
    pub external: ExternalData,
}

impl ModelFile {
    /// Maps and decodes a `.onnx` file. The file must not be changed while the result or anything cut from it lives.
    pub fn open(path: &Path) -> Result<ModelFile, LoadError> {
        let here = |error: LoadError| error.within(path.display().to_string());
        let bytes = map_file(path)?;
        let model = decode(bytes).map_err(here)?;
        let folder = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => PathBuf::from("."),
        };
        Ok(ModelFile { model, external: ExternalData::beneath(folder) })
    }

    /// Decodes a model from memory. It can have no external data.
    pub fn from_bytes(bytes: Bytes) -> Result<ModelFile, LoadError> {
        Ok(ModelFile { model: decode(bytes)?, external: ExternalData::none() })
    }
}

/// A whole file as bytes, mapped and not read.
pub fn map_file(path: &Path) -> Result<Bytes, LoadError> {
    map(path).map_err(|problem| problem.at(path.display().to_string()))
}

pub(super) fn map(path: &Path) -> Result<Bytes, LoadProblem> {
    // Asked before opening: opening a pipe would wait for its writer.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(LoadProblem::NotAFile);
    }
    if metadata.len() == 0 {
        return Ok(Bytes::new());
    }
    let file = File::open(path)?;
    // SAFETY: the mapping is private and read-only. That nobody truncates or rewrites the file meanwhile is what
    // `ModelFile::open` asks of its caller; no other process can be kept from it.
    let mapping = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(mapping))
}

/// A message that is the top of a file.
pub trait FileMessage: Message + Default {
    /// Its name in error messages.
    const NAME: &'static str;
    #[doc(hidden)]
    fn check_limits(bytes: &[u8]) -> Result<(), LoadProblem>;
}

macro_rules! file_messages {
    ($($message:ty, $name:literal, $kind:ident;)*) => {
        $(impl FileMessage for $message {
            const NAME: &'static str = $name;

            fn check_limits(bytes: &[u8]) -> Result<(), LoadProblem> {
                limits::check(bytes, Kind::$kind)
            }
        })*
    };
}

file_messages! {
    ModelProto, "ModelProto", Model;
    TensorProto, "TensorProto", Tensor;
    SequenceProto, "SequenceProto", Sequence;
    OptionalProto, "OptionalProto", Optional;
    MapProto, "MapProto", Map;
}

/// Decodes a message within the limits; its `Bytes` fields are slices of `bytes`.
pub fn decode<M: FileMessage>(bytes: Bytes) -> Result<M, LoadError> {
    M::check_limits(&bytes).map_err(LoadProblem::here)?;
    let malformed = |reason: String| LoadProblem::Malformed { expected: M::NAME, reason }.here();
    if bytes.is_empty() && M::NAME == "ModelProto" {
        return Err(malformed("the file is empty".to_owned()));
    }
    M::decode(bytes).map_err(|error| malformed(error.to_string()))
}
