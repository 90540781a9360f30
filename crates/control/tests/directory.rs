//! A directory that is written to while it is watched.

use std::fs;
use std::path::Path;
use std::time::Duration;

use podway_control::{Batch, Directory};
use podway_intent::{Change, Key};
use tokio::time::timeout;

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: node1}\n";

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports:\n    - port: {port}\n"
    )
}

/// The next batch; longer than a look at whether the directory is still there.
async fn next(directory: &mut Directory) -> Batch {
    timeout(Duration::from_secs(10), directory.next())
        .await
        .expect("a batch")
}

async fn nothing(directory: &mut Directory) {
    let batch = timeout(Duration::from_millis(400), directory.next()).await;
    assert!(batch.is_err(), "{batch:?}");
}

/// Short names of changes: `Service a:80`, `-Service a`.
fn names(changes: &[Change]) -> Vec<String> {
    let mut names: Vec<String> = changes
        .iter()
        .map(|change| match change {
            Change::Node(node) => format!("Node {}", node.name),
            Change::Namespace(namespace) => format!("Namespace {}", namespace.name),
            Change::Service(service) => {
                format!("Service {}:{}", service.name.name, service.ports[0].port)
            }
            Change::Gone(Key::Service(name)) => format!("-Service {}", name.name),
            Change::Pod(_)
            | Change::EndpointSlice(_)
            | Change::NetworkPolicy(_)
            | Change::ClusterNetworkPolicy(_)
            | Change::ServiceCidr(_)
            | Change::Attachment(_)
            | Change::Neighbour(..)
            | Change::Route(..)
            | Change::LinkNeighbour(..)
            | Change::OwnAddress(_)
            | Change::Setup(_)
            | Change::Gone(_) => format!("{change:?}"),
        })
        .collect();
    names.sort();
    names
}

fn replace(directory: &Path, name: &str, text: &str) {
    let hidden = directory.join(format!(".{name}.tmp"));
    fs::write(&hidden, text).unwrap();
    fs::rename(hidden, directory.join(name)).unwrap();
}

#[tokio::test]
async fn changes_lead_from_the_last_good_state_to_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("node.yaml"), NODE).unwrap();
    fs::write(path.join("a.yaml"), service("a", "80")).unwrap();
    let (mut directory, initial) = Directory::open(path).unwrap();
    assert_eq!(
        names(&initial),
        ["Namespace default", "Node node1", "Service a:80"]
    );

    // A change, by rename and in place.
    replace(path, "a.yaml", &service("a", "81"));
    assert_eq!(names(&next(&mut directory).await.changes), ["Service a:81"]);
    fs::write(path.join("a.yaml"), service("a", "82")).unwrap();
    assert_eq!(names(&next(&mut directory).await.changes), ["Service a:82"]);

    // One that is broken: everything stays, and it is said once.
    fs::write(path.join("a.yaml"), service("a", "wrong")).unwrap();
    let broken = next(&mut directory).await;
    assert_eq!(names(&broken.changes), Vec::<String>::new());
    let said = broken.problems[0].to_string();
    assert!(
        said.ends_with(
            "a.yaml:6: spec.ports[0].port: expected a number 1-65535, found string \"wrong\""
        ),
        "{said}"
    );
    assert_eq!(directory.problems(), broken.problems);
    assert_eq!(directory.manifests().services.len(), 1);
    fs::write(path.join("b.yaml"), service("b", "90")).unwrap();
    nothing(&mut directory).await;

    // Mended: what was written meanwhile comes along.
    fs::write(path.join("a.yaml"), service("a", "83")).unwrap();
    let mended = next(&mut directory).await;
    assert_eq!(names(&mended.changes), ["Service a:83", "Service b:90"]);
    assert!(mended.problems.is_empty() && directory.problems().is_empty());

    // Mended without having changed anything is news too, for whoever shows the status.
    fs::write(path.join("c.yaml"), "[").unwrap();
    assert_eq!(next(&mut directory).await.problems.len(), 1);
    fs::remove_file(path.join("c.yaml")).unwrap();
    assert_eq!(next(&mut directory).await, Batch::default());

    // A file that is renamed says the same; one that goes takes its objects along.
    fs::rename(path.join("b.yaml"), path.join("z.yaml")).unwrap();
    nothing(&mut directory).await;
    fs::remove_file(path.join("z.yaml")).unwrap();
    assert_eq!(names(&next(&mut directory).await.changes), ["-Service b"]);
}

