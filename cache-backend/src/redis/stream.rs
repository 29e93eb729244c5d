//! Byte streams to a server: TCP, a unix socket, TLS.
//!
//! Why not the crate's own: it does not let anybody stand between the socket and its parser (`gate`), it takes the name in the
//! certificate from the address alone, and it waits for a silent address of a name as long as for the one that answers.

use super::address::Endpoint;
use crate::TlsSettings;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::AsyncStream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// An address that does not answer holds up the next one for so long.
const HEAD_START: Duration = Duration::from_millis(100);
/// An idle connection that a firewall forgot is found by the system within about this time.
const KEEPALIVE: Duration = Duration::from_secs(15);

pub(super) type Stream = Pin<Box<dyn AsyncStream + Send + Sync>>;

pub(super) async fn connect(endpoint: &Endpoint, tls: &Tls) -> io::Result<Stream> {
    match endpoint {
        Endpoint::Unix(path) => Ok(Box::pin(UnixStream::connect(path).await?)),
        Endpoint::Tcp { host, port, tls: secure } => {
            let addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
            let stream = connect_any(addresses.take(MAX_ADDRESSES).collect()).await?;
            stream.set_nodelay(true)?;
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            if *secure { tls.secure(host, stream).await } else { Ok(Box::pin(stream)) }
        }
    }
}

/// The first address that answers, in their order: one that is silent (a family that is not routed here, say) must not use up
/// the time of a dial.
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut addresses = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match addresses.next() {
            Some(address) => tries.push(TcpStream::connect(address)),
            None if tries.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some(tried) = tries.next() => match tried {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
            () = tokio::time::sleep(HEAD_START), if addresses.len() > 0 => {}
        }
    }
}

/// TLS as it is configured. Its files are read at every dial, so certificates that were replaced need no restart.
pub(super) struct Tls(TlsSettings);

#[cfg(feature = "tls")]
impl Tls {
    /// The error names the file that cannot be used.
    pub(super) fn check(settings: &TlsSettings) -> Result<Tls, String> {
        let tls = Tls(settings.clone());
        read(settings).and(tls.server_name("localhost")).map(|_| tls)
    }

    pub(super) fn unused() -> Tls {
        Tls(TlsSettings::default())
    }

    async fn secure(&self, host: &str, stream: TcpStream) -> io::Result<Stream> {
        let wrong = |why: String| io::Error::other(why);
        let settings = self.0.clone();
        // The thread of a worker does not wait for files.
        let config = tokio::task::spawn_blocking(move || read(&settings)).await?.map_err(wrong)?;
        let name = self.server_name(host).map_err(wrong)?;
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        Ok(Box::pin(connector.connect(name, stream).await?))
    }

    fn server_name(
        &self,
        host: &str,
    ) -> Result<tokio_rustls::rustls::pki_types::ServerName<'static>, String> {
        let name = self.0.server_name.as_deref().unwrap_or(host).to_owned();
        let wrong = format!("TLS server name \"{name}\" is neither a name nor an address");
        name.try_into().map_err(|_| wrong)
    }
}

#[cfg(feature = "tls")]
fn read(settings: &TlsSettings) -> Result<tokio_rustls::rustls::ClientConfig, String> {
    use std::{path::Path, sync::Arc};
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
    let certificates = |what: &str, path: &Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("TLS {what} file {}: {error}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        Some(path) => {
            let wrong = |why: &str| format!("TLS CA file {}: {why}", path.display());
            for certificate in certificates("CA", path)? {
                roots.add(certificate).map_err(|error| wrong(&error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("it holds no certificate in PEM form"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("the system has no CA certificates; name a TLS CA file".to_owned());
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match (&settings.cert_file, &settings.key_file) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("TLS key file {}: {error}", key.display()))?;
            builder
                .with_client_auth_cert(certificates("certificate", cert)?, secret)
                .map_err(|error| format!("TLS certificate and key: {error}"))
        }
        _ => Err("TLS: a certificate file needs a key file, and the other way round".to_owned()),
    }
}

#[cfg(not(feature = "tls"))]
impl Tls {
    pub(super) fn check(_settings: &TlsSettings) -> Result<Tls, String> {
        Err("this binary was built without TLS (cargo feature `tls`)".to_owned())
    }
    pub(super) fn unused() -> Tls {
        Tls(TlsSettings::default())
    }
    async fn secure(&self, _host: &str, _stream: TcpStream) -> io::Result<Stream> {
        Err(io::Error::other(format!("{:?}: built without TLS", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    /// A listener whose queue is full: what connects to it hears nothing.
    fn silent() -> (Socket, Vec<std::net::TcpStream>, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        (listener, std::iter::from_fn(connect).take(64).collect(), address)
    }

    #[tokio::test]
    async fn an_address_that_is_silent_or_refuses_does_not_keep_from_the_next() {
        let good = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_listener, _queue, silent) = silent();
        let refusing = SocketAddr::from(([127, 0, 0, 1], 1));
        let there = good.local_addr().unwrap();
        let stream = connect_any(vec![silent, refusing, there]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
        let error = connect_any(vec![refusing]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect_any(Vec::new()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
