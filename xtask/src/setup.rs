//! What the tests need and the checkout does not hold: Python packages, generated models, cross compilers.
//!
//! Every step looks first whether its result is already there, so that a second run takes no time.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::shell::{Error, Result, on_path, root, run};

/// The models that the tests compare with ONNX Runtime.
pub const TESTED_MODELS: &[&str] = &[
    "bert_base_dyn",
    "bert_base_s128",
    "bert_dynint8",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "gpt2_kv_dyn",
    "gpt2_s64",
    "gru_tagger_dyn",
    "llama70m_decode128",
    "llama70m_dyn_dynamo",
    "lstm_tagger",
    "minilm_l6_s128",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "resnet50_qdq",
    "skl_gbm_reg",
    "skl_rf_cls",
    "t5s_dec_dyn",
    "t5s_enc_dyn",
    "unet_small",
    "vgg11",
    "vit_b_16",
    "wavconv_1s",
    "whisper_tiny_dec",
    "whisper_tiny_enc",
    "yolov8n_like",
];

/// `(program, Debian packages that bring it)`; the cross tests and the examples need them all.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("gcc", &["gcc", "libc6-dev"]),
    ("c++", &["g++"]),
    ("cmake", &["cmake", "make"]),
    ("qemu-aarch64-static", &["qemu-user-static"]),
    ("aarch64-linux-gnu-gcc", &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"]),
    ("riscv64-linux-gnu-gcc", &["gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross"]),
    ("x86_64-w64-mingw32-gcc", &["gcc-mingw-w64-x86-64"]),
    ("wine", &["wine", "wine64"]),
    ("lld", &["lld"]),
    ("aarch64-linux-gnu-g++", &["g++-aarch64-linux-gnu"]),
];

/// Everything.
pub fn setup() -> Result<()> {
    programs()?;
    let python = python()?;
    run(&python, &["tests/conformance/generate.py", "build/suite"])?;
    run(&python, &["tests/microsoft/generate.py", "build/microsoft"])?;
    run(&python, &["tests/models/generate.py", "build/models"])?;
    run(&python, &["tests/models/products.py", "build/products"])?;
    run(&python, &["tests/models/attention.py", "build/attention"])?;
    assemblers(&python)?;
    zoo(&python, TESTED_MODELS)?;
    made(&python, "tests/models/small.py", &["build/zoo"], "build/small")?;
    made(&python, "tests/models/halves.py", &["build/zoo", "build/small"], "build/halves")?;
    made(&python, "tests/models/rounding.py", &["build/zoo"], "build/rounding")
}

/// What a program makes of other folders, made anew when the program changes.
fn made(python: &OsString, program: &str, from: &[&str], out: &str) -> Result<()> {
    let (wanted, stamp) = (read(&root().join(program))?, root().join(out).join("stamp.txt"));
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    run(python, &[&[program], from, &[out]].concat())?;
    std::fs::write(&stamp, wanted).map_err(|e| Error(format!("{}: {e}", stamp.display())))
}

/// The assemblers and the disassembler of `tests/ptx-requirements.txt`, without what they need to compile CUDA. Wheels hold
/// no permissions.
fn assemblers(python: &OsString) -> Result<()> {
    let (list, stamp) = ("tests/ptx-requirements.txt", root().join(".venv/ptx.installed"));
    let wanted = read(&root().join(list))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    run(python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", list])?;
    let executable = "import glob, os, sys\nfor path in glob.glob(os.path.join(sys.prefix, \"lib/python*/site-packages/nvidia/*/bin/*\")): os.chmod(path, 0o755)";
    run(python, &["-c", executable])?;
    std::fs::write(&stamp, wanted).map_err(|e| Error(format!("{}: {e}", stamp.display())))
}

/// Installs the programs that are missing, on Debian as root; elsewhere says which ones.
fn programs() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| !on_path(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|(_, packages)| packages.iter().copied()).collect();
    if !on_path("apt-get") || !is_root() {
        let names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
        return Err(Error(format!("missing: {}; on Debian: apt-get install {}", names.join(", "), packages.join(" "))));
    }
    run("apt-get", &["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    run("apt-get", &arguments)
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").stderr(Stdio::null()).output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// The interpreter of `.venv`, with the packages of `tests/requirements.txt`.
pub fn python() -> Result<OsString> {
    let venv = root().join(".venv");
    let python = venv.join("bin/python");
    let wanted = read(&root().join("tests/requirements.txt"))?;
    let stamp = venv.join("requirements.installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python.into_os_string());
    }
    if run("python3", &["-m", "venv", "--clear", ".venv"]).is_err() {
        if !on_path("apt-get") || !is_root() {
            return Err(Error("python3 with venv is needed; on Debian: apt-get install python3-venv".into()));
        }
        run("apt-get", &["update", "-qq"])?;
        run("apt-get", &["install", "-y", "-qq", "--no-install-recommends", "python3-venv"])?;
        run("python3", &["-m", "venv", "--clear", ".venv"])?;
    }
    install(&python, "tests/requirements.txt", &stamp)?;
    Ok(python.into_os_string())
}

/// The same interpreter, with the packages of `bench/requirements.txt` too.
pub fn bench_python() -> Result<OsString> {
    let python = python()?;
    let stamp = root().join(".venv/bench.installed");
    let wanted = read(&root().join("bench/requirements.txt"))?;
    if !std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        install(Path::new(&python), "bench/requirements.txt", &stamp)?;
    }
    Ok(python)
}

/// Installs the packages of a file and writes its text to the stamp.
fn install(python: &Path, requirements: &str, stamp: &Path) -> Result<()> {
    run(python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements])?;
    let wanted = read(&root().join(requirements))?;
    std::fs::write(stamp, wanted).map_err(|e| Error(format!("{}: {e}", stamp.display())))
}

/// Grows the named models into `build/zoo`, all of them when none is named. A model is there when its stamp holds the
/// text of its recipe and of the program that grows it.
pub fn zoo(python: &OsString, names: &[&str]) -> Result<()> {
    let recipes = root().join("bench/zoo/recipes");
    let out = root().join("build/zoo");
    let program = read(&root().join("bench/zoo/make_zoo.py"))?;
    let names: Vec<String> =
        if names.is_empty() { all_recipes(&recipes)? } else { names.iter().map(|n| (*n).into()).collect() };
    let mut stale = Vec::new();
    for name in names {
        let stamp = format!("{}\n{program}", read(&recipes.join(format!("{name}.json")))?);
        if !std::fs::read_to_string(out.join(&name).join("stamp.txt")).is_ok_and(|made| made == stamp) {
            stale.push((name, stamp));
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    let mut arguments = vec!["bench/zoo/make_zoo.py".to_string(), "build/zoo".to_string()];
    arguments.extend(stale.iter().map(|(name, _)| name.clone()));
    run(python, &arguments)?;
    for (name, stamp) in stale {
        let path = out.join(name).join("stamp.txt");
        std::fs::write(&path, stamp).map_err(|e| Error(format!("{}: {e}", path.display())))?;
    }
    Ok(())
}

fn all_recipes(recipes: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(recipes).map_err(|e| Error(format!("{}: {e}", recipes.display())))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".json").map(str::to_string))
        .collect();
    names.sort();
    Ok(names)
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error(format!("{}: {e}", path.display())))
}
