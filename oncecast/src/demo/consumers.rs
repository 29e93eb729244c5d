//! The demo's consumers: each takes the TCP stream of one listener and checks transactions off.

use super::network::Network;
use crate::consumer::{Checklist, RecordReader};
use crate::traffic::Traffic;
use anyhow::Context;
use frame::TxId;
use frame::block::Block;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

/// What every consumer waits for.
pub struct Expected {
    ids: Vec<TxId>,
    block_len: usize,
    merkle_root: frame::Id,
}

impl Expected {
    pub fn new(block: &[u8], traffic: &Traffic) -> anyhow::Result<Expected> {
        let mut scratch = Vec::new();
        let ids = (0..traffic.len())
            .map(|index| traffic.txid(index, &mut scratch))
            .collect::<anyhow::Result<_>>()?;
        let merkle_root = Block::decode(block)?.merkle_root();
        Ok(Expected { ids, block_len: traffic.base_len(), merkle_root })
    }
}

/// A running consumer.
pub struct Consumer {
    pub address: SocketAddr,
    list: Arc<Mutex<Checklist>>,
}

impl Consumer {
    pub async fn start(network: Network, expected: &Expected) -> anyhow::Result<Consumer> {
        let listener = TcpListener::bind((network.loopback(), 0)).await.context("a consumer's TCP port")?;
        let address = listener.local_addr().context("a consumer's address")?;
        let list = Checklist::of(expected.ids.clone(), expected.block_len, Some(expected.merkle_root));
        let list = Arc::new(Mutex::new(list));
        let shared = list.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, shared.clone()));
            }
        });
        Ok(Consumer { address, list })
    }

    pub fn unique(&self) -> usize {
        self.lock().unique()
    }

    pub fn is_complete(&self) -> bool {
        self.lock().missing_is_zero()
    }

    /// What was delivered in the end.
    pub fn finish(self) -> Delivered {
        let list = self.lock();
        Delivered {
            unique: list.unique() as u64,
            twice: list.duplicates(),
            missing: list.missing() as u64,
            unexpected: list.unexpected() as u64,
            merkle_root_ok: list.merkle_root_ok(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Checklist> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Result of one consumer.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    pub unique: u64,
    pub twice: u64,
    pub missing: u64,
    pub unexpected: u64,
    pub merkle_root_ok: bool,
}

async fn take(mut stream: TcpStream, list: Arc<Mutex<Checklist>>) {
    let mut reader = RecordReader::default();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        reader.extend(&buffer[..read]);
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some(record)) = reader.next_record() {
            list.take(record);
        }
    }
}
