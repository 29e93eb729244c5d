//! What a server may send, looked at before the crate's parser sees it.
//!
//! Why: the parser takes whatever lengths a server names, and the crate matches replies to requests by their number alone. A
//! claim that is answered with the reply of another key can suppress a transaction for good. So each byte passes here first.
//!
//! Promises: only RESP2 passes. A line is at most `MAX_LINE` bytes and a value at most `MAX_VALUE`. Of one batch (or one
//! reply of the handshake) at most `MAX_HELD` bytes are held: a value that would be more arrives as the error [`TOO_LONG`],
//! and other replies end the connection. A reply that nobody asked for, and a fence that does not come back right behind the
//! replies of its batch, end it as well; nothing behind them passes.
//!
//! Cost: one copy of what comes; no allocation for each reply.

use super::stream::Stream;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest status, error or length line.
const MAX_LINE: usize = 64 << 10;
/// Longest value.
const MAX_VALUE: usize = 64 << 20;
/// Most bytes that one batch brings.
const MAX_HELD: usize = 64 << 20;
/// Longest array, and most values that are still to come in one reply (the slot table of a large Cluster).
const MAX_ARRAY: usize = 1 << 16;
/// What a parsed value takes besides its bytes.
const OF_ONE: usize = 64;
const CHUNK: usize = 32 << 10;

/// The code of the error that takes the place of a value for which there is no room.
pub(super) const TOO_LONG: &str = "TOOLONG";

/// The word of a `PING` behind a batch.
pub(super) type Fence = [u8; 16];

/// Why a reply cannot be believed.
pub(super) type Surprise = &'static str;
pub(super) const UNFIT: Surprise = "the reply does not fit its request";
const TYPE: Surprise = "a reply begins with a byte that is not RESP2";
const LINE: Surprise = "a line is too long or not ended by CR LF";
const NUMBER: Surprise = "a number cannot be read";
const LENGTH: Surprise = "a length is negative or beyond the limit";
const FENCE: Surprise = "the fence after a batch came back different: replies slipped";
const UNASKED: Surprise = "a reply arrived that nobody asked for";

/// What one connection may bring, shared by its stream and by those who ask.
#[derive(Default)]
pub(super) struct Gate(Mutex<Sieve>);

impl Gate {
    fn sieve(&self) -> MutexGuard<'_, Sieve> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on only what is expected may come.
    pub(super) fn close(&self) {
        self.sieve().expected = Some(VecDeque::new());
    }

    /// A batch of `bytes` with so many replies leaves; the last of them is the echo of its fence.
    pub(super) fn expect(&self, left: usize, fence: Option<Fence>, bytes: usize) {
        let mut sieve = self.sieve();
        sieve.waiting += bytes;
        if let Some(expected) = &mut sieve.expected {
            expected.push_back(Expected { left, fence, bytes, since: Instant::now() });
        }
    }

    /// Batches whose replies are still to come, and their bytes.
    pub(super) fn load(&self) -> (usize, usize) {
        let sieve = self.sieve();
        (sieve.expected.as_ref().map_or(0, VecDeque::len), sieve.waiting)
    }

    /// When the oldest of them left.
    pub(super) fn oldest(&self) -> Option<Instant> {
        Some(self.sieve().expected.as_ref()?.front()?.since)
    }

    /// Something came since the last question.
    pub(super) fn was_passed(&self) -> bool {
        std::mem::take(&mut self.sieve().passed)
    }

    /// Why nothing passes any more.
    pub(super) fn surprise(&self) -> Option<Surprise> {
        self.sieve().surprise
    }
}

/// The stream of a connection, behind its gate.
pub(super) struct Gated {
    stream: Stream,
    gate: Arc<Gate>,
    chunk: Box<[u8]>,
    /// What passed, from `taken` on not read yet.
    passed: Vec<u8>,
    taken: usize,
}

impl Gated {
    pub(super) fn new(stream: Stream, gate: Arc<Gate>) -> Gated {
        Gated { stream, gate, chunk: vec![0; CHUNK].into(), passed: Vec::new(), taken: 0 }
    }
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.taken == this.passed.len() {
            this.passed.clear();
            this.taken = 0;
            if let Some(surprise) = this.gate.surprise() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, surprise)));
            }
            let mut chunk = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.gate.sieve().pass(chunk.filled(), &mut this.passed);
        }
        let rest = this.passed.get(this.taken..).unwrap_or_default();
        let count = rest.len().min(out.remaining());
        out.put_slice(rest.get(..count).unwrap_or_default());
        this.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Replies of a batch that are still to come.
struct Expected {
    left: usize,
    fence: Option<Fence>,
    bytes: usize,
    since: Instant,
}

/// Reads RESP2 just as far as its lengths say.
#[derive(Default)]
struct Sieve {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// Bytes that the value under way still has, its CR LF among them.
    body: usize,
    /// They are left out.
    skips: bool,
    /// The value under way, where it may be a fence.
    echo: Option<Vec<u8>>,
    /// Values that open arrays still have.
    open: usize,
    held: usize,
    /// Bytes of what is expected.
    waiting: usize,
    /// `None` during the handshake: whoever asks there looks at each answer.
    expected: Option<VecDeque<Expected>>,
    passed: bool,
    surprise: Option<Surprise>,
}

