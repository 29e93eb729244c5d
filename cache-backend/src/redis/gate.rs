//! What a server may send, looked at before the crate's parser sees it.
//!
//! Why: the parser takes whatever lengths a server names. So it gets nothing but whole replies that were measured here.
//!
//! Promises: only RESP2 passes. A line is at most `MAX_LINE` bytes, a value at most `MAX_VALUE`, and a reply with all that
//! belongs to it little more. A length that is only named takes no memory.
//!
//! Cost: no copy and no allocation. The parser is not asked about a short reply that is equal to the last one, as nearly all
//! replies to claims are.

use super::stream::Stream;
use redis::{Parser, Value};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Longest status, error or length line.
const MAX_LINE: usize = 64 << 10;
/// Longest value.
pub(super) const MAX_VALUE: usize = 64 << 20;
/// Most that one reply takes.
const MAX_REPLY: usize = MAX_VALUE + MAX_LINE;
/// Longest array, and most values that are still to come in one reply (the slot table of a large Cluster).
const MAX_ARRAY: usize = 1 << 16;
/// What a parsed value takes besides its bytes.
const OF_ONE: usize = 64;
const CHUNK: usize = 64 << 10;
/// Buffers that a burst made longer than this are given back.
pub(super) const KEEP_BUFFER: usize = 1 << 20;
/// Replies up to this length are compared with the last one.
const SHORT: usize = 16;

/// Why a reply cannot be believed.
pub(super) type Surprise = &'static str;
pub(super) const UNFIT: Surprise = "the reply does not fit its request";
pub(super) const FENCE: Surprise = "the fence after a batch came back different: replies slipped";
pub(super) const UNASKED: Surprise = "a reply arrived that nobody asked for";
const TYPE: Surprise = "a reply begins with a byte that is not RESP2";
const LINE: Surprise = "a line is too long or not ended by CR LF";
const NUMBER: Surprise = "a number cannot be read";
const LENGTH: Surprise = "a length is negative or beyond the limit";
const UNREADABLE: Surprise = "a reply cannot be read";

/// Bytes that were read and not yet understood.
#[derive(Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    gate: Gate,
    parser: Parser,
    /// The last short reply, as it came and as it was read.
    last: Option<(Vec<u8>, Value)>,
}

impl Input {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next reply, once all of it is there.
    #[inline]
    pub(super) fn reply(&mut self) -> Result<Option<Value>, Surprise> {
        let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
        // A reply says where it ends: what begins with all of one is that one.
        if let Some((last, value)) = self.last.as_ref().filter(|(last, _)| bytes.starts_with(last)) {
            let (length, value) = (last.len(), value.clone());
            self.gate = Gate::default();
            self.consume(length);
            return Ok(Some(value));
        }
        let Some(length) = self.gate.measure(bytes)? else { return Ok(None) };
        let reply = bytes.get(..length).unwrap_or_default();
        let value = self.parser.parse_value(reply).map_err(|_| UNREADABLE)?;
        if length <= SHORT {
            self.last = Some((reply.to_vec(), value.clone()));
        } else if length > CHUNK {
            // It keeps what it took.
            self.parser = Parser::new();
        }
        self.consume(length);
        Ok(Some(value))
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > KEEP_BUFFER {
                self.buffer = Vec::new();
            }
        }
    }

    /// Reads what is there; 0 at the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<usize>> {
        if self.buffer.len() - self.end < CHUNK / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() - self.end < CHUNK {
                // Doubles while a long value arrives; the gate bounds its length.
                self.buffer.resize((self.end + CHUNK).max(self.end * 2), 0);
            }
        }
        let mut free = ReadBuf::new(self.buffer.get_mut(self.end..).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut free))?;
        let count = free.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

/// Measures the next reply just as far as its lengths say.
#[derive(Default)]
struct Gate {
    /// Bytes that need not be looked at again.
    seen: usize,
    /// Values that open arrays still have.
    open: usize,
    /// What they take so far.
    held: usize,
}

