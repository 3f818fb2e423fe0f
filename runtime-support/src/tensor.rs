//! Dense row-major tensors that borrow their elements, of any type.

use crate::abi::MAX_RANK;
use crate::dtype::{DataType, Element};
use crate::error::{Error, OptionalBytes};

/// A dense row-major tensor over borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    dtype: DataType,
    rank: usize,
    dims: [i64; MAX_RANK],
    bytes: &'a [u8],
    text: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// A tensor of strings: for each its offset in `text` and its length. A model refuses a string outside of the text.
    pub fn strings(shape: &[i64], pairs: &'a [[u64; 2]], text: &'a [u8]) -> Result<Self, Error> {
        // SAFETY: pairs of u64 have no padding, and any byte may be read.
        let bytes = unsafe { std::slice::from_raw_parts(pairs.as_ptr().cast::<u8>(), size_of_val(pairs)) };
        Self::from_string_bytes(shape, bytes, text)
    }

    /// A tensor of strings over bytes: for each its offset in `text` and its length, 8 bytes each in the machine's order.
    pub fn from_string_bytes(shape: &[i64], pairs: &'a [u8], text: &'a [u8]) -> Result<Self, Error> {
        Ok(Self { text, ..Self::from_bytes(DataType::String, shape, pairs)? })
    }

    /// A tensor over elements: as many as the shape's product, else [`Error::DataLength`].
    pub fn new<T: Element>(shape: &[i64], elements: &'a [T]) -> Result<Self, Error> {
        // SAFETY: every Element is a plain number or bool: no padding, and any byte may be read.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) };
        Self::from_bytes(T::DTYPE, shape, bytes)
    }

    /// A tensor over bytes in the machine's order. A model refuses bytes that are not aligned to one element.
    pub fn from_bytes(dtype: DataType, shape: &[i64], bytes: &'a [u8]) -> Result<Self, Error> {
        if shape.len() > MAX_RANK {
            return Err(Error::Rank(shape.len()));
        }
        let expected = dtype.tensor_bytes(shape);
        if expected != Some(bytes.len()) {
            return Err(Error::DataLength { expected: OptionalBytes(expected), actual: bytes.len() });
        }
        let mut dims = [0; MAX_RANK];
        dims[..shape.len()].copy_from_slice(shape);
        Ok(Self { dtype, rank: shape.len(), dims, bytes, text: &[] })
    }

    /// The element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[i64] {
        &self.dims[..self.rank]
    }

    /// The elements' bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn with_text(self, text: &'a [u8]) -> Self {
        Self { text, ..self }
    }

    /// What the pairs of offset and length in the bytes of a tensor of strings point into.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The elements, when `T` is the tensor's type.
    pub fn elements<T: Element>(&self) -> Result<&'a [T], Error> {
        if T::DTYPE != self.dtype {
            return Err(Error::ElementType { expected: T::DTYPE, actual: self.dtype });
        }
        if self.bytes.is_empty() {
            return Ok(&[]);
        }
        let pointer = self.bytes.as_ptr().cast::<T>();
        if !pointer.is_aligned() || !T::are_valid(self.bytes) {
            return Err(Error::Elements(self.dtype));
        }
        // SAFETY: the bytes hold a whole number of elements by construction, and are aligned and valid as just checked.
        Ok(unsafe { std::slice::from_raw_parts(pointer, self.bytes.len() / size_of::<T>()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_check_length_type_alignment_and_values() {
        let numbers = [1.0f32, 2.0, 3.0];
        assert!(matches!(TensorView::new(&[4], &numbers), Err(Error::DataLength { actual: 12, .. })));
        let view = TensorView::new(&[3, 1], &numbers).unwrap();
        assert_eq!((view.shape(), view.elements::<f32>().unwrap()), (&[3i64, 1][..], &numbers[..]));
        assert!(matches!(view.elements::<i32>(), Err(Error::ElementType { .. })));
        assert!(matches!(TensorView::new(&[1; 9], &numbers[..1]), Err(Error::Rank(9))));

        let bytes = [0u8; 12];
        let odd = usize::from(bytes.as_ptr().addr() % 2 == 0);
        let view = TensorView::from_bytes(DataType::F32, &[2], &bytes[odd..odd + 8]).unwrap();
        assert_eq!(view.elements::<f32>(), Err(Error::Elements(DataType::F32)));
        let view = TensorView::from_bytes(DataType::Bool, &[2], &[1, 2]).unwrap();
        assert_eq!(view.elements::<bool>(), Err(Error::Elements(DataType::Bool)));
    }
}
