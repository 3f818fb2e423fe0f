//! Writes an object with weights of any size, to check by hand what no test should write each time:
//!
//! ```sh
//! cargo run --release -p onnxc-backend --example large_object -- 2500 FOLDER
//! cd FOLDER && cc main.c big.o -o main && ./main        # also with -fuse-ld=lld, -no-pie, or -shared for a library
//! ```
//!
//! The first argument is the size in megabytes. It prints the time and the peak memory; `main` reads the last byte.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use onnxc_backend::object::emit;
use onnxc_backend::object::weights::Weights;
use onnxc_backend::object::{CompiledFunction, ObjectSpec, Reloc, Relocation};
use onnxc_backend::target::Target;

const MEGABYTE: u64 = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(megabytes), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: large_object MEGABYTES FOLDER".into());
    };
    let megabytes: u64 = megabytes.parse()?;
    let folder = PathBuf::from(folder);

    let mut weights = Weights::new("big_weights");
    for index in 0..megabytes {
        let chunk = vec![(index % 250) as u8 + 1; 4096];
        weights.push(MEGABYTE, move |out: &mut dyn Write| (0..256).try_for_each(|_| out.write_all(&chunk)));
    }
    let last = weights.len - 1;
    // mov rax, [rip + big_weights@GOT]; movzx eax, byte ptr [rax + rdi]; ret
    let code = vec![0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x0f, 0xb6, 0x04, 0x38, 0xc3];
    let weight = Relocation { offset: 3, kind: Reloc::X86GOTPCRel4, symbol: "big_weights".to_owned(), addend: -4 };
    let function = CompiledFunction {
        name: "big_byte".to_owned(),
        global: true,
        code,
        align: 16,
        relocations: vec![weight],
        stack_bytes: 0,
        unwind: None,
    };
    let target = Target::parse("x86_64")?;
    let prefix = "big".to_owned();
    let spec = ObjectSpec {
        target: &target,
        prefix,
        functions: vec![function],
        data: vec![],
        weights: Some(weights),
        externals: vec![],
    };
    let started = Instant::now();
    let emitted = emit::object_file(&spec, &folder.join("big.o"))?;
    let program = format!(
        "int big_byte(unsigned long at);\nint main(void) {{ return big_byte({last}ul) != {}; }}\n",
        (megabytes - 1) % 250 + 1
    );
    emit::text_file(&program, &folder.join("main.c"))?;
    println!("{} bytes in {:.1} s", emitted.file_bytes, started.elapsed().as_secs_f64());
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    }
    Ok(())
}
