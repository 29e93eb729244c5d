//! A real write: it shows that the server is a master that takes writes, that the credential may do all that claims need, that
//! a TTL is kept, and in which form the server can create a key and answer its old value in one step.

use super::connection::{Connection, DialError};
use redis::{ServerError, Value};
use std::time::Duration;

/// A probe key lives no longer than this.
const PROBE_TTL: Duration = Duration::from_secs(10);

/// Create-only with the old value, where `SET … NX GET` is not understood.
pub(super) const CLAIM_SCRIPT: &[u8] = b"local v=redis.call('GET',KEYS[1]) if v then return v end \
if ARGV[2]=='0' then redis.call('SET',KEYS[1],ARGV[1]) else redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[2]) end \
return false";

/// How a server creates a key and answers the old value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimForm {
    /// `SET key value NX GET PX ttl` (Redis 7.0 and later).
    SetNxGet,
    /// A script of the same effect.
    Script,
    /// `SET … NX` and then `GET`: where scripts are not allowed either.
    TwoSteps,
}

/// How much a server must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// At start: the probe key is written, read and removed.
    Whole,
    /// Later: a server that refuses writes for the moment (out of memory) may still answer reads.
    Lenient,
}

/// `None` where a lenient probe could not find out. `key` begins with `prefix`.
pub(super) async fn probe(
    connection: &mut Connection,
    key: &[u8],
    proof: Proof,
    prefix: &str,
) -> Result<Option<ClaimForm>, DialError> {
    let value = format!("{:016x}", rand::random::<u64>()).into_bytes();
    let form = match write(connection, key, &value).await? {
        Ok(form) => form,
        Err(error) => {
            let passing = ["OOM", "MISCONF", "NOREPLICAS", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"];
            if proof == Proof::Lenient && passing.contains(&error.code()) {
                return Ok(None);
            }
            let mut why = DialError::refused("SET", &error);
            if error.code() == "NOPERM" {
                why.message.push_str(&format!(" (the probe key begins with \"{prefix}\")"));
            }
            return Err(why);
        }
    };
    match connection.ask(&[b"GET", key]).await? {
        Value::BulkString(read) if read == value => {}
        Value::ServerError(error) => return Err(DialError::refused("GET", &error)),
        _ => return Err(DialError::passing("a probe key was written and another value was read back")),
    }
    // A user that may not ask is no reason to stop.
    if matches!(connection.ask(&[b"PTTL", key]).await?, Value::Int(ttl) if ttl <= 0) {
        return Err(DialError::permanent("a probe key was written with a TTL and has none"));
    }
    match connection.ask(&[b"DEL", key]).await? {
        Value::ServerError(error) => Err(DialError::refused("DEL", &error)),
        _ => Ok(Some(form)),
    }
}

/// Writes the probe key in the best form that the server understands; the inner error is the server's.
async fn write(
    connection: &mut Connection,
    key: &[u8],
    value: &[u8],
) -> Result<Result<ClaimForm, ServerError>, DialError> {
    let ttl = PROBE_TTL.as_millis().to_string().into_bytes();
    let unfit = || Err(DialError::passing("the reply to the probe does not fit its request"));
    match connection.ask(&[b"SET", key, value, b"NX", b"GET", b"PX", &ttl]).await? {
        Value::Nil => return Ok(Ok(ClaimForm::SetNxGet)),
        Value::ServerError(error) if error.code() != "ERR" => return Ok(Err(error)),
        Value::ServerError(_) => {}
        _ => return unfit(),
    }
    if connection.ask(&[b"EVAL", CLAIM_SCRIPT, b"1", key, value, &ttl]).await? == Value::Nil {
        return Ok(Ok(ClaimForm::Script));
    }
    match connection.ask(&[b"SET", key, value, b"NX", b"PX", &ttl]).await? {
        Value::Okay => Ok(Ok(ClaimForm::TwoSteps)),
        Value::ServerError(error) => Ok(Err(error)),
        _ => unfit(),
    }
}
