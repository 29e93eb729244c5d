//! `oncecast nack`: asks a retry endpoint for one number or a range of a flow, and shows what comes back.

use crate::values;
use anyhow::Context;
use frame::{Ack, Datagram, HashKey, Nack, Response, SeqNum};
use multicast_io::{Burst, Interface, Ready, Receiver, SocketOptions, wildcard};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// An endpoint answers an address that has not proved itself with at most three times what it sent, so the request is
/// padded: every server ignores what follows the 64 bytes.
const PADDED: usize = 1400;

/// Send one NACK to a retry endpoint, print its replies and the frames that come.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Retry endpoint, HOST:PORT (its --nack-port, 9300 by default).
    #[arg(long, value_name = "HOST:PORT", value_parser = values::host_port)]
    to: SocketAddr,

    /// Flow to ask about: the HashKey, 16 hexadecimal digits as in bytes 40-47 of its frames.
    #[arg(long, value_name = "HEX", value_parser = hash_key)]
    hash_key: HashKey,

    /// Number, or range FIRST-LAST (at most 256 numbers).
    #[arg(long, value_name = "N|FIRST-LAST", value_parser = range)]
    seq: (u64, u64),

    /// SubtreeID of the flow, 64 hexadecimal digits (informational).
    #[arg(long, value_name = "HEX", value_parser = id, default_value = ZERO_ID, hide_default_value = true)]
    subtree: [u8; 32],

    /// Interface on which to join the fabric's groups, to see repairs that are multicast; without it only unicast
    /// answers are seen.
    #[arg(long, value_name = "NAME", env = "MULTICAST_IF")]
    iface: Option<String>,

    #[command(flatten)]
    groups: Groups,

    /// How long to wait for answers.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = values::seconds, allow_negative_numbers = true)]
    timeout: f64,

    /// One JSON object per reply and frame, one a line.
    #[arg(long)]
    json: bool,
}

/// Where repairs may arrive.
#[derive(clap::Args, Debug)]
struct Groups {
    /// UDP port of the data groups.
    #[arg(long, value_name = "PORT", default_value_t = 9001, env = "LISTEN_PORT")]
    listen_port: u16,

    /// Shard bits of the fabric.
    #[arg(long, value_name = "BITS", default_value_t = 2, env = "SHARD_BITS", value_parser = clap::value_parser!(u8).range(0..=15))]
    shard_bits: u8,

    /// Scope of the groups: link, site, org or global.
    #[arg(long, value_name = "SCOPE", default_value = "site", env = "MC_SCOPE", value_parser = scope)]
    scope: frame::Scope,

    /// Group id of the fabric, decimal or 0x….
    #[arg(long, value_name = "ID", default_value = "0x000B", env = "MC_GROUP_ID", value_parser = group_id)]
    mc_group_id: u16,

    /// Fabric on IPv4 groups 239.NET.x.y instead of IPv6.
    #[arg(long, value_name = "NET")]
    mc_ipv4_net: Option<u8>,
}

const ZERO_ID: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn hash_key(text: &str) -> Result<HashKey, String> {
    let digits = text.trim_start_matches("0x");
    match (digits.len(), u64::from_str_radix(digits, 16)) {
        (16, Ok(key)) => Ok(HashKey(key)),
        _ => Err("want 16 hexadecimal digits".into()),
    }
}

fn id(text: &str) -> Result<[u8; 32], String> {
    hex::FromHex::from_hex(text).map_err(|_| "want 64 hexadecimal digits".into())
}

fn range(text: &str) -> Result<(u64, u64), String> {
    const ACCEPTED: &str = "want a number from 1, or FIRST-LAST with at most 256 numbers";
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first >= 1 && last >= first && last - first < 256 => Ok((first, last)),
        _ => Err(ACCEPTED.into()),
    }
}

fn scope(text: &str) -> Result<frame::Scope, String> {
    match text {
        "link" => Ok(frame::Scope::Link),
        "site" => Ok(frame::Scope::Site),
        "org" => Ok(frame::Scope::Organisation),
        "global" => Ok(frame::Scope::Global),
        _ => Err("want link, site, org, global".into()),
    }
}

fn group_id(text: &str) -> Result<u16, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "want 0 to 65535, or 0x0000 to 0xFFFF".into())
}

/// Runs the command. Exit status 0: every number came; 1: at least one did not.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(ask(args))
}

async fn ask(args: Args) -> anyhow::Result<ExitCode> {
    let to = args.to;
    let mut search = Search::new(&args);
    let mut group_socket = args.iface.as_deref().map(|name| join_all(name, &args.groups)).transpose()?;
    let any = SocketAddr::new(wildcard(to.is_ipv4()), 0);
    let mut request_socket = Ready::new(Receiver::open(&SocketOptions::new(any))?)?;
    let mut request = [0; PADDED];
    request[..Nack::LEN].copy_from_slice(&search.nack.encode());
    request_socket.get_ref().send_to(&request, to, None).with_context(|| format!("--to {to}"))?;

    let (mut replies, mut repairs) = (Burst::new(16, 0), Burst::new(16, 0));
    let end = Instant::now() + Duration::try_from_secs_f64(args.timeout.max(0.0)).unwrap_or(Duration::MAX);
    while !search.is_over() {
        tokio::select! {
            got = receive(Some(&mut request_socket), &mut replies) => got?,
            got = receive(group_socket.as_mut(), &mut repairs) => got?,
            () = tokio::time::sleep_until(end.into()) => break,
        }
        for burst in [&mut replies, &mut repairs] {
            for arrival in burst.arrivals() {
                search.take(burst.bytes(arrival.span), arrival.source);
            }
            burst.clear();
        }
    }
    Ok(search.verdict())
}

