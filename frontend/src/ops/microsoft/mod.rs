//! Operators of the domain com.microsoft, which exporters and optimizers of ONNX Runtime emit. A family is a file, as for
//! ai.onnx; each operator is built of the same primitives.

use super::Operator;
use crate::import::{NodeContext, OpResult};

mod activations;
mod aliases;
mod attention;
mod beams;
mod block_weights;
mod branches;
mod convolution;
mod decoding;
mod experts;
mod gates;
mod generation;
mod group_query;
mod images;
mod integer_linear;
mod layout;
mod legacy;
mod linear;
mod matrices;
mod norm;
mod packed;
mod positions;
mod quantized;
mod quantized_models;
mod score_rules;
mod sparse_attention;
mod tokens;

pub(super) use activations::OPERATORS as ACTIVATIONS;
pub(super) use aliases::OPERATORS as ALIASES;
pub(super) use attention::OPERATORS as ATTENTION;
pub(super) use block_weights::OPERATORS as BLOCK_WEIGHTS;
pub(super) use branches::OPERATORS as BRANCHES;
pub(super) use convolution::OPERATORS as CONVOLUTION;
pub(super) use experts::OPERATORS as EXPERTS;
pub(super) use gates::OPERATORS as GATES;
pub(super) use generation::OPERATORS as GENERATION;
pub(super) use group_query::OPERATORS as GROUP_QUERY;
pub(super) use images::OPERATORS as IMAGES;
pub(super) use integer_linear::OPERATORS as INTEGER_LINEAR;
pub(super) use legacy::OPERATORS as LEGACY;
pub(super) use linear::OPERATORS as LINEAR;
pub(super) use matrices::OPERATORS as MATRICES;
pub(super) use norm::OPERATORS as NORM;
pub(super) use packed::OPERATORS as PACKED;
pub(super) use positions::OPERATORS as POSITIONS;
pub(super) use quantized::OPERATORS as QUANTIZED;
pub(super) use quantized_models::OPERATORS as QUANTIZED_MODELS;
pub(super) use sparse_attention::OPERATORS as SPARSE_ATTENTION;
pub(super) use tokens::OPERATORS as TOKENS;

/// A row of the domain, which has one version.
const fn row(name: &'static str, inputs: (usize, usize), import: fn(&mut NodeContext<'_>) -> OpResult) -> Operator {
    Operator { domain: "com.microsoft", name, versions: &[1], inputs, limits: "", import }
}
