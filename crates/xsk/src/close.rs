//! Closes sockets beside the worker: the kernel takes 10-20 ms for one, in which thousands of packets come.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread::JoinHandle;

use crate::frames::Owner;

/// Sockets that wait to be closed at most; beyond that the worker closes them itself.
const WAITING: usize = 1024;

/// A thread that closes what it is given and reports it.
#[derive(Debug)]
pub(crate) struct Closer {
    /// `None` only while being dropped.
    given: Option<SyncSender<(Owner, OwnedFd)>>,
    closed: Receiver<Owner>,
    thread: Option<JoinHandle<()>>,
    tickets: u32,
    /// Sockets given and not reported yet.
    pub(crate) open: u32,
}

impl Closer {
    pub(crate) fn new() -> io::Result<Closer> {
        let (given, taken) = sync_channel::<(Owner, OwnedFd)>(WAITING);
        let (report, closed) = channel();
        let thread = std::thread::Builder::new()
            .name("podway-close".to_owned())
            .spawn(move || {
                for (ticket, socket) in taken {
                    drop(socket);
                    if report.send(ticket).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Closer {
            given: Some(given),
            closed,
            thread: Some(thread),
            tickets: 0,
            open: 0,
        })
    }

    /// A second descriptor of `socket` that keeps it open, and whom its frames belong to until it is closed.
    pub(crate) fn keep(&mut self, socket: BorrowedFd<'_>) -> io::Result<(Owner, OwnedFd)> {
        let kept = socket.try_clone_to_owned()?;
        self.tickets = self.tickets.wrapping_add(1);
        Ok((Owner::closing(self.tickets), kept))
    }

    /// Closes the socket, beside the worker if it can; all other descriptors of it are closed already.
    pub(crate) fn close(&mut self, ticket: Owner, socket: OwnedFd) -> Closing {
        let given = self.given.as_ref().expect("not being dropped");
        match given.try_send((ticket, socket)) {
            Ok(()) => {
                self.open += 1;
                Closing::Beside
            }
            Err(TrySendError::Full(kept) | TrySendError::Disconnected(kept)) => {
                drop(kept);
                Closing::Done
            }
        }
    }

    /// The next that has been closed.
    pub(crate) fn next_closed(&mut self) -> Option<Owner> {
        let ticket = self.closed.try_recv().ok()?;
        self.open -= 1;
        Some(ticket)
    }
}

/// Whether a socket is closed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It will be reported.
    Beside,
    /// It is.
    Done,
}

impl Drop for Closer {
    fn drop(&mut self) {
        drop(self.given.take());
        if let Some(thread) = self.thread.take() {
            // It only closes descriptors: there is nothing in it to fail.
            let _ = thread.join();
        }
    }
}
