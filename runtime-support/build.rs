//! Compiles the support library, and the model written by hand that the tests run, for the target. Without the feature
//! `sessions` there is nothing to compile.

#[cfg(feature = "sessions")]
fn main() {
    support_library::compile();
}

#[cfg(not(feature = "sessions"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}

#[cfg(feature = "sessions")]
mod support_library {
    use std::path::Path;

    const SOURCES: [&str; 10] = [
        "csrc/cuda.c",
        "csrc/cuda_device.c",
        "csrc/memory.c",
        "csrc/pool.c",
        "csrc/session.c",
        "csrc/status.c",
        "csrc/strings.c",
        "csrc/strings_numbers.c",
        "csrc/strings_text.c",
        "csrc/weights.c",
    ];
    const TEST_MODEL: &str = "tests/model/fake.c";

    pub fn compile() {
        println!("cargo::rerun-if-changed=include");
        println!("cargo::rerun-if-changed=csrc");
        println!("cargo::rerun-if-changed={TEST_MODEL}");
        compiler().files(SOURCES).compile("onnxc_support");
        let include = Path::new(&environment("CARGO_MANIFEST_DIR")).join("include");
        println!("cargo::metadata=include={}", include.display());
        // The tests name this archive in a link attribute; the library itself never does. A published crate lacks it.
        if Path::new(TEST_MODEL).exists() {
            compiler().file(TEST_MODEL).cargo_metadata(false).compile("onnxc_fake_model");
            println!("cargo::rustc-link-search=native={}", environment("OUT_DIR"));
        }
        println!("cargo::rustc-env=ONNXC_BUILD_TARGET={}", environment("TARGET"));
        println!("cargo::rustc-env=ONNXC_BUILD_HOST={}", environment("HOST"));
    }

    fn compiler() -> cc::Build {
        let mut build = cc::Build::new();
        build.include("include").std("c11").opt_level(2);
        build
    }

    fn environment(name: &str) -> String {
        std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
    }
}
