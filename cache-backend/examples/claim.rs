//! Two processes race for the same ids in one Redis: each id is won once.
//!
//! `cargo run --example claim -- 127.0.0.1:6379`

use cache_backend::{Claimed, KeyValues, RedisSettings, Settings, Store};
use std::error::Error;
use std::process::{Command, Stdio};
use std::time::Duration;

const IDS: usize = 10_000;
const TTL: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [address] => race(address),
        [address, run, name] => {
            println!("{}", claim(address, run, name).await?);
            Ok(())
        }
        _ => Err("want the address of a Redis, such as 127.0.0.1:6379".into()),
    }
}

/// Starts this program twice more and adds up what they won.
fn race(address: &str) -> Result<(), Box<dyn Error>> {
    let run = format!("claim-example:{}", std::process::id());
    let start = |name: &str| {
        let program = std::env::current_exe()?;
        Command::new(program).args([address, &run, name]).stdout(Stdio::piped()).spawn()
    };
    let mut total = 0;
    for (name, child) in [("one", start("one")?), ("other", start("other")?)] {
        let output = child.wait_with_output()?;
        let won: usize = String::from_utf8(output.stdout)?.trim().parse()?;
        println!("{name} won {won} ids");
        total += won;
    }
    println!("{total} of {IDS} ids were won once");
    if total == IDS { Ok(()) } else { Err("an id was won twice, or by nobody".into()) }
}

/// How many ids this process wins, in batches of 100.
async fn claim(address: &str, run: &str, name: &str) -> Result<usize, Box<dyn Error>> {
    let store = Store::open(Settings::Redis(Box::new(RedisSettings::new(address)))).await?;
    let mut won = 0;
    for first in (0..IDS).step_by(100) {
        let key = |id: usize| format!("{run}:{id}");
        // A value of 16 bytes or more tells which key it belongs to.
        let batch: KeyValues =
            (first..first + 100).map(|id| (key(id), format!("{} {name}", key(id)))).collect();
        for answer in store.set_nx_many(batch, TTL).await {
            match answer {
                Ok(Claimed::Created) => won += 1,
                Ok(Claimed::Exists(_by_the_other)) => {}
                // Nobody knows whether we hold the key. Here a race is counted, so it ends; a worker would decide by what a
                // mistake costs.
                Err(error) if error.in_doubt => return Err(error.into()),
                Err(error) => return Err(format!("not asked: {error}").into()),
            }
        }
    }
    store.close().await;
    Ok(won)
}
