//! The frames of all worlds: real transactions with their real ids, made once.

use frame::data::{HEADER, HeaderFields, encode_header};
use frame::{HashKey, Kind, SeqNum, tx};
use hashbrown::HashMap;
use std::sync::OnceLock;

/// Frames there are; a world takes some in a row.
pub(super) const FRAMES: usize = 1024;
/// `--frag-mtu`: longer frames leave in fragments.
pub(super) const MTU: u16 = 500;
/// One frame in so many is that long.
const LONG: usize = 14;
/// And one in so many is an object of several rounds.
const OBJECT: usize = 2 * LONG;

/// See the module text.
pub(super) struct Frames {
    frames: Vec<Vec<u8>>,
    by_id: HashMap<[u8; 8], usize>,
}

/// All frames.
pub(super) fn frames() -> &'static Frames {
    static ALL: OnceLock<Frames> = OnceLock::new();
    ALL.get_or_init(|| {
        let frames: Vec<Vec<u8>> = (0..FRAMES).map(frame).collect();
        let by_id = frames.iter().enumerate().map(|(number, frame)| (id_of(frame), number)).collect();
        Frames { frames, by_id }
    })
}

impl Frames {
    /// The frame of a number, as a wallet sends it.
    pub(super) fn of(&self, number: usize) -> &[u8] {
        &self.frames[number]
    }

    /// The number of the frame whose id begins so.
    pub(super) fn number(&self, id: [u8; 8]) -> Option<usize> {
        self.by_id.get(&id).copied()
    }
}

/// First bytes of the id in a header.
pub(super) fn id_of(frame: &[u8]) -> [u8; 8] {
    frame.get(8..16).and_then(|id| id.first_chunk()).copied().unwrap_or([0; 8])
}

fn frame(number: usize) -> Vec<u8> {
    let len = match number {
        _ if number % OBJECT == OBJECT - 1 => 1_800,
        _ if number % LONG == LONG - 1 => 700,
        _ => 70 + number * 37 % 150,
    };
    let payload = transaction(number, len);
    let id = tx::canonical_txid(&payload).map_or([0; 32], |id| id.0);
    let fields = HeaderFields {
        kind: Kind::Tx,
        msg_type: 0,
        id: &id,
        hash_key: HashKey(0),
        seq_num: SeqNum(0),
        second_id: &[0; 32],
        payload_len: u32::try_from(payload.len()).unwrap_or(0),
    };
    let mut frame = vec![0; HEADER];
    let _ = encode_header(&fields, &mut frame);
    frame.extend_from_slice(&payload);
    frame
}

/// A transaction of about `len` bytes, different for each number.
fn transaction(number: usize, len: usize) -> Vec<u8> {
    let script = len.saturating_sub(64);
    let mut bytes = vec![1, 0, 0, 0, 1];
    bytes.extend_from_slice(&[7; 32]);
    bytes.extend_from_slice(&u32::try_from(number).unwrap_or(0).to_le_bytes());
    match u8::try_from(script) {
        Ok(short) if short < 0xFD => bytes.push(short),
        _ => {
            bytes.push(0xFD);
            bytes.extend_from_slice(&u16::try_from(script).unwrap_or(0).to_le_bytes());
        }
    }
    bytes.resize(bytes.len() + script, 0x6A);
    bytes.extend_from_slice(&[0xFF; 4]);
    bytes.push(1);
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_ingress::pipeline::{Via, admit};

    #[test]
    fn every_frame_is_admitted_and_found_by_its_id() {
        let policy = super::super::proxy::policy();
        for number in 0..FRAMES {
            let frame = frames().of(number);
            assert!(admit(&policy, frame, Via::Udp).is_ok());
            assert_eq!(frames().number(id_of(frame)), Some(number));
        }
    }
}
