//! What an agent keeps on disk is what the next one begins with while the API server is away (N15).

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use podway_api_server::{ApiServer, Store};
use podway_control::{Facts, Kind, Standing};
use podway_intent::Change;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::bench::{
    QUICK, View, cluster_policy, fill, namespace, pod, policy, resource, serve, serve_at, service,
    store,
};

/// A file that an agent kept of a cluster, and where that one's server was.
struct Kept {
    store: Arc<Store>,
    address: SocketAddr,
    folder: TempDir,
    /// What the agent knew.
    known: String,
}

impl Kept {
    /// Whole, after changes of all sorts; the server is away now.
    async fn new() -> Kept {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store();
        fill(&store);
        let server = serve(&store).await;
        let mut kept = Kept {
            store,
            address: server.address(),
            folder,
            known: String::new(),
        };
        let mut view = kept.view().await;
        view.whole().await;
        assert_eq!(view.last.facts, Facts::Told);
        assert_eq!(view.problems(), "");
        let services = resource(Kind::Service);
        let store = &kept.store;
        store.apply(&services, service("new", "10.96.0.99"));
        store.apply(&services, service("s3", "None"));
        store.delete(&services, "shop", "s4").expect("it is there");
        store.apply(&resource(Kind::Pod), pod("s5", "10.244.1.77"));
        view.until("all is known", |view| {
            let services = view.services();
            services.len() == 9
                && services.contains(&"new".to_owned())
                && facts(view).contains("10.244.1.77")
        })
        .await;
        kept.known = facts(&view);
        kept.end(view, Some(server)).await;
        kept
    }

    /// Ends an agent and a server; returns when the next ones may take their places.
    async fn end(&self, view: View, server: Option<ApiServer>) {
        drop((view, server));
        let is_free = || {
            let file = File::open(self.path());
            TcpListener::bind(self.address).is_ok() && file.is_ok_and(|it| it.try_lock().is_ok())
        };
        for _ in 0..1_000 {
            if is_free() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("they are still there");
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("deep/facts")
    }

    async fn view(&self) -> View {
        let kubeconfig = podway_api_server::kubeconfig(self.address);
        View::keeping(&kubeconfig, QUICK, Some(self.path())).await
    }
}

/// All facts in one text.
fn facts(view: &View) -> String {
    let cluster = &view.cluster;
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        cluster.nodes(),
        cluster.namespaces(),
        cluster.pods(),
        cluster.services(),
        cluster.slices(),
        cluster.policies(),
        cluster.cluster_policies()
    )
}

#[tokio::test]
async fn n15_what_was_known_last_counts_while_the_server_is_away_and_what_it_tells_then_is_a_difference()
 {
    let kept = Kept::new().await;
    let mut view = kept.view().await;
    view.whole().await;
    assert!(matches!(view.last.facts, Facts::Kept(_)), "{:?}", view.last);
    let text = view.last.facts.to_string();
    assert!(text.starts_with("from disk, of 20"), "{text}");
    assert_eq!(facts(&view), kept.known);
    assert_eq!(view.last.versions["ClusterNetworkPolicy"], "absent");
    assert!(view.problems().contains("can't be reached"));

    // Meanwhile the cluster went on.
    let services = resource(Kind::Service);
    kept.store.apply(&services, service("s1", "10.96.0.50"));
    kept.store
        .delete(&services, "shop", "s2")
        .expect("it is there");
    view.changes.clear();
    let server = serve_at(&kept.store, kept.address).await;
    view.until("the server has told of everything", |view| {
        view.last.facts == Facts::Told && view.problems().is_empty()
    })
    .await;
    let seen: Vec<String> = view
        .changes
        .iter()
        .map(|change| {
            if let Change::Service(service) = change {
                format!("{} at {}", service.name, service.cluster_ips[0])
            } else if let Change::Gone(key) = change {
                format!("{key} gone")
            } else {
                format!("{change:?}")
            }
        })
        .collect();
    assert_eq!(seen, ["shop/s1 at 10.96.0.50", "service shop/s2 gone"]);

    // And the next one knows that, too.
    let known = facts(&view);
    kept.end(view, Some(server)).await;
    let mut view = kept.view().await;
    view.whole().await;
    assert_eq!(facts(&view), known);
}

