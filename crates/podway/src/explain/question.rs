//! A packet as a user describes it.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

/// A port that no server listens on, for packets whose source port does not matter.
const ANY_PORT: u16 = 40_000;

/// One packet: the first of a new connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// What the answer is known by; any JSON value.
    pub id: Value,
    /// Where it comes in.
    pub ingress: Ingress,
    /// Its source address.
    pub source: IpAddr,
    /// Its source port, or an echo request's identifier.
    pub source_port: u16,
    /// Its target address.
    pub target: IpAddr,
    /// Its target port, 0 without ports.
    pub target_port: u16,
    /// What it is.
    pub kind: Kind,
}

/// Where a packet comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// From a pod of the node, as `NAMESPACE/NAME`.
    Pod(String),
    /// From the wire, without a tunnel: from outside of the cluster, or from a node that is reached directly.
    Uplink,
    /// From the node's own processes.
    Host,
    /// Out of the tunnel from a node.
    Tunnel(String),
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP SYN.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An SCTP INIT.
    Sctp,
    /// An echo request.
    Icmp,
}

/// What is wrong with a description: the field and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuestion(pub String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    id: Value,
    ingress: Option<Value>,
    src: Option<Value>,
    sport: Option<Value>,
    dst: Option<Value>,
    dport: Option<Value>,
    protocol: Option<Value>,
}

impl Question {
    /// Reads a description as `podway explain` takes it.
    pub fn parse(text: &str) -> Result<Question, BadQuestion> {
        let fields: Fields = serde_json::from_str(text).map_err(|error| {
            BadQuestion(format!(
                "{error}: give a JSON object with ingress, src, dst, dport and protocol"
            ))
        })?;
        let kind = kind(&word("protocol", fields.protocol)?)?;
        let source = address("src", fields.src)?;
        let target = address("dst", fields.dst)?;
        if source.is_ipv4() != target.is_ipv4() {
            return Err(BadQuestion(format!(
                "dst: {target} is of another family than src: give two IPv4 or two IPv6 addresses"
            )));
        }
        let source_port = match fields.sport {
            Some(value) => port("sport", Some(value))?,
            None => ANY_PORT,
        };
        let target_port = match kind {
            Kind::Tcp | Kind::Udp | Kind::Sctp => port("dport", fields.dport)?,
            Kind::Icmp => 0,
        };
        Ok(Question {
            id: fields.id,
            ingress: ingress(&word("ingress", fields.ingress)?)?,
            source,
            source_port,
            target,
            target_port,
            kind,
        })
    }
}

/// What a line is known by, even if the rest of it is no question.
pub(super) fn id_of(line: &str) -> Value {
    serde_json::from_str::<Value>(line)
        .ok()
        .and_then(|mut value| value.get_mut("id").map(Value::take))
        .unwrap_or_default()
}

fn word(field: &str, value: Option<Value>) -> Result<String, BadQuestion> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(BadQuestion(format!(
            "{field}: {other} is no text: give it in quotes"
        ))),
        None => Err(BadQuestion(format!("{field}: missing: give it"))),
    }
}

fn address(field: &str, value: Option<Value>) -> Result<IpAddr, BadQuestion> {
    let text = word(field, value)?;
    text.parse().map_err(|_| {
        BadQuestion(format!(
            "{field}: {text:?} is no address: give one as 10.244.1.9 or fd44::9"
        ))
    })
}

fn port(field: &str, value: Option<Value>) -> Result<u16, BadQuestion> {
    let remedy = "give a whole number from 1 to 65535";
    let Some(value) = value else {
        return Err(BadQuestion(format!("{field}: missing: {remedy}")));
    };
    value
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| BadQuestion(format!("{field}: {value} is no port: {remedy}")))
}

fn kind(text: &str) -> Result<Kind, BadQuestion> {
    match text {
        "tcp" => Ok(Kind::Tcp),
        "udp" => Ok(Kind::Udp),
        "sctp" => Ok(Kind::Sctp),
        "icmp" => Ok(Kind::Icmp),
        other => Err(BadQuestion(format!(
            "protocol: {other:?} is not known: give tcp, udp, sctp or icmp"
        ))),
    }
}

fn ingress(text: &str) -> Result<Ingress, BadQuestion> {
    match text.split_once(':') {
        Some(("pod", pod)) if pod.contains('/') => Ok(Ingress::Pod(pod.to_owned())),
        Some(("tunnel", node)) if !node.is_empty() => Ok(Ingress::Tunnel(node.to_owned())),
        None if text == "uplink" => Ok(Ingress::Uplink),
        None if text == "host" => Ok(Ingress::Host),
        Some(_) | None => Err(BadQuestion(format!(
            "ingress: {text:?} is not known: give pod:NAMESPACE/NAME, uplink, host or tunnel:NODE"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_question_is_read() {
        let text = r#"{"id":7,"ingress":"tunnel:n2","src":"fd44::1","sport":9,"dst":"fd44::2","dport":80,"protocol":"sctp"}"#;
        let question = Question::parse(text).expect("legal");
        assert_eq!(question.ingress, Ingress::Tunnel("n2".to_owned()));
        assert_eq!(
            (question.source_port, question.target_port, question.kind),
            (9, 80, Kind::Sctp)
        );
        assert_eq!(question.id, 7);
        assert_eq!(id_of(text), 7);
        assert_eq!(id_of("{"), Value::Null);
    }

    #[test]
    fn bad_questions_name_field_and_remedy() {
        for (change, said) in [
            (
                r#""dport":0"#,
                "dport: 0 is no port: give a whole number from 1 to 65535",
            ),
            (
                r#""dport":70000"#,
                "dport: 70000 is no port: give a whole number from 1 to 65535",
            ),
            (
                r#""dport":"80""#,
                "dport: \"80\" is no port: give a whole number from 1 to 65535",
            ),
            (
                r#""dst":"web""#,
                "dst: \"web\" is no address: give one as 10.244.1.9 or fd44::9",
            ),
            (
                r#""dst":"fd44::1""#,
                "dst: fd44::1 is of another family than src: give two IPv4 or two IPv6 addresses",
            ),
            (
                r#""protocol":"http""#,
                "protocol: \"http\" is not known: give tcp, udp, sctp or icmp",
            ),
            (
                r#""ingress":"pod:web""#,
                "ingress: \"pod:web\" is not known: give pod:NAMESPACE/NAME, uplink, host or tunnel:NODE",
            ),
            (r#""src":9"#, "src: 9 is no text: give it in quotes"),
        ] {
            let mut fields: Value = serde_json::from_str(
                r#"{"ingress":"host","src":"10.0.0.1","dst":"10.0.0.2","dport":80,"protocol":"tcp"}"#,
            )
            .expect("JSON");
            let change: Value = serde_json::from_str(&format!("{{{change}}}")).expect("JSON");
            for (key, value) in change.as_object().expect("an object") {
                fields[key] = value.clone();
            }
            let error = Question::parse(&fields.to_string()).expect_err(said);
            assert_eq!(error.to_string(), said);
        }
        let error = Question::parse(r#"{"dport":80,"flags":"S"}"#).expect_err("unknown field");
        assert!(
            error.to_string().starts_with("unknown field `flags`"),
            "{error}"
        );
        let error = Question::parse(r#"{"protocol":"tcp"}"#).expect_err("missing");
        assert_eq!(error.to_string(), "src: missing: give it");
    }
}
