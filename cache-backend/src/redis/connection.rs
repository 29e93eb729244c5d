//! A connection that was greeted: dialled, with credential and database, and behind its gate.
//!
//! One question after the other is asked here, as at a dial; `link` sends many at once.

use super::address::Endpoint;
use super::gate::{Gate, Gated};
use super::stream::{self, Tls};
use crate::{Credential, OpenError};
use futures_util::future::BoxFuture;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, ServerError, Value};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Batches that the crate may have taken and not written: more than `link` lets wait.
const ROOM: usize = 1 << 20;
/// Bytes that leave in one write, where so many are there.
const WRITE: usize = 128 << 10;
/// As which `CLIENT LIST` shows us.
const CLIENT_NAME: &str = "oncecast";

/// Why a dial failed.
#[derive(Clone, Debug)]
pub(super) struct DialError {
    pub(super) message: String,
    /// Waiting will not help: a person must change something.
    pub(super) permanent: bool,
}

impl DialError {
    /// Of several ways that all failed.
    pub(super) fn of_all(failures: Vec<DialError>) -> DialError {
        let permanent = failures.iter().all(|failure| failure.permanent);
        let messages: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        match messages.is_empty() {
            true => DialError::permanent("no address is configured"),
            false => DialError { message: messages.join("; "), permanent },
        }
    }
    pub(super) fn passing(message: impl Into<String>) -> DialError {
        DialError { message: message.into(), permanent: false }
    }
    pub(super) fn permanent(message: impl Into<String>) -> DialError {
        DialError { message: message.into(), permanent: true }
    }
    fn at(self, endpoint: &Endpoint) -> DialError {
        DialError { message: format!("{endpoint}: {}", self.message), ..self }
    }

