//! Coordinates of a vector of positions: where each lane stands along one axis.
//!
//! Address arithmetic keeps the affine form as long as it can, because that is what becomes a plain vector load; only
//! data-dependent indices and divisions that cross a boundary fall back to one index per lane.

use onnxc_ir::dtype::DType;
use onnxc_ir::loops::build::Index;
use onnxc_ir::loops::{Address, Val};
use onnxc_ir::scalar::{BinaryOp, Scalar};

use super::GroupKernel;

/// The coordinates of all lanes along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coord {
    /// Lane `l` stands at `index + l * step`.
    Affine {
        /// Of lane 0.
        index: Index,
        /// From lane to lane.
        step: i64,
        /// Divides `index`; 1 if nothing is known.
        multiple: i64,
    },
    /// One `i64` index per lane.
    Lanes(Val),
}

/// How the lanes of an access lie in memory.
pub enum Access {
    /// All lanes at one element.
    Same,
    /// Consecutive elements.
    Consecutive,
    /// At these offsets (`i64` lanes) from the address.
    Scattered(Val),
}

impl Coord {
    /// Lane 0's index.
    ///
    /// # Panics
    /// If each lane has an index of its own.
    pub fn first_index(&self) -> Index {
        match *self {
            Coord::Affine { index, .. } => index,
            Coord::Lanes(_) => panic!("the lanes stand at indices of their own"),
        }
    }

    /// All lanes at one index.
    pub fn uniform(index: impl Into<Index>) -> Coord {
        Coord::Affine { index: index.into(), step: 0, multiple: 1 }
    }

    /// Consecutive lanes from an index that is a multiple of `multiple`.
    pub fn consecutive(index: impl Into<Index>, multiple: i64) -> Coord {
        Coord::Affine { index: index.into(), step: 1, multiple }
    }
}

/// The greatest divisor that an index and what is added to it have in common.
fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    (a as i64).max(1)
}

