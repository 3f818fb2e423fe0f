//! Objects of hand-assembled code: written, inspected, loaded, linked and run.

mod sample;

use std::path::Path;
use std::process::Command;

use object::{Object, ObjectSection, ObjectSymbol};
use onnxc_backend::header::{self, HeaderModel, HeaderPort};
use onnxc_backend::link;
use onnxc_backend::loader::{HostSymbol, LoadError, LoadedModel, ObjectImage};
use onnxc_backend::object::emit;
use onnxc_backend::object::{DataObject, ObjectError, ObjectSpec, Reloc};
use onnxc_backend::target::Target;

fn target() -> Target {
    Target::parse("x86_64").unwrap()
}

fn bytes_of(spec: &ObjectSpec<'_>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.o");
    let emitted = emit::object_file(spec, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(emitted.file_bytes, bytes.len() as u64);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    bytes
}

#[test]
fn an_object_has_the_sections_and_symbols_of_its_spec() {
    let target = target();
    let bytes = bytes_of(&sample::spec(&target));
    assert!(bytes == bytes_of(&sample::spec(&target)), "equal specs give equal bytes");
    assert!(bytes == emit::object_image(&sample::spec(&target)).unwrap()[..], "the image is the file");

    let file = object::File::parse(bytes.as_slice()).unwrap();
    for symbol in file.symbols().filter(|symbol| symbol.name() != Ok("")) {
        let name = symbol.name().unwrap();
        match symbol.is_undefined() {
            true => assert_eq!(name, "memcpy"),
            false => assert!(name == "net" || name == "net.onnx" || name.starts_with("net_"), "{name}"),
        }
        let exported = ["net", "net_pick", "net_copy", "net_answer", "memcpy"].contains(&name);
        assert_eq!(symbol.is_global(), exported, "{name}");
    }
    let section = |name| file.section_by_name(name).unwrap_or_else(|| panic!("a section {name}"));
    assert_eq!(section(".note.GNU-stack").size(), 0);
    assert_eq!(section(".data.rel.ro").size(), 32);
    let weights = section(".rodata.weights");
    assert_eq!(weights.align(), 64);
    assert_eq!(weights.file_range().unwrap().0 % 4096, 0);
    assert!(
        weights.data().unwrap()[..sample::WEIGHTS].iter().enumerate().all(|(at, byte)| *byte == sample::weight(at))
    );
}

#[test]
fn coff_and_macho_objects_hold_the_same_symbols() {
    for name in ["x86_64-pc-windows-gnu", "x86_64-apple-darwin"] {
        let target = Target::parse(name).unwrap();
        let mut spec = sample::spec(&target);
        // COFF has no GOT.
        spec.functions.retain(|function| function.name != "net_copy");
        let bytes = bytes_of(&spec);
        let file = object::File::parse(bytes.as_slice()).unwrap();
        let underscore = if name.contains("apple") { "_" } else { "" };
        for symbol in ["net", "net_pick", "net_answer"] {
            assert!(file.symbol_by_name(&format!("{underscore}{symbol}")).is_some(), "{symbol} in {name}");
        }
        assert_eq!(file.symbols().filter(|symbol| symbol.is_undefined()).count(), 0);
        let refused = emit::object_image(&sample::spec(&target));
        assert_eq!(refused.is_err(), name.contains("windows"));
    }
}

#[test]
fn specs_that_break_the_rules_are_refused() {
    let target = target();
    let refused = |change: &dyn Fn(&mut ObjectSpec<'_>)| {
        let mut spec = sample::spec(&target);
        change(&mut spec);
        match emit::object_image(&spec) {
            Err(ObjectError::Invalid(message)) => message,
            other => panic!("expected a refusal, not {other:?}"),
        }
    };
    assert!(refused(&|spec| spec.functions[0].name = "pick".into()).contains("does not begin with"));
    assert!(refused(&|spec| spec.functions[0].name = "net_copy".into()).contains("defined twice"));
    assert!(refused(&|spec| spec.functions[1].relocations[1].symbol = "malloc".into()).contains("nothing defines"));
    assert!(refused(&|spec| spec.functions[0].relocations[0].offset = 10).contains("outside"));
    assert!(refused(&|spec| spec.data[0].align = 3).contains("alignment"));
    assert!(refused(&|spec| spec.weights.as_mut().unwrap().chunks[1].offset = 64).contains("misplaced"));
    let mut spec = sample::spec(&target);
    spec.functions[0].relocations[0].kind = Reloc::Arm64Call;
    assert!(matches!(emit::object_image(&spec), Err(ObjectError::Unsupported { format: "ELF", .. })));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let target = target();
    let folder = tempfile::tempdir().unwrap();
    let mut spec = sample::spec(&target);
    spec.weights.as_mut().unwrap().push(8, |_: &mut dyn std::io::Write| Err(std::io::Error::other("no such tensor")));
    for write in [emit::object_file, emit::archive_file] {
        let error = write(&spec, &folder.path().join("net.o")).unwrap_err();
        assert!(error.to_string().contains("no such tensor"), "{error}");
    }
    assert!(link::shared_library(&spec, &folder.path().join("net.so"), None, &[]).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let missing = folder.path().join("missing/net.o");
    assert!(matches!(emit::object_file(&sample::spec(&target), &missing), Err(ObjectError::Write { .. })));
}

#[cfg(target_arch = "x86_64")]
mod execution {
    use super::*;
    use std::ffi::CStr;

    fn check(model: &LoadedModel) {
        let address = |name: &str| model.symbol(name).unwrap_or_else(|| panic!("a symbol {name}"));
        // SAFETY: the sample's functions have these signatures, and the model outlives the calls.
        unsafe {
            let pick: extern "C" fn(u32) -> i32 = std::mem::transmute(address("net_pick"));
            let answer: extern "C" fn() -> i32 = std::mem::transmute(address("net_answer"));
            let copy: extern "C" fn(*mut u8, usize) = std::mem::transmute(address("net_copy"));
            assert_eq!((0..5).map(|index| pick(index)).collect::<Vec<_>>(), [3, 1, 4, 1, 5]);
            assert_eq!(answer(), 42);
            let mut copied = vec![0; sample::WEIGHTS];
            copy(copied.as_mut_ptr(), copied.len());
            assert!(copied.iter().enumerate().all(|(index, byte)| *byte == sample::weight(index)));
        }
        let descriptor = address("net").cast::<*const u8>();
        // SAFETY: the descriptor is four pointers, the first to a C string and the last into the weights.
        unsafe {
            assert_eq!(CStr::from_ptr((*descriptor).cast()).to_str(), Ok("a network"));
            assert_eq!(*descriptor.add(1), address("net_pick"));
            assert_eq!(**descriptor.add(3), sample::weight(64));
            assert_eq!(*descriptor.add(3) as usize % 64, 0);
        }
    }

    #[test]
    fn a_loaded_object_runs() {
        let target = target();
        let spec = sample::spec(&target);
        let image = ObjectImage::from(emit::object_image(&spec).unwrap());
        let model = LoadedModel::load(image, &[]).unwrap();
        check(&model);
        assert_eq!(model.in_place_bytes(), spec.weights.as_ref().unwrap().len);
        assert!(model.code_range().contains(&(model.symbol("net_forty").unwrap() as usize)));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.o");
        emit::object_file(&spec, &path).unwrap();
        let model = LoadedModel::load(ObjectImage::open(&path).unwrap(), &[]).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::thread::spawn(move || check(&model)).join().unwrap();
    }

    #[test]
    fn weights_that_code_reaches_directly_are_copied() {
        let target = target();
        let mut spec = sample::spec(&target);
        // lea rsi, [rip + net_weights]
        spec.functions[1].code[4] = 0x8d;
        spec.functions[1].relocations[0].kind = Reloc::X86PCRel4;
        let model = LoadedModel::load(emit::object_image(&spec).unwrap().into(), &[]).unwrap();
        assert_eq!(model.in_place_bytes(), 0);
        check(&model);
    }

    #[test]
    fn support_symbols_come_from_the_caller() {
        extern "C" fn seven() -> i32 {
            7
        }
        let target = target();
        let mut spec = sample::spec(&target);
        spec.functions[2].relocations[0].symbol = "onnxc_seven".into();
        let mut table = DataObject::new("net_more");
        table.put_pointer("onnxc_eight", 0);
        spec.data.push(table);
        let image = || emit::object_image(&spec).unwrap().into();
        match LoadedModel::load(image(), &[]) {
            Err(LoadError::Undefined(names)) => assert_eq!(names, ["onnxc_eight", "onnxc_seven"]),
            other => panic!("expected undefined symbols, not {other:?}"),
        }
        let host = ["onnxc_seven", "onnxc_eight"].map(|name| HostSymbol { name, address: seven as *const u8 });
        let model = LoadedModel::load(image(), &host).unwrap();
        // SAFETY: the sample's function has this signature.
        let answer: extern "C" fn() -> i32 = unsafe { std::mem::transmute(model.symbol("net_answer").unwrap()) };
        assert_eq!(answer(), 9);
    }

    #[test]
    fn damaged_objects_are_refused_or_loaded_but_never_crash_the_loader() {
        let target = target();
        let mut spec = sample::spec(&target);
        spec.weights = Some({
            let mut weights = onnxc_backend::object::weights::Weights::new("net_weights");
            weights.push(100, |out: &mut dyn std::io::Write| out.write_all(&[1; 100]));
            weights
        });
        let whole = bytes_of(&spec);
        let load = |bytes: &[u8]| LoadedModel::load(ObjectImage::from_bytes(bytes).unwrap(), &[]).is_ok();
        assert!(load(&whole));
        for len in 0..whole.len() {
            assert!(!load(&whole[..len]), "cut at {len}");
        }
        let head = whole.len() - 100;
        let mut loaded = 0;
        for at in 0..head {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                loaded += usize::from(load(&bytes));
            }
        }
        assert!(loaded > 0 && loaded < head * 3, "{loaded} of {} changes were accepted", head * 3);
    }
}

const PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
extern const void *const net[4];
int net_pick(unsigned i);
int net_answer(void);
void net_copy(void *to, size_t bytes);
int main(void) {
    unsigned char copied[10000];
    size_t i;
    net_copy(copied, sizeof copied);
    for (i = 0; i < sizeof copied; i++) if (copied[i] != i * 7 % 251) return 1;
    if (net_pick(4) != 5 || net_answer() != 42) return 2;
    if (strcmp(net[0], "a network") != 0 || *(const unsigned char *)net[3] != 64 * 7 % 251) return 3;
    puts("ok");
    return 0;
}
"#;

/// Compiles and runs [`PROGRAM`] with what `arguments` add.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn run_program(folder: &Path, arguments: &[&str]) {
    std::fs::write(folder.join("main.c"), PROGRAM).unwrap();
    let arguments = ["-Wall", "-Werror", "main.c", "-o", "main"].iter().chain(arguments);
    let compiled = Command::new("cc").args(arguments).current_dir(folder).output().unwrap();
    let messages = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success() && messages.is_empty(), "{messages}");
    let ran = Command::new(folder.join("main")).current_dir(folder).output().unwrap();
    assert!(ran.status.success() && ran.stdout == b"ok\n", "{ran:?}");
}

