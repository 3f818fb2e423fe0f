//! Development tasks: `cargo xtask TASK`.
//!
//! `cargo xtask ci` is the one command that passes all tests on a fresh machine; CI runs nothing else. It sets up what
//! it needs in ignored folders of the checkout: a Python environment in `.venv`, generated models in `build/`.

mod bench;
mod ci;
mod cross;
mod examples;
mod gpu;
mod setup;
mod shell;

use std::process::ExitCode;

use shell::Error;

const USAGE: &str = "\
cargo xtask TASK

  ci       set up, then check formatting, lint, and run every test
  setup    make what the tests need: .venv, build/suite, build/microsoft, build/zoo, cross compilers
  lint     rustfmt --check and clippy with warnings denied
  test     every test, once `setup` has run
  examples build and run the programs of examples/, also for 64-bit ARM under qemu
  cross    a part of the ONNX suite and a model on each other target whose emulator is there, or on those whose names
           contain what follows; with --quick, what CI has time for
  sizes    print bytes of code: the support library on 64-bit ARM, the network of examples/embed-rust
  gpu      [--OPTION...]: check and time on an NVIDIA GPU beside PyTorch, in one table; gpu --help has the options;
           --stand-in: the same in small on the stand-in driver, without times; --pack DIR [MODEL...]: a folder with all
           of it, and these models, for a machine with a device and no checkout
  bless    run the ONNX suite and write its snapshot anew
  operators  write docs/OPERATORS.md anew
  figures  [MODEL...]: compile time, code, arena, start, equal bits for 1, 2 and 5 workers, and `--fp strict`, with their bounds
  zoo      grow the named benchmark models, or all (4 GB), into build/zoo
  bench    [MODEL...] [--OPTION...]: time onnxc beside other libraries and print the tables; bench --help has the options";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["ci"] => ci::ci(),
        ["setup"] => setup::setup(),
        ["lint"] => ci::lint(),
        ["test"] => ci::test(),
        ["examples"] => examples::examples(),
        ["cross"] => cross::cross("", false),
        ["cross", "--quick"] => cross::cross("", true),
        ["cross", target] => cross::cross(target, false),
        ["gpu", arguments @ ..] => gpu::gpu(arguments),
        ["sizes"] => ci::sizes(),
        ["bless"] => ci::bless(),
        ["operators"] => ci::operators(),
        ["figures", names @ ..] => bench::figures(names),
        ["bench", arguments @ ..] => bench::bench(arguments),
        ["zoo", names @ ..] => setup::python().and_then(|python| setup::zoo(&python, names)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error(message)) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
