//! A real kube-apiserver and its etcd, from a folder with both: what envtest starts for the tests of controllers.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// Who has this token may do everything at a real server that was started here.
pub const TOKEN: &str = "podway-test-token";

/// A folder with the programs `kube-apiserver` and `etcd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assets(PathBuf);

/// What a real API server is started with.
#[derive(Clone, Copy, Debug)]
pub struct RealSettings<'a> {
    /// Where state and logs are; what an earlier one left there goes on.
    pub folder: &'a Path,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its own address, of the family of the first range.
    pub advertised: IpAddr,
    /// Ranges of cluster addresses, one of a family.
    pub service_ranges: &'a [String],
}

/// A control plane of one etcd and one API server, which end with this value and with the thread that started them.
#[derive(Debug)]
pub struct Real {
    etcd: Child,
    api_server: Child,
    start: Command,
}

impl Assets {
    /// The folder that the environment names (KUBEBUILDER_ASSETS), if it does.
    pub fn named() -> Option<Assets> {
        env::var_os("KUBEBUILDER_ASSETS").map(|folder| Assets(folder.into()))
    }

    /// Starts both programs; the API server is ready some seconds later, when `/readyz` says so.
    pub fn start(&self, settings: RealSettings<'_>) -> io::Result<Real> {
        let folder = settings.folder;
        let etcd_url = format!("http://127.0.0.1:{}", free_port()?);
        let mut etcd = self.program("etcd", folder)?;
        etcd.args([
            "--unsafe-no-fsync=true",
            "--listen-peer-urls=http://127.0.0.1:0",
        ])
        .arg(format!("--listen-client-urls={etcd_url}"))
        .arg(format!("--advertise-client-urls={etcd_url}"))
        .arg(option("--data-dir", &folder.join("data")));
        let mut etcd = etcd.spawn()?;
        let started = self
            .api_server(settings, &etcd_url)
            .and_then(|mut start| Ok((start.spawn()?, start)));
        match started {
            Ok((api_server, start)) => Ok(Real {
                etcd,
                api_server,
                start,
            }),
            Err(error) => {
                end(&mut etcd);
                Err(error)
            }
        }
    }

    fn api_server(&self, settings: RealSettings<'_>, etcd_url: &str) -> io::Result<Command> {
        let folder = settings.folder;
        let key = folder.join("accounts.key");
        if !key.exists() {
            let mut made = Command::new("openssl");
            made.args(["genrsa", "-out"]).arg(&key).arg("2048");
            if !made.stderr(Stdio::null()).status()?.success() {
                return Err(io::Error::other("openssl made no key"));
            }
        }
        let tokens = folder.join("tokens.csv");
        fs::write(
            &tokens,
            format!("{TOKEN},podway-test,podway-test,system:masters\n"),
        )?;
        let mut command = self.program("kube-apiserver", folder)?;
        command
            .args([
                "--authorization-mode=RBAC",
                // There is no controller to make accounts, and none that would take the taints of new nodes away.
                "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
                "--service-account-issuer=https://127.0.0.1/",
            ])
            .arg(format!("--bind-address={}", settings.address.ip()))
            .arg(format!("--secure-port={}", settings.address.port()))
            .arg(format!("--advertise-address={}", settings.advertised))
            .arg(format!(
                "--service-cluster-ip-range={}",
                settings.service_ranges.join(",")
            ))
            .arg(format!("--etcd-servers={etcd_url}"))
            .arg(option("--cert-dir", &folder.join("certs")))
            .arg(option("--token-auth-file", &tokens))
            .arg(option("--service-account-key-file", &key))
            .arg(option("--service-account-signing-key-file", &key));
        Ok(command)
    }

    /// One of the programs, which dies with its parent and writes into the folder.
    fn program(&self, name: &str, folder: &Path) -> io::Result<Command> {
        let path = folder.join(format!("{name}.log"));
        let log = OpenOptions::new().create(true).append(true).open(path)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.0.join(name));
        command.stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }
}

impl Real {
    /// Kills the API server; its state stays.
    pub fn stop(&mut self) {
        end(&mut self.api_server);
    }

    /// Starts the API server again on the same state.
    pub fn restart(&mut self) -> io::Result<()> {
        self.stop();
        self.api_server = self.start.spawn()?;
        Ok(())
    }

    /// Whether the API server has ended by itself, and how.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.api_server.try_wait().ok()??;
        Some(status.to_string())
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        end(&mut self.api_server);
        end(&mut self.etcd);
    }
}

/// A kubeconfig that leads to a real server at this address, which signs its own certificate.
pub fn real_kubeconfig(address: SocketAddr) -> String {
    format!(
        r#"apiVersion: v1
kind: Config
clusters: [{{ name: podway, cluster: {{ server: "https://{address}", insecure-skip-tls-verify: true }} }}]
users: [{{ name: podway, user: {{ token: {TOKEN} }} }}]
contexts: [{{ name: podway, context: {{ cluster: podway, user: podway }} }}]
current-context: podway
"#
    )
}

/// What makes a real server serve a kind of custom objects of the cluster, without a schema: it checks none of them.
///
/// `plural` is lower case, as in paths.
pub fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group, "scope": "Cluster",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
                "listKind": format!("{kind}List")},
            "versions": [{"name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

/// The path of custom resource definitions.
pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn end(child: &mut Child) {
    // One that ended by itself is ended.
    let _ = child.kill();
    let _ = child.wait();
}

fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

fn option(name: &str, value: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push("=");
    option.push(value);
    option
}
