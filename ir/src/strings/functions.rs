//! What [`Op::Strings`](crate::tensor::Op::Strings) does with strings: the functions' meaning, as the interpreters execute it.
//! Compiled models call functions of the same names in the support library.

use super::{StringTable, numbers};
use crate::dtype::DType;
use crate::tensor::{TensorBytes, TensorType};

/// A function on strings. `s[...]` is a tensor of strings (numbers in a table), `n` any count of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StringFunction {
    /// `(i64[dims, 2]) -> s[dims]`: the strings of an input of the model, whose memory the operand is. Fails where a string
    /// lies outside of its bytes.
    Enter,
    /// `(s[dims]) -> i64[dims, 2]`: gives strings to the caller; the result is the memory of an output of the model.
    Leave,
    /// `(a s[dims], b s[dims]) -> s[dims]`: each of `a` with that of `b` behind it.
    Concat,
    /// `(x s[n], delimiter s[], limit i64[]) -> i64[n]`: how many parts [`StringFunction::Split`] makes of each.
    Count,
    /// `(x s[n], delimiter s[], limit i64[]) -> s[n, m]`: the parts between the delimiters, at most `limit` cuts where it is not
    /// negative, then empty strings. An empty delimiter is any run of white space (ASCII), and what lies before the
    /// first part and after the last is nothing; the rest after the last cut keeps its white space inside.
    Split,
    /// `(x s[dims], table u32[k, 2]) -> s[dims]`: replaces code points: pairs of one and what it becomes, ascending. Bytes that are
    /// no UTF-8 stay.
    Replace,
    /// `(x s[dims], automaton i32[k]) -> bool[dims]`: whether the automaton accepts all of the string; see [`automaton`].
    Accept,
    /// `(x s[n]) -> i64[n]`: how many different strings of `x` come before each in the order of bytes.
    Order,
    /// `(x s[dims]) -> i64[dims]`: decimal integers from -2^63 to 2^64 - 1, modulo 2^64. Fails on other text.
    ParseInt,
    /// `(x s[dims]) -> f64[dims]`: decimal numbers, plain or with an exponent, `inf` and `nan` in any case. Fails on other text.
    ParseFloat,
    /// `(x i64 or u64[dims]) -> s[dims]`: decimal.
    FormatInt,
    /// `(x f32 or f64[dims]) -> s[dims]`: the fewest digits that read back as the same number; with an exponent from 1e16 and
    /// below 1e-4; `NaN`, `INF` and `-INF`.
    FormatFloat,
}

impl StringFunction {
    /// All.
    pub const ALL: [StringFunction; 12] = [
        StringFunction::Enter,
        StringFunction::Leave,
        StringFunction::Concat,
        StringFunction::Count,
        StringFunction::Split,
        StringFunction::Replace,
        StringFunction::Accept,
        StringFunction::Order,
        StringFunction::ParseInt,
        StringFunction::ParseFloat,
        StringFunction::FormatInt,
        StringFunction::FormatFloat,
    ];

