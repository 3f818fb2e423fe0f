//! Relocations of the architectures that can be loaded.
//!
//! The arithmetic follows the psABI of each architecture, with S the symbol, A the addend, P the field's address and G
//! the address of the symbol's GOT slot. Every value is checked against the field that takes it.

use object::elf;

use super::{LoadError, malformed};

/// Bytes of a stub, which is also its alignment.
pub(super) const STUB_BYTES: u64 = 16;

/// An architecture whose objects can be loaded where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// 64-bit ARM, little-endian.
    Aarch64,
}

/// The field to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// P.
    pub address: usize,
    /// A.
    pub addend: i64,
}

/// What it refers to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// S, or the stub that jumps there.
    pub symbol: usize,
    /// G, where the relocation needs one.
    pub got: Option<usize>,
}

impl Machine {
    /// The architecture that this process runs on.
    pub fn host() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    pub(super) fn elf_machine(self) -> u16 {
        match self {
            Self::X86_64 => elf::EM_X86_64,
            Self::Aarch64 => elf::EM_AARCH64,
        }
    }

    /// Bytes of the field, or an error for a relocation that is not known.
    pub(super) fn width(self, kind: u32) -> Result<u64, LoadError> {
        use elf::*;
        match (self, kind) {
            (Self::X86_64, R_X86_64_64) | (Self::Aarch64, R_AARCH64_ABS64) => Ok(8),
            (Self::X86_64, R_X86_64_PC32 | R_X86_64_PLT32) => Ok(4),
            (Self::X86_64, R_X86_64_GOTPCREL | R_X86_64_GOTPCRELX | R_X86_64_REX_GOTPCRELX) => Ok(4),
            (Self::Aarch64, R_AARCH64_CALL26 | R_AARCH64_JUMP26) => Ok(4),
            (Self::Aarch64, R_AARCH64_ADR_PREL_PG_HI21 | R_AARCH64_ADD_ABS_LO12_NC) => Ok(4),
            (Self::Aarch64, R_AARCH64_ADR_GOT_PAGE | R_AARCH64_LD64_GOT_LO12_NC) => Ok(4),
            _ => Err(LoadError::Unsupported(format!("relocations of type {kind}"))),
        }
    }

    /// Whether the relocation goes through the GOT.
    pub(super) fn is_got(self, kind: u32) -> bool {
        use elf::*;
        match self {
            Self::X86_64 => matches!(kind, R_X86_64_GOTPCREL | R_X86_64_GOTPCRELX | R_X86_64_REX_GOTPCRELX),
            Self::Aarch64 => matches!(kind, R_AARCH64_ADR_GOT_PAGE | R_AARCH64_LD64_GOT_LO12_NC),
        }
    }

    /// Whether the relocation is a call or jump, which may go through a stub.
    pub(super) fn is_call(self, kind: u32) -> bool {
        match self {
            Self::X86_64 => kind == elf::R_X86_64_PLT32,
            Self::Aarch64 => matches!(kind, elf::R_AARCH64_CALL26 | elf::R_AARCH64_JUMP26),
        }
    }

    /// Whether the relocation reaches the whole address space.
    pub(super) fn is_far(self, kind: u32) -> bool {
        self.is_got(kind)
            || matches!((self, kind), (Self::X86_64, elf::R_X86_64_64) | (Self::Aarch64, elf::R_AARCH64_ABS64))
    }

    /// Writes the relocated value to `bytes`, which has the relocation's width.
    pub(super) fn apply(self, kind: u32, bytes: &mut [u8], field: Field, target: Target) -> Result<(), LoadError> {
        use elf::*;
        let got = || target.got.ok_or_else(|| LoadError::Malformed("a GOT relocation without a slot".into()));
        let plus_addend = |address: usize| address.wrapping_add_signed(field.addend as isize);
        match (self, kind) {
            (Self::X86_64, R_X86_64_64) | (Self::Aarch64, R_AARCH64_ABS64) => {
                bytes.copy_from_slice(&(plus_addend(target.symbol) as u64).to_le_bytes());
                Ok(())
            }
            (Self::X86_64, R_X86_64_PC32 | R_X86_64_PLT32) => {
                write_i32(bytes, distance(plus_addend(target.symbol), field.address))
            }
            (Self::X86_64, _) => write_i32(bytes, distance(plus_addend(got()?), field.address)),
            (Self::Aarch64, R_AARCH64_CALL26 | R_AARCH64_JUMP26) => {
                let offset = distance(plus_addend(target.symbol), field.address);
                if offset % 4 != 0 || !(-(1 << 27)..1 << 27).contains(&offset) {
                    return malformed("a call does not reach its target");
                }
                patch(bytes, 0x03ff_ffff, (offset >> 2) as u32)
            }
            (Self::Aarch64, R_AARCH64_ADR_PREL_PG_HI21) => adrp(bytes, field.address, plus_addend(target.symbol)),
            (Self::Aarch64, R_AARCH64_ADR_GOT_PAGE) => adrp(bytes, field.address, plus_addend(got()?)),
            (Self::Aarch64, R_AARCH64_ADD_ABS_LO12_NC) => {
                patch(bytes, 0xfff << 10, (plus_addend(target.symbol) as u32 & 0xfff) << 10)
            }
            // The remaining one loads a GOT slot: its offset in the page counts in 8-byte words.
            (Self::Aarch64, _) => patch(bytes, 0xfff << 10, ((plus_addend(got()?) as u32 & 0xfff) >> 3) << 10),
        }
    }
}

