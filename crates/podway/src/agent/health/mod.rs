//! How the agent does, and which services have endpoints here, for load balancers and kubelets (S6, S7; KEP-3836).
//!
//! It is answered on a thread that asks nothing of the kernel but TCP: control's waits for the lock of all links, which others
//! may hold for half a minute, and packets flow meanwhile.

mod server;
mod told;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Instant;

use podway_intent::{Cluster, Name};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use self::server::{Questions, listen, serve};
use self::told::{Answers, Told};

pub(super) use self::told::Readiness;

/// Why nobody can ask how the agent does.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address can't be had.
    #[error(
        "health_address: {address}: {problem}: {}set `health_address` to an address of this node and a free port",
        holder(problem)
    )]
    Address {
        /// What is set.
        address: SocketAddr,
        /// What the system said.
        problem: io::Error,
    },
    /// There is no thread to answer on.
    #[error("no thread for health checks: {0}: raise the limits on files and threads")]
    Thread(#[from] io::Error),
}

/// Who has the port, most likely: it is kube-proxy's, unless told otherwise.
fn holder(problem: &io::Error) -> &'static str {
    match problem.kind() == io::ErrorKind::AddrInUse {
        true => {
            "is kube-proxy still there? podway takes its place: remove its DaemonSet, and its rules (`kube-proxy --cleanup`), or "
        }
        false => "",
    }
}

/// The ports at which services' health is answered, and the agent's own.
pub(super) struct HealthPorts {
    told: watch::Sender<Told>,
    answers: Answers,
    thread: Handle,
    services: BTreeMap<u16, (Name, Server)>,
    _agent: Server,
    /// The thread lives as long as this.
    _lives: oneshot::Sender<()>,
}

/// Tells when the hand that reaches into the kernel began what it is at.
pub(super) struct KernelClock(watch::Sender<Told>);

impl KernelClock {
    /// It begins something.
    pub(super) fn begins(&self) {
        self.0
            .send_modify(|told| told.kernel_began = Some(Instant::now()));
    }

    /// It is at nothing.
    pub(super) fn rests(&self) {
        self.0.send_modify(|told| told.kernel_began = None);
    }
}

/// A listening task, which ends with this value.
struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HealthPorts {
    /// Takes the agent's own port, and answers there at once, while tables wait for something.
    pub(super) async fn open(
        address: SocketAddr,
        node: &str,
        waits_for: &'static str,
    ) -> Result<HealthPorts, HealthError> {
        let (told, last) = watch::channel(Told {
            readiness: Readiness::NotYet(waits_for),
            cluster: Cluster::default(),
            workers: Vec::new(),
            began: Instant::now(),
            kernel_began: None,
        });
        let answers = Answers {
            told: last,
            node: node.to_owned(),
            clock: Instant::now,
        };
        let (thread, lives) = thread()?;
        let listener = listening(&thread, address).await;
        let listener = listener.map_err(|problem| HealthError::Address { address, problem })?;
        let agent = serve(listener, Questions::Agent, answers.clone());
        Ok(HealthPorts {
            told,
            answers,
            services: BTreeMap::new(),
            _agent: Server(thread.spawn(agent)),
            thread,
            _lives: lives,
        })
    }

    /// Has questions answered by what control says from now on.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Told)) {
        self.told.send_modify(change);
    }

    /// Control begins something new.
    pub(super) fn stamp(&self) {
        self.tell(|told| told.began = Instant::now());
    }

    /// Whether tables are in force, as it was told last.
    pub(super) fn readiness(&self) -> Readiness {
        self.told.borrow().readiness.clone()
    }

    /// Where the hand that reaches into the kernel says when it begins and rests.
    pub(super) fn kernel_clock(&self) -> KernelClock {
        KernelClock(self.told.clone())
    }

    /// Listens at the `healthCheckNodePort` of every service, and says where that is not possible.
    pub(super) async fn follow(&mut self, wanted: &BTreeMap<u16, Name>) -> Vec<String> {
        self.services
            .retain(|port, (service, _)| wanted.get(port) == Some(service));
        let mut problems = Vec::new();
        for (&port, service) in wanted {
            if self.services.contains_key(&port) {
                continue;
            }
            match listening(&self.thread, (Ipv6Addr::UNSPECIFIED, port).into()).await {
                Ok(listener) => {
                    let questions = Questions::Service(service.clone());
                    let answers = serve(listener, questions, self.answers.clone());
                    let server = Server(self.thread.spawn(answers));
                    self.services.insert(port, (service.clone(), server));
                }
                Err(error) => problems.push(format!(
                    "the health of service {service} is not answered at port {port}: {error}: give it another healthCheckNodePort, or free the port"
                )),
            }
        }
        problems
    }
}

/// A thread that runs what is spawned on it, until the other value is dropped.
fn thread() -> io::Result<(Handle, oneshot::Sender<()>)> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let handle = runtime.handle().clone();
    let (lives, ended) = oneshot::channel();
    let run = move || {
        // It ends by an error: nothing is ever sent.
        let _ = runtime.block_on(ended);
    };
    thread::Builder::new()
        .name("health".to_owned())
        .spawn(run)?;
    Ok((handle, lives))
}

/// A port that is that thread's.
async fn listening(thread: &Handle, address: SocketAddr) -> io::Result<TcpListener> {
    let listener = thread.spawn(listen(address)).await;
    listener.unwrap_or_else(|ended| Err(io::Error::other(ended)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn get(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let request = b"GET /livez HTTP/1.1\r\nHost: it\r\n\r\n";
        stream.write_all(request).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answered");
        text
    }

    #[tokio::test(flavor = "current_thread")]
    async fn s7_who_opens_ports_and_then_blocks_has_them_answered() {
        // An address of this process's own: there are as many as process ids.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = SocketAddr::from(([127, a, b, c], 10_256));
        let open = HealthPorts::open(address, "n1", "wait").await;
        let ports = open.expect("a port");
        // This blocks the only thread that there is, but for the one that answers.
        let livez = get(address);
        assert!(livez.starts_with("HTTP/1.1 200 "), "{livez}");
        ports.tell(|told| told.readiness = Readiness::Failed("no".to_owned()));
        let livez = get(address);
        assert!(livez.starts_with("HTTP/1.1 503 "), "{livez}");
        assert!(livez.ends_with("{\"problems\":[\"no\"]}\n"), "{livez}");
        let taken = HealthPorts::open(address, "n1", "wait").await;
        let refused = taken.err().expect("it is taken").to_string();
        let said = format!("health_address: {address}: Address already in use");
        assert!(refused.starts_with(&said), "{refused}");
        assert!(refused.contains("is kube-proxy still there?"), "{refused}");
    }
}