    /// The symbol in the support library.
    pub fn symbol(self) -> &'static str {
        match self {
            StringFunction::Enter => "onnxc_strings_enter",
            StringFunction::Leave => "onnxc_strings_leave",
            StringFunction::Concat => "onnxc_strings_concat",
            StringFunction::Count => "onnxc_strings_count",
            StringFunction::Split => "onnxc_strings_split",
            StringFunction::Replace => "onnxc_strings_replace",
            StringFunction::Accept => "onnxc_strings_accept",
            StringFunction::Order => "onnxc_strings_order",
            StringFunction::ParseInt => "onnxc_strings_parse_int",
            StringFunction::ParseFloat => "onnxc_strings_parse_float",
            StringFunction::FormatInt => "onnxc_strings_format_int",
            StringFunction::FormatFloat => "onnxc_strings_format_float",
        }
    }

    /// Whether operands and result may have these types; strings are `DType::String`, or `DType::I64` once they are numbers only.
    pub fn fits(self, inputs: &[&TensorType], outputs: &[&TensorType]) -> bool {
        let string = |t: &TensorType| matches!(t.dtype, DType::String | DType::I64);
        let is = |t: &TensorType, dtype: DType, rank: usize| t.dtype == dtype && t.rank() == rank;
        let &[out] = outputs else { return false };
        match (self, inputs) {
            (StringFunction::Enter, &[x]) => is(x, DType::I64, out.rank() + 1) && string(out),
            (StringFunction::Leave, &[x]) => is(out, DType::I64, x.rank() + 1) && string(x),
            (StringFunction::Concat, &[a, b]) => string(a) && a == b && a == out,
            (StringFunction::Count | StringFunction::Split, &[x, delimiter, limit]) => {
                let result = match self {
                    StringFunction::Count => out.dtype == DType::I64 && out.shape == x.shape,
                    _ => string(out) && out.rank() == 2 && out.shape[0] == x.shape[0],
                };
                let scalars = string(delimiter) && delimiter.rank() == 0 && is(limit, DType::I64, 0);
                string(x) && x.rank() == 1 && scalars && result
            }
            (StringFunction::Replace, &[x, table]) => string(x) && is(table, DType::U32, 2) && x == out,
            (StringFunction::Accept, &[x, automaton]) => {
                string(x) && is(automaton, DType::I32, 1) && is(out, DType::Bool, x.rank()) && x.shape == out.shape
            }
            (StringFunction::Order, &[x]) => string(x) && is(out, DType::I64, 1) && x.shape == out.shape,
            (StringFunction::ParseInt, &[x]) => string(x) && out.dtype == DType::I64 && x.shape == out.shape,
            (StringFunction::ParseFloat, &[x]) => string(x) && out.dtype == DType::F64 && x.shape == out.shape,
            (StringFunction::FormatInt, &[x]) => {
                matches!(x.dtype, DType::I64 | DType::U64) && string(out) && x.shape == out.shape
            }
            (StringFunction::FormatFloat, &[x]) => {
                matches!(x.dtype, DType::F32 | DType::F64) && string(out) && x.shape == out.shape
            }
            _ => false,
        }
    }

    /// Executes a function that has only tensors as operands: all but `Enter` and `Leave`, which their callers know how to do. `dtype`
    /// and `shape` are the result's.
    ///
    /// # Errors
    /// The text that does not parse, or a number that the table lacks.
    ///
    /// # Panics
    /// If the operands do not fit the function.
    pub fn run(
        self,
        table: &mut StringTable,
        inputs: &[TensorBytes],
        dtype: DType,
        shape: &[i64],
    ) -> Result<TensorBytes, String> {
        let mut made = Made { bytes: Vec::new(), table };
        match self {
            StringFunction::Enter | StringFunction::Leave => unreachable!("these work on a caller's memory"),
            StringFunction::Concat => {
                for (a, b) in words(&inputs[0]).zip(words(&inputs[1])) {
                    let joined = [made.string(a)?, made.string(b)?].concat();
                    made.put_string(&joined);
                }
            }
            StringFunction::Count => {
                for x in words(&inputs[0]) {
                    let parts = made.parts(x, &inputs[1], &inputs[2])?.len();
                    made.put(parts as u64);
                }
            }
            StringFunction::Split => {
                for x in words(&inputs[0]) {
                    let mut parts = made.parts(x, &inputs[1], &inputs[2])?;
                    parts.resize(shape[1] as usize, Vec::new());
                    parts.iter().for_each(|part| made.put_string(part));
                }
            }
            StringFunction::Replace => {
                let pairs: Vec<u32> = integers(&inputs[1]);
                for x in words(&inputs[0]) {
                    let text = replaced(made.string(x)?, &pairs);
                    made.put_string(&text);
                }
            }
            StringFunction::Accept => {
                let automaton: Vec<u32> = integers(&inputs[1]);
                for x in words(&inputs[0]) {
                    let accepted = accepts(&automaton, made.string(x)?);
                    made.bytes.push(u8::from(accepted));
                }
            }
            StringFunction::Order => {
                let strings: Vec<Vec<u8>> =
                    words(&inputs[0]).map(|x| made.string(x).map(<[u8]>::to_vec)).collect::<Result<_, _>>()?;
                let mut sorted = strings.clone();
                sorted.sort();
                sorted.dedup();
                for string in &strings {
                    made.put(sorted.partition_point(|s| s < string) as u64);
                }
            }
            StringFunction::ParseInt => {
                for x in words(&inputs[0]) {
                    let text = made.string(x)?;
                    let number = numbers::parse_int(text);
                    let fail = || format!("{:?} is no integer", String::from_utf8_lossy(text));
                    let number = number.ok_or_else(fail)?;
                    made.put(number);
                }
            }
            StringFunction::ParseFloat => {
                for x in words(&inputs[0]) {
                    let text = made.string(x)?;
                    let number = numbers::parse_float(text);
                    let fail = || format!("{:?} is no number", String::from_utf8_lossy(text));
                    let number = number.ok_or_else(fail)?;
                    made.put(number.to_bits());
                }
            }
            StringFunction::FormatInt => {
                let signed = inputs[0].dtype == DType::I64;
                for x in words(&inputs[0]) {
                    let text = if signed { (x as i64).to_string() } else { x.to_string() };
                    made.put_string(text.as_bytes());
                }
            }
            StringFunction::FormatFloat => {
                let texts: Vec<String> = match inputs[0].dtype {
                    DType::F64 => words(&inputs[0]).map(|x| numbers::format_f64(f64::from_bits(x))).collect(),
                    _ => integers(&inputs[0]).into_iter().map(|x| numbers::format_f32(f32::from_bits(x))).collect(),
                };
                texts.iter().for_each(|text| made.put_string(text.as_bytes()));
            }
        }
        Ok(TensorBytes { dtype, shape: shape.into(), bytes: made.bytes.into() })
    }
}

