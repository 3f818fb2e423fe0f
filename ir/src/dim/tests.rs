//! The algebra against plain integers, and the forms that exporters' shape arithmetic must come out in.

use super::*;
use proptest::prelude::*;

fn canonical(text: &str) -> String {
    let mut symbols = Symbols::new();
    let dim = Dim::parse(text, &mut symbols).unwrap_or_else(|error| panic!("{text}: {error}"));
    dim.display(&symbols).to_string()
}

#[test]
fn simplifies_what_exporters_write() {
    for (text, expected) in [
        ("a + 0", "a"),
        ("a - a", "0"),
        ("seq*2*batch + 3", "2*seq*batch + 3"),
        ("floordiv(a*b, b)", "a"),
        ("floordiv(12*a, 12)", "a"),
        ("floordiv(12*a, 4*a)", "3"),
        ("floordiv(a, 2*a)", "0"),
        ("floordiv(a*b + a, b + 1)", "a"),
        ("floordiv(a*b*7, a*c)", "floordiv(7*b, c)"),
        ("floordiv(4*a + 7, 4)", "a + 1"),
        ("floordiv(4*a + 5, 8)", "floordiv(a + 1, 2)"),
        ("floordiv(floordiv(s - 1, 2) + 1 - 1, 2) + 1", "floordiv(s + 3, 4)"),
        ("ceildiv(a, 4)", "floordiv(a + 3, 4)"),
        ("ceildiv(a*b, b)", "a"),
        ("mod(6*a, 3)", "0"),
        ("mod(6*a + 4, 3)", "1"),
        ("mod(4*a + 5, 8)", "4*mod(a + 1, 2) + 1"),
        ("mod(a*b + b, b)", "0"),
        ("mod(mod(a, 8), 4)", "mod(a, 4)"),
        ("mod(mod(a, 4), 8)", "mod(a, 4)"),
        ("min(a, a + 3)", "a"),
        ("max(a, a + 3, b, a)", "max(b, a + 3)"),
        ("min(b, min(a, b))", "min(b, a)"),
        ("floordiv(-7, 2)", "-4"),
        ("mod(-7, 2)", "1"),
        ("mod(-7, -2)", "-1"),
    ] {
        let mut symbols = Symbols::new();
        let (dim, wanted) = (Dim::parse(text, &mut symbols).unwrap(), Dim::parse(expected, &mut symbols).unwrap());
        assert_eq!(dim, wanted, "{text} became {}", dim.display(&symbols));
    }
    assert_eq!(canonical("floordiv(4*seq + 5, 8) + 2*batch*seq - 1"), "2*seq*batch + floordiv(seq + 1, 2) - 1");
}

#[test]
fn errors_are_values() {
    let mut symbols = Symbols::new();
    let a = Dim::symbol(symbols.intern("a"));
    let big = Dim::constant(i64::MAX);
    assert_eq!(&big + &Dim::ONE, Err(DimError::Overflow));
    assert_eq!(&(&big * &a).unwrap() * &Dim::constant(2), Err(DimError::Overflow));
    assert_eq!(Dim::constant(i64::MIN).floor_div(&Dim::constant(-1)), Err(DimError::Overflow));
    assert_eq!(a.modulo(&Dim::ZERO), Err(DimError::DivisionByZero));
    let deep = (0..100).try_fold(a.clone(), |dim, n| (&dim * &dim)?.floor_div(&Dim::constant(n + 3)));
    assert_eq!(deep, Err(DimError::TooComplex));
    for text in ["", "a +", "floordiv(a)", "min()", "(a", "a b", "99999999999999999999", "\"x", "\"\\q\"", "a $ b"] {
        assert!(Dim::parse(text, &mut symbols).is_err(), "{text:?} was accepted");
    }
    assert!(Dim::parse(&"(".repeat(100_000), &mut symbols).is_err());
}

#[test]
fn any_symbol_name_survives_text() {
    let mut symbols = Symbols::new();
    for name in ["batch", "a.b", "past seq + 1", "min", "", "1x", "q\"\\\n", "日本"] {
        let dim = (&Dim::symbol(symbols.intern(name)) + &Dim::ONE).unwrap();
        let text = dim.display(&symbols).to_string();
        assert_eq!(Dim::parse(&text, &mut symbols), Ok(dim), "{text}");
    }
    assert_eq!(symbols.len(), 8);
    let least = Dim::constant(i64::MIN);
    assert_eq!(Dim::parse(&least.display(&symbols).to_string(), &mut symbols), Ok(least));
}

#[test]
fn fresh_symbols_are_new_and_bounds_intersect() {
    let mut symbols = Symbols::new();
    let taken = symbols.intern("nms_1");
    let fresh = symbols.fresh("nms");
    assert_ne!(taken, fresh);
    assert!(symbols.restrict(fresh, 1, 512));
    assert!(!symbols.restrict(fresh, 600, 700));
    assert_eq!(symbols.bounds(fresh), (1, 512));
    assert_eq!(Dim::symbol(fresh).ceil_div(&Dim::constant(16)).unwrap().bounds(&symbols), (1, 32));
}

