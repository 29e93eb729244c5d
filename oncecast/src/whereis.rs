//! `oncecast where`: what became of a transaction, from what nodes and the shared store still remember.

use crate::status;
use anyhow::Context;
use cache_backend::{KeyValues, Session};
use serde_json::{Value, json};
use service::config::BackendArgs;
use service::config::{BackendKind, Purpose};
use std::net::ToSocketAddrs;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use txidset::{ClaimKey, ClaimValue, Class, Found, Holder, KeyStyle, Names, Record};

/// Longest chain of takeovers that is followed.
const CHAIN: usize = 9;

/// Asks nodes and the shared store what became of a transaction.
///
/// Nodes remember their last 131,072 frames a worker, the store what --txid-dedup-ttl keeps.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Transaction, as explorers show it: 64 hex digits.
    #[arg(value_name = "TXID", value_parser = txid)]
    txid: Txid,

    /// Admin addresses (--metrics-addr) of proxies and listeners, HOST:PORT; repeat or separate by commas.
    #[arg(long, value_name = "ADDRS", value_delimiter = ',')]
    nodes: Vec<String>,

    /// Prefix of the proxies' claims (--txid-dedup-prefix).
    #[arg(long, value_name = "PREFIX", default_value = "bsp:tx:")]
    txid_dedup_prefix: String,

    /// Prefix of the listeners' claims (--egress-dedup-prefix).
    #[arg(long, value_name = "PREFIX", default_value = "bsl:egr:")]
    egress_dedup_prefix: String,

    /// Consumers (--deployment-id of their listeners) whose claims are looked up too; repeat or separate by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    deployment_id: Vec<String>,

    #[command(flatten)]
    backend: BackendArgs,

    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// An id in internal byte order and as it was written.
#[derive(Clone, Debug)]
struct Txid {
    id: [u8; 32],
    text: String,
}

fn txid(text: &str) -> Result<Txid, String> {
    let mut id = [0; 32];
    hex::decode_to_slice(text, &mut id).map_err(|_| "accepted: 64 hex digits".to_owned())?;
    id.reverse();
    Ok(Txid { id, text: text.to_lowercase() })
}

