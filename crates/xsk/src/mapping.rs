//! Memory that outlives the process: a file's, mapped and shared.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU64;

/// The file's first `words` 64-bit words as memory, for as long as the process lives.
///
/// The file has at least that length and keeps it: whoever shortens it ends the process (SIGBUS).
pub fn map_words(file: &File, words: usize) -> io::Result<&'static [AtomicU64]> {
    let length = words * size_of::<AtomicU64>();
    if file.metadata()?.len() < length as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            file.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is as long as that, begins at a page, is never undone, and any bits are an atomic word.
    Ok(unsafe { std::slice::from_raw_parts(address.cast(), words) })
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
}
