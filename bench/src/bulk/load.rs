//! What runs between two pods, and what its programs say: iperf3 and wrk.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use podway_host::Namespace;
use serde_json::Value;

use super::{Sample, Work};
use crate::machine::{TICKS_A_SECOND, busy_ticks};
use crate::process::end;
use crate::wire::feed;

const IPERF_PORT: u16 = 5_201;
const HTTP_PORT: u16 = 8_080;
/// Bytes of an answer to a request.
const BODY: usize = 1_024;
/// Connections that requests are sent on.
const CONNECTIONS: u32 = 64;
/// How long servers may take to listen, and how long the idle system is watched.
const PATIENCE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_millis(500);

/// The servers in a pod; dropping them ends them.
pub(super) struct Servers {
    processes: Vec<Child>,
    _directory: tempfile::TempDir,
}

impl Servers {
    /// Starts iperf3 and nginx, and waits until both listen at the pod's address.
    pub(super) fn start(pod: &Namespace, address: &str) -> anyhow::Result<Servers> {
        let directory = tempfile::tempdir().context("a directory for nginx")?;
        let configuration = directory.path().join("nginx.conf");
        fs::write(&configuration, nginx(directory.path()))?;
        let mut servers = Servers {
            processes: Vec::new(),
            _directory: directory,
        };
        let mut iperf3 = Command::new("iperf3");
        iperf3.args(["--server", "--port", &IPERF_PORT.to_string()]);
        servers.spawn(pod, &mut iperf3)?;
        let mut nginx = Command::new("nginx");
        nginx
            .arg("-p")
            .arg(servers._directory.path())
            .arg("-c")
            .arg(&configuration);
        nginx.args(["-e", "stderr"]);
        servers.spawn(pod, &mut nginx)?;
        for port in [IPERF_PORT, HTTP_PORT] {
            servers.wait(pod, address, port)?;
        }
        Ok(servers)
    }

    fn spawn(&mut self, pod: &Namespace, command: &mut Command) -> anyhow::Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create("/dev/null")?);
        let child = pod.inside(|| command.spawn())?;
        let child =
            child.with_context(|| format!("cannot run `{name}`; see scripts/setup --bench"))?;
        self.processes.push(child);
        Ok(())
    }

    fn wait(&mut self, pod: &Namespace, address: &str, port: u16) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let connected =
                pod.inside(|| std::net::TcpStream::connect(format!("{address}:{port}")))?;
            match connected {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => {
                    return Err(error)
                        .with_context(|| format!("nobody listens at {address}:{port}"));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // nginx ends its workers when it is asked to end.
            end(process);
        }
    }
}

fn nginx(directory: &Path) -> String {
    let (directory, body) = (directory.display(), "x".repeat(BODY));
    format!(
        "daemon off; user root; worker_processes 1; pid {directory}/pid; error_log stderr crit;
         events {{ worker_connections 1024; }}
         http {{
             access_log off; keepalive_requests 1000000000; client_body_temp_path {directory}/b;
             proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
             server {{ listen {HTTP_PORT} reuseport; location / {{ return 200 \"{body}\"; }} }}
         }}\n"
    )
}

/// Has a client work for `time`.
pub(super) fn run(
    client: &Namespace,
    address: &str,
    work: Work,
    time: Duration,
) -> anyhow::Result<Sample> {
    let seconds = time.as_secs().max(1).to_string();
    let before = busy_ticks();
    thread::sleep(IDLE);
    let idle_share = (busy_ticks() - before) as f64 / IDLE.as_secs_f64();
    let (before, start) = (busy_ticks(), Instant::now());
    let mut sample = match work {
        Work::Streams(streams) => {
            let mut command = Command::new("iperf3");
            command.args(["--client", address, "--time", &seconds, "--json"]);
            command.args([
                "--port",
                &IPERF_PORT.to_string(),
                "--parallel",
                &streams.to_string(),
            ]);
            let text = feed(client, &mut command, "").context("iperf3")?;
            streams_of(&text)?
        }
        Work::Requests => {
            let mut command = Command::new("wrk");
            command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")]);
            command.arg(format!("http://{address}:{HTTP_PORT}/"));
            requests_of(&feed(client, &mut command, "").context("wrk")?)?
        }
    };
    let ticks = (busy_ticks() - before) as f64 - idle_share * start.elapsed().as_secs_f64();
    let seconds = ticks.max(0.0) / TICKS_A_SECOND;
    sample.cpu_s_per_gb = (sample.bytes > 0.0).then(|| seconds / (sample.bytes / 1e9));
    Ok(sample)
}

/// Reads iperf3's JSON: what the server got, and what the client sent again.
fn streams_of(text: &str) -> anyhow::Result<Sample> {
    let value: Value = serde_json::from_str(text).context("iperf3's JSON")?;
    if let Some(error) = value["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &value["end"];
    let figure = |value: &Value, what: &str| {
        value
            .as_f64()
            .with_context(|| format!("no {what} in iperf3's JSON"))
    };
    Ok(Sample {
        rate: figure(&end["sum_received"]["bits_per_second"], "rate")? / 1e9,
        bytes: figure(&end["sum_received"]["bytes"], "bytes")?,
        retransmissions: Some(figure(&end["sum_sent"]["retransmits"], "retransmissions")?),
        cpu_s_per_gb: None,
    })
}

/// Reads wrk's lines; an answer that is an error, or none, is no request.
fn requests_of(text: &str) -> anyhow::Result<Sample> {
    let after = |start: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(start))
            .map(str::trim)
    };
    ensure!(
        after("Non-2xx or 3xx responses:").is_none(),
        "the server answered with errors"
    );
    if let Some(errors) = after("Socket errors:") {
        eprintln!("note: wrk: socket errors: {errors}");
    }
    let rate =
        after("Requests/sec:").with_context(|| format!("no rate in what wrk says: {text}"))?;
    Ok(Sample {
        rate: rate.parse().context("wrk's rate")?,
        bytes: 0.0,
        retransmissions: None,
        cpu_s_per_gb: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_read() {
        let text = r#"{"end": {"sum_sent": {"bytes": 9, "retransmits": 3, "bits_per_second": 1.0},
            "sum_received": {"bytes": 2500000000, "bits_per_second": 2.0e10}}}"#;
        let sample = streams_of(text).expect("figures");
        assert_eq!(
            (sample.rate, sample.bytes, sample.retransmissions),
            (20.0, 2.5e9, Some(3.0))
        );
        let refused = streams_of(r#"{"start": {}, "error": "unable to connect"}"#);
        assert!(
            refused
                .expect_err("an error")
                .to_string()
                .contains("unable to connect")
        );
        assert!(streams_of("not JSON").is_err());
        assert!(streams_of(r#"{"end": {}}"#).is_err());
    }

    #[test]
    fn requests_are_read() {
        let text = "Running 1s test @ http://10.244.1.6:8080/\n  1 threads and 64 connections\n  \
            49721 requests in 1.10s, 62.19MB read\nRequests/sec:  45206.31\nTransfer/sec:     56.54MB\n";
        assert_eq!(requests_of(text).expect("a rate").rate, 45_206.31);
        let bad = format!("{text}  Non-2xx or 3xx responses: 7\n");
        assert!(requests_of(&bad).is_err());
        assert!(requests_of("unable to connect").is_err());
    }
}
