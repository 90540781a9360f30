//! What following a large cluster costs: from an API server to the published snapshot, all of it and one endpoint.

mod control;
mod server;
mod world;

use std::env;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use self::control::{Control, Took};
use self::server::Server;
use crate::cluster::ENDPOINTS;
use crate::process::{now_ns, peak_mb, resident_mb, worked_ns};
use crate::statistics::Percentiles;

pub(crate) use self::server::{runtime, serve};

/// Services, each with [`ENDPOINTS`] endpoints and as many pods.
const SERVICES: u32 = 10_000;
/// Changes that are measured, one after the other.
const CHANGES: u32 = 200;
/// How long the cluster may take to be known, and one change to be published: failing, not a measure.
const PATIENCE: Duration = Duration::from_secs(300);
/// The goals: compiling everything, and what control may take.
const COMPILE_GOAL_MS: f64 = 1_000.0;
const MEMORY_GOAL_MB: f64 = 150.0;

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    /// Objects of all kinds.
    pub(crate) objects: usize,
    /// Listing everything into facts, in milliseconds, and for how long of that control worked and didn't wait.
    pub(crate) list_ms: f64,
    pub(crate) list_worked_ms: f64,
    /// Compiling everything and publishing it, in milliseconds.
    pub(crate) compile_ms: f64,
    /// What control's process has in RAM, in MB: before, once all is listed, once all is published, after the
    /// changes, and at most.
    pub(crate) memory_before_mb: f64,
    pub(crate) memory_listed_mb: f64,
    pub(crate) memory_mb: f64,
    pub(crate) memory_after_mb: f64,
    pub(crate) memory_peak_mb: f64,
    /// Changes of one endpoint, and their milliseconds from the write on the server on.
    pub(crate) changes: usize,
    /// Until control has the change, with HTTP and decoding.
    pub(crate) told_ms: Percentiles,
    /// From there on until no more changes are waited for.
    pub(crate) settled_ms: Percentiles,
    /// From there on until workers can have the tables.
    pub(crate) tables_ms: Percentiles,
    /// All of it.
    pub(crate) published_ms: Percentiles,
}

impl Figures {
    /// A line for each figure.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "\ncluster: {} services, {} endpoints, {} objects with their pods, from an API server\n",
            self.services, self.endpoints, self.objects
        );
        for (what, line) in [
            (
                "listed",
                format!("{:.0} ms, {:.0} of work", self.list_ms, self.list_worked_ms),
            ),
            (
                "compiled, published",
                format!("{:.0} ms (goal: {COMPILE_GOAL_MS})", self.compile_ms),
            ),
            ("both", format!("{:.0} ms", self.list_ms + self.compile_ms)),
            (
                "memory",
                format!(
                    "{:.1} MB (goal: {MEMORY_GOAL_MB}); {:.1} before, {:.1} listed, {:.1} after the changes, {:.1} at most",
                    self.memory_mb,
                    self.memory_before_mb,
                    self.memory_listed_mb,
                    self.memory_after_mb,
                    self.memory_peak_mb
                ),
            ),
        ] {
            writeln!(text, "  {what:<26} {line}").expect("a string takes all");
        }
        let head = format!("one endpoint, {} times", self.changes);
        writeln!(
            text,
            "  {head:<26} {:>8} {:>8} {:>8}",
            "p50 ms", "p99 ms", "longest"
        )
        .expect("a string takes all");
        for (what, ms) in [
            ("written → told", self.told_ms),
            ("→ settled", self.settled_ms),
            ("→ compiled, published", self.tables_ms),
            ("written → published", self.published_ms),
        ] {
            let Percentiles { p50, p99, greatest } = ms;
            writeln!(text, "  {what:<26} {p50:>8.2} {p99:>8.2} {greatest:>8.2}")
                .expect("a string takes all");
        }
        text
    }
}

/// Measures in a process of its own, whose memory nothing else has touched.
pub(crate) fn measure() -> anyhow::Result<Figures> {
    let output = Command::new(env::current_exe().context("where this program is")?)
        .arg("follow")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the process that follows")?;
    if !output.status.success() {
        bail!("the process that follows a cluster failed: see above");
    }
    serde_json::from_slice(&output.stdout).context("the figures of the process that follows")
}

