//! Closes sockets beside the worker: the kernel takes 10-20 ms for one, in which thousands of packets come.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::frames::Owner;
use crate::kernel::Rings;

/// A thread that closes what it is given and reports it.
#[derive(Debug)]
pub(crate) struct Closer {
    /// `None` only while being dropped. As many wait as ports were removed in the last moments.
    given: Option<Sender<(Owner, Rings)>>,
    closed: Receiver<Owner>,
    thread: Option<JoinHandle<()>>,
    tickets: u32,
    /// Sockets given and not reported yet.
    pub(crate) open: u32,
}

impl Closer {
    pub(crate) fn new() -> io::Result<Closer> {
        let (given, taken) = channel::<(Owner, Rings)>();
        let (report, closed) = channel();
        let thread = std::thread::Builder::new()
            .name("podway-close".to_owned())
            .spawn(move || {
                for (ticket, rings) in taken {
                    drop(rings);
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

    /// Closes the socket; gives whom its frames belong to until that is done.
    pub(crate) fn close(&mut self, rings: Rings) -> Owner {
        self.tickets = self.tickets.wrapping_add(1);
        let ticket = Owner::closing(self.tickets);
        let given = self.given.as_ref().expect("not being dropped");
        given
            .send((ticket, rings))
            .expect("the thread lives as long as this");
        self.open += 1;
        ticket
    }

    /// The next that has been closed.
    pub(crate) fn next_closed(&mut self) -> Option<Owner> {
        let ticket = self.closed.try_recv().ok()?;
        self.open -= 1;
        Some(ticket)
    }
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
