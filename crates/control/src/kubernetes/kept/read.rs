//! Reads what an agent before kept.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::time::SystemTime;

use super::LIMIT;
use super::line::{Line, MAGIC, Said, header, parse};
use crate::Kind;

/// The longest line in bytes: no API server has an object of that size.
const LINE_LIMIT: u64 = 16 << 20;

/// A file from which a whole cluster can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kubernetes) struct Found {
    /// Its whole lines in bytes: what follows was being written when its writer died.
    pub(super) length: u64,
    /// When something was written last.
    pub(in crate::kubernetes) written: SystemTime,
}

/// Why no cluster can be read from a file.
#[derive(Debug, thiserror::Error)]
pub(in crate::kubernetes) enum Useless {
    #[error("there is none")]
    Absent,
    #[error("it can't be read ({0}): make it readable for root")]
    Unreadable(#[from] io::Error),
    #[error("it is no file of podway's and is left alone: set `facts` to another path")]
    Foreign,
    #[error("it is of another API server or of another version of podway, and is written anew")]
    Other,
    #[error("line {0} is not as it was written: it is written anew")]
    Broken(u64),
    #[error("it ends before all kinds of objects were known: it is written anew")]
    Partial,
    #[error("it is longer than {LIMIT} bytes: it is written anew")]
    TooLong,
}

/// Whether a whole cluster of this API server can be read from a file.
pub(in crate::kubernetes) fn look(path: &Path, server: &str) -> Result<Found, Useless> {
    let mut lines = Lines::open(path, server)?;
    let written = lines.written;
    let mut known = Vec::new();
    while let Some(line) = lines.next()? {
        if line.said == Said::Known && !known.contains(&line.kind) {
            known.push(line.kind);
        }
    }
    match known.len() == Kind::ALL.len() {
        true => Ok(Found {
            length: lines.whole,
            written,
        }),
        false => Err(Useless::Partial),
    }
}

/// Says all lines again, in their order.
pub(in crate::kubernetes) fn replay(
    path: &Path,
    server: &str,
    mut take: impl FnMut(Line<'_>),
) -> Result<(), Useless> {
    let mut lines = Lines::open(path, server)?;
    while let Some(line) = lines.next()? {
        take(line);
    }
    Ok(())
}

/// The lines of a file, one at a time.
pub(super) struct Lines {
    input: BufReader<File>,
    buffer: Vec<u8>,
    number: u64,
    /// The bytes of all whole lines so far.
    pub(super) whole: u64,
    written: SystemTime,
}

impl Lines {
    pub(super) fn open(path: &Path, server: &str) -> Result<Lines, Useless> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Useless::Absent),
            file => file?,
        };
        let metadata = file.metadata()?;
        if metadata.len() > LIMIT {
            return Err(Useless::TooLong);
        }
        let mut lines = Lines {
            input: BufReader::new(file),
            buffer: Vec::new(),
            number: 0,
            whole: 0,
            written: metadata.modified()?,
        };
        let is_whole = lines.advance()?;
        // What was begun, but not even its first word was written.
        if MAGIC.as_bytes().starts_with(&lines.buffer) {
            return Err(Useless::Absent);
        }
        if !lines.buffer.starts_with(MAGIC.as_bytes()) {
            return Err(Useless::Foreign);
        }
        match is_whole && lines.buffer == header(server).trim_end().as_bytes() {
            true => Ok(lines),
            false => Err(Useless::Other),
        }
    }

    /// The next line; `None` at the end, or where the last one was not written to its end.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, Useless> {
        if !self.advance()? {
            return Ok(None);
        }
        let number = self.number;
        parse(&self.buffer).map(Some).ok_or(Useless::Broken(number))
    }

    /// Whether there is a whole line more, which is in the buffer then.
    fn advance(&mut self) -> Result<bool, Useless> {
        self.buffer.clear();
        let mut input = self.input.by_ref().take(LINE_LIMIT);
        let length = input.read_until(b'\n', &mut self.buffer)? as u64;
        self.number += 1;
        let is_whole = self.buffer.pop_if(|byte| *byte == b'\n').is_some();
        match is_whole {
            true => self.whole += length,
            false if length == LINE_LIMIT => return Err(Useless::Broken(self.number)),
            false => {}
        }
        Ok(is_whole)
    }
}
