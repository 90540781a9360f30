//! The values that fields of several kinds have: what an API server accepts, as types.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use podway_intent::{Labels, Requirement, Selector};
use podway_wire::Protocol;

use crate::problem::{Findings, join};

/// A port number.
pub(crate) fn port(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port @ 1..) => Ok(port),
        Ok(0) | Err(_) => Err(format!("expected a number 1-65535, found {number}")),
    }
}

/// A protocol's name; TCP if absent.
pub(crate) fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name {
        None | Some("" | "TCP") => Ok(Protocol::TCP),
        Some("UDP") => Ok(Protocol::UDP),
        Some("SCTP") => Ok(Protocol::SCTP),
        Some(other) => Err(format!("expected TCP, UDP or SCTP, found \"{other}\"")),
    }
}

/// The name that manifests give a protocol.
pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::UDP => "UDP",
        Protocol::SCTP => "SCTP",
        _ => "TCP",
    }
}

/// An IP address as API servers have always read it (Kubernetes' `ParseIPSloppy`).
///
/// Leading zeros mean nothing, and an IPv6 address that stands for an IPv4 one is that.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    parsed(text)
        .map(|address| address.to_canonical())
        .ok_or_else(|| format!("expected an IP address, found \"{text}\""))
}

/// A range of addresses as API servers have always read it (`ParseCIDRSloppy`), its host bits cleared.
pub(crate) fn range(text: &str) -> Result<IpNet, String> {
    let read = || {
        let (address, length) = text.trim().split_once('/')?;
        let digits = Some(length).filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
        let (address, length) = (parsed(address)?, digits?.parse().ok()?);
        let range = IpNet::new(address, length).ok()?.trunc();
        // As Go has it: the range of an IPv4 address in IPv6's clothes is an IPv4 one if it is inside of those.
        match (address.to_canonical(), length.checked_sub(MAPPED)) {
            (IpAddr::V4(inner), Some(length)) if address.is_ipv6() => {
                Some(IpNet::new(inner.into(), length).ok()?.trunc())
            }
            _ => Some(range),
        }
    };
    read().ok_or_else(|| format!("expected a range such as 10.0.0.0/8, found \"{text}\""))
}

/// The bits before an IPv4 address in the IPv6 address that stands for it.
const MAPPED: u8 = 96;

/// The address, its numbers without leading zeros.
fn parsed(text: &str) -> Option<IpAddr> {
    let plain = |number: &str| match number.trim_start_matches('0') {
        "" if !number.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let (groups, dotted) = match text.rfind(':') {
        Some(end) if text.contains('.') => text.split_at(end + 1),
        Some(_) => (text, ""),
        None => ("", text),
    };
    let groups: Vec<String> = groups.split(':').map(plain).collect();
    let octets: Vec<String> = dotted.split('.').map(plain).collect();
    (groups.join(":") + &octets.join(".")).parse().ok()
}

/// Which of two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Family {
        if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// As `ipFamilies` and `addressType` spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// `IPv4` or `IPv6`.
pub(crate) fn family(name: &str) -> Result<Family, String> {
    match name {
        "IPv4" => Ok(Family::V4),
        "IPv6" => Ok(Family::V6),
        other => Err(format!("expected IPv4 or IPv6, found \"{other}\"")),
    }
}

/// An object's or a namespace's name (RFC 1123 label).
pub(crate) fn dns_label(name: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let legal = (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    legal
        .then_some(())
        .ok_or_else(|| format!("expected at most 63 of a-z, 0-9 and inner '-', found \"{name}\""))
}

/// A name made of labels with dots between them (RFC 1123 subdomain); API servers bound only its whole length.
pub(crate) fn dns_subdomain(name: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let legal = name.len() <= 253 && name.split('.').all(is_label);
    legal
        .then_some(())
        .ok_or_else(|| format!("expected at most 253 of a-z, 0-9, '-' and '.', found \"{name}\""))
}

/// A port's name (RFC 6335): at most 15 of a-z, 0-9 and '-', with a letter.
pub(crate) fn port_name(name: &str) -> Result<(), String> {
    let legal = name.len() <= 15
        && dns_label(name).is_ok()
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.contains("--");
    legal.then_some(()).ok_or_else(|| {
        format!("expected at most 15 of a-z, 0-9 and '-' with a letter, found \"{name}\"")
    })
}

/// A label's key: an optional DNS prefix and a name.
pub(crate) fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("prefix", key));
    let legal = !name.is_empty() && label_value(name).is_ok() && dns_subdomain(prefix).is_ok();
    legal
        .then_some(())
        .ok_or_else(|| format!("expected a label such as app or example.org/app, found \"{key}\""))
}

/// A label's value: empty, or at most 63 letters, digits and inner '-', '_', '.'.
pub(crate) fn label_value(value: &str) -> Result<(), String> {
    let outer = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    let bytes = value.as_bytes();
    let legal = bytes.len() <= 63
        && outer(bytes.first().copied())
        && outer(bytes.last().copied())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
    legal.then_some(()).ok_or_else(|| {
        format!("expected at most 63 letters, digits and inner '-', '_', '.', found \"{value}\"")
    })
}