/// Code at `address` that jumps to where the GOT slot points, clobbering only what a call may.
pub(super) fn stub(machine: Machine, address: usize, got: usize) -> Result<[u8; STUB_BYTES as usize], LoadError> {
    let mut code = [0; STUB_BYTES as usize];
    match machine {
        Machine::X86_64 => {
            // jmp qword ptr [rip + displacement], counted from the instruction's end.
            code[..2].copy_from_slice(&[0xff, 0x25]);
            write_i32(&mut code[2..6], distance(got, address + 6))?;
            code[6..].fill(0xcc);
        }
        Machine::Aarch64 => {
            // adrp x16, slot; ldr x16, [x16, slot]; br x16
            let words = [0x9000_0010u32, 0xf940_0210, 0xd61f_0200];
            for (place, word) in code.chunks_exact_mut(4).zip(words) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            adrp(&mut code[..4], address, got)?;
            patch(&mut code[4..8], 0xfff << 10, ((got as u32 & 0xfff) >> 3) << 10)?;
        }
    }
    Ok(code)
}

fn distance(to: usize, from: usize) -> i64 {
    (to as i64).wrapping_sub(from as i64)
}

fn write_i32(bytes: &mut [u8], value: i64) -> Result<(), LoadError> {
    match i32::try_from(value) {
        Ok(value) => {
            bytes.copy_from_slice(&value.to_le_bytes());
            Ok(())
        }
        Err(_) => malformed("a PC-relative reference does not reach its target"),
    }
}

/// Puts the distance in pages into an `adrp`.
fn adrp(bytes: &mut [u8], from: usize, to: usize) -> Result<(), LoadError> {
    let pages = distance(to & !0xfff, from & !0xfff) >> 12;
    if !(-(1 << 20)..1 << 20).contains(&pages) {
        return malformed("an adrp does not reach its target");
    }
    let (low, high) = (pages as u32 & 3, (pages >> 2) as u32 & 0x7_ffff);
    patch(bytes, (3 << 29) | (0x7_ffff << 5), (low << 29) | (high << 5))
}

/// Replaces the bits of `mask` in an instruction.
fn patch(bytes: &mut [u8], mask: u32, value: u32) -> Result<(), LoadError> {
    let word: &mut [u8; 4] = bytes.try_into().expect("instructions have four bytes");
    let instruction = u32::from_le_bytes(*word);
    *word = ((instruction & !mask) | (value & mask)).to_le_bytes();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(kind: u32, instruction: u32, address: usize, symbol: usize) -> u32 {
        let mut bytes = instruction.to_le_bytes();
        let target = Target { symbol, got: Some(symbol) };
        Machine::Aarch64.apply(kind, &mut bytes, Field { address, addend: 0 }, target).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn aarch64_instructions_take_their_immediates() {
        // bl +8 and bl -4
        assert_eq!(applied(elf::R_AARCH64_CALL26, 0x9400_0000, 0x1000, 0x1008), 0x9400_0002);
        assert_eq!(applied(elf::R_AARCH64_CALL26, 0x9400_0000, 0x1000, 0xffc), 0x97ff_ffff);
        // adrp x0, one page and five pages on, one page back
        assert_eq!(applied(elf::R_AARCH64_ADR_PREL_PG_HI21, 0x9000_0000, 0x1ffc, 0x2abc), 0xb000_0000);
        assert_eq!(applied(elf::R_AARCH64_ADR_PREL_PG_HI21, 0x9000_0000, 0x1ffc, 0x6abc), 0xb000_0020);
        assert_eq!(applied(elf::R_AARCH64_ADR_GOT_PAGE, 0x9000_0000, 0x2000, 0x1000), 0xf0ff_ffe0);
        // add x0, x0, #0xabc and ldr x0, [x0, #0xab8]
        assert_eq!(applied(elf::R_AARCH64_ADD_ABS_LO12_NC, 0x9100_0000, 0, 0x2abc), 0x912a_f000);
        assert_eq!(applied(elf::R_AARCH64_LD64_GOT_LO12_NC, 0xf940_0000, 0, 0x2ab8), 0xf945_5c00);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let far = Target { symbol: 1 << 40, got: Some(1 << 40) };
        let field = Field { address: 0x1000, addend: -4 };
        for kind in [elf::R_X86_64_PC32, elf::R_X86_64_PLT32, elf::R_X86_64_GOTPCREL] {
            assert!(Machine::X86_64.apply(kind, &mut [0; 4], field, far).is_err());
        }
        for kind in [elf::R_AARCH64_CALL26, elf::R_AARCH64_ADR_GOT_PAGE, elf::R_AARCH64_ADR_PREL_PG_HI21] {
            assert!(Machine::Aarch64.apply(kind, &mut [0; 4], field, far).is_err());
        }
        assert!(Machine::X86_64.width(elf::R_X86_64_32).is_err());
    }
}