#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn objects_archives_and_libraries_link_into_c_programs() {
    let target = target();
    let spec = sample::spec(&target);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    emit::object_file(&spec, &folder.join("net.o")).unwrap();
    emit::archive_file(&spec, &folder.join("libnet.a")).unwrap();
    run_program(folder, &["net.o", "-pie"]);
    run_program(folder, &["net.o", "-no-pie", "-fno-pie"]);
    run_program(folder, &["-L.", "-lnet"]);
    std::fs::remove_file(folder.join("libnet.a")).unwrap();
    let emitted = link::shared_library(&spec, &folder.join("libnet.so"), None, &[]).unwrap();
    assert_eq!(emitted.file_bytes, folder.join("libnet.so").metadata().unwrap().len());
    run_program(folder, &["-L.", "-lnet", "-Wl,-rpath,$ORIGIN"]);
    let first = std::fs::read(folder.join("libnet.so")).unwrap();
    link::shared_library(&spec, &folder.join("other.so"), Some(Path::new("cc")), &[]).unwrap();
    assert!(first == std::fs::read(folder.join("other.so")).unwrap(), "a library's bytes do not depend on its path");

    let failed = link::shared_library(&spec, &folder.join("bad.so"), Some(Path::new("/nonexistent/cc")), &[]);
    assert!(failed.unwrap_err().to_string().contains("/nonexistent/cc"));
    assert!(!folder.join("bad.so").exists());
}

