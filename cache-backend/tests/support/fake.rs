//! A server that misbehaves on purpose: a proxy in front of a real one that changes what passes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the proxy does to what passes.
#[derive(Default)]
pub struct Mischief {
    /// Answers `SET … NX GET` with a syntax error, as servers before 7.0 do.
    pub no_nx_get: AtomicBool,
    /// Refuses scripts as well.
    pub no_scripts: AtomicBool,
    /// The next reply that is a nil is left out: everything behind it slips by one.
    pub lose_a_nil: AtomicBool,
    /// The next reply bytes become something else.
    pub garble: AtomicBool,
    /// Closes the connection after so many more reply bytes.
    pub cut_after: AtomicUsize,
    /// Holds every reply for so many milliseconds.
    pub delay_ms: AtomicUsize,
    /// Connections accepted so far.
    pub connections: AtomicUsize,
}

pub struct Proxy {
    pub address: String,
    pub mischief: Arc<Mischief>,
    task: tokio::task::AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn before(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address").to_string();
        let mischief = Arc::new(Mischief::default());
        let shared = mischief.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                shared.connections.fetch_add(1, SeqCst);
                connections.spawn(pass(client, port, shared.clone()));
            }
        });
        Proxy { address, mischief, task: task.abort_handle() }
    }
}

async fn pass(mut client: TcpStream, port: u16, mischief: Arc<Mischief>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let count = read?;
                if count == 0 {
                    return Ok(());
                }
                let bytes = from_client.get(..count).unwrap_or_default();
                if contains(bytes, b"NX\r\n$3\r\nGET\r\n") && mischief.no_nx_get.load(SeqCst) {
                    // The handshake asks one thing at a time, so this is the whole question.
                    client.write_all(b"-ERR syntax error\r\n").await?;
                } else if contains(bytes, b"EVAL") && mischief.no_scripts.load(SeqCst) {
                    client.write_all(b"-NOPERM no scripts\r\n").await?;
                } else {
                    server.write_all(bytes).await?;
                }
            }
            read = from_server_read(&mut server, &mut from_server) => {
                let count = read?;
                if count == 0 {
                    return Ok(());
                }
                let mut bytes = from_server.get(..count).unwrap_or_default().to_vec();
                let delay = mischief.delay_ms.load(SeqCst);
                if delay > 0 {
                    tokio::time::sleep(Duration::from_millis(delay as u64)).await;
                }
                if let Some(at) = find(&bytes, b"$-1\r\n") && mischief.lose_a_nil.swap(false, SeqCst) {
                    bytes.drain(at..at + 5);
                }
                if mischief.garble.swap(false, SeqCst) {
                    bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
                }
                let cut = mischief.cut_after.load(SeqCst);
                if cut > 0 {
                    bytes.truncate(cut);
                    client.write_all(&bytes).await?;
                    mischief.cut_after.store(0, SeqCst);
                    return Ok(());
                }
                client.write_all(&bytes).await?;
            }
        }
    }
}

async fn from_server_read(server: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    server.read(buffer).await
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    find(bytes, part).is_some()
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// A server that answers each command (its words) with what `answer` says, in RESP.
pub struct Scripted {
    pub address: String,
    pub port: u16,
    task: tokio::task::AbortHandle,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// `answer` gets the words of a command and the server's own port.
    pub async fn start(answer: impl Fn(&[String], u16) -> String + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let at = listener.local_addr().expect("has an address");
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(converse(client, at.port(), answer.clone()));
            }
        });
        Scripted { address: at.to_string(), port: at.port(), task: task.abort_handle() }
    }
}

async fn converse(
    mut client: TcpStream,
    port: u16,
    answer: Arc<impl Fn(&[String], u16) -> String>,
) -> std::io::Result<()> {
    let mut input = String::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let count = client.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        input.push_str(&String::from_utf8_lossy(&chunk[..count]));
        while let Some((words, length)) = command(&input) {
            input.drain(..length);
            client.write_all(answer(&words, port).as_bytes()).await?;
        }
    }
}

/// The first whole command and its length.
fn command(input: &str) -> Option<(Vec<String>, usize)> {
    let (mut line, mut at) = next_line(input, 0)?;
    let count: usize = line.strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        (line, at) = next_line(input, at)?;
        let length: usize = line.strip_prefix('$')?.parse().ok()?;
        words.push(input.get(at..at + length)?.to_owned());
        at += length + 2;
    }
    (input.len() >= at).then_some((words, at))
}

fn next_line(input: &str, from: usize) -> Option<(&str, usize)> {
    let rest = input.get(from..)?;
    let end = rest.find("\r\n")?;
    Some((&rest[..end], from + end + 2))
}

/// What a Cluster node that holds `keys` answers; `slots` are (first, last, port of the owner on this host).
pub fn cluster_node(
    words: &[String],
    slots: &[(u16, u16, u16)],
    keys: &Mutex<HashMap<String, String>>,
) -> String {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let mut keys = keys.lock().expect("not poisoned");
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    match word(0) {
        "PING" => bulk(word(1)),
        "CLUSTER" => {
            let range = |(first, last, port): &(u16, u16, u16)| {
                format!("*3\r\n:{first}\r\n:{last}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n")
            };
            format!("*{}\r\n{}", slots.len(), slots.iter().map(range).collect::<String>())
        }
        "SET" => match keys.get(word(1)) {
            Some(old) => bulk(old),
            None => {
                keys.insert(word(1).to_owned(), word(2).to_owned());
                "$-1\r\n".to_owned()
            }
        },
        "GET" => keys.get(word(1)).map_or("$-1\r\n".to_owned(), |value| bulk(value)),
        "PTTL" => ":1000\r\n".to_owned(),
        "DEL" => format!(":{}\r\n", u8::from(keys.remove(word(1)).is_some())),
        _ => "-ERR unknown command\r\n".to_owned(),
    }
}
