//! Bulk by others' programs: what tcpdump, iperf3 and wrk say of it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::bench::{eventually, iperf3};
use crate::shaper::{SWITCH, switch_port};
use crate::transfers::{Transfers, WORLD};

const ANSWERS: &str = include_str!("answers.py");

/// A program that runs until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Transfers {
    /// Starts a server that listens at a port of a pod.
    fn serve(&self, pod: &str, port: &str, command: &[&str]) -> Running {
        let running = Running(self.lab.spawn(pod, command));
        let listens = || self.lab.must(pod, &["ss", "-Hltn"]).contains(port);
        assert!(eventually(Duration::from_secs(10), listens), "{pod} {port}");
        running
    }

    /// What `tcpdump -vv` says of every packet on node 1's wire while something is done.
    fn watched(&self, name: &str, doing: impl FnOnce()) -> String {
        let port = switch_port(&self.lab, "node:node1");
        let name = format!("podway-test-{name}-{}.pcap", std::process::id());
        let path = std::env::temp_dir().join(name);
        let file = path.to_str().expect("UTF-8");
        let mut tcpdump = Command::new("ip");
        tcpdump.args(["netns", "exec", SWITCH, "tcpdump", "-i", &port]);
        tcpdump.args([
            "-U",
            "--immediate-mode",
            "-B",
            "65536",
            "-w",
            file,
            "-Z",
            "root",
        ]);
        tcpdump.stderr(Stdio::piped());
        let mut running = Running(tcpdump.spawn().expect("tcpdump runs"));
        let said = BufReader::new(running.0.stderr.take().expect("piped"));
        let listens = said.lines().map_while(Result::ok);
        let mut listens = listens.filter(|line| line.contains("listening"));
        assert!(listens.next().is_some(), "tcpdump listens");
        doing();
        // What waits in the kernel for tcpdump would be lost with it.
        let (mut length, mut looks) = (0, 0);
        let is_whole = || {
            let before = std::mem::replace(&mut length, captured(&path));
            looks = match before > 0 && before == length {
                true => looks + 1,
                false => 0,
            };
            looks == 5
        };
        assert!(eventually(Duration::from_secs(10), is_whole), "{file}");
        drop(running);
        let read = Command::new("tcpdump")
            .args(["-nn", "-vv", "-r", file])
            .output()
            .expect("tcpdump runs");
        std::fs::remove_file(&path).expect("the capture is there");
        String::from_utf8_lossy(&read.stdout).into_owned()
    }
}

/// Bytes that were captured so far.
fn captured(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

#[test]
fn tcpdump_finds_every_checksum_on_the_wire_right() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    let [v4, v6] = all.addresses("default/far");
    let world = WORLD.map(|(world, _)| world.to_owned());
    for host in [v4, v6].iter().chain(&world) {
        let text = all.watched("checksums", || all.moves_some(host, "7000", 16, 1));
        let wrong = [
            "incorrect",
            "bad cksum",
            "bad udp",
            "bad length",
            "truncated",
            "[|",
        ];
        let wrong: Vec<_> = text
            .lines()
            .filter(|line| wrong.iter().any(|it| line.contains(it)))
            .take(3)
            .collect();
        let right = text.matches("(correct)").count();
        println!("{host}: {right} right checksums");
        assert!(wrong.is_empty(), "{host}: {wrong:#?}");
        assert!(right > 2_000, "{host}: only {right} were seen");
    }
}

/// The longest payload that went to and that came from a server, as tcpdump tells.
fn longest(text: &str, server: &str) -> (usize, usize) {
    let server = format!("{server}.7000");
    let lines = text.lines().filter_map(|line| {
        let (addresses, rest) = line.trim().split_once(": Flags ")?;
        let (_, length) = rest.rsplit_once("length ")?;
        Some((addresses.split_once(" > ")?, length.parse::<usize>().ok()?))
    });
    let mut most = (0_usize, 0_usize);
    for ((source, target), length) in lines {
        // In front of an IPv6 address tcpdump tells of the header.
        if source.ends_with(&server) {
            most.1 = length.max(most.1);
        } else if target == server {
            most.0 = length.max(most.0);
        }
    }
    most
}

