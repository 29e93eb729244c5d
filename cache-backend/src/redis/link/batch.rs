//! A batch: the commands that it sends, and what their replies mean.

use super::super::connection::{pack, said};
use super::super::gate::{FENCE, MAX_VALUE, Surprise, UNFIT};
use super::super::probe::{CLAIM_SCRIPT, ClaimForm};
use super::NAME;
use crate::guard::vec_of_errors;
use crate::{Answers, Claimed, KeyValues, OpError, OpErrorKind};
use bytes::Bytes;
use redis::{Cmd, Value};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Values of a claim from this length on carry marks by which the caller tells which key they belong to.
const MARKED: usize = 16;
/// Of an old value this much is given out, or as much as the longest value of its batch has: no claim is longer.
const OLD_VALUE: usize = 1 << 10;
/// Most bytes of values that are kept for one batch; what is longer together is not given out.
const MAX_VALUES: usize = MAX_VALUE;

/// What is asked for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Ask {
    Claim(Duration),
    Set(Duration),
    Get,
    Del,
}

/// The word of a `PING` behind a batch.
pub(super) type Fence = [u8; 16];

/// What the replies to the commands of one key mean; `None`: they do not fit.
pub(in super::super) type Read<T> = fn(&mut [Value]) -> Option<Result<T, OpError>>;

pub(super) struct Batch {
    pub(super) ask: Ask,
    pub(super) keys: KeyValues,
    /// Each command behind an `ASKING`.
    pub(super) asking: bool,
    pub(super) caller: Box<dyn Caller>,
    pub(super) since: Instant,
    pub(super) sent: Sent,
}

/// What became of a batch on the connection that it left by.
#[derive(Default)]
pub(super) struct Sent {
    /// Its replies so far, without those to `ASKING`, and how many are to come before the fence.
    replies: Vec<Value>,
    left: usize,
    /// Bytes of values among them, and most that an old value keeps.
    values: usize,
    old_value: usize,
    pub(super) fence: Option<Fence>,
    /// Length of its values where they carry marks.
    pub(super) marks: Option<usize>,
    /// A value of another length was found.
    pub(super) unmarked: bool,
}

/// What a reply did to its batch.
pub(super) enum Progress {
    More,
    /// Its answers can be given out.
    Done,
    /// Its answers can be given out behind a fence.
    Unproven,
}

impl Batch {
    /// Appends its commands.
    pub(super) fn write(&mut self, form: ClaimForm, command: &mut Cmd, out: &mut Vec<u8>) {
        let ttl = match self.ask {
            // Rounded up: never shorter than asked for.
            Ask::Claim(ttl) | Ask::Set(ttl) => ttl.as_nanos().div_ceil(1_000_000).to_string(),
            Ask::Get | Ask::Del => String::new(),
        };
        let expiry = [&b"PX"[..], ttl.as_bytes()];
        let expiry = if ttl == "0" { &[][..] } else { &expiry };
        let asking = self.asking;
        let mut put = |words: &[&[u8]], expiry: &[&[u8]]| {
            if asking {
                pack(command, &[b"ASKING"], &[], out);
            }
            pack(command, words, expiry, out);
        };
        for (key, value) in self.keys.iter() {
            match (self.ask, form) {
                (Ask::Claim(_), ClaimForm::SetNxGet) => put(&[b"SET", key, value, b"NX", b"GET"], expiry),
                (Ask::Claim(_), ClaimForm::Script) => {
                    put(&[b"EVAL", CLAIM_SCRIPT, b"1", key, value, ttl.as_bytes()], &[]);
                }
                (Ask::Claim(_), ClaimForm::TwoSteps) => {
                    put(&[b"SET", key, value, b"NX"], expiry);
                    put(&[b"GET", key], &[]);
                }
                (Ask::Set(_), _) => put(&[b"SET", key, value], expiry),
                (Ask::Get, _) => put(&[b"GET", key], &[]),
                (Ask::Del, _) => put(&[b"DEL", key], &[]),
            }
        }
        let steps = if matches!((self.ask, form), (Ask::Claim(_), ClaimForm::TwoSteps)) { 2 } else { 1 };
        let left = self.keys.len() * steps * if self.asking { 2 } else { 1 };
        let old_value = self.keys.iter().map(|(_, value)| value.len()).fold(OLD_VALUE, usize::max);
        let replies = Vec::with_capacity(self.keys.len() * steps);
        self.sent = Sent { replies, left, old_value, marks: self.marks(), ..Sent::default() };
    }

    /// Length of the values of a claim where they carry marks.
    fn marks(&self) -> Option<usize> {
        let Ask::Claim(_) = self.ask else { return None };
        let mut lengths = self.keys.iter().map(|(_, value)| value.len());
        let first = lengths.next().filter(|&length| length >= MARKED)?;
        lengths.all(|length| length == first).then_some(first)
    }

