//! The wire of Redis (RESP2): one token at a time, borrowed from the read buffer.
//!
//! Why our own: a claim is one command of seven words and a reply of five bytes. Written straight into the socket buffer
//! and read straight from it, it costs a few hundred nanoseconds; and every reply passes one place that checks whether
//! it fits its request (`link`).
//!
//! Limits: a line is at most `MAX_LINE` bytes, a bulk at most `MAX_BULK`; lengths are checked before memory is taken.

use std::fmt::Display;

/// Longest status, error or length line.
const MAX_LINE: usize = 64 << 10;
/// Longest value.
pub(super) const MAX_BULK: usize = 64 << 20;
/// Longest array (the slot table of a large Cluster).
const MAX_ARRAY: usize = 1 << 16;
const MAX_DEPTH: usize = 8;

/// Bytes that no RESP2 server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Surprise {
    #[error("a reply begins with byte {0:#04x}")]
    Type(u8),
    #[error("a line is longer than {MAX_LINE} bytes or not ended by CR LF")]
    Line,
    #[error("a number cannot be read")]
    Number,
    #[error("a length is negative or beyond the limit")]
    Length,
    #[error("the reply does not fit its request")]
    Unfit,
    #[error("the fence after a batch came back different: replies slipped")]
    Fence,
    #[error("a reply arrived that nobody asked for")]
    Unasked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Simple(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    Bulk(&'a [u8]),
    Nil,
    Array(usize),
}

/// The first token of `bytes` and its length; `None` where more bytes are needed.
#[inline]
pub(super) fn token(bytes: &[u8]) -> Result<Option<(Token<'_>, usize)>, Surprise> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    if !b"+-:$*".contains(&kind) {
        return Err(Surprise::Type(kind));
    }
    let Some(line) = line(rest)? else { return Ok(None) };
    let length = 1 + line.len() + 2;
    let token = match kind {
        b'+' => Token::Simple(line),
        b'-' => Token::Error(line),
        b':' => Token::Integer(number(line)?),
        b'$' => {
            let Some(size) = size(line, MAX_BULK)? else { return Ok(Some((Token::Nil, length))) };
            let Some(body) = bytes.get(length..length + size + 2) else { return Ok(None) };
            let Some(value) = body.strip_suffix(b"\r\n") else { return Err(Surprise::Line) };
            return Ok(Some((Token::Bulk(value), length + size + 2)));
        }
        _ => match size(line, MAX_ARRAY)? {
            Some(size) => Token::Array(size),
            None => Token::Nil,
        },
    };
    Ok(Some((token, length)))
}

/// Up to CR LF, which is not part of it.
#[inline]
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Surprise> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|&byte| byte == b'\r') else {
        return if bytes.len() >= MAX_LINE { Err(Surprise::Line) } else { Ok(None) };
    };
    match bytes.get(end + 1) {
        Some(b'\n') => Ok(bytes.get(..end)),
        Some(_) => Err(Surprise::Line),
        None => Ok(None),
    }
}

#[inline]
fn size(line: &[u8], limit: usize) -> Result<Option<usize>, Surprise> {
    match number(line)? {
        -1 => Ok(None),
        size => match usize::try_from(size) {
            Ok(size) if size <= limit => Ok(Some(size)),
            _ => Err(Surprise::Length),
        },
    }
}

#[inline]
fn number(line: &[u8]) -> Result<i64, Surprise> {
    let (negative, digits) = match line.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, line),
    };
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Surprise::Number);
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Ok(if negative { -value } else { value })
}

/// A whole reply of the cold path (handshake, slot table, Sentinel).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Value>),
}

impl Value {
    /// The first value of `bytes` and its length; `None` where more bytes are needed.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, Surprise> {
        Value::nested(bytes, 0)
    }

    fn nested(bytes: &[u8], depth: usize) -> Result<Option<(Value, usize)>, Surprise> {
        let Some((token, mut length)) = token(bytes)? else { return Ok(None) };
        let value = match token {
            Token::Simple(text) => Value::Simple(lossy(text)),
            Token::Error(text) => Value::Error(lossy(text)),
            Token::Integer(number) => Value::Integer(number),
            Token::Bulk(value) => Value::Bulk(value.to_vec()),
            Token::Nil => Value::Nil,
            Token::Array(_) if depth == MAX_DEPTH => return Err(Surprise::Length),
            Token::Array(size) => {
                let mut items = Vec::new();
                for _ in 0..size {
                    let rest = bytes.get(length..).unwrap_or_default();
                    let Some((item, more)) = Value::nested(rest, depth + 1)? else { return Ok(None) };
                    items.push(item);
                    length += more;
                }
                Value::Array(items)
            }
        };
        Ok(Some((value, length)))
    }

    pub(super) fn text(&self) -> Option<String> {
        match self {
            Value::Simple(text) => Some(text.clone()),
            Value::Bulk(bytes) => Some(lossy(bytes)),
            _ => None,
        }
    }
    pub(super) fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) => items,
            _ => &[],
        }
    }
    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

