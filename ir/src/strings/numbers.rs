//! Numbers from text and as text.

/// Longer text is no number.
const LONGEST: usize = 1000;

/// Text without white space at its ends.
fn trimmed(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    (text.len() <= LONGEST).then_some(text)
}

/// A decimal integer modulo 2^64.
pub fn parse_int(text: &[u8]) -> Option<u64> {
    let number: i128 = trimmed(text)?.parse().ok()?;
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number).then_some(number as u64)
}

/// A decimal number.
pub fn parse_float(text: &[u8]) -> Option<f64> {
    trimmed(text)?.parse().ok()
}

/// The shortest text that reads back as the same number.
pub fn format_f64(x: f64) -> String {
    if x.is_finite() { laid_out(&format!("{x:e}")) } else { special(x) }
}

/// The shortest text that reads back as the same `f32`.
pub fn format_f32(x: f32) -> String {
    if x.is_finite() { laid_out(&format!("{x:e}")) } else { special(f64::from(x)) }
}

fn special(x: f64) -> String {
    let text = if x.is_nan() {
        "NaN"
    } else if x > 0.0 {
        "INF"
    } else {
        "-INF"
    };
    text.to_owned()
}

/// `-d.ddde-x` without an exponent where the number is neither small nor great.
fn laid_out(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').expect("it was written with an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits = mantissa.replace('.', "");
    let count = digits.len() as i32;
    if !(-4..16).contains(&exponent) {
        let fraction = if count > 1 { format!(".{}", &digits[1..]) } else { String::new() };
        let direction = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{}{fraction}e{direction}{:02}", &digits[..1], exponent.abs());
    }
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    if count <= exponent + 1 {
        return format!("{sign}{digits}{}", "0".repeat((exponent + 1 - count) as usize));
    }
    let (whole, fraction) = digits.split_at(exponent as usize + 1);
    format!("{sign}{whole}.{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_text() {
        let texts = [0.1, -314.15926, 1e16, 123456.0, 1e-5, 0.00012, -0.0, 1.5e300].map(format_f64);
        assert_eq!(texts, ["0.1", "-314.15926", "1e+16", "123456", "1e-05", "0.00012", "-0", "1.5e+300"]);
        assert_eq!(
            [0.1f32, 16777216.0, f32::NAN, f32::NEG_INFINITY].map(format_f32),
            ["0.1", "16777216", "NaN", "-INF"]
        );
    }

    #[test]
    fn text_is_read_as_numbers() {
        assert_eq!(parse_int(b" -12\n"), Some(-12i64 as u64));
        assert_eq!(parse_int(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!([&b"18446744073709551616"[..], b"", b"1.5", b"0x10"].map(parse_int), [None; 4]);
        assert_eq!(parse_float(b"1e3"), Some(1000.0));
        assert_eq!(parse_float(b"-INF"), Some(f64::NEG_INFINITY));
        assert!(parse_float(b"NaN").unwrap().is_nan());
        assert_eq!([&b""[..], b"abc", b"1e", b"0x10"].map(parse_float), [None; 4]);
    }
}
