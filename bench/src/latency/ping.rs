//! A client that waits for each answer, and a server that gives it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_timeout};

use crate::cluster::{BACKEND_PORT, CLIENT_ADDRESS, FIRST_LOCAL_POD};
use crate::process::make_urgent;
use crate::wire::{Bed, SOURCE_CORE, settle};

/// What a datagram carries: 64 bytes in all, Ethernet header included.
const PAYLOAD: usize = 22;
/// The client's port, below those of any load.
const PORT: u16 = 1_999;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// A client that need not sleep for an answer would keep its server from taking connections.
const CLIENT_PRIORITY: u8 = 50;
const SERVER_PRIORITY: u8 = 51;
/// What is not timed at the beginning.
const WARM_UP: usize = 20;

/// How long each took, in nanoseconds, and how many never came back.
#[derive(Clone, Debug, Default)]
pub(super) struct Timed {
    pub(super) ns: Vec<u64>,
    pub(super) lost: usize,
}

/// Sends datagrams for `time`, one after the other, each when the one before has come back.
pub(super) fn datagrams(
    bed: &Bed,
    (address, port): (Ipv4Addr, u16),
    time: Duration,
) -> anyhow::Result<Timed> {
    between(bed, echo, || {
        let socket = UdpSocket::bind((CLIENT_ADDRESS, PORT))?;
        socket.connect((address, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut number = 0_u64;
        timed(time, || {
            let (mut sent, mut got) = ([0; PAYLOAD], [0; PAYLOAD]);
            number += 1;
            sent[..8].copy_from_slice(&number.to_ne_bytes());
            socket.send(&sent)?;
            // An answer that comes too late is not the next one's.
            while got != sent {
                socket.recv(&mut got)?;
            }
            Ok(())
        })
    })
}

/// Connects for `time`, again and again.
pub(super) fn connections(
    bed: &Bed,
    (address, port): (Ipv4Addr, u16),
    time: Duration,
) -> anyhow::Result<Timed> {
    let target = SocketAddr::from((address, port));
    between(bed, accept, || {
        let mut last = None;
        timed(time, || {
            drop(last.take());
            last = Some(connect(target)?);
            Ok(())
        })
    })
}

/// A connection whose port is free again right after its end.
fn connect(target: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(stream)
}

/// Does something again and again, and takes its time.
fn timed(time: Duration, mut one: impl FnMut() -> std::io::Result<()>) -> anyhow::Result<Timed> {
    let mut timed = Timed::default();
    let mut number = 0;
    let mut start = Instant::now();
    while start.elapsed() < time || number < WARM_UP {
        let began = Instant::now();
        let done = one();
        let waited = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
        let came = done.is_ok();
        if let Err(error) = done
            && !waited.contains(&error.kind())
        {
            return Err(error).context("the client");
        }
        number += 1;
        match (number.cmp(&WARM_UP), came) {
            (std::cmp::Ordering::Greater, true) => timed.ns.push(began.elapsed().as_nanos() as u64),
            (std::cmp::Ordering::Greater, false) => timed.lost += 1,
            (std::cmp::Ordering::Equal, _) => start = Instant::now(),
            (std::cmp::Ordering::Less, _) => {}
        }
    }
    Ok(timed)
}

/// Runs a client while a server runs, both on the source's core, before all others there.
fn between(
    bed: &Bed,
    server: fn(&AtomicBool, &Sender<()>) -> anyhow::Result<()>,
    client: impl FnOnce() -> anyhow::Result<Timed> + Send,
) -> anyhow::Result<Timed> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ready, is_ready) = channel();
        let stop = &stop;
        let server = scope.spawn(move || {
            settle(&bed.sink, SOURCE_CORE)?;
            make_urgent(SERVER_PRIORITY)?;
            server(stop, &ready)
        });
        let client = scope.spawn(move || {
            settle(&bed.source, SOURCE_CORE)?;
            make_urgent(CLIENT_PRIORITY)?;
            // A server that could not start says why.
            let _ = is_ready.recv();
            client()
        });
        let timed = client.join().expect("the client does not panic");
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server does not panic")?;
        timed
    })
}

/// Sends datagrams back.
fn echo(stop: &AtomicBool, ready: &Sender<()>) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((FIRST_LOCAL_POD, BACKEND_PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    ready.send(()).context("nobody waits")?;
    let mut bytes = [0; 2_048];
    while !stop.load(Ordering::Relaxed) {
        // Nothing to read in that time; whether to go on is looked at.
        if let Ok((length, from)) = socket.recv_from(&mut bytes) {
            socket.send_to(&bytes[..length], from)?;
        }
    }
    Ok(())
}

/// Takes connections and lets go of them.
fn accept(stop: &AtomicBool, ready: &Sender<()>) -> anyhow::Result<()> {
    let listener = TcpListener::bind((FIRST_LOCAL_POD, BACKEND_PORT))?;
    set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE))?;
    ready.send(()).context("nobody waits")?;
    let mut open = None;
    while !stop.load(Ordering::Relaxed) {
        // Nobody came in that time; whether to go on is looked at. The client ends a connection, the one before is gone.
        if let Ok((stream, _)) = listener.accept() {
            open = Some(stream);
        }
    }
    drop(open);
    Ok(())
}