#[tokio::test]
async fn a_server_that_answers_is_heard_before_what_was_kept_counts() {
    let kept = Kept::new().await;
    kept.store
        .apply(&resource(Kind::NetworkPolicy), policy("meanwhile"));
    let _server = serve_at(&kept.store, kept.address).await;
    let mut view = kept.view().await;
    view.whole().await;
    assert_eq!(view.last.facts, Facts::Told);
    assert_eq!(view.cluster.policies().len(), 2);
}

#[tokio::test]
async fn a1_a_kind_that_is_gone_since_is_forgotten_and_one_that_is_there_since_is_known() {
    let kept = Kept::new().await;
    let kind = resource(Kind::ClusterNetworkPolicy);
    kept.store.serve(kind.clone());
    kept.store.apply(&kind, cluster_policy("closed"));
    let server = serve_at(&kept.store, kept.address).await;
    let mut view = kept.view().await;
    view.until("it is known", |view| {
        view.cluster.cluster_policies().len() == 1 && view.is_whole()
    })
    .await;
    kept.end(view, Some(server)).await;
    kept.store.withdraw(&kind);
    let mut view = kept.view().await;
    view.whole().await;
    assert_eq!(view.cluster.cluster_policies().len(), 1, "as it was known");
    let _server = serve_at(&kept.store, kept.address).await;
    view.until("it is forgotten", |view| {
        view.cluster.cluster_policies().is_empty() && view.last.facts == Facts::Told
    })
    .await;
}

/// What an agent says that is told to go on with this file while the server is away.
async fn ignored(kept: &Kept, says: &str) {
    let mut view = kept.view().await;
    view.until("it says what is wrong", |view| {
        let problems = view.problems();
        problems.contains(says) && problems.contains("can't be reached")
    })
    .await;
    view.settle().await;
    assert_eq!(view.last.standing, Standing::Partial, "{says}");
    assert!(view.changes.is_empty());
    kept.end(view, None).await;
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("written");
}

#[tokio::test]
async fn a_file_that_is_corrupt_cut_short_foreign_or_of_another_server_is_named_and_ignored() {
    let kept = Kept::new().await;
    let path = kept.path();
    let good = fs::read(&path).expect("kept");
    let lines = good.iter().filter(|byte| **byte == b'\n').count();
    assert!(lines > 35, "{lines}");

    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    write(&path, &flipped);
    ignored(&kept, " is not as it was written: it is written anew").await;

    // A third of it has no policies yet.
    write(&path, &good[..good.len() / 3]);
    ignored(&kept, "it ends before all kinds of objects were known").await;

    let other = String::from_utf8_lossy(&good).replacen("127.0.0.1", "127.0.0.2", 1);
    write(&path, other.as_bytes());
    ignored(&kept, "it is of another API server or of another version").await;

    write(&path, b"[Unit]\nDescription=somebody's\n");
    ignored(&kept, "it is no file of podway's and is left alone").await;
    assert_eq!(
        fs::read(&path).expect("left"),
        b"[Unit]\nDescription=somebody's\n"
    );

    // What its writer was about to write when it died is not missed.
    write(&path, &[&good[..], b"01234567 + Pod {\"meta"].concat());
    let mut view = kept.view().await;
    view.whole().await;
    assert_eq!(facts(&view), kept.known);
    kept.end(view, None).await;
    let mut view = kept.view().await;
    view.whole().await;
    assert_eq!(facts(&view), kept.known);
}

#[tokio::test]
async fn a_folder_that_can_t_be_written_is_named_and_the_server_is_followed() {
    let kept = Kept::new().await;
    fs::remove_dir_all(kept.folder.path().join("deep")).expect("removed");
    write(&kept.folder.path().join("deep"), b"a file");
    let server = serve_at(&kept.store, kept.address).await;
    kept.store
        .apply(&resource(Kind::Namespace), namespace("other"));
    let mut view = kept.view().await;
    view.until("it says what is wrong", |view| {
        view.problems().contains("facts are not kept")
            || view.problems().contains("facts can't be kept")
    })
    .await;
    view.until("it is followed", |view| {
        view.is_whole() && view.cluster.namespaces().len() == 2
    })
    .await;
    drop(server);
}
