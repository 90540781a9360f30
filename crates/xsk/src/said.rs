//! What the kernel said beside an error's number (netlink's extended acknowledgements), which libbpf only prints.

use std::cell::RefCell;
use std::io;

/// How libbpf's line about it begins.
const LINE: &str = "libbpf: Kernel error message: ";

thread_local! {
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Forgets what was said of earlier calls on this thread.
pub(crate) fn forget() {
    SAID.take();
}

/// Takes note of a line that libbpf prints, if it is the kernel's.
pub(crate) fn note(line: &str) {
    if let Some(said) = line.strip_prefix(LINE) {
        SAID.set(Some(said.to_owned()));
    }
}

/// An error of the last call on this thread, in the kernel's words if there were any.
pub(crate) fn in_words(error: &io::Error) -> String {
    match SAID.take() {
        Some(said) => format!("{said} ({error})"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_reason_stands_before_its_number() {
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        note("libbpf: Kernel error message: MTU too large to enable XDP");
        note("libbpf: something else");
        assert_eq!(
            in_words(&error),
            "MTU too large to enable XDP (Invalid argument (os error 22))"
        );
        assert_eq!(in_words(&error), "Invalid argument (os error 22)");
    }
}
