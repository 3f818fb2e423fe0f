//! Arithmetic on elements that are known, as far as it gives what is known again.

use super::super::TensorType;
use super::super::constant::{ConstantSource, TensorBytes};
use super::{Element, Rule};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::evaluate;
use crate::scalar::{BinaryOp, CmpOp, Scalar, UnaryOp};

impl Rule<'_> {
    fn bounds(&self, dim: &Dim) -> (i64, i64) {
        dim.bounds(&self.graph.symbols)
    }

    pub(super) fn unary(&self, op: UnaryOp, ty: DType, a: Element) -> Option<Element> {
        match a {
            Element::Float(x) => {
                let y = match op {
                    UnaryOp::Neg => -x,
                    UnaryOp::Abs => x.abs(),
                    UnaryOp::Sqrt => x.sqrt(),
                    UnaryOp::Floor => x.floor(),
                    UnaryOp::Ceil => x.ceil(),
                    UnaryOp::Trunc => x.trunc(),
                    UnaryOp::Round => x.round_ties_even(),
                    _ => return None,
                };
                Some(float(ty, y))
            }
            Element::Int(d) => match op {
                UnaryOp::Neg => (-&d).ok().map(Element::Int),
                UnaryOp::Abs => match self.bounds(&d) {
                    (0.., _) => Some(Element::Int(d)),
                    (_, ..=0) => (-&d).ok().map(Element::Int),
                    _ => None,
                },
                UnaryOp::Not if ty == DType::Bool => (&Dim::ONE - &d).ok().map(Element::Int),
                _ => None,
            },
        }
    }

    pub(super) fn binary(&self, op: BinaryOp, ty: DType, a: Element, b: Element) -> Option<Element> {
        match (a, b) {
            (Element::Float(a), Element::Float(b)) => {
                let y = match op {
                    BinaryOp::Add => a + b,
                    BinaryOp::Sub => a - b,
                    BinaryOp::Mul => a * b,
                    BinaryOp::Div => a / b,
                    BinaryOp::Min if !a.is_nan() && !b.is_nan() => a.min(b),
                    BinaryOp::Max if !a.is_nan() && !b.is_nan() => a.max(b),
                    _ => return None,
                };
                Some(float(ty, y))
            }
            (Element::Int(a), Element::Int(b)) => self.int_binary(op, ty, &a, &b).map(Element::Int),
            _ => None,
        }
    }

    fn int_binary(&self, op: BinaryOp, ty: DType, a: &Dim, b: &Dim) -> Option<Dim> {
        let constants = a.as_const().zip(b.as_const());
        let natural = self.bounds(a).0 >= 0 && self.bounds(b).0 >= 0;
        match op {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => match constants {
                Some((a, b)) => Ok(Dim::from(if b == 0 { 0 } else { a.wrapping_div(b) })),
                // Sizes that divide by zero give 0 at run time, which no expression says: models do not rely on it.
                None if natural => a.floor_div(b),
                None => return None,
            },
            BinaryOp::Rem => match constants {
                Some((a, b)) => Ok(Dim::from(if b == 0 { 0 } else { a.wrapping_rem(b) })),
                None if natural => a.modulo(b),
                None => return None,
            },
            BinaryOp::Mod => match constants {
                Some((_, 0)) => Ok(Dim::ZERO),
                _ => a.modulo(b),
            },
            BinaryOp::Min => self.graph.lesser_dim(a, b),
            BinaryOp::Max => self.graph.greater_dim(a, b),
            BinaryOp::Pow => {
                let power = u32::try_from(b.as_const()?).ok().filter(|&n| n <= 64)?;
                (0..power).try_fold(Dim::ONE, |product, _| &product * a)
            }
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor | BinaryOp::Shl | BinaryOp::Shr => {
                let (a, b) = constants?;
                Ok(Dim::from(match op {
                    BinaryOp::And => a & b,
                    BinaryOp::Or => a | b,
                    BinaryOp::Xor => a ^ b,
                    _ if ty.is_unsigned_int() || !(0..63).contains(&b) => return None,
                    BinaryOp::Shl => a.checked_mul(1i64 << b)?,
                    _ => a >> b,
                }))
            }
        }
        .ok()
    }

    pub(super) fn compare(&self, op: CmpOp, a: &Element, b: &Element) -> Option<Element> {
        let (a, b) = match (a, b) {
            (Element::Int(a), Element::Int(b)) => (a, b),
            (Element::Float(a), Element::Float(b)) => {
                return Some(Element::truth(match op {
                    CmpOp::Eq => a == b,
                    CmpOp::Ne => a != b,
                    CmpOp::Lt => a < b,
                    CmpOp::Le => a <= b,
                    CmpOp::Gt => a > b,
                    CmpOp::Ge => a >= b,
                }));
            }
            _ => return None,
        };
        let equal = self.graph.same_dim(a, b);
        let (at_most, at_least) = self.graph.compare_dims(a, b);
        let below = self.graph.compare_dims(&(a + &Dim::ONE).ok()?, b).0;
        let above = self.graph.compare_dims(&(b + &Dim::ONE).ok()?, a).0;
        let decide = |yes: bool, no: bool| if yes || no { Some(Element::truth(yes)) } else { None };
        match op {
            CmpOp::Eq => decide(equal, below || above),
            CmpOp::Ne => decide(below || above, equal),
            CmpOp::Lt => decide(below, equal || at_least),
            CmpOp::Le => decide(equal || at_most, above),
            CmpOp::Gt => decide(above, equal || at_most),
            CmpOp::Ge => decide(equal || at_least, below),
        }
    }

    pub(super) fn cast(&self, to: DType, a: Element) -> Option<Element> {
        match (to, a) {
            (DType::Bool, a) => self.compare(CmpOp::Ne, &a, &Element::int(0)),
            (to, Element::Float(x)) if is_tracked_float(to) => Some(float(to, x)),
            (DType::F32, Element::Int(d)) => Some(Element::Float(f64::from(d.as_const()? as f32))),
            (DType::F64, Element::Int(d)) => Some(Element::Float(d.as_const()? as f64)),
            (to, Element::Float(x)) if to.is_int() => Some(Element::int(x as i64)),
            (to, a) if to.is_int() => Some(a),
            _ => None,
        }
    }
}

