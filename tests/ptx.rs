//! What is emitted for GPUs assembles, with the last ptxas of CUDA 12 and a newer one: a sample of the ONNX suite, small
//! models of the zoo's kinds, and products of every kind, which do so without spills. Nothing runs here.
//!
//! `cargo xtask setup` installs the assemblers in `.venv` (`tests/ptx-requirements.txt`) and makes the models;
//! `ONNXC_PTXAS` names other assemblers, separated by colons, `ONNXC_NVDISASM` another disassembler, `ONNXC_SUITE`,
//! `ONNXC_SMALL`, `ONNXC_PRODUCTS` and `ONNXC_ATTENTION` other places of models.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Of the suite's cases one in so many is assembled.
const EVERY: usize = 40;

fn built(variable: &str, name: &str) -> PathBuf {
    std::env::var_os(variable)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("build").join(name), PathBuf::from)
}

/// The folders of NVIDIA's packages in `.venv`.
fn packages() -> Vec<PathBuf> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/lib");
    let versions = std::fs::read_dir(&lib).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    versions.map(|python| python.join("site-packages/nvidia")).collect()
}

/// The disassembler.
fn disassembler() -> PathBuf {
    let given = std::env::var_os("ONNXC_NVDISASM").map(PathBuf::from);
    let found = || packages().iter().map(|n| n.join("cu13/bin/nvdisasm")).find(|path| path.is_file());
    given.or_else(found).expect("no nvdisasm in .venv: run `cargo xtask setup`")
}

/// The assemblers.
fn assemblers() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os("ONNXC_PTXAS") {
        return std::env::split_paths(&list).collect();
    }
    let nvidia = packages();
    ["cuda_nvcc", "cu13"]
        .map(|package| {
            let found = nvidia.iter().map(|n| n.join(package).join("bin/ptxas")).find(|path| path.is_file());
            found.unwrap_or_else(|| panic!("no ptxas of `{package}` in .venv: run `cargo xtask setup`"))
        })
        .into()
}

/// The PTX of a model's kernels; none if the model is one that no target serves.
fn ptx(model: &Path, target: &str, folder: &Path) -> Option<PathBuf> {
    ptx_with(model, target, folder, &[])
}

