//! YAML and JSON text as values that know their lines.
//!
//! A document becomes a JSON value, which every Kubernetes type reads, and a table from field paths to lines, so
//! that whatever finds a fault later can say where it is. What a text means is what it means to kubectl.

mod scalar;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde::de::IgnoredAny;
use serde_json::{Map, StreamDeserializer, Value};

use crate::problem::{Lines, join};

/// Values that a file may copy by anchors and aliases; what it spells out is bounded by its size.
const MAX_COPIES: usize = 1_000_000;

/// Lists and mappings inside one another that a file may have.
const MAX_DEPTH: usize = 100;

/// One document of a file.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) value: Value,
    pub(crate) lines: Lines,
    /// Keys that are there twice: the last one counts.
    pub(crate) repeated: Vec<Fault>,
}

/// What is wrong with a text, and on which line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: u32,
    pub(crate) field: String,
    pub(crate) message: String,
}

/// The documents of a text, empty ones left out; JSON values may follow one another without anything between them.
pub(crate) fn documents(text: &str) -> Result<Vec<Document>, Fault> {
    let text = text.trim_start_matches('\u{feff}');
    let Some(values) = json_values(text) else {
        return yaml(text, 0);
    };
    let mut documents = Vec::new();
    let mut line = 0;
    let mut end = 0;
    for (from, to) in values {
        line += newlines(&text[end..from]);
        documents.extend(json(&text[from..to], line)?);
        line += newlines(&text[from..to]);
        end = to;
    }
    Ok(documents)
}

/// Where the values of a stream of JSON objects begin and end; `None` if the text is something else.
fn json_values(text: &str) -> Option<Vec<(usize, usize)>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut stream: StreamDeserializer<'_, _, IgnoredAny> =
        serde_json::Deserializer::from_str(text).into_iter();
    let mut values = Vec::new();
    let mut end = 0;
    while let Some(value) = stream.next() {
        value.ok()?;
        let from = end + text[end..].find(|letter: char| !letter.is_whitespace())?;
        end = stream.byte_offset();
        values.push((from, end));
    }
    Some(values)
}

fn newlines(text: &str) -> u32 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u32
}

/// A JSON value that begins after so many lines.
fn json(text: &str, after: u32) -> Result<Vec<Document>, Fault> {
    // All JSON is YAML but for halves of surrogate pairs: then lines are not known.
    yaml(text, after).or_else(|fault| match serde_json::from_str(text) {
        Ok(value) if fault.message.starts_with(NOT_YAML) => Ok(vec![Document {
            value,
            lines: Lines::from([(String::new(), after + 1)]),
            repeated: Vec::new(),
        }]),
        Ok(_) | Err(_) => Err(fault),
    })
}

/// How faults of the parser itself begin.
const NOT_YAML: &str = "this is not YAML: ";

fn yaml(text: &str, after: u32) -> Result<Vec<Document>, Fault> {
    let mut documents = Vec::new();
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Fault {
            line: after + error.marker().line() as u32,
            field: String::new(),
            message: format!("{NOT_YAML}{}", error.info()),
        })?;
        let line = after + span.start.line() as u32;
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
    repeated: Vec<Fault>,
    anchors: HashMap<usize, Value>,
    copies: usize,
}

struct Open {
    container: Container,
    path: String,
    anchor: usize,
    line: u32,
}

enum Container {
    Sequence(Vec<Value>),
    /// The entries, and the key whose value comes next.
    Mapping(Map<String, Value>, Option<Key>),
}

struct Key {
    text: String,
    line: u32,
    role: Role,
}

/// What becomes of a key's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It is the key's.
    Entry,
    /// `<<`: its entries become those of the mapping that the key is in.
    Merge,
}

impl Builder {
    fn restart(&mut self) {
        self.open.clear();
        self.anchors.clear();
        self.lines.clear();
        self.repeated.clear();
        self.root = None;
    }

    fn finish(&mut self) -> Option<Document> {
        let lines = std::mem::take(&mut self.lines);
        let repeated = std::mem::take(&mut self.repeated);
        let value = self.root.take().filter(|value| !value.is_null())?;
        Some(Document {
            value,
            lines,
            repeated,
        })
    }

