//! A worker between pods, and UDP through it.
#![allow(dead_code)] // each test file uses a part

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use podway_engine::{Batch, DropReason, Verdict};
use podway_tables::{PortId, PortKind};
use podway_xsk::{Bind, Redirect, RedirectSettings, Waker, WorkerEdge, WorkerSettings};

use super::Namespace;

/// What the worker's thread is asked to do between two turns.
pub(crate) type Command = Box<dyn FnOnce(&mut WorkerEdge) + Send>;

/// A worker in a thread inside `namespace`, for as long as the value and the scope live.
pub(crate) struct Worker<'scope> {
    commands: Sender<Command>,
    waker: Waker,
    thread: Option<ScopedJoinHandle<'scope, WorkerEdge>>,
}

pub(crate) fn load() -> Redirect {
    Redirect::load(RedirectSettings {
        queues: 1,
        ports: 1024,
    })
    .expect("load")
}

pub(crate) fn edge(redirect: &Redirect, frames: u32) -> WorkerEdge {
    WorkerEdge::new(WorkerSettings {
        queue: 0,
        frames,
        sockets: redirect.sockets(),
    })
    .expect("edge")
}

/// Binds and attaches `device` as a pod's port.
pub(crate) fn add(edge: &mut WorkerEdge, redirect: &Redirect, port: u16, device: &str) {
    let patience = Duration::from_secs(2);
    edge.add_port(PortId(port), device, Bind::Copy, patience)
        .unwrap_or_else(|error| panic!("{device}: {error}"));
    redirect
        .attach(device, PortKind::Pod(None), PortId(port))
        .unwrap_or_else(|error| panic!("{device}: {error}"));
}

impl<'scope> Worker<'scope> {
    /// Runs `edge` with `process` in a thread of `scope`.
    pub(crate) fn start<'env, F>(
        scope: &'scope std::thread::Scope<'scope, 'env>,
        namespace: &'env Namespace,
        mut edge: WorkerEdge,
        process: F,
    ) -> Worker<'scope>
    where
        F: FnMut(&mut Batch<'_, '_>) + Send + 'scope,
    {
        let (commands, received) = channel();
        let waker = edge.waker();
        let thread = scope.spawn(move || {
            namespace.enter();
            work(&mut edge, &received, process);
            edge
        });
        Worker {
            commands,
            waker,
            thread: Some(thread),
        }
    }

    /// Has the worker run `command` and waits for what comes of it.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut WorkerEdge) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = channel();
        let command = Box::new(move |edge: &mut WorkerEdge| {
            let _ = answer.send(command(edge));
        });
        self.commands.send(command).expect("the worker runs");
        self.waker.wake();
        answered
            .recv_timeout(Duration::from_secs(20))
            .expect("the worker answers")
    }

    /// Ends the thread; its edge.
    pub(crate) fn stop(mut self) -> WorkerEdge {
        let thread = self.thread.take().expect("not stopped yet");
        let waker = self.waker.clone();
        drop(self);
        waker.wake();
        thread.join().expect("the worker ends well")
    }
}

fn work(
    edge: &mut WorkerEdge,
    commands: &Receiver<Command>,
    mut process: impl FnMut(&mut Batch<'_, '_>),
) {
    loop {
        match commands.try_recv() {
            Ok(command) => command(edge),
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
        }
        if edge.turn(&mut process) == 0 {
            edge.sleep(Duration::from_millis(100)).expect("sleep");
        }
    }
}

/// All frames are where they belong: what the ports took in they let out, and nothing is on its way.
pub(crate) fn settle(edge: &mut WorkerEdge) {
    assert_eq!(edge.drain(Duration::from_secs(2)), 0, "frames outstanding");
    for port in edge.port_statistics() {
        let kernel = port.kernel;
        assert_eq!((kernel.rx_invalid, kernel.tx_invalid), (0, 0), "{port:?}");
    }
}

/// Sends what comes from one port of a pair out of the other.
pub(crate) fn cross(pairs: &'static [(u16, u16)]) -> impl FnMut(&mut Batch<'_, '_>) + Send {
    move |batch| {
        for packet in batch.packets.iter_mut() {
            let from = packet.ingress.0;
            let to = pairs.iter().find_map(|&(a, b)| match from {
                _ if from == a => Some(b),
                _ if from == b => Some(a),
                _ => None,
            });
            packet.verdict = match to {
                Some(port) => Verdict::Transmit(PortId(port)),
                None => Verdict::Drop(DropReason::NoRoute),
            };
        }
    }
}

/// A server that answers each datagram with itself, for as long as the value lives.
pub(crate) struct Echo(Arc<AtomicBool>);

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts such a server in `pod`, at UDP port 7000.
pub(crate) fn echo<'scope, 'env>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    pod: &'env Namespace,
) -> Echo {
    let (ready, is_ready) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    scope.spawn(move || {
        pod.enter();
        let socket = UdpSocket::bind("0.0.0.0:7000").expect("bind");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("timeout");
        ready.send(()).expect("ready");
        let mut bytes = vec![0; 65536];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..length], from);
            }
        }
    });
    is_ready.recv().expect("the server listens");
    Echo(stop)
}

/// Sends `count` datagrams of `length` bytes from `pod` one after another until one is lost; how many came back as they were.
pub(crate) fn ask_echo(pod: &Namespace, server: &str, count: u32, length: usize) -> u32 {
    pod.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.connect((server, 7000)).expect("connect");
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("timeout");
        let mut answer = vec![0; 65536];
        (0..count)
            .take_while(|&number| {
                let question: Vec<u8> = (0..length)
                    .map(|at| (at as u32).wrapping_mul(number + 7) as u8)
                    .collect();
                socket.send(&question).expect("send");
                let start = Instant::now();
                // An answer that was late belongs to an earlier question.
                while start.elapsed() < Duration::from_secs(2) {
                    match socket.recv(&mut answer) {
                        Ok(got) if answer[..got] == question[..] => return true,
                        Ok(_) => continue,
                        Err(_) => return false,
                    }
                }
                false
            })
            .count() as u32
    })
}
