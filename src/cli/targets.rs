//! `onnxc targets`: the names that `--target` takes.

use onnxc::diagnostics::Failure;
use onnxc_backend::target::Target;

/// Prints one target a line, and what `native` is here.
pub fn run() -> Result<u8, Failure> {
    for info in Target::all() {
        println!("{:24} {}", info.name, info.about);
    }
    match Target::native() {
        Ok(target) => println!("{:24} {}", "native", target.name()),
        Err(error) => println!("{:24} {error}", "native"),
    }
    println!("\nA full triple takes its architecture's baseline; +FEATURE adds to any of them.");
    Ok(0)
}
