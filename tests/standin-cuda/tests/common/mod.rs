//! Running hand-written kernels.

// Each test program uses a part.
#![allow(dead_code)]

use onnxc_standin_cuda::{Grid, Memory, Module, Report, launch};

/// Runs a kernel of `threads` threads in one block on an output of `bytes` and an input, and gives the output back.
pub fn run(body: &str, input: &[u8], bytes: u64, threads: u32) -> Result<Vec<u8>, Report> {
    run_blocks(body, input, bytes, threads, 1)
}

/// The same with several blocks. `%r0` is the thread in its block, `%rd0` and `%rd1` its words of output and input.
pub fn run_blocks(body: &str, input: &[u8], bytes: u64, threads: u32, blocks: u32) -> Result<Vec<u8>, Report> {
    run_with(body, input, bytes, [threads, blocks, 0], true)
}

/// The same with threads, blocks and bytes of dynamic shared memory, and races looked at or not.
pub fn run_with(
    body: &str,
    input: &[u8],
    bytes: u64,
    [threads, blocks, dynamic_shared]: [u32; 3],
    races: bool,
) -> Result<Vec<u8>, Report> {
    let text = format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 dynamic[];\n\
         .visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<16>;\n.reg .b32 %r<64>;\n.reg .f32 %f<64>;\n.reg .b64 %rd<16>;\n.reg .f64 %fd<8>;\n\
         ld.param.u64 %rd0, [out];\nld.param.u64 %rd1, [in];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd2, %r0, 4;\n\
         add.s64 %rd0, %rd0, %rd2;\nadd.s64 %rd1, %rd1, %rd2;\n{body}\nret;\n}}\n"
    );
    let mut memory = Memory::default();
    let module = Module::load(&text, 80, &mut memory).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let out = memory.allocate(bytes);
    let from = memory.allocate(input.len() as u64);
    memory.range(from, input.len() as u64).unwrap().copy_from_slice(input);
    let params: Vec<u8> = [out, from].iter().flat_map(|p| p.to_le_bytes()).collect();
    let grid = Grid { blocks: [blocks, 1, 1], threads: [threads, 1, 1], dynamic_shared };
    launch(module.kernel("k").unwrap(), &mut memory, &params, grid, races, &mut 1)?;
    Ok(memory.range(out, bytes).unwrap().to_vec())
}

/// Bytes as words.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Words as bytes.
pub fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// What is reported of a kernel that is wrong.
pub fn complaint(body: &str, threads: u32, blocks: u32) -> Report {
    run_blocks(body, &[0; 128], 256, threads, blocks).expect_err("reports")
}

/// Numbers that follow no pattern, from -8 to 8.
pub fn numbers(count: usize, seed: u32) -> Vec<i32> {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as i32 % 17 - 8
    };
    (0..count).map(next).collect()
}

/// A small number in IEEE binary16, exactly.
pub fn half(value: i32) -> u16 {
    let bits = (value as f32).abs().to_bits();
    let magnitude = if value == 0 { 0 } else { ((bits >> 13) - (112 << 10)) as u16 };
    magnitude | if value < 0 { 0x8000 } else { 0 }
}

/// A small number in bfloat16, exactly.
pub fn brain(value: i32) -> u16 {
    ((value as f32).to_bits() >> 16) as u16
}