    /// An error reply to `command`, in words that say what to change.
    pub(super) fn refused(command: &str, error: &ServerError) -> DialError {
        let said = said(error);
        match error.code() {
            "NOAUTH" => DialError::permanent(format!(
                "the server asks for a password and none is configured ({said})"
            )),
            "NOPERM" => DialError::permanent(format!("the ACL of the user does not allow {command}: {said}")),
            "READONLY" => {
                DialError::passing(format!("this server is a read-only replica, not a master ({said})"))
            }
            "OOM" => DialError::passing(format!(
                "the server is out of memory and refuses writes: raise maxmemory ({said})"
            )),
            "MISCONF" | "NOREPLICAS" => DialError::passing(format!("the server refuses writes ({said})")),
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" => {
                DialError::passing(format!("the server is not ready ({said})"))
            }
            _ => DialError::passing(format!("{command} was refused: {said}")),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl From<DialError> for OpenError {
    fn from(error: DialError) -> OpenError {
        OpenError(format!("redis: {}", error.message))
    }
}

/// What a server said, in printable form and of bounded length.
pub(super) fn said(error: &ServerError) -> String {
    let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
    let shown: String = text.trim_end().chars().take(300).collect();
    shown.replace(char::is_control, " ")
}

/// Bounds a dial in time.
pub(super) async fn within<T>(
    limit: Duration,
    endpoint: &Endpoint,
    dial: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    match tokio::time::timeout(limit, dial).await {
        Ok(result) => result.map_err(|error| error.at(endpoint)),
        Err(_) => {
            Err(DialError::passing(format!("{endpoint}: no answer within {limit:?} (the dial timeout)")))
        }
    }
}

/// How to greet a server.
#[derive(Default)]
pub(super) struct Greeting {
    pub(super) credential: Option<Credential>,
    pub(super) db: u32,
}

impl Greeting {
    /// With the password as it is now.
    fn read(&self) -> Result<RedisConnectionInfo, DialError> {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(self.db.into());
        let Some(credential) = &self.credential else { return Ok(info) };
        let info = info.set_password(credential.password.read().map_err(DialError::permanent)?);
        Ok(match &credential.user {
            Some(user) => info.set_username(user),
            None => info,
        })
    }

    /// Why the crate gave up greeting.
    fn failed(&self, gate: &Gate, error: &RedisError) -> DialError {
        match error.kind() {
            ErrorKind::AuthenticationFailed => {
                let user = self.credential.as_ref().and_then(|credential| credential.user.as_deref());
                let user = user.unwrap_or("default");
                DialError::permanent(format!(
                    "the credential was refused: check user and password (user \"{user}\")"
                ))
            }
            ErrorKind::Server(_) => {
                DialError::permanent(format!("database {} cannot be selected: {error}", self.db))
            }
            _ => broke(gate, error),
        }
    }
}

fn broke(gate: &Gate, error: &RedisError) -> DialError {
    let strange = match error.kind() {
        ErrorKind::Parse => Some(error.to_string()),
        _ => gate.surprise().map(|surprise| surprise.to_string()),
    };
    DialError::passing(match strange {
        Some(why) => {
            format!("this does not speak the Redis protocol: {why} (is it a TLS port? use rediss://)")
        }
        None => format!("the connection broke during the handshake: {error}"),
    })
}

async fn gated(endpoint: &Endpoint, tls: &Tls) -> Result<(Gated, Arc<Gate>), DialError> {
    let stream = stream::connect(endpoint, tls).await.map_err(|error| {
        // A certificate that is not trusted arrives as invalid data.
        let permanent = error.kind() == std::io::ErrorKind::InvalidData;
        let hint = if permanent { " (TLS: check the CA file and the server name)" } else { "" };
        DialError { message: format!("cannot connect: {error}{hint}"), permanent }
    })?;
    let gate = Arc::<Gate>::default();
    Ok((Gated::new(stream, gate.clone()), gate))
}

/// A greeted connection.
pub(super) struct Connection {
    pub(super) client: MultiplexedConnection,
    /// Moves its bytes; ends with it.
    pub(super) driver: BoxFuture<'static, ()>,
    pub(super) gate: Arc<Gate>,
}

impl Connection {
    pub(super) async fn dial(
        endpoint: &Endpoint,
        tls: &Tls,
        greeting: &Greeting,
    ) -> Result<Connection, DialError> {
        let info = greeting.read()?;
        let (stream, gate) = gated(endpoint, tls).await?;
        // The guard has the deadlines.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(ROOM)
            .set_write_backpressure_boundary(WRITE);
        match MultiplexedConnection::new_with_config(&info, stream, config).await {
            Ok((client, driver)) => Ok(Connection { client, driver: Box::pin(driver), gate }),
            Err(error) => Err(greeting.failed(&gate, &error)),
        }
    }

    pub(super) async fn ask(&mut self, words: &[&[u8]]) -> Result<Value, DialError> {
        let question = command(words);
        let answer = tokio::select! {
            biased;
            answer = self.client.send_packed_command(&question) => answer,
            // What it leaves behind is an error for the question.
            () = &mut self.driver => Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
        };
        answer.map_err(|error| broke(&self.gate, &error))
    }

    /// Says who we are; the fence that ends every batch must be allowed.
    pub(super) async fn introduce(&mut self) -> Result<(), DialError> {
        // A user that may not do this is no reason to stop.
        self.ask(&[b"CLIENT", b"SETNAME", CLIENT_NAME.as_bytes()]).await?;
        match self.ask(&[b"PING", b"fence"]).await? {
            Value::BulkString(echo) if echo == b"fence" => Ok(()),
            Value::ServerError(error) => Err(DialError::refused("PING", &error)),
            _ => Err(DialError::passing("the echo of PING came back different")),
        }
    }
}

/// A connection that hears what is announced on `channel`.
pub(super) async fn subscribe(
    endpoint: &Endpoint,
    tls: &Tls,
    greeting: &Greeting,
    channel: &str,
) -> Result<PubSub, DialError> {
    let info = greeting.read()?;
    let (stream, gate) = gated(endpoint, tls).await?;
    let mut news = PubSub::new(&info, stream).await.map_err(|error| greeting.failed(&gate, &error))?;
    news.subscribe(channel).await.map_err(|error| broke(&gate, &error))?;
    Ok(news)
}

/// One allocation for all words, and one for their lengths; with room for two words more.
#[inline]
pub(super) fn command(words: &[&[u8]]) -> Cmd {
    let length = words.iter().map(|word| word.len()).sum::<usize>();
    let mut command = Cmd::with_capacity(words.len() + 2, length + 16);
    for word in words {
        command.arg(*word);
    }
    command
}
