//! Machine code as text, in the syntax of the GNU assembler, with labels for the targets of branches.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::NeonCode;
use super::machine::Word;

/// A word of code and its registers.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The word, without registers.
    pub word: Word,
    /// The register of each of its fields.
    pub registers: Vec<u8>,
}

impl Line {
    /// A word with the registers of an instruction's operands.
    pub fn new(word: Word, operands: &[u32]) -> Line {
        let registers = word.fields.iter().map(|&(n, _)| operands[usize::from(n)] as u8).collect();
        Line { word, registers }
    }

    /// The bits.
    pub fn encoded(&self) -> u32 {
        let fields = self.word.fields.iter().zip(&self.registers);
        fields.fold(self.word.bits, |bits, (&(_, at), &register)| bits | u32::from(register) << at)
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut rest = self.word.text.chars();
        while let Some(c) = rest.next() {
            let _ = match c {
                '%' => {
                    let n = rest.next().and_then(|d| d.to_digit(10)).expect("a digit follows");
                    write!(out, "{}", self.registers[n as usize])
                }
                '@' => write!(out, "{}", self.word.shapes[0]),
                '~' => write!(out, "{}", self.word.shapes[1]),
                '{' if matches!(self.word.text.as_bytes()[self.word.text.len() - rest.as_str().len()], b'i' | b'j') => {
                    let which = rest.next() == Some('j');
                    rest.next();
                    write!(out, "{}", self.word.immediates[usize::from(which)])
                }
                other => write!(out, "{other}"),
            };
        }
        out
    }
}

/// The text of a kernel.
pub fn text(code: &NeonCode) -> String {
    // What a branch or a constant's load refers to, as a distance in bytes from its own word.
    let target = |n: usize, line: &Line| line.word.text.contains(".+").then(|| 4 * n as i64 + line.word.immediates[0]);
    let mut names: BTreeMap<i64, String> =
        code.lines.iter().enumerate().filter_map(|(n, line)| Some((target(n, line)?, String::new()))).collect();
    for (i, name) in names.values_mut().enumerate() {
        *name = format!(".L{i}");
    }
    let mut text = String::new();
    for (n, line) in code.lines.iter().enumerate() {
        if let Some(name) = names.get(&(4 * n as i64)) {
            let _ = writeln!(text, "{name}:");
        }
        let mut shown = line.text();
        if let (Some(to), Some(at)) = (target(n, line), shown.find(".+")) {
            shown.replace_range(at.., &names[&to]);
        }
        let _ = writeln!(text, "    {shown}");
    }
    let mut at = code.instruction_bytes;
    if at < code.bytes.len() {
        let pool = at.next_multiple_of(16);
        for _ in (at..pool).step_by(4) {
            text.push_str("    .word 0\n");
        }
        at = pool;
        for constant in code.bytes[at..].chunks(16) {
            if let Some(name) = names.get(&(at as i64)) {
                let _ = writeln!(text, "{name}:");
            }
            let words: Vec<String> = constant
                .chunks(4)
                .map(|w| format!("0x{:08x}", w.iter().rev().fold(0u32, |v, &b| v << 8 | u32::from(b))))
                .collect();
            let _ = writeln!(text, "    .word {}", words.join(", "));
            at += 16;
        }
    }
    text
}
