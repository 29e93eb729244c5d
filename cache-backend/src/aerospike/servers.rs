//! The servers: how they are connected to, and how it is seen that they work.

use super::errors::{chain, exists, in_chain};
use crate::AerospikeSettings;
use ::aerospike::errors::{Error, ErrorKind};
use ::aerospike::policy::{AuthMode, ReadModeAp};
use ::aerospike::{
    Bin, Bins, Client, ClientPolicy, Expiration, Host, Key, ReadPolicy, RecordExistsAction, ResultCode,
    Value, WritePolicy,
};
use std::time::Duration;

pub(super) const NAME: &str = "aerospike";
pub(super) const PORT: u16 = 3000;
pub(super) const BIN: &str = "v";
/// More connections are not opened at the same time: a dead server is not to be stormed.
const OPENING_AT_ONCE: usize = 4;
/// Errors of one node between two looks at the cluster, above which the client asks it nothing until the next: fewer than
/// the turns of a session, so that a dead node of a cluster holds them once and no more.
const ERRORS_OF_A_NODE: usize = 60;
/// From look to look: so long after a hiccup a node may stay unasked, and a new owner of records unknown.
const LOOK: Duration = Duration::from_millis(500);
const PROBE_TTL: Duration = Duration::from_secs(10);

/// Where the servers are and how they are used.
pub(super) struct Config {
    pub(super) settings: AerospikeSettings,
    pub(super) hosts: Vec<Host>,
    /// As in messages and metrics.
    pub(super) name: String,
}

/// Why an open failed.
pub(super) struct Failure {
    pub(super) message: String,
    /// Waiting will not help.
    pub(super) permanent: bool,
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn shown(host: &Host) -> String {
    if host.name.contains(':') { format!("[{}]:{}", host.name, host.port) } else { host.address() }
}

impl Config {
    /// Connects.
    pub(super) async fn client(&self, must_connect: bool) -> Result<Client, Failure> {
        let remote = &self.settings.remote;
        let auth_mode = match &self.settings.credential {
            None => AuthMode::None,
            Some(credential) => {
                let password =
                    credential.password.read().map_err(|message| Failure { message, permanent: true })?;
                AuthMode::Internal(credential.user.clone().unwrap_or_default(), password)
            }
        };
        let policy = ClientPolicy {
            auth_mode,
            timeout: milliseconds(remote.dial_timeout),
            login_timeout: milliseconds(remote.dial_timeout),
            max_conns_per_node: self.settings.concurrency.max(1) + OPENING_AT_ONCE,
            opening_connection_threshold: OPENING_AT_ONCE,
            max_error_rate: ERRORS_OF_A_NODE,
            tend_interval: milliseconds(LOOK),
            fail_if_not_connected: must_connect,
            ..ClientPolicy::default()
        };
        Client::new(&policy, &self.hosts).await.map_err(|error| self.cannot_connect(&error))
    }

    fn cannot_connect(&self, error: &Error) -> Failure {
        let refused = [
            ResultCode::InvalidUser,
            ResultCode::InvalidPassword,
            ResultCode::InvalidCredential,
            ResultCode::NotAuthenticated,
            ResultCode::SecurityNotEnabled,
            ResultCode::SecurityNotSupported,
        ];
        // Of what the hosts said the client keeps the text alone: `Error CODE, node=…`.
        let said_by_hosts = |cause: &Error| {
            let text = cause.base_message();
            let codes = text.split("Error ").skip(1).filter_map(|text| {
                let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
                digits.parse::<u8>().ok()
            });
            codes.map(ResultCode::from).any(|code| refused.contains(&code))
        };
        let permanent = in_chain(error, |cause| cause.matches(&refused) || said_by_hosts(cause));
        let hint = if permanent { " (check user and password)" } else { "" };
        Failure { message: format!("{}: cannot connect: {}{hint}", self.name, self.said(error)), permanent }
    }

