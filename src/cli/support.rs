//! `onnxc support`: what C and C++ programs build with, laid out as an installed package.

use std::fs;
use std::path::PathBuf;

use onnxc::diagnostics::Failure;
use onnxc::driver;
use onnxc_runtime::{PACKAGE_FILES, SUPPORT_SOURCES};

use super::args::SupportArgs;

/// Runs the command.
pub fn run(args: &SupportArgs) -> Result<u8, Failure> {
    let names = SUPPORT_SOURCES.iter().filter_map(|(path, _)| path.strip_prefix("csrc/"));
    let names: Vec<&str> = names.filter(|name| name.ends_with(".c")).collect();
    let below: Vec<String> = names.iter().map(|name| format!("${{sourcedir}}/{name}")).collect();
    let placeholders = [
        ("@VERSION@", env!("CARGO_PKG_VERSION").to_owned()),
        ("@SOURCES@", names.join(" ")),
        ("@SOURCES_BELOW_SOURCEDIR@", below.join(" ")),
    ];
    for (path, text) in SUPPORT_SOURCES.iter().chain(&PACKAGE_FILES) {
        let place = args.out.join(installed(path));
        let folder = place.parent().expect("a file lies in a folder");
        fs::create_dir_all(folder).map_err(|error| Failure::io(folder, &error))?;
        let text = placeholders.iter().fold((*text).to_owned(), |text, (name, value)| text.replace(name, value));
        driver::write_text(&place, &text)?;
    }
    Ok(0)
}

/// Where a file of the support library lies beneath a prefix.
fn installed(path: &str) -> PathBuf {
    match path.rsplit_once('/') {
        Some(("csrc", name)) => ["share", "onnxc", name].iter().collect(),
        Some(("cmake", name)) => ["lib", "cmake", "onnxc", name].iter().collect(),
        Some((_, _)) => path.into(),
        None => ["lib", "pkgconfig", path].iter().collect(),
    }
}
