//! Byte streams to a server: TCP, a unix socket, TLS.

use super::address::Endpoint;
use crate::TlsSettings;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// An address that does not answer holds up the next one for so long.
const HEAD_START: Duration = Duration::from_millis(100);
/// An idle connection that a firewall forgot is found by the system within about this time.
const KEEPALIVE: Duration = Duration::from_secs(15);

pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) async fn connect(endpoint: &Endpoint, tls: &Tls) -> io::Result<Stream> {
        match endpoint {
            Endpoint::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Endpoint::Tcp { host, port, tls: secure } => {
                let addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
                let stream = connect_any(addresses.take(MAX_ADDRESSES).collect()).await?;
                stream.set_nodelay(true)?;
                let keepalive =
                    socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                if *secure { tls.secure(host, stream).await } else { Ok(Stream::Tcp(stream)) }
            }
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

/// What is needed to speak TLS, read from its files once.
#[derive(Clone, Default)]
pub(super) struct Tls {
    #[cfg(feature = "tls")]
    connector: Option<tokio_rustls::TlsConnector>,
    #[cfg(feature = "tls")]
    server_name: Option<tokio_rustls::rustls::pki_types::ServerName<'static>>,
}

#[cfg(feature = "tls")]
impl Tls {
    /// Reads the certificates; the error names the file.
    pub(super) fn load(settings: &TlsSettings) -> Result<Tls, String> {
        use std::sync::Arc;
        use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
        use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
        let mut roots = RootCertStore::empty();
        match &settings.ca_file {
            Some(path) => {
                let wrong = |why: String| format!("TLS CA file {}: {why}", path.display());
                let certificates =
                    CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
                for certificate in certificates {
                    let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                    roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(wrong("it holds no certificate in PEM form".to_owned()));
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
        let config = match (&settings.cert_file, &settings.key_file) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = CertificateDer::pem_file_iter(cert)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| format!("TLS certificate file {}: {error}", cert.display()))?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("TLS key file {}: {error}", key.display()))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| format!("TLS certificate and key: {error}"))?
            }
            _ => return Err("TLS: a certificate file needs a key file, and the other way round".to_owned()),
        };
        let server_name = match &settings.server_name {
            Some(name) => Some(
                ServerName::try_from(name.clone())
                    .map_err(|_| format!("TLS server name \"{name}\" is neither a name nor an address"))?,
            ),
            None => None,
        };
        Ok(Tls { connector: Some(Arc::new(config).into()), server_name })
    }

    async fn secure(&self, host: &str, stream: TcpStream) -> io::Result<Stream> {
        use tokio_rustls::rustls::pki_types::ServerName;
        let missing = || io::Error::other("TLS was not set up");
        let connector = self.connector.as_ref().ok_or_else(missing)?;
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        Ok(Stream::Tls(Box::new(connector.connect(name, stream).await?)))
    }
}

#[cfg(not(feature = "tls"))]
impl Tls {
    pub(super) fn load(_settings: &TlsSettings) -> Result<Tls, String> {
        Err("this binary was built without TLS (cargo feature `tls`)".to_owned())
    }
    async fn secure(&self, _host: &str, _stream: TcpStream) -> io::Result<Stream> {
        Err(io::Error::other("built without TLS"))
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            #[cfg(feature = "tls")]
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
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