impl GroupKernel<'_> {
    /// The coordinate as one `i64` per lane.
    pub fn coord_lanes(&mut self, coord: Coord, lanes: u16) -> Val {
        match coord {
            Coord::Lanes(v) => v,
            Coord::Affine { index, step, .. } => {
                let base = self.b.val(index);
                let base = self.b.splat(base, lanes);
                if step == 0 || lanes == 1 {
                    return base;
                }
                let mut ramp = self.b.iota(DType::I64, lanes);
                if step != 1 {
                    let step = self.b.constant(Scalar::i64(step), lanes);
                    ramp = self.b.binary(BinaryOp::Mul, ramp, step);
                }
                self.b.binary(BinaryOp::Add, base, ramp)
            }
        }
    }

    /// `start + coord * step`.
    pub fn coord_scale(&mut self, coord: Coord, step: i64, start: Index, lanes: u16) -> Coord {
        match coord {
            Coord::Affine { index, step: s, multiple } => {
                let scaled = self.b.imul(index, step);
                let index = self.b.iadd(scaled, start);
                let multiple = start.as_const().map_or(1, |c| gcd(multiple * step, c));
                Coord::Affine { index, step: s * step, multiple }
            }
            Coord::Lanes(v) => {
                let by = self.b.constant(Scalar::i64(step), lanes);
                let scaled = self.b.binary(BinaryOp::Mul, v, by);
                let start = self.b.val(start);
                let start = self.b.splat(start, lanes);
                Coord::Lanes(self.b.binary(BinaryOp::Add, scaled, start))
            }
        }
    }

    /// `major * size + minor`: two axes seen as one.
    pub fn coord_merge(&mut self, major: Coord, minor: Coord, size: Index, lanes: u16) -> Coord {
        match (major, minor, size) {
            (
                Coord::Affine { index: a, step: s, multiple: m },
                Coord::Affine { index: b, step: t, multiple: n },
                Index::Const(size),
            ) => {
                let scaled = self.b.imul(a, size);
                let index = self.b.iadd(scaled, b);
                Coord::Affine { index, step: s * size + t, multiple: gcd(m * size, n) }
            }
            (Coord::Affine { index: a, step: 0, .. }, Coord::Affine { index: b, step, .. }, size) => {
                let scaled = self.b.imul(a, size);
                let index = self.b.iadd(scaled, b);
                Coord::Affine { index, step, multiple: 1 }
            }
            _ => {
                let (major, minor) = (self.coord_lanes(major, lanes), self.coord_lanes(minor, lanes));
                let size = self.b.val(size);
                let size = self.b.splat(size, lanes);
                let scaled = self.b.binary(BinaryOp::Mul, major, size);
                Coord::Lanes(self.b.binary(BinaryOp::Add, scaled, minor))
            }
        }
    }

    /// `flat + coord * stride`: the row-major index of one more axis.
    pub fn coord_merge_strided(&mut self, flat: Coord, coord: Coord, stride: Index, lanes: u16) -> Coord {
        match (flat, coord, stride) {
            (
                Coord::Affine { index: a, step: s, .. },
                Coord::Affine { index: b, step: t, .. },
                Index::Const(stride),
            ) => {
                let term = self.b.imul(b, stride);
                let index = self.b.iadd(a, term);
                Coord::Affine { index, step: s + t * stride, multiple: 1 }
            }
            _ => {
                let (flat, coord) = (self.coord_lanes(flat, lanes), self.coord_lanes(coord, lanes));
                let stride = self.b.val(stride);
                let stride = self.b.splat(stride, lanes);
                let term = self.b.binary(BinaryOp::Mul, coord, stride);
                Coord::Lanes(self.b.binary(BinaryOp::Add, flat, term))
            }
        }
    }

    /// `(coord / size, coord % size)`: one axis seen as two. Coordinates are not negative.
    pub fn coord_split(&mut self, coord: Coord, size: Index, lanes: u16) -> (Coord, Coord) {
        match (coord, size) {
            (Coord::Affine { index, step: 0, .. }, size) => {
                (Coord::uniform(self.b.idiv(index, size)), Coord::uniform(self.b.irem(index, size)))
            }
            // All lanes fall between two multiples of `size`, so the quotient is the same for all.
            (Coord::Affine { index, step, multiple }, Index::Const(c))
                if step > 0
                    && {
                        let g = gcd(multiple, c);
                        c == g || g > step * i64::from(lanes - 1)
                    }
                    && step * i64::from(lanes - 1) < c =>
            {
                let (q, r) = (self.b.idiv(index, size), self.b.irem(index, size));
                (Coord::uniform(q), Coord::Affine { index: r, step, multiple: gcd(multiple, c) })
            }
            (coord, size) => {
                let v = self.coord_lanes(coord, lanes);
                let size = self.b.val(size);
                let size = self.b.splat(size, lanes);
                (
                    Coord::Lanes(self.b.binary(BinaryOp::Div, v, size)),
                    Coord::Lanes(self.b.binary(BinaryOp::Rem, v, size)),
                )
            }
        }
    }

    /// The coordinate limited to `0..size`.
    pub fn coord_clamp(&mut self, coord: Coord, size: Index, lanes: u16) -> Coord {
        let last = self.b.isub(size, 1);
        match coord {
            Coord::Affine { index, step: 0, .. } => {
                let index = self.b.imin(index, last);
                Coord::uniform(self.b.imax(index, 0))
            }
            coord => {
                let v = self.coord_lanes(coord, lanes);
                let last = self.b.val(last);
                let last = self.b.splat(last, lanes);
                let zero = self.b.constant(Scalar::i64(0), lanes);
                let v = self.b.binary(BinaryOp::Min, v, last);
                Coord::Lanes(self.b.binary(BinaryOp::Max, v, zero))
            }
        }
    }

    /// The address of the element at `coords` of a tensor with these strides, and how the lanes lie around it.
    pub fn locate(&mut self, coords: &[Coord], strides: &[Index], lanes: u16) -> (Address, Access) {
        assert_eq!(coords.len(), strides.len(), "one coordinate per dimension");
        let mut address = Address::default();
        let mut step = 0;
        let mut scattered: Option<Val> = None;
        for (&coord, &stride) in coords.iter().zip(strides) {
            match (coord, stride) {
                (Coord::Affine { index, step: 0, .. }, stride) => address = self.b.advance(address, index, stride),
                (Coord::Affine { index, step: s, .. }, Index::Const(c)) => {
                    address = self.b.advance(address, index, stride);
                    step += s * c;
                }
                (coord, stride) => {
                    let v = self.coord_lanes(coord, lanes);
                    let stride = self.b.val(stride);
                    let stride = self.b.splat(stride, lanes);
                    let term = self.b.binary(BinaryOp::Mul, v, stride);
                    scattered = Some(match scattered {
                        None => term,
                        Some(sum) => self.b.binary(BinaryOp::Add, sum, term),
                    });
                }
            }
        }
        if lanes == 1 {
            // A data-dependent index of a scalar access is one more term of the address.
            return match scattered {
                None => (address, Access::Same),
                Some(v) => (self.b.advance(address, v, 1), Access::Same),
            };
        }
        let access = match (scattered, step) {
            (None, 0) => Access::Same,
            (None, 1) => Access::Consecutive,
            (None, step) => {
                Access::Scattered(self.coord_lanes(Coord::Affine { index: Index::Const(0), step, multiple: 1 }, lanes))
            }
            (Some(v), 0) => Access::Scattered(v),
            (Some(v), step) => {
                let ramp = self.coord_lanes(Coord::Affine { index: Index::Const(0), step, multiple: 1 }, lanes);
                Access::Scattered(self.b.binary(BinaryOp::Add, v, ramp))
            }
        };
        (address, access)
    }
}
