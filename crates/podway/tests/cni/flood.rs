//! An agent on a node whose links come and go all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use crate::place::{Place, sh};

/// Links of one batch.
const LINKS: usize = 300;

/// Makes and deletes links until it is told to stop; says how many.
fn churn(place: &Place, prefix: &str, done: &AtomicBool) -> usize {
    let line = |verb: &str, more: &str| -> String {
        let links = (0..LINKS).map(|number| format!("link {verb} {prefix}{number}{more}\n"));
        links.collect()
    };
    let [make, delete] = [("add", " type veth"), ("del", "")].map(|(verb, more)| {
        let path = place.path(&format!("{prefix}-{verb}"));
        std::fs::write(&path, line(verb, more)).expect("written");
        path
    });
    let mut made = 0;
    while !done.load(Ordering::Relaxed) {
        for batch in [&make, &delete] {
            let said = place.sh(&format!("ip -force -batch {}", batch.display()));
            assert_eq!(said, "");
        }
        made += LINKS;
    }
    made
}

#[test]
fn an_agent_starts_and_takes_pods_up_while_hundreds_of_links_come_and_go() {
    if !podway_needs::root() {
        return;
    }
    let place = Place::new("flood", "10.244.1.0/24", 2);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let churns = ["a", "b"].map(|prefix| {
            let (place, done) = (&place, &done);
            scope.spawn(move || churn(place, prefix, done))
        });
        let works = scope.spawn(|| {
            for _ in 0..3 {
                let mut agent = place.start();
                for pod in 0..2 {
                    place.add(pod).result();
                }
                let ping = sh(&place.pod(0), "ping -c 1 -W 5 10.244.1.1");
                assert!(ping.contains(" 0% packet loss"), "{ping}");
                for pod in 0..2 {
                    place.delete(pod).done();
                }
                let status = place.ask(&json!({"show": "status"})).expect("an answer");
                assert_eq!(status["node_problems"], json!([]));
                agent.kill();
            }
        });
        let worked = works.join();
        done.store(true, Ordering::Relaxed);
        let made: usize = churns
            .map(|it| it.join().expect("links come and go"))
            .iter()
            .sum();
        println!("{made} links came and went");
        worked.expect("it works meanwhile");
    });
    let log = std::fs::read_to_string(place.path("log")).expect("a log");
    for sign in ["did not answer", "ERROR", "the pod's device is gone"] {
        assert!(!log.contains(sign), "{log}");
    }
    assert_eq!(log.matches("in force").count(), 3, "none gave up: {log}");
    place.is_clean();
}
