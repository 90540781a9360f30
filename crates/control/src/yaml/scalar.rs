//! Plain words as values, by the rules of the library that kubectl reads YAML with (yaml.v2: YAML 1.1, with some of 1.2).

use serde_json::{Number, Value};

/// What a word without quotes and tags is.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

/// What a word with a tag of YAML's own schema is; `None` if it is none of the tag's.
pub(super) fn tagged(text: &str, suffix: &str) -> Option<Value> {
    let value = plain(text);
    let fits = match suffix {
        "str" => return Some(Value::String(text.to_owned())),
        "int" => value.is_i64() || value.is_u64(),
        "float" => value.is_number(),
        "bool" => value.is_boolean(),
        "null" => value.is_null(),
        "timestamp" => value.is_string(),
        _ => false,
    };
    fits.then_some(value)
}

/// The text that a value is as a key; `None` if it can't be one.
pub(super) fn key(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Bool(word) => Some(word.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return None;
    }
    let digits = match text.starts_with('.') {
        true => text.to_owned(),
        false => text.replace('_', ""),
    };
    integer(&digits).or_else(|| float(&digits))
}

fn integer(digits: &str) -> Option<Number> {
    let (sign, magnitude) = match digits.as_bytes().first()? {
        b'-' => ("-", &digits[1..]),
        b'+' => ("", &digits[1..]),
        _ => ("", digits),
    };
    let (radix, rest) = match magnitude.get(..2) {
        Some("0x" | "0X") => (16, &magnitude[2..]),
        Some("0o" | "0O") => (8, &magnitude[2..]),
        Some("0b" | "0B") => (2, &magnitude[2..]),
        Some(_) if magnitude.starts_with('0') => (8, &magnitude[1..]),
        Some(_) | None => (10, magnitude),
    };
    if !rest.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return None;
    }
    let signed = i64::from_str_radix(&format!("{sign}{rest}"), radix).map(Number::from);
    let unsigned = || u64::from_str_radix(rest, radix).ok().map(Number::from);
    signed
        .ok()
        .or_else(|| unsigned().filter(|_| sign.is_empty()))
}

/// A decimal fraction; a whole one is an integer, as it is once kubectl has written it as JSON.
fn float(digits: &str) -> Option<Number> {
    let is_decimal = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    let has_digit = digits.bytes().any(|byte| byte.is_ascii_digit());
    if !has_digit || !digits.bytes().all(is_decimal) {
        return None;
    }
    let number: f64 = digits.parse().ok()?;
    let whole = number.fract() == 0.0 && number.abs() < i64::MAX as f64;
    match whole {
        true => Some(Number::from(number as i64)),
        false => Number::from_f64(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn m1_words_are_what_they_are_to_kubectl() {
        for (text, value) in [
            ("yes", json!(true)),
            ("Y", json!(true)),
            ("on", json!(true)),
            ("no", json!(false)),
            ("n", json!(false)),
            ("OFF", json!(false)),
            ("nO", json!("nO")),
            ("", json!(null)),
            ("~", json!(null)),
            ("17", json!(17)),
            ("+17", json!(17)),
            ("-2", json!(-2)),
            ("0x1F", json!(31)),
            ("-0x10", json!(-16)),
            ("0o17", json!(15)),
            ("0777", json!(511)),
            ("08", json!(8)),
            ("0b101", json!(5)),
            ("1_000", json!(1000)),
            ("80.0", json!(80)),
            ("1e3", json!(1000)),
            ("-0", json!(0)),
            (".5", json!(0.5)),
            ("1.", json!(1)),
            ("18446744073709551615", json!(u64::MAX)),
            ("184467440737095516150", json!(184467440737095516150.0)),
            ("1.2.3.4", json!("1.2.3.4")),
            ("10:30", json!("10:30")),
            ("2026-01-05T10:00:00Z", json!("2026-01-05T10:00:00Z")),
            ("2026-01-05", json!("2026-01-05")),
            ("1e", json!("1e")),
            ("0x", json!("0x")),
            ("0xg", json!("0xg")),
            ("-", json!("-")),
            ("--5", json!("--5")),
            ("0-5", json!("0-5")),
            ("+", json!("+")),
            ("._", json!("._")),
            (".inf", json!(".inf")),
            ("nan", json!("nan")),
            ("512Mi", json!("512Mi")),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
    }

    #[test]
    fn m1_tags_and_keys() {
        assert_eq!(tagged("5", "str"), Some(json!("5")));
        assert_eq!(tagged("5", "float"), Some(json!(5)));
        assert_eq!(tagged("x", "int"), None);
        assert_eq!(tagged("eA==", "binary"), None);
        assert_eq!(key(plain("on")).as_deref(), Some("true"));
        assert_eq!(key(plain("0x10")).as_deref(), Some("16"));
        assert_eq!(key(plain("~")), None);
    }
}