    /// Judges the next reply. `is_fence`: it is the echo that is awaited first.
    #[inline]
    pub(super) fn accept(&mut self, mut reply: Value, is_fence: bool) -> Result<Progress, Surprise> {
        let sent = &mut self.sent;
        // An echo that comes early shows that a reply before it is missing.
        if is_fence != (sent.left == 0) {
            return Err(FENCE);
        }
        if is_fence {
            return Ok(Progress::Done);
        }
        if let Value::BulkString(value) = &mut reply {
            sent.unmarked |= sent.marks.is_some_and(|marks| marks != value.len());
            if matches!(self.ask, Ask::Claim(_)) && value.len() > sent.old_value {
                value.truncate(sent.old_value);
                value.shrink_to_fit();
            }
            sent.values = sent.values.saturating_add(value.len());
            if sent.values > MAX_VALUES {
                reply = NO_ROOM;
            }
        }
        match self.asking && sent.left.is_multiple_of(2) {
            true if reply != Value::Okay => return Err(UNFIT),
            true => {}
            false => sent.replies.push(reply),
        }
        sent.left -= 1;
        Ok(match (sent.left, sent.fence) {
            (0, None) if sent.unmarked => Progress::Unproven,
            (0, None) => Progress::Done,
            _ => Progress::More,
        })
    }

    /// Gives its answers out. What the server said where that makes another dial wise.
    pub(super) fn answer(self) -> Result<Option<String>, Surprise> {
        let steps = self.sent.replies.len() / self.keys.len().max(1);
        self.caller.answer(self.sent.replies, steps.max(1)).map_err(|caller| {
            let detail = format!("connection dropped: {UNFIT}");
            caller.fail(self.keys.len(), &error(self.ask, OpErrorKind::Garbled, true, &detail));
            UNFIT
        })
    }

    /// One error for every key.
    pub(super) fn fail(self, kind: OpErrorKind, was_sent: bool, detail: &str) {
        self.caller.fail(self.keys.len(), &error(self.ask, kind, was_sent, detail));
    }
}

/// A read that was sent is never in doubt.
pub(super) fn error(ask: Ask, kind: OpErrorKind, was_sent: bool, detail: &str) -> OpError {
    OpError { backend: NAME, kind, in_doubt: was_sent && ask != Ask::Get, detail: detail.to_owned() }
}

/// Stands for a value that found no room; the gate lets nothing pass that is read as this.
const NO_ROOM: Value = Value::Boolean(false);

/// Who waits for the answers of a batch.
pub(super) trait Caller: Send {
    fn is_gone(&self) -> bool;
    /// So many replies belong to one key. An error if they do not fit; it still waits then.
    fn answer(
        self: Box<Self>,
        replies: Vec<Value>,
        of_each: usize,
    ) -> Result<Option<String>, Box<dyn Caller>>;
    fn fail(self: Box<Self>, keys: usize, error: &OpError);
}

pub(super) struct Waiting<T> {
    pub(super) answers: oneshot::Sender<Answers<T>>,
    pub(super) read: Read<T>,
}

impl<T: Send + 'static> Caller for Waiting<T> {
    fn is_gone(&self) -> bool {
        self.answers.is_closed()
    }

    fn answer(
        self: Box<Self>,
        mut replies: Vec<Value>,
        of_each: usize,
    ) -> Result<Option<String>, Box<dyn Caller>> {
        let (mut answers, mut redial) = (Vec::with_capacity(replies.len() / of_each), None);
        for replies in replies.chunks_exact_mut(of_each) {
            answers.push(match replies {
                [Value::Boolean(_), ..] => Err(too_long()),
                [Value::ServerError(error), ..] => {
                    let said = said(error);
                    if asks_for_another_dial(&said) {
                        redial = Some(said.clone());
                    }
                    Err(OpError::not_done(NAME, OpErrorKind::Refused, said))
                }
                replies => match (self.read)(replies) {
                    Some(answer) => answer,
                    None => return Err(self),
                },
            });
        }
        // A caller that went away took its deadline with it.
        let _ = self.answers.send(answers);
        Ok(redial)
    }

    fn fail(self: Box<Self>, keys: usize, error: &OpError) {
        let _ = self.answers.send(vec_of_errors(keys, error));
    }
}

pub(in super::super) fn read_claim(replies: &mut [Value]) -> Option<Result<Claimed, OpError>> {
    Some(Ok(match replies {
        // In one step, or `SET … NX` did it and whatever was read is its own.
        [Value::Nil] | [Value::Okay, _] => Claimed::Created,
        [Value::BulkString(old)] | [Value::Nil, Value::BulkString(old)] => {
            Claimed::Exists(std::mem::take(old).into())
        }
        [Value::Nil, Value::Nil | Value::ServerError(_) | Value::Boolean(_)] => return Some(Err(vanished())),
        _ => return None,
    }))
}

pub(in super::super) fn read_set(replies: &mut [Value]) -> Option<Result<(), OpError>> {
    matches!(replies, [Value::Okay]).then_some(Ok(()))
}

pub(in super::super) fn read_get(replies: &mut [Value]) -> Option<Result<Option<Bytes>, OpError>> {
    match replies {
        [Value::Nil] => Some(Ok(None)),
        [Value::BulkString(value)] => Some(Ok(Some(std::mem::take(value).into()))),
        _ => None,
    }
}

pub(in super::super) fn read_del(replies: &mut [Value]) -> Option<Result<bool, OpError>> {
    match replies {
        [Value::Int(count @ (0 | 1))] => Some(Ok(*count == 1)),
        _ => None,
    }
}

/// The values before this one took all the memory that a batch may take.
fn too_long() -> OpError {
    let detail = format!("the values of one batch are longer than {MAX_VALUES} bytes");
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
