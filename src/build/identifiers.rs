//! Any name of a model as a Rust identifier.

/// Words that no field can be called.
const RESERVED: &str = " abstract as async await become box break const continue crate do dyn else enum extern false final \
     fn for gen if impl in let loop macro match mod move mut override priv pub ref return self static struct super trait \
     true try type typeof union unsafe unsized use virtual where while yield _ ";

/// An identifier in snake case for each name, all different: `input.1` gives `input_1`, `type` gives `type_`, a name that
/// begins with a digit gets `kind` before it, and of equal ones the later have a number.
pub(super) fn identifiers<'n>(names: impl IntoIterator<Item = &'n str>, kind: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in names {
        let base = identifier(name, kind);
        let mut unique = base.clone();
        let mut number = 1;
        while all.contains(&unique) {
            number += 1;
            unique = format!("{base}_{number}");
        }
        all.push(unique);
    }
    all
}

fn identifier(name: &str, kind: &str) -> String {
    let mut word = String::new();
    let mut lower_before = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && lower_before {
            word.push('_');
        }
        lower_before = c.is_ascii_lowercase() || c.is_ascii_digit();
        let c = if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        if c != '_' || !word.ends_with('_') {
            word.push(c);
        }
    }
    let word = word.trim_matches('_');
    if word.is_empty() || word.starts_with(|c: char| c.is_ascii_digit()) {
        return format!("{kind}_{word}").trim_end_matches('_').to_owned();
    }
    if RESERVED.split_whitespace().any(|reserved| reserved == word) { format!("{word}_") } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::identifiers;

    #[test]
    fn names_become_different_identifiers() {
        let names = ["input.1", "InputIds", "479", "type", "onnx::Add_3", "a/b", "a.b", "a_b_2", "", "é", "X"];
        let expected = [
            "input_1",
            "input_ids",
            "port_479",
            "type_",
            "onnx_add_3",
            "a_b",
            "a_b_2",
            "a_b_2_2",
            "port",
            "port_2",
            "x",
        ];
        assert_eq!(identifiers(names, "port"), expected);
    }
}