/// A result while it is made.
struct Made<'t> {
    bytes: Vec<u8>,
    table: &'t mut StringTable,
}

impl Made<'_> {
    fn put(&mut self, word: u64) {
        self.bytes.extend(word.to_le_bytes());
    }

    fn put_string(&mut self, string: &[u8]) {
        let number = self.table.number(string);
        self.put(number);
    }

    fn string(&self, number: u64) -> Result<&[u8], String> {
        self.table.get(number).ok_or_else(|| format!("there is no string {number}"))
    }

    fn parts(&self, x: u64, delimiter: &TensorBytes, limit: &TensorBytes) -> Result<Vec<Vec<u8>>, String> {
        let text = self.string(x)?;
        let delimiter = self.string(words(delimiter).next().expect("a scalar"))?;
        let limit = words(limit).next().expect("a scalar") as i64;
        let cuts = usize::try_from(limit).unwrap_or(usize::MAX);
        let parts = if delimiter.is_empty() { fields(text, cuts) } else { split(text, delimiter, cuts) };
        Ok(parts.into_iter().map(<[u8]>::to_vec).collect())
    }
}

/// The elements of a tensor of 64-bit elements.
fn words(tensor: &TensorBytes) -> impl Iterator<Item = u64> + '_ {
    tensor.bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunk of 8")))
}

/// The elements of a tensor of 32-bit elements.
fn integers(tensor: &TensorBytes) -> Vec<u32> {
    tensor.bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("chunk of 4"))).collect()
}

/// White space is what C's `isspace` takes for it.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// The parts between runs of white space.
fn fields(text: &[u8], cuts: usize) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let Some(start) = rest.iter().position(|&b| !is_space(b)) else { return parts };
        rest = &rest[start..];
        if parts.len() == cuts {
            let end = rest.iter().rposition(|&b| !is_space(b)).expect("it begins with one") + 1;
            parts.push(&rest[..end]);
            return parts;
        }
        let end = rest.iter().position(|&b| is_space(b)).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = &rest[end..];
    }
}

/// The parts between delimiters that are not empty.
fn split<'t>(text: &'t [u8], delimiter: &[u8], cuts: usize) -> Vec<&'t [u8]> {
    let mut parts = Vec::new();
    let mut rest = text;
    while parts.len() < cuts
        && let Some(at) = rest.windows(delimiter.len()).position(|w| w == delimiter)
    {
        parts.push(&rest[..at]);
        rest = &rest[at + delimiter.len()..];
    }
    parts.push(rest);
    parts
}

