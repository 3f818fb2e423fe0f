//! Comparing a value with its reference by NumPy's rule: elements agree where `|y - ref| <= atol + rtol * |ref|`, where
//! both are NaN, or where both are the same infinity. Integers are compared exactly in 128 bits before the tolerance
//! is applied; strings must be equal.

use std::fmt;

use super::elements::Element;
use super::values::DataValue;
use crate::proto::TensorData;

/// How far elements may be apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Relative to the reference's magnitude.
    pub rtol: f64,
    /// Absolute.
    pub atol: f64,
}

/// The element that is furthest beyond its tolerance.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// The containers' positions and keys, outermost first; empty for a tensor by itself.
    pub place: String,
    /// One position for each dimension.
    pub index: Vec<u64>,
    /// The element as computed.
    pub actual: Element,
    /// The element of the reference.
    pub expected: Element,
    /// `|actual - expected|`; infinite where one is NaN, an infinity or a string and the other is not.
    pub error: f64,
    excess: f64,
}

/// What a comparison of equally shaped values found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Elements compared.
    pub elements: u64,
    /// Elements beyond the tolerance.
    pub mismatches: u64,
    /// Greatest `|y - ref|` among elements where both are finite.
    pub max_error: f64,
    /// Greatest finite `|ref|`.
    pub max_reference: f64,
    /// Sum of `(y - ref)^2` over the elements where both are finite.
    pub squared_errors: f64,
    /// Sum of `ref^2` over the finite elements of the reference.
    pub squared_references: f64,
    /// The worst element beyond the tolerance; None where all agree.
    pub worst: Option<Worst>,
}

/// Why two values cannot be compared element by element.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}{what} is {actual}, the reference has {expected}")]
pub struct Mismatch {
    /// As in [`Worst`].
    pub place: String,
    /// What differs: the kind of value, the element type, the shape, the length or the keys.
    pub what: &'static str,
    /// As computed.
    pub actual: String,
    /// As in the reference.
    pub expected: String,
}

impl Comparison {
    /// Whether every element agrees.
    pub fn agrees(&self) -> bool {
        self.mismatches == 0
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(worst) = &self.worst else {
            return write!(f, "{} elements agree, max error {:e}", self.elements, self.max_error);
        };
        write!(
            f,
            "{} of {} elements differ, worst at {}{:?}: {} for {}",
            self.mismatches, self.elements, worst.place, worst.index, worst.actual, worst.expected
        )
    }
}

/// Compares two values of any kind; tensors must agree in element type and shape.
pub fn compare(actual: &DataValue, expected: &DataValue, tolerance: Tolerance) -> Result<Comparison, Mismatch> {
    let mut comparison = Comparison::default();
    comparison.value(actual, expected, tolerance, "")?;
    Ok(comparison)
}

fn mismatch(
    place: &str,
    what: &'static str,
    actual: impl fmt::Debug,
    expected: impl fmt::Debug,
) -> Result<(), Mismatch> {
    let (actual, expected) = (format!("{actual:?}"), format!("{expected:?}"));
    if actual == expected { Ok(()) } else { Err(Mismatch { place: place.to_owned(), what, actual, expected }) }
}

impl Comparison {
    fn value(&mut self, y: &DataValue, to: &DataValue, tolerance: Tolerance, place: &str) -> Result<(), Mismatch> {
        match (y, to) {
            (DataValue::Tensor(y), DataValue::Tensor(to)) => self.tensor(y, to, tolerance, place),
            (DataValue::Sequence(y), DataValue::Sequence(to)) => self.list(y, to, tolerance, place),
            (DataValue::Optional(Some(y)), DataValue::Optional(Some(to))) => self.value(y, to, tolerance, place),
            (DataValue::Optional(y), DataValue::Optional(to)) => mismatch(place, "presence", y.is_some(), to.is_some()),
            (DataValue::Map { keys, values }, DataValue::Map { keys: to_keys, values: to_values }) => {
                mismatch(place, "key count", keys.len(), to_keys.len())?;
                for index in 0..keys.len() {
                    mismatch(place, "key", keys.element(index), to_keys.element(index))?;
                }
                self.list(values, to_values, tolerance, place)
            }
            _ => mismatch(place, "kind", y.kind(), to.kind()),
        }
    }

    fn list(&mut self, y: &[DataValue], to: &[DataValue], tol: Tolerance, place: &str) -> Result<(), Mismatch> {
        mismatch(place, "length", y.len(), to.len())?;
        for (index, (y, to)) in y.iter().zip(to).enumerate() {
            self.value(y, to, tol, &format!("{place}element {index}: "))?;
        }
        Ok(())
    }

    fn tensor(&mut self, y: &TensorData, to: &TensorData, tol: Tolerance, place: &str) -> Result<(), Mismatch> {
        mismatch(place, "element type", y.dtype(), to.dtype())?;
        mismatch(place, "shape", y.dims(), to.dims())?;
        for linear in 0..to.len() {
            let (actual, expected) = (y.element(linear), to.element(linear));
            let (error, allowed) = distance(&actual, &expected, tol);
            self.elements += 1;
            if error.is_finite() {
                self.max_error = self.max_error.max(error);
                self.squared_errors += error * error;
            }
            let magnitude = magnitude(&expected);
            if magnitude.is_finite() {
                self.max_reference = self.max_reference.max(magnitude);
                self.squared_references += magnitude * magnitude;
            }
            if error <= allowed {
                continue;
            }
            self.mismatches += 1;
            let excess = error - allowed;
            if self.worst.as_ref().is_none_or(|worst| worst.excess < excess) {
                let (place, index) = (place.to_owned(), position(linear, to.dims()));
                self.worst = Some(Worst { place, index, actual, expected, error, excess });
            }
        }
        Ok(())
    }
}

/// The position in each dimension of a linear, row-major one.
fn position(mut linear: u64, dims: &[i64]) -> Vec<u64> {
    let mut index = vec![0; dims.len()];
    for (axis, dim) in dims.iter().enumerate().rev() {
        index[axis] = linear % dim.unsigned_abs();
        linear /= dim.unsigned_abs();
    }
    index
}

fn magnitude(element: &Element) -> f64 {
    match element {
        Element::Int(value) => value.unsigned_abs() as f64,
        Element::Real(value) => value.abs(),
        Element::Complex(re, im) => re.hypot(*im),
        Element::Text(_) => 0.0,
    }
}

/// The distance of two elements of one type and the distance that is allowed, never both infinite.
fn distance(actual: &Element, expected: &Element, tolerance: Tolerance) -> (f64, f64) {
    let error = match (actual, expected) {
        (Element::Int(y), Element::Int(to)) => (y - to).unsigned_abs() as f64,
        (Element::Real(y), Element::Real(to)) => real_distance(*y, *to),
        (Element::Complex(y_re, y_im), Element::Complex(re, im)) => {
            real_distance(*y_re, *re).hypot(real_distance(*y_im, *im))
        }
        (y, to) => {
            if y == to {
                0.0
            } else {
                f64::INFINITY
            }
        }
    };
    let magnitude = magnitude(expected);
    let relative = if magnitude.is_finite() { tolerance.rtol * magnitude } else { 0.0 };
    (error, (tolerance.atol + relative).min(f64::MAX))
}

fn real_distance(y: f64, to: f64) -> f64 {
    if y == to || (y.is_nan() && to.is_nan()) {
        0.0
    } else if y.is_finite() && to.is_finite() {
        (y - to).abs()
    } else {
        f64::INFINITY
    }
}
