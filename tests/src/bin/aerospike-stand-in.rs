//! The Aerospike stand-in as a program: `aerospike-stand-in ADDRESS CONTROL`.
//!
//! It serves at ADDRESS and obeys lines on the unix socket CONTROL: `NAME VALUE` sets what it does wrong, `records` asks
//! how many it holds; each is answered with one line.

use std::sync::Arc;
use tests::stand_in::{Node, StandIn};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(control)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("want: aerospike-stand-in ADDRESS CONTROL");
    };
    let control = UnixListener::bind(control)?;
    let stand_in = StandIn::at(address.parse()?).await;
    loop {
        let (stream, _) = control.accept().await?;
        tokio::spawn(obey(stream, Arc::clone(&stand_in.node)));
    }
}

async fn obey(mut stream: UnixStream, node: Arc<Node>) -> std::io::Result<()> {
    let (from, mut to) = stream.split();
    let mut lines = BufReader::new(from).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match line.split_once(' ') {
            None if line == "records" => node.records().to_string(),
            Some((name, value)) if value.parse().is_ok_and(|value| node.set(name, value)) => "ok".to_owned(),
            _ => format!("{line:?} is not understood"),
        };
        to.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}
