//! Every key, every wrong value, and what is said of it.

use super::*;

const LEAST: &str = "node = \"n1\"\nsource = \"/m\"\nuplink = \"eth0\"\n";

#[test]
fn the_documented_example_is_the_defaults() {
    let example = include_str!("../../../../config/podway.toml");
    let documented = parse("config/podway.toml", example, None).expect("the example is legal");
    let least = "node = \"node1\"\nsource = \"/etc/podway/cluster\"\n";
    assert_eq!(documented, parse("least", least, None).expect("legal"));
}

#[test]
fn every_key_is_in_the_example() {
    let example = include_str!("../../../../config/podway.toml");
    for key in [
        "node",
        "source",
        "kubeconfig",
        "startup_taint",
        "uplink",
        "socket",
        "cni_state",
        "workers",
        "cores",
        "pod_mtu",
        "path_mtu_lifetime",
        "flows",
        "frames",
        "host_interface",
        "proc_sys",
        "service_ranges",
        "node_port_addresses",
        "allowed_external_ips",
        "masquerade_exempt",
        "snat_ports",
        "existing_connections",
        "tunnel",
        "health_address",
        "port",
        "vni",
        "syn",
        "established",
        "half_closed",
        "closed",
        "rst",
        "udp_one_way",
        "udp",
        "icmp",
        "other",
    ] {
        assert!(example.contains(&format!("{key} = ")), "{key}");
    }
}

#[test]
fn wrong_values_name_file_line_key_and_remedy() {
    for (line, said) in [
        (
            "workers = 0",
            "c:4: workers: 0 is out of range: give a whole number from 1 to 64",
        ),
        (
            "frames = 5000",
            "c:4: frames: 5000 is no power of two: give 4096 or 8192",
        ),
        (
            "pod_mtu = 900",
            "c:4: pod_mtu: 900 is out of range: give a whole number from 1280 to 65535",
        ),
        (
            "flows = \"many\"",
            "c:4: flows: invalid type: string \"many\", expected i64",
        ),
        (
            "socket = \"run\"",
            "c:4: socket: \"run\" is no socket path: give an absolute path of at most 107 bytes",
        ),
        (
            "cores = [0, 1]",
            "c:4: cores: 2 cores for 1 workers: list one core for each worker",
        ),
        (
            "service_ranges = [\"10.96.0.1/16\"]",
            "c:4: service_ranges: \"10.96.0.1/16\" has bits beyond its length: write \"10.96.0.0/16\"",
        ),
        (
            "service_ranges = [\"ten\"]",
            "c:4: service_ranges: \"ten\" is no range: give an address and a length, as in \"10.96.0.0/16\"",
        ),
        (
            "[vxlan]\nvni = 16777216",
            "c:5: vni: 16777216 is out of range: give a whole number from 0 to 16777215",
        ),
        (
            "snat_ports = \"61000\"",
            "c:4: snat_ports: \"61000\" is no range of ports: give the first and the last from 1024 up, as in \"61000-65535\"",
        ),
        (
            "snat_ports = \"32000-33000\"",
            "c:4: snat_ports: 32000-33000 overlaps the node ports, 30000-32767: give ports that nobody else uses, as in \"61000-65535\"",
        ),
        (
            "snat_ports = \"4000-5000\"",
            "c:4: snat_ports: 4000-5000 overlaps the tunnel's port 4789: give ports that nobody else uses, as in \"61000-65535\"",
        ),
        (
            "snat_ports = \"10000-11000\"",
            "c:4: snat_ports: 10000-11000 overlaps the port of `health_address`, 10256: give ports that nobody else uses, as in \"61000-65535\"",
        ),
        (
            "existing_connections = \"cut\"",
            "c:4: existing_connections: unknown variant `cut`, expected `judge` or `keep`",
        ),
        (
            "[tunnel]\nport = 4789",
            "c:4: tunnel: invalid type: map, expected vxlan, direct or auto; the tunnel's port and vni are in [vxlan]",
        ),
        (
            "tunnel = \"ipip\"",
            "c:4: tunnel: \"ipip\" is not known: give vxlan, direct or auto",
        ),
        (
            "health_address = \"localhost\"",
            "c:4: health_address: \"localhost\" is no address with a port: give one, as in \"[::]:10256\"",
        ),
        (
            "[timeouts]\nudp = 0",
            "c:5: udp: 0 is out of range: give a whole number from 1 to 864000",
        ),
        (
            "host_interface = \"podway-dp\"",
            "c:4: host_interface: \"podway-dp\" is the dataplane's own end: choose another name",
        ),
    ] {
        let error = parse("c", &format!("{LEAST}{line}\n"), None).expect_err(line);
        assert_eq!(error.to_string(), said);
    }
}

#[test]
fn timeouts_are_given_in_seconds() {
    let config = parse(
        "c",
        &format!("{LEAST}[timeouts]\nestablished = 86400\nhalf_closed = 60\nfin = 40\n"),
        None,
    );
    let flows = config.expect("legal").timeouts.of_flows();
    let expected = FlowTimeouts {
        established_ms: 86_400_000,
        half_closed_ms: 60_000,
        closed_ms: 40_000,
        ..FlowTimeouts::default()
    };
    assert_eq!(flows, expected);
}

#[test]
fn a_source_is_a_directory_or_the_clusters_api_server() {
    let of = |lines: &str| {
        parse(
            "c",
            &format!("node = \"n1\"\nuplink = \"eth0\"\n{lines}"),
            None,
        )
    };
    let directory = of("source = \"/m\"").expect("legal");
    assert_eq!(directory.source, Source::Directory("/m".into()));
    let cluster = of("source = \"kubernetes\"\nkubeconfig = \"/k\"").expect("legal");
    assert_eq!(cluster.source, Source::Kubernetes);
    assert_eq!(cluster.kubeconfig, Some("/k".into()));
    let error = of("source = \"/m\"\nkubeconfig = \"/k\"").expect_err("useless");
    assert_eq!(
        error.to_string(),
        "c:4: kubeconfig: is for source = \"kubernetes\" only: remove it, or change `source`"
    );
}

#[test]
fn unknown_and_missing_keys_are_errors() {
    let error = parse("c", &format!("{LEAST}worker = 2\n"), None).expect_err("unknown");
    assert!(
        error
            .to_string()
            .starts_with("c:4: unknown field `worker`, expected one of `node`, `source`"),
        "{error}"
    );
    let error = parse("c", "node = \"n1\"\n", None).expect_err("missing");
    assert_eq!(error.to_string(), "c:1: missing field `source`");
    let error = parse("c", "node = \"n1\nsource = 3", None).expect_err("no TOML");
    assert!(error.to_string().starts_with("c:1: node: "), "{error}");
}

#[test]
fn the_node_is_named_by_the_file_or_by_the_command_line() {
    let named = |node| parse("c", LEAST, node).expect("legal").node;
    assert_eq!((named(None), named(Some("n2"))), ("n1".into(), "n2".into()));
    let shared = "source = \"/m\"\n";
    let config = parse("c", shared, Some("n2")).expect("legal");
    assert_eq!((config.node.as_str(), config.uplink), ("n2", None));
    assert_eq!(
        parse("c", shared, None).expect_err("nameless").to_string(),
        "c:1: node: is missing: give the Node object's name here, or with --node"
    );
}

#[test]
fn a_missing_file_says_how_to_give_one() {
    let error = Config::read(Path::new("/nowhere/podway.toml"), None).expect_err("missing");
    assert_eq!(
        error.to_string(),
        "/nowhere/podway.toml: entity not found: give the configuration's path with --config, as in config/podway.toml"
    );
}
