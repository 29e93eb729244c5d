//! `rp_filter`: strict, it drops every IPv4 datagram whose source is not routed by the interface that it came in by. An overlay
//! or a second uplink makes sources so, and no socket hears of it.

use std::path::Path;

/// Interfaces among `names` on which the filter is strict: the higher of the interface's value and that for all is 1.
pub fn strict(names: &[String]) -> Vec<&str> {
    strict_in(Path::new("/proc/sys/net/ipv4/conf"), names)
}

fn strict_in<'a>(tree: &Path, names: &'a [String]) -> Vec<&'a str> {
    let value = |name: &str| {
        let text = std::fs::read_to_string(tree.join(name).join("rp_filter")).unwrap_or_default();
        text.trim().parse::<u8>().unwrap_or(0)
    };
    let all = value("all");
    names.iter().map(String::as_str).filter(|name| value(name).max(all) == 1).collect()
}

/// Datagrams that the filter dropped in this network namespace so far.
pub fn dropped() -> Option<u64> {
    column(&std::fs::read_to_string("/proc/thread-self/net/netstat").ok()?, "TcpExt:", "IPReversePathFilter")
}

/// A table of `/proc/net/netstat`: a line of names, then a line of numbers.
fn column(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(table));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|found| found == name)?;
    numbers.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_of_both_settings_holds() {
        let tree = tempfile::tempdir().unwrap();
        for (name, value) in [("all", "0"), ("eth0", "1\n"), ("eth1", "2\n"), ("eth2", "0")] {
            std::fs::create_dir(tree.path().join(name)).unwrap();
            std::fs::write(tree.path().join(name).join("rp_filter"), value).unwrap();
        }
        let names = ["eth0", "eth1", "eth2", "eth9"].map(str::to_owned);
        assert_eq!(strict_in(tree.path(), &names), ["eth0"]);
        std::fs::write(tree.path().join("all/rp_filter"), "1").unwrap();
        assert_eq!(strict_in(tree.path(), &names), ["eth0", "eth2", "eth9"]);
    }

    #[test]
    fn a_number_is_found_by_its_name() {
        let text = "TcpExt: SyncookiesSent IPReversePathFilter\nTcpExt: 5 7\nIpExt: A\nIpExt: 1\n";
        assert_eq!(column(text, "TcpExt:", "IPReversePathFilter"), Some(7));
        assert_eq!(column(text, "IpExt:", "B"), None);
        assert!(dropped().is_some(), "the kernel's own table");
    }
}
