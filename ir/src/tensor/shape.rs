//! Relations between dimensions and types: equality under the graph's assumptions, the broadcast rule, and the text of
//! types in messages and textual IR (`f32[batch, 3]`).
//!
//! Invariant: the assumptions are triangular. Each pair is written in terms of what the pairs before it leave, so that
//! one pass of substitutions in order brings every expression to a form in which assumed-equal expressions meet.

use std::fmt;

use super::{Graph, Shape, TensorType, Type};
use crate::dim::{Dim, DimError, Symbols};

/// Two sizes that are both constants, differ, and would have to be equal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Constants that differ.
    #[error("sizes {0:?} and {1:?} differ")]
    Differ(Dim, Dim),
    /// Arithmetic on the dimensions failed.
    #[error(transparent)]
    Dim(#[from] DimError),
}

impl Graph {
    /// The expression with assumed equalities substituted.
    pub fn rewrite_dim(&self, dim: &Dim) -> Dim {
        let mut dim = dim.clone();
        for (a, b) in &self.assumptions {
            let (symbol, by) = match (a.as_symbol(), b.as_symbol()) {
                (Some(s), _) if !b.symbols().any(|x| x == s) => (s, b),
                (_, Some(s)) if !a.symbols().any(|x| x == s) => (s, a),
                _ => {
                    // No symbol to substitute: only the whole expression is known to be equal.
                    if dim == *a {
                        dim = b.clone();
                    }
                    continue;
                }
            };
            if dim.symbols().any(|x| x == symbol) {
                // An expression that outgrows the limits keeps its form: equality is then found less often, never wrongly.
                dim = dim.substitute(|s| (s == symbol).then(|| by.clone())).unwrap_or(dim);
            }
        }
        dim
    }

    /// Whether two dimensions are equal, for all values of the symbols that satisfy the assumptions.
    pub fn same_dim(&self, a: &Dim, b: &Dim) -> bool {
        a == b || (!self.assumptions.is_empty() && self.rewrite_dim(a) == self.rewrite_dim(b))
    }

    /// Whether two shapes have the same rank and dimensions, under the assumptions.
    pub fn same_shape(&self, a: &[Dim], b: &[Dim]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.same_dim(a, b))
    }

    /// Whether two types are the same, under the assumptions.
    pub fn same_type(&self, a: &Type, b: &Type) -> bool {
        match (a, b) {
            (Type::Tensor(a), Type::Tensor(b)) => a.dtype == b.dtype && self.same_shape(&a.shape, &b.shape),
            (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => self.same_type(a, b),
            (Type::Map(k, a), Type::Map(l, b)) => k == l && self.same_type(a, b),
            _ => false,
        }
    }

    /// Makes two dimensions equal, recording an assumption where they are not already.
    ///
    /// # Errors
    /// If no value of the symbols makes them equal, as for two constants.
    pub fn assume_equal(&mut self, a: &Dim, b: &Dim) -> Result<(), ShapeError> {
        if self.same_dim(a, b) {
            return Ok(());
        }
        let (x, y) = (self.rewrite_dim(a), self.rewrite_dim(b));
        let (x_bounds, y_bounds) = (x.bounds(&self.symbols), y.bounds(&self.symbols));
        if x_bounds.1 < y_bounds.0 || y_bounds.1 < x_bounds.0 {
            return Err(ShapeError::Differ(a.clone(), b.clone()));
        }
        if (&x - &y).is_ok_and(|d| d.as_const().is_some()) || a.as_const().is_some() && b.as_const().is_some() {
            return Err(ShapeError::Differ(a.clone(), b.clone()));
        }
        // What says something about one symbol is worth more than what says something about a multiple of it.
        let reduced = x.without_common_number(&y);
        let about_symbol = reduced.0.as_symbol().or(reduced.1.as_symbol()).is_some();
        let (x, y) = if about_symbol { reduced } else { (x, y) };
        // An expression gives way to a constant, not the constant to an expression; of two symbols the later one gives way,
        // which may be known in a part of the graph only.
        let gives_way = match (x.as_symbol(), y.as_symbol()) {
            (Some(x), Some(y)) => x < y,
            (None, None) => x.as_const().is_some(),
            _ => false,
        };
        self.assumptions.push(if gives_way { (y, x) } else { (x, y) });
        Ok(())
    }

    /// The size that two dimensions broadcast to: 1 gives way, other sizes are equal. Where only a run can tell, they are
    /// assumed to be equal, and the result is the constant, else the first.
    ///
    /// # Errors
    /// If they are constants that do not broadcast.
    pub fn broadcast_dim(&mut self, a: &Dim, b: &Dim) -> Result<Dim, ShapeError> {
        if *a == 1 {
            return Ok(b.clone());
        }
        if *b != 1 {
            self.assume_equal(a, b)?;
        }
        Ok(if *b != 1 && b.as_const().is_some() { b.clone() } else { a.clone() })
    }

    /// The shape that several shapes broadcast to, aligned at the last dimension.
    ///
    /// # Errors
    /// If two constant dimensions do not broadcast.
    pub fn broadcast_shapes<'a>(&mut self, shapes: impl IntoIterator<Item = &'a [Dim]>) -> Result<Shape, ShapeError> {
        let mut out = Shape::new();
        for shape in shapes {
            if shape.len() > out.len() {
                let missing = shape.len() - out.len();
                out.insert_many(0, std::iter::repeat_n(Dim::ONE, missing));
            }
            let offset = out.len() - shape.len();
            for (i, dim) in shape.iter().enumerate() {
                out[offset + i] = self.broadcast_dim(&out[offset + i].clone(), dim)?;
            }
        }
        Ok(out)
    }

    /// Whether `from` broadcasts to exactly `to`: aligned at the last dimension, each of its dimensions is 1 or equal.
    pub fn broadcasts_to(&self, from: &[Dim], to: &[Dim]) -> bool {
        from.len() <= to.len()
            && from.iter().zip(&to[to.len() - from.len()..]).all(|(f, t)| *f == 1 || self.same_dim(f, t))
    }

    /// A type as text, for messages.
    pub fn type_text(&self, ty: &Type) -> String {
        ty.display(&self.symbols).to_string()
    }

    /// A shape as text, `[2, batch]`, for messages.
    pub fn shape_text(&self, shape: &[Dim]) -> String {
        ShapeDisplay { shape, symbols: &self.symbols }.to_string()
    }
}