#[tokio::test]
async fn what_is_no_manifest_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("node.yaml"), NODE).unwrap();
    let (mut directory, _) = Directory::open(path).unwrap();
    for name in [
        ".a.yaml",
        "a.yaml~",
        "a.yaml.swp",
        "#a.yaml#",
        "README.md",
        "4913",
    ] {
        fs::write(path.join(name), "[").unwrap();
    }
    fs::create_dir(path.join("sub.yaml")).unwrap();
    nothing(&mut directory).await;
}

#[tokio::test]
async fn a_directory_that_is_gone_leaves_its_last_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), service("a", "80")).unwrap();
    let (mut directory, _) = Directory::open(&path).unwrap();

    // At once: a directory that is emptied first has no objects for a moment.
    fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    let batch = next(&mut directory).await;
    assert_eq!(names(&batch.changes), Vec::<String>::new());
    let said = batch.problems[0].to_string();
    assert!(
        said.ends_with("manifests: can't be read: No such file or directory (os error 2)"),
        "{said}"
    );
    assert_eq!(directory.manifests().services.len(), 1);
    timeout(Duration::from_millis(1500), directory.next())
        .await
        .expect_err("it was said before");

    let elsewhere = folder.path().join("elsewhere");
    replace(&elsewhere, "a.yaml", &service("a", "81"));
    fs::rename(&elsewhere, &path).unwrap();
    assert_eq!(names(&next(&mut directory).await.changes), ["Service a:81"]);
    // And it is watched again.
    replace(&path, "a.yaml", &service("a", "82"));
    assert_eq!(names(&next(&mut directory).await.changes), ["Service a:82"]);
}

#[tokio::test]
async fn a_single_file_and_a_config_map_mount_are_watched() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, service("a", "80")).unwrap();
    let (mut directory, _) = Directory::open(&file).unwrap();
    replace(folder.path(), "a.yaml", &service("a", "81"));
    assert_eq!(names(&next(&mut directory).await.changes), ["Service a:81"]);

    // As the kubelet does it: files are links through a link that is replaced.
    let mount = tempfile::tempdir().unwrap();
    let version = |name: &str, port: &str| {
        fs::create_dir(mount.path().join(name)).unwrap();
        fs::write(mount.path().join(name).join("a.yaml"), service("a", port)).unwrap();
        std::os::unix::fs::symlink(name, mount.path().join("..new")).unwrap();
        fs::rename(mount.path().join("..new"), mount.path().join("..data")).unwrap();
    };
    version("..1", "80");
    std::os::unix::fs::symlink("..data/a.yaml", mount.path().join("a.yaml")).unwrap();
    let (mut directory, _) = Directory::open(mount.path()).unwrap();
    version("..2", "81");
    assert_eq!(names(&next(&mut directory).await.changes), ["Service a:81"]);
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), service("a", "80")).unwrap();
    let (mut directory, _) = Directory::open(folder.path()).unwrap();
    replace(folder.path(), "a.yaml", &service("a", "81"));
    for _ in 0..5 {
        // Shorter than the quiet that is waited for.
        let _ = timeout(Duration::from_millis(20), directory.next()).await;
    }
    assert_eq!(names(&next(&mut directory).await.changes), ["Service a:81"]);
}

#[test]
fn a_directory_that_never_was_good_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), "[").unwrap();
    assert_eq!(Directory::open(folder.path()).unwrap_err().0.len(), 1);
}
