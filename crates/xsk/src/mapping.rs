//! Memory that outlives the process: a file's, mapped and shared; and the pages that memory is in.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

/// What memory has to begin at a multiple of to be in huge pages, in bytes.
const HUGE_PAGE: usize = 2 << 20;

/// The file's first `words` 64-bit words as memory, for as long as the process lives, from the start of a huge page on.
///
/// The file has at least that length and keeps it: whoever shortens it ends the process (SIGBUS).
pub fn map_words(file: &File, words: usize) -> io::Result<&'static [AtomicU64]> {
    let length = words * size_of::<AtomicU64>();
    if file.metadata()?.len() < length as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let room = mapped(unsafe {
        libc::mmap(
            ptr::null_mut(),
            length + HUGE_PAGE,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    })?;
    let begin = room.map_addr(|address| address.next_multiple_of(HUGE_PAGE));
    // SAFETY: this replaces a part of the mapping above, which nobody else knows of.
    let address = mapped(unsafe {
        libc::mmap(
            begin,
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE | libc::MAP_FIXED,
            file.as_raw_fd(),
            0,
        )
    })?;
    // SAFETY: the mapping is as long as that, begins at a page, is never undone, and any bits are an atomic word.
    Ok(unsafe { std::slice::from_raw_parts(address.cast(), words) })
}

/// What mmap(2) gave, or why it didn't.
fn mapped(address: *mut libc::c_void) -> io::Result<*mut libc::c_void> {
    match address {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        address => Ok(address),
    }
}

/// Has the kernel put memory into huge pages (2 MiB), whatever its policy is for memory that didn't ask: address
/// translation of what is read at random then misses less. An error says why some of it stays as it is, which costs
/// speed only.
pub fn use_huge_pages(memory: NonNull<[u8]>) -> io::Result<()> {
    // SAFETY: the advice changes which pages hold the memory, not what is in it; a wrong address is an error.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let begin = memory.addr().get() / page * page;
    let length = memory.addr().get() + memory.len() - begin;
    // SAFETY: the advice changes which pages hold the memory, not what is in it; a wrong address is an error.
    match unsafe { libc::madvise(begin as *mut _, length, libc::MADV_COLLAPSE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn f9_what_one_mapping_writes_the_next_one_reads_and_a_short_file_is_refused() {
        let path = std::env::temp_dir().join(format!("podway-map-{}", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true);
        let file = file.open(&path).expect("a file");
        std::fs::remove_file(&path).expect("its name can go");
        file.set_len(4096).expect("a length");
        map_words(&file, 512).expect("mapped")[511].store(7, Ordering::Relaxed);
        let again = map_words(&file, 512).expect("mapped");
        assert_eq!(again[511].load(Ordering::Relaxed), 7);
        assert!(map_words(&file, 513).is_err());
    }

    /// Whether a kernel has huge pages is its own affair: what is in the memory stays either way.
    #[test]
    fn memory_keeps_what_is_in_it_in_whatever_pages() {
        let path = format!("/dev/shm/podway-map-{}", std::process::id());
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true);
        let file = file.open(&path).expect("a file");
        std::fs::remove_file(&path).expect("its name can go");
        file.set_len(2 * HUGE_PAGE as u64).expect("a length");
        let words = map_words(&file, 2 * HUGE_PAGE / 8).expect("mapped");
        assert_eq!(words.as_ptr().addr() % HUGE_PAGE, 0);
        words[HUGE_PAGE / 8].store(7, Ordering::Relaxed);
        let bytes = NonNull::slice_from_raw_parts(NonNull::from(words).cast(), 2 * HUGE_PAGE);
        if let Err(error) = use_huge_pages(bytes) {
            println!("no huge pages: {error}");
        }
        assert_eq!(words[HUGE_PAGE / 8].load(Ordering::Relaxed), 7);
    }
}