    /// An error and its causes, with the addresses as people write them.
    fn said(&self, error: &Error) -> String {
        let bare = self.hosts.iter().filter(|host| host.name.contains(':'));
        let text = bare.fold(chain(error), |text, host| text.replace(&host.address(), &shown(host)));
        // One line.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Shows that a record can be written, met as existing, read and removed.
    pub(super) async fn prove(&self) -> Result<(), Failure> {
        let client = self.client(true).await?;
        let proof = self.probe(&client).await;
        let _ = client.close().await;
        proof
    }

    async fn probe(&self, client: &Client) -> Result<(), Failure> {
        let limit = self.settings.remote.dial_timeout;
        let name = format!("{}{:016x}", self.settings.remote.probe_prefix, rand::random::<u64>());
        let value = rand::random::<u64>().to_le_bytes();
        let key = self.key(name.as_bytes()).map_err(|error| self.failed("probe key", &error))?;
        let mut create = write_policy(limit, RecordExistsAction::CreateOnly);
        create.expiration = expiration(PROBE_TTL);
        let bins = [Bin::new(BIN, Value::Blob(value.to_vec()))];
        if let Err(error) = client.put(&create, &key, &bins).await {
            return Err(self.refused(client, &key, &bins, &error).await);
        }
        let passing =
            |message: &str| Failure { message: format!("{}: {message}", self.name), permanent: false };
        match client.put(&create, &key, &bins).await {
            Err(error) if exists(&error) => {}
            Err(error) => return Err(self.failed("second write", &error)),
            Ok(()) => return Err(passing("a probe record was created twice: CREATE_ONLY does not hold")),
        }
        let read = client.get(&read_policy(limit), &key, Bins::All).await;
        let record = read.map_err(|error| self.failed("read", &error))?;
        if record.bins.get(BIN) != Some(&Value::Blob(value.to_vec())) {
            return Err(passing("a probe record was written and another value was read back"));
        }
        let delete = write_policy(limit, RecordExistsAction::Update);
        client.delete(&delete, &key).await.map_err(|error| self.failed("delete", &error))?;
        Ok(())
    }

    /// Why the first write of a probe failed. "Forbidden" has several reasons: that it was the TTL shows where the same
    /// write without one is taken.
    async fn refused(&self, client: &Client, key: &Key, bins: &[Bin], error: &Error) -> Failure {
        if error.server_result_code() != Some(ResultCode::FailForbidden) {
            return self.failed("write", error);
        }
        let limit = self.settings.remote.dial_timeout;
        let mut keep = write_policy(limit, RecordExistsAction::CreateOnly);
        keep.expiration = Expiration::Never;
        let taken = client.put(&keep, key, bins).await.is_ok();
        if taken {
            let _ = client.delete(&write_policy(limit, RecordExistsAction::Update), key).await;
            return self.failed("write", error);
        }
        let AerospikeSettings { namespace, set, .. } = &self.settings;
        let said = self.said(error);
        let message = format!(
            "{}: namespace \"{namespace}\": it forbids writes, with and without a TTL: set \"{set}\" is full \
             (stop-writes-count, stop-writes-size) or was truncated into the future, or the clocks of its nodes differ \
             (write: {said})",
            self.name
        );
        Failure { message, permanent: false }
    }

    /// What a failed probe means to the person who set the namespace up.
    fn failed(&self, what: &str, error: &Error) -> Failure {
        let AerospikeSettings { namespace, set, .. } = &self.settings;
        let (meaning, permanent) = match error.server_result_code() {
            Some(ResultCode::FailForbidden) => {
                let advice = "it refuses records with a TTL. Set nsup-period (for example 120) in its configuration, or \
                              allow-ttl-without-nsup true";
                (advice.to_owned(), true)
            }
            Some(ResultCode::ServerMemError | ResultCode::DeviceOverload) => {
                ("it is full and refuses writes".to_owned(), false)
            }
            Some(ResultCode::InvalidNamespace) => ("the servers do not have it".to_owned(), true),
            Some(ResultCode::ParameterError) => (format!("set \"{set}\" or the TTL is not accepted"), true),
            Some(ResultCode::NotAuthenticated | ResultCode::RoleViolation) => {
                ("the user may not do this; it needs read-write there".to_owned(), true)
            }
            None if in_chain(error, |cause| matches!(cause.kind(), ErrorKind::InvalidNamespace)) => {
                ("the servers do not have it, or are not ready yet".to_owned(), false)
            }
            _ => ("it does not work".to_owned(), false),
        };
        let said = self.said(error);
        Failure {
            message: format!("{}: namespace \"{namespace}\": {meaning} ({what}: {said})", self.name),
            permanent,
        }
    }

    /// Blob keys, as the Go stack writes them.
    pub(super) fn key(&self, key: &[u8]) -> Result<Key, Error> {
        Key::new(self.settings.namespace.as_str(), self.settings.set.as_str(), Value::Blob(key.to_vec()))
    }
}

pub(super) fn milliseconds(duration: Duration) -> u32 {
    // Zero would mean "no limit" to the client.
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX).max(1)
}

pub(super) fn expiration(ttl: Duration) -> Expiration {
    if ttl.is_zero() {
        return Expiration::Never;
    }
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    // The largest values have meanings of their own.
    Expiration::Seconds(u32::try_from(seconds).unwrap_or(u32::MAX).min(u32::MAX - 8))
}

fn write_policy(limit: Duration, action: RecordExistsAction) -> WritePolicy {
    let mut policy = WritePolicy { record_exists_action: action, ..WritePolicy::default() };
    policy.base_policy.max_retries = 0;
    policy.base_policy.total_timeout = milliseconds(limit);
    policy.base_policy.socket_timeout = milliseconds(limit);
    policy
}

/// While records migrate, a write asks all nodes that may have the record, a read by default only one: it would miss what
/// the write has just met.
fn read_policy(limit: Duration) -> ReadPolicy {
    let mut policy = ReadPolicy::default();
    policy.base_policy.read_mode_ap = ReadModeAp::All;
    policy.base_policy.max_retries = 0;
    policy.base_policy.total_timeout = milliseconds(limit);
    policy.base_policy.socket_timeout = milliseconds(limit);
    policy
}
