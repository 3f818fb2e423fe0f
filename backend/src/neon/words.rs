//! Words of code: the bits of each instruction that selection uses, and its text.
//!
//! The text is what the GNU assembler makes the same bits of; a test assembles what kernels are made of.

use smallvec::SmallVec;

use super::machine::{Condition, Word};

/// Bytes of a lane, as a power of two; the numbers are the encoding's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Size {
    B = 0,
    H = 1,
    S = 2,
    D = 3,
}

impl Size {
    /// Of a lane of this many bits.
    pub fn of_bits(bits: u32) -> Size {
        match bits {
            8 => Size::B,
            16 => Size::H,
            32 => Size::S,
            64 => Size::D,
            other => panic!("no lane has {other} bits"),
        }
    }

    pub fn bits(self) -> u32 {
        8 << self as u32
    }

    pub fn bytes(self) -> i64 {
        1 << self as i64
    }

    /// The next wider one.
    pub fn wider(self) -> Size {
        [Size::H, Size::S, Size::D, Size::D][self as usize]
    }

    /// The next narrower one.
    pub fn narrower(self) -> Size {
        [Size::B, Size::B, Size::H, Size::S][self as usize]
    }

    fn whole(self) -> &'static str {
        ["16b", "8h", "4s", "2d"][self as usize]
    }

    fn half(self) -> &'static str {
        ["8b", "4h", "2s", "1d"][self as usize]
    }

    fn letter(self) -> &'static str {
        ["b", "h", "s", "d"][self as usize]
    }
}

/// The bits of an instruction, its text and how the size of its lanes is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Form(pub u32, pub &'static str);

impl Word {
    /// A word whose operands stand at bits 0, 5, 16 and 10, in this order; the second at 16 where 5 is taken.
    pub fn new(Form(bits, text): Form) -> Word {
        let places = if bits >> 5 & 31 == 31 { [0, 16, 16, 10] } else { [0, 5, 16, 10] };
        let count = text.bytes().filter(|&b| b == b'%').count() as u8;
        let fields = (0..count).map(|n| (n, places[usize::from(n)])).collect();
        Word { bits, fields, text, shapes: [""; 2], immediates: [0; 2] }
    }

    /// With these places of the operands.
    pub fn fields(mut self, fields: &[(u8, u8)]) -> Word {
        self.fields = SmallVec::from_slice(fields);
        self
    }

    /// With more bits set.
    pub fn or(mut self, bits: u32) -> Word {
        self.bits |= bits;
        self
    }

    /// With all operands of a number higher by this.
    pub fn renumbered(mut self, by: u8) -> Word {
        self.fields.iter_mut().for_each(|(n, _)| *n += by);
        self
    }

    pub fn shape(mut self, shape: &'static str) -> Word {
        self.shapes[0] = shape;
        self
    }

    pub fn immediate(mut self, value: i64) -> Word {
        self.immediates[0] = value;
        self
    }
}

/// An instruction on lanes of integers.
pub fn lanes(form: Form, size: Size) -> Word {
    Word::new(form).or((size as u32) << 22).shape(size.whole())
}

/// An instruction on lanes of 32 or 64 bits of floating point.
pub fn floats(form: Form, size: Size) -> Word {
    Word::new(form).or(u32::from(size == Size::D) << 22).shape(size.whole())
}

/// An instruction on 16 bytes, whatever their lanes.
pub fn bytes(form: Form) -> Word {
    Word::new(form).shape("16b")
}

/// A scalar of 32 or 64 bits of floating point.
pub fn scalar(form: Form, size: Size) -> Word {
    Word::new(form).or(u32::from(size == Size::D) << 22).shape(size.letter())
}

/// A general register of 32 or 64 bits.
pub fn general(form: Form, wide: bool) -> Word {
    Word::new(form).or(u32::from(wide) << 31).shape(if wide { "x" } else { "w" })
}

/// A shift of lanes to the left.
pub fn shift_left(size: Size, by: u32) -> Word {
    Word::new(SHL).or((size.bits() + by) << 16).shape(size.whole()).immediate(by.into())
}

/// A shift of lanes to the right, `1..=bits`.
pub fn shift_right(form: Form, size: Size, by: u32) -> Word {
    Word::new(form).or((2 * size.bits() - by) << 16).shape(size.whole()).immediate(by.into())
}