/// Labels in our words.
pub(crate) fn labels(labels: Option<&BTreeMap<String, String>>) -> Labels {
    let entries = labels.into_iter().flatten();
    entries
        .map(|(key, value)| (Arc::from(&**key), Arc::from(&**value)))
        .collect()
}

/// A selector in our words; `None` and notes if it is not one.
///
/// Values that are none are a remark: API servers before 1.27 took them, and later ones keep them.
pub(crate) fn selector(
    selector: &LabelSelector,
    field: &str,
    findings: &mut Findings<'_>,
) -> Option<Selector> {
    let before = findings.count();
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        let at = join(field, &format!("matchLabels.{key}"));
        findings.take_noted(&at, label_key(key));
        findings.take_remarked(&at, label_value(value));
        requirements.push(Requirement::In((**key).into(), vec![(**value).into()]));
    }
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let at = |name: &str| join(field, &format!("matchExpressions[{index}].{name}"));
        findings.take_noted(&at("key"), label_key(&expression.key));
        let values = expression.values.as_deref().unwrap_or_default();
        for (index, value) in values.iter().enumerate() {
            findings.take_remarked(&at(&format!("values[{index}]")), label_value(value));
        }
        let key: Arc<str> = (*expression.key).into();
        let owned = || values.iter().map(|value| Arc::from(&**value)).collect();
        let (requirement, wants_values) = match &*expression.operator {
            "In" => (Requirement::In(key, owned()), true),
            "NotIn" => (Requirement::NotIn(key, owned()), true),
            "Exists" => (Requirement::Exists(key), false),
            "DoesNotExist" => (Requirement::Absent(key), false),
            other => {
                let message =
                    format!("expected In, NotIn, Exists or DoesNotExist, found \"{other}\"");
                findings.note(&at("operator"), message);
                continue;
            }
        };
        match (wants_values, values.is_empty()) {
            (true, true) => findings.note(
                &at("values"),
                format!("{} needs at least one value", expression.operator),
            ),
            (false, false) => findings.note(
                &at("values"),
                format!("{} takes no values: remove them", expression.operator),
            ),
            (true, false) | (false, true) => {}
        }
        requirements.push(requirement);
    }
    (findings.count() == before).then_some(Selector { requirements })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_an_api_server_takes() {
        assert!(dns_label("web-1").is_ok());
        for wrong in ["", "Web", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(dns_label(wrong).is_err(), "{wrong}");
        }
        assert!(dns_subdomain("node1.example.org").is_ok());
        assert!(dns_subdomain("node1..org").is_err());
        assert!(port_name("http-2").is_ok());
        for wrong in ["", "80", "a--b", "sixteen-letters-", "abcdefghijklmnop"] {
            assert!(port_name(wrong).is_err(), "{wrong}");
        }
        assert!(label_key("app.kubernetes.io/name").is_ok());
        for wrong in ["", "/a", "a/", "A_B/x", "a b"] {
            assert!(label_key(wrong).is_err(), "{wrong}");
        }
        assert!(label_value("").is_ok());
        assert!(label_value("v1.2_3-x").is_ok());
        assert!(label_value("_x").is_err());
    }

    #[test]
    fn n19_addresses_and_ranges_are_read_as_api_servers_always_did() {
        for (text, read) in [
            ("10.0.0.1", "10.0.0.1"),
            ("010.000.00.09", "10.0.0.9"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::ffff:010.0.0.01", "10.0.0.1"),
            ("fd00:00001::000a", "fd00:1::a"),
            ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"),
        ] {
            assert_eq!(
                address(text).map(|it| it.to_string()),
                Ok(read.to_owned()),
                "{text}"
            );
        }
        for wrong in [
            "",
            "10.0.0",
            "10.0.0.256",
            "10.0.0.0x1",
            "10.0.0.1 ",
            "+1.0.0.0",
            "fe80::1%eth0",
            "1..2.3",
            "fd00:1",
            "10.0.0.1:80",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        for (text, read) in [
            (" 10.1.2.3/8 ", "10.0.0.0/8"),
            ("203.0.113.000/025", "203.0.113.0/25"),
            ("10.244.1.77/24", "10.244.1.0/24"),
            ("fd00::1/64", "fd00::/64"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/96", "0.0.0.0/0"),
            ("::ffff:10.1.2.3/90", "::ffc0:0:0/90"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(
                range(text).map(|it| it.to_string()),
                Ok(read.to_owned()),
                "{text}"
            );
        }
        for wrong in [
            "10.0.0.1",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "/8",
            "fd00::/129",
            "everything",
        ] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn n19_only_the_whole_length_of_a_prefix_is_bounded() {
        let prefix = format!("{}.example.org", "a".repeat(100));
        assert!(dns_subdomain(&prefix).is_ok());
        assert!(label_key(&format!("{prefix}/app")).is_ok());
        assert!(dns_subdomain(&"a".repeat(253)).is_ok());
        assert!(dns_subdomain(&"a".repeat(254)).is_err());
    }

    #[test]
    fn ports_end_where_they_should() {
        assert_eq!((port(1), port(65535)), (Ok(1), Ok(65535)));
        assert!(port(0).is_err() && port(65536).is_err() && port(-1).is_err());
    }
}
