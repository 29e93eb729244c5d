//! Whose prefix it is. Two fabrics under one prefix of one store would suppress each other's transactions, in silence.
//!
//! How: under the prefix one key holds the *label* of the fabric: its groups, port and shard bits in words, or the name that
//! its operators gave it. A node writes it create-only before its first claim, and compares what it finds. A node that runs
//! writes it again long before it expires. So the label lives as long as a node of the fabric does, and longer than the
//! claims that it protects.
//!
//! Promise: a node whose label differs never claims under the prefix unless it was told to. Nodes of the Go stack write and
//! read no such key and are not seen.
//!
//! Limits: nodes of two fabrics that start while the store cannot be asked find out at their next look. Cost: one create
//! at start, one create and one write at each look.

use crate::name::Names;
use crate::node::PAUSES;
use crate::value::{VERSION, one};
use cache_backend::{Claimed, OpError, Session};
use std::time::{Duration, Instant};

/// Most bytes of a label.
pub const MAX_LABEL: usize = 256;

/// What stands under the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The same label.
    Ours,
    /// Another label: it was replaced by ours.
    Replaced(String),
    /// Another label: the prefix is another fabric's.
    Theirs(String),
    /// Something that this version cannot read.
    Unreadable,
}

/// The label of one fabric under its prefix.
#[derive(Clone, Debug)]
pub struct FabricLabel {
    key: Vec<u8>,
    text: String,
    ttl: Duration,
}

impl FabricLabel {
    /// `text`: the same on all nodes of the fabric, on no node of another. `ttl`: how long claims live at most; zero for
    /// ever.
    pub fn new(names: &Names, text: &str, ttl: Duration) -> FabricLabel {
        let mut key = Vec::new();
        names.fabric(&mut key);
        let mut fitting = String::new();
        for c in text.chars().filter(|c| !c.is_control()) {
            if fitting.len() + c.len_utf8() > MAX_LABEL {
                break;
            }
            fitting.push(c);
        }
        FabricLabel { key, text: fitting, ttl }
    }

    /// What makes the fabric.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Writes the label where there is none, and compares. `replace`: ours takes the place of another.
    ///
    /// # Errors
    /// The store did not answer after several tries.
    pub async fn look(&self, session: &dyn Session, replace: bool) -> Result<Standing, OpError> {
        let mut pauses = PAUSES.into_iter();
        loop {
            match (self.look_once(session, replace).await, pauses.next()) {
                (Err(_), Some(pause)) => tokio::time::sleep(pause).await,
                (outcome, _) => return outcome,
            }
        }
    }

    /// What stands under the prefix, for whoever does not claim there: nothing is written. `None`: no node of any fabric
    /// has said anything.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn read(&self, session: &dyn Session) -> Result<Option<Standing>, OpError> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let found = match session.get(one(&self.key, &[]), deadline).await.pop() {
            Some(Ok(Some(found))) => found,
            Some(Ok(None)) | None => return Ok(None),
            Some(Err(error)) => return Err(error),
        };
        Ok(Some(match parse(&found) {
            Some(label) if label == self.text => Standing::Ours,
            Some(label) => Standing::Theirs(label.to_owned()),
            None => Standing::Unreadable,
        }))
    }

    async fn look_once(&self, session: &dyn Session, replace: bool) -> Result<Standing, OpError> {
        let ours = self.encode();
        let deadline = || Instant::now() + Duration::from_secs(1);
        let batch = one(&self.key, &ours);
        let found = match session.claim(batch.clone(), self.ttl, deadline()).await.pop() {
            Some(Ok(Claimed::Exists(found))) => found,
            Some(Ok(Claimed::Created)) | None => return Ok(Standing::Ours),
            Some(Err(error)) => return Err(error),
        };
        let standing = match parse(&found) {
            Some(label) if label == self.text => Standing::Ours,
            Some(label) if replace => Standing::Replaced(label.to_owned()),
            Some(label) => return Ok(Standing::Theirs(label.to_owned())),
            None if replace => Standing::Replaced("unreadable".to_owned()),
            None => return Ok(Standing::Unreadable),
        };
        // Its life begins anew.
        match session.set(batch, self.ttl, deadline()).await.pop() {
            Some(Err(error)) => Err(error),
            _ => Ok(standing),
        }
    }

    /// Time between two looks: several within the life of the label.
    pub fn pause(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(60);
        if self.ttl.is_zero() { LONGEST } else { (self.ttl / 4).clamp(Duration::from_secs(1), LONGEST) }
    }

    fn encode(&self) -> Vec<u8> {
        [VERSION].into_iter().chain(self.text.bytes()).collect()
    }
}

fn parse(value: &[u8]) -> Option<&str> {
    let (&VERSION, text) = value.split_first()? else { return None };
    (text.len() <= MAX_LABEL).then(|| std::str::from_utf8(text).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyStyle;

    fn label(text: &str) -> FabricLabel {
        FabricLabel::new(&Names::new(b"bsp:tx:", KeyStyle::Hex), text, Duration::from_secs(600))
    }

    #[test]
    fn the_label_stands_beside_the_claims_of_its_prefix() {
        let one = label("ipv6 port=9001");
        assert_eq!(one.key, b"bsp:fabric:");
        assert_eq!(parse(&one.encode()), Some("ipv6 port=9001"));
    }

    #[test]
    fn labels_that_no_node_writes_are_not_believed() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"\x02ipv6"), None);
        assert_eq!(parse(&[1, 0xFF]), None);
        assert_eq!(parse(&[&[1_u8][..], &[b'a'; MAX_LABEL + 1]].concat()), None);
        assert!(label(&"\u{10FFFF}\n".repeat(1000)).text().len() <= MAX_LABEL);
    }

    #[test]
    fn the_label_is_written_again_several_times_in_its_life() {
        assert_eq!(label("x").pause(), Duration::from_secs(60));
        let short = FabricLabel { ttl: Duration::from_secs(20), ..label("x") };
        assert_eq!(short.pause(), Duration::from_secs(5));
    }
}
