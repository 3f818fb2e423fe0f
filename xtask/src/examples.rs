//! The example programs, built and run as their READMEs say, with what they make under `build/examples`.

use std::ffi::OsStr;

use crate::gpu::stand_in_driver;
use crate::setup;
use crate::shell::{Error, Result, cargo, on_path, root, run, run_in, run_with};

/// All of them, on this machine and, under qemu, on 64-bit ARM.
pub fn examples() -> Result<()> {
    rust()?;
    c()?;
    python()
}

const ARM: &str = "aarch64-unknown-linux-gnu";

fn rust() -> Result<()> {
    let folder = root().join("examples/embed-rust");
    let made = root().join("build/examples/embed-rust");
    let env = [("CARGO_TARGET_DIR", made.as_os_str())];
    run_in(&folder, cargo(), &["fmt", "--check"], &env)?;
    run_in(&folder, cargo(), &["test", "--locked", "--features", "rayon"], &env)?;
    run_in(&folder, cargo(), &["run", "--locked", "--quiet"], &env)?;
    // A machine without the network keeps the toolchain that it has: the C program below is built for ARM there too.
    if !on_path("rustup") || run("rustup", &["target", "add", ARM]).is_err() {
        println!("examples/embed-rust for {ARM}: left out, for Rust's standard library for it cannot be had here");
        return Ok(());
    }
    run_in(&folder, cargo(), &["run", "--locked", "--quiet", "--target", ARM], &env)?;
    run_in(&folder, cargo(), &["test", "--locked", "--target", ARM], &env)
}

/// The Python package: its wheel, installed in `.venv`, and its tests.
fn python() -> Result<()> {
    let python = setup::python()?;
    let wheels = root().join("build/wheels");
    if wheels.exists() {
        std::fs::remove_dir_all(&wheels).map_err(|e| Error(format!("{}: {e}", wheels.display())))?;
    }
    let arguments =
        ["-m", "maturin", "build", "--release", "--locked", "-m", "python/Cargo.toml", "-o", "build/wheels"];
    run(&python, &arguments)?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall", "--no-deps"];
    run(&python, &[&install[..], &["--no-index", "--find-links", "build/wheels", "onnxc"]].concat())?;
    let program = root().join("target/release/onnxc");
    // A driver for the tests of GPU targets.
    let driver = stand_in_driver()?;
    let env = [("ONNXC_PROGRAM", program.as_os_str()), ("LD_LIBRARY_PATH", driver.as_ref())];
    run_with(&python, &["-m", "unittest", "discover", "-s", "python/tests"], &env)?;
    run(&python, &["examples/python/read_digits.py"])
}

fn c() -> Result<()> {
    run(cargo(), &["build", "--release", "--locked"])?;
    let prefix = root().join("build/examples/prefix");
    let program = root().join("target/release/onnxc");
    run(&program, &["support".as_ref(), "--out".as_ref(), prefix.as_os_str()])?;
    for (build, toolchain) in [("c", None), ("c-arm", Some("-DCMAKE_TOOLCHAIN_FILE=aarch64.cmake"))] {
        let build = root().join("build/examples").join(build);
        let option = |name: &str, value: &OsStr| [name.as_ref(), value].join("=".as_ref());
        let mut configure = vec!["-S".into(), "examples/embed-c".into(), "-B".into(), build.clone().into_os_string()];
        configure.push(option("-DCMAKE_PREFIX_PATH", prefix.as_os_str()));
        configure.push(option("-DONNXC_EXECUTABLE", program.as_os_str()));
        configure.push("-DCMAKE_C_FLAGS=-Wall -Wextra -Werror".into());
        configure.push("-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror".into());
        configure.extend(toolchain.map(Into::into));
        run("cmake", &configure)?;
        run("cmake", &["--build".as_ref(), build.as_os_str()])?;
        run("ctest", &["--test-dir".as_ref(), build.as_os_str(), "--output-on-failure".as_ref()])?;
    }
    Ok(())
}