/// Follows, and prints the figures as JSON.
pub(crate) fn follow() -> anyhow::Result<()> {
    eprintln!("cluster: making {} objects", world::count(SERVICES));
    let server = Server::start(SERVICES)?;
    let figures = runtime()?.block_on(figures(server))?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

async fn figures(mut server: Server) -> anyhow::Result<Figures> {
    let memory_before_mb = resident_mb()?;
    let (began_ns, worked_before_ns) = (now_ns(), worked_ns());
    let mut control = Control::open(server.address, SERVICES).await?;
    tokio::time::timeout(PATIENCE, control.listed())
        .await
        .context("not all objects were listed in time")?;
    let memory_listed_mb = resident_mb()?;
    let listed_ns = now_ns();
    let list_worked_ms = ms(worked_ns() - worked_before_ns);
    eprintln!("cluster: listed in {:.0} ms", ms(listed_ns - began_ns));
    let compile_ms = ms(control.publish() - listed_ns);
    control.check(SERVICES, ENDPOINTS)?;
    eprintln!("cluster: compiled in {compile_ms:.0} ms");
    let memory_mb = resident_mb()?;
    let mut took = Vec::new();
    for number in 0..CHANGES {
        took.push(change(&mut server, &mut control, number).await?);
        if (number + 1) % 50 == 0 {
            eprintln!("cluster: {} of {CHANGES} changes", number + 1);
        }
    }
    let of = |part: fn(&Took) -> u64| {
        let figures: Vec<f64> = took.iter().map(|took| ms(part(took))).collect();
        Percentiles::of(&figures).context("no changes")
    };
    Ok(Figures {
        services: SERVICES,
        endpoints: SERVICES * ENDPOINTS,
        objects: world::count(SERVICES),
        list_ms: ms(listed_ns - began_ns),
        list_worked_ms,
        compile_ms,
        memory_before_mb,
        memory_listed_mb,
        memory_mb,
        memory_after_mb: resident_mb()?,
        memory_peak_mb: peak_mb()?,
        changes: took.len(),
        told_ms: of(|took| took.told_ns)?,
        settled_ms: of(|took| took.settled_ns)?,
        tables_ms: of(|took| took.tables_ns)?,
        published_ms: of(Took::all_ns)?,
    })
}

/// One endpoint less, from the server to the snapshot.
async fn change(server: &mut Server, control: &mut Control, number: u32) -> anyhow::Result<Took> {
    server.ask(number)?;
    let published = tokio::time::timeout(PATIENCE, control.next())
        .await
        .with_context(|| format!("change {number} was not published in time"))?;
    // The answer waits in the pipe since: control was not kept from its work to read it.
    let written = server.written()?;
    ensure!(
        published.version >= written.version,
        "version {} was published, but {} was written",
        published.version,
        written.version
    );
    let service = world::changed(SERVICES, number);
    let left = control.endpoints(service)?;
    ensure!(
        left == ENDPOINTS as usize - 1,
        "service {service} has {left} endpoints after its change"
    );
    Ok(published.since(written.at_ns))
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;

    use podway_api_server::ApiServer;

    use super::*;

    const FEW: u32 = 20;

    /// What is measured is what happens: everything listed is compiled, and each change takes one endpoint away.
    #[tokio::test]
    async fn a_cluster_is_followed_to_its_tables() {
        let store = Arc::new(world::store(FEW));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = ApiServer::start(store.clone(), address).await;
        let server = server.expect("it listens");
        let control = Control::open(server.address(), FEW).await;
        let mut control = control.expect("a client");
        control.listed().await;
        control.publish();
        control.check(FEW, ENDPOINTS).expect("all of it");
        for number in 0..FEW {
            let before = now_ns();
            let version = world::change(&store, FEW, number);
            let published = control.next().await;
            assert!(published.version >= version, "{published:?}");
            let took = published.since(before);
            assert_eq!(
                took.told_ns + took.settled_ns + took.tables_ns,
                took.all_ns()
            );
            let left = control.endpoints(world::changed(FEW, number));
            assert_eq!(left.expect("the service"), ENDPOINTS as usize - 1);
        }
        control.check(FEW, ENDPOINTS - 1).expect("one less each");
        control.check(FEW, ENDPOINTS).expect_err("no longer");
    }
}