/// The lower or upper half of the lanes, extended to twice their width, which is not that of `size`.
pub fn extended(signed: bool, size: Size, upper: bool) -> Word {
    let forms = [[UXTL, UXTL2], [SXTL, SXTL2]];
    let mut word = Word::new(forms[usize::from(signed)][usize::from(upper)]).or(size.bits() << 16);
    word.shapes = [size.wider().whole(), if upper { size.whole() } else { size.half() }];
    word
}

/// The bits that say which lane of which size.
fn lane_bits(size: Size, lane: u8) -> u32 {
    ((u32::from(lane) << 1 | 1) << size as u32) << 16
}

/// A lane in all lanes.
pub fn repeated(size: Size, lane: u8) -> Word {
    let mut word = Word::new(DUP).or(lane_bits(size, lane)).immediate(lane.into());
    word.shapes = [size.whole(), size.letter()];
    word
}

/// A general register in all lanes.
pub fn repeated_general(size: Size) -> Word {
    let mut word = Word::new(DUP_GENERAL).or(lane_bits(size, 0));
    word.shapes = [size.whole(), if size == Size::D { "x" } else { "w" }];
    word
}

/// A lane as a floating-point scalar.
pub fn lane_scalar(size: Size, lane: u8) -> Word {
    Word::new(MOV_LANE).or(lane_bits(size, lane)).shape(size.letter()).immediate(lane.into())
}

/// A lane in a general register, extended to 32 bits, or 64 of 64.
pub fn lane_general(size: Size, signed: bool, lane: u8) -> Word {
    let form = match (size, signed) {
        (Size::D, _) => UMOV_X,
        (Size::S, _) | (_, false) => UMOV,
        (_, true) => SMOV,
    };
    Word::new(form).or(lane_bits(size, lane)).shape(size.letter()).immediate(lane.into())
}

/// Writes a general register to a lane.
pub fn insert_general(size: Size, lane: u8) -> Word {
    let mut word = Word::new(INS_GENERAL).or(lane_bits(size, lane)).immediate(lane.into());
    word.shapes = [size.letter(), if size == Size::D { "x" } else { "w" }];
    word
}

/// Writes a lane of another register to a lane.
pub fn insert_lane(size: Size, lane: u8, from: u8) -> Word {
    let mut word = Word::new(INS).or(lane_bits(size, lane) | u32::from(from) << (11 + size as u32));
    word.shapes[0] = size.letter();
    word.immediates = [lane.into(), from.into()];
    word
}

/// The index of a lane of 32 bits in a product by element.
pub fn by_lane(form: Form, lane: u8) -> Word {
    let lane = u32::from(lane);
    Word::new(form).or((lane & 1) << 21 | (lane >> 1) << 11).immediate(lane.into())
}

/// Sixteen bytes of two registers, from this byte of the first on.
pub fn window(from: u32) -> Word {
    Word::new(EXT).or(from << 11).immediate(from.into())
}

/// With a condition, which the text's shape names.
pub fn conditional(form: Form, condition: Condition) -> Word {
    Word::new(form).or((condition as u32) << 12).shape(condition.name())
}

/// 1 where the condition holds, else 0.
pub fn condition_set(condition: Condition) -> Word {
    Word::new(CSET).or((condition as u32 ^ 1) << 12).shape(condition.name())
}

/// The bits from `from` to `to` of a general register, extended.
pub fn bit_field(signed: bool, wide: bool, from: u32, to: u32) -> Word {
    let form = if signed { SBFM } else { UBFM };
    let mut word = general(form, wide).or(u32::from(wide) << 22 | from << 16 | to << 10);
    word.immediates = [from.into(), to.into()];
    word
}

/// A general register shifted to the left.
pub fn general_shift_left(wide: bool, by: u32) -> Word {
    let width = if wide { 64 } else { 32 };
    bit_field(false, wide, (width - by) % width, width - 1 - by)
}

/// A move of 16 bits to the `part`-th of the four parts of a register.
pub fn move_part(form: Form, value: u16, part: u32) -> Word {
    let mut word = Word::new(form).or(part << 21 | u32::from(value) << 5);
    word.immediates = [value.into(), i64::from(part) * 16];
    word
}

