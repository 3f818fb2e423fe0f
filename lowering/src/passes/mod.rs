//! Passes over the Tensor IR. A pass is one file; its name is its flag, its filetest folder and its verb. The order in
//! which they run is in [`crate::pipeline`].

pub mod assign_layout;
pub mod canonicalize;
pub mod check_supported;
pub mod choose_winograd;
pub mod compute_quantized;
pub mod fold_affine;
pub mod fold_constants;
pub mod fuse;
pub mod fuse_elementwise;
pub mod inline_composites;
pub mod keep_states;
pub mod narrow_products;
pub mod number_strings;
mod pack_bits;
pub mod pack_weights;
pub mod pack_words;
pub mod pad_convs;
pub mod recognize_norms;
pub mod rewrite;
pub mod sink_constants;
pub mod split_products;
pub mod split_reductions;
pub mod unpack_elements;
pub mod unroll_loops;
pub mod widen_halves;
