//! Whatever an API server does, the last known state stays, and a list is a difference.

use std::time::Duration;

use podway_api_server::Fault;
use podway_control::{Kind, Pace};
use podway_intent::Change;

use crate::bench::{QUICK, View, fill, resource, serve, serve_at, service, store};

fn gone(view: &View) -> usize {
    let is_gone = |change: &&Change| matches!(change, Change::Gone(_));
    view.changes.iter().filter(is_gone).count()
}

#[tokio::test]
async fn nothing_is_whole_while_one_kind_can_not_be_listed() {
    let store = store();
    fill(&store);
    store.trouble_with(&resource(Kind::Pod), Fault::Refuse { status: 503 });
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.until("the trouble is named", |view| {
        view.problems().contains("503")
    })
    .await;
    view.settle().await;
    assert!(!view.is_whole());
    assert_eq!(view.services().len(), 10, "the other kinds are known");
    assert_eq!(
        view.problems(),
        "the API server answers 503 Service Unavailable (trouble was asked for): what is known of pods stays in force"
    );
    store.trouble_with(&resource(Kind::Pod), Fault::None);
    view.whole().await;
    assert_eq!(view.problems(), "");
}

#[tokio::test]
async fn a_server_that_stops_leaves_everything_and_one_that_comes_back_tells_what_happened() {
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let address = server.address();
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    drop(server);
    view.until("it is missed", |view| {
        view.problems().contains("the API server can't be reached")
    })
    .await;
    view.settle().await;
    assert!(view.is_whole());
    assert_eq!((view.services().len(), gone(&view)), (10, 0));

    let services = resource(Kind::Service);
    store.apply(&services, service("new", "10.96.0.99"));
    store.delete(&services, "shop", "s3").expect("it is there");
    let lists = store.requests("list", &services);
    let _server = serve_at(&store, address).await;
    view.until("it is known", |view| {
        view.services().contains(&"new".to_owned()) && view.services().len() == 10
    })
    .await;
    view.until("all watches are back", |view| view.problems().is_empty())
        .await;
    assert_eq!(
        store.requests("list", &services),
        lists,
        "the watch went on where it was"
    );
    assert_eq!(gone(&view), 1);
}

#[tokio::test]
async fn k1_after_an_outage_all_kinds_are_followed_again_together() {
    // By itself, each kind would come back at a moment of its own within so long.
    let pace = Pace {
        first_delay: Duration::from_secs(20),
        longest_delay: Duration::from_secs(20),
        ..QUICK
    };
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let address = server.address();
    let mut view = View::open(&server, pace).await;
    view.whole().await;
    drop(server);
    let all_away = "the API server can't be reached";
    view.until("all miss it", |view| {
        view.problems().contains(all_away)
            && view.problems().ends_with("what is known stays in force")
    })
    .await;
    view.settle().await;
    assert_eq!(view.problems().lines().count(), 1, "{}", view.problems());

    let asked = |kind: Kind| {
        let resource = resource(kind);
        store.requests("watch", &resource) + store.requests("list", &resource)
    };
    let before = Kind::ALL.map(asked);
    let back = || {
        let now = Kind::ALL.map(asked);
        now.iter()
            .zip(&before)
            .filter(|(now, before)| now > before)
            .count()
    };
    let _server = serve_at(&store, address).await;
    view.until_polled("one kind is back", || back() > 0, Duration::from_secs(30))
        .await;
    // Absent kinds are looked for all the time, and count as well.
    let served = Kind::ALL.len() - 1;
    view.until_polled("so are all", || back() >= served, Duration::from_secs(5))
        .await;
    view.until("nothing is missed", |view| view.problems().is_empty())
        .await;
}