#[test]
fn the_world_gets_segments_as_long_as_it_offers() {
    if !podway_needs::root() {
        return;
    }
    /// What timestamps take of a segment.
    const OPTIONS: usize = 12;
    let all = Transfers::up(&[]);
    for ((world, range), fits) in WORLD.into_iter().zip([1460, 1440]) {
        for offered in [fits, 536] {
            all.world_offers(range, &offered.to_string());
            let text = all.watched("segments", || all.moves_some(world, "7000", 16, 1));
            let (there, back) = longest(&text, world);
            println!("{world} offers {offered}: {there} there, {back} back");
            assert_eq!((there, back), (offered - OPTIONS, fits - OPTIONS));
        }
    }
}

/// What the buffers of a stream's sockets hold at most: twice this for each of them (socket(7)).
const WINDOW: u64 = 256 << 10;

/// The bytes that iperf3 sent and received.
fn counted(all: &Transfers, host: &str, more: &[&str]) -> (u64, u64) {
    let window = WINDOW.to_string();
    let iperf = ["--client", host, "--bytes", "64M", "--window", &window];
    let said = iperf3(&all.lab, "default/client", &[&iperf[..], more].concat());
    let bytes = |sum: &str| {
        let bytes = said["end"][sum]["bytes"].as_u64();
        bytes.unwrap_or_else(|| panic!("iperf3 said nothing of {sum}: {said}"))
    };
    (bytes("sum_sent"), bytes("sum_received"))
}

#[test]
fn iperf3_receives_what_it_sent_in_one_stream_and_in_eight() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    let _servers =
        ["default/near", "default/far"].map(|pod| all.serve(pod, ":5201", &["iperf3", "--server"]));
    for pod in ["default/near", "default/far"] {
        for host in all.addresses(pod) {
            for streams in [1, 8] {
                let parallel = streams.to_string();
                for way in [&["-P", &parallel][..], &["-P", &parallel, "--reverse"]] {
                    let (sent, received) = counted(&all, &host, way);
                    println!("{host} {way:?}: {sent} sent, {received} received");
                    assert!(sent >= 64 << 20 && received <= sent, "{sent}, {received}");
                    // It stops to read when all is written.
                    let buffered = sent - received;
                    assert!(buffered <= streams * 4 * WINDOW, "{buffered} are missing");
                }
            }
        }
    }
}

#[test]
fn wrk_is_answered_every_request_on_one_connection_and_on_many() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    let serve = ["python3", "-c", ANSWERS, "7080"];
    let _servers = ["default/near", "default/far"].map(|pod| all.serve(pod, ":7080", &serve));
    for pod in ["default/near", "default/far"] {
        for host in all.addresses(pod) {
            let host = match host.contains(':') {
                true => format!("[{host}]"),
                false => host,
            };
            for connections in [1, 64] {
                let (asked, answered) = answers(&all, &host, connections);
                println!("{host}, connections: {connections}: {answered} of {asked} answered");
                assert!(answered > 100, "{answered}");
                let under_way = asked - answered;
                assert!(under_way <= connections, "{host}: {under_way} are missing");
            }
        }
    }
}

/// How many requests of wrk's came to the server, and how many it saw answered; those under way at its end weren't.
fn answers(all: &Transfers, host: &str, connections: u64) -> (u64, u64) {
    let count = || -> u64 {
        let url = format!("http://{host}:7080/count");
        let said = all.lab.must("default/client", &["curl", "-sg", &url]);
        said.parse().expect("a count")
    };
    let before = count();
    let (connections, url) = (connections.to_string(), format!("http://{host}:7080/"));
    let wrk = ["wrk", "-t", "1", "-d", "1", "-c", &connections, &url];
    let said = all.lab.must("default/client", &wrk);
    assert!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "{said}"
    );
    let line = said.lines().find(|line| line.contains("requests in"));
    let answered = line.and_then(|line| line.split_whitespace().next());
    let answered = answered.expect("a count").parse().expect("a number");
    (count() - before, answered)
}