    fn alias(&mut self, anchor: usize, line: u32) -> Result<(), Fault> {
        if self.awaits_key() {
            return Err(self.fault(line, "a key must be a word, not an alias"));
        }
        let Some(value) = self.anchors.remove(&anchor) else {
            return Err(self.fault(line, "an alias can't stand inside what it names"));
        };
        let copy = self.copy(&value, line)?;
        self.anchors.insert(anchor, value);
        self.enter(line);
        self.put(copy, line)
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        anchor: usize,
        line: u32,
    ) -> Result<(), Fault> {
        let value = match (style, tag) {
            (ScalarStyle::Plain, None) => scalar::plain(text),
            (_, Some(tag)) if tag.is_yaml_core_schema() => {
                match scalar::tagged(text, &tag.suffix) {
                    Some(value) => value,
                    None => {
                        let message = format!("{text} is no !!{}: correct one of both", tag.suffix);
                        return Err(self.fault(line, &message));
                    }
                }
            }
            _ => Value::String(text.to_owned()),
        };
        if self.awaits_key() {
            let role = match (style, text) {
                (ScalarStyle::Plain, "<<") => Role::Merge,
                _ => Role::Entry,
            };
            return self.key(value, role, line);
        }
        self.enter(line);
        self.anchor(anchor, &value, line)?;
        self.put(value, line)
    }

    /// True where a mapping's next key belongs.
    fn awaits_key(&self) -> bool {
        let inner = self.open.last().map(|open| &open.container);
        matches!(inner, Some(Container::Mapping(_, None)))
    }

    fn key(&mut self, value: Value, role: Role, line: u32) -> Result<(), Fault> {
        let Some(text) = scalar::key(value) else {
            return Err(self.fault(line, "a key must be a word, not nothing"));
        };
        if let Some(Open {
            container: Container::Mapping(entries, key),
            path,
            ..
        }) = self.open.last_mut()
        {
            if entries.contains_key(&text) {
                self.repeated.push(Fault {
                    line,
                    field: join(path, &text),
                    message: "the key is there twice, and the last one counts: remove one".into(),
                });
            }
            *key = Some(Key { text, line, role });
        }
        Ok(())
    }

    fn open(&mut self, container: Container, anchor: usize, line: u32) -> Result<(), Fault> {
        if self.awaits_key() {
            return Err(self.fault(line, "a key must be a word, not a list or a mapping"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.fault(line, "more than 100 lists in one another: unfold them"));
        }
        self.enter(line);
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
        self.anchor(closed.anchor, &value, closed.line)?;
        self.put(value, closed.line)
    }

    fn anchor(&mut self, anchor: usize, value: &Value, line: u32) -> Result<(), Fault> {
        if anchor > 0 {
            let copy = self.copy(value, line)?;
            self.anchors.insert(anchor, copy);
        }
        Ok(())
    }

    fn copy(&mut self, value: &Value, line: u32) -> Result<Value, Fault> {
        self.copies += nodes(value);
        if self.copies > MAX_COPIES {
            let message = "anchors and aliases stand for more than a million values: write fewer";
            return Err(self.fault(line, message));
        }
        Ok(value.clone())
    }

    /// Notes the line of the node that begins here.
    fn enter(&mut self, line: u32) {
        let line = match self.open.last().map(|open| &open.container) {
            Some(Container::Mapping(_, Some(key))) => key.line,
            Some(Container::Mapping(_, None) | Container::Sequence(_)) | None => line,
        };
        let path = self.path();
        self.lines.insert(path, line);
    }

    fn put(&mut self, value: Value, line: u32) -> Result<(), Fault> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(value);
            return Ok(());
        };
        let is_taken = match &mut open.container {
            Container::Sequence(items) => {
                items.push(value);
                true
            }
            Container::Mapping(entries, key) => match key.take() {
                Some(key) if key.role == Role::Merge => merge(entries, value),
                Some(key) => {
                    entries.insert(key.text, value);
                    true
                }
                None => true,
            },
        };
        if !is_taken {
            return Err(self.fault(line, "<< takes a mapping, or a list of them"));
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
            Container::Mapping(_, Some(key)) => join(&open.path, &key.text),
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

/// Adds what a merge key names; false if that is not made of mappings.
///
/// As with kubectl, it takes the place of entries before it and gives way to those after it; of a list's mappings the
/// first counts.
fn merge(entries: &mut Map<String, Value>, value: Value) -> bool {
    let mut mappings = match value {
        Value::Array(items) => items,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            vec![value]
        }
    };
    mappings.reverse();
    mappings.into_iter().all(|mapping| {
        let Value::Object(merged) = mapping else {
            return false;
        };
        entries.extend(merged);
        true
    })
}

fn nodes(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(nodes).sum::<usize>(),
        Value::Object(entries) => 1 + entries.values().map(nodes).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}
