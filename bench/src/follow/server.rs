//! The API server in a process of its own, so that neither its memory nor its work is taken for control's.

use std::env;
use std::io::{BufRead as _, BufReader, Lines, Write as _, stdin, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, bail};
use podway_api_server::ApiServer;

use super::world;
use crate::process::now_ns;

/// Serves a cluster of so many services until standard input ends. First it prints where, then for each number that it
/// reads the version that the change of that number made, and when it was written.
pub(crate) fn serve(services: u32) -> anyhow::Result<()> {
    let store = Arc::new(world::store(services));
    let runtime = runtime()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = runtime.block_on(ApiServer::start(store.clone(), address))?;
    println!("{}", server.address());
    stdout().flush()?;
    thread::spawn(move || runtime.block_on(server.forever()));
    for line in stdin().lines() {
        let number = line?.trim().parse().context("expected a number")?;
        let written_ns = now_ns();
        let version = world::change(&store, services, number);
        println!("{version} {written_ns}");
        stdout().flush()?;
    }
    Ok(())
}

/// A runtime on the calling thread.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime: raise the limits on files and threads")
}

/// A server that runs; it ends with this value, and with this process.
pub(super) struct Server {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    pub(super) address: SocketAddr,
}

/// A change as the server made it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) version: u64,
    /// Right before, by the machine's monotonic clock.
    pub(super) at_ns: u64,
}

impl Server {
    /// Starts one, and waits until it listens.
    pub(super) fn start(services: u32) -> anyhow::Result<Server> {
        let mut child = Command::new(env::current_exe().context("where this program is")?)
            .args(["serve-cluster", &services.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the API server")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the API server has no pipes");
        };
        let mut output = BufReader::new(output).lines();
        let line = output.next().context("the API server ended")??;
        Ok(Server {
            child,
            input,
            output,
            address: line.parse().context("the API server's address")?,
        })
    }

    /// Asks for a change, and does not wait for it.
    pub(super) fn ask(&mut self, number: u32) -> anyhow::Result<()> {
        writeln!(self.input, "{number}").context("the API server takes no changes")
    }

    /// What the last one that was asked for made.
    pub(super) fn written(&mut self) -> anyhow::Result<Written> {
        let line = self.output.next().context("the API server ended")??;
        let (version, at_ns) = line.split_once(' ').context("expected two numbers")?;
        Ok(Written {
            version: version.parse()?,
            at_ns: at_ns.parse()?,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to lose, and may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
