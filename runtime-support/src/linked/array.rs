//! The Rust types of ports: arrays where the shape is fixed, views where it is not.

use core::fmt;
use core::ops::Index;

use crate::dtype::Element;

/// A number, or an array of arrays of them: what a port of fixed shape is.
///
/// # Safety
/// The type is `LENGTH` elements without padding.
pub unsafe trait Array: Copy + 'static {
    /// The number's type.
    type Element: Element;
    /// How many elements there are.
    const LENGTH: usize;

    /// Elements in row-major order as this array, if there are as many.
    ///
    /// ```
    /// use onnxc_runtime::Array;
    /// let rows = <[[f32; 3]; 2]>::from_elements(&[1., 2., 3., 4., 5., 6.]).unwrap();
    /// assert_eq!(rows[1], [4., 5., 6.]);
    /// assert!(<[[f32; 3]; 2]>::from_elements(&[1.]).is_none());
    /// ```
    fn from_elements(elements: &[Self::Element]) -> Option<&Self> {
        // SAFETY: the array is just so many elements, at least as aligned as one of them (the trait's promise).
        (elements.len() == Self::LENGTH).then(|| unsafe { &*elements.as_ptr().cast::<Self>() })
    }

    /// All elements in row-major order.
    fn elements(&self) -> &[Self::Element] {
        // SAFETY: the array is just so many elements (the trait's promise).
        unsafe { core::slice::from_raw_parts((&raw const *self).cast::<Self::Element>(), Self::LENGTH) }
    }
}

macro_rules! scalars {
    ($($type:ty),+) => {
        // SAFETY: one element.
        $(unsafe impl Array for $type {
            type Element = $type;
            const LENGTH: usize = 1;
        })+
    };
}

scalars!(f32, f64, u8, u16, u32, u64, i8, i16, i32, i64, bool);

// SAFETY: arrays have no padding between their items.
unsafe impl<A: Array, const N: usize> Array for [A; N] {
    type Element = A::Element;
    const LENGTH: usize = N * A::LENGTH;
}

/// A dense row-major tensor over borrowed elements: what a port is whose shape is not fixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View<'a, T, const RANK: usize> {
    shape: [usize; RANK],
    elements: &'a [T],
}

impl<'a, T, const RANK: usize> View<'a, T, RANK> {
    /// A tensor over elements, of which there must be as many as the shape says.
    pub fn new(shape: [usize; RANK], elements: &'a [T]) -> Result<Self, ViewError> {
        let expected = shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent));
        if expected != Some(elements.len()) {
            return Err(ViewError { expected, actual: elements.len() });
        }
        Ok(Self { shape, elements })
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> [usize; RANK] {
        self.shape
    }

    /// All elements in row-major order.
    pub fn elements(&self) -> &'a [T] {
        self.elements
    }

    /// The element at these coordinates, if it is one.
    pub fn get(&self, coordinates: [usize; RANK]) -> Option<&'a T> {
        let mut place = 0;
        for (coordinate, extent) in coordinates.into_iter().zip(self.shape) {
            if coordinate >= extent {
                return None;
            }
            place = place * extent + coordinate;
        }
        self.elements.get(place)
    }
}

impl<T, const RANK: usize> Index<[usize; RANK]> for View<'_, T, RANK> {
    type Output = T;

    fn index(&self, coordinates: [usize; RANK]) -> &T {
        let shape = self.shape;
        self.get(coordinates).unwrap_or_else(|| panic!("coordinates {coordinates:?} are outside of shape {shape:?}"))
    }
}

/// A number of elements that is not the shape's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewError {
    /// As the shape says; none where that overflows.
    pub expected: Option<usize>,
    /// As given.
    pub actual: usize,
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expected {
            Some(expected) => write!(f, "{} elements for a shape of {expected}", self.actual),
            None => write!(f, "a shape of more elements than memory holds, for {}", self.actual),
        }
    }
}

impl core::error::Error for ViewError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_their_elements() {
        assert_eq!([[[1i64, 2], [3, 4]], [[5, 6], [7, 8]]].elements(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(<[[u8; 2]; 3]>::LENGTH, 6);
        assert_eq!(2.5f64.elements(), [2.5]);
        assert!(<[f32; 0]>::from_elements(&[]).is_some());
    }

    #[test]
    fn views_check_shapes_and_coordinates() {
        assert_eq!(View::new([2, 2], &[1, 2, 3]), Err(ViewError { expected: Some(4), actual: 3 }));
        assert_eq!(View::new([usize::MAX, 2], &[1]), Err(ViewError { expected: None, actual: 1 }));
        let view = View::new([2, 3], &[1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!((view[[1, 0]], view.get([0, 3]), view.get([2, 0])), (4, None, None));
    }
}