#[test]
fn headers_are_valid_c_and_cpp_and_go_together() {
    let port = |name: &str, what: &str| HeaderPort { name: name.into(), what: what.into() };
    let model = |prefix: &str| HeaderModel {
        prefix: prefix.into(),
        target: "x86_64".into(),
        inputs: vec![port("pixels */ oops /*", "f32[batch, 3, 224, 224]")],
        outputs: vec![port("class", "i64[batch]")],
        symbols: vec!["batch".into()],
        notes: vec!["The arena has 4096 bytes.".into()],
    };
    let folder = tempfile::tempdir().unwrap();
    let mut source = String::new();
    for prefix in ["net", "second"] {
        std::fs::write(folder.path().join(format!("{prefix}.h")), header::text(&model(prefix)).unwrap()).unwrap();
        source.push_str(&format!("#include \"{prefix}.h\"\n"));
    }
    source.push_str("#include \"net.h\"\nonnxc_run_fn runs[2];\n");
    source.push_str("void set(void) { runs[0] = net_run; runs[1] = second.run; }\n");
    for (file, standard) in [("main.c", "-std=c11"), ("main.cpp", "-std=c++11")] {
        std::fs::write(folder.path().join(file), &source).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args([standard, "-Wall", "-Wextra", "-pedantic", "-Werror", "-c", file, "-o", "out.o"]);
        let output = compiler.current_dir(folder.path()).output().unwrap();
        let messages = String::from_utf8_lossy(&output.stderr);
        // A machine may have a C compiler without its C++ half.
        if file == "main.cpp" && messages.contains("cc1plus") {
            continue;
        }
        assert!(output.status.success(), "{file}: {messages}");
    }
    assert!(header::text(&model("class")).is_err());
}