pub(super) fn is_tracked_float(ty: DType) -> bool {
    matches!(ty, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
}

/// Rounded to the type.
fn float(ty: DType, value: f64) -> Element {
    Element::Float(evaluate::float_value(ty, evaluate::float_bits(ty, value)))
}

/// Whether the element is representable in the type, so that no wrapping happens. Symbolic sizes are taken to fit types
/// of 32 bits and more.
pub(super) fn fits(element: &Element, ty: DType) -> bool {
    let value = match element {
        Element::Float(_) => return is_tracked_float(ty),
        Element::Int(d) => d.as_const(),
    };
    if ty == DType::Bool {
        return value.is_none_or(|v| v == 0 || v == 1);
    }
    let bits = ty.bits();
    match value {
        _ if !ty.is_int() => false,
        None => bits >= 32,
        Some(v) if ty.is_unsigned_int() => v >= 0 && (bits == 64 || v < 1i64 << bits),
        Some(v) => bits == 64 || (-(1i64 << (bits - 1))..1i64 << (bits - 1)).contains(&v),
    }
}

pub(super) fn scalar_element(scalar: Scalar) -> Option<Element> {
    match scalar.dtype {
        dtype if is_tracked_float(dtype) => Some(Element::Float(evaluate::float_value(dtype, scalar.bits))),
        _ => scalar.as_i64().map(Element::int),
    }
}

pub(super) fn constant_elements(ty: &TensorType, source: &ConstantSource) -> Option<Vec<Option<Element>>> {
    match source {
        ConstantSource::Splat(scalar) => {
            let element = scalar_element(*scalar);
            Some(vec![element; usize::try_from(ty.static_len()?).ok()?])
        }
        ConstantSource::Bytes(bytes) => match ty.dtype {
            dtype if is_tracked_float(dtype) => {
                let read = |b: &[u8]| {
                    let mut bits = [0; 8];
                    bits[..b.len()].copy_from_slice(b);
                    Some(Element::Float(evaluate::float_value(dtype, u64::from_le_bytes(bits))))
                };
                Some(bytes.chunks_exact((dtype.bits() / 8) as usize).map(read).collect())
            }
            dtype => {
                let tensor = TensorBytes { dtype, shape: ty.static_shape()?, bytes: bytes.clone() };
                let element = |v: i64| Some(Element::int(v)).filter(|e| fits(e, dtype));
                Some(tensor.to_i64()?.into_iter().map(element).collect())
            }
        },
        ConstantSource::Lazy { .. } => None,
    }
}
