//! The admin socket: one line of JSON asks, one line answers.
//!
//! Everything here is bounded: connections, the length of a line, how long a silent peer is listened to.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use podway_cni::agent::{Attach, Detach, Response};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::show::Topic;

/// The longest request in bytes.
const REQUEST_LIMIT: u64 = 64 << 10;
const CONNECTIONS: usize = 256;
const SILENCE: Duration = Duration::from_secs(30);
/// How often a path is tried that another agent has: a killed one has it until its last thread is gone.
const TRIES: usize = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// What the agent can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Request {
    /// Take a pod's wire up.
    Attach(Attach),
    /// Let go of a pod's wire.
    Detach(Detach),
    /// Say what pods' wires are made of.
    Network,
    /// Show what is known.
    Show(Topic),
}

/// A request on its way to the agent, and where its answer goes.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Response>,
}

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error("{0}: another agent answers on this socket: stop it, or set `socket` to another path")]
    InUse(PathBuf),
    /// It can't be made.
    #[error("{path}: {problem}: set `socket` to a path that podway may write")]
    Unusable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        problem: std::io::Error,
    },
}

/// The listening socket; its file goes with it.
pub(super) struct AdminSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl AdminSocket {
    /// Takes the path as soon as no live agent has it, and gives up if one still has after some seconds.
    pub(super) async fn take(path: &Path) -> Result<AdminSocket, SocketError> {
        for _ in 1..TRIES {
            match AdminSocket::bind(path) {
                Err(SocketError::InUse(_)) => tokio::time::sleep(BETWEEN_TRIES).await,
                taken @ (Ok(_) | Err(SocketError::Unusable { .. })) => return taken,
            }
        }
        AdminSocket::bind(path)
    }

    /// Takes the path, unless a live agent has it; the file is its owner's only (0600).
    fn bind(path: &Path) -> Result<AdminSocket, SocketError> {
        let unusable = |problem| SocketError::Unusable {
            path: path.to_owned(),
            problem,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(unusable)?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(SocketError::InUse(path.to_owned())),
            // What a killed agent left; a file that is no socket refuses connections, too, and is not ours.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && is_socket(path) => {
                fs::remove_file(path).map_err(unusable)?;
            }
            Err(_) => (),
        }
        // The file is never more than its owner's, not even before the chmod.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = listener.map_err(unusable)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(unusable)?;
        Ok(AdminSocket {
            path: path.to_owned(),
            listener,
        })
    }

    /// Hands requests over until nobody takes them.
    pub(super) async fn serve(self, requests: mpsc::Sender<Asked>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = requests.closed() => return,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors: give those who have some the time to close them.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let requests = requests.clone();
                    tokio::spawn(async move {
                        converse(stream, requests).await;
                        drop(place);
                    });
                }
                Err(_) => {
                    let text = format!("{CONNECTIONS} connections are open already: close one");
                    tokio::spawn(say(stream, Response::Error(text)));
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

async fn say(mut stream: UnixStream, response: Response) {
    let line = line_of(&response);
    let _ = tokio::time::timeout(SILENCE, stream.write_all(&line)).await;
}

async fn converse(stream: UnixStream, requests: mpsc::Sender<Asked>) {
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::new(input);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut input).take(REQUEST_LIMIT);
        let read = tokio::time::timeout(SILENCE, limited.read_until(b'\n', &mut line));
        match read.await {
            Ok(Ok(1..)) => (),
            Ok(Ok(0) | Err(_)) | Err(_) => return,
        }
        let whole = line.last() == Some(&b'\n');
        let response = match whole {
            true => answer(&line, &requests).await,
            false => Response::Error(format!(
                "the request has no end within {REQUEST_LIMIT} bytes: send one line of JSON"
            )),
        };
        let line = line_of(&response);
        let written = tokio::time::timeout(SILENCE, output.write_all(&line)).await;
        if !whole || !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

async fn answer(line: &[u8], requests: &mpsc::Sender<Asked>) -> Response {
    const STOPPING: &str = "the agent is stopping: ask again when it runs";
    let request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => {
            return Response::Error(format!(
                "bad request: {error}: send {{\"show\":\"status\"}}, {{\"attach\":{{…}}}} or {{\"detach\":{{…}}}}"
            ));
        }
    };
    let (answer, answered) = oneshot::channel();
    if requests.send(Asked { request, answer }).await.is_err() {
        return Response::Error(STOPPING.to_owned());
    }
    let stopping = |_| Response::Error(STOPPING.to_owned());
    answered.await.unwrap_or_else(stopping)
}