/// A branch over the next `words - 1` words.
pub fn skip(condition: Condition, words: i64) -> Word {
    Word::new(SKIP).or((words as u32) << 5 | condition as u32).shape(condition.name()).immediate(words * 4)
}

/// The same whatever holds.
pub fn skip_always(words: i64) -> Word {
    Word::new(SKIP_ALWAYS).or(words as u32).immediate(words * 4)
}

/// A register that memory is read to or written from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The lowest lane of this size of a vector register.
    Lane(Size),
    /// A whole vector register.
    Vector,
    /// A general register; fewer than 32 bits are extended when they are read.
    General(Size, bool),
}

impl Moved {
    /// Bytes of memory.
    pub fn bytes(self) -> i64 {
        match self {
            Moved::Lane(size) | Moved::General(size, _) => size.bytes(),
            Moved::Vector => 16,
        }
    }

    fn scaled(self, store: bool) -> (u32, &'static str, &'static str) {
        let read = if store { 0 } else { 0x0040_0000 };
        match self {
            Moved::Vector => (0x3d80_0000 | read, if store { "str" } else { "ldr" }, "q"),
            Moved::Lane(size) => {
                let bits = 0x3d00_0000 | read | (size as u32) << 30;
                (bits, if store { "str" } else { "ldr" }, size.letter())
            }
            Moved::General(size, signed) => {
                let signed = signed && !store && size < Size::S;
                let opcode = if signed { 0x00c0_0000 } else { read };
                let names = match (size, signed) {
                    (Size::B, true) => ["ldrsb", "strb"],
                    (Size::H, true) => ["ldrsh", "strh"],
                    (Size::B, false) => ["ldrb", "strb"],
                    (Size::H, false) => ["ldrh", "strh"],
                    (Size::S | Size::D, _) => ["ldr", "str"],
                };
                let register = if size == Size::D { "x" } else { "w" };
                (0x3900_0000 | opcode | (size as u32) << 30, names[usize::from(store)], register)
            }
        }
    }

    /// Whether memory at this distance from a register is reached in one instruction.
    pub fn reaches(self, offset: i64) -> bool {
        let scaled = offset >= 0 && offset % self.bytes() == 0 && offset / self.bytes() < 4096;
        scaled || (-256..256).contains(&offset)
    }

    /// A load or store at a constant distance, which it [reaches](Moved::reaches). Operands: the register, the base.
    pub fn at(self, store: bool, offset: i64) -> Word {
        let (bits, name, register) = self.scaled(store);
        let mut word = if offset >= 0 && offset % self.bytes() == 0 && offset / self.bytes() < 4096 {
            Word::new(Form(bits | ((offset / self.bytes()) as u32 * 1024), "@ ~%0, [x%1, #{i}]"))
        } else {
            let bits = bits & !0x0100_0000 | (offset as u32 & 511) << 12;
            // The assembler takes the unscaled form where the scaled one does not do.
            Word::new(Form(bits, "@ ~%0, [x%1, #{i}]"))
        };
        word.shapes = [name, register];
        word.immediates[0] = offset;
        word
    }
}

/// One lane from or to memory at a register that moves on by the lane's bytes. Operands: the vector, the address.
pub fn lane_step(store: bool, size: Size, lane: u8) -> Word {
    let opcode = match size {
        Size::B => u32::from(lane & 7) << 10 | u32::from(lane >> 3) << 30,
        Size::H => 0x4000 | u32::from(lane & 3) << 11 | u32::from(lane >> 2) << 30,
        Size::S => 0x8000 | u32::from(lane & 1) << 12 | u32::from(lane >> 1) << 30,
        Size::D => 0x8400 | u32::from(lane) << 30,
    };
    let form = match (store, size) {
        (false, Size::B) => Form(0x0ddf_0000, "ld1 {v%0.b}[{i}], [x%1], #1"),
        (false, Size::H) => Form(0x0ddf_0000, "ld1 {v%0.h}[{i}], [x%1], #2"),
        (false, Size::S) => Form(0x0ddf_0000, "ld1 {v%0.s}[{i}], [x%1], #4"),
        (false, Size::D) => Form(0x0ddf_0000, "ld1 {v%0.d}[{i}], [x%1], #8"),
        (true, Size::B) => Form(0x0d9f_0000, "st1 {v%0.b}[{i}], [x%1], #1"),
        (true, Size::H) => Form(0x0d9f_0000, "st1 {v%0.h}[{i}], [x%1], #2"),
        (true, Size::S) => Form(0x0d9f_0000, "st1 {v%0.s}[{i}], [x%1], #4"),
        (true, Size::D) => Form(0x0d9f_0000, "st1 {v%0.d}[{i}], [x%1], #8"),
    };
    Word::new(form).or(opcode).immediate(lane.into())
}

