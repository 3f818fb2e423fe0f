//! Real models against ONNX Runtime's answers: from the command line, from a C program, under the interpreters, and on
//! another architecture.
//!
//! `cargo xtask setup` grows the models in `build/zoo`; `ONNXC_ZOO` names another place. An answer is right when
//! `max|y - ref| <= 1e-4 * max|ref|`.

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};
use onnxc::values::{Tolerance, compare, read_value};

const MODELS: &[&str] = &[
    "bert_base_s128",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "gpt2_s64",
    "llama70m_decode128",
    "lstm_tagger",
    "minilm_l6_s128",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "skl_gbm_reg",
    "skl_rf_cls",
    "unet_small",
    "vgg11",
    "vit_b_16",
    "wavconv_1s",
    "whisper_tiny_dec",
    "whisper_tiny_enc",
    "yolov8n_like",
];

/// Models with sizes that a run decides, each compiled once and run at three sizes. The C program takes static ones only.
const DYNAMIC_MODELS: &[&str] =
    &["bert_base_dyn", "gpt2_kv_dyn", "gru_tagger_dyn", "llama70m_dyn_dynamo", "t5s_dec_dyn", "t5s_enc_dyn"];

/// Models whose activations are rounded to 8 bits on the way, with the root-mean-square error that is accepted at the end,
/// relative to the reference's. Where a value lies near the middle between two steps its last bit decides which one it
/// becomes, and the layers behind amplify that: 12 layers of bert, which take their steps from the data, turn one unit in the
/// last place of the weights into 1.9% to 2.6% of ONNX Runtime's own answer in this measure (5.6% to 8.6% in the worst of
/// 768 elements, a maximum that has no bound worth naming). The scales of resnet50 are constants, and its output has a last
/// step of 0.76% of its maximum, which is how far ONNX Runtime's levels of optimization are apart. So this bound only says
/// that nothing is wrong at large; [`ROUNDING_TESTS`] are the comparison at 1e-4.
const ROUNDING_MODELS: &[(&str, &str)] = &[("bert_dynint8", "3e-2"), ("resnet50_qdq", "1.1e-2")];

/// The same models where ONNX Runtime and compiled code have the same bits before each rounding (`tests/models/rounding.py`
/// makes them): all their pieces between two quantisations, each given ONNX Runtime's own tensors, and all of resnet50
/// against ONNX Runtime's integer kernels, whose sums are as exact as ours and which round in the same places on x86.
const ROUNDING_TESTS: &[&str] = &["bert_dynint8_pieces", "resnet50_qdq_pieces", "resnet50_qdq_integers"];

/// Models that the interpreters run too: their multiply-accumulates are at most this many.
const INTERPRETED_MACS: u64 = 400_000_000;
const MAX_RELATIVE: &str = "1e-4";
const EXACT: [&str; 2] = ["--max-rel", MAX_RELATIVE];
const ONNXC: &str = env!("CARGO_BIN_EXE_onnxc");

fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn zoo() -> PathBuf {
    std::env::var_os("ONNXC_ZOO").map_or_else(|| manifest().join("build/zoo"), PathBuf::from)
}

/// The folder of a model; an error when it was not grown.
fn model_dir(name: &str) -> Result<PathBuf, Failed> {
    let dir = zoo().join(name);
    if !dir.join("model.onnx").is_file() {
        return Err(format!("{}: no model there; run `cargo xtask setup`", dir.display()).into());
    }
    Ok(dir)
}

/// Runs a command; an error with its output unless it exits with 0.
fn succeed(command: &mut Command) -> Result<String, Failed> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{stdout}{stderr}", output.status).into());
    }
    Ok(stdout)
}

/// The files `STEM_0.npy`, `STEM_1.npy`, ... of a folder.
fn numbered(dir: &Path, stem: &str) -> Vec<PathBuf> {
    (0..).map(|i| dir.join(format!("{stem}_{i}.npy"))).take_while(|path| path.is_file()).collect()
}

/// Compares the output files of two folders.
fn compare_outputs(found: &Path, reference: &Path) -> Result<(), Failed> {
    let references = numbered(reference, "output");
    if references.is_empty() {
        return Err(format!("{}: no outputs", reference.display()).into());
    }
    for (i, path) in references.iter().enumerate() {
        let reference = read_value(path, None).map_err(|e| e.to_string())?;
        let found = read_value(&found.join(format!("output_{i}.npy")), None).map_err(|e| e.to_string())?;
        compare(&found, &reference, &Tolerance::MaxRelative(1e-4)).map_err(|e| format!("output {i}: {e}"))?;
    }
    Ok(())
}

/// `onnxc test` on the model's folder; `tolerance` is an option and its bound.
fn command_line(name: &str, engine: &str, tolerance: [&str; 2]) -> Result<(), Failed> {
    let timeout = if engine == "native" { "120" } else { "60" };
    succeed(Command::new(ONNXC).arg("test").arg(model_dir(name)?).args([
        "--jobs",
        "1",
        tolerance[0],
        tolerance[1],
        "--engine",
        engine,
        "--timeout",
        timeout,
    ]))
    .map(drop)
}

/// `onnxc test` on one of [`ROUNDING_TESTS`].
fn rounding(name: &str) -> Result<(), Failed> {
    let folder = manifest().join("build/rounding").join(name);
    if !folder.join("model.onnx").is_file() {
        return Err(format!("{}: no model there; run `cargo xtask setup`", folder.display()).into());
    }
    succeed(Command::new(ONNXC).arg("test").arg(folder).args(EXACT).args(["--jobs", "1", "--timeout", "120"])).map(drop)
}