fn line_of(response: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(response).expect("a JSON value");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    use serde_json::{Value, json};

    use super::*;

    /// Serves a socket that answers `show` with the topic's name, while `client` runs on another thread.
    fn with_socket(client: impl FnOnce(&Path) + Send + 'static) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("deep/podway.sock");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async move {
            let socket = AdminSocket::bind(&path).expect("bound");
            let (requests, mut asked) = mpsc::channel::<Asked>(4);
            tokio::spawn(socket.serve(requests));
            let client = tokio::task::spawn_blocking(move || client(&path));
            let answers = async {
                while let Some(Asked { request, answer }) = asked.recv().await {
                    let text = format!("{request:?}");
                    let _ = answer.send(Response::Ok(json!(text)));
                }
            };
            tokio::select! {
                done = client => done.expect("the client is content"),
                () = answers => (),
            }
        });
    }

    fn ask(stream: &mut UnixStream, line: &[u8]) -> Value {
        stream.write_all(line).expect("written");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("read");
        serde_json::from_str(&answer).expect("JSON")
    }

    #[test]
    fn a_connection_may_ask_again_after_a_bad_request() {
        with_socket(|path| {
            let mode = fs::metadata(path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let mut stream = UnixStream::connect(path).expect("connected");
            for (line, said) in [
                (
                    "{\"dance\":1}\n",
                    "unknown variant `dance`, expected one of `attach`, `detach`, `network`, `show`",
                ),
                (
                    "{\"show\":\"all\"}\n",
                    "unknown variant `all`, expected one of `services`",
                ),
                ("{\"detach\":{}}\n", "missing field `pod`"),
                ("what?\n", "expected value at line 1 column 1"),
                ("\n", "EOF while parsing"),
                ("\u{0}\n", "expected value"),
            ] {
                let answer = ask(&mut stream, line.as_bytes());
                let text = answer["error"].as_str().expect("an error");
                assert!(text.starts_with(&format!("bad request: {said}")), "{text}");
            }
            let answer = ask(&mut stream, b"{\"show\":\"flows\"}\n");
            assert_eq!(answer, json!({"ok": "Show(Flows)"}));
        });
    }

    #[test]
    fn an_endless_line_is_refused_and_the_connection_closed() {
        with_socket(|path| {
            let mut stream = UnixStream::connect(path).expect("connected");
            let line = vec![b'['; REQUEST_LIMIT as usize];
            let answer = ask(&mut stream, &line);
            assert_eq!(
                answer["error"],
                "the request has no end within 65536 bytes: send one line of JSON"
            );
            let mut rest = String::new();
            assert_eq!(
                BufReader::new(&stream).read_line(&mut rest).expect("end"),
                0
            );
        });
    }

    #[test]
    fn connections_are_bounded() {
        with_socket(|path| {
            let connect = || UnixStream::connect(path).expect("connected");
            let mut open: Vec<UnixStream> = (0..CONNECTIONS).map(|_| connect()).collect();
            for stream in &mut open {
                assert!(ask(stream, b"{\"show\":\"status\"}\n")["ok"].is_string());
            }
            let mut answer = String::new();
            BufReader::new(connect())
                .read_line(&mut answer)
                .expect("read");
            assert_eq!(
                answer,
                "{\"error\":\"256 connections are open already: close one\"}\n"
            );
        });
    }

    #[test]
    fn a_live_socket_is_not_taken_and_a_dead_one_is() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("podway.sock");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        let _entered = runtime.enter();
        // A listener that was dropped without removing its file is what a killed agent leaves.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let live = AdminSocket::bind(&path).expect("the dead one is taken");
        let error = AdminSocket::bind(&path).err().expect("the live one is not");
        assert_eq!(
            error.to_string(),
            format!(
                "{}: another agent answers on this socket: stop it, or set `socket` to another path",
                path.display()
            )
        );
        let dies = async { drop(live) };
        let (taken, ()) = runtime.block_on(async { tokio::join!(AdminSocket::take(&path), dies) });
        drop(taken.expect("who comes while it lives waits for its end"));
        assert!(!path.exists());
        fs::write(&path, "somebody's file").expect("written");
        assert!(matches!(
            AdminSocket::bind(&path),
            Err(SocketError::Unusable { .. })
        ));
        assert!(path.exists(), "a file that is no socket is left alone");
    }
}
