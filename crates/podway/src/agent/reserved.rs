//! `net.ipv4.ip_local_reserved_ports`: ports that the kernel picks for nobody, as the kernel writes them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// A set of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reserved(BTreeSet<u16>);

impl Reserved {
    /// Reads such as `8080,61000-65535`; what is no port is read over.
    pub(super) fn of_text(text: &str) -> Reserved {
        let ranges = text.trim().split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        });
        Reserved(ranges.flatten().collect())
    }

    /// Puts ports in.
    pub(super) fn put(&mut self, ports: &RangeInclusive<u16>) {
        self.0.extend(ports.clone());
    }

    /// Takes ports out.
    pub(super) fn take(&mut self, ports: &RangeInclusive<u16>) {
        self.0.retain(|port| !ports.contains(port));
    }

    /// The line to write.
    pub(super) fn text(&self) -> String {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in &self.0 {
            match ranges.last_mut() {
                Some(last) if u32::from(*last.end()) + 1 == u32::from(*port) => {
                    *last = *last.start()..=*port;
                }
                Some(_) | None => ranges.push(*port..=*port),
            }
        }
        let texts = ranges
            .iter()
            .map(|range| match range.start() == range.end() {
                true => range.start().to_string(),
                false => format!("{}-{}", range.start(), range.end()),
            });
        texts.collect::<Vec<_>>().join(",") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_changed_and_written_as_the_kernel_writes_it() {
        for line in ["\n", "8080\n", "22,8080-8082,61000-65535\n"] {
            assert_eq!(Reserved::of_text(line).text(), line);
        }
        let mut ports = Reserved::of_text("8081,odd,8079-8080,0");
        assert_eq!(ports.text(), "0,8079-8081\n");
        ports.put(&(65_534..=65_535));
        ports.take(&(8_080..=8_080));
        assert_eq!(ports.text(), "0,8079,8081,65534-65535\n");
    }
}
