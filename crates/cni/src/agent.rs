//! What is said over the agent's unix socket: one line of JSON asks, one line answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Longest line in bytes, either way.
pub const LINE_LIMIT: u64 = 16 << 20;

/// What an agent is asked about a pod's wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Take this wire up; answered once the tables and the port are in force and the host end is up.
    Attach(Attach),
    /// Let go of this pod's wire; answered once nothing of it is in force. An unknown pod is fine.
    Detach(Detach),
    /// Say what a pod's wire on this node is made of: a [`NodeNetwork`].
    Network,
}

/// A pod's wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The pod as `NAMESPACE/NAME`.
    pub pod: String,
    /// The host end's name.
    pub interface: String,
    /// The pod's Ethernet address as `02:00:00:00:00:01`.
    pub mac: String,
    /// The wire's MTU in bytes.
    pub mtu: u32,
    /// The addresses that the pod was given; none: those of its Pod object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// A pod whose wire goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// The pod as `NAMESPACE/NAME`.
    pub pod: String,
    /// The host end's name: a wire that took its place is left alone. `None`: whatever the pod has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// What the wires of a node's pods are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNetwork {
    /// The Node's pod ranges, one of a family at most.
    pub pod_ranges: Vec<IpNet>,
    /// Queues of each end: one for each worker.
    pub queues: NonZeroU16,
    /// MTU in bytes of the wire, and of the way to the node's other pods.
    pub pod_mtu: u32,
    /// What fits into the tunnel, or on the wire without one, in bytes: the MTU of all other ways, unless the pod's is larger
    /// than the wire's.
    pub tunnel_mtu: u32,
    /// The gateway's Ethernet address.
    pub gateway_mac: String,
    /// Why the agent's tables are not in force, if they are not.
    pub problem: Option<String>,
}

/// What an agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// Done, or what was asked for.
    Ok(serde_json::Value),
    /// Not done, why, and what to do.
    Error(String),
}

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No agent answers.
    #[error("no agent answers on {}: {source}; start `podway run` or see its log", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It takes longer than it was given.
    #[error("the agent on {} did not answer within {} s: the kernel or others keep it busy; try again, or see its log", socket.display(), within.as_secs_f32())]
    Busy {
        /// The socket.
        socket: PathBuf,
        /// What it was given.
        within: Duration,
    },
    /// What came back is not an answer.
    #[error("the agent on {} gave no answer that makes sense: {source}; is it of this version?", socket.display())]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The agent said no.
    #[error("{0}")]
    Refused(String),
}

/// An Ethernet address in the form that the socket speaks.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An Ethernet address that the socket spoke; `None` if it is none.
pub fn mac_of(text: &str) -> Option<[u8; 6]> {
    let bytes = text.split(':').map(|part| match part.len() {
        2 => u8::from_str_radix(part, 16).ok(),
        _ => None,
    });
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes?.try_into().ok()
}

/// What the wires of a node's pods are made of, by its agent.
pub fn network(socket: &Path, timeout: Duration) -> Result<NodeNetwork, AgentError> {
    let value = ask(socket, &Request::Network, timeout)?;
    serde_json::from_value(value).map_err(|source| AgentError::Garbled {
        socket: socket.to_owned(),
        source,
    })
}

/// Asks the agent on a socket, waiting at most `timeout` for each read and write; returns what is in its `ok`.
pub fn ask(
    socket: &Path,
    request: &impl Serialize,
    timeout: Duration,
) -> Result<serde_json::Value, AgentError> {
    let took_too_long = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
    let failed = |source: io::Error| match took_too_long.contains(&source.kind()) {
        true => AgentError::Busy {
            socket: socket.to_owned(),
            within: timeout,
        },
        false => AgentError::Unreachable {
            socket: socket.to_owned(),
            source,
        },
    };
    let line = exchange(socket, request, timeout).map_err(failed)?;
    let garbled = |source| AgentError::Garbled {
        socket: socket.to_owned(),
        source,
    };
    match serde_json::from_str(&line).map_err(garbled)? {
        Response::Ok(value) => Ok(value),
        Response::Error(text) => Err(AgentError::Refused(text)),
    }
}

fn exchange(socket: &Path, request: &impl Serialize, timeout: Duration) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_LIMIT)).read_line(&mut answer)?;
    match answer.is_empty() {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn requests_have_the_agreed_shape() {
        let attach = Request::Attach(Attach {
            pod: "shop/web".into(),
            interface: "pw0".into(),
            mac: mac_text([2, 0, 0, 0, 0, 0xab]),
            mtu: 61_000,
            addresses: Vec::new(),
        });
        let text = r#"{"attach":{"pod":"shop/web","interface":"pw0","mac":"02:00:00:00:00:ab","mtu":61000}}"#;
        assert_eq!(serde_json::to_string(&attach).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), attach);
        let detach: Request = serde_json::from_str(r#"{"detach":{"pod":"shop/web"}}"#).unwrap();
        assert_eq!(
            detach,
            Request::Detach(Detach {
                pod: "shop/web".into(),
                interface: None,
            })
        );
        assert!(
            serde_json::from_str::<Request>(r#"{"detach":{"pod":"shop/web","force":true}}"#)
                .is_err()
        );
    }

    fn answer_of(answer: &'static [u8]) -> Result<serde_json::Value, AgentError> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
            line
        });
        let request = Request::Detach(Detach {
            pod: "a/b".into(),
            interface: None,
        });
        let answer = ask(&socket, &request, Duration::from_secs(5));
        assert_eq!(server.join().unwrap(), "{\"detach\":{\"pod\":\"a/b\"}}\n");
        answer
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(answer_of(b"{\"ok\":{\"port\":3}}\n").unwrap()["port"], 3);
        assert_eq!(
            answer_of(b"{\"error\":\"no\"}\n").unwrap_err().to_string(),
            "no"
        );
        assert!(matches!(
            answer_of(b"what?\n"),
            Err(AgentError::Garbled { .. })
        ));
        assert!(matches!(
            answer_of(b""),
            Err(AgentError::Unreachable { .. })
        ));
    }

    #[test]
    fn an_agent_that_takes_too_long_is_busy() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        // What connects to it waits for ever.
        let _listener = UnixListener::bind(&socket).unwrap();
        let error = ask(&socket, &"x", Duration::from_millis(50)).unwrap_err();
        let text = format!(
            "the agent on {} did not answer within 0.05 s: the kernel or others keep it busy; try again, or see its log",
            socket.display()
        );
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn an_absent_agent_is_named() {
        let error = ask(
            Path::new("/nowhere/agent.sock"),
            &"x",
            Duration::from_secs(1),
        )
        .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no agent answers on /nowhere/agent.sock: "),
            "{error}"
        );
    }
}