/// One lane from or to memory at a register.
pub fn lane_at(store: bool, size: Size, lane: u8) -> Word {
    let mut word = lane_step(store, size, lane);
    word.bits &= !0x009f_0000;
    let text = word.text.rsplit_once(',').expect("the step is the last part").0;
    word.text = text;
    word
}

/// An element of memory in all lanes. Operands: the vector, the address.
pub fn load_repeated(size: Size) -> Word {
    Word::new(LD1R).or((size as u32) << 10).shape(size.whole())
}

pub const ADD: Form = Form(0x0b00_0000, "add @%0, @%1, @%2");
pub const ADD_SHIFTED: Form = Form(0x8b00_0000, "add x%0, x%1, x%2, lsl #{i}");
pub const SUB: Form = Form(0x4b00_0000, "sub @%0, @%1, @%2");
pub const ADD_IMMEDIATE: Form = Form(0x1100_0000, "add @%0, @%1, #{i}");
pub const SUB_IMMEDIATE: Form = Form(0x5100_0000, "sub @%0, @%1, #{i}");
pub const MUL: Form = Form(0x1b00_7c00, "mul @%0, @%1, @%2");
pub const MSUB: Form = Form(0x1b00_8000, "msub @%0, @%1, @%2, @%3");
pub const SDIV: Form = Form(0x1ac0_0c00, "sdiv @%0, @%1, @%2");
pub const UDIV: Form = Form(0x1ac0_0800, "udiv @%0, @%1, @%2");
pub const LSLV: Form = Form(0x1ac0_2000, "lsl @%0, @%1, @%2");
pub const LSRV: Form = Form(0x1ac0_2400, "lsr @%0, @%1, @%2");
pub const ASRV: Form = Form(0x1ac0_2800, "asr @%0, @%1, @%2");
pub const AND: Form = Form(0x0a00_0000, "and @%0, @%1, @%2");
pub const ORR: Form = Form(0x2a00_0000, "orr @%0, @%1, @%2");
pub const EOR: Form = Form(0x4a00_0000, "eor @%0, @%1, @%2");
pub const EOR_ONE: Form = Form(0x5200_0000, "eor w%0, w%1, #1");
pub const MVN: Form = Form(0x2a20_03e0, "mvn @%0, @%1");
pub const NEG: Form = Form(0x4b00_03e0, "neg @%0, @%1");
pub const CMP: Form = Form(0x6b00_001f, "cmp @%0, @%1");
pub const CMP_IMMEDIATE: Form = Form(0x7100_001f, "cmp @%0, #{i}");
pub const UBFM: Form = Form(0x5300_0000, "ubfm @%0, @%1, #{i}, #{j}");
pub const SBFM: Form = Form(0x1300_0000, "sbfm @%0, @%1, #{i}, #{j}");
pub const CSEL: Form = Form(0x9a80_0000, "csel x%0, x%1, x%2, @");
pub const CSNEG: Form = Form(0x5a80_0400, "csneg @%0, @%1, @%2, ge");
pub const CSET: Form = Form(0x1a9f_07e0, "cset w%0, @");
pub const MOVZ: Form = Form(0xd280_0000, "movz x%0, #{i}, lsl #{j}");
pub const MOVK: Form = Form(0xf280_0000, "movk x%0, #{i}, lsl #{j}");
pub const MOVN: Form = Form(0x9280_0000, "movn x%0, #{i}, lsl #{j}");
pub const SKIP: Form = Form(0x5400_0000, "b.@ .+{i}");
pub const SKIP_ALWAYS: Form = Form(0x1400_0000, "b .+{i}");