/// Runs the command. Exit status 0 if anybody knew the transaction.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let kind = args.backend.kind_or(BackendKind::None)?;
    anyhow::ensure!(
        !args.nodes.is_empty() || kind != BackendKind::None,
        "nobody to ask: give --nodes HOST:PORT,... or --redis-addr HOST:PORT"
    );
    let claims = match kind {
        BackendKind::None => Vec::new(),
        kind => {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
            runtime.block_on(claims(&args, kind))?
        }
    };
    let nodes: Vec<Value> = args.nodes.iter().map(|node| ask(node, &args.txid.text)).collect();
    let known = !claims.is_empty() || nodes.iter().any(|node| frames_of(node).next().is_some());
    if args.json {
        println!("{}", json!({ "txid": args.txid.text, "claims": claims, "nodes": nodes }));
    } else {
        print(&claims, &nodes);
    }
    Ok(if known { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(node: &str, txid: &str) -> Value {
    let answer = || -> anyhow::Result<Value> {
        let address = node.to_socket_addrs()?.next().context("no address")?;
        let (code, body) = status::get(address, &format!("/where?txid={txid}"))?;
        anyhow::ensure!(code == 200, "HTTP {code}: {}", body.trim());
        serde_json::from_str(&body).context("not JSON")
    };
    let mut answer = answer().unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
    answer["node"] = node.into();
    answer
}

/// The claims of every class and gate, with their takeovers in order.
async fn claims(args: &Args, kind: BackendKind) -> anyhow::Result<Vec<Value>> {
    let backend = cache_backend::open(args.backend.settings(kind, Purpose::Claims)?)
        .await
        .context("the shared store")?
        .context("the shared store is off")?;
    let session = backend.session().await.context("the shared store")?;
    let ingress = ("proxies".to_owned(), args.txid_dedup_prefix.clone());
    let egress = args
        .deployment_id
        .iter()
        .map(|name| (format!("listeners of {name}"), format!("{}{name}:", args.egress_dedup_prefix)));
    let mut claims = Vec::new();
    for (gate, prefix) in [ingress].into_iter().chain(egress) {
        let names = Names::new(prefix.as_bytes(), KeyStyle::Hex);
        for class in [Class::Tx, Class::Anchor] {
            let key = ClaimKey { class, id: args.txid.id };
            follow(&*session, &names, &key, &gate, &mut claims).await?;
        }
    }
    drop(session);
    backend.close().await;
    Ok(claims)
}

/// A claim and its takeovers.
async fn follow(
    session: &dyn Session,
    names: &Names,
    key: &ClaimKey,
    gate: &str,
    out: &mut Vec<Value>,
) -> anyhow::Result<()> {
    let mut chain: Vec<Holder> = Vec::new();
    while chain.len() < CHAIN {
        let mut name = Vec::new();
        names.claim(key, &chain, &mut name);
        let Some(value) = get(session, &name).await? else { return Ok(()) };
        let mut claim = json!({
            "gate": gate,
            "class": key.class.label(),
            "takeover": !chain.is_empty(),
        });
        let (owner, epoch) = match Found::parse(&value) {
            Found::Claim(ClaimValue { owner, epoch, .. }) => (owner, epoch),
            other => {
                describe(&other, &mut claim);
                out.push(claim);
                return Ok(());
            }
        };
        let mut record = Vec::new();
        names.record(owner, &mut record);
        let record = get(session, &record).await?.and_then(|bytes| Record::parse(&bytes));
        claim["owner"] = format!("{owner:016x}").into();
        claim["epoch"] = epoch.into();
        claim["settled"] = record.is_some_and(|record| epoch <= record.settled).into();
        out.push(claim);
        chain.push(Holder { owner, epoch });
    }
    Ok(())
}

/// What stands where a claim would, and is none of an Oncecast proxy or listener.
fn describe(found: &Found, claim: &mut Value) {
    claim["held_by"] = match found {
        Found::Marked(mark) => {
            claim["marked"] = true.into();
            claim["flow"] = format!("{:016x}", mark.flow).into();
            claim["seq"] = mark.number.into();
            claim["unix_seconds"] = mark.seconds.into();
            format!(
                "a listener, which saw it on the fabric at {} s (Unix), flow {:016x} number {}",
                mark.seconds, mark.flow, mark.number
            )
            .into()
        }
        Found::Unknown => "a node of another version".into(),
        Found::Plain | Found::Claim(_) => "a Go node, or --claim-mode=simple".into(),
    };
}

async fn get(session: &dyn Session, key: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
    let mut keys = KeyValues::new();
    keys.push(key, &[]);
    let answers = session.get(keys, Instant::now() + Duration::from_secs(2)).await;
    let answer = answers.into_iter().next().context("the shared store gave no answer")?;
    Ok(answer.context("the shared store")?.map(|value| value.to_vec()))
}

/// (worker, frame) of a node's answer.
fn frames_of(node: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let workers = node["workers"].as_array().into_iter().flatten();
    workers.flat_map(|worker| {
        worker["frames"].as_array().into_iter().flatten().map(move |frame| (worker, frame))
    })
}

/// The node and worker that claim as `owner` now.
fn name_of(owner: &Value, nodes: &[Value]) -> Option<String> {
    nodes.iter().find_map(|node| {
        let worker = node["workers"].as_array()?.iter().find(|worker| worker["owner"] == *owner)?;
        Some(format!("{} worker {}", text(&node["node"]), text(&worker["worker"])))
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn print(claims: &[Value], nodes: &[Value]) {
    for claim in claims {
        let (gate, class) = (text(&claim["gate"]), text(&claim["class"]));
        let verb = match (claim["takeover"] == true, claim["marked"] == true) {
            (true, _) => "taken over",
            (_, true) => "marked",
            _ => "claimed",
        };
        match claim["held_by"].as_str() {
            Some(holder) => println!("{gate}: {class} {verb} by {holder}"),
            None => {
                let settled = if claim["settled"] == true { "settled" } else { "not settled" };
                let owner = &claim["owner"];
                let name =
                    name_of(owner, nodes).unwrap_or_else(|| "a worker that is not among --nodes".into());
                let (epoch, owner) = (&claim["epoch"], text(owner));
                println!("{gate}: {class} {verb} in epoch {epoch} by {owner} ({name}), {settled}");
            }
        }
    }
    for node in nodes {
        let name = format!("{} {}", text(&node["role"]), text(&node["node"]));
        if let Some(error) = node["error"].as_str() {
            println!("{}: {error}", text(&node["node"]));
            continue;
        }
        let mut any = false;
        for (worker, frame) in frames_of(node) {
            any = true;
            let number = match frame["flow"].as_str() {
                Some(flow) => format!(", flow {flow} number {}", frame["seq"]),
                None => String::new(),
            };
            let (did, worker) = (text(&frame["did"]), text(&worker["worker"]));
            println!("{name}: {did} by worker {worker} at {} ms (Unix){number}", frame["unix_ms"]);
        }
        if !any {
            println!("{name}: nothing remembered");
        }
    }
    if claims.is_empty() && nodes.is_empty() {
        println!("unknown to the shared store");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_told_from_a_claim() {
        let mark = txidset::CourtesyMark { flow: 0xAB, seconds: 7, number: 3, id: [1; 8] };
        let mut claim = json!({});
        describe(&Found::parse(&mark.encode()), &mut claim);
        assert_eq!((&claim["marked"], &claim["seq"]), (&json!(true), &json!(3)));
        assert!(text(&claim["held_by"]).contains("flow 00000000000000ab number 3"), "{claim}");
        describe(&Found::parse(b"1"), &mut claim);
        assert!(text(&claim["held_by"]).starts_with("a Go node"), "{claim}");
    }

    #[test]
    fn a_txid_is_read_as_explorers_show_it() {
        let parsed = txid(&format!("{}FF", "00".repeat(31))).unwrap();
        assert_eq!((parsed.id[0], parsed.id[31]), (0xFF, 0));
        assert!(txid("12").unwrap_err().contains("64 hex digits"));
    }
}
