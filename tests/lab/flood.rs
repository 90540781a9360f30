//! A pod that floods a service with SYNs: others go on (F14).

use std::time::{Duration, Instant};

use crate::bench::resident_kib;
use crate::services::ASK;
use crate::world::up;

#[test]
fn f14_a_syn_flood_costs_no_established_flow_no_memory_and_no_newcomer() {
    if !podway_needs::root() {
        return;
    }
    let seconds = std::env::var("PODWAY_FLOOD_SECONDS");
    let seconds: u64 = seconds.map_or(4, |text| text.parse().expect("seconds"));
    let lab = up();
    let source = lab.address("default/other", |ip| !ip.contains(':'));
    let (long, flood) = ((seconds + 2).to_string(), seconds.to_string());
    let stream = lab.spawn(
        "default/client",
        &[
            "iperf3",
            "--client",
            "10.96.0.52",
            "--time",
            &long,
            "--bitrate",
            "5M",
        ],
    );
    std::thread::sleep(Duration::from_secs(1));
    let before = resident_kib(lab.agent("node1"));
    let script = include_str!("syn_flood.py");
    let flood = lab.spawn(
        "default/other",
        &["python3", "-c", script, &source, "10.96.0.80", "80", &flood],
    );
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    let (mut asked, mut lost) = (0, 0);
    while began.elapsed() < Duration::from_secs(seconds - 1) {
        let ask = ["python3", "-c", ASK, "10.96.0.53", "53", "tcp", "5"];
        asked += 1;
        lost += u32::from(!lab.exec("default/client", &ask).status.success());
    }
    let took = began.elapsed();
    let sent = flood.wait_with_output().expect("it ends").stdout;
    let after = resident_kib(lab.agent("node1"));
    let stream = stream.wait_with_output().expect("it ends");
    let counters = lab.show("node1", "counters");
    println!(
        "{} SYNs in {seconds} s; {:.1} new connections/s beside them; resident {before} > {after} KiB; {}",
        String::from_utf8_lossy(&sent).trim(),
        f64::from(asked) * 5.0 / took.as_secs_f64(),
        counters["engine"]
    );
    assert!(
        stream.status.success(),
        "the established flow: {}",
        String::from_utf8_lossy(&stream.stderr)
    );
    assert_eq!(lost, 0, "of {asked} clients");
    assert!(after <= before + 4_096, "memory is flat");
}
