//! What is known of the cluster, kept in a file, so that an agent that starts while the API server is away begins with
//! what was known last (N15).
//!
//! The file is a journal: a header that names the API server, then a line for each change, with a sum. Replaying it is
//! what following the server would have been, so a file that ends early is an older state, and a line in the middle
//! that is not as it was written makes the file useless. It is written anew once more than half of it is history.

mod line;
mod read;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

pub(super) use self::line::{Line, Said, put_gone, put_object, put_version};
pub(super) use self::read::{Found, Useless, look, replay};
use self::write::Writer;

/// Bytes of the file at most: five times what the largest clusters take.
const LIMIT: u64 = 1 << 30;
/// Pieces that wait to be written at most.
const PIECES: usize = 64;
/// How long a piece may wait: a disk that hangs must not hold facts up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where followers of kinds put what they learn.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    pieces: mpsc::Sender<Vec<u8>>,
    path: Arc<PathBuf>,
}

/// Nothing is kept any more.
#[derive(Debug)]
pub(super) struct Lost;

impl Keeper {
    /// Goes on behind what was found in the file, or begins it anew; on a thread of its own.
    pub(super) fn start(
        path: PathBuf,
        server: &str,
        found: Option<&Found>,
    ) -> std::io::Result<Keeper> {
        let writer = Writer::open(path.clone(), server, found.map(|it| it.length))?;
        let (pieces, receiver) = mpsc::channel(PIECES);
        std::thread::Builder::new()
            .name("facts".to_owned())
            .spawn(move || writer.run(receiver))?;
        Ok(Keeper {
            pieces,
            path: Arc::new(path),
        })
    }

    /// Hands whole lines over.
    pub(super) async fn keep(&self, lines: Vec<u8>) -> Result<(), Lost> {
        match timeout(PATIENCE, self.pieces.send(lines)).await {
            Ok(Ok(())) => Ok(()),
            // The writer has said why.
            Ok(Err(_)) => Err(Lost),
            Err(_) => {
                let path = self.path.display();
                tracing::warn!(%path, "the disk does not take facts in time: they are kept no longer, and an agent that starts while the API server is away begins with older ones");
                Err(Lost)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use podway_intent::{Key, Name};

    use super::*;
    use crate::Kind;

    const SERVER: &str = "https://192.0.2.1/";

    fn pod(number: usize, version: usize) -> String {
        format!(
            r#"{{"metadata":{{"name":"p{number}","namespace":"shop","resourceVersion":"{version}"}},"spec":{{"nodeName":"n1"}}}}"#
        )
    }

    fn gone(number: usize) -> Key {
        Key::Pod(Name {
            namespace: "shop".into(),
            name: format!("p{number}").into(),
        })
    }

    /// What replaying a file leaves: the objects' JSON by name.
    fn replayed(path: &Path) -> BTreeMap<String, String> {
        let mut objects = BTreeMap::new();
        let done = replay(path, SERVER, |line| {
            let name = || {
                let (key, _) =
                    crate::kubernetes::decode::head(line.kind, line.json).expect("named");
                key.to_string()
            };
            match line.said {
                Said::Is => {
                    objects.insert(name(), line.json.to_owned());
                }
                Said::Gone => {
                    objects.remove(&name());
                }
                Said::Known => {
                    objects.insert(line.kind.to_string(), line.json.to_owned());
                }
            }
        });
        done.expect("it is whole");
        objects
    }

    #[test]
    fn a_file_that_is_mostly_history_is_written_anew_and_says_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("facts");
        let plain = folder.path().join("plain");
        for (path, slack) in [(&path, 500), (&plain, u64::MAX >> 2)] {
            let mut writer = Writer::open(path.clone(), SERVER, None).expect("made");
            writer.slack = slack;
            let (pieces, receiver) = mpsc::channel(1_000);
            for round in 0..200 {
                let mut lines = Vec::new();
                put_object(&mut lines, Kind::Pod, &pod(round % 7, round));
                if round % 5 == 0 {
                    put_gone(&mut lines, Kind::Pod, &gone(round % 3));
                }
                for kind in Kind::ALL {
                    put_version(&mut lines, kind, &round.to_string());
                }
                pieces.try_send(lines).expect("room");
            }
            drop(pieces);
            writer.run(receiver);
            let found = look(path, SERVER).expect("whole");
            let length = std::fs::metadata(path).expect("there").len();
            assert_eq!(found.length, length);
        }
        assert_eq!(replayed(&path), replayed(&plain));
        assert_eq!(replayed(&path).len(), 7 + Kind::ALL.len());

        // Somebody else's is not written to, and going on is as if nothing had been.
        let found = look(&path, SERVER).expect("whole");
        let writer = Writer::open(path.clone(), SERVER, Some(found.length)).expect("ours");
        assert!(Writer::open(path.clone(), SERVER, Some(found.length)).is_err());
        let (pieces, receiver) = mpsc::channel(1);
        let mut lines = Vec::new();
        put_gone(&mut lines, Kind::Pod, &gone(6));
        pieces.try_send(lines).expect("room");
        drop(pieces);
        writer.run(receiver);
        assert_eq!(replayed(&path).len(), 6 + Kind::ALL.len());
    }

    #[test]
    fn each_cut_of_a_file_is_an_older_state_or_useless() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("facts");
        let writer = Writer::open(path.clone(), SERVER, None).expect("made");
        let (pieces, receiver) = mpsc::channel(8);
        let mut lines = Vec::new();
        for kind in Kind::ALL {
            put_version(&mut lines, kind, "1");
        }
        put_object(&mut lines, Kind::Pod, &pod(1, 1));
        put_gone(&mut lines, Kind::Pod, &gone(1));
        pieces.try_send(lines).expect("room");
        drop(pieces);
        writer.run(receiver);
        let whole = std::fs::read(&path).expect("written");
        let mut seen = Vec::new();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).expect("written");
            let is = match look(&path, SERVER) {
                Ok(_) => format!("{} objects", replayed(&path).len() - Kind::ALL.len()),
                Err(useless) => useless.to_string(),
            };
            if seen.last() != Some(&is) {
                seen.push(is);
            }
        }
        let expected = [
            Useless::Absent.to_string(),
            Useless::Other.to_string(),
            Useless::Partial.to_string(),
            "0 objects".to_owned(),
            "1 objects".to_owned(),
            "0 objects".to_owned(),
        ];
        assert_eq!(seen, expected);
    }
}
