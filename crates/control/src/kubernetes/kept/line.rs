//! The file's lines: a sum, a sign, a kind and JSON.

use podway_intent::{Key, Name};
use serde_json::{Value, json};

use crate::Kind;
use crate::kubernetes::decode::trimmed;

/// The first word of the file's first line; the second is the layout, the third the API server.
pub(super) const MAGIC: &str = "podway-facts";
/// Changes with the layout.
const LAYOUT: &str = "1";
/// The digits of the sum, and the blank behind them.
const SUM: usize = 9;

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kubernetes) enum Said {
    /// The object is as this JSON has it.
    Is,
    /// The object of this name is gone.
    Gone,
    /// All objects of the kind were known up to this version.
    Known,
}

/// A line that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kubernetes) struct Line<'a> {
    pub(in crate::kubernetes) said: Said,
    pub(in crate::kubernetes) kind: Kind,
    pub(in crate::kubernetes) json: &'a str,
}

/// The file's first line for facts of this API server.
pub(super) fn header(server: &str) -> String {
    format!(
        "{MAGIC} {LAYOUT} {}\n",
        server.replace(char::is_whitespace, "")
    )
}

/// Adds the line of an object; one that can't be read is left out, as it was by who read it before.
pub(in crate::kubernetes) fn put_object(lines: &mut Vec<u8>, kind: Kind, json: &str) {
    if let Ok(json) = trimmed(kind, json) {
        put(lines, Said::Is, kind, &json);
    }
}

/// Adds the line of an object that is gone.
pub(in crate::kubernetes) fn put_gone(lines: &mut Vec<u8>, kind: Kind, key: &Key) {
    let named = |name: &Name| json!({"namespace": &*name.namespace, "name": &*name.name});
    let metadata = match key {
        Key::Node(name)
        | Key::Namespace(name)
        | Key::ClusterNetworkPolicy(name)
        | Key::ServiceCidr(name) => {
            json!({"name": &**name})
        }
        Key::Pod(name)
        | Key::Service(name)
        | Key::EndpointSlice(name)
        | Key::NetworkPolicy(name)
        | Key::Attachment(name) => named(name),
        // No source tells of these.
        Key::Neighbour(_)
        | Key::Route(_)
        | Key::LinkNeighbour(_)
        | Key::OwnAddress(_)
        | Key::Setup => return,
    };
    let json = json!({"metadata": metadata}).to_string();
    put(lines, Said::Gone, kind, &json);
}

/// Adds the line that says up to which version a kind is known.
pub(in crate::kubernetes) fn put_version(lines: &mut Vec<u8>, kind: Kind, version: &str) {
    put(lines, Said::Known, kind, &Value::from(version).to_string());
}

fn put(lines: &mut Vec<u8>, said: Said, kind: Kind, json: &str) {
    let text = format!("{} {kind} {json}", sign(said));
    let sum = crc32c::crc32c(text.as_bytes());
    lines.extend_from_slice(format!("{sum:08x} {text}\n").as_bytes());
}

/// Reads a line without its end; `None` if it is not as it was written.
pub(in crate::kubernetes) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = str::from_utf8(line).ok()?;
    let (sum, text) = line.split_at_checked(SUM)?;
    let sum = u32::from_str_radix(sum.strip_suffix(' ')?, 16).ok()?;
    if sum != crc32c::crc32c(text.as_bytes()) {
        return None;
    }
    let mut words = text.splitn(3, ' ');
    let (first, second, json) = (words.next()?, words.next()?, words.next()?);
    let all = [Said::Is, Said::Gone, Said::Known];
    Some(Line {
        said: all.into_iter().find(|said| sign(*said) == first)?,
        kind: Kind::ALL.into_iter().find(|kind| kind.name() == second)?,
        json,
    })
}

fn sign(said: Said) -> &'static str {
    match said {
        Said::Is => "+",
        Said::Gone => "-",
        Said::Known => "=",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_or_not_at_all() {
        let mut lines = Vec::new();
        let key = Key::Pod(Name {
            namespace: "shop".into(),
            name: "a b\n".into(),
        });
        put_gone(&mut lines, Kind::Pod, &key);
        let end = lines.pop();
        assert_eq!(end, Some(b'\n'));
        assert!(!lines.contains(&b'\n'));
        let line = parse(&lines).expect("whole");
        assert_eq!((line.said, line.kind), (Said::Gone, Kind::Pod));
        let value: Value = serde_json::from_str(line.json).expect("JSON");
        assert_eq!(value["metadata"]["name"], "a b\n");
        for index in 0..lines.len() {
            let mut other = lines.clone();
            other[index] ^= 1;
            assert_eq!(parse(&other), None, "byte {index}");
            assert_eq!(parse(&lines[..index]), None, "the first {index} bytes");
        }
    }

    #[test]
    fn a_header_is_one_line_whatever_the_server_is_called() {
        assert_eq!(header("https://a b\n/"), "podway-facts 1 https://ab/\n");
    }
}
