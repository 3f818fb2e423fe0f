//! The operator table. Each operator is one row in its family's file, next to the function that imports it and its tests;
//! nothing else in the compiler knows its name. CONTRIBUTING.md shows how to add one.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::import::{NodeContext, OpError, OpResult};
use crate::proto::NodeProto;

mod activations;
mod attention;
mod cast;
mod cell_function;
mod control;
mod conv;
mod data_sizes;
mod deform;
mod einsum;
mod generate;
mod index;
mod linear;
mod linear_attention;
mod logic;
mod loss;
mod math;
mod microsoft;
mod ml;
mod nms;
mod norm;
mod pool;
mod quantize;
mod quantized_linear;
mod random;
mod rearrange;
mod recurrent;
mod reduce;
mod regex;
mod resample;
mod resize;
mod roi;
mod sample;
mod sequence;
mod shape;
mod signal;
mod sliding;
mod softmax;
#[cfg(test)]
mod test_model;
mod text;
mod training;
mod unary;
mod unique;

pub use random::random_outputs;

/// One operator.
pub struct Operator {
    /// The domain; empty for ai.onnx.
    pub domain: &'static str,
    /// The name.
    pub name: &'static str,
    /// The opset versions at which it changed, ascending; the first is where it begins. A deprecated operator has none after
    /// its last.
    pub versions: &'static [i64],
    /// Least and greatest number of inputs; `usize::MAX` for any.
    pub inputs: (usize, usize),
    /// What of the operator is missing, for docs/OPERATORS.md; empty where nothing is.
    pub limits: &'static str,
    /// Builds its primitives.
    pub import: fn(&mut NodeContext<'_>) -> OpResult,
}

/// All families' rows.
const FAMILIES: &[&[Operator]] = &[
    activations::OPERATORS,
    attention::OPERATORS,
    cast::OPERATORS,
    control::OPERATORS,
    conv::OPERATORS,
    deform::OPERATORS,
    einsum::OPERATORS,
    generate::OPERATORS,
    index::OPERATORS,
    linear::OPERATORS,
    linear_attention::OPERATORS,
    logic::OPERATORS,
    loss::OPERATORS,
    math::OPERATORS,
    microsoft::ACTIVATIONS,
    microsoft::ALIASES,
    microsoft::ATTENTION,
    microsoft::BLOCK_WEIGHTS,
    microsoft::BRANCHES,
    microsoft::CONVOLUTION,
    microsoft::EXPERTS,
    microsoft::GATES,
    microsoft::GENERATION,
    microsoft::GROUP_QUERY,
    microsoft::IMAGES,
    microsoft::INTEGER_LINEAR,
    microsoft::LEGACY,
    microsoft::POSITIONS,
    microsoft::LINEAR,
    microsoft::MATRICES,
    microsoft::NORM,
    microsoft::PACKED,
    microsoft::QUANTIZED,
    microsoft::QUANTIZED_MODELS,
    microsoft::SPARSE_ATTENTION,
    microsoft::TOKENS,
    nms::OPERATORS,
    norm::OPERATORS,
    pool::OPERATORS,
    quantize::OPERATORS,
    quantized_linear::OPERATORS,
    random::OPERATORS,
    rearrange::OPERATORS,
    recurrent::OPERATORS,
    reduce::OPERATORS,
    resize::OPERATORS,
    roi::OPERATORS,
    sample::OPERATORS,
    sequence::OPERATORS,
    shape::OPERATORS,
    signal::OPERATORS,
    softmax::OPERATORS,
    text::OPERATORS,
    training::OPERATORS,
    unary::OPERATORS,
    unique::OPERATORS,
    ml::FAMILIES[0],
    ml::FAMILIES[1],
    ml::FAMILIES[2],
    ml::FAMILIES[3],
    ml::FAMILIES[4],
];

/// The newest ai.onnx opset that the table knows.
pub const NEWEST_OPSET: i64 = 28;

impl Operator {
    /// A row of the domain ai.onnx.
    pub const fn onnx(
        name: &'static str,
        versions: &'static [i64],
        inputs: (usize, usize),
        import: fn(&mut NodeContext<'_>) -> OpResult,
    ) -> Operator {
        Operator { domain: "", name, versions, inputs, limits: "", import }
    }

    /// The row of an operator of which something is missing.
    pub const fn limited(self, limits: &'static str) -> Operator {
        Operator { limits, ..self }
    }

    /// Checks the number of inputs.
    pub(crate) fn check_arity(&self, node: &NodeProto) -> Result<(), OpError> {
        let (least, most) = self.inputs;
        let found = node.input.len();
        if found < least || found > most {
            let wanted = match (least, most) {
                (a, b) if a == b => format!("{a}"),
                (a, usize::MAX) => format!("at least {a}"),
                (a, b) => format!("{a} to {b}"),
            };
            return Err(OpError::Invalid(format!("has {found} inputs instead of {wanted}")));
        }
        Ok(())
    }
}

/// All operators in a fixed order: by domain, then name.
pub fn all() -> Vec<&'static Operator> {
    let mut rows: Vec<&Operator> = FAMILIES.iter().flat_map(|f| f.iter()).collect();
    rows.sort_by_key(|r| (r.domain, r.name));
    rows
}

fn table() -> &'static HashMap<(&'static str, &'static str), &'static Operator> {
    static TABLE: OnceLock<HashMap<(&'static str, &'static str), &'static Operator>> = OnceLock::new();
    TABLE.get_or_init(|| all().into_iter().map(|r| ((r.domain, r.name), r)).collect())
}

/// The domain as the table has it: ai.onnx is the empty one.
pub fn canonical_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// `Conv`, `com.microsoft.Gelu`.
pub fn qualified_name(domain: &str, name: &str) -> String {
    if domain.is_empty() { name.to_owned() } else { format!("{domain}.{name}") }
}

/// The operator's row, and its version in force in an opset.
pub(crate) fn resolve(domain: &str, name: &str, opset: Option<i64>) -> Result<(&'static Operator, i64), OpError> {
    let Some(row) = table().get(&(domain, name)) else {
        let hint = closest(domain, name).map_or(String::new(), |n| format!("; is `{n}` meant?"));
        // Other domains may be anyone's.
        let bind = match domain {
            "" | "com.microsoft" => String::new(),
            _ => format!("; `--custom-op {domain}:{name}=SYMBOL` binds it to a C function"),
        };
        return Err(OpError::Unsupported(format!("the operator is not supported{hint}{bind}")));
    };
    let Some(opset) = opset.or((!domain.is_empty()).then_some(1)) else {
        return Err(OpError::Invalid("the model imports no opset for this operator's domain".into()));
    };
    match row.versions.iter().rev().find(|&&v| v <= opset) {
        Some(&version) => Ok((row, version)),
        None => Err(OpError::Unsupported(format!(
            "the operator exists from opset {} on, the model imports {opset}",
            row.versions[0]
        ))),
    }
}

/// A supported operator whose name differs only by case or one letter.
fn closest(domain: &str, name: &str) -> Option<&'static str> {
    let near = |other: &str| {
        let (a, b) = (other.to_lowercase(), name.to_lowercase());
        if a == b {
            return true;
        }
        a.len().abs_diff(b.len()) <= 1 && {
            let prefix = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
            let suffix = a.bytes().rev().zip(b.bytes().rev()).take_while(|(x, y)| x == y).count();
            prefix + suffix + 1 >= a.len().max(b.len())
        }
    };
    all().into_iter().filter(|r| r.domain == domain).map(|r| r.name).find(|n| near(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_unique_and_their_versions_ascend() {
        let rows = all();
        assert!(rows.windows(2).all(|w| (w[0].domain, w[0].name) < (w[1].domain, w[1].name)), "a row occurs twice");
        for row in rows {
            assert!(row.versions.windows(2).all(|v| v[0] < v[1]), "{}: {:?}", row.name, row.versions);
            assert!(row.inputs.0 <= row.inputs.1, "{}", row.name);
            assert!(!row.domain.is_empty() || row.versions.last().is_some_and(|&v| v <= NEWEST_OPSET), "{}", row.name);
        }
    }

    #[test]
    fn versions_resolve_to_the_one_in_force() {
        let version = |name, opset| resolve("", name, Some(opset)).map(|(_, v)| v);
        assert_eq!(version("Slice", 9), Ok(1));
        assert_eq!(version("Slice", 12), Ok(11));
        assert!(matches!(version("Trilu", 13), Err(OpError::Unsupported(m)) if m.contains("opset 14")));
        assert!(matches!(version("Reluu", 13), Err(OpError::Unsupported(m)) if m.contains("`Relu`")));
        assert!(matches!(resolve("", "Relu", None), Err(OpError::Invalid(_))));
    }
}
