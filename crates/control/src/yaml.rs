//! YAML and JSON text as values that know their lines.
//!
//! A document becomes a JSON value, which every Kubernetes type reads, and a table from field paths to lines, so
//! that whatever finds a fault later can say where it is.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

use crate::problem::{Lines, join};

/// Nodes that a file may have, aliases counted as what they stand for.
const MAX_NODES: usize = 1_000_000;

/// Lists and mappings inside one another that a file may have.
const MAX_DEPTH: usize = 100;

/// One document of a file.
pub(crate) struct Document {
    pub(crate) value: Value,
    pub(crate) lines: Lines,
}

/// Why a text is not what we read, and on which line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: u32,
    pub(crate) field: String,
    pub(crate) message: String,
}

/// The documents of a text, empty ones left out.
pub(crate) fn documents(text: &str) -> Result<Vec<Document>, Fault> {
    let mut documents = Vec::new();
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Fault {
            line: error.marker().line() as u32,
            field: String::new(),
            message: format!("this is not YAML: {}", error.info()),
        })?;
        let line = span.start.line() as u32;
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
            Event::DocumentStart(_) => builder.restart(),
            Event::DocumentEnd => documents.extend(builder.finish()),
            Event::Alias(anchor) => builder.alias(anchor, line)?,
            Event::Scalar(text, style, anchor, tag) => {
                builder.scalar(&text, style, tag.as_deref(), anchor, line)?;
            }
            Event::SequenceStart(anchor, _) => {
                builder.open(Container::Sequence(Vec::new()), anchor, line)?
            }
            Event::MappingStart(anchor, _) => {
                builder.open(Container::Mapping(Map::new(), None), anchor, line)?;
            }
            Event::SequenceEnd | Event::MappingEnd => builder.close()?,
        }
    }
    Ok(documents)
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Value>,
    lines: Lines,
    anchors: HashMap<usize, Value>,
    nodes: usize,
}

struct Open {
    container: Container,
    path: String,
    anchor: usize,
    line: u32,
}

enum Container {
    Sequence(Vec<Value>),
    /// The entries, and the key whose value comes next with its line.
    Mapping(Map<String, Value>, Option<(String, u32)>),
}

impl Builder {
    fn restart(&mut self) {
        self.open.clear();
        self.anchors.clear();
        self.lines.clear();
        self.root = None;
    }

    fn finish(&mut self) -> Option<Document> {
        let lines = std::mem::take(&mut self.lines);
        let value = self.root.take().filter(|value| !value.is_null())?;
        Some(Document { value, lines })
    }

    fn alias(&mut self, anchor: usize, line: u32) -> Result<(), Fault> {
        let Some(value) = self.anchors.get(&anchor).cloned() else {
            return Err(self.fault(line, "an alias can't stand inside what it names"));
        };
        self.nodes += nodes(&value);
        self.enter(line)?;
        self.put(value, line)
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        anchor: usize,
        line: u32,
    ) -> Result<(), Fault> {
        if let Some(Open {
            container: Container::Mapping(entries, key @ None),
            path,
            ..
        }) = self.open.last_mut()
        {
            if entries.contains_key(text) {
                let (field, message) = (join(path, text), "the key is there twice: remove one");
                return Err(Fault {
                    line,
                    field,
                    message: message.into(),
                });
            }
            *key = Some((text.to_owned(), line));
            return Ok(());
        }
        let value = match (style, tag) {
            (ScalarStyle::Plain, None) => plain(text),
            (_, Some(tag)) if !(tag.is_yaml_core_schema() && tag.suffix == "str") => {
                return Err(self.fault(line, "tags other than !!str are not read: remove it"));
            }
            _ => Value::String(text.to_owned()),
        };
        self.enter(line)?;
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        self.put(value, line)
    }

    fn open(&mut self, container: Container, anchor: usize, line: u32) -> Result<(), Fault> {
        if let Some(Open {
            container: Container::Mapping(_, None),
            ..
        }) = self.open.last()
        {
            return Err(self.fault(line, "a key must be a word, not a list or a mapping"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.fault(line, "more than 100 lists in one another: unfold them"));
        }
        self.enter(line)?;
        let path = self.path();
        self.open.push(Open {
            container,
            path,
            anchor,
            line,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fault> {
        let Some(closed) = self.open.pop() else {
            return Ok(());
        };
        let value = match closed.container {
            Container::Sequence(items) => Value::Array(items),
            Container::Mapping(entries, _) => Value::Object(entries),
        };
        if closed.anchor > 0 {
            self.anchors.insert(closed.anchor, value.clone());
        }
        self.put(value, closed.line)
    }

    /// Notes the line of the node that begins here.
    fn enter(&mut self, line: u32) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = "the file has more than a million values (aliases count): split it";
            return Err(self.fault(line, message));
        }
        let line = match self.open.last() {
            Some(Open {
                container: Container::Mapping(_, Some((_, line))),
                ..
            }) => *line,
            _ => line,
        };
        let path = self.path();
        self.lines.insert(path, line);
        Ok(())
    }

    fn put(&mut self, value: Value, line: u32) -> Result<(), Fault> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(value);
            return Ok(());
        };
        match &mut open.container {
            Container::Sequence(items) => items.push(value),
            Container::Mapping(entries, key) => match key.take() {
                Some((key, _)) => drop(entries.insert(key, value)),
                None => return Err(self.fault(line, "a key must be a word, not an alias")),
            },
        }
        Ok(())
    }

