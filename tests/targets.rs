//! What can be checked of other targets without running their code: that linkers take the objects, what those leave
//! undefined, and which instructions the loops that decide speed are made of. `cargo xtask cross` runs models.
//!
//! `cargo xtask setup` grows the models in `build/zoo` and `build/models` and installs the tools; `ONNXC_ZOO` and `ONNXC_MODELS`
//! name other places.

use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection, ObjectSymbol};

const PREFIX: &str = "the_compiled_model";

/// Compiles mobilenet_v2 for a target into a folder.
fn compile(target: &str, options: &[&str], folder: &Path) -> PathBuf {
    compile_model("ONNXC_ZOO", "build/zoo", "mobilenet_v2", target, options, folder)
}

/// Compiles a model of those in the folder that a variable names.
fn compile_model(variable: &str, models: &str, name: &str, target: &str, options: &[&str], folder: &Path) -> PathBuf {
    let models =
        std::env::var_os(variable).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(models), PathBuf::from);
    let model = models.join(name).join("model.onnx");
    assert!(model.is_file(), "{}: no model there; run `cargo xtask setup`", model.display());
    let object = folder.join("model.o");
    let arguments = ["--name", PREFIX, "--target", target, "-o"];
    succeed(Command::new(env!("CARGO_BIN_EXE_onnxc")).arg(model).args(arguments).arg(&object).args(options));
    object
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; run `cargo xtask setup`"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
}

#[test]
fn mach_o_objects_link() {
    let fat: &[&str] = &["--multiversion"];
    let intel = ("x86_64-apple-darwin", "x86_64");
    for ((target, arch), options) in [(("aarch64-apple-darwin", "arm64"), &[][..]), (intel, &[]), (intel, fat)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let object = compile(target, options, folder.path());
        let library = folder.path().join("model.dylib");
        let arguments = ["-flavor", "darwin", "-arch", arch, "-platform_version", "macos", "12.0", "12.0", "-dylib"];
        let undefined = ["-undefined", "dynamic_lookup", "-o"];
        succeed(Command::new("lld").args(arguments).args(undefined).arg(&library).arg(&object));
        let bytes = std::fs::read(&library).expect("the linker wrote the library");
        let file = object::File::parse(&*bytes).expect("the library is Mach-O");
        for name in ["", "_plan", "_run", "_status"] {
            let wanted = format!("_{PREFIX}{name}");
            assert!(file.symbols().any(|s| s.is_global() && s.name() == Ok(&wanted)), "{target}: {wanted}");
        }
    }
}

#[test]
fn bare_metal_needs_the_memory_functions_at_most() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (target, compiler) in
        [("aarch64-unknown-none", "aarch64-linux-gnu-gcc"), ("x86_64-unknown-none", "x86_64-linux-gnu-gcc")]
    {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let object = compile(target, &[], folder.path());
        let bytes = std::fs::read(&object).expect("the object is there");
        let file = object::File::parse(&*bytes).expect("the object is ELF");
        for symbol in file.symbols().filter(|s| s.is_undefined() && s.name() != Ok("")) {
            let name = symbol.name().expect("names are text");
            assert!(["memcpy", "memmove", "memset"].contains(&name), "{target}: {name}");
        }
        let flags = ["-std=c11", "-O1", "-ffreestanding", "-nostdlib", "-static", "-fno-stack-protector", "-I"];
        succeed(
            Command::new(compiler)
                .args(flags)
                .arg(manifest.join("runtime-support/include"))
                .arg(manifest.join("tests/bare/start.c"))
                .arg(&object)
                .arg("-o")
                .arg(folder.path().join("program")),
        );
    }
}

/// Bytes of machine code of an object file.
fn code_bytes(object: &Path) -> u64 {
    let bytes = std::fs::read(object).expect("the object is there");
    let file = object::File::parse(&*bytes).expect("it is an object");
    file.sections().filter(|section| section.kind() == object::SectionKind::Text).map(|section| section.size()).sum()
}