fn ptx_with(model: &Path, target: &str, folder: &Path, more: &[&str]) -> Option<PathBuf> {
    let path = folder.join("model.ptx");
    let output = Command::new(env!("CARGO_BIN_EXE_onnxc"))
        .arg(model)
        .args(["--emit", "asm", "--name", "m", "--target", target])
        .args(more)
        .arg("-o")
        .arg(&path)
        .output()
        .expect("onnxc runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || stderr.contains("error["), "{}: {stderr}", model.display());
    output.status.success().then_some(path)
}

/// Assembles for an architecture and gives what the assembler says of registers.
fn assemble(assembler: &Path, sm: &str, ptx: &Path, what: &Path) -> String {
    let object = ptx.with_extension("cubin");
    let mut command = Command::new(assembler);
    command.args(["-v", &format!("-arch={sm}"), "-o"]).arg(&object).arg(ptx);
    let output = command.output().unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask setup`", assembler.display()));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{} with {}:\n{text}", what.display(), assembler.display());
    text
}

/// The folders of models below a folder, sorted.
fn models(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask setup`", folder.display()));
        for entry in entries {
            let path = entry.expect("the folder can be read").path();
            if path.join("model.onnx").is_file() {
                all.push(path.join("model.onnx"));
            } else if path.is_dir() {
                open.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_sample_of_the_suite_assembles() {
    let (assemblers, folder) = (assemblers(), tempfile::tempdir().expect("a temporary folder"));
    let mut assembled = 0;
    for model in models(&built("ONNXC_SUITE", "suite")).iter().step_by(EVERY) {
        let Some(ptx) = ptx(model, "nvptx64-sm_80", folder.path()) else { continue };
        assemblers.iter().for_each(|ptxas| drop(assemble(ptxas, "sm_80", &ptx, model)));
        assembled += 1;
    }
    assert!(assembled >= 45, "{assembled} cases only");
}

#[test]
fn small_models_assemble() {
    let (assemblers, folder) = (assemblers(), tempfile::tempdir().expect("a temporary folder"));
    let models = models(&built("ONNXC_SMALL", "small"));
    assert_eq!(models.len(), 3, "run `cargo xtask setup`");
    for model in models {
        for (target, sm) in [("nvptx64-sm_80", "sm_80"), ("nvptx64-sm_90a", "sm_90a")] {
            let ptx = ptx(&model, target, folder.path()).expect("the model compiles");
            for ptxas in &assemblers {
                let said = assemble(ptxas, sm, &ptx, &model);
                assert!(said.contains("Used "), "{said}");
            }
        }
    }
}

/// What an assembler says of each entry: its name, and how many bytes it spills.
fn entries(said: &str) -> Vec<(String, u32)> {
    let mut all: Vec<(String, u32)> = Vec::new();
    let number = |line: &str, before: &str| -> u32 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let unit: Vec<&str> = before.split_whitespace().collect();
        let at = words.windows(unit.len()).position(|w| w.iter().zip(&unit).all(|(a, b)| a.trim_matches(',') == *b));
        at.and_then(|i| words[i - 1].parse().ok()).unwrap_or_else(|| panic!("no {before} in {line}"))
    };
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            all.push((rest.split('\'').next().expect("a name").to_owned(), u32::MAX));
        } else if line.contains("spill stores") {
            all.last_mut().expect("an entry").1 =
                number(line, "bytes spill stores") + number(line, "bytes spill loads");
        }
    }
    all
}

/// Kernels on matrix instructions, of each size of tile, precision and way of loading, assemble without spills, and are
/// what they say.
#[test]
fn products_assemble_without_spills_to_matrix_instructions() {
    let (assemblers, folder) = (assemblers(), tempfile::tempdir().expect("a temporary folder"));
    let cases = [
        ("weights", "f16", "HMMA.16816.F32"),
        ("weights", "bf16", "HMMA.16816.F32.BF16"),
        ("weights", "tf32", "HMMA.1688.F32.TF32"),
        ("f32", "bf16", "HMMA.16816.F32.BF16"),
        ("f32", "tf32", "HMMA.1688.F32.TF32"),
        ("f16", "f32", "HMMA.16816.F32"),
        ("bytes", "f32", "IMMA.16832"),
        ("boxes", "f32", "HMMA.16816.F32"),
        ("boxes_bytes", "f32", "IMMA.16832"),
        ("conv_f32", "bf16", "HMMA.16816.F32.BF16"),
        ("conv_f16", "f32", "HMMA.16816.F32"),
        ("deep_f16", "f32", "HMMA.16816.F32"),
    ];
    for (name, precision, instruction) in cases {
        let model = built("ONNXC_PRODUCTS", "products").join(name).join("model.onnx");
        for sizes in [&[][..], &["--dim", "batch=4096"]] {
            let arguments =
                [&["--precision", precision][..], if name.contains("bytes") { &[] } else { sizes }].concat();
            assembles_without_spills(&assemblers, folder.path(), (&model, &arguments), instruction);
        }
    }
}

/// Attention too, of heads of 20 to 128 elements.
#[test]
fn attention_assembles_without_spills_to_matrix_instructions() {
    let (assemblers, folder) = (assemblers(), tempfile::tempdir().expect("a temporary folder"));
    let cases = [
        ("f32", "f16", "HMMA.16816.F32"),
        ("f32", "bf16", "HMMA.16816.F32.BF16"),
        ("f32", "tf32", "HMMA.1688.F32.TF32"),
        ("f16", "f32", "HMMA.16816.F32"),
    ];
    for (name, precision, instruction) in cases {
        let model = built("ONNXC_ATTENTION", "attention").join(name).join("model.onnx");
        let arguments = ["--precision", precision];
        let case = (&*model, &arguments[..]);
        let tuned = assembles_without_spills(&assemblers, folder.path(), case, instruction);
        assert_eq!(tuned, 4, "{name} {precision}");
    }
}

/// Targets, and what assemblers call them.
const TARGETS: [(&str, &str); 2] = [("nvptx64-sm_80", "sm_80"), ("nvptx64-sm_90a", "sm_90a")];

/// Assembles a model's kernels for targets; those on matrix instructions spill nothing. Gives how many they are.
fn assembles_without_spills(
    assemblers: &[PathBuf],
    folder: &Path,
    (model, arguments): (&Path, &[&str]),
    instruction: &str,
) -> usize {
    let what = format!("{} {arguments:?}", model.display());
    let mut count = 0;
    for (target, sm) in TARGETS {
        let ptx = ptx_with(model, target, folder, arguments).expect("the model compiles");
        let text = std::fs::read_to_string(&ptx).expect("the text is there");
        let tuned: Vec<&str> = text
            .split(".visible .entry ")
            .filter(|kernel| kernel.contains("mma.sync") || kernel.contains("wgmma."))
            .map(|kernel| kernel.split('(').next().expect("a name"))
            .collect();
        assert!(!tuned.is_empty(), "{what}");
        count = tuned.len();
        for ptxas in assemblers {
            let said = assemble(ptxas, sm, &ptx, model);
            // What the assembler says where it waits after each `wgmma`.
            assert!(!said.contains("serialized"), "{what}: {said}");
            let entries = entries(&said);
            for kernel in &tuned {
                let entry = entries.iter().find(|(name, _)| name == kernel).expect("each is assembled");
                assert_eq!(entry.1, 0, "{what} {sm}: {kernel} spills\n{said}");
            }
        }
        let mut command = Command::new(disassembler());
        let output = command.arg(ptx.with_extension("cubin")).output().expect("nvdisasm starts");
        let code = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        let found = |what: &str| assert!(code.contains(what), "{what} {sm}: no {what}");
        if text.contains("wgmma.") {
            // Products of groups of warps, which read memory by themselves.
            found(if instruction.starts_with('I') { "IGMMA.64x" } else { "HGMMA.64x" });
            if text.contains("cp.async.bulk.tensor") {
                found("UTMALDG");
            }
        } else {
            found(instruction);
            found("LDSM");
        }
    }
    count
}

/// Kernels for a few rows keep all their sums in registers, and read weights 16 bytes at a time.
#[test]
fn products_of_a_few_rows_assemble_without_spills() {
    let (assemblers, folder) = (assemblers(), tempfile::tempdir().expect("a temporary folder"));
    for name in ["few_rows_f32", "few_rows_f16"] {
        let model = built("ONNXC_PRODUCTS", "products").join(name).join("model.onnx");
        for precision in ["f32", "bf16"] {
            let arguments = ["--precision", precision];
            let ptx = ptx_with(&model, "nvptx64-sm_80", folder.path(), &arguments).expect("the model compiles");
            let text = std::fs::read_to_string(&ptx).expect("the text is there");
            assert!(text.contains("ld.global.nc.v4.b32"), "{name} {precision}: no wide loads");
            for ptxas in &assemblers {
                let said = assemble(ptxas, "sm_80", &ptx, &model);
                let spilled: Vec<(String, u32)> = entries(&said).into_iter().filter(|entry| entry.1 != 0).collect();
                assert!(spilled.is_empty(), "{name} {precision}: {spilled:?}");
            }
        }
    }
}

/// A model becomes three files, and the description names what is in the two others.
#[test]
fn a_model_is_text_weights_and_a_description() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = built("ONNXC_SMALL", "small").join("resnet18_64/model.onnx");
    let out = folder.path().join("net.ptx");
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxc"));
    let status = command.arg(&model).args(["--target", "nvptx64-sm_80", "-o"]).arg(&out).status();
    assert!(status.expect("onnxc runs").success(), "{}: run `cargo xtask setup`", model.display());
    let text = std::fs::read_to_string(&out).expect("the text is there");
    let json = std::fs::read(out.with_extension("json")).expect("the description is there");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
    let weights = std::fs::metadata(out.with_extension("weights")).expect("the weights are there").len();
    assert_eq!(json["weights"]["bytes"].as_u64(), Some(weights));
    assert_eq!(json["inputs"][0]["dims"], serde_json::json!([1, 3, 64, 64]));
    let kernels = json["kernels"].as_array().expect("a list of kernels");
    for kernel in kernels {
        let name = kernel["name"].as_str().expect("a name");
        assert!(text.contains(&format!(".visible .entry {name}(")), "{name}");
    }
    let launches = json["steps"].as_array().expect("a list of steps").iter().filter(|step| step["launch"].is_string());
    for launch in launches {
        let kernel = kernels.iter().find(|kernel| kernel["name"] == launch["launch"]).expect("the kernel is listed");
        assert_eq!(kernel["buffers"].as_u64(), launch["buffers"].as_array().map(|b| b.len() as u64), "{launch}");
    }
    // A processor has no PTX.
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxc"));
    let output = command.arg(&model).args(["--target", "x86_64", "-o"]).arg(&out).output().expect("onnxc runs");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("PTX is for GPUs"));
}
