//! Neither the order of arrival nor what was compiled before shows in the tables; ids and generations keep their promises.

use std::collections::BTreeMap;

use podway_intent::*;
use podway_tables::{Direction, EndpointId, PeerId};
use proptest::prelude::*;

use crate::build::*;
use crate::view::{View, judgements, says, view};
use crate::world::{NODE, change, facts};

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(
        changes in prop::collection::vec(change(3), 0..60),
        keys in prop::collection::vec(any::<u32>(), 100),
    ) {
        let straight = cluster(changes);
        let mut facts: Vec<(u32, Change)> = keys.into_iter().cycle().zip(facts(&straight)).collect();
        facts.sort_by_key(|(key, _)| *key);
        let shuffled = cluster(facts.into_iter().map(|(_, fact)| fact));
        prop_assert_eq!(view(&compile(&straight, NODE)), view(&compile(&shuffled, NODE)));
    }

    #[test]
    fn step_by_step_is_the_same_as_afresh_and_what_differs_has_a_new_generation(
        steps in prop::collection::vec(prop::collection::vec(change(3), 0..8), 1..12),
    ) {
        let mut compiler = Compiler::new(NODE);
        let mut cluster = Cluster::default();
        let mut before: Option<Promises> = None;
        for (count, step) in steps.into_iter().enumerate() {
            let known = cluster.clone();
            step.into_iter().for_each(|change| cluster.apply(change));
            detach_ended(&known, &mut cluster);
            let compiled = compiler.compile(&cluster);
            prop_assert_eq!(compiled.snapshot.sequence, count as u32 + 1);
            prop_assert_eq!(view(&compiled), view(&compile(&cluster, NODE)));
            let now = promises(&compiled);
            for (what, (then, said)) in before.iter().flatten() {
                if let Some((generation, says)) = now.get(what) && then == generation {
                    prop_assert_eq!(says, said, "{} differs in one generation", what);
                }
            }
            before = Some(now);
        }
    }

    #[test]
    fn compiling_the_same_again_changes_no_generation(
        changes in prop::collection::vec(change(3), 0..60),
    ) {
        let cluster = cluster(changes);
        let mut compiler = Compiler::new(NODE);
        let first = compiler.compile(&cluster);
        let again = compiler.compile(&cluster);
        prop_assert_eq!(again.snapshot.sequence, 2);
        prop_assert_eq!(promises(&first), promises(&again));
    }
}

/// Takes the devices of pods away that have ended: with one, a pod lingers, which is history (F18).
fn detach_ended(before: &Cluster, now: &mut Cluster) {
    let lives = |cluster: &Cluster, name: &Name| {
        let pod = cluster.pod(name);
        pod.is_some_and(|pod| matches!(pod.phase, PodPhase::Alive | PodPhase::Leaving))
    };
    let devices = now.attachments().into_iter().map(|it| it.pod.clone());
    let ended: Vec<Name> = devices
        .filter(|pod| lives(before, pod) && !lives(now, pod))
        .collect();
    for pod in ended {
        now.apply(Change::Gone(Key::Attachment(pod)));
    }
}

/// By id: the generation, and all that is promised to be the same while it is.
type Promises = BTreeMap<String, (u32, View)>;

fn promises(compiled: &Compiled) -> Promises {
    let mut all = Promises::new();
    let snapshot = &compiled.snapshot;
    for (place, endpoint) in snapshot.endpoints.iter().enumerate() {
        if let Some(endpoint) = endpoint {
            let id = EndpointId(place as u32);
            let name = compiled.names.endpoint(id).expect("a name");
            let mut says = judgements(compiled, id, name);
            let text = format!(
                "{name} {:?} {} {:?}",
                endpoint.port, endpoint.mac, endpoint.addresses
            );
            says.insert("itself".into(), text);
            all.insert(format!("{id:?}"), (endpoint.generation, says));
        }
    }
    for (place, peer) in snapshot.peers.iter().enumerate() {
        if let Some(peer) = peer {
            let id = PeerId(place as u16);
            let name = compiled.names.peer(id);
            let text = format!("{name:?} {} {} {:?}", peer.vtep, peer.source, peer.next_hop);
            let says = View::from([("itself".into(), text)]);
            all.insert(format!("{id:?}"), (peer.generation, says));
        }
    }
    for (id, service) in snapshot.services.iter() {
        let name = compiled.names.service(id).and_then(|it| it.split_once(':'));
        let frontends = snapshot.services.frontends();
        let mut keys: Vec<String> = frontends
            .filter(|(_, frontend)| frontend.service == id)
            .map(|(key, frontend)| format!("{key:?} {:?}", frontend.kind))
            .collect();
        keys.sort_unstable();
        let text = format!("{:?} {} {keys:?}", name.map(|it| it.0), says(service));
        let says = View::from([("itself".into(), text)]);
        all.insert(format!("{id:?}"), (service.generation, says));
    }
    all
}

