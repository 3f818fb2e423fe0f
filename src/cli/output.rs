//! What commands print.
//!
//! A reader may stop early, as `head` does, and close its end. What is printed after that is dropped; the command goes on to
//! its own end and status, so that files are written all the same. Any other failure on stdout is an error.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use onnxc::diagnostics::Failure;

/// Prints a line on stdout: `println!` that gives a result.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line on stderr, where nobody may be reading.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::output::note_line(format_args!($($text)*)) };
}

pub(super) use {note, say};

/// Prints a text on stdout.
pub(super) fn print(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::io(Path::new("stdout"), &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a line on stderr. There is no place left to say that this failed.
pub(super) fn note_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
