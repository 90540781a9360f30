//! What is wrong with an object, and where it says so.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One thing that is wrong: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct Problem {
    /// The file; empty if the object came from an API server.
    pub file: Arc<str>,
    /// The line in the file, from 1; 0 if it is about the whole file.
    pub line: u32,
    /// Kind, namespace and name, such as `Service shop/web`; empty if it is about no object.
    pub object: String,
    /// The path to the field, such as `spec.ports[0].port`; empty if it is about the whole object.
    pub field: String,
    /// What is wrong with it and what is expected.
    pub message: String,
}

impl Problem {
    /// The same for those who see the object: `field: message`.
    pub(crate) fn in_object(&self) -> String {
        match &*self.field {
            "" => self.message.clone(),
            field => format!("{field}: {}", self.message),
        }
    }

    /// The same, and what happens for it.
    pub(crate) fn with(mut self, consequence: &str) -> Problem {
        self.message += ": ";
        self.message += consequence;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.file, self.line, &*self.object) {
            ("", _, "") => {}
            ("", _, object) => write!(f, "{object}: ")?,
            (file, 0, _) => write!(f, "{file}: ")?,
            (file, line, _) => write!(f, "{file}:{line}: ")?,
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, in the order of files and lines; one a line when displayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// `value` if there are no problems.
    pub(crate) fn none_or<T>(mut problems: Vec<Problem>, value: T) -> Result<T, Problems> {
        if problems.is_empty() {
            return Ok(value);
        }
        problems.sort();
        problems.dedup();
        Err(Problems(problems))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Lines of a document's fields, by their paths.
pub(crate) type Lines = BTreeMap<String, u32>;

/// Where an object was read from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Place {
    file: Arc<str>,
    lines: Arc<Lines>,
    root: String,
}

impl Place {
    pub(crate) fn new(file: Arc<str>, lines: Arc<Lines>, root: String) -> Place {
        Place { file, lines, root }
    }

    /// The place of a part of what was read from here.
    pub(crate) fn inside(&self, part: &str) -> Place {
        Place {
            root: join(&self.root, part),
            ..self.clone()
        }
    }

    /// The problem with a field of the object that was read from here.
    pub fn problem(&self, object: &str, field: &str, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            line: self.line(field),
            object: object.to_owned(),
            field: join(&self.root, field),
            message: message.into(),
        }
    }

    /// The line of a field, or of the nearest field around it that the file has; 0 if there is no file.
    pub fn line(&self, field: &str) -> u32 {
        let mut path = join(&self.root, field);
        loop {
            if let Some(line) = self.lines.get(&path) {
                return *line;
            }
            let Some(end) = path.rfind(['.', '[']) else {
                return self.lines.get("").copied().unwrap_or(0);
            };
            path.truncate(end);
        }
    }
}

/// `file:line` of the object's start, or that it came from no file.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.file {
            "" => f.write_str("not from a file"),
            file => write!(f, "{file}:{}", self.line("")),
        }
    }
}

/// `path.field`, for paths and fields that may be empty.
pub(crate) fn join(path: &str, field: &str) -> String {
    match (path, field) {
        ("", _) => field.to_owned(),
        (_, "") => path.to_owned(),
        _ if field.starts_with('[') => format!("{path}{field}"),
        _ => format!("{path}.{field}"),
    }
}

/// Collects what is wrong with one object while it is looked through.
pub(crate) struct Findings<'a> {
    object: String,
    place: &'a Place,
    /// What makes the object unusable.
    pub(crate) problems: Vec<Problem>,
    /// What the object is used without; a manifest must not have it.
    pub(crate) notes: Vec<Problem>,
    /// What the object is used without, though an API server that is in use takes it from a manifest.
    pub(crate) remarks: Vec<Problem>,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(object: String, place: &'a Place) -> Findings<'a> {
        Findings {
            object,
            place,
            problems: Vec::new(),
            notes: Vec::new(),
            remarks: Vec::new(),
        }
    }

    pub(crate) fn problem(&mut self, field: &str, message: impl Into<String>) {
        let problem = self.place.problem(&self.object, field, message);
        self.problems.push(problem);
    }

    /// Something that an object from an API server is used without.
    pub(crate) fn note(&mut self, field: &str, message: impl Into<String>) {
        let note = self.place.problem(&self.object, field, message);
        self.notes.push(note);
    }

    /// Something that any object is used without.
    pub(crate) fn remark(&mut self, field: &str, message: impl Into<String>) {
        let remark = self.place.problem(&self.object, field, message);
        self.remarks.push(remark);
    }

    /// The value, or `None` and a problem.
    pub(crate) fn take<T>(&mut self, field: &str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|message| self.problem(field, message)).ok()
    }

    /// The value, or `None` and a note.
    pub(crate) fn take_noted<T>(&mut self, field: &str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|message| self.note(field, message)).ok()
    }

    /// The value, or `None` and a remark.
    pub(crate) fn take_remarked<T>(&mut self, field: &str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|message| self.remark(field, message)).ok()
    }

    /// How much was found.
    pub(crate) fn count(&self) -> usize {
        self.problems.len() + self.notes.len() + self.remarks.len()
    }

    /// All that was found, the worst first.
    pub(crate) fn all(self) -> Vec<Problem> {
        [self.problems, self.notes, self.remarks].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_know_the_nearest_line() {
        let lines = [("", 1), ("items[0]", 3), ("items[0].spec", 4)];
        let lines: Lines = lines
            .into_iter()
            .map(|(path, line)| (path.into(), line))
            .collect();
        let place = Place::new("a.yaml".into(), lines.into(), "items[0]".into());
        assert_eq!(place.line("spec.ports[0].port"), 4);
        assert_eq!(place.line("metadata.name"), 3);
        let problem = place.problem("Service a/b", "spec.x", "is wrong");
        assert_eq!(problem.to_string(), "a.yaml:4: items[0].spec.x: is wrong");
        let problem = Place::default().problem("Service a/b", "spec.x", "is wrong");
        assert_eq!(problem.to_string(), "Service a/b: spec.x: is wrong");
    }
}
