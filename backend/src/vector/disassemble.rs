//! Machine code as text: labels for the targets of branches, the constants behind the code as words.

use std::collections::BTreeMap;
use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction, OpKind, SymbolResolver, SymbolResult};

use super::WideCode;

/// Names of the addresses that are referred to.
struct Labels(BTreeMap<u64, String>);

impl SymbolResolver for Labels {
    fn symbol(&mut self, _: &Instruction, _: u32, _: Option<u32>, address: u64, _: u32) -> Option<SymbolResult<'_>> {
        self.0.get(&address).map(|name| SymbolResult::with_str(address, name))
    }
}

/// The text of a kernel.
pub fn text(code: &WideCode) -> String {
    let end = code.instruction_bytes;
    let instructions: Vec<Instruction> =
        Decoder::new(64, &code.bytes[..end], DecoderOptions::NONE).into_iter().collect();
    let mut names = BTreeMap::new();
    for inst in &instructions {
        if inst.op0_kind() == OpKind::NearBranch64 {
            names.insert(inst.near_branch64(), String::new());
        } else if inst.is_ip_rel_memory_operand() {
            names.insert(inst.ip_rel_memory_address(), String::new());
        }
    }
    for (i, name) in names.values_mut().enumerate() {
        *name = format!(".L{i}");
    }
    let mut text = String::new();
    let mut formatter = GasFormatter::with_options(Some(Box::new(Labels(names.clone()))), None);
    let mut line = String::new();
    for inst in &instructions {
        if let Some(name) = names.get(&inst.ip()) {
            let _ = writeln!(text, "{name}:");
        }
        line.clear();
        formatter.format(inst, &mut line);
        let _ = writeln!(text, "    {line}");
    }
    let constants: Vec<u64> = names.keys().copied().filter(|&at| at >= end as u64).collect();
    for (i, &at) in constants.iter().enumerate() {
        let next = constants.get(i + 1).map_or(code.bytes.len(), |&next| next as usize);
        let bytes = &code.bytes[at as usize..next];
        let _ = write!(text, "{}:\n    .byte ", names[&at]);
        let numbers: Vec<String> = bytes.iter().map(|b| format!("0x{b:02x}")).collect();
        let _ = writeln!(text, "{}", numbers.join(", "));
    }
    text
}
