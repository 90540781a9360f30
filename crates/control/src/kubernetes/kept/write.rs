//! Writes what becomes known, and now and then all of it anew, without what is history.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Error, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use podway_intent::Key;
use tokio::sync::mpsc;

use super::LIMIT;
use super::line::{Said, header, parse};
use super::read::{Lines, Useless};
use crate::Kind;
use crate::kubernetes::decode::head;

/// History that is always left, in bytes.
const SLACK: u64 = 16 << 20;

/// The file, open at its end.
pub(super) struct Writer {
    path: PathBuf,
    server: String,
    file: BufWriter<File>,
    length: u64,
    /// Its length when it was last without history.
    clean: u64,
    /// History that is always left.
    pub(super) slack: u64,
}

impl Writer {
    /// Opens the file to go on behind its first `kept` bytes; without them, it is begun anew.
    pub(super) fn open(path: PathBuf, server: &str, kept: Option<u64>) -> Result<Writer> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(&path)?;
        let is_ours = file.try_lock().is_ok();
        if !is_ours {
            return Err(Error::other("another agent writes there"));
        }
        file.set_len(kept.unwrap_or(0))?;
        let mut writer = Writer {
            path,
            server: server.to_owned(),
            file: BufWriter::new(file),
            length: kept.unwrap_or(0),
            clean: kept.unwrap_or(0),
            slack: SLACK,
        };
        if kept.is_none() {
            writer.write(header(server).as_bytes())?;
            writer.file.flush()?;
        }
        Ok(writer)
    }

    /// Writes until nobody hands lines over; a file that can't be written any more goes, for it grows old.
    pub(super) fn run(mut self, mut pieces: mpsc::Receiver<Vec<u8>>) {
        while let Some(piece) = pieces.blocking_recv() {
            if let Err(error) = self.take(&piece, &mut pieces) {
                let path = self.path.display();
                tracing::warn!(%path, %error, "facts can't be kept: an agent that starts while the API server is away has none; make room there, or set `facts` to another path");
                let _ = fs::remove_file(&self.path);
                return;
            }
        }
    }

    fn take(&mut self, piece: &[u8], more: &mut mpsc::Receiver<Vec<u8>>) -> Result<()> {
        self.write(piece)?;
        while let Ok(piece) = more.try_recv() {
            self.write(&piece)?;
        }
        self.file.flush()?;
        if self.length > 2 * self.clean + self.slack {
            self.clean()?;
        }
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> Result<()> {
        self.length += lines.len() as u64;
        if self.length > LIMIT {
            return Err(Error::other(format!(
                "the cluster takes more than {LIMIT} bytes"
            )));
        }
        self.file.write_all(lines)
    }

    /// Writes a file of the last line of each object and kind, which takes this one's place when it is whole.
    fn clean(&mut self) -> Result<()> {
        let last = last_lines(&self.path, &self.server).map_err(Error::other)?;
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let file = options.open(&new)?;
        file.lock()?;
        let mut file = BufWriter::new(file);
        let mut input = BufReader::new(File::open(&self.path)?);
        let (mut line, mut offset, mut length) = (Vec::new(), 0, 0);
        loop {
            line.clear();
            let read = input.read_until(b'\n', &mut line)? as u64;
            if read == 0 {
                break;
            }
            if offset == 0 || last.contains(&line, offset) {
                file.write_all(&line)?;
                length += read;
            }
            offset += read;
        }
        file.flush()?;
        file.get_ref().sync_data()?;
        fs::rename(&new, &self.path)?;
        (self.file, self.length, self.clean) = (file, length, length);
        Ok(())
    }
}

/// Where the last line of each object that is there, and of each kind's version, begins.
struct LastLines {
    objects: HashMap<Key, u64>,
    kinds: HashMap<Kind, u64>,
}

impl LastLines {
    fn contains(&self, line: &[u8], offset: u64) -> bool {
        let Some(line) = parse(line.trim_ascii_end()) else {
            return false;
        };
        match line.said {
            Said::Gone => false,
            Said::Known => self.kinds.get(&line.kind) == Some(&offset),
            Said::Is => head(line.kind, line.json)
                .is_ok_and(|(key, _)| self.objects.get(&key) == Some(&offset)),
        }
    }
}

fn last_lines(path: &Path, server: &str) -> std::result::Result<LastLines, Useless> {
    let mut lines = Lines::open(path, server)?;
    let mut last = LastLines {
        objects: HashMap::new(),
        kinds: HashMap::new(),
    };
    loop {
        let offset = lines.whole;
        let Some(line) = lines.next()? else {
            return Ok(last);
        };
        match line.said {
            Said::Known => {
                last.kinds.insert(line.kind, offset);
            }
            Said::Is => {
                if let Ok((key, _)) = head(line.kind, line.json) {
                    last.objects.insert(key, offset);
                }
            }
            Said::Gone => {
                if let Ok((key, _)) = head(line.kind, line.json) {
                    last.objects.remove(&key);
                }
            }
        }
    }
}
