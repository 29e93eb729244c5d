//! Which node of a Cluster owns which key.

use super::address::Endpoint;
use crc::{CRC_16_XMODEM, Crc, Table};
use redis::Value;

pub(super) const SLOTS: usize = 16384;
/// Masters of one Cluster: as many as it is made for.
const MAX_MASTERS: usize = 1_000;
/// A slot that no node serves.
pub(super) const NOBODY: u16 = u16::MAX;

const CRC: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_XMODEM);

/// The slot of a key: CRC16 of its hash tag, or of the whole key.
pub(super) fn slot_of(key: &[u8]) -> usize {
    usize::from(CRC.checksum(hash_tag(key))) % SLOTS
}

/// What lies between the first `{` and the next `}`, unless that is nothing.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let rest = key.get(open + 1..).unwrap_or_default();
    match rest.iter().position(|&byte| byte == b'}') {
        Some(close) if close > 0 => rest.get(..close).unwrap_or(key),
        _ => key,
    }
}

/// The masters of a Cluster and the index of the owner of each slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SlotTable {
    pub(super) masters: Vec<Endpoint>,
    pub(super) owners: Box<[u16]>,
}

impl SlotTable {
    /// From the answer to `CLUSTER SLOTS` of the node at `asked`, which may leave its own host out.
    pub(super) fn parse(answer: Value, asked: &Endpoint) -> Option<SlotTable> {
        let mut table = SlotTable { masters: Vec::new(), owners: vec![NOBODY; SLOTS].into() };
        for range in redis::from_redis_value::<Vec<Vec<Value>>>(answer).ok()? {
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &range[..] else {
                return None;
            };
            let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
            let [host, Value::Int(port), ..] = &master[..] else { return None };
            let host: String = redis::from_redis_value(host.clone()).unwrap_or_default();
            let index = table.index_of(beside(asked, &host, u16::try_from(*port).ok()?)?)?;
            table.owners.get_mut(first..=last)?.fill(index);
        }
        Some(table.in_order())
    }

    /// Masters by their address: nodes that agree answer in different orders.
    fn in_order(self) -> SlotTable {
        let SlotTable { masters, mut owners } = self;
        let mut order: Vec<usize> = (0..masters.len()).collect();
        order.sort_by_key(|&at| masters[at].to_string());
        let mut place = vec![NOBODY; masters.len()];
        for (new, &old) in order.iter().enumerate() {
            place[old] = u16::try_from(new).unwrap_or(NOBODY);
        }
        for owner in &mut owners {
            *owner = place.get(usize::from(*owner)).copied().unwrap_or(NOBODY);
        }
        SlotTable { masters: order.into_iter().map(|at| masters[at].clone()).collect(), owners }
    }

    fn index_of(&mut self, master: Endpoint) -> Option<u16> {
        let index = self.masters.iter().position(|known| *known == master).unwrap_or_else(|| {
            self.masters.push(master);
            self.masters.len() - 1
        });
        u16::try_from(index).ok().filter(|_| index < MAX_MASTERS)
    }
}

/// A node that another one named: it is reached the same way, and an empty host means the host that was asked.
fn beside(asked: &Endpoint, host: &str, port: u16) -> Option<Endpoint> {
    match asked {
        Endpoint::Tcp { host: asked_host, tls, .. } => {
            let host = if host.is_empty() || host == "?" { asked_host.clone() } else { host.to_owned() };
            Some(Endpoint::Tcp { host, port, tls: *tls })
        }
        Endpoint::Unix(_) if host.is_empty() || host == "?" => None,
        Endpoint::Unix(_) => Some(Endpoint::Tcp { host: host.to_owned(), port, tls: false }),
    }
}

/// Where an error reply sends the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) to: Endpoint,
    /// `ASK`: this once, with `ASKING` before it. `MOVED` is for good.
    pub(super) asking: bool,
}

impl Redirect {
    /// From `MOVED slot host:port` or `ASK slot host:port`, as the node at `from` said it.
    pub(super) fn parse(error: &str, from: &Endpoint) -> Option<Redirect> {
        let mut words = error.split(' ');
        let asking = match words.next()? {
            "MOVED" => false,
            "ASK" => true,
            _ => return None,
        };
        let (host, port) = words.nth(1)?.rsplit_once(':')?;
        Some(Redirect { to: beside(from, host, port.parse().ok()?)?, asking })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port, tls: true }
    }

    #[test]
    fn slots_are_those_of_the_servers() {
        // As a server of version 7.0 answers them to CLUSTER KEYSLOT.
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b""), 0);
        assert_eq!(slot_of(b"a{foo}b"), slot_of(b"foo"));
        assert_eq!(slot_of(b"{foo}{bar}"), slot_of(b"foo"));
        assert_eq!(slot_of(b"foo{}{bar}"), 8363);
        assert_eq!(slot_of(b"foo{{bar}}"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar"), 15278);
    }

    #[test]
    fn redirections_are_read_and_an_empty_host_is_the_one_that_was_asked() {
        let from = node("seed", 1);
        let moved = Redirect::parse("MOVED 3999 10.0.0.2:6381", &from);
        assert_eq!(moved, Some(Redirect { to: node("10.0.0.2", 6381), asking: false }));
        let ask = Redirect::parse("ASK 3999 :6381", &from);
        assert_eq!(ask, Some(Redirect { to: node("seed", 6381), asking: true }));
        let moved = Redirect::parse("MOVED 1 fe80::1:6381", &from);
        assert_eq!(moved, Some(Redirect { to: node("fe80::1", 6381), asking: false }));
        for error in ["MOVED", "MOVED 1", "MOVED 1 host", "MOVED 1 host:x", "ERR MOVED", "OOM"] {
            assert_eq!(Redirect::parse(error, &from), None);
        }
    }

    #[test]
    fn a_slot_table_with_holes_or_nonsense_is_told_from_a_whole_one() {
        let range = |first, last, port| {
            let master = Value::Array(vec![Value::BulkString(b"h".to_vec()), Value::Int(port)]);
            Value::Array(vec![Value::Int(first), Value::Int(last), master])
        };
        let parse = |ranges| SlotTable::parse(Value::Array(ranges), &node("seed", 1));
        let whole = parse(vec![range(0, 100, 1), range(101, 16383, 2)]).unwrap();
        assert_eq!((whole.masters.len(), whole.owners[100], whole.owners[101]), (2, 0, 1));
        assert_eq!(parse(vec![range(0, 100, 1)]).unwrap().owners[101], NOBODY);
        assert_eq!(parse(vec![range(101, 16383, 2), range(0, 100, 1)]), Some(whole), "in whatever order");
        let many = |masters| parse((0..masters).map(|port| range(port, port, port + 1)).collect());
        assert!(many(1_000).is_some() && many(1_001).is_none());
        for wrong in [range(0, 16384, 1), range(-1, 5, 1), range(7, 5, 1), range(0, 1, 70000), Value::Nil] {
            assert_eq!(parse(vec![wrong]), None);
        }
    }
}