/// `cargo xtask sizes` shows what this prints.
#[test]
fn sizes_of_the_support_library_and_of_a_small_network() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let object = folder.path().join("part.o");
    let mut library = 0;
    let mut sources: Vec<PathBuf> = std::fs::read_dir(manifest.join("runtime-support/csrc"))
        .expect("the sources are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    sources.sort();
    for source in sources {
        let name = source.file_name().expect("a file has a name").to_string_lossy().into_owned();
        succeed(
            Command::new("aarch64-linux-gnu-gcc")
                .args(["-std=c11", "-Os", "-c", "-I"])
                .arg(manifest.join("runtime-support/include"))
                .arg(&source)
                .arg("-o")
                .arg(&object),
        );
        let bytes = code_bytes(&object);
        println!("{bytes:6} bytes of code on aarch64: {name}");
        library += if name.starts_with("strings") || name.starts_with("cuda") { 0 } else { bytes };
    }
    println!("{library:6} bytes of code on aarch64: the support library but for strings and GPUs");
    assert!((2048..=16 << 10).contains(&library), "{library} bytes");
    for (target, level) in [("aarch64", "-O2"), ("aarch64", "-Os"), ("x86_64", "-O2"), ("x86_64-avx512", "-O2")] {
        let digits = manifest.join("examples/embed-rust/digits.onnx");
        let arguments = ["--dim", "batch=1", "--target", target, level, "-o"];
        succeed(Command::new(env!("CARGO_BIN_EXE_onnxc")).arg(digits).args(arguments).arg(&object));
        let bytes = code_bytes(&object);
        println!("{bytes:6} bytes of code on {target} {level}: the digits' network");
        assert!((2048..=32 << 10).contains(&bytes), "{bytes} bytes for {target}");
    }
}

/// What an instruction of A64 is, as far as the loops of matrix products go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `fmla` of a vector by a lane of a vector.
    MultiplyByLane,
    /// `sdot`, `udot`, `usdot` or `sudot` of a vector by a lane of a vector.
    DotProduct,
    /// A conversion of 16-bit floats to 32 bits.
    Widen,
    /// A load of a vector register, by its base register.
    LoadVector(u32),
    /// A store of a vector register, by its base register.
    StoreVector(u32),
    /// A conditional branch by so many instructions.
    Branch(i64),
    Other,
}

fn decode(word: u32) -> Kind {
    let base = word >> 5 & 31;
    // FMLA (by element), single precision, 128 bits.
    if word & 0xffc0_f400 == 0x4f80_1000 {
        return Kind::MultiplyByLane;
    }
    // SDOT, UDOT, USDOT and SUDOT (by element).
    if matches!(word & 0xffc0_f400, 0x4f80_e000 | 0x6f80_e000 | 0x4f80_f000 | 0x4f00_f000) {
        return Kind::DotProduct;
    }
    // FCVTL and FCVTL2 to single precision.
    if word & 0xbfff_fc00 == 0x0e21_7800 {
        return Kind::Widen;
    }
    // B.cond: 19 bits of signed displacement.
    if word & 0xff00_0010 == 0x5400_0000 {
        return Kind::Branch(i64::from((word << 8) as i32 >> 13));
    }
    // LDR and STR of Q registers: a scaled offset, or an unscaled one, or an index register.
    match (word & 0xffc0_0000, word & 0xffe0_0000) {
        (0x3dc0_0000, _) | (_, 0x3cc0_0000 | 0x3ce0_0000) => Kind::LoadVector(base),
        (0x3d80_0000, _) | (_, 0x3c80_0000 | 0x3ca0_0000) => Kind::StoreVector(base),
        _ => Kind::Other,
    }
}

const STACK_POINTER: u32 = 31;

