//! Elements that lie in other files, beneath the model's folder.

use bytes::Bytes;
use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use super::error::LoadProblem;
use super::mapping;
use super::model::StringStringEntryProto;

/// The files that a model's tensors may name. Each is mapped once.
#[derive(Debug, Default)]
pub struct ExternalData {
    folder: Option<PathBuf>,
    mapped: Mutex<HashMap<PathBuf, Bytes>>,
}

impl ExternalData {
    /// Files beneath a folder, which itself may be reached through links.
    pub fn beneath(folder: PathBuf) -> ExternalData {
        ExternalData { folder: Some(folder), mapped: Mutex::default() }
    }

    /// No files: any external tensor is an error.
    pub fn none() -> ExternalData {
        ExternalData::default()
    }

    /// The files that tensors have named so far, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        let mapped = self.mapped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut files: Vec<PathBuf> = mapped.keys().cloned().collect();
        files.sort();
        files
    }

    /// The bytes that a tensor's `external_data` names: `needed` of them, whatever it says.
    pub(super) fn slice(&self, entries: &[StringStringEntryProto], needed: u64) -> Result<Bytes, LoadProblem> {
        let find = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let location = find("location").unwrap_or_default();
        let refuse = |reason: String| LoadProblem::External { location: location.to_owned(), reason };
        let number = |key: &'static str| match find(key) {
            None => Ok(None),
            Some(text) => {
                text.parse::<u64>().map(Some).map_err(|_| refuse(format!("{key} `{text}` is no unsigned number")))
            }
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        if let Some(length) = length
            && length != needed
        {
            return Err(refuse(format!("length is {length}, the dimensions need {needed} bytes")));
        }
        let bytes = self.file(location)?;
        let end = offset.checked_add(needed).filter(|end| *end <= bytes.len() as u64);
        let Some(end) = end else {
            return Err(refuse(format!(
                "{needed} bytes at offset {offset} reach past the file's end at {}",
                bytes.len()
            )));
        };
        // Both are at most the mapping's length, which is a `usize`.
        Ok(bytes.slice(offset as usize..end as usize))
    }

    fn file(&self, location: &str) -> Result<Bytes, LoadProblem> {
        let refuse = |reason: &str| LoadProblem::External { location: location.to_owned(), reason: reason.to_owned() };
        let folder = self.folder.as_ref().ok_or_else(|| refuse("a model in memory has no files beside it"))?;
        // A name with a backslash or a drive means something else on another system, so none may have it.
        if location.is_empty() || location.contains(['\\', '\0', ':']) {
            return Err(refuse("not a portable relative path"));
        }
        let mut path = folder.clone();
        for component in Path::new(location).components() {
            match component {
                Component::CurDir => continue,
                Component::Normal(name) => path.push(name),
                _ => return Err(refuse("leaves the model's folder")),
            }
            let metadata = fs::symlink_metadata(&path).map_err(|error| refuse(&error.to_string()))?;
            if metadata.is_symlink() {
                return Err(refuse("passes through a symbolic link"));
            }
        }
        let mut mapped = self.mapped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(bytes) = mapped.get(&path) {
            return Ok(bytes.clone());
        }
        let bytes = mapping::map(&path).map_err(|problem| refuse(&problem.to_string()))?;
        mapped.insert(path, bytes.clone());
        Ok(bytes)
    }
}
