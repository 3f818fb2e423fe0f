//! Kernels for AArch64, run under an emulator, and their text, assembled. `cargo xtask setup` installs what this takes.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use onnxc_backend::neon::NeonCode;
use onnxc_ir::loops::Kernel;

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; run `cargo xtask setup`"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
}

/// The program that runs kernels.
fn runner() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("run-{}", std::process::id()));
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/emulating/run.c");
        succeed(Command::new("aarch64-linux-gnu-gcc").args(["-O1", "-static", "-o"]).arg(&program).arg(source));
        program
    })
}

/// The buffers after a run of the tasks `0..tasks` on a processor that has everything.
pub fn emulate(code: &[u8], kernel: &Kernel, buffers: &[Vec<u8>], params: &[i64], tasks: i64) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (job, result) = (folder.path().join("job"), folder.path().join("result"));
    let head = [code.len() as u64, buffers.len() as u64, params.len() as u64, tasks as u64, kernel.scratch_layout().1];
    let mut bytes: Vec<u8> = head.iter().flat_map(|n| n.to_le_bytes()).collect();
    bytes.extend(code);
    bytes.extend(params.iter().flat_map(|n| n.to_le_bytes()));
    for buffer in buffers {
        bytes.extend((buffer.len() as u64).to_le_bytes());
        bytes.extend(buffer);
    }
    std::fs::write(&job, bytes).expect("the folder can be written");
    succeed(Command::new("qemu-aarch64-static").args(["-cpu", "max"]).arg(runner()).arg(&job).arg(&result));
    let all = std::fs::read(&result).expect("the program has written it");
    let mut rest = &all[..];
    buffers.iter().map(|b| rest.split_off(..b.len()).expect("all buffers come back").to_vec()).collect()
}

/// Checks that the code is what the assembler makes of its text.
pub fn check_text(code: &NeonCode) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [source, object, bytes] = ["a.s", "a.o", "a.bin"].map(|name| folder.path().join(name));
    let text = code.disassembly();
    std::fs::write(&source, &text).expect("the folder can be written");
    let march = "-march=armv8.6-a+dotprod+i8mm+bf16+fp16";
    succeed(Command::new("aarch64-linux-gnu-as").args([march, "-o"]).arg(&object).arg(&source));
    succeed(Command::new("aarch64-linux-gnu-objcopy").args(["-O", "binary", "-j", ".text"]).arg(&object).arg(&bytes));
    let assembled = std::fs::read(&bytes).expect("the section was written");
    for (i, (ours, theirs)) in code.bytes.chunks(4).zip(assembled.chunks(4)).enumerate() {
        let line = text.lines().filter(|line| line.starts_with(' ')).nth(i).unwrap_or_default();
        let [ours, theirs] = [ours, theirs].map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")));
        assert_eq!(format!("{ours:08x}"), format!("{theirs:08x}"), "word {i}: {line}");
    }
    assert_eq!(code.bytes.len(), assembled.len());
}
