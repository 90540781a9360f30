//! What routers said of narrower paths, as `podway show status` tells it.

use podway_engine::Paths;
use podway_state::PathMtus;
use podway_wire::Addr;
use serde_json::{Value, json};

/// Paths of each kind that one answer shows at most.
const SHOWN: usize = 1_000;

/// The path MTUs that are in force, in bytes: of peers' tunnels outer headers included.
pub(super) fn path_mtus(paths: &Paths, now_ms: u32) -> Value {
    let of = |by: &'static str, paths: &PathMtus| -> Vec<Value> {
        let known = paths.iter(now_ms).take(SHOWN);
        let row = known.map(|path| {
            let left_ms = paths.lifetime_ms().saturating_sub(path.age_ms(now_ms));
            json!({
                "to": Addr::of_words(path.target).to_string(),
                "by": by,
                "mtu": path.mtu,
                "seconds_left": left_ms / 1_000,
            })
        });
        row.collect()
    };
    let [mut all, plain] = [of("tunnel", &paths.tunnels), of("wire", &paths.plain)];
    all.extend(plain);
    Value::from(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r6_paths_are_told_with_what_fits_and_for_how_long() {
        let paths = Paths::new(600_000);
        let [peer, outside] = [
            Addr::v4([192, 168, 50, 2]),
            Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
        ];
        paths.tunnels.lower(peer.words(), 1, 1_400, 0);
        paths.plain.lower(outside.words(), 2, 1_280, 100_000);
        let row = |to: &str, by: &str, mtu: u16, seconds_left: u32| json!({"to": to, "by": by, "mtu": mtu, "seconds_left": seconds_left});
        assert_eq!(
            path_mtus(&paths, 110_000),
            json!([
                row("192.168.50.2", "tunnel", 1_400, 490),
                row("2001:db8::7", "wire", 1_280, 590)
            ])
        );
        assert_eq!(
            path_mtus(&paths, 600_000),
            json!([row("2001:db8::7", "wire", 1_280, 100)])
        );
    }
}