/// Receives once; pends forever without a socket.
async fn receive(socket: Option<&mut Ready<Receiver>>, burst: &mut Burst) -> anyhow::Result<()> {
    let Some(socket) = socket else { return std::future::pending().await };
    socket.read_with(|socket| socket.receive(burst, 16)).await.map(|_| ()).context("receiving")
}

/// Opens the data port and joins every data and control group of the fabric on `iface`.
fn join_all(iface: &str, groups: &Groups) -> anyhow::Result<Ready<Receiver>> {
    let interface = Interface::by_name(iface)?;
    let bits = frame::ShardBits::new(groups.shard_bits).context("--shard-bits")?;
    let fabric = match groups.mc_ipv4_net {
        Some(net) => frame::Fabric::V4 { net },
        None => frame::Fabric::v6(frame::SourceMode::Asm, groups.scope, groups.mc_group_id)
            .context("--scope does not exist for any-source groups")?,
    };
    let any = wildcard(fabric.is_v4());
    let mut options = SocketOptions::new(SocketAddr::new(any, groups.listen_port));
    options.reuse_address = true;
    options.interface = Some(interface.clone());
    options.only_interface = true;
    let receiver = Receiver::open(&options)?;
    let control = [frame::GroupIndex::BLOCK_BROADCAST, frame::GroupIndex::SUBTREE_DATA];
    #[allow(clippy::cast_possible_truncation, reason = "at most 2^15 groups")]
    let shards = (0..bits.groups()).map(|index| frame::GroupIndex(index as u16));
    for group in shards.chain(control) {
        receiver.join(fabric.address(group), &interface)?;
    }
    Ok(Ready::new(receiver)?)
}

/// What is still awaited, and what came.
struct Search {
    nack: Nack,
    open: BTreeSet<u64>,
    missed: BTreeSet<u64>,
    json: bool,
    /// An ACK said that repairs were multicast, and no group was joined to see them.
    unseen: bool,
    joined: bool,
}

impl Search {
    fn new(args: &Args) -> Search {
        let (first, last) = args.seq;
        let nack = Nack {
            flags: Nack::EXTENDED,
            hash_key: args.hash_key,
            start: SeqNum(first),
            end: SeqNum(last),
            subtree_id: args.subtree,
        };
        Search {
            nack,
            open: (first..=last).collect(),
            missed: BTreeSet::new(),
            json: args.json,
            unseen: false,
            joined: args.iface.is_some(),
        }
    }

    fn is_over(&self) -> bool {
        self.open.iter().all(|seq| self.missed.contains(seq))
    }

    fn verdict(&self) -> ExitCode {
        if self.open.is_empty() {
            return ExitCode::SUCCESS;
        }
        let waiting = self.open.difference(&self.missed).count();
        if waiting > 0 && !self.json {
            let hint = if self.unseen { "; the repairs were multicast: --iface NAME shows them" } else { "" };
            let asked = self.nack.end.0 - self.nack.start.0 + 1;
            println!("{waiting} of {asked} numbers did not come{hint}");
        }
        ExitCode::FAILURE
    }

    fn take(&mut self, datagram: &[u8], from: SocketAddr) {
        match Datagram::decode(datagram) {
            Ok(Datagram::Response(response)) => self.take_response(&response, from),
            Ok(Datagram::Data(data)) => {
                self.take_frame(
                    datagram,
                    data.wire_len(),
                    data.kind.name(),
                    data.hash_key,
                    data.seq_num,
                    from,
                );
            }
            Ok(Datagram::Fragment(part)) => {
                self.take_frame(datagram, part.wire_len(), "fragment", part.hash_key, part.seq_num, from);
            }
            _ => {}
        }
    }

    fn take_frame(
        &mut self,
        datagram: &[u8],
        len: usize,
        kind: &str,
        key: HashKey,
        seq: SeqNum,
        from: SocketAddr,
    ) {
        if key != self.nack.hash_key || !self.open.remove(&seq.0) {
            return;
        }
        let bytes = hex::encode(&datagram[..len]);
        if self.json {
            let line = serde_json::json!({"frame": {
                "from": from.to_string(), "kind": kind, "hash_key": format!("{:016x}", key.0), "seq": seq.0,
                "len": len, "hex": bytes,
            }});
            println!("{line}");
        } else {
            println!(
                "FRAME {kind} number {} of flow {:016x}, {len} bytes from {from}\n{bytes}",
                seq.0, key.0
            );
        }
    }

    fn take_response(&mut self, response: &Response, from: SocketAddr) {
        self.unseen |= !self.joined && matches!(response.verdict, Ack::Ack { multicast: true, .. });
        let in_answer = |seq: &u64| response.extended.is_none_or(|more| more.is_missing(SeqNum(*seq)));
        let not_found: Vec<u64> = match (response.verdict, response.extended) {
            (Ack::Miss, _) | (Ack::Ack { .. }, Some(_)) => {
                self.open.iter().copied().filter(in_answer).collect()
            }
            _ => Vec::new(),
        };
        let name = match response.verdict {
            Ack::Miss => "MISS",
            Ack::Ack { .. } => "ACK",
            Ack::Throttled { .. } => "THROTTLED",
        };
        self.missed.extend(&not_found);
        if self.json {
            let line = serde_json::json!({"reply": {
                "from": from.to_string(), "type": name, "seq": response.seq_num.0, "not_found": not_found,
                "detail": format!("{:?}", response.verdict),
            }});
            println!("{line}");
        } else if not_found.is_empty() {
            println!("{name} from {from} ({:?})", response.verdict);
        } else {
            println!("{name} from {from}: not found: {not_found:?}");
        }
    }
}
