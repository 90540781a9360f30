//! What this process takes: memory, and time of the processor.

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};

/// What of this process is in RAM, in MB.
pub(crate) fn resident_mb() -> anyhow::Result<f64> {
    status_mb("VmRSS:")
}

/// The most that ever was, in MB.
pub(crate) fn peak_mb() -> anyhow::Result<f64> {
    status_mb("VmHWM:")
}

/// The machine's monotonic clock, the same for all processes.
pub(crate) fn now_ns() -> u64 {
    clock_ns(ClockId::Monotonic)
}

/// How long processors worked for this process.
pub(crate) fn worked_ns() -> u64 {
    clock_ns(ClockId::ProcessCPUTime)
}

fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn status_mb(field: &str) -> anyhow::Result<f64> {
    field_mb(&std::fs::read_to_string("/proc/self/status")?, field)
}

/// A field of a process's status, in MB.
pub(crate) fn field_mb(status: &str, field: &str) -> anyhow::Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: f64 = number
        .with_context(|| format!("no {field} in a process's status"))?
        .trim()
        .parse()?;
    Ok(kib * 1_024.0 / 1e6)
}

/// Bytes of addresses that this process has, used or not.
pub(crate) fn mapped_bytes() -> anyhow::Result<f64> {
    Ok(status_mb("VmSize:")? * 1e6)
}

/// Has the calling thread run before all others of its core whose priority is lower: 1 to 99.
pub(crate) fn make_urgent(priority: u8) -> anyhow::Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = std::process::Command::new("chrt")
        .args(["--fifo", "--pid", &priority.to_string(), &thread])
        .status()
        .context("cannot run `chrt`; install util-linux")?;
    anyhow::ensure!(
        status.success(),
        "chrt: a thread gets no real-time priority; run as root"
    );
    Ok(())
}

/// Asks a process that we started to end, and makes it after a moment.
pub(crate) fn end(process: &mut std::process::Child) {
    let id = nix::unistd::Pid::from_raw(process.id() as i32);
    let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
    for _ in 0..100 {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let _ = process.kill();
    let _ = process.wait();
}

/// True if a program is where programs are, the administrator's too.
pub(crate) fn finds(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    directories.any(|directory| directory.join(program).is_file())
}

/// Has the machine's namespaces to itself among tests, while the value lives; `None`, and says so, without root.
#[cfg(test)]
pub(crate) fn alone() -> Option<std::fs::File> {
    if std::env::var_os("PODWAY_UNPRIVILEGED").is_some() {
        println!("not run: namespaces need root");
        return None;
    }
    let alone = std::fs::File::create("/run/podway-test.lock").expect("root can lock");
    alone.lock().expect("a lock");
    Some(alone)
}