impl Gate {
    /// Length of the reply that `bytes` begins with; `None`: it is not whole.
    fn measure(&mut self, bytes: &[u8]) -> Result<Option<usize>, Surprise> {
        loop {
            let rest = bytes.get(self.seen..).unwrap_or_default();
            let Some(kind) = rest.first() else { return Ok(None) };
            if !b"+-:$*".contains(kind) {
                return Err(TYPE);
            }
            let Some(end) = rest.iter().take(MAX_LINE).position(|&byte| byte == b'\n') else {
                return if rest.len() < MAX_LINE { Ok(None) } else { Err(LINE) };
            };
            let text = rest.get(1..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(LINE)?;
            let (mut whole, mut items) = (end + 1, 0);
            match kind {
                b':' => drop(number(text)?),
                b'$' => whole += length(text, MAX_VALUE)?.map_or(0, |length| length + 2),
                b'*' => items = length(text, MAX_ARRAY - self.open)?.unwrap_or(0),
                _ => {}
            }
            if self.held + OF_ONE + whole > MAX_REPLY {
                return Err(LENGTH);
            }
            if rest.len() < whole {
                return Ok(None);
            }
            self.seen += whole;
            self.held += OF_ONE + whole;
            self.open = self.open.saturating_sub(1) + items;
            if self.open == 0 {
                return Ok(Some(std::mem::take(self).seen));
            }
        }
    }
}

/// `None`: nil.
fn length(text: &[u8], most: usize) -> Result<Option<usize>, Surprise> {
    match number(text)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= most => Ok(Some(length)),
            _ => Err(LENGTH),
        },
    }
}

fn number(text: &[u8]) -> Result<i64, Surprise> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_number = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_number);
    text.and_then(|text| text.parse().ok()).ok_or(NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of bytes that come in parts of `step`.
    fn read(bytes: &[u8], step: usize) -> Result<Vec<Value>, Surprise> {
        let (mut input, mut replies) = (Input::default(), Vec::new());
        for part in bytes.chunks(step) {
            input.buffer.truncate(input.end);
            input.buffer.extend_from_slice(part);
            input.end += part.len();
            while let Some(reply) = input.reply()? {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    #[test]
    fn replies_are_read_in_whatever_parts_they_come() {
        let bytes =
            b"+OK\r\n-ERR no\r\n:-42\r\n$-1\r\n$-1\r\n*-1\r\n$4\r\na\r\nb\r\n*2\r\n*1\r\n:1\r\n$1\r\nx\r\n*0\r\n";
        let whole = read(bytes, bytes.len()).unwrap();
        assert_eq!((whole.len(), &whole[3], &whole[4]), (9, &Value::Nil, &Value::Nil));
        assert_eq!(whole[6], Value::BulkString(b"a\r\nb".to_vec()));
        for step in 1..bytes.len() {
            assert_eq!(read(bytes, step), Ok(whole.clone()), "in parts of {step}");
        }
    }

    #[test]
    fn what_is_not_resp2_or_too_long_is_not_read() {
        let endless = [b"+".as_slice(), &[b'x'; MAX_LINE]].concat();
        let nested = b"*60000\r\n".repeat(2);
        let forty = [b"*40\r\n".as_slice(), &b":1\r\n".repeat(40)].concat();
        let many = [b"*65000\r\n".as_slice(), &forty.repeat(65_000)].concat();
        for (bytes, surprise) in [
            (&b"HTTP/1.1"[..], TYPE),
            (b"%1\r\n+a\r\n+b\r\n", TYPE),
            (b"$9999999999\r\n", LENGTH),
            (b"$-2\r\n", LENGTH),
            (b"*70000\r\n", LENGTH),
            (&nested, LENGTH),
            (&many, LENGTH),
            (b":1x\r\n", NUMBER),
            (b":\r\n", NUMBER),
            (b"$+5\r\n", NUMBER),
            (b":99999999999999999999\r\n", NUMBER),
            (b"+a\n", LINE),
            (&endless, LINE),
            (b"$1\r\nabc", UNREADABLE),
        ] {
            for step in [1 << 13, bytes.len()] {
                assert!(read(bytes, step) == Err(surprise), "{surprise}, in parts of {step}");
            }
        }
    }
}
