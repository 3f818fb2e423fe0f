//! Running programs: each command is printed before it runs and its time after it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Why a task failed, as one line.
#[derive(Debug)]
pub struct Error(pub String);

/// The result of a task.
pub type Result<T> = std::result::Result<T, Error>;

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// Runs a program in the root of the checkout; an exit status other than 0 is an error.
pub fn run<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[A]) -> Result<()> {
    run_with(program, arguments, &[])
}

/// As [`run`], with further environment variables.
pub fn run_with<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[A], env: &[(&str, &OsStr)]) -> Result<()> {
    run_in(&root(), program, arguments, env)
}

/// As [`run_with`], in a folder.
pub fn run_in<A: AsRef<OsStr>>(
    folder: &Path,
    program: impl AsRef<OsStr>,
    arguments: &[A],
    env: &[(&str, &OsStr)],
) -> Result<()> {
    let program = program.as_ref();
    let mut line = program.to_string_lossy().into_owned();
    for argument in arguments {
        line.push(' ');
        line.push_str(&argument.as_ref().to_string_lossy());
    }
    println!("+ {line}");
    let started = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .envs(env.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .status()
        .map_err(|e| Error(format!("cannot run {}: {e}", program.to_string_lossy())))?;
    println!("  {:.1} s", started.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(Error(format!("{line}: {status}"))) }
}

/// Whether a program of this name lies on the PATH.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// The cargo that runs this task.
pub fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
