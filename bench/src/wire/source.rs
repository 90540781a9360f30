//! The traffic: an XDP program that the kernel runs on live frames, as fast as it can.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use libbpf_rs::{
    ErrorKind, Link, MapCore, MapFlags, Object, ObjectBuilder, ProgramInput, ProgramMut,
};

use nix::net::if_::if_nametoindex;

use super::bed::{Bed, End};
use crate::packets::{FIRST_PORT, PORTS, Traffic, Varied};

static PROGRAMS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/source.bpf.o"));
/// BPF_F_TEST_XDP_LIVE_FRAMES (linux/bpf.h): packets are real, and go where the program says.
const LIVE_FRAMES: u32 = 1 << 1;

/// Headers that the program has room for.
const ROOM: usize = 92;

/// How fast a source sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as it can.
    Full,
    /// A packet each so many nanoseconds.
    Every(u32),
    /// The same, until every flow had its turn.
    OnceEvery(u32),
}

impl Pace {
    /// Nanoseconds from one packet to the next, 0 if as few as can be.
    fn interval_ns(self) -> u32 {
        match self {
            Pace::Full => 0,
            Pace::Every(interval_ns) | Pace::OnceEvery(interval_ns) => interval_ns,
        }
    }

    /// Packets in all, 0 if there is no end to them.
    fn limit(self, flows: u32) -> u32 {
        match self {
            Pace::Full | Pace::Every(_) => 0,
            Pace::OnceEvery(_) => flows,
        }
    }
}

/// A source of packets, in the namespace of the thread that made it.
pub(crate) struct Source {
    object: Object,
    program: &'static str,
    template: Vec<u8>,
}

impl Source {
    /// A source of this traffic that sends out of `device`, in the caller's namespace.
    pub(crate) fn new(device: &str, traffic: &Traffic, pace: Pace) -> anyhow::Result<Source> {
        let object = load()?;
        let parameters = parameters(index(device)?, traffic, pace);
        map(&object, "traffic")?.update(&[0; 4], &parameters, MapFlags::ANY)?;
        let program = match traffic.varied() {
            Varied::Source => bail!("the source has no program for flows of many sources"),
            Varied::Target => "bench_source",
            Varied::Replies => "bench_replies",
        };
        let mut template = vec![0; traffic.length()];
        traffic.write(0, &mut template);
        Ok(Source {
            object,
            program,
            template,
        })
    }

    /// Has the program run so many times without a pause, each time for a packet if its pace allows, and gives the time that took; `None` if a signal ended it early.
    pub(crate) fn send(&mut self, packets: u32) -> anyhow::Result<Option<Duration>> {
        ensure!(packets <= i32::MAX as u32, "{packets} packets in one call");
        let program = program(&mut self.object, self.program)?;
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
    /// Forwards all that comes from one end to the other, and counts and drops it there.
    pub(crate) fn attach(bed: &Bed, from: End, to: End) -> anyhow::Result<Ceiling> {
        let mut object = load()?;
        let sink = bed
            .namespace(to)
            .inside(|| attach(&mut object, "bench_sink", to.device()))??;
        let forwarder = bed.node.inside(|| {
            let target = index(to.node_device())?.to_ne_bytes();
            map(&object, "wire")?.update(&[0; 4], &target, MapFlags::ANY)?;
            attach(&mut object, "bench_ceiling", from.node_device())
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
fn parameters(ifindex: u32, traffic: &Traffic, pace: Pace) -> Vec<u8> {
    let (ip_sum, udp_sum) = traffic.sums();
    let words = [
        ifindex,
        traffic.flows(),
        traffic.stride(),
        PORTS,
        traffic.first_address(),
        ip_sum,
        udp_sum,
        pace.interval_ns(),
        pace.limit(traffic.flows()),
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(FIRST_PORT.to_ne_bytes());
    bytes.extend(traffic.headers());
    // The whole structure is a multiple of its words.
    let whole = (words.len() * 4 + 2 + ROOM).next_multiple_of(4);
    bytes.resize(whole, 0);
    bytes
}

fn index(device: &str) -> anyhow::Result<u32> {
    if_nametoindex(device).with_context(|| format!("no device {device} in this namespace"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use podway_wire::{Addr, Mac, vxlan};

    use super::*;
    use crate::packets::{Ends, HEADERS};

    const XDP_DROP: u32 = 1;
    const XDP_REDIRECT: u32 = 4;

    const ENDS: Ends = Ends {
        source_mac: Mac([2, 0, 0, 0, 0, 5]),
        target_mac: Mac([2, 0, 0, 0, 0, 6]),
        source: Ipv4Addr::new(10, 244, 1, 5),
        target: Ipv4Addr::new(10, 97, 255, 250),
        server_port: 80,
    };

    /// What the program makes of a frame in which a forwarder left something behind.
    fn written(source: &mut Source) -> (u32, Vec<u8>) {
        let length = source.template.len();
        let mut left = vec![0xaa; length];
        let headers = length - 64 + HEADERS;
        left[headers..].fill(0);
        let mut written = vec![0; length];
        let program = program(&mut source.object, source.program).expect("program");
        let input = ProgramInput {
            data_in: Some(&left),
            data_out: Some(&mut written),
            ..ProgramInput::default()
        };
        let output = program.test_run(input).expect("run");
        (output.return_value, written)
    }

    /// Who measures the engine in memory and who measures through the kernel see the same packets.
    #[test]
    fn the_program_writes_the_packets_that_traffic_does() {
        if !podway_needs::root() {
            return;
        }
        let outer = vxlan::Outer {
            target_mac: ENDS.target_mac,
            source_mac: ENDS.source_mac,
            source: Addr::v4([192, 168, 77, 2]),
            target: Addr::v4([192, 168, 77, 1]),
            source_port: 50_000,
            target_port: 4_789,
            vni: 1,
            traffic_class: 0,
        };
        for flows in [1, 3, 1_000_000] {
            let out = Traffic::udp(&ENDS, Varied::Target, 64, flows);
            let back = Traffic::udp(&ENDS, Varied::Replies, 64, flows).tunnelled(&outer);
            for traffic in [out, back] {
                let mut source = Source::new("lo", &traffic, Pace::Full).expect("source");
                for count in 0..50 {
                    let mut expected = vec![0; traffic.length()];
                    traffic.write(traffic.flow_of(count), &mut expected);
                    let (verdict, written) = written(&mut source);
                    assert_eq!(verdict, XDP_REDIRECT);
                    assert_eq!(written, expected, "packet {count} of {flows} flows");
                }
            }
        }
    }

    #[test]
    fn a_paced_source_leaves_out_what_comes_too_early() {
        if !podway_needs::root() {
            return;
        }
        let traffic = Traffic::udp(&ENDS, Varied::Target, 64, 1);
        for pace in [Pace::Every(u32::MAX), Pace::OnceEvery(1)] {
            let mut source = Source::new("lo", &traffic, pace).expect("source");
            assert_eq!(written(&mut source).0, XDP_REDIRECT);
            assert_eq!(written(&mut source).0, XDP_DROP, "{pace:?}");
        }
    }
}