/// `onnxc test` with code of its own for one of the sizes that the model is run at.
fn specialized(name: &str, sizes: &str) -> Result<(), Failed> {
    let folder = model_dir(name)?;
    let checks = ["--specialize", sizes, "--jobs", "1", "--max-rel", MAX_RELATIVE];
    succeed(Command::new(ONNXC).arg("test").arg(folder).args(checks)).map(drop)
}

/// `onnxc test` with every tensor between pages without access, in memory that is full of garbage.
fn guarded(name: &str) -> Result<(), Failed> {
    let folder = model_dir(name)?;
    let checks = ["--guard", "--poison", "--jobs", "1", "--max-rel", MAX_RELATIVE, "--timeout", "240"];
    succeed(Command::new(ONNXC).arg("test").arg(folder).args(checks)).map(drop)
}

/// Compiles the model for a target, links it with the C program of `examples/c`, runs that, and returns the folder with
/// the outputs.
fn run_c_program(name: &str, target: &str, cc: &[&str], runner: &[&str]) -> Result<tempfile::TempDir, Failed> {
    let model = model_dir(name)?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let object = folder.path().join("model.o");
    let program = folder.path().join("run");
    succeed(Command::new(ONNXC).arg(model.join("model.onnx")).arg("-o").arg(&object).args([
        "--name",
        "the_compiled_model",
        "--target",
        target,
    ]))?;
    succeed(
        Command::new(cc[0])
            .args(&cc[1..])
            .args(["-std=c11", "-O1", "-Wall", "-Werror", "-DMODEL=the_compiled_model", "-I"])
            .arg(manifest().join("runtime-support/include"))
            .arg(manifest().join("examples/c/run_npy.c"))
            .arg(&object)
            .arg("-o")
            .arg(&program),
    )?;
    let mut run = match runner {
        [] => Command::new(&program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    succeed(run.arg(folder.path()).args(numbered(&model.join("test_data_set_0"), "input")))?;
    Ok(folder)
}

fn c_program(name: &str) -> Result<(), Failed> {
    let folder = run_c_program(name, "native", &["gcc"], &[])?;
    compare_outputs(folder.path(), &model_dir(name)?.join("test_data_set_0"))
}

/// The same model compiled for x86_64 and for aarch64, the latter under qemu.
fn cross(name: &str) -> Result<(), Failed> {
    let arm = run_c_program(name, "aarch64", &["aarch64-linux-gnu-gcc", "-static"], &["qemu-aarch64-static"])?;
    compare_outputs(arm.path(), &model_dir(name)?.join("test_data_set_0"))?;
    if cfg!(target_arch = "x86_64") {
        let here = run_c_program(name, "x86_64", &["gcc"], &[])?;
        compare_outputs(arm.path(), here.path())?;
    }
    Ok(())
}

/// Two compilations write the same bytes, whatever the output's name.
fn reproducible(name: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut objects = Vec::new();
    for file in ["one.o", "other.o"] {
        let path = folder.path().join(file);
        let model = model_dir(name)?.join("model.onnx");
        succeed(Command::new(ONNXC).arg(model).arg("-o").arg(&path).args(["--name", "m"]))?;
        objects.push(std::fs::read(&path).map_err(|e| e.to_string())?);
    }
    if objects[0] != objects[1] {
        return Err("two compilations differ".into());
    }
    Ok(())
}

/// The multiply-accumulates of a model, from its recipe.
fn macs(name: &str) -> u64 {
    let path = manifest().join(format!("bench/zoo/recipes/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let recipe: serde_json::Value = serde_json::from_str(&text).expect("recipes are JSON");
    recipe["meta"]["macs"].as_u64().expect("recipes count multiply-accumulates")
}

fn main() {
    let mut arguments = Arguments::from_args();
    // The models are large: at most two compilations at once keep within 8 GB.
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(2).min(2));
    let mut trials = Vec::new();
    for &name in MODELS {
        let test = move || command_line(name, "native", EXACT);
        trials.push(Trial::test(format!("command_line::{name}"), test));
        trials.push(Trial::test(format!("c_program::{name}"), move || c_program(name)));
        trials.push(Trial::test(format!("guarded::{name}"), move || guarded(name)));
        if macs(name) <= INTERPRETED_MACS {
            trials.push(Trial::test(format!("interpreter::{name}"), move || command_line(name, "interp", EXACT)));
        }
    }
    for &(name, bound) in ROUNDING_MODELS {
        let test = move || command_line(name, "native", ["--rms-rel", bound]);
        trials.push(Trial::test(format!("command_line::{name}"), test));
    }
    // Kernels of 8 bits on other processors round sums elsewhere.
    for &name in ROUNDING_TESTS.iter().filter(|name| !name.ends_with("integers") || cfg!(target_arch = "x86_64")) {
        trials.push(Trial::test(format!("rounding::{name}"), move || rounding(name)));
    }
    for &name in DYNAMIC_MODELS {
        let test = move || command_line(name, "native", EXACT);
        trials.push(Trial::test(format!("command_line::{name}"), test));
        trials.push(Trial::test(format!("guarded::{name}"), move || guarded(name)));
    }
    for (name, sizes) in [("gru_tagger_dyn", "N=2,T=40"), ("t5s_enc_dyn", "seq=48")] {
        trials.push(Trial::test(format!("specialized::{name}"), move || specialized(name, sizes)));
    }
    trials.push(Trial::test("cross::mobilenet_v2", || cross("mobilenet_v2")));
    trials.push(Trial::test("reproducible::mobilenet_v2", || reproducible("mobilenet_v2")));
    trials.push(Trial::test("reproducible::minilm_l6_s128", || reproducible("minilm_l6_s128")));
    libtest_mimic::run(&arguments, trials).exit();
}
