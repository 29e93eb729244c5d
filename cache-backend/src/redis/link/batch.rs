//! A batch: the commands that it sends, and what their replies mean.

use super::super::connection::{command, said};
use super::super::gate::TOO_LONG;
use super::super::probe::{CLAIM_SCRIPT, ClaimForm};
use super::NAME;
use crate::guard::vec_of_errors;
use crate::{Answers, Claimed, KeyValues, OpError, OpErrorKind};
use bytes::Bytes;
use redis::{Cmd, Pipeline, Value};
use std::time::Duration;

/// Values of a claim from this length on carry marks by which the caller tells which key they belong to.
const MARKED: usize = 16;
/// Of an old value this much is given out, or as much as the longest value of its batch has: no claim is longer.
const OLD_VALUE: usize = 1 << 10;

/// What is asked for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Claim(Duration),
    Set(Duration),
    Get,
    Del,
}

/// What the replies to the commands of one key mean; `None`: they do not fit. Of an old value so many bytes are given out.
pub(super) type Read<T> = fn(&mut [Value], usize) -> Option<Result<T, OpError>>;

pub(super) struct Batch {
    pub(super) ask: Ask,
    pub(super) keys: KeyValues,
    /// Each command behind an `ASKING`.
    pub(super) asking: bool,
}

impl Batch {
    pub(super) fn commands(&self, form: ClaimForm) -> Pipeline {
        // And one for the fence.
        let mut pipeline = Pipeline::with_capacity(self.keys.len() + 1);
        let mut put = |command: Cmd| {
            if self.asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(command);
        };
        let ttl = match self.ask {
            // Rounded up: never shorter than asked for.
            Ask::Claim(ttl) | Ask::Set(ttl) => ttl.as_nanos().div_ceil(1_000_000).to_string(),
            Ask::Get | Ask::Del => String::new(),
        };
        for (key, value) in self.keys.iter() {
            match self.ask {
                Ask::Claim(_) => claim(form, key, value, ttl.as_bytes(), &mut put),
                Ask::Set(_) => put(expiring(&[b"SET", key, value], ttl.as_bytes())),
                Ask::Get => put(command(&[b"GET", key])),
                Ask::Del => put(command(&[b"DEL", key])),
            }
        }
        pipeline
    }

    /// Length of the values of a claim where they carry marks.
    pub(super) fn marks(&self) -> Option<usize> {
        let Ask::Claim(_) = self.ask else { return None };
        let mut lengths = self.keys.iter().map(|(_, value)| value.len());
        let first = lengths.next().filter(|&length| length >= MARKED)?;
        lengths.all(|length| length == first).then_some(first)
    }

    /// Answers, and what the server said where that makes another dial wise; `None`: the replies do not fit.
    pub(super) fn answers<T>(
        &self,
        mut replies: Vec<Value>,
        read: Read<T>,
    ) -> Option<(Answers<T>, Option<String>)> {
        if self.asking {
            replies = without_asking(replies)?;
        }
        let longest = self.keys.iter().map(|(_, value)| value.len()).fold(OLD_VALUE, usize::max);
        let of_each = (replies.len() / self.keys.len().max(1)).max(1);
        let (mut answers, mut redial) = (Vec::with_capacity(self.keys.len()), None);
        for replies in replies.chunks_mut(of_each) {
            answers.push(match replies {
                [Value::ServerError(error), ..] if error.code() == TOO_LONG => Err(too_long()),
                [Value::ServerError(error), ..] => {
                    let said = said(error);
                    if asks_for_another_dial(&said) {
                        redial = Some(said.clone());
                    }
                    Err(OpError::not_done(NAME, OpErrorKind::Refused, said))
                }
                replies => read(replies, longest)?,
            });
        }
        Some((answers, redial))
    }

    /// One error for every key. A read that was sent is never in doubt.
    pub(super) fn failed<T>(&self, kind: OpErrorKind, was_sent: bool, detail: String) -> Answers<T> {
        let in_doubt = was_sent && self.ask != Ask::Get;
        vec_of_errors(self.keys.len(), &OpError { backend: NAME, kind, in_doubt, detail })
    }
}

fn expiring(words: &[&[u8]], milliseconds: &[u8]) -> Cmd {
    let mut command = command(words);
    if milliseconds != b"0" {
        command.arg(&b"PX"[..]).arg(milliseconds);
    }
    command
}

fn claim(form: ClaimForm, key: &[u8], value: &[u8], milliseconds: &[u8], put: &mut impl FnMut(Cmd)) {
    match form {
        ClaimForm::SetNxGet => put(expiring(&[b"SET", key, value, b"NX", b"GET"], milliseconds)),
        ClaimForm::Script => put(command(&[b"EVAL", CLAIM_SCRIPT, b"1", key, value, milliseconds])),
        ClaimForm::TwoSteps => {
            put(expiring(&[b"SET", key, value, b"NX"], milliseconds));
            put(command(&[b"GET", key]));
        }
    }
}

/// The replies behind those to `ASKING`.
fn without_asking(replies: Vec<Value>) -> Option<Vec<Value>> {
    let mut kept = Vec::with_capacity(replies.len() / 2);
    let mut replies = replies.into_iter();
    while let Some(asking) = replies.next() {
        kept.push(replies.next().filter(|_| asking == Value::Okay)?);
    }
    Some(kept)
}

pub(super) fn read_claim(replies: &mut [Value], longest: usize) -> Option<Result<Claimed, OpError>> {
    Some(Ok(match replies {
        // In one step, or `SET … NX` did it.
        [Value::Nil] | [Value::Okay, Value::Nil | Value::BulkString(_) | Value::ServerError(_)] => {
            Claimed::Created
        }
        [Value::BulkString(old)] | [Value::Nil, Value::BulkString(old)] => {
            old.truncate(longest);
            old.shrink_to_fit();
            Claimed::Exists(std::mem::take(old).into())
        }
        [Value::Nil, Value::Nil | Value::ServerError(_)] => return Some(Err(vanished())),
        _ => return None,
    }))
}

pub(super) fn read_set(replies: &mut [Value], _: usize) -> Option<Result<(), OpError>> {
    matches!(replies, [Value::Okay]).then_some(Ok(()))
}

pub(super) fn read_get(replies: &mut [Value], _: usize) -> Option<Result<Option<Bytes>, OpError>> {
    match replies {
        [Value::Nil] => Some(Ok(None)),
        [Value::BulkString(value)] => Some(Ok(Some(std::mem::take(value).into()))),
        _ => None,
    }
}

pub(super) fn read_del(replies: &mut [Value], _: usize) -> Option<Result<bool, OpError>> {
    match replies {
        [Value::Int(count @ (0 | 1))] => Some(Ok(*count == 1)),
        _ => None,
    }
}

/// The values before this one took all the memory that a batch may take.
fn too_long() -> OpError {
    let detail = "the values of one batch are longer than what is set aside for them";
    OpError::not_done(NAME, OpErrorKind::Overloaded, detail)
}

/// The key was there at `SET … NX` and gone at `GET`: it expired between the two.
fn vanished() -> OpError {
    OpError::not_done(NAME, OpErrorKind::Refused, "the key exists and its value cannot be read")
}

/// The server is no longer what the handshake found: demoted, reloaded, or of another version.
fn asks_for_another_dial(error: &str) -> bool {
    ["READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "ERR syntax"].iter().any(|code| error.starts_with(code))
}
