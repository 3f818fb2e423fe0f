//! Shared libraries, through a linker of the system.
//!
//! Objects and archives need no linker; only `.so` does. The library is linked without start files and libraries: what
//! it leaves undefined are the `mem*` functions, which the program that loads it has. Models that need more bring it as C
//! sources, which a compiler driver compiles into the library.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use target_lexicon::{BinaryFormat, Triple};
use thiserror::Error;

use crate::object::emit::{self, Emitted};
use crate::object::{ObjectError, ObjectSpec};
use crate::output_file;
use crate::target::Target;

/// Why a library could not be linked.
#[derive(Debug, Error)]
pub enum LinkError {
    /// Before the linker ran.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The format has no shared libraries that onnxc knows to make.
    #[error("shared libraries for {target} are not supported; write an object or an archive, which need no linker")]
    Format {
        /// The target's name.
        target: String,
    },
    /// Nothing to link with.
    #[error("no linker for {target} was found (looked for {}); name one with --linker, or write an object or an \
             archive, which need none", .tried.join(", "))]
    NoLinker {
        /// The target's name.
        target: String,
        /// What was looked for.
        tried: Vec<String>,
    },
    /// The linker could not be started.
    #[error("cannot run the linker {}: {source}", .linker.display())]
    Run {
        /// The program.
        linker: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A linker alone cannot compile what the model needs.
    #[error("{} links only, and the library needs C sources compiled into it; name a C compiler with --linker, or write an \
             object or an archive", .linker.display())]
    NoCompiler {
        /// The program.
        linker: PathBuf,
    },
    /// The linker failed.
    #[error("the linker {} failed:\n{stderr}", .linker.display())]
    Failed {
        /// The program.
        linker: PathBuf,
        /// What it wrote to its standard error.
        stderr: String,
    },
}

/// A linker and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Linker {
    program: PathBuf,
    /// A compiler driver, which hands `-Wl,` options on.
    driver: bool,
    /// What comes before all else.
    leading: &'static [&'static str],
}

impl Linker {
    /// Tells from a program's name how to call it.
    fn named(program: PathBuf) -> Self {
        let name = program.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let leading: &[&str] = if name == "rust-lld" || name == "lld" { &["-flavor", "gnu"] } else { &[] };
        let is_linker = name.starts_with("ld") || name.ends_with("-ld") || name.contains("lld") || name == "mold";
        Self { program, driver: !is_linker, leading }
    }

    /// `sources` is a folder with C sources and their names.
    fn arguments(&self, object: &Path, library: &Path, sources: Option<(&Path, &[&str])>) -> Vec<OsString> {
        let options = ["--build-id=none", "--eh-frame-hdr", "-znoexecstack", "-zrelro", "-znow", "-ztext"];
        let mut arguments: Vec<OsString> = self.leading.iter().map(OsString::from).collect();
        arguments.push("-shared".into());
        if self.driver {
            arguments.push(if sources.is_some() { "-nostartfiles" } else { "-nostdlib" }.into());
            arguments.extend(options.iter().map(|option| OsString::from(format!("-Wl,{option}"))));
        } else {
            arguments.extend(options.iter().map(OsString::from));
        }
        arguments.push("-o".into());
        arguments.extend([library.into(), object.into()]);
        if let Some((folder, names)) = sources {
            // Each library has functions of its own, whatever else the process has under their names.
            arguments.extend(["-std=c11", "-O2", "-fPIC", "-Wl,-Bsymbolic", "-I"].map(Into::into));
            arguments.push(folder.into());
            arguments.extend(names.iter().map(|name| folder.join(name).into_os_string()));
            arguments.extend(["-pthread", "-ldl"].map(Into::into));
        }
        arguments
    }
}

