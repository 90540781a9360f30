//! ICMP errors: they belong to the flow whose packet they embed, and are translated as that flow is (RFC 5508).

use podway_wire::{Embedded, FlowKey};

/// An ICMP error's new outer addresses and the key of the packet that it embeds, as its receiver knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Related {
    pub(crate) outer: FlowKey,
    pub(crate) inner: FlowKey,
}

/// Translates an error from `outer`, about a packet `embedded`, of a flow of which one key is `this` (the embedded
/// packet's reverse: the error travels as packets of this key do) and the other is `other`.
pub(crate) fn related(outer: &FlowKey, embedded: &Embedded, other: &FlowKey) -> Related {
    let this = embedded.key.reverse();
    // A router on the way speaks for itself; the peer of the flow speaks under the name that the receiver knows.
    let source = if outer.source == this.source {
        other.target
    } else {
        outer.source
    };
    let outer = FlowKey {
        source,
        target: other.source,
        ..*outer
    };
    Related {
        outer,
        inner: *other,
    }
}