/// The number of elements of a shape.
///
/// # Errors
/// If the product overflows.
pub fn element_count(shape: &[Dim]) -> Result<Dim, DimError> {
    Dim::product(shape)
}

/// Prints a shape: `[batch, 3]`.
pub struct ShapeDisplay<'a> {
    /// The dimensions.
    pub shape: &'a [Dim],
    /// The names of the symbols.
    pub symbols: &'a Symbols,
}

impl fmt::Display for ShapeDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.shape.iter().enumerate() {
            write!(f, "{}{}", if i > 0 { ", " } else { "" }, dim.display(self.symbols))?;
        }
        f.write_str("]")
    }
}

/// Prints a type: `f32[batch, 3]`, `sequence(f32[2])`, `optional(...)`, `map(i64, f32[])`.
pub struct TypeDisplay<'a> {
    ty: &'a Type,
    symbols: &'a Symbols,
}

impl Type {
    /// The type as text with its symbols' names.
    pub fn display<'a>(&'a self, symbols: &'a Symbols) -> TypeDisplay<'a> {
        TypeDisplay { ty: self, symbols }
    }
}

impl fmt::Display for TypeDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ty {
            Type::Tensor(TensorType { dtype, shape }) => {
                write!(f, "{dtype}{}", ShapeDisplay { shape, symbols: self.symbols })
            }
            Type::Sequence(t) => write!(f, "sequence({})", t.display(self.symbols)),
            Type::Optional(t) => write!(f, "optional({})", t.display(self.symbols)),
            Type::Map(k, t) => write!(f, "map({k}, {})", t.display(self.symbols)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_symbols_the_later_one_gives_way() {
        let mut graph = Graph::new("t");
        let [n, m, k] = ["n", "m", "k"].map(|name| Dim::from(graph.symbols.intern(name)));
        let six = |d: &Dim| (d * &Dim::from(6)).unwrap();
        graph.assume_equal(&six(&n), &six(&m)).unwrap();
        graph.assume_equal(&six(&n), &six(&k)).unwrap();
        assert_eq!(graph.assumptions, [(m.clone(), n.clone()), (k.clone(), n.clone())]);
        assert!(graph.same_dim(&m, &k));
    }

    fn symbolic() -> (Graph, Dim, Dim) {
        let mut g = Graph::new("t");
        let (n, m) = (g.symbols.intern("n"), g.symbols.intern("m"));
        (g, n.into(), m.into())
    }

    #[test]
    fn broadcasting_unifies_symbols() {
        let (mut g, n, m) = symbolic();
        let out = g.broadcast_shapes([&[n.clone(), Dim::ONE][..], &[m.clone(), 5.into()]]).expect("compatible");
        assert_eq!(out[..], [n.clone(), 5.into()]);
        assert!(g.same_dim(&n, &m));
        // A symbol that is already equal to another makes both constants.
        assert_eq!(g.broadcast_dim(&m, &7.into()), Ok(7.into()));
        assert!(g.same_dim(&n, &7.into()) && g.same_dim(&m, &7.into()));
        assert_eq!(g.assume_equal(&n, &8.into()), Err(ShapeError::Differ(n, 8.into())));
    }

    #[test]
    fn constants_must_match() {
        let (mut g, n, _) = symbolic();
        assert!(g.broadcast_dim(&2.into(), &3.into()).is_err());
        assert_eq!(g.broadcast_dim(&1.into(), &n), Ok(n.clone()));
        let next = (&n + &Dim::ONE).expect("small");
        assert!(g.assume_equal(&n, &next).is_err(), "n is never n + 1");
        assert!(g.assumptions.is_empty());
    }

    #[test]
    fn types_print_with_names() {
        let (g, n, _) = symbolic();
        let ty = Type::Sequence(Box::new(TensorType::new(crate::dtype::DType::F32, [n, 3.into()]).into()));
        assert_eq!(g.type_text(&ty), "sequence(f32[n, 3])");
    }
}
