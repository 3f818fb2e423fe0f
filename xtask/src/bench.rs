//! The comparison with other libraries: what it needs, and `bench/compare.py` that makes it.

use std::ffi::OsString;

use crate::setup::{TESTED_MODELS, bench_python, python, zoo};
use crate::shell::{Result, cargo, root, run};

/// The models that are compared when none is named.
const BENCHED_MODELS: &[&str] = &[
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "efficientnet_b0",
    "vgg11",
    "densenet121",
    "convnext_tiny",
    "vit_b_16",
    "unet_small",
    "yolov8n_like",
    "bert_base_s128",
    "minilm_l6_s128",
    "gpt2_s64",
    "llama70m_decode128",
    "lstm_tagger",
    "wavconv_1s",
    "whisper_tiny_enc",
    "whisper_tiny_dec",
];

/// What models take besides time, against bounds: the named ones, or all that the tests use. `bench/figures.py` has the list.
pub fn figures(names: &[&str]) -> Result<()> {
    let python = python()?;
    let models = if names.is_empty() { TESTED_MODELS } else { names };
    zoo(&python, models)?;
    run(cargo(), &["build", "--release", "--locked", "--bin", "onnxc"])?;
    let script = root().join("bench/figures.py").into_os_string();
    let words = models.iter().map(OsString::from);
    run(python, &[script].into_iter().chain(words).collect::<Vec<_>>())
}

/// Models first, then options of `bench/compare.py`. Compilers and libraries are built in the release profile.
pub fn bench(arguments: &[&str]) -> Result<()> {
    let options_at = arguments.iter().position(|a| a.starts_with('-')).unwrap_or(arguments.len());
    let (named, options) = arguments.split_at(options_at);
    let models = if named.is_empty() { BENCHED_MODELS } else { named };
    let python = bench_python()?;
    let is_given = |option: &str| options.iter().any(|o| *o == option || o.starts_with(&format!("{option}=")));
    let only_shows = ["--help", "-h", "--table"].iter().any(|o| is_given(o));
    if !only_shows {
        if !is_given("--zoo") {
            zoo(&python, models)?;
        }
        if !is_given("--onnxc") {
            run(cargo(), &["build", "--release", "--locked", "--bin", "onnxc"])?;
        }
        if !is_given("--peers") {
            let manifest = ["build", "--release", "--locked", "--manifest-path", "bench/peers/Cargo.toml"];
            run(cargo(), &[&manifest[..], &["--target-dir", "bench/peers/target"]].concat())?;
        }
    }
    let script = root().join("bench/compare.py").into_os_string();
    let words = models.iter().chain(options).map(OsString::from);
    run(python, &[script].into_iter().chain(words).collect::<Vec<_>>())
}
