//! What a network carries while something is done, as tcpdump prints it: if nothing, it is shown that it would have been seen.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

/// The network between the nodes.
pub(crate) const WIRE: &str = "podway-lab-switch";
/// Whom the last packet of a capture is for: nobody else's are.
const MARK: &str = "127.88.77.66";
/// Packets that are looked at, at most.
const MOST: &str = "500";

/// Packets that pass a filter, from its making on.
pub(crate) struct Capture {
    namespace: String,
    tcpdump: Child,
    /// Open, or tcpdump would die of what it says at last.
    _said: BufReader<ChildStderr>,
}

impl Capture {
    /// Begins with a namespace's packets, of all its devices.
    pub(crate) fn of(namespace: &str, filter: &str) -> Capture {
        let filter = format!("({filter}) or host {MARK}");
        let mut tcpdump = Command::new("ip");
        tcpdump.args(["netns", "exec", namespace, "tcpdump", "-n", "-l"]);
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
        Capture {
            namespace: namespace.to_owned(),
            tcpdump,
            _said: said,
        }
    }

    /// What was seen until now, a line for each packet, 500 at most.
    ///
    /// A packet that is sent now has to be seen, too: then all before it were, and the capture was one.
    pub(crate) fn lines(mut self) -> Vec<String> {
        let mark = ["-n", &self.namespace, "link", "set", "lo", "up"];
        assert!(is_done("ip", &mark), "a loopback in {}", self.namespace);
        let mark = ["netns", "exec", &self.namespace, "ping", "-c", "1", MARK];
        assert!(is_done("ip", &mark), "a packet to {MARK}");
        let printed = BufReader::new(self.tcpdump.stdout.take().expect("piped"));
        let mut seen = Vec::new();
        let mut is_whole = false;
        for line in printed.lines() {
            let line = line.expect("text");
            if line.contains(MARK) {
                is_whole = true;
                break;
            }
            seen.push(line);
        }
        let is_full = seen.len() >= MOST.parse().expect("a number");
        assert!(is_whole || is_full, "tcpdump ended early: {seen:?}");
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
