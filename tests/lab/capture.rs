//! What a network carries while something is done, as tcpdump prints it: if nothing, it is shown that it would have been seen.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::bench::eventually;

/// The network between the nodes.
pub(crate) const WIRE: &str = "podway-lab-switch";
/// Whom the last packet of a capture is for: nobody else's are.
const MARK: &str = "127.88.77.66";
/// Packets that are looked at, at most.
const MOST: &str = "500";
/// How long the last packet may take to be seen; it is sent again meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);

/// Packets that pass a filter, from its making on.
pub(crate) struct Capture {
    namespace: String,
    tcpdump: Child,
    /// What it prints, as it does: a full pipe would have it lose packets.
    printed: Receiver<String>,
    /// Open, or tcpdump would die of what it says at last.
    _said: BufReader<ChildStderr>,
}

impl Capture {
    /// Begins with a namespace's packets, of all its devices.
    pub(crate) fn of(namespace: &str, filter: &str) -> Capture {
        let filter = format!("({filter}) or host {MARK}");
        let mut tcpdump = Command::new("ip");
        // Of each packet the headers, so that the kernel has room for many.
        tcpdump.args([
            "netns", "exec", namespace, "tcpdump", "-n", "-l", "-s", "256",
        ]);
        tcpdump.args(["--immediate-mode", "-i", "any", "-c", MOST, &filter]);
        tcpdump.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut tcpdump = tcpdump.spawn().expect("tcpdump runs");
        let mut said = BufReader::new(tcpdump.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            let length = said.read_line(&mut line).expect("text");
            assert!(length > 0, "tcpdump listens to {filter}");
        }
        let lines = BufReader::new(tcpdump.stdout.take().expect("piped")).lines();
        let (sender, printed) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Capture {
            namespace: namespace.to_owned(),
            tcpdump,
            printed,
            _said: said,
        }
    }

    /// What was seen until now, a line for each packet, 500 at most.
    ///
    /// A packet that is sent now has to be seen, too: then all before it were, and the capture was one.
    pub(crate) fn lines(self) -> Vec<String> {
        let up = ["-n", &self.namespace, "link", "set", "lo", "up"];
        assert!(is_done("ip", &up), "a loopback in {}", self.namespace);
        let mut seen = Vec::new();
        let is_whole = || {
            let mark = ["netns", "exec", &self.namespace, "ping", "-c", "1", MARK];
            assert!(is_done("ip", &mark), "a packet to {MARK}");
            loop {
                match self.printed.recv_timeout(Duration::from_millis(500)) {
                    Ok(line) if line.contains(MARK) => return true,
                    Ok(line) => seen.push(line),
                    Err(RecvTimeoutError::Timeout) => return false,
                    Err(RecvTimeoutError::Disconnected) => {
                        return seen.len() >= MOST.parse().expect("a number");
                    }
                }
            }
        };
        let is_whole = eventually(PATIENCE, is_whole);
        assert!(is_whole, "tcpdump ended early, or sees nothing: {seen:?}");
        seen
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

fn is_done(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}