/// The instructions of the innermost loops of an object.
fn innermost_loops(object: &Path) -> Vec<Vec<Kind>> {
    let bytes = std::fs::read(object).expect("the object is there");
    let file = object::File::parse(&*bytes).expect("the object is ELF");
    let text = file.section_by_name(".text").expect("the object has code").data().expect("the code is there");
    let code: Vec<Kind> =
        text.chunks_exact(4).map(|b| decode(u32::from_le_bytes(b.try_into().expect("four bytes")))).collect();
    let mut loops = Vec::new();
    for (end, kind) in code.iter().enumerate() {
        let Kind::Branch(by @ ..0) = kind else { continue };
        let body = &code[(end as i64 + by) as usize..=end];
        if !body[..body.len() - 1].iter().any(|kind| matches!(kind, Kind::Branch(..0))) {
            loops.push(body.to_vec());
        }
    }
    loops
}

/// Sums are in registers: nothing is stored, and nothing comes from the stack.
fn assert_no_spill(body: &[Kind]) {
    let spill = |kind: &&Kind| matches!(kind, Kind::LoadVector(STACK_POINTER) | Kind::StoreVector(_));
    assert_eq!(body.iter().find(spill), None);
}

#[test]
fn inner_loops_of_integer_products_keep_dot_products_busy() {
    for target in ["aarch64-dotprod", "aarch64-dotprod+i8mm"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let object = compile_model("ONNXC_MODELS", "build/models", "integer_products", target, &[], folder.path());
        let mut loops = 0;
        for body in innermost_loops(&object) {
            let products = body.iter().filter(|&&kind| kind == Kind::DotProduct).count();
            // Four steps of four to six rows of 16 columns.
            if products < 64 {
                continue;
            }
            loops += 1;
            let loads = body.iter().filter(|kind| matches!(kind, Kind::LoadVector(_))).count();
            // A row's words of four steps, and four vectors of the panel in each of them.
            let rows = products / 16;
            assert_eq!(loads, rows + 16, "a loop of {rows} rows for {target}");
            assert_no_spill(&body);
            let share = (products + loads) as f64 / body.len() as f64;
            assert!(share >= 0.93, "{:.0}% of {} instructions make products", share * 100.0, body.len());
        }
        assert!(loops >= 6, "{loops} loops over products for {target}");
    }
}

/// Weights of 16 bits are converted where one row is multiplied by them, eight by two instructions.
#[test]
fn inner_loops_of_half_products_convert_what_they_load() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let object = compile_model("ONNXC_HALVES", "build/halves", "llama_2_decode", "aarch64", &[], folder.path());
    let mut loops = 0;
    for body in innermost_loops(&object) {
        let count = |wanted: Kind| body.iter().filter(|&&kind| kind == wanted).count();
        let (products, conversions) = (count(Kind::MultiplyByLane), count(Kind::Widen));
        if products < 32 || conversions == 0 {
            continue;
        }
        loops += 1;
        let loads = body.iter().filter(|kind| matches!(kind, Kind::LoadVector(_))).count();
        // Four steps of one row, whose elements are one load.
        assert_eq!((loads, conversions), (products / 2 + 1, products));
        assert_no_spill(&body);
        let share = (products + conversions + loads) as f64 / body.len() as f64;
        assert!(share >= 0.9, "{:.0}% of {} instructions make products", share * 100.0, body.len());
    }
    assert!(loops >= 4, "{loops} loops over products");
}

#[test]
fn inner_loops_of_products_keep_neon_busy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut loops = 0;
    for body in innermost_loops(&compile("aarch64", &[], folder.path())) {
        let products = body.iter().filter(|&&kind| kind == Kind::MultiplyByLane).count();
        // Four steps of five or six rows of 16 columns.
        if products < 80 {
            continue;
        }
        loops += 1;
        let loads = body.iter().filter(|kind| matches!(kind, Kind::LoadVector(_))).count();
        // A row's elements of four steps, and four vectors of the panel in each of them.
        let rows = products / 16;
        assert_eq!(loads, rows + 16, "loads of a loop of {rows} rows");
        assert_no_spill(&body);
        let share = (products + loads) as f64 / body.len() as f64;
        assert!(share >= 0.9, "{:.0}% of {} instructions are products and their loads", share * 100.0, body.len());
    }
    assert!(loops >= 10, "{loops} loops over products");
}
