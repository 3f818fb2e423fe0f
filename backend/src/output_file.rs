//! Files that appear whole or not at all.
//!
//! Each is written beside its place under a temporary name and renamed at the end, so that nothing ever sees half of one
//! and a failed run leaves what was there. What is no regular file (`/dev/null`, a pipe) is written into instead: a rename
//! would replace the device. A symbolic link is followed, as compilers do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A temporary file for what will be at `path`: in the same folder, or in the system's one where `path` is a device or a
/// pipe. It disappears with the value.
///
/// # Errors
/// The folder is not there or not writable.
pub fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let place = place(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnxc-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As a compiler's output has it: the process's umask decides, not the private mode of temporary files.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    match place {
        Place::Stream => builder.tempfile(),
        Place::File(path) => match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => builder.tempfile_in(folder),
            _ => builder.tempfile_in("."),
        },
    }
}

/// Puts a finished temporary file of [`beside`] in its place.
///
/// # Errors
/// `path` is a folder, or cannot be replaced or written.
pub fn put(temporary: NamedTempFile, path: &Path) -> io::Result<()> {
    match place(path) {
        Place::File(path) => temporary.persist(path).map(drop).map_err(|error| error.error),
        Place::Stream => {
            let mut from: File = temporary.into_file();
            from.rewind()?;
            let mut to = OpenOptions::new().write(true).open(path)?;
            io::copy(&mut from, &mut to)?;
            to.flush()
        }
    }
}

/// Writes a small file.
///
/// # Errors
/// As [`beside`] and [`put`].
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = beside(path)?;
    temporary.write_all(bytes)?;
    put(temporary, path)
}

/// Whether `path` is a device or a pipe, beside which nothing belongs.
pub fn is_stream(path: &Path) -> bool {
    matches!(place(path), Place::Stream)
}

enum Place {
    /// A regular file, a folder (which the rename refuses) or nothing yet.
    File(PathBuf),
    /// A device or a pipe.
    Stream,
}

fn place(path: &Path) -> Place {
    match fs::metadata(path) {
        Ok(data) if data.is_file() => Place::File(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())),
        Ok(data) if !data.is_dir() => Place::Stream,
        _ => Place::File(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "long old contents").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_dropped_temporary_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let mut temporary = beside(&path).unwrap();
        temporary.write_all(b"half").unwrap();
        drop(temporary);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_one_and_its_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        // A link of our own: were the device replaced after all, the machine's one would stay.
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::metadata(&link).unwrap().file_type().is_char_device());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write(folder.path(), b"new").is_err());
    }
}
