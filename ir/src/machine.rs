//! What lowering may know about the machine it schedules for.
//!
//! A plain record of numbers that the backend's target fills in from its table of named processors, never from the
//! host, so that one model and one target name give the same program everywhere.

use crate::dtype::DType;
use crate::loops::TileKind;

/// The facts about a processor that schedules and the cost model read.
///
/// The vector facts come twice: what the instruction set has (`vector_bits`, `vector_registers`), and what the code
/// generator in use makes of it (`kernel_lanes_f32`, `kernel_vector_registers`). Schedules size their tiles by the
/// second pair; the first says what a wider backend could reach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MachineModel {
    /// Bytes of a pointer.
    pub pointer_bytes: u32,
    /// Bits of the widest vector register of the instruction set.
    pub vector_bits: u32,
    /// Architectural vector registers at that width.
    pub vector_registers: u32,
    /// f32 lanes of the vectors that kernels are generated with.
    pub kernel_lanes_f32: u32,
    /// f32 lanes of vectors in kernels that pass over memory and keep few values: a thread of a GPU takes several neighbours
    /// there, which it moves at once. Equal to `kernel_lanes_f32` elsewhere.
    pub stream_lanes_f32: u32,
    /// Kernels that pass over memory have vectors of any type, as many bytes wide as of f32.
    pub streams_any_type: bool,
    /// Vector registers that kernels are generated with.
    pub kernel_vector_registers: u32,
    /// Level-1 data cache of one core, in bytes.
    pub l1d_bytes: u64,
    /// Level-2 cache that one core can count on, in bytes.
    pub l2_bytes: u64,
    /// Last-level cache shared by the cores, in bytes; equal to `l2_bytes` where there is no third level.
    pub l3_bytes: u64,
    /// Cores assumed when a task grid is cut; never the number that happens to run the model.
    pub cores: u32,
    /// How many elements a task of an elementwise kernel computes at least: enough to pay for handing it to a worker.
    pub task_elements: i64,
    /// Kernels can load and store the first lanes of a vector only, at no more cost than whole vectors.
    pub has_predicates: bool,
    /// A fused multiply-add instruction exists.
    pub has_fma: bool,
    /// A multiply-add takes one lane of a vector register as an operand, so that a vector holds the left elements of as
    /// many steps of a product.
    pub multiplies_by_lanes: bool,
    /// Dot products of four integers of 8 bits.
    pub dots: Dots,
    /// Kernels load and store vectors of 8-bit integers and of 16-bit types, and predicate them if they do others.
    pub moves_narrow: bool,
    /// Kernels convert between `f16` and `f32` by an instruction.
    pub converts_f16: bool,
    /// A bf16 dot product instruction exists.
    pub has_dot2_bf16: bool,
    /// Matrix instructions exist, and blocks of threads that compute tiles of products by them (see [`crate::loops::tile`]).
    pub tiles: bool,
    /// Tiles of 256 columns pay: groups of warps multiply what copies bring as it is.
    pub wide_tiles: bool,
    /// What the operands of `f32` products may be rounded to, where the caller allows it.
    pub f32_products: Option<TileKind>,
}

/// Which dot products of four 8-bit integers are worth storing weights as words for, and what they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dots {
    /// Signed factors.
    pub signed: bool,
    /// A signed and an unsigned factor.
    pub mixed: bool,
    /// Unsigned factors.
    pub unsigned: bool,
    /// Vector registers that a factor takes while it is multiplied.
    pub factor_registers: u32,
    /// Vector registers that a dot product takes beside its factors and sum; 0 where it is one instruction.
    pub temporaries: u32,
}

impl Dots {
    /// None is.
    pub const NONE: Dots = Dots { signed: false, mixed: false, unsigned: false, factor_registers: 1, temporaries: 0 };

    /// Whether there are products of `i8` or `u8` with `i8` or `u8`.
    pub fn has(&self, a: DType, b: DType) -> bool {
        match (a, b) {
            (DType::I8, DType::I8) => self.signed,
            (DType::U8, DType::U8) => self.unsigned,
            (DType::I8, DType::U8) | (DType::U8, DType::I8) => self.mixed,
            _ => false,
        }
    }
}

impl MachineModel {
    /// The least processor that onnxc serves: 16 vector registers of 128 bits, no fused multiply-add, small caches.
    /// Tests that do not care about a target use it.
    pub const BASELINE: MachineModel = MachineModel {
        pointer_bytes: 8,
        vector_bits: 128,
        vector_registers: 16,
        kernel_lanes_f32: 4,
        stream_lanes_f32: 4,
        streams_any_type: false,
        kernel_vector_registers: 16,
        l1d_bytes: 32 << 10,
        l2_bytes: 256 << 10,
        l3_bytes: 4 << 20,
        cores: 4,
        task_elements: 16 << 10,
        has_predicates: false,
        has_fma: false,
        multiplies_by_lanes: false,
        dots: Dots::NONE,
        moves_narrow: false,
        converts_f16: false,
        has_dot2_bf16: false,
        tiles: false,
        wide_tiles: false,
        f32_products: None,
    };

    /// Lanes of a kernel vector whose elements have `element_bytes` bytes, at least 1.
    ///
    /// ```
    /// use onnxc_ir::machine::MachineModel;
    /// assert_eq!(MachineModel::BASELINE.kernel_lanes(4), 4);
    /// assert_eq!(MachineModel::BASELINE.kernel_lanes(8), 2);
    /// ```
    pub fn kernel_lanes(&self, element_bytes: u32) -> u32 {
        (self.kernel_lanes_f32 * 4 / element_bytes.max(1)).max(1)
    }
}
