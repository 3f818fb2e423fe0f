//! The unwind tables of wide kernels lead a debugger from the middle of a kernel to its caller.
#![cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]

use std::process::Command;

use onnxc_backend::object::{CompiledFunction, ObjectSpec, Unwind, emit};
use onnxc_backend::target::Target;
use onnxc_backend::vector::{self, Isa};
use onnxc_ir::dtype::DType;
use onnxc_ir::loops::{Access, Address, Kernel, KernelBuilder, Stride};

/// Takes the callee-saved registers too: a sum over as many buffers as there are general registers, row by row.
fn kernel() -> Kernel {
    let mut b = KernelBuilder::new("sum");
    let inputs: Vec<_> = (0..12).map(|i| b.buffer(format!("x{i}"), DType::F32, Access::Read, None)).collect();
    let out = b.buffer("y", DType::F32, Access::Write, None);
    b.task_loop(|b, task| {
        b.each(0, 4, 1, |b, row| {
            let at = Address::default().plus(task, Stride::Const(64)).plus(row, Stride::Const(16));
            let rows: Vec<_> = inputs.iter().map(|&x| b.load(x, at.clone(), 16, None)).collect();
            let sum = rows.into_iter().reduce(|x, y| b.binary(onnxc_ir::scalar::BinaryOp::Add, x, y));
            b.store(out, at, sum.expect("there are inputs"), None);
        });
    });
    b.finish()
}

/// Reads from an address that is not mapped; the handler of the fault looks for the callers of the kernel.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <execinfo.h>
#include <signal.h>
#include <stdlib.h>

void net_kernel(const void *const *, const long *, long, long, void *, int);

static const char *first, *last;

static void handler(int signal) {
    void *frames[32];
    int count = backtrace(frames, 32);
    (void)signal;
    for (int i = 0; i < count; i++) {
        if ((const char *)frames[i] >= first && (const char *)frames[i] < last) _Exit(0);
    }
    _Exit(1);
}

__attribute__((noinline)) int caller(const void *const *buffers) {
    net_kernel(buffers, 0, 0, 1, 0, 0);
    return 2;
}

int main(void) {
    const void *buffers[13] = {0};
    void *warm[4];
    backtrace(warm, 4); /* loads what it needs, which a handler must not */
    first = (const char *)caller;
    last = first + 64;
    signal(SIGSEGV, handler);
    return caller(buffers);
}
"#;

#[test]
fn a_debugger_finds_the_caller_of_a_kernel() {
    if !is_x86_feature_detected!("avx512dq") || !is_x86_feature_detected!("avx512vl") {
        eprintln!("skipped: this processor has no AVX-512");
        return;
    }
    let code = vector::compile(&kernel(), Isa::Avx512, true).unwrap();
    assert!(code.frame.len() > 4, "no callee-saved register is in use: {:?}", code.frame);
    let target = Target::parse("x86_64").unwrap();
    let kernel = |unwind| CompiledFunction {
        name: "net_kernel".into(),
        global: true,
        code: code.bytes.clone(),
        align: 64,
        relocations: Vec::new(),
        stack_bytes: 0,
        unwind,
    };
    for (unwind, status) in [(Some(Unwind::Frame(code.frame.clone())), 0), (None, 1)] {
        let (prefix, functions) = ("net".to_owned(), vec![kernel(unwind)]);
        let spec =
            ObjectSpec { target: &target, prefix, functions, data: Vec::new(), weights: None, externals: Vec::new() };
        let folder = tempfile::tempdir().unwrap();
        emit::object_file(&spec, &folder.path().join("net.o")).unwrap();
        std::fs::write(folder.path().join("main.c"), PROGRAM).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-Werror", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"]);
        let output = compiler.args(["main.c", "net.o", "-o", "main"]).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ran = Command::new(folder.path().join("main")).status().unwrap();
        assert_eq!(ran.code(), Some(status), "with{} the table", if status == 0 { "" } else { "out" });
    }
}

/// The text names what branches and constants refer to, and leaves no byte out.
#[test]
fn disassembly_covers_the_code() {
    let code = vector::compile(&kernel(), Isa::Avx512, true).unwrap();
    let text = code.disassembly();
    for wanted in ["push %rbp", "vaddps", "jl .L", ".L0:", "\n    ret\n"] {
        assert!(text.contains(wanted), "no `{wanted}` in\n{text}");
    }
    assert!(!text.contains("(bad)"), "{text}");
}