#[tokio::test]
async fn a_compacted_history_makes_a_list_that_is_a_difference() {
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let address = server.address();
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    drop(server);
    view.until("it is missed", |view| !view.problems().is_empty())
        .await;

    let services = resource(Kind::Service);
    store.apply(&services, service("s4", "10.96.0.44"));
    store.delete(&services, "shop", "s3").expect("it is there");
    store.compact();
    view.changes.clear();
    let _server = serve_at(&store, address).await;
    view.until("all watches are back", |view| view.problems().is_empty())
        .await;
    view.settle().await;
    let mut said: Vec<String> = view.changes.iter().map(|it| format!("{it:?}")).collect();
    said.sort();
    assert_eq!(said.len(), 2, "what differs and nothing else: {said:?}");
    assert!(said[0].starts_with("Gone(Service("), "{said:?}");
    assert!(said[1].contains("10.96.0.44"), "{said:?}");
}

#[tokio::test]
async fn an_answer_that_comes_in_pieces_is_the_same_answer() {
    let store = store();
    fill(&store);
    store.trouble(Fault::Slow {
        chunk: 64,
        pause: Duration::from_micros(100),
    });
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    store.apply(&resource(Kind::Service), service("new", "10.96.0.99"));
    view.until("it is there", |view| view.services().len() == 11)
        .await;
    assert_eq!(view.problems(), "");
}

#[tokio::test]
async fn connections_that_break_in_the_middle_lose_nothing() {
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    // Enough for an event or two, then the connection breaks, in the middle of a line.
    store.trouble(Fault::Reset { after: 900 });
    let services = resource(Kind::Service);
    for number in 0..40 {
        let address = format!("10.96.1.{number}");
        store.apply(&services, service(&format!("new{number}"), &address));
        if number % 2 == 0 {
            tokio::task::yield_now().await;
        }
    }
    view.until("all are there", |view| view.services().len() == 50)
        .await;
    assert_eq!(gone(&view), 0);
    assert!(store.requests("watch", &services) > 5);
}

#[tokio::test]
async fn pages_that_expire_are_asked_for_anew() {
    let store = store();
    fill(&store);
    store.trouble_with(&resource(Kind::Pod), Fault::ExpirePages);
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.settle().await;
    assert!(!view.is_whole());
    store.trouble_with(&resource(Kind::Pod), Fault::None);
    view.whole().await;
    assert_eq!(view.cluster.pods().len(), 10);
}

#[tokio::test]
async fn a_server_that_takes_requests_and_never_answers_is_asked_again() {
    let store = store();
    fill(&store);
    store.trouble_with(&resource(Kind::Service), Fault::Hang);
    let server = serve(&store).await;
    let impatient = Pace {
        patience: Duration::from_millis(100),
        ..QUICK
    };
    let mut view = View::open(&server, impatient).await;
    view.until("that is told", |view| {
        view.problems().contains("does not send a list in time")
    })
    .await;
    store.trouble_with(&resource(Kind::Service), Fault::None);
    view.whole().await;
    assert_eq!(view.services().len(), 10);
}

#[tokio::test]
async fn an_account_that_may_not_is_told_what_to_allow() {
    let store = store();
    store.trouble_with(
        &resource(Kind::EndpointSlice),
        Fault::Refuse { status: 403 },
    );
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.until("that is told", |view| {
        view.problems().contains(
            "allow the agent's account to list and watch endpointslices of API group \"discovery.k8s.io\"",
        )
    })
    .await;
}

#[tokio::test]
async fn a_silent_watch_is_begun_anew() {
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let restless = Pace {
        silence: Duration::from_millis(50),
        ..QUICK
    };
    let mut view = View::open(&server, restless).await;
    view.whole().await;
    view.settle().await;
    let services = resource(Kind::Service);
    assert!(store.requests("watch", &services) > 1);
    assert_eq!(
        store.requests("list", &services),
        4,
        "watches go on without a list"
    );
    assert_eq!((view.problems(), gone(&view)), (String::new(), 0));
}

#[tokio::test]
async fn r7_an_account_that_may_not_see_service_ranges_keeps_no_node_closed() {
    let store = store();
    fill(&store);
    let ranges = resource(Kind::ServiceCidr);
    store.trouble_with(&ranges, Fault::Refuse { status: 403 });
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    view.until("that is told", |view| {
        view.problems().contains(
            "allow the agent's account to list and watch servicecidrs of API group \"networking.k8s.io\"",
        )
    })
    .await;
}
