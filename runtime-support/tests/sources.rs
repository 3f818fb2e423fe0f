//! The C side as C and C++ programs see it: clean under strict warnings, small, and enough to run a model.

#![allow(unused_crate_dependencies)]

use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection, SectionKind};

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The target's C or C++ compiler with strict warnings.
fn compiler(cpp: bool, standard: &str) -> Command {
    let mut build = cc::Build::new();
    build.cpp(cpp).target(env!("ONNXC_BUILD_TARGET")).host(env!("ONNXC_BUILD_HOST")).opt_level_str("s");
    build.cargo_metadata(false).debug(false).warnings(false);
    let mut command = build.get_compiler().to_command();
    command.arg(format!("-std={standard}")).args(WARNINGS).arg("-I").arg(root().join("include"));
    command
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("a C compiler");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn c_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root().join("csrc")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "c"));
    files.sort();
    files
}

#[test]
fn the_library_compiles_without_warnings_and_its_code_fits_24_kilobytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut code = 0;
    for file in c_files() {
        let object = folder.path().join("part.o");
        succeeds(compiler(false, "c11").arg("-c").arg(&file).arg("-o").arg(&object));
        let bytes = std::fs::read(&object).unwrap();
        let parsed = object::File::parse(&*bytes).unwrap();
        code += parsed.sections().filter(|s| s.kind() == SectionKind::Text).map(|s| s.size()).sum::<u64>();
    }
    assert!((500..=24 * 1024).contains(&code), "{code} bytes of code");
}

#[test]
fn every_source_is_listed_for_those_who_write_it_out() {
    let listed: Vec<PathBuf> = onnxc_runtime::SUPPORT_SOURCES.iter().map(|(path, _)| root().join(path)).collect();
    assert!(c_files().iter().all(|file| listed.contains(file)));
    assert_eq!(c_files().len() + 3, listed.len(), "and three headers");
}

#[test]
fn the_headers_are_clean_c11_and_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let text = "#include \"onnxc_support.h\"\nONNXC_DECLARE_MODEL(model);\n\
                onnxc_call make(void);\nonnxc_call make(void) { onnxc_call call = ONNXC_CALL_INIT; return call; }\n";
    for (cpp, standards) in [(false, &["c11", "c17", "gnu11"][..]), (true, &["c++11", "c++17", "c++20"])] {
        let file = folder.path().join(if cpp { "use.cc" } else { "use.c" });
        std::fs::write(&file, text).unwrap();
        for standard in standards {
            succeeds(compiler(cpp, standard).arg("-c").arg(&file).arg("-o").arg(folder.path().join("use.o")));
        }
    }
}

#[test]
fn the_header_takes_dlpack_types_that_are_there_already() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("both.c");
    let header = onnxc_runtime::HEADER;
    let start = header.find("#ifndef DLPACK_DLPACK_H_").unwrap() + "#ifndef DLPACK_DLPACK_H_".len();
    let types = &header[start..start + header[start..].find("#endif").unwrap()];
    let text = format!("#define DLPACK_DLPACK_H_\n#include <stdint.h>\n{types}\n#include \"onnxc.h\"\nint unused;\n");
    std::fs::write(&file, text).unwrap();
    succeeds(compiler(false, "c11").arg("-c").arg(&file).arg("-o").arg(folder.path().join("both.o")));
}

#[test]
fn a_c_program_runs_a_model_by_hand_and_in_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let tests = root().join("tests/model");
    succeeds(
        compiler(false, "c11")
            .args([tests.join("program.c"), tests.join("fake.c")])
            .args(c_files())
            .args(["-pthread", "-o"])
            .arg(&program),
    );
    assert_eq!(succeeds(&mut Command::new(&program)), "by hand 0 23\nin a session 0 23\ntoo small -15: needs 4 x 3\n");
}

/// On a driver without a device, which takes the place of the system's.
#[cfg(target_os = "linux")]
#[test]
fn a_host_program_for_a_gpu_runs_records_and_fails_as_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let (driver, program) = (folder.path().join("libcuda.so.1"), folder.path().join("program"));
    let tests = root().join("tests/cuda");
    succeeds(compiler(false, "c11").args(["-shared", "-fPIC"]).arg(tests.join("driver.c")).arg("-o").arg(&driver));
    let sources = [tests.join("program.c"), root().join("csrc/cuda.c"), root().join("csrc/cuda_device.c")];
    succeeds(compiler(false, "c11").args(sources).args(["-pthread", "-o"]).arg(&program));
    assert_eq!(succeeds(Command::new(&program).env("LD_LIBRARY_PATH", folder.path())), "right\n");
}
