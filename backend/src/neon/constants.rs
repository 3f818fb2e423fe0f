//! Vector constants that one instruction makes; all others lie in memory behind the code.

use super::machine::Word;
use super::words::Form;

/// How a constant gets into a register.
pub enum Made {
    /// By this word.
    Word(Word),
    /// From memory.
    Memory,
}

/// The shortest way to these bits.
pub fn word_of(bits: u128) -> Made {
    let made = |form: Form, byte: u32, immediate: i64| {
        let word = Word::new(form).or((byte >> 5) << 16 | (byte & 31) << 5);
        Made::Word(word.immediate(immediate))
    };
    if bits == 0 {
        return made(Form(0x6f00_e400, "movi v%0.2d, #{i}"), 0, 0);
    }
    let byte = bits as u8;
    if bits == u128::from_le_bytes([byte; 16]) {
        return made(Form(0x4f00_e400, "movi v%0.16b, #{i}"), byte.into(), byte.into());
    }
    let lane = bits as u32;
    if bits != u128::from(lane) * 0x1_0000_0001_0000_0001_0000_0001 {
        return Made::Memory;
    }
    let shifted = |lane: u32| (0..4u32).find(|part| lane & !(0xff << (8 * part)) == 0);
    let forms = |inverted: bool, part: u32| match (inverted, part) {
        (false, 0) => Form(0x4f00_0400, "movi v%0.4s, #{i}"),
        (false, 1) => Form(0x4f00_2400, "movi v%0.4s, #{i}, lsl #8"),
        (false, 2) => Form(0x4f00_4400, "movi v%0.4s, #{i}, lsl #16"),
        (false, _) => Form(0x4f00_6400, "movi v%0.4s, #{i}, lsl #24"),
        (true, 0) => Form(0x6f00_0400, "mvni v%0.4s, #{i}"),
        (true, 1) => Form(0x6f00_2400, "mvni v%0.4s, #{i}, lsl #8"),
        (true, 2) => Form(0x6f00_4400, "mvni v%0.4s, #{i}, lsl #16"),
        (true, _) => Form(0x6f00_6400, "mvni v%0.4s, #{i}, lsl #24"),
    };
    for inverted in [false, true] {
        let lane = if inverted { !lane } else { lane };
        if let Some(part) = shifted(lane) {
            let byte = lane >> (8 * part) & 0xff;
            return made(forms(inverted, part), byte, byte.into());
        }
    }
    // Numbers of four bits of fraction and three of exponent.
    let exponent = lane >> 25 & 0x3f;
    if lane & 0x7_ffff == 0 && matches!(exponent, 0x1f | 0x20) {
        let byte = lane >> 31 << 7 | (exponent & 1) << 6 | lane >> 19 & 0x3f;
        return made(Form(0x4f00_f400, "fmov v%0.4s, #{i}e-7"), byte, fraction(lane));
    }
    Made::Memory
}

/// A number of at most seven binary places in units of the seventh decimal one.
fn fraction(lane: u32) -> i64 {
    (f64::from(f32::from_bits(lane)) * 1e7) as i64
}
