//! Which names a model and its symbols may have.

use super::ObjectError;

/// Words that a C or C++ compiler does not take as the name of a variable.
const RESERVED: &str = " alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl \
     concept const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default \
     delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long \
     main mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register \
     reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast struct switch \
     template this thread_local throw true try typedef typeid typename typeof union unsigned using virtual void \
     volatile wchar_t while xor xor_eq ";

fn is_reserved(name: &str) -> bool {
    RESERVED.split_whitespace().any(|word| word == name)
}

/// Whether `name` can be the prefix of a model's symbols: a C and C++ identifier outside the reserved names.
pub fn check_prefix(prefix: &str) -> Result<(), ObjectError> {
    let refuse = |reason| Err(ObjectError::Prefix { prefix: prefix.to_owned(), reason });
    let mut bytes = prefix.bytes();
    match bytes.next() {
        None => return refuse("it is empty"),
        Some(first) if !first.is_ascii_alphabetic() => return refuse("it does not begin with an ASCII letter"),
        Some(_) => {}
    }
    if !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return refuse("only ASCII letters, digits and `_` can follow");
    }
    if is_reserved(prefix) {
        return refuse("it is a reserved word of C or C++");
    }
    if prefix.starts_with("onnxc") {
        return refuse("names that begin with `onnxc` belong to the support library");
    }
    if prefix.len() > 200 {
        return refuse("it is longer than 200 bytes");
    }
    Ok(())
}

/// A usable prefix that resembles any text, such as a file's stem: `9-layers.v2` gives `m_9_layers_v2`.
pub fn prefix_from(text: &str) -> String {
    let mut prefix: String = text.chars().take(200).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if !prefix.starts_with(|c: char| c.is_ascii_alphabetic()) || prefix.starts_with("onnxc") {
        prefix = format!("m_{}", prefix.trim_start_matches('_'));
        prefix.truncate(200);
    }
    if is_reserved(&prefix) {
        prefix.push_str("_model");
    }
    prefix
}

/// Whether a symbol may be defined by the object of a model.
pub(super) fn belongs_to(symbol: &str, prefix: &str) -> bool {
    symbol.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_gives_a_valid_prefix() {
        let long = "x-".repeat(300);
        for text in ["resnet50", "9-layers.v2", "", "___", "int", "onnxc_net", "été", "9".repeat(400).as_str(), &long]
        {
            let prefix = prefix_from(text);
            assert!(check_prefix(&prefix).is_ok(), "{text:?} -> {prefix:?}");
        }
        assert_eq!(prefix_from("resnet50"), "resnet50");
        assert_eq!(prefix_from("9-layers.v2"), "m_9_layers_v2");
    }

    #[test]
    fn bad_prefixes_are_refused() {
        for prefix in ["", "9", "_x", "a-b", "é", "class", "onnxc"] {
            assert!(check_prefix(prefix).is_err(), "{prefix:?}");
        }
        assert!(belongs_to("net_run", "net") && belongs_to("net", "net") && !belongs_to("nets", "net"));
    }
}