/// For messages: what a server said, in printable form and of bounded length.
pub(super) fn lossy(bytes: &[u8]) -> String {
    let shown = bytes.get(..300).unwrap_or(bytes);
    String::from_utf8_lossy(shown).replace(char::is_control, " ")
}

/// Appends `*count`: the head of a command.
#[inline]
pub(super) fn put_head(out: &mut Vec<u8>, words: usize) {
    out.push(b'*');
    put_number(out, words);
}

/// Appends one word of a command.
#[inline]
pub(super) fn put_word(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b'$');
    put_number(out, word.len());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole command.
pub(super) fn put_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    put_head(out, words.len());
    words.iter().for_each(|word| put_word(out, word));
}

#[inline]
fn put_number(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 22];
    digits[20..].copy_from_slice(b"\r\n");
    let (mut at, mut rest) = (20, number);
    loop {
        at -= 1;
        #[allow(clippy::cast_possible_truncation, reason = "a digit")]
        let digit = (rest % 10) as u8;
        digits[at] = b'0' + digit;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A number as a word.
pub(super) fn decimal(number: impl Display) -> Vec<u8> {
    number.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_their_length_is_exact() {
        let cases: [(&[u8], Token<'_>); 8] = [
            (b"+OK\r\n", Token::Simple(b"OK")),
            (b"-ERR no\r\n", Token::Error(b"ERR no")),
            (b":-42\r\n", Token::Integer(-42)),
            (b"$-1\r\n", Token::Nil),
            (b"*-1\r\n", Token::Nil),
            (b"$0\r\n\r\n", Token::Bulk(b"")),
            (b"$4\r\na\r\nb\r\n", Token::Bulk(b"a\r\nb")),
            (b"*3\r\n", Token::Array(3)),
        ];
        for (bytes, expected) in cases {
            let mut longer = bytes.to_vec();
            longer.extend_from_slice(b"+next");
            assert_eq!(token(&longer), Ok(Some((expected, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(token(&bytes[..end]), Ok(None), "{:?}", lossy(&bytes[..end]));
            }
        }
    }

    #[test]
    fn what_is_not_resp_is_a_surprise() {
        for bytes in [
            &b"HTTP/1.1"[..],
            b"\x00",
            b"$4\r\nabcdef\r\n",
            b"$99999999999\r\n",
            b"$-2\r\n",
            b"*70000\r\n",
            b":1x\r\n",
            b":\r\n",
            b"+a\rb\r\n",
            b":99999999999999999999\r\n",
        ] {
            assert!(token(bytes).is_err(), "{}", lossy(bytes));
        }
        assert!(token(&[b'+'; MAX_LINE + 2]).is_err());
        let deep = b"*1\r\n".repeat(MAX_DEPTH + 2);
        assert!(Value::parse(&deep).is_err());
    }

    #[test]
    fn a_command_is_written_as_the_server_reads_it() {
        let mut out = Vec::new();
        put_command(&mut out, &[b"SET", b"key", b"", &[b'x'; 1234]]);
        let long = format!("*4\r\n$3\r\nSET\r\n$3\r\nkey\r\n$0\r\n\r\n$1234\r\n{}\r\n", "x".repeat(1234));
        assert_eq!(lossy(&out), lossy(long.as_bytes()));
        assert_eq!(out.len(), long.len());
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_it_panic_or_claim_more_than_there_is(bytes in proptest::collection::vec(proptest::sample::select(b"+-:$*\r\n0123456789aP".to_vec()), 0..60)) {
            if let Ok(Some((_, length))) = Value::parse(&bytes) {
                assert!(length <= bytes.len());
            }
        }
    }
}
