//! Byte streams to a server: TCP, a unix socket, TLS.

use super::address::Endpoint;
use crate::TlsSettings;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

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
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let keepalive =
                    socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                if *secure { tls.secure(host, stream).await } else { Ok(Stream::Tcp(stream)) }
            }
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
