//! What products, convolutions and windows are made of.

use smallvec::SmallVec;

use super::ReduceOp;
use crate::dtype::DType;

/// The label of an index in a contraction.
pub type Label = u8;

/// Weights that are stored in panels of columns; see the pass `pack_weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Panel {
    /// Columns of a panel.
    pub columns: u32,
    /// How many elements along the depth stand side by side: 1, or 4 integers of 8 bits, which are a word. The words of a
    /// depth of K, at least 4, begin at 0, 4, 8, ..., and the last of ceil(K / 4) at K - 4: so none reaches beyond the depth.
    /// Elements of the last word that the one before it has as well are 0 in the last.
    pub deep: u32,
}

impl Panel {
    /// Panels of this many columns with one element beside the other.
    pub const fn flat(columns: u32) -> Panel {
        Panel { columns, deep: 1 }
    }

    /// Panels of words.
    pub const fn words(columns: u32) -> Panel {
        Panel { columns, deep: 4 }
    }

    /// Whether the panels hold words.
    pub fn is_deep(self) -> bool {
        self.deep == 4
    }

    /// The word that has an element of a depth, and its place there.
    pub fn place(self, element: i64, depth: i64) -> (i64, i64) {
        let deep = i64::from(self.deep);
        let last = (depth + deep - 1) / deep - 1;
        let word = (element / deep).min(last);
        (word, element - (word * deep).min(depth - deep))
    }
}

impl std::fmt::Display for Panel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.columns, if self.is_deep() { " words" } else { "" })
    }
}

/// `out[o] = sum over labels in neither output of in0[l] * in1[r]`, an einsum of two operands. A label names one index; it
/// appears at most once in each operand. Labels in both operands and `out` are batch labels, in one operand and `out`
/// free labels, in both operands only contracted labels, in one operand only are summed over it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contract {
    /// Labels of the left operand's axes.
    pub lhs: SmallVec<[Label; 5]>,
    /// Labels of the right operand's axes.
    pub rhs: SmallVec<[Label; 5]>,
    /// Labels of the output's axes.
    pub out: SmallVec<[Label; 5]>,
    /// The type of products, sums and output; operands are converted to it first (`i32` for int8 products, `f32` for f32).
    pub acc: DType,
    /// The right operand, logically a matrix [K, N], is stored as panels [ceil(N/nr), K, nr], padded with zeros, or with words
    /// as [ceil(N/nr), ceil(K/4), nr, 4]; `rhs` keeps its logical labels [k, n], and N is the output's dimension.
    pub panel: Option<Panel>,
}

/// Cross-correlation of `in0` with the filter `in1` over any number of spatial dimensions.
///
/// `in0` is [N, C, spatial...], or [N, spatial..., C] if `channels_last`; the output alike with M channels. The filter is
/// [M, C / groups, kernel...]. Every vector has one entry per spatial dimension. With i the input coordinate:
/// `i * lhs_dilation = o * stride + k * rhs_dilation - pad_lo`; other input positions are zero. Transposed convolutions
/// are convolutions with `lhs_dilation` and a flipped filter. Output size:
/// `floor(((in - 1) * lhs_dilation + 1 + pad_lo + pad_hi - ((k - 1) * rhs_dilation + 1)) / stride) + 1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Step of the window.
    pub strides: SmallVec<[i64; 3]>,
    /// Padding before the first element; negative crops.
    pub pad_lo: SmallVec<[i64; 3]>,
    /// Padding after the last element; negative crops.
    pub pad_hi: SmallVec<[i64; 3]>,
    /// Distance between input elements.
    pub lhs_dilation: SmallVec<[i64; 3]>,
    /// Distance between filter elements.
    pub rhs_dilation: SmallVec<[i64; 3]>,
    /// Channel groups.
    pub groups: i64,
    /// Whether channels are the last dimension of input and output.
    pub channels_last: bool,
    /// The type of products, sums and output. The operands have one type, or integer types of their own if this is one.
    pub acc: DType,
    /// The filter is stored as panels [ceil(M/nr), kernel..., C/groups, nr], padded with zeros (groups = 1), or
    /// for depthwise filters (groups = C = M) as [kernel..., M]; `kernel` then gives the kernel's size. With words a
    /// channels-last filter is [ceil(M/nr), kernel but its last dimension..., ceil(K/4), nr, 4], where the depth K is the last
    /// dimension of the kernel times C, row-major.
    pub panel: Option<Panel>,
    /// The kernel's size per spatial dimension; always what the unpacked filter's shape says.
    pub kernel: SmallVec<[i64; 3]>,
    /// `Some(m)`: computed by Winograd's algorithm with tiles of m x m outputs (see `winograd`), t = m + 2. Needs a 3x3
    /// kernel, strides and dilations 1, one group, channels last. The filter, once in panels, is the transformed one:
    /// [ceil(M/nr), t * t, C, nr].
    pub winograd: Option<u32>,
}

impl Conv {
    /// Whether Winograd's algorithm applies to the convolution's form.
    pub fn winograd_applies(&self) -> bool {
        let ones = |v: &[i64]| v.iter().all(|&x| x == 1);
        self.kernel[..] == [3, 3]
            && ones(&self.strides)
            && ones(&self.lhs_dilation)
            && ones(&self.rhs_dilation)
            && self.groups == 1
            && self.channels_last
    }
}

/// Reduction over sliding windows. Every vector has one entry per dimension of `in0` (1, 1, 1, 0, 0 where there is no
/// window). Padding contributes the identity. Output size as for [`Conv`] with `lhs_dilation` 1.
/// `ArgMin` and `ArgMax` give the row-major index (`i64`) of the element in the whole of `in0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// How elements combine.
    pub op: ReduceOp,
    /// Size of the window.
    pub sizes: SmallVec<[i64; 5]>,
    /// Step of the window.
    pub strides: SmallVec<[i64; 5]>,
    /// Distance between elements of the window.
    pub dilations: SmallVec<[i64; 5]>,
    /// Padding before.
    pub pad_lo: SmallVec<[i64; 5]>,
    /// Padding after.
    pub pad_hi: SmallVec<[i64; 5]>,
}
