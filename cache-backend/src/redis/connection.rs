//! A connection that was greeted: dialled, with credential and database, and behind its gate.
//!
//! One question after the other is asked here, as at a dial; `link` sends many at once.

use super::address::Endpoint;
use super::gate::{Input, Surprise, UNFIT};
use super::stream::{self, Stream, Tls};
use crate::{Credential, OpenError};
use redis::{Cmd, ServerError, Value};
use std::fmt;
use std::future::poll_fn;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// As which `CLIENT LIST` shows us.
const CLIENT_NAME: &[u8] = b"oncecast";

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
            "WRONGPASS" => {
                DialError::permanent(format!("the credential was refused: check user and password ({said})"))
            }
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

/// A greeted connection.
pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) input: Input,
}

impl Connection {
    pub(super) async fn dial(
        endpoint: &Endpoint,
        tls: &Tls,
        greeting: &Greeting,
    ) -> Result<Connection, DialError> {
        let stream = stream::connect(endpoint, tls).await.map_err(|error| {
            // A certificate that is not trusted arrives as invalid data.
            let permanent = error.kind() == std::io::ErrorKind::InvalidData;
            let hint = if permanent { " (TLS: check the CA file and the server name)" } else { "" };
            DialError { message: format!("cannot connect: {error}{hint}"), permanent }
        })?;
        let mut connection = Connection { stream, input: Input::default() };
        if let Some(credential) = &greeting.credential {
            connection.authenticate(credential).await?;
        }
        if greeting.db != 0 {
            let answer = connection.ask(&[b"SELECT", greeting.db.to_string().as_bytes()]).await?;
            if let Value::ServerError(error) = answer {
                let why = format!("database {} cannot be selected: {}", greeting.db, said(&error));
                return Err(DialError::permanent(why));
            }
        }
        Ok(connection)
    }

    /// With the password as it is now.
    async fn authenticate(&mut self, credential: &Credential) -> Result<(), DialError> {
        let password = credential.password.read().map_err(DialError::permanent)?;
        let mut words: Vec<&[u8]> = vec![b"AUTH"];
        words.extend(credential.user.as_ref().map(|user| user.as_bytes()));
        words.push(password.as_bytes());
        match self.ask(&words).await? {
            Value::Okay => Ok(()),
            Value::ServerError(error) => {
                let user = credential.user.as_deref().unwrap_or("default");
                let why = DialError::refused("AUTH", &error);
                let permanent = why.permanent || error.code() == "ERR";
                Err(DialError { message: format!("{} (user \"{user}\")", why.message), permanent })
            }
            _ => Err(strange(UNFIT)),
        }
    }

    /// Says who we are; the fence that ends every batch must be allowed.
    pub(super) async fn introduce(&mut self) -> Result<(), DialError> {
        // A user that may not do this is no reason to stop.
        self.ask(&[b"CLIENT", b"SETNAME", CLIENT_NAME]).await?;
        match self.ask(&[b"PING", b"fence"]).await? {
            Value::BulkString(echo) if echo == b"fence" => Ok(()),
            Value::ServerError(error) => Err(DialError::refused("PING", &error)),
            _ => Err(DialError::passing("the echo of PING came back different")),
        }
    }

    pub(super) async fn ask(&mut self, words: &[&[u8]]) -> Result<Value, DialError> {
        let mut question = Vec::new();
        pack(&mut Cmd::new(), words, &[], &mut question);
        self.stream.write_all(&question).await.map_err(broke)?;
        self.stream.flush().await.map_err(broke)?;
        self.next().await
    }

    /// The next reply, or the next that is announced.
    pub(super) async fn next(&mut self) -> Result<Value, DialError> {
        loop {
            if let Some(reply) = self.input.reply().map_err(strange)? {
                return Ok(reply);
            }
            let came = poll_fn(|cx| self.input.poll_fill(cx, &mut self.stream)).await;
            if came.map_err(broke)? == 0 {
                return Err(broke("the server closed it"));
            }
        }
    }
}

fn broke(why: impl fmt::Display) -> DialError {
    DialError::passing(format!("the connection broke during the handshake: {why}"))
}

fn strange(why: Surprise) -> DialError {
    DialError::passing(format!(
        "this does not speak the Redis protocol: {why} (is it a TLS port? use rediss://)"
    ))
}

/// Appends the command of these words. `command` lends its memory.
#[inline]
pub(super) fn pack(command: &mut Cmd, words: &[&[u8]], more: &[&[u8]], out: &mut Vec<u8>) {
    command.clear();
    for word in words.iter().chain(more) {
        command.arg(*word);
    }
    command.write_packed_command(out);
}
