//! Filetests of passes: `filetests/PASS/*.ir` holds a graph, a line `// ---`, and the graph after the pass. `BLESS=1` writes
//! what follows the line anew. The verifier checks both sides. The first line may say `// dots mixed`, `// converts f16` or
//! `// tiles`, which the machine has then, or `// strict`.

use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};
use onnxc_ir::machine::{Dots, MachineModel};
use onnxc_ir::tensor::{parse, verify};
use onnxc_lowering::passes::rewrite::PassContext;
use onnxc_lowering::pipeline::PASSES;

const SEPARATOR: &str = "// ---\n";

fn main() {
    let arguments = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut trials = Vec::new();
    for folder in entries(&root) {
        let pass = folder.file_name().expect("a folder has a name").to_string_lossy().into_owned();
        for file in entries(&folder) {
            let name = format!("{pass}::{}", file.file_stem().expect("a file has a name").to_string_lossy());
            let pass = pass.clone();
            trials.push(Trial::test(name, move || check(&pass, &file)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder is there").map(|e| e.expect("it can be read").path()).collect();
    entries.sort();
    entries
}

fn check(pass: &str, file: &Path) -> Result<(), Failed> {
    let text = std::fs::read_to_string(file)?;
    let (input, expected) = text.split_once(SEPARATOR).unwrap_or((&text, ""));
    let (_, run) = PASSES.iter().find(|(name, _)| *name == pass).ok_or_else(|| format!("no pass `{pass}`"))?;
    let mut graph = parse::parse(input)?;
    verify::verify(&graph).map_err(|e| format!("before the pass: {e}"))?;
    let says = |what: &str| input.lines().next() == Some(what);
    let dots = Dots { mixed: says("// dots mixed"), ..Dots::NONE };
    let (converts_f16, tiles) = (says("// converts f16"), says("// tiles"));
    let mut cx = PassContext::new(MachineModel { dots, converts_f16, tiles, ..MachineModel::BASELINE });
    cx.strict = says("// strict");
    run(&mut graph, &mut cx);
    verify::verify(&graph).map_err(|e| format!("after the pass: {e}\n{graph}"))?;
    let found = graph.to_string();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(file, format!("{input}{SEPARATOR}{found}"))?;
        return Ok(());
    }
    if found != expected {
        return Err(format!("{}: the pass gives\n{found}\n(BLESS=1 writes it)", file.display()).into());
    }
    Ok(())
}
