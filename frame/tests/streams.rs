//! What a TCP ingress may expect of the boundary finder.

use frame::stream::{Boundary, Grammar, Limits, Stream};
use frame::{DecodeError, Kind, MAGIC};

fn stream() -> Stream {
    Stream::new(Limits::DEFAULT)
}

/// Header of a frame that announces this payload length.
fn header(kind: u8, length_at: usize, payload_len: u32) -> Vec<u8> {
    let mut header = vec![0; length_at + 4];
    header[..4].copy_from_slice(&MAGIC);
    header[6] = kind;
    header[length_at..].copy_from_slice(&payload_len.to_be_bytes());
    header
}

#[test]
fn the_first_bytes_fix_the_grammar() {
    for (first, expected) in [
        (&[][..], None),
        (&MAGIC[..3], None),
        (&MAGIC[..], Some(Grammar::Framed)),
        (&[0xBE], None),
        (&[0xBE, 0xEF], Some(Grammar::Records)),
        (&[0xBE, 0xEE], Some(Grammar::Transactions)),
        (&[0xE3, 0xE1, 0xF3, 0x00], Some(Grammar::Transactions)),
        (&[1], Some(Grammar::Transactions)),
    ] {
        assert_eq!(Grammar::of(first), expected, "{first:02x?}");
    }
}

#[test]
fn a_framed_connection_stays_framed() {
    let mut stream = stream();
    assert_eq!(stream.boundary(&header(2, 88, 5)), Ok(Boundary::Message(97)));
    assert_eq!(stream.boundary(&[1, 0, 0, 0]), Err(DecodeError::BadMagic));
}

#[test]
fn a_length_above_the_limit_closes_before_memory_is_taken() {
    let most = Limits::DEFAULT.payload;
    assert_eq!(stream().boundary(&header(2, 88, most)), Ok(Boundary::Message(92 + (64 << 20))));
    assert_eq!(stream().boundary(&header(2, 88, most + 1)), Err(DecodeError::TooLong));
    assert_eq!(stream().boundary(&header(1, 40, u32::MAX)), Err(DecodeError::TooLong));
    // A bare transaction with 2^32 - 1 inputs: refused by what its inputs must at least take.
    assert_eq!(stream().boundary(&[1, 0, 0, 0, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF]), Err(DecodeError::TooLong));
    // A record whose object has 1 MiB and a byte.
    let record = [&[0xBE, 0xEF, 1, 1, 1, b't'][..], &((1u32 << 20) + 1).to_be_bytes()].concat();
    assert_eq!(stream().boundary(&record), Err(DecodeError::TooLong));
}

#[test]
fn types_that_have_no_place_in_a_stream_close_it_at_byte_six() {
    for kind in Kind::ALL {
        let framed = matches!(
            kind,
            Kind::LegacyTx
                | Kind::Tx
                | Kind::Block
                | Kind::Subtree
                | Kind::Anchor
                | Kind::Object
                | Kind::SubtreeGroupAnnounce
        );
        let boundary = stream().boundary(&header(kind as u8, 40, 0)[..7]);
        assert_eq!(boundary.err(), (!framed).then_some(DecodeError::BadVersion), "{}", kind.name());
    }
}

#[test]
fn a_transaction_without_inputs_or_with_a_padded_count_closes_the_stream() {
    for bytes in [&[1, 0, 0, 0, 0, 1][..], &[1, 0, 0, 0, 0xFD, 1, 0]] {
        assert_eq!(stream().boundary(bytes), Err(DecodeError::TxMalformed), "{bytes:02x?}");
    }
}
