//! The text of one PTX kernel under construction: registers of three classes, labels, lines.
//!
//! Registers are typed by width only, as PTX allows: an operation names the type that it takes its operands for, so a
//! bitcast costs nothing. Types of 8 and 16 bits live in registers of 32, extended by their own signedness.

use std::fmt::{self, Write};

/// A class of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// `.pred`.
    Pred,
    /// `.b16`, for what converts floats of 16 bits only.
    B16,
    /// `.b32`.
    B32,
    /// `.b64`.
    B64,
}

impl Class {
    /// `.b32` or `.b64` as a suffix; `.pred` for predicates.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Class::Pred => "pred",
            Class::B16 => "b16",
            Class::B32 => "b32",
            Class::B64 => "b64",
        }
    }
}

/// A virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reg {
    /// Its class.
    pub(super) class: Class,
    number: u32,
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.class {
            Class::Pred => "p",
            Class::B16 => "h",
            Class::B32 => "r",
            Class::B64 => "d",
        };
        write!(f, "%{letter}{}", self.number)
    }
}

/// Registers and lines.
#[derive(Default)]
pub(super) struct Text {
    lines: String,
    counts: [u32; 4],
    labels: u32,
}

impl Text {
    /// A fresh register.
    pub(super) fn reg(&mut self, class: Class) -> Reg {
        let count = &mut self.counts[class as usize];
        *count += 1;
        Reg { class, number: *count - 1 }
    }

    /// A fresh label.
    pub(super) fn label(&mut self, stem: &str) -> String {
        self.labels += 1;
        format!("$L_{stem}_{}", self.labels)
    }

    /// One instruction.
    pub(super) fn line(&mut self, args: fmt::Arguments<'_>) {
        writeln!(self.lines, "\t{args};").expect("strings take all text");
    }

    /// A label's place.
    pub(super) fn place(&mut self, label: &str) {
        writeln!(self.lines, "{label}:").expect("strings take all text");
    }

    /// The body between braces: declarations, these ones first, then the lines.
    pub(super) fn finish(self, declarations: &str) -> String {
        let mut text = format!("{{\n{declarations}");
        for (class, letter) in [(Class::Pred, "p"), (Class::B16, "h"), (Class::B32, "r"), (Class::B64, "d")] {
            let count = self.counts[class as usize];
            if count > 0 {
                writeln!(text, "\t.reg .{} %{letter}<{count}>;", class.suffix()).expect("strings take all text");
            }
        }
        text.push_str(&self.lines);
        text.push_str("\tret;\n}\n");
        text
    }
}
