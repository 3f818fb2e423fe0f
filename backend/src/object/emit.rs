//! Object files, archives and images in memory from a spec.
//!
//! Files appear whole or not at all (`output_file.rs`).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};
use memmap2::{Mmap, MmapMut};
use target_lexicon::BinaryFormat;
use tempfile::NamedTempFile;

use super::elf::{self, Layout};
use super::weights::Weights;
use super::{ObjectError, ObjectSpec, generic};
use crate::output_file;

/// The sizes of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Machine code, constant pools included.
    pub code_bytes: u64,
    /// Weights.
    pub weight_bytes: u64,
    /// The file.
    pub file_bytes: u64,
}

/// Writes a relocatable object to `path`.
pub fn object_file(spec: &ObjectSpec<'_>, path: &Path) -> Result<Emitted, ObjectError> {
    let temporary = object_beside(spec, path)?;
    let emitted = emitted(spec, temporary.as_file()).map_err(|error| failed(path, error))?;
    output_file::put(temporary, path).map_err(|error| failed(path, error))?;
    Ok(emitted)
}

/// Writes a static library with a symbol index to `path`, its only member named after the prefix.
pub fn archive_file(spec: &ObjectSpec<'_>, path: &Path) -> Result<Emitted, ObjectError> {
    let object = object_beside(spec, path)?;
    let write = || {
        // SAFETY: the mapped file is a temporary one of this process's own, which nothing else changes.
        let bytes = unsafe { Mmap::map(object.as_file())? };
        let (kind, extension) = match spec.target.binary_format() {
            BinaryFormat::Macho => (ArchiveKind::Darwin, "o"),
            BinaryFormat::Coff => (ArchiveKind::Coff, "obj"),
            _ => (ArchiveKind::Gnu, "o"),
        };
        let member = NewArchiveMember::new(bytes, &DEFAULT_OBJECT_READER, format!("{}.{extension}", spec.prefix));
        let mut archive = output_file::beside(path)?;
        let mut out = BufWriter::new(archive.as_file_mut());
        write_archive_to_stream(&mut out, &[member], kind, false, Some(false))?;
        out.flush()?;
        drop(out);
        let emitted = emitted(spec, archive.as_file())?;
        output_file::put(archive, path)?;
        Ok(emitted)
    };
    write().map_err(|error| failed(path, error))
}

/// The object in memory, for the loader: weights are produced straight into it.
pub fn object_image(spec: &ObjectSpec<'_>) -> Result<Mmap, ObjectError> {
    let layout = lay_out(spec)?;
    let head = layout.head.len();
    let weights = spec.weights.as_ref().filter(|_| layout.weights_follow);
    let len = weights.map_or(0, |weights| weights.len) + head as u64;
    let len = usize::try_from(len).map_err(|_| ObjectError::Weights(io::ErrorKind::OutOfMemory.into()))?;
    let mut image = MmapMut::map_anon(len).map_err(ObjectError::Weights)?;
    image[..head].copy_from_slice(&layout.head);
    if let Some(weights) = weights {
        weights.fill(&mut image[head..]).map_err(ObjectError::Weights)?;
    }
    image.make_read_only().map_err(ObjectError::Weights)
}

/// The object under a temporary name in the folder of `path`, which disappears with the value.
pub(crate) fn object_beside(spec: &ObjectSpec<'_>, path: &Path) -> Result<NamedTempFile, ObjectError> {
    let layout = lay_out(spec)?;
    written_beside(path, |out| {
        out.write_all(&layout.head)?;
        match spec.weights.as_ref().filter(|_| layout.weights_follow) {
            Some(weights) => weights.stream(out),
            None => Ok(()),
        }
    })
}

/// What `write` writes, under a temporary name in the folder of `path`. Its errors that are not the file's are the weights'.
fn written_beside(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<NamedTempFile, ObjectError> {
    let mut temporary = output_file::beside(path).map_err(|error| failed(path, error))?;
    let mut out = WriteErrors { out: BufWriter::new(temporary.as_file_mut()), failed: false };
    let written = write(&mut out).and_then(|()| out.flush());
    match written {
        Ok(()) => {}
        Err(error) if out.failed => return Err(failed(path, error)),
        Err(error) => return Err(ObjectError::Weights(error)),
    }
    drop(out);
    Ok(temporary)
}

fn lay_out(spec: &ObjectSpec<'_>) -> Result<Layout, ObjectError> {
    spec.check()?;
    match spec.target.binary_format() {
        BinaryFormat::Elf => elf::layout(spec),
        _ => Ok(Layout { head: generic::write(spec)?, weights_follow: false }),
    }
}

/// Writes a small file, whole or not at all.
pub fn text_file(text: &str, path: &Path) -> Result<(), ObjectError> {
    output_file::write(path, text.as_bytes()).map_err(|error| failed(path, error))
}

/// A file that is written and not yet in its place; without [`PendingFile::persist`] it disappears.
#[derive(Debug)]
pub struct PendingFile<'p> {
    temporary: NamedTempFile,
    path: &'p Path,
}

impl PendingFile<'_> {
    /// Puts the file in its place.
    pub fn persist(self) -> Result<(), ObjectError> {
        output_file::put(self.temporary, self.path).map_err(|error| failed(self.path, error))
    }
}

/// Writes weights to a file of their own, and each of their bytes to `digest` too.
pub fn weights_file<'p>(
    weights: &Weights<'_>,
    path: &'p Path,
    digest: &mut dyn Write,
) -> Result<PendingFile<'p>, ObjectError> {
    weights.check()?;
    let temporary = written_beside(path, |out| weights.stream(&mut Both(out, digest)))?;
    Ok(PendingFile { temporary, path })
}

/// Writes to the first and hands what that took to the second.
struct Both<'w>(&'w mut dyn Write, &'w mut dyn Write);

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.write_all(&bytes[..written])?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.1.flush()
    }
}

fn failed(path: &Path, source: io::Error) -> ObjectError {
    ObjectError::Write { path: path.to_owned(), source }
}

pub(crate) fn emitted(spec: &ObjectSpec<'_>, file: &File) -> io::Result<Emitted> {
    Ok(Emitted {
        code_bytes: spec.code_bytes(),
        weight_bytes: spec.weights.as_ref().map_or(0, |weights| weights.len),
        file_bytes: file.metadata()?.len(),
    })
}

/// Remembers whether an error came from the destination or from the source of a weight.
struct WriteErrors<W> {
    out: W,
    failed: bool,
}

impl<W: Write> Write for WriteErrors<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes).inspect_err(|_| self.failed = true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush().inspect_err(|_| self.failed = true)
    }
}