/// The text with other code points; `pairs` are ascending.
fn replaced(text: &[u8], pairs: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            let (pairs, _) = pairs.as_chunks::<2>();
            let new =
                pairs.binary_search_by_key(&u32::from(c), |p| p[0]).ok().and_then(|i| char::from_u32(pairs[i][1]));
            out.extend_from_slice(new.unwrap_or(c).encode_utf8(&mut [0; 4]).as_bytes());
        }
        out.extend_from_slice(chunk.invalid());
    }
    out
}

/// Pairs of code points and their lower or upper case where it is one other code point, ascending.
pub fn simple_case(upper: bool) -> Vec<u32> {
    fn single(mut mapped: impl Iterator<Item = char>) -> Option<char> {
        mapped.next().filter(|_| mapped.next().is_none())
    }
    let case = |c: char| if upper { single(c.to_uppercase()) } else { single(c.to_lowercase()) };
    let pair = |c: char| case(c).filter(|&m| m != c).map(|m| [u32::from(c), u32::from(m)]);
    ('\0'..=char::MAX).filter_map(pair).flatten().collect()
}

/// An automaton over bytes as numbers: the number of states, that of the classes of bytes, the class of each of 256 bytes,
/// for each state whether it accepts, then for each state and class the next state. It starts in state 0.
pub fn automaton(classes: &[u8; 256], accepting: &[bool], next: &[u32]) -> Vec<u32> {
    let count = classes.iter().map(|&c| u32::from(c) + 1).max().unwrap_or(1);
    let mut all = vec![accepting.len() as u32, count];
    all.extend(classes.iter().map(|&c| u32::from(c)));
    all.extend(accepting.iter().map(|&a| u32::from(a)));
    all.extend_from_slice(next);
    all
}

fn accepts(automaton: &[u32], text: &[u8]) -> bool {
    let (states, classes) = (automaton[0] as usize, automaton[1] as usize);
    let (class_of, rest) = automaton[2..].split_at(256);
    let (accepting, next) = rest.split_at(states);
    let end = text.iter().fold(0, |state, &byte| next[state * classes + class_of[usize::from(byte)] as usize] as usize);
    accepting[end] != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&[u8]]) -> Vec<String> {
        list.iter().map(|s| String::from_utf8(s.to_vec()).unwrap()).collect()
    }

    #[test]
    fn white_space_parts_words() {
        assert_eq!(strings(&fields(b"  a b \t c ", usize::MAX)), ["a", "b", "c"]);
        assert_eq!(strings(&fields(b"  a b  c ", 1)), ["a", "b  c"]);
        assert!(fields(b"  ", 4).is_empty());
        assert_eq!(strings(&fields(b" a b", 0)), ["a b"]);
    }

    #[test]
    fn delimiters_part_text() {
        assert_eq!(strings(&split(b"a--b----c", b"--", usize::MAX)), ["a", "b", "", "c"]);
        assert_eq!(strings(&split(b"a-b-c", b"-", 1)), ["a", "b-c"]);
        assert_eq!(strings(&split(b"", b"-", 1)), [""]);
    }

    #[test]
    fn letters_change_case() {
        let (upper, lower) = (simple_case(true), simple_case(false));
        assert_eq!(replaced("straße é ω".as_bytes(), &upper), "STRAßE É Ω".as_bytes());
        assert_eq!(replaced("ÀB\u{10400}".as_bytes(), &lower), "àb\u{10428}".as_bytes());
        assert_eq!(replaced(b"a\xffb", &upper), b"A\xffB");
    }

    #[test]
    fn automata_read_all_of_a_string() {
        // One or more times `a`.
        let mut classes = [0; 256];
        classes[usize::from(b'a')] = 1;
        let table = automaton(&classes, &[false, true, false], &[2, 1, 2, 1, 2, 2]);
        let accepted: Vec<bool> = [&b""[..], b"a", b"aa", b"ab"].iter().map(|t| accepts(&table, t)).collect();
        assert_eq!(accepted, [false, true, true, false]);
    }

    #[test]
    fn symbols_are_different() {
        let mut symbols: Vec<&str> = StringFunction::ALL.iter().map(|f| f.symbol()).collect();
        symbols.sort_unstable();
        symbols.dedup();
        assert_eq!(symbols.len(), StringFunction::ALL.len());
    }
}
