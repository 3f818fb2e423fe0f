//! Patterns of RE2's syntax as automata over bytes, made when the model is compiled.
//!
//! The syntax that the `regex-automata` crate reads differs from RE2's in little: there `\w` and its like are classes of
//! Unicode and here of ASCII, and sets within brackets are literal here.

use std::collections::HashMap;

use onnxc_ir::strings;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};

/// Why there is no automaton.
#[derive(Debug)]
pub(super) enum PatternError {
    /// The pattern is none, or uses what automata cannot do.
    Syntax(String),
    /// The automaton would be too large.
    Size(String),
}

/// The largest automaton, in bytes.
const MOST_BYTES: usize = 32 << 20;

/// The automaton that accepts what the whole pattern matches, as [`strings::automaton`] writes it.
pub(super) fn automaton(pattern: &str) -> Result<Vec<u32>, PatternError> {
    let pattern = translated(pattern);
    // By itself first: a bracket too many must not end the group around it.
    syntax::parse(&pattern).map_err(|e| PatternError::Syntax(e.to_string()))?;
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .match_kind(MatchKind::All)
        .dfa_size_limit(Some(MOST_BYTES))
        .determinize_size_limit(Some(4 * MOST_BYTES));
    let dfa = dense::Builder::new().configure(config).build(&format!(r"\A(?:{pattern})\z"));
    let dfa = dfa.map_err(|e| {
        if e.is_size_limit_exceeded() {
            PatternError::Size("its automaton is too large".into())
        } else {
            PatternError::Syntax(e.to_string())
        }
    })?;
    let input = Input::new("").anchored(Anchored::Yes);
    let start = dfa.start_state_forward(&input).map_err(|e| PatternError::Syntax(e.to_string()))?;
    let classes = dfa.byte_classes();
    let mut class_of = [0u8; 256];
    let mut representatives: Vec<u8> = Vec::new();
    for byte in 0..=255u8 {
        class_of[usize::from(byte)] = classes.get(byte);
        if usize::from(classes.get(byte)) == representatives.len() {
            representatives.push(byte);
        }
    }
    let mut numbers: HashMap<StateID, u32> = HashMap::from([(start, 0)]);
    let (mut states, mut next, mut accepting) = (vec![start], Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(&state) = states.get(at) {
        at += 1;
        accepting.push(dfa.is_match_state(dfa.next_eoi_state(state)));
        for &byte in &representatives {
            let to = dfa.next_state(state, byte);
            let number = *numbers.entry(to).or_insert_with(|| {
                states.push(to);
                states.len() as u32 - 1
            });
            next.push(number);
        }
    }
    Ok(strings::automaton(&class_of, &accepting, &next))
}

/// The pattern in the syntax of `regex-automata`.
fn translated(pattern: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('s') => out.push_str(r"[\t\n\f\r ]"),
                Some('S') => out.push_str(r"[^\t\n\f\r ]"),
                Some(c @ ('b' | 'B')) if !in_class => out.extend(["(?-u:\\", c.encode_utf8(&mut [0; 4]), ")"]),
                Some('Q') if !in_class => {
                    while let Some(c) = chars.next() {
                        if c == '\\' && chars.peek() == Some(&'E') {
                            chars.next();
                            break;
                        }
                        literal(&mut out, c);
                    }
                }
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    out.extend(chars.next());
                }
                if chars.peek() == Some(&']') {
                    chars.next();
                    out.push_str("\\]");
                }
            }
            '[' if chars.peek() == Some(&':') => {
                // A named class, to its end.
                out.push('[');
                while let Some(c) = chars.next() {
                    out.push(c);
                    if c == ':' && chars.peek() == Some(&']') {
                        out.extend(chars.next());
                        break;
                    }
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '[' | '&' | '~' if in_class => literal(&mut out, c),
            '-' if in_class && chars.peek() == Some(&'-') => literal(&mut out, c),
            c => out.push(c),
        }
    }
    out
}

/// A character that stands for itself.
fn literal(out: &mut String, c: char) {
    if c.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(c);
}

#[cfg(test)]
mod tests {
    use onnxc_ir::dtype::DType;
    use onnxc_ir::strings::{StringFunction, StringTable};
    use onnxc_ir::tensor::TensorBytes;

    use super::*;

    fn matches(pattern: &str, texts: &[&str]) -> Vec<bool> {
        let table = automaton(pattern).unwrap_or_else(|e| panic!("{pattern}: {e:?}"));
        let bytes: Vec<u8> = table.iter().flat_map(|w| w.to_le_bytes()).collect();
        let shape = [table.len() as i64].as_slice().into();
        let table = TensorBytes { dtype: DType::I32, shape, bytes: bytes.into() };
        let mut strings = StringTable::default();
        let count = [texts.len() as i64];
        let x = strings.numbers(&count, texts.iter().map(|t| t.as_bytes()));
        let y = StringFunction::Accept.run(&mut strings, &[x, table], DType::Bool, &count).unwrap();
        y.bytes.iter().map(|&b| b != 0).collect()
    }

    #[test]
    fn the_whole_text_has_to_match() {
        assert_eq!(matches("a|ab", &["a", "ab", "abc", "", "ba"]), [true, true, false, false, false]);
        assert_eq!(matches("", &["", "a"]), [true, false]);
        assert_eq!(matches("(?i)straße", &["STRAßE", "strasse"]), [true, false]);
    }

    #[test]
    fn classes_are_those_of_re2() {
        assert_eq!(matches(r"\w+", &["aZ_0", "é", "a b"]), [true, false, false]);
        assert_eq!(matches(r"[\w.\-]{1,3}@.", &["a.-@é", "a@bc", "@a"]), [true, false, false]);
        assert_eq!(matches(r"[^\d\s]", &["x", "é", "5", " "]), [true, true, false, false]);
        assert_eq!(matches(r"[[&&a]", &["[", "&", "a", "b"]), [true, true, true, false]);
        assert_eq!(matches(r"[]a]+[[:digit:]]", &["]a5", "5"]), [true, false]);
        assert_eq!(matches(r"a\b.c\Q.*\E", &["a-c.*", "abc.*", "a-c.."]), [true, false, false]);
        assert_eq!(matches(r"\pL.", &["éx", "5x"]), [true, false]);
    }

    #[test]
    fn lines_end_only_where_the_pattern_says() {
        assert_eq!(matches("a.b", &["a\nb", "a b"]), [false, true]);
        assert_eq!(matches("(?s)a.b$", &["a\nb", "a b\n"]), [true, false]);
        assert_eq!(matches("(?m)a$\n^b", &["a\nb", "ab"]), [true, false]);
    }

    #[test]
    fn wrong_and_huge_patterns_are_refused() {
        for pattern in ["(", "a)(b", r"(a)\1", "*a", "["] {
            assert!(matches!(automaton(pattern), Err(PatternError::Syntax(_))), "{pattern}");
        }
        assert!(matches!(automaton(r"(?:\pL{40}x|y){40}.*z.{60}"), Err(PatternError::Size(_))));
    }
}