    /// The path of the node that comes next.
    fn path(&self) -> String {
        let Some(open) = self.open.last() else {
            return String::new();
        };
        match &open.container {
            Container::Sequence(items) => format!("{}[{}]", open.path, items.len()),
            Container::Mapping(_, Some((key, _))) => join(&open.path, key),
            Container::Mapping(_, None) => open.path.clone(),
        }
    }

    fn fault(&self, line: u32, message: &str) -> Fault {
        Fault {
            line,
            field: self.path(),
            message: message.to_owned(),
        }
    }
}

/// A plain scalar by the core schema (YAML 1.2.2, 10.3.2).
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = match text.get(..2) {
        Some("0x") => 16,
        Some("0o") => 8,
        _ => 10,
    };
    let digits = if radix == 10 { text } else { &text[2..] };
    if let Ok(number) = i64::from_str_radix(digits, radix) {
        return Value::Number(number.into());
    }
    let is_float = text.starts_with([
        '+', '-', '.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9',
    ]) && text.bytes().any(|byte| byte.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(number) if is_float => {
            Number::from_f64(number).map_or_else(|| Value::String(text.into()), Value::Number)
        }
        _ => Value::String(text.to_owned()),
    }
}

fn nodes(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(nodes).sum::<usize>(),
        Value::Object(entries) => 1 + entries.values().map(nodes).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(text: &str) -> Document {
        documents(text).unwrap().pop().unwrap()
    }

    fn fault(text: &str) -> (u32, String, String) {
        let fault = documents(text).err().unwrap();
        (fault.line, fault.field, fault.message)
    }

    #[test]
    fn documents_know_their_lines() {
        let text = "# a comment\na: 1\nb:\n  - x\n  - y: [2, three]\n---\n---\nc: null\n";
        let documents = documents(text).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(
            documents[0].value,
            json!({"a": 1, "b": ["x", {"y": [2, "three"]}]})
        );
        let line = |path: &str| documents[0].lines[path];
        assert_eq!(
            [
                line(""),
                line("a"),
                line("b"),
                line("b[0]"),
                line("b[1].y"),
                line("b[1].y[1]")
            ],
            [2, 2, 3, 4, 5, 5]
        );
        assert_eq!(documents[1].lines["c"], 8);
    }

    #[test]
    fn json_with_tabs_is_read() {
        let document = one("{\n\t\"a\": {\n\t\t\"b\": [1,\n\t\t2]\n\t}\n}\n");
        assert_eq!(document.value, json!({"a": {"b": [1, 2]}}));
        assert_eq!(document.lines["a.b[1]"], 4);
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let text =
            "[1, -2, 0x10, 0o17, 1.5, '1', yes, ~, true, 1.2.3.4, +, !!str 5, .inf, 1e3, nan]";
        assert_eq!(
            one(text).value,
            json!([
                1, -2, 16, 15, 1.5, "1", "yes", null, true, "1.2.3.4", "+", "5", ".inf", 1000.0,
                "nan"
            ])
        );
    }

    #[test]
    fn anchors_stand_for_copies_and_are_bounded() {
        let document = one("a: &x {b: 1}\nc: *x\n");
        assert_eq!(document.value, json!({"a": {"b": 1}, "c": {"b": 1}}));
        let mut bomb = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for level in 1..10 {
            let below = format!("*a{},", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(fault(&bomb).2.contains("more than a million"));
    }

    #[test]
    fn faults_name_line_and_field() {
        let twice = fault("spec:\n  a: 1\n  b: 2\n  a: 3\n");
        assert_eq!(
            twice,
            (
                4,
                "spec.a".into(),
                "the key is there twice: remove one".into()
            )
        );
        assert_eq!(fault("a: !ruby x\n").0, 1);
        assert_eq!(
            fault("? [a]\n: b\n").2,
            "a key must be a word, not a list or a mapping"
        );
        assert!(fault(&"[".repeat(200)).2.starts_with("more than 100 lists"));
        assert!(fault("a: b: c\n").2.starts_with("this is not YAML: "));
        assert_eq!(fault("a:\n  - b\n c: d\n").0, 3);
    }
}