impl Sieve {
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.passed = true;
        self.surprise = self.surprise.or_else(|| self.sift(bytes, out).err());
    }

    fn sift(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Surprise> {
        while !bytes.is_empty() {
            bytes = match self.body {
                0 => self.take_line(bytes, out)?,
                _ => self.take_body(bytes, out)?,
            };
        }
        Ok(())
    }

    fn take_body<'a>(&mut self, bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Surprise> {
        let (body, rest) = bytes.split_at(self.body.min(bytes.len()));
        self.body -= body.len();
        if let Some(echo) = &mut self.echo {
            echo.extend_from_slice(body);
        }
        let skips = self.skips;
        if self.body == 0 {
            self.skips = false;
            self.end_value(0)?;
        }
        if !skips {
            out.extend_from_slice(body);
        }
        Ok(rest)
    }

    fn take_line<'a>(&mut self, bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Surprise> {
        let first = self.line.first().or(bytes.first()).copied().unwrap_or_default();
        if !b"+-:$*".contains(&first) {
            return Err(TYPE);
        }
        let end = bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        if self.line.len() + line.len() > MAX_LINE {
            return Err(LINE);
        }
        if end.is_some() && self.line.is_empty() {
            self.end_line(line, out)?;
        } else {
            self.line.extend_from_slice(line);
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                self.end_line(&line, out)?;
            }
        }
        Ok(rest)
    }

    fn end_line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Surprise> {
        let Some((kind, text)) = line.strip_suffix(b"\r\n").and_then(|line| line.split_first()) else {
            return Err(LINE);
        };
        if self.expected.as_ref().is_some_and(VecDeque::is_empty) {
            return Err(UNASKED);
        }
        self.held += OF_ONE + line.len();
        if self.held > 2 * MAX_HELD {
            return Err(LENGTH);
        }
        let length = match kind {
            b'+' | b'-' => None,
            b':' => number(text).map(|_| None)?,
            b'$' => length(text, MAX_VALUE)?,
            _ => length(text, MAX_ARRAY - self.open)?,
        };
        match length {
            Some(length) if *kind == b'$' => {
                self.body = length + 2;
                self.skips = self.held + length > MAX_HELD;
                if self.skips {
                    out.extend_from_slice(b"-TOOLONG\r\n");
                } else {
                    self.held += length;
                    out.extend_from_slice(line);
                }
                self.echo = (self.open == 0 && length == size_of::<Fence>()).then(Vec::new);
                Ok(())
            }
            items => {
                self.end_value(items.unwrap_or(0))?;
                out.extend_from_slice(line);
                Ok(())
            }
        }
    }

    /// A value that so many others belong to has come.
    fn end_value(&mut self, items: usize) -> Result<(), Surprise> {
        self.open = self.open.saturating_sub(1) + items;
        if self.open > 0 {
            return Ok(());
        }
        let echo = self.echo.take();
        let Some(expected) = &mut self.expected else {
            self.held = 0;
            return Ok(());
        };
        let is_fence = echo.is_some_and(|echo| {
            let fence = expected.iter().find_map(|batch| batch.fence.as_ref());
            fence.is_some_and(|fence| echo.strip_suffix(b"\r\n") == Some(fence))
        });
        let Some(batch) = expected.front_mut() else { return Err(UNASKED) };
        batch.left -= 1;
        // An echo that comes early shows that a reply before it is missing.
        if is_fence != (batch.left == 0 && batch.fence.is_some()) {
            return Err(FENCE);
        }
        if batch.left == 0 {
            self.waiting -= batch.bytes;
            self.held = 0;
            expected.pop_front();
        }
        Ok(())
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

    const NONCE: Fence = *b"0123456789abcdef";

    /// What passes of bytes that come in parts of `step`, and how it ends.
    fn sift(gate: &Gate, bytes: &[u8], step: usize) -> (Vec<u8>, Option<Surprise>) {
        let mut out = Vec::new();
        bytes.chunks(step).for_each(|chunk| gate.sieve().pass(chunk, &mut out));
        (out, gate.surprise())
    }

    #[test]
    fn replies_pass_as_they_are_in_whatever_parts_they_come() {
        let replies =
            b"+OK\r\n-ERR no\r\n:-42\r\n$-1\r\n*-1\r\n$4\r\na\r\nb\r\n*2\r\n*1\r\n:1\r\n$1\r\nx\r\n*0\r\n";
        for step in 1..=replies.len() {
            assert_eq!(sift(&Gate::default(), replies, step), (replies.to_vec(), None), "in parts of {step}");
        }
    }

    #[test]
    fn what_is_not_resp2_or_too_long_does_not_pass() {
        let endless = [b"+".as_slice(), &[b'x'; MAX_LINE]].concat();
        let nested = b"*60000\r\n".repeat(2);
        let many = [b"*65000\r\n".as_slice(), &b"*1\r\n:1\r\n".repeat(2 << 20)].concat();
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
        ] {
            for step in [7, bytes.len()] {
                assert_eq!(sift(&Gate::default(), bytes, step).1, Some(surprise));
            }
        }
    }

    #[test]
    fn a_fence_stands_right_behind_the_replies_of_its_batch() {
        let (nil, fence, other) = ("$-1\r\n", "$16\r\n0123456789abcdef\r\n", "$16\r\n0123456789abcdee\r\n");
        let ends = |replies: &[&str]| {
            let gate = Gate::default();
            gate.close();
            gate.expect(1, None, 0);
            gate.expect(3, Some(NONCE), 0);
            let (out, surprise) = sift(&gate, replies.concat().as_bytes(), 5);
            assert!(surprise.is_none() || out.len() < replies.concat().len(), "the last one is held back");
            surprise
        };
        assert_eq!(ends(&[nil, nil, nil, fence]), None);
        assert_eq!(ends(&[nil, other, nil, fence]), None, "a value that looks like one");
        for wrong in
            [[nil, nil, fence, nil], [nil, nil, nil, other], [nil, nil, nil, nil], [fence, nil, nil, fence]]
        {
            assert_eq!(ends(&wrong), Some(FENCE), "{wrong:?}");
        }
        assert_eq!(ends(&[nil, nil, nil, fence, nil]), Some(UNASKED));
    }
}
