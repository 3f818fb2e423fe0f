//! `onnxc targets`: the names that `--target` takes.

use onnxc::diagnostics::Failure;
use onnxc_backend::target::Target;

use super::output::say;

/// Platforms beside Linux with glibc.
const TRIPLES: [(&str, &str); 5] = [
    ("x86_64-pc-windows-gnu", "ONNX suite and a model under wine, linked by MinGW's GCC"),
    ("x86_64-pc-windows-msvc", "ONNX suite under wine, linked by MinGW's GCC"),
    ("x86_64-apple-darwin, aarch64-apple-darwin", "linked with LLD, not run"),
    ("x86_64-unknown-none, aarch64-unknown-none", "linked without a C library, not run"),
    ("x86_64-unknown-linux-musl", "compiled only"),
];

/// Prints one target a line, and what `native` is here.
pub fn run() -> Result<u8, Failure> {
    for info in Target::all() {
        say!("{:24} {}; tested: {}", info.name, info.about, info.tested)?;
    }
    match Target::native() {
        Ok(target) => say!("{:24} {}", "native", target.name())?,
        Err(error) => say!("{:24} {error}", "native")?,
    }
    say!("\nA full triple takes its architecture's baseline; +FEATURE adds to any of them.")?;
    for (triples, tested) in TRIPLES {
        say!("{triples:48} tested: {tested}")?;
    }
    Ok(0)
}
