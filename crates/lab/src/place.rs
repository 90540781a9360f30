//! What a lab's things are called, and where they are.

use std::path::{Path, PathBuf};

use podway_host::Namespace;

/// The names of one lab: all its namespaces begin with the prefix, all its files are in the directory.
#[derive(Clone, Debug)]
pub struct Place {
    prefix: String,
    directory: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Self::named("podway-lab")
    }
}

/// The longest name that a namespace gets, in bytes: file systems end at 255.
const LONGEST: usize = 200;

impl Place {
    /// A lab apart from others: its namespaces are `PREFIX-…`, its files are in `/run/PREFIX`.
    pub fn named(prefix: &str) -> Self {
        Self {
            prefix: format!("{prefix}-"),
            directory: Path::new("/run").join(prefix),
        }
    }

    /// Where sockets, logs and the state are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Names of the namespaces that are there.
    pub fn namespaces(&self) -> Vec<String> {
        Namespace::names(&self.prefix)
    }

    /// The admin socket of a node's agent.
    pub fn socket(&self, node: &str) -> PathBuf {
        self.directory.join(format!("{node}.sock"))
    }

    pub(crate) fn config(&self, node: &str) -> PathBuf {
        self.directory.join(format!("{node}.toml"))
    }

    /// How a node's agent reaches the API server.
    pub(crate) fn kubeconfig(&self, node: &str) -> PathBuf {
        self.directory.join(format!("{node}.kubeconfig"))
    }

    pub(crate) fn api_server_log(&self) -> PathBuf {
        self.directory.join("log").join("api-server.log")
    }

    /// Where a real API server keeps its state.
    pub(crate) fn api_server(&self) -> PathBuf {
        self.directory.join("api-server")
    }

    /// Is there once the API server says what it is to say.
    pub(crate) fn api_server_ready(&self) -> PathBuf {
        self.directory.join("api-server.ready")
    }

    pub(crate) fn agent_log(&self, node: &str) -> PathBuf {
        self.directory.join(format!("{node}.log"))
    }

    pub(crate) fn container_log(&self, pod: &str, container: &str) -> PathBuf {
        self.directory
            .join("log")
            .join(format!("{}.{container}.log", pod.replace('/', ".")))
    }

    /// A directory for PATH in which `podway` is this program.
    pub(crate) fn programs(&self) -> PathBuf {
        self.directory.join("bin")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    pub(crate) fn switch(&self) -> String {
        format!("{}switch", self.prefix)
    }

    /// The network namespace of what is outside of the cluster.
    pub fn world(&self) -> String {
        format!("{}world", self.prefix)
    }

    /// The network namespace of a node.
    pub fn node(&self, name: &str) -> String {
        self.name_of(format!("{}node-{name}", self.prefix), name)
    }

    /// The network namespace of a pod.
    pub fn pod(&self, namespace: &str, name: &str) -> String {
        let plain = format!("{}pod-{namespace}-{name}", self.prefix);
        // Pod b-c of namespace a is not pod c of namespace a-b.
        match namespace.contains('-') {
            false => self.name_of(plain, &format!("{namespace}/{name}")),
            true => format!("{plain}-{}", suffix(&format!("{namespace}/{name}"))),
        }
    }

    fn name_of(&self, plain: String, title: &str) -> String {
        match plain.len() > LONGEST {
            false => plain,
            true => format!("{}-{}", &plain[..LONGEST], suffix(title)),
        }
    }
}

/// Tells apart what else would share a name.
fn suffix(title: &str) -> String {
    podway_cni::host_interface(title).split_off(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_have_names_that_tell() {
        let place = Place::default();
        assert_eq!(place.node("node1"), "podway-lab-node-node1");
        assert_eq!(place.pod("shop", "web-0"), "podway-lab-pod-shop-web-0");
        assert_eq!(place.switch(), "podway-lab-switch");
        assert_eq!(place.world(), "podway-lab-world");
    }

    #[test]
    fn no_two_pods_share_a_namespace() {
        let place = Place::default();
        assert_ne!(place.pod("a-b", "c"), place.pod("a", "b-c"));
        let long = |end: &str| place.pod("shop", &("x".repeat(240) + end));
        assert_ne!(long("1"), long("2"));
        assert!(long("1").len() < 256);
    }
}
