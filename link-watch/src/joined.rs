//! Whether the kernel still has a membership, from `/proc/net`.
//!
//! A join that says "already" proves nothing: the socket remembers it with the number of an interface that may be gone, or
//! whose multicast state was made anew (IPv6 turned off and on, an MTU below 1,280). What the kernel takes is in these tables.
//!
//! Cost: reads and parses two tables, four where sources matter. For cold paths.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The memberships of this network namespace, read once for many questions.
#[derive(Clone, Debug, Default)]
pub struct JoinTable {
    /// By number of the interface; the source where it is a matter of one.
    joined: HashSet<(u32, IpAddr, Option<IpAddr>)>,
}

impl JoinTable {
    /// Reads the tables of the thread's network namespace.
    ///
    /// # Errors
    /// `/proc` is not there, or hides them.
    pub fn read() -> io::Result<JoinTable> {
        let table = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        // A family that is turned off has no table.
        let or_empty = |name: &str| match table(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        };
        let mut tables = JoinTable::default();
        tables.add_v4(&table("igmp")?);
        tables.add_v6(&or_empty("igmp6")?);
        for sources in ["mcfilter", "mcfilter6"] {
            tables.add_sources(&or_empty(sources)?);
        }
        Ok(tables)
    }

    /// Whether a socket of this namespace has the group on the interface, from this source where one is named.
    pub fn has(&self, index: u32, group: IpAddr, source: Option<IpAddr>) -> bool {
        self.joined.contains(&(index, group, source))
    }

    /// A line of an interface begins with its number; its groups stand below, in the machine's order of bytes.
    fn add_v4(&mut self, table: &str) {
        let mut index = None;
        for line in table.lines().skip(1) {
            let Some(first) = line.split_whitespace().next() else { continue };
            if line.starts_with(|c: char| c.is_ascii_digit()) {
                index = first.parse().ok();
            } else if let (Some(index), Ok(group)) = (index, u32::from_str_radix(first, 16)) {
                self.joined.insert((index, Ipv4Addr::from(group.to_ne_bytes()).into(), None));
            }
        }
    }

    /// A row: number, name, group.
    fn add_v6(&mut self, table: &str) {
        for line in table.lines() {
            let row: Vec<_> = line.split_whitespace().collect();
            if let [index, _, group, ..] = row[..]
                && let (Ok(index), Some(group)) = (index.parse(), address(group))
            {
                self.joined.insert((index, group, None));
            }
        }
    }

    /// A row: number, name, group, source, how many sockets include it, how many exclude it.
    fn add_sources(&mut self, table: &str) {
        for line in table.lines() {
            let row: Vec<_> = line.split_whitespace().collect();
            if let [index, _, group, source, included, ..] = row[..]
                && let (Ok(index), Ok(included)) = (index.parse(), included.parse::<u32>())
                && let (Some(group), Some(source)) = (address(group), address(source))
                && included > 0
            {
                self.joined.insert((index, group, Some(source)));
            }
        }
    }
}

/// `0x` and eight digits, or 32 digits.
fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix("0x") {
        Some(v4) => Some(Ipv4Addr::from(u32::from_str_radix(v4, 16).ok()?).into()),
        None if text.len() == 32 => Some(Ipv6Addr::from(u128::from_str_radix(text, 16).ok()?).into()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> JoinTable {
        let mut tables = JoinTable::default();
        tables.add_v4(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
             12\teth0      :     2      V3\n\t\t\t\t0300C0EF     1 0:00000000\t\t0\n",
        );
        tables.add_v6(
            "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
             12   eth0            ff0500000000000000000000000b0003     1 00000004 0\n",
        );
        tables.add_sources(
            "Idx Device        MCA        SRC    INC    EXC\n\
             12   eth0 0xe8000001 0x0a000001      1      0\n",
        );
        tables.add_sources(
            "Idx Device                Multicast Address                   Source Address    INC    EXC\n\
             12   eth0 ff35000000000000000000000000000b fd100000000000000000000000000001      1      0\n\
             12   eth0 ff35000000000000000000000000000c fd100000000000000000000000000001      0      1\n",
        );
        tables
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_group_is_found_on_its_interface_alone() {
        let tables = tables();
        if cfg!(target_endian = "little") {
            assert!(tables.has(12, ip("239.192.0.3"), None));
            assert!(!tables.has(1, ip("239.192.0.3"), None));
            assert!(!tables.has(12, ip("224.0.0.1"), None), "of another interface");
        }
        assert!(tables.has(12, ip("ff05::b:3"), None));
        assert!(!tables.has(2, ip("ff05::b:3"), None), "2 is not 12");
        assert!(!tables.has(12, ip("ff05::b:4"), None));
    }

    #[test]
    fn a_source_counts_where_it_is_included() {
        let tables = tables();
        assert!(tables.has(12, ip("232.0.0.1"), Some(ip("10.0.0.1"))));
        assert!(!tables.has(12, ip("232.0.0.1"), Some(ip("10.0.0.2"))));
        assert!(tables.has(12, ip("ff35::b"), Some(ip("fd10::1"))));
        assert!(!tables.has(12, ip("ff35::c"), Some(ip("fd10::1"))), "excluded");
    }

    #[test]
    fn the_kernels_own_tables_are_read() {
        let tables = JoinTable::read().unwrap();
        assert!(tables.has(1, ip("224.0.0.1"), None), "lo is always in the group of all hosts");
        assert!(!tables.has(1, ip("239.255.77.1"), None));
    }
}