/// Links the object of `spec` into a shared library at `path`, which appears whole or not at all.
///
/// `linker` is a compiler driver or an ELF linker; without one, the first that is found of cc (the target's cross
/// compiler when it is another machine's), ld.lld and rust-lld, in PATH or in rustc's own folder. `support` is what is
/// compiled into the library, files by name: the `.c` ones, and the others beside them.
pub fn shared_library(
    spec: &ObjectSpec<'_>,
    path: &Path,
    linker: Option<&Path>,
    support: &[(&str, &str)],
) -> Result<Emitted, LinkError> {
    if spec.target.binary_format() != BinaryFormat::Elf {
        return Err(LinkError::Format { target: spec.target.to_string() });
    }
    let linker = match linker {
        Some(program) => Linker::named(program.to_owned()),
        None => find_linker(spec.target)?,
    };
    let failed = |source| ObjectError::Write { path: path.to_owned(), source };
    let object = emit::object_beside(spec, path)?;
    let library = output_file::beside(path).map_err(failed)?;
    let folder = tempfile::tempdir().map_err(failed)?;
    for (name, text) in support {
        std::fs::write(folder.path().join(name), text).map_err(failed)?;
    }
    let names: Vec<&str> = support.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".c")).collect();
    if !names.is_empty() && !linker.driver {
        return Err(LinkError::NoCompiler { linker: linker.program });
    }
    let sources = (!names.is_empty()).then_some((folder.path(), &names[..]));
    let arguments = linker.arguments(object.path(), library.path(), sources);
    let output = Command::new(&linker.program).env("LC_ALL", "C").args(arguments).output();
    let output = output.map_err(|source| LinkError::Run { linker: linker.program.clone(), source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        return Err(LinkError::Failed { linker: linker.program, stderr });
    }
    // Linkers replace the file, so the size is that of what the name now stands for.
    let file_bytes = library.path().metadata().map_err(failed)?.len();
    output_file::put(library, path).map_err(failed)?;
    Ok(Emitted { file_bytes, ..emit::emitted(spec, object.as_file()).map_err(failed)? })
}

fn find_linker(target: &Target) -> Result<Linker, LinkError> {
    let drivers = drivers(target);
    let tried: Vec<String> =
        drivers.iter().map(|name| name.as_str()).chain(["ld.lld", "rust-lld"]).map(Into::into).collect();
    let found = tried.iter().find_map(|name| find_in_path(name)).or_else(rustc_lld);
    found.map(Linker::named).ok_or_else(|| LinkError::NoLinker { target: target.to_string(), tried })
}

/// Names of compiler drivers that link for the target.
fn drivers(target: &Target) -> Vec<String> {
    let (host, triple) = (Triple::host(), target.triple());
    if host.architecture == triple.architecture && host.operating_system == triple.operating_system {
        vec!["cc".into()]
    } else {
        let command = target.c_compiler().unwrap_or_default();
        command.split_whitespace().take(1).map(str::to_owned).collect()
    }
}

fn find_in_path(name: &str) -> Option<PathBuf> {
    let file = format!("{name}{}", env::consts::EXE_SUFFIX);
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(&file)).find(|program| program.is_file())
}

/// The linker that comes with a Rust toolchain.
fn rustc_lld() -> Option<PathBuf> {
    let rustc = find_in_path("rustc")?;
    let output = Command::new(rustc).args(["--print", "target-libdir"]).output().ok()?;
    let libraries = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    let program = libraries.parent()?.join("bin").join(format!("rust-lld{}", env::consts::EXE_SUFFIX));
    program.is_file().then_some(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linkers_are_told_from_drivers_by_name() {
        let driver = |name: &str| Linker::named(PathBuf::from(name)).driver;
        assert!(driver("cc") && driver("aarch64-linux-gnu-gcc") && driver("/opt/llvm/bin/clang-19"));
        assert!(!driver("ld.lld") && !driver("ld") && !driver("aarch64-linux-gnu-ld") && !driver("/x/rust-lld"));
        assert_eq!(Linker::named("rust-lld".into()).leading, ["-flavor", "gnu"]);
    }
}