pub const FADD: Form = Form(0x1e20_2800, "fadd @%0, @%1, @%2");
pub const FSUB: Form = Form(0x1e20_3800, "fsub @%0, @%1, @%2");
pub const FMUL: Form = Form(0x1e20_0800, "fmul @%0, @%1, @%2");
pub const FDIV: Form = Form(0x1e20_1800, "fdiv @%0, @%1, @%2");
pub const FMAX: Form = Form(0x1e20_4800, "fmax @%0, @%1, @%2");
pub const FMIN: Form = Form(0x1e20_5800, "fmin @%0, @%1, @%2");
pub const FABS: Form = Form(0x1e20_c000, "fabs @%0, @%1");
pub const FNEG: Form = Form(0x1e21_4000, "fneg @%0, @%1");
pub const FSQRT: Form = Form(0x1e21_c000, "fsqrt @%0, @%1");
pub const FRINTN: Form = Form(0x1e24_4000, "frintn @%0, @%1");
pub const FRINTP: Form = Form(0x1e24_c000, "frintp @%0, @%1");
pub const FRINTM: Form = Form(0x1e25_4000, "frintm @%0, @%1");
pub const FRINTZ: Form = Form(0x1e25_c000, "frintz @%0, @%1");
pub const FMADD: Form = Form(0x1f00_0000, "fmadd @%0, @%1, @%2, @%3");
pub const FCSEL: Form = Form(0x1e20_0c00, "fcsel @%0, @%1, @%2, ~");
pub const FCMP: Form = Form(0x1e20_2000, "fcmp @%0, @%1");
pub const FCVT_SD: Form = Form(0x1e62_4000, "fcvt s%0, d%1");
pub const FCVT_DS: Form = Form(0x1e22_c000, "fcvt d%0, s%1");
pub const FCVT_SH: Form = Form(0x1ee2_4000, "fcvt s%0, h%1");
pub const FCVT_HS: Form = Form(0x1e23_c000, "fcvt h%0, s%1");
pub const FMOV_SW: Form = Form(0x1e27_0000, "fmov s%0, w%1");
pub const FMOV_WS: Form = Form(0x1e26_0000, "fmov w%0, s%1");
pub const FMOV_DX: Form = Form(0x9e67_0000, "fmov d%0, x%1");
pub const FMOV_XD: Form = Form(0x9e66_0000, "fmov x%0, d%1");
pub const SCVTF: Form = Form(0x1e22_0000, "scvtf @%0, ~%1");
pub const UCVTF: Form = Form(0x1e23_0000, "ucvtf @%0, ~%1");
pub const FCVTZS: Form = Form(0x1e38_0000, "fcvtzs ~%0, @%1");
pub const FCVTZU: Form = Form(0x1e39_0000, "fcvtzu ~%0, @%1");

pub const V_FADD: Form = Form(0x4e20_d400, "fadd v%0.@, v%1.@, v%2.@");
pub const V_FSUB: Form = Form(0x4ea0_d400, "fsub v%0.@, v%1.@, v%2.@");
pub const V_FMUL: Form = Form(0x6e20_dc00, "fmul v%0.@, v%1.@, v%2.@");
pub const V_FDIV: Form = Form(0x6e20_fc00, "fdiv v%0.@, v%1.@, v%2.@");
pub const V_FMAX: Form = Form(0x4e20_f400, "fmax v%0.@, v%1.@, v%2.@");
pub const V_FMIN: Form = Form(0x4ea0_f400, "fmin v%0.@, v%1.@, v%2.@");
pub const V_FMLA: Form = Form(0x4e20_cc00, "fmla v%0.@, v%1.@, v%2.@");
pub const V_FCMEQ: Form = Form(0x4e20_e400, "fcmeq v%0.@, v%1.@, v%2.@");
pub const V_FCMGE: Form = Form(0x6e20_e400, "fcmge v%0.@, v%1.@, v%2.@");
pub const V_FCMGT: Form = Form(0x6ea0_e400, "fcmgt v%0.@, v%1.@, v%2.@");
pub const V_FNEG: Form = Form(0x6ea0_f800, "fneg v%0.@, v%1.@");
pub const V_FABS: Form = Form(0x4ea0_f800, "fabs v%0.@, v%1.@");
pub const V_FSQRT: Form = Form(0x6ea1_f800, "fsqrt v%0.@, v%1.@");
pub const V_FRINTN: Form = Form(0x4e21_8800, "frintn v%0.@, v%1.@");
pub const V_FRINTP: Form = Form(0x4ea1_8800, "frintp v%0.@, v%1.@");
pub const V_FRINTM: Form = Form(0x4e21_9800, "frintm v%0.@, v%1.@");
pub const V_FRINTZ: Form = Form(0x4ea1_9800, "frintz v%0.@, v%1.@");
pub const V_SCVTF: Form = Form(0x4e21_d800, "scvtf v%0.@, v%1.@");
pub const V_UCVTF: Form = Form(0x6e21_d800, "ucvtf v%0.@, v%1.@");
pub const V_FCVTZS: Form = Form(0x4ea1_b800, "fcvtzs v%0.@, v%1.@");
pub const V_FCVTZU: Form = Form(0x6ea1_b800, "fcvtzu v%0.@, v%1.@");
pub const FMLA_LANE: Form = Form(0x4f80_1000, "fmla v%0.4s, v%1.4s, v%2.s[{i}]");
pub const FMUL_LANE: Form = Form(0x4f80_9000, "fmul v%0.4s, v%1.4s, v%2.s[{i}]");