/// Two nodes, a client here and a client and servers there, behind a service and a policy.
fn small() -> Cluster {
    let web = slice(
        "a/web-1",
        "a/web",
        vec![
            endpoint("10.244.2.10", "n2", Serving::Ready),
            endpoint("10.244.2.11", "n2", Serving::Ready),
        ],
    );
    cluster([
        Change::Setup(setup()),
        node("n1", "192.168.0.1", "10.244.1.0/24"),
        node("n2", "192.168.0.2", "10.244.2.0/24"),
        Change::Pod(pod("a/client", "n1", "10.244.1.10", "app=client")),
        Change::Pod(pod("a/other", "n1", "10.244.1.11", "app=other")),
        Change::Pod(pod("a/far", "n2", "10.244.2.12", "app=far")),
        attachment("a/client", 2),
        attachment("a/other", 3),
        Change::Service(service("a/web", "10.96.0.1")),
        Change::EndpointSlice(web),
        Change::Service(service("a/idle", "10.96.0.2")),
        Change::NetworkPolicy(NetworkPolicy {
            name: name("a/only-far"),
            subject: selector("app=client"),
            ingress: Some(vec![PolicyRule {
                peers: Some(vec![PolicyPeer::Pods {
                    namespaces: None,
                    pods: selector("app=far"),
                }]),
                ports: None,
            }]),
            egress: None,
            mode: PolicyMode::Enforce,
        }),
    ])
}

/// The ids whose generation is that of the last compilation.
fn renewed(compiled: &Compiled) -> Vec<String> {
    let now = compiled.snapshot.sequence;
    let all = promises(compiled).into_iter();
    all.filter(|(_, (generation, _))| *generation == now)
        .map(|(id, _)| id)
        .collect()
}

#[test]
fn a_change_renews_what_it_touches_and_nothing_else() {
    let mut facts = small();
    let mut compiler = Compiler::new(NODE);
    assert_eq!(renewed(&compiler.compile(&facts)).len(), 5);
    let mut after = |change: Change| {
        facts.apply(change);
        renewed(&compiler.compile(&facts))
    };
    let client = Pod {
        ports: [].into(),
        ..pod("a/unrelated", "n2", "10.244.2.20", "app=unrelated")
    };
    assert!(after(Change::Pod(client)).is_empty());
    let ready = vec![endpoint("10.244.2.10", "n2", Serving::Ready)];
    let web = after(Change::EndpointSlice(slice("a/web-1", "a/web", ready)));
    assert_eq!(web.len(), 1);
    assert!(web[0].starts_with("ServiceId"));
    let peer = after(Change::Neighbour(
        ip("192.168.0.2"),
        podway_wire::Mac([2; 6]),
    ));
    assert_eq!(peer, ["PeerId(0)"]);
    assert_eq!(after(attachment("a/other", 4)), ["EndpointId(1)"]);
    // A label that a rule about the client reads, of a pod on another node.
    let far = pod("a/far", "n2", "10.244.2.12", "app=gone");
    assert_eq!(after(Change::Pod(far)), ["EndpointId(0)"]);
    assert!(after(namespace("b", "x=y")).is_empty());
}

#[test]
fn f11_an_id_that_another_pod_takes_over_has_a_new_generation() {
    let mut facts = small();
    let mut compiler = Compiler::new(NODE);
    let before = compiler.compile(&facts);
    facts.apply(Change::Pod(Pod {
        uid: "reborn".into(),
        ..pod("a/client", "n1", "10.244.1.10", "app=client")
    }));
    let after = compiler.compile(&facts);
    let id = after
        .names
        .endpoint_of(&name("a/client"))
        .expect("an endpoint");
    let generation = |compiled: &Compiled| {
        let endpoint = compiled.snapshot.endpoint(id).expect("an endpoint");
        endpoint.generation
    };
    assert_eq!((generation(&before), generation(&after)), (1, 2));
    facts.apply(Change::Gone(Key::Pod(name("a/client"))));
    let ending = compiler.compile(&facts);
    let device = |compiled: &Compiled| compiled.snapshot.endpoint(id).and_then(|it| it.port);
    assert_eq!(
        device(&ending),
        device(&after),
        "F18: it is there while its device is"
    );
    facts.apply(Change::Gone(Key::Attachment(name("a/client"))));
    let gone = compiler.compile(&facts);
    assert_eq!(gone.snapshot.endpoint(id), None);
    let policies = &gone.snapshot.policies;
    assert!(policies.verdicts(id, Direction::Ingress).is_none());
}