/// An expression as written, and its plain meaning.
#[derive(Clone, Debug)]
enum Tree {
    Const(i64),
    Symbol(usize),
    Binary(u8, Box<Tree>, Box<Tree>),
}

const SYMBOLS: usize = 3;

impl Tree {
    fn build(&self) -> Result<Dim, DimError> {
        match self {
            Tree::Const(value) => Ok(Dim::constant(*value)),
            Tree::Symbol(index) => Ok(Dim::symbol(Symbol::from_u32(*index as u32))),
            Tree::Binary(op, a, b) => {
                let (a, b) = (a.build()?, b.build()?);
                match op {
                    0 => &a + &b,
                    1 => &a - &b,
                    2 => &a * &b,
                    3 => a.floor_div(&b),
                    4 => a.ceil_div(&b),
                    5 => a.modulo(&b),
                    6 => a.minimum(&b),
                    _ => a.maximum(&b),
                }
            }
        }
    }

    fn eval(&self, values: &[i64]) -> Option<i128> {
        match self {
            Tree::Const(value) => Some((*value).into()),
            Tree::Symbol(index) => Some(values[*index].into()),
            Tree::Binary(op, a, b) => {
                let (a, b) = (a.eval(values)?, b.eval(values)?);
                let floor = |a: i128, b: i128| (b != 0).then(|| (a - (a % b + b) % b) / b);
                match op {
                    0 => a.checked_add(b),
                    1 => a.checked_sub(b),
                    2 => a.checked_mul(b),
                    3 => floor(a, b),
                    4 => floor(-a, b).map(|q| -q),
                    5 => floor(a, b).map(|q| a - q * b),
                    6 => Some(a.min(b)),
                    _ => Some(a.max(b)),
                }
            }
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![(-9i64..10).prop_map(Tree::Const), (0..SYMBOLS).prop_map(Tree::Symbol)];
    leaf.prop_recursive(4, 24, 2, |inner| {
        (0u8..8, inner.clone(), inner).prop_map(|(op, a, b)| Tree::Binary(op, Box::new(a), Box::new(b)))
    })
}

fn table() -> Symbols {
    let mut symbols = Symbols::new();
    for name in ["a", "b c", "seq"] {
        symbols.intern(name);
    }
    symbols
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn canonical_forms_keep_the_value(tree in tree(), values in prop::array::uniform3(0i64..40)) {
        let mut symbols = table();
        for (symbol, value) in symbols.clone().iter().zip(values) {
            prop_assert!(symbols.restrict(symbol, value / 2, value + 3));
        }
        if let Ok(dim) = tree.build() && let Some(expected) = tree.eval(&values) {
            let value = dim.eval(|symbol| values[symbol.as_u32() as usize]);
            prop_assert_eq!(value.map(i128::from), Some(expected), "{}", dim.display(&symbols));
            let (low, high) = dim.bounds(&symbols);
            prop_assert!(i128::from(low) <= expected && expected <= i128::from(high), "{low}..{high}");
            let replaced = dim.substitute(|symbol| Some(Dim::constant(values[symbol.as_u32() as usize])));
            prop_assert_eq!(replaced.ok().and_then(|dim| dim.as_const()).map(i128::from), Some(expected));
        }
    }

    #[test]
    fn text_is_inverse(tree in tree()) {
        let mut symbols = table();
        if let Ok(dim) = tree.build() {
            let text = dim.display(&symbols).to_string();
            prop_assert_eq!(Dim::parse(&text, &mut symbols), Ok(dim), "{}", text);
            prop_assert_eq!(symbols.len(), SYMBOLS);
        }
    }

    #[test]
    fn laws(a in tree(), b in tree(), c in tree()) {
        if let (Ok(a), Ok(b), Ok(c)) = (a.build(), b.build(), c.build()) {
            prop_assert_eq!(&a + &b, &b + &a);
            prop_assert_eq!(&a * &b, &b * &a);
            prop_assert_eq!(a.minimum(&b), b.minimum(&a));
            prop_assert_eq!(a.maximum(&a), Ok(a.clone()));
            if let (Ok(ab), Ok(ac), Ok(sum)) = (&a * &b, &a * &c, &b + &c) {
                prop_assert_eq!(&ab + &ac, &a * &sum);
                if b != 0 {
                    prop_assert_eq!(ab.exact_div(&b), Some(a.clone()));
                }
            }
            prop_assert_eq!(&a - &a, Ok(Dim::ZERO));
            prop_assert!(a.substitute(|_| None) == Ok(a.clone()));
        }
    }
}
