//! Waiting for packets without burning a core.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

/// Wakes a worker that sleeps, from any thread; a wake before the sleep counts too.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

/// What a worker sleeps on: its sockets and its waker.
#[derive(Debug)]
pub(crate) struct Sleeper {
    waker: Waker,
    watched: Vec<libc::pollfd>,
}

impl Waker {
    /// Wakes the worker.
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes are read, as an eventfd asks; a full counter wakes as well.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn reset(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight bytes are written at most; the descriptor does not block.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl Sleeper {
    pub(crate) fn new() -> io::Result<Sleeper> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us alone.
        let waker = Waker(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) }));
        let mut sleeper = Sleeper {
            waker,
            watched: Vec::new(),
        };
        sleeper.watch(std::iter::empty());
        Ok(sleeper)
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Makes `sockets` what the next sleep ends by.
    pub(crate) fn watch(&mut self, sockets: impl Iterator<Item = RawFd>) {
        self.watched.clear();
        let waker = self.waker.0.as_raw_fd();
        self.watched.extend(
            std::iter::once(waker)
                .chain(sockets)
                .map(|fd| libc::pollfd {
                    fd,
                    events: libc::POLLIN,
                    revents: 0,
                }),
        );
    }

    pub(crate) fn sleep(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the array and its length belong together, and both live through the call.
        let ready = unsafe {
            libc::ppoll(
                self.watched.as_mut_ptr(),
                self.watched.len() as libc::nfds_t,
                &timeout,
                ptr::null(),
            )
        };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if self.watched[0].revents != 0 {
            self.waker.reset();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_wake_before_the_sleep_counts_once() {
        let mut sleeper = Sleeper::new().expect("eventfd");
        sleeper.waker().wake();
        let start = Instant::now();
        sleeper.sleep(Duration::from_secs(5)).expect("sleep");
        assert!(start.elapsed() < Duration::from_secs(1));
        sleeper.sleep(Duration::from_millis(20)).expect("sleep");
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