pub const V_ADD: Form = Form(0x4e20_8400, "add v%0.@, v%1.@, v%2.@");
pub const V_SUB: Form = Form(0x6e20_8400, "sub v%0.@, v%1.@, v%2.@");
pub const V_MUL: Form = Form(0x4e20_9c00, "mul v%0.@, v%1.@, v%2.@");
pub const V_SMAX: Form = Form(0x4e20_6400, "smax v%0.@, v%1.@, v%2.@");
pub const V_SMIN: Form = Form(0x4e20_6c00, "smin v%0.@, v%1.@, v%2.@");
pub const V_UMAX: Form = Form(0x6e20_6400, "umax v%0.@, v%1.@, v%2.@");
pub const V_UMIN: Form = Form(0x6e20_6c00, "umin v%0.@, v%1.@, v%2.@");
pub const V_CMEQ: Form = Form(0x6e20_8c00, "cmeq v%0.@, v%1.@, v%2.@");
pub const V_CMTST: Form = Form(0x4e20_8c00, "cmtst v%0.@, v%1.@, v%2.@");
pub const V_CMGT: Form = Form(0x4e20_3400, "cmgt v%0.@, v%1.@, v%2.@");
pub const V_CMGE: Form = Form(0x4e20_3c00, "cmge v%0.@, v%1.@, v%2.@");
pub const V_CMHI: Form = Form(0x6e20_3400, "cmhi v%0.@, v%1.@, v%2.@");
pub const V_CMHS: Form = Form(0x6e20_3c00, "cmhs v%0.@, v%1.@, v%2.@");
pub const V_SSHL: Form = Form(0x4e20_4400, "sshl v%0.@, v%1.@, v%2.@");
pub const V_USHL: Form = Form(0x6e20_4400, "ushl v%0.@, v%1.@, v%2.@");
pub const V_NEG: Form = Form(0x6e20_b800, "neg v%0.@, v%1.@");
pub const V_ABS: Form = Form(0x4e20_b800, "abs v%0.@, v%1.@");
pub const V_AND: Form = Form(0x4e20_1c00, "and v%0.@, v%1.@, v%2.@");
pub const V_ORR: Form = Form(0x4ea0_1c00, "orr v%0.@, v%1.@, v%2.@");
pub const V_EOR: Form = Form(0x6e20_1c00, "eor v%0.@, v%1.@, v%2.@");
pub const V_NOT: Form = Form(0x6e20_5800, "mvn v%0.@, v%1.@");
pub const V_BSL: Form = Form(0x6e60_1c00, "bsl v%0.@, v%1.@, v%2.@");
pub const SHL: Form = Form(0x4f00_5400, "shl v%0.@, v%1.@, #{i}");
pub const USHR: Form = Form(0x6f00_0400, "ushr v%0.@, v%1.@, #{i}");
pub const SSHR: Form = Form(0x4f00_0400, "sshr v%0.@, v%1.@, #{i}");
pub const USRA: Form = Form(0x6f00_1400, "usra v%0.@, v%1.@, #{i}");
pub const UZP1: Form = Form(0x4e00_1800, "uzp1 v%0.@, v%1.@, v%2.@");
pub const UZP2: Form = Form(0x4e00_5800, "uzp2 v%0.@, v%1.@, v%2.@");
pub const EXT: Form = Form(0x6e00_0000, "ext v%0.16b, v%1.16b, v%2.16b, #{i}");
pub const DUP: Form = Form(0x4e00_0400, "dup v%0.@, v%1.~[{i}]");
pub const DUP_GENERAL: Form = Form(0x4e00_0c00, "dup v%0.@, ~%1");
pub const MOV_LANE: Form = Form(0x5e00_0400, "mov @%0, v%1.@[{i}]");
pub const UMOV: Form = Form(0x0e00_3c00, "umov w%0, v%1.@[{i}]");
pub const UMOV_X: Form = Form(0x4e00_3c00, "umov x%0, v%1.@[{i}]");
pub const SMOV: Form = Form(0x0e00_2c00, "smov w%0, v%1.@[{i}]");
pub const INS_GENERAL: Form = Form(0x4e00_1c00, "mov v%0.@[{i}], ~%1");
pub const INS: Form = Form(0x6e00_0400, "mov v%0.@[{i}], v%1.@[{j}]");
pub const SXTL: Form = Form(0x0f00_a400, "sxtl v%0.@, v%1.~");
pub const SXTL2: Form = Form(0x4f00_a400, "sxtl2 v%0.@, v%1.~");
pub const UXTL: Form = Form(0x2f00_a400, "uxtl v%0.@, v%1.~");
pub const UXTL2: Form = Form(0x6f00_a400, "uxtl2 v%0.@, v%1.~");
pub const FCVTL_H: Form = Form(0x0e21_7800, "fcvtl v%0.4s, v%1.4h");
pub const FCVTL2_H: Form = Form(0x4e21_7800, "fcvtl2 v%0.4s, v%1.8h");
pub const FCVTN_H: Form = Form(0x0e21_6800, "fcvtn v%0.4h, v%1.4s");
pub const FCVTN2_H: Form = Form(0x4e21_6800, "fcvtn2 v%0.8h, v%1.4s");
pub const FCVTL_S: Form = Form(0x0e61_7800, "fcvtl v%0.2d, v%1.2s");
pub const FCVTL2_S: Form = Form(0x4e61_7800, "fcvtl2 v%0.2d, v%1.4s");
pub const FCVTN_S: Form = Form(0x0e61_6800, "fcvtn v%0.2s, v%1.2d");
pub const FCVTN2_S: Form = Form(0x4e61_6800, "fcvtn2 v%0.4s, v%1.2d");
pub const BFCVTN: Form = Form(0x0ea1_6800, "bfcvtn v%0.4h, v%1.4s");
pub const BFCVTN2: Form = Form(0x4ea1_6800, "bfcvtn2 v%0.8h, v%1.4s");
pub const SHLL_H: Form = Form(0x2e61_3800, "shll v%0.4s, v%1.4h, #16");
pub const SHLL2_H: Form = Form(0x6e61_3800, "shll2 v%0.4s, v%1.8h, #16");
pub const LD1R: Form = Form(0x4d40_c000, "ld1r {v%0.@}, [x%1]");

pub const SDOT: Form = Form(0x4e80_9400, "sdot v%0.4s, v%1.16b, v%2.16b");
pub const UDOT: Form = Form(0x6e80_9400, "udot v%0.4s, v%1.16b, v%2.16b");
pub const USDOT: Form = Form(0x4e80_9c00, "usdot v%0.4s, v%1.16b, v%2.16b");
pub const SDOT_LANE: Form = Form(0x4f80_e000, "sdot v%0.4s, v%1.16b, v%2.4b[{i}]");
pub const UDOT_LANE: Form = Form(0x6f80_e000, "udot v%0.4s, v%1.16b, v%2.4b[{i}]");
pub const USDOT_LANE: Form = Form(0x4f80_f000, "usdot v%0.4s, v%1.16b, v%2.4b[{i}]");
pub const SUDOT_LANE: Form = Form(0x4f00_f000, "sudot v%0.4s, v%1.16b, v%2.4b[{i}]");
