//! The traffic: an XDP program that the kernel runs on live frames, as fast as it can.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libbpf_rs::{
    ErrorKind, Link, MapCore, MapFlags, Object, ObjectBuilder, ProgramInput, ProgramMut,
};

use nix::net::if_::if_nametoindex;

use super::bed::Bed;
use crate::packets::{FIRST_PORT, PORTS, Traffic};

static PROGRAMS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/source.bpf.o"));
/// BPF_F_TEST_XDP_LIVE_FRAMES (linux/bpf.h): packets are real, and go where the program says.
const LIVE_FRAMES: u32 = 1 << 1;

/// A source of packets, in the namespace of the thread that made it.
pub(crate) struct Source {
    object: Object,
    template: Vec<u8>,
}

impl Source {
    /// A source of this traffic that sends out of `device`, in the caller's namespace.
    pub(crate) fn new(device: &str, traffic: &Traffic) -> anyhow::Result<Source> {
        let object = load()?;
        map(&object, "traffic")?.update(
            &[0; 4],
            &parameters(index(device)?, traffic),
            MapFlags::ANY,
        )?;
        let mut template = vec![0; traffic.length()];
        traffic.write(0, &mut template);
        Ok(Source { object, template })
    }

    /// Sends so many packets without a pause and gives the time that took; `None` if a signal ended it early.
    pub(crate) fn send(&mut self, packets: u32) -> anyhow::Result<Option<Duration>> {
        ensure!(packets <= i32::MAX as u32, "{packets} packets in one call");
        let program = program(&mut self.object, "bench_source")?;
        let input = ProgramInput {
            data_in: Some(&self.template),
            flags: LIVE_FRAMES,
            repeat: packets,
            ..ProgramInput::default()
        };
        let start = Instant::now();
        match program.test_run(input) {
            Ok(_) => Ok(Some(start.elapsed())),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error)
                .context("running the source on live frames; it needs Linux 5.18 and root"),
        }
    }
}

/// The kernel's own forwarder between two devices, and a sink for its packets; dropping it takes both away.
pub(crate) struct Ceiling {
    _forwarder: Link,
    _sink: Link,
    object: Object,
}

impl Ceiling {
    /// Forwards all that comes in by `in` out of `wire`, and counts and drops it at `end`.
    pub(crate) fn attach(bed: &Bed) -> anyhow::Result<Ceiling> {
        let mut object = load()?;
        let sink = bed
            .sink
            .inside(|| attach(&mut object, "bench_sink", "end"))??;
        let forwarder = bed.node.inside(|| {
            map(&object, "wire")?.update(&[0; 4], &index("wire")?.to_ne_bytes(), MapFlags::ANY)?;
            attach(&mut object, "bench_ceiling", "in")
        })??;
        Ok(Ceiling {
            _forwarder: forwarder,
            _sink: sink,
            object,
        })
    }

    /// Packets that have reached the sink.
    pub(crate) fn sunk(&self) -> anyhow::Result<u64> {
        let counts = map(&self.object, "sunk")?.lookup_percpu(&[0; 4], MapFlags::ANY)?;
        let counts = counts.context("source.bpf.c's counter is not there")?;
        let count = |bytes: Vec<u8>| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
        Ok(counts.into_iter().map(count).sum())
    }
}

fn attach(object: &mut Object, name: &str, device: &str) -> anyhow::Result<Link> {
    Ok(program(object, name)?.attach_xdp(index(device)? as i32)?)
}

fn load() -> anyhow::Result<Object> {
    // A copy, because the reader wants it aligned.
    let programs = PROGRAMS.to_vec();
    let opened = ObjectBuilder::default().open_memory(&programs);
    opened
        .and_then(|it| it.load())
        .context("loading the source's programs; run as root")
}

fn map<'a>(object: &'a Object, name: &str) -> anyhow::Result<libbpf_rs::Map<'a>> {
    let mut maps = object.maps();
    maps.find(|map| map.name() == name)
        .with_context(|| format!("source.bpf.c has no map {name}"))
}

fn program<'a>(object: &'a mut Object, name: &str) -> anyhow::Result<ProgramMut<'a>> {
    let mut programs = object.progs_mut();
    programs
        .find(|program| program.name() == name)
        .with_context(|| format!("source.bpf.c has no program {name}"))
}

/// `struct traffic` in source.bpf.c.
fn parameters(ifindex: u32, traffic: &Traffic) -> Vec<u8> {
    let (ip_sum, udp_sum) = traffic.sums();
    let words = [
        ifindex,
        traffic.flows(),
        traffic.stride(),
        PORTS,
        traffic.first_address(),
        ip_sum,
        udp_sum,
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(FIRST_PORT.to_ne_bytes());
    bytes.extend(traffic.headers());
    bytes
}

fn index(device: &str) -> anyhow::Result<u32> {
    if_nametoindex(device).with_context(|| format!("no device {device} in this namespace"))
}

#[cfg(test)]
mod tests {
    use std::fs::metadata;
    use std::net::Ipv4Addr;
    use std::os::unix::fs::MetadataExt;

    use podway_wire::Mac;

    use super::*;
    use crate::packets::{Ends, HEADERS, Varied};

    const XDP_REDIRECT: u32 = 4;

    /// Who measures the engine in memory and who measures through the kernel see the same packets.
    #[test]
    fn the_program_writes_the_packets_that_traffic_does() {
        if metadata("/proc/self").map(|it| it.uid()).ok() != Some(0) {
            eprintln!("skipped: BPF programs need root");
            return;
        }
        let ends = Ends {
            source_mac: Mac([2, 0, 0, 0, 0, 5]),
            target_mac: Mac([2, 0, 0, 0, 0, 6]),
            source: Ipv4Addr::new(10, 244, 1, 5),
            target: Ipv4Addr::new(10, 97, 255, 250),
            target_port: 80,
        };
        for flows in [1, 3, 1_000_000] {
            let traffic = Traffic::udp(&ends, Varied::Target, 64, flows);
            let mut source = Source::new("lo", &traffic).expect("source");
            for count in 0..50 {
                let mut expected = vec![0; 64];
                traffic.write(traffic.flow_of(count), &mut expected);
                // What a forwarder left behind in a frame that comes back.
                let mut left = vec![0xaa; 64];
                left[HEADERS..].fill(0);
                let mut written = vec![0; 64];
                let program = program(&mut source.object, "bench_source").expect("program");
                let input = ProgramInput {
                    data_in: Some(&left),
                    data_out: Some(&mut written),
                    ..ProgramInput::default()
                };
                let output = program.test_run(input).expect("run");
                assert_eq!(output.return_value, XDP_REDIRECT);
                assert_eq!(written, expected, "packet {count} of {flows} flows");
            }
        }
    }
}
