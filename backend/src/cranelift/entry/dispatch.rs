//! Which of a program's variants runs: a question to the processor, asked once.
//!
//! The answer is kept in a word of the object, the only one that a run writes: 0, or the number of the variant and 1. All
//! who ask find the same answer, so it does not matter who writes it first, nor whether others see it at once.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Function, InstBuilder, types};

use super::super::code::{Names, function};
use super::Entry;
use crate::object::{CompiledFunction, DataObject, Unwind};

/// `mov r8, rbx` to `ret`: see [`processor_words`].
const PROCESSOR_WORDS: [&[u8]; 30] = [
    // rbx belongs to the caller, and cpuid changes it.
    &[0x49, 0x89, 0xd8],             // mov r8, rbx
    &[0x31, 0xc0],                   // xor eax, eax
    &[0x48, 0x89, 0x07],             // mov [rdi], rax
    &[0x48, 0x89, 0x47, 0x08],       // mov [rdi+8], rax
    &[0x89, 0x47, 0x10],             // mov [rdi+16], eax
    &[0x0f, 0xa2],                   // cpuid
    &[0x41, 0x89, 0xc1],             // mov r9d, eax
    &[0xb8, 0x01, 0x00, 0x00, 0x00], // mov eax, 1
    &[0x31, 0xc9, 0x0f, 0xa2],       // xor ecx, ecx; cpuid
    &[0x89, 0x0f],                   // mov [rdi], ecx
    &[0x0f, 0xba, 0xe1, 0x1b],       // bt ecx, 27
    &[0x73, 0x08],                   // jae over the next three
    &[0x31, 0xc9],                   // xor ecx, ecx
    &[0x0f, 0x01, 0xd0],             // xgetbv
    &[0x89, 0x47, 0x10],             // mov [rdi+16], eax
    &[0x41, 0x83, 0xf9, 0x07],       // cmp r9d, 7
    &[0x72, 0x0f],                   // jb over the next four
    &[0xb8, 0x07, 0x00, 0x00, 0x00], // mov eax, 7
    &[0x31, 0xc9, 0x0f, 0xa2],       // xor ecx, ecx; cpuid
    &[0x89, 0x5f, 0x04],             // mov [rdi+4], ebx
    &[0x89, 0x4f, 0x08],             // mov [rdi+8], ecx
    &[0xb8, 0x00, 0x00, 0x00, 0x80], // mov eax, 0x80000000
    &[0x0f, 0xa2],                   // cpuid
    &[0x3d, 0x01, 0x00, 0x00, 0x80], // cmp eax, 0x80000001
    &[0x72, 0x0a],                   // jb over the next three
    &[0xb8, 0x01, 0x00, 0x00, 0x80], // mov eax, 0x80000001
    &[0x0f, 0xa2],                   // cpuid
    &[0x89, 0x4f, 0x0c],             // mov [rdi+12], ecx
    &[0x4c, 0x89, 0xc3],             // mov rbx, r8
    &[0xc3],                         // ret
];

/// `{prefix}__processor(words)`, in the convention of System V: writes the five words of
/// [`processor_bits`](crate::target::Target::processor_bits), 0 where the processor has no such leaf.
pub fn processor_words(prefix: &str) -> CompiledFunction {
    CompiledFunction {
        name: format!("{prefix}__processor"),
        global: false,
        code: PROCESSOR_WORDS.concat(),
        align: 16,
        relocations: Vec::new(),
        stack_bytes: 8,
        unwind: Some(Unwind::Frame(Vec::new())),
    }
}

/// The word that keeps the answer.
pub fn variant_cell(prefix: &str) -> DataObject {
    let mut cell = DataObject::new(format!("{prefix}__variant")).writable();
    cell.put_u64(0);
    cell
}

impl Entry<'_> {
    /// `choose() -> number`: the last variant whose code the processor can run.
    pub(super) fn choose(&self) -> (Function, Names) {
        use types::I32;
        function(self.isa, &[], Some(I32), |c, _| {
            let cell = c.symbol(&self.symbol("_variant"), true);
            let known = c.load(I32, cell, 0);
            let some = c.compare_with(IntCC::NotEqual, known, 0);
            c.leave_if(some, |c| c.f.ins().iadd_imm_s(known, -1));
            let words = c.stack(20);
            let processor = c.symbol(&self.symbol("_processor"), true);
            c.call_kernel(processor, &[words]);
            let mut best = c.int32(1);
            for (n, target) in self.targets.iter().enumerate().skip(1) {
                let mut lacks = c.int32(0);
                for (word, bits) in target.processor_bits(&self.targets[0]).into_iter().enumerate() {
                    let (has, bits) = (c.load(I32, words, word as i32 * 4), c.int32(bits as i32));
                    let missing = c.f.ins().band_not(bits, has);
                    lacks = c.f.ins().bor(lacks, missing);
                }
                let fits = c.compare_with(IntCC::Equal, lacks, 0);
                let this = c.int32(n as i32 + 1);
                best = c.f.ins().select(fits, this, best);
            }
            c.store(best, cell, 0);
            let number = c.f.ins().iadd_imm_s(best, -1);
            c.f.ins().return_(&[number]);
        })
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};

    use super::*;

    #[test]
    fn the_question_is_whole_instructions_whose_jumps_meet_some() {
        let code = processor_words("net").code;
        let instructions: Vec<_> = Decoder::with_ip(64, &code, 0, DecoderOptions::NONE).iter().collect();
        assert!(instructions.iter().all(|i| !i.is_invalid()));
        let jumps = instructions.iter().filter(|i| i.op0_kind() == OpKind::NearBranch64);
        let places: Vec<_> =
            jumps.map(|jump| instructions.iter().position(|i| i.ip() == jump.near_branch_target())).collect();
        let after = |mnemonic, nth: usize| {
            let found = instructions.iter().enumerate().filter(|(_, i)| i.mnemonic() == mnemonic);
            found.map(|(n, _)| n).nth(nth).unwrap()
        };
        // Behind XCR0's store, before the leaves from 0x80000000, before rbx gets its value back.
        let expected = [after(Mnemonic::Xgetbv, 0) + 2, after(Mnemonic::Cpuid, 3) - 1, instructions.len() - 2];
        assert_eq!(places, expected.map(Some));
        assert_eq!(instructions.iter().filter(|i| i.mnemonic() == Mnemonic::Cpuid).count(), 5);
        assert_eq!(instructions.last().unwrap().mnemonic(), Mnemonic::Ret);
    }
}
