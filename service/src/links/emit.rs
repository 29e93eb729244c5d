//! A sending socket of one interface that outlives the interface.
//!
//! It is opened again where the interface was made again (another index), and where the IPv4 source that it names is gone: the
//! kernel goes on to send from an address that nobody has. An IPv6 source is chosen by the kernel for each datagram. A source
//! that the operator named is never replaced: the socket works again when the address is back.

use anyhow::Context;
use link_watch::Links;
use multicast_io::{Interface, Progress, Sender, SocketOptions, Span, Train};

/// See the module text.
pub struct EmitSocket {
    /// The option that names the interface.
    option: &'static str,
    on: Interface,
    /// Everything but the interface.
    options: SocketOptions,
    sender: Sender,
    /// Errors of senders that were replaced.
    queued_errors: u64,
}

impl EmitSocket {
    /// Opens it. `options`: everything but the interface.
    ///
    /// # Errors
    /// Names the option and the interface, and what the kernel refused.
    pub fn open(option: &'static str, on: &Interface, options: SocketOptions) -> anyhow::Result<EmitSocket> {
        let sender = open(option, on, &options)?;
        Ok(EmitSocket { option, on: on.clone(), options, sender, queued_errors: 0 })
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.on.name
    }

    /// The socket as it is now.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// As [`Sender::send`].
    pub fn send(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        self.sender.send(memory, trains, frames)
    }

    /// As [`Sender::queued_errors`], since this was opened.
    pub fn queued_errors(&self) -> u64 {
        self.queued_errors + self.sender.queued_errors()
    }

    /// Opens the socket again where that is needed. What is not to be had stays as it is until the next news. `true`: another
    /// socket sends from now on.
    pub fn follow(&mut self, links: &Links) -> bool {
        let Some(link) = links.by_name(&self.on.name) else { return false };
        // Without another one there is nothing to open again for: whoever sends waits for an address.
        let next = link.usable(true).next().filter(|_| self.options.bind.is_ipv4());
        let gone = self.on.v4.first().is_none_or(|source| link.address((*source).into()).is_none());
        let stale = gone && next.is_some();
        if link.index == self.on.index && !stale {
            return false;
        }
        let (option, name) = (self.option, &self.on.name);
        let opened = Interface::by_name(name)
            .map_err(anyhow::Error::from)
            .and_then(|on| Ok((open(option, &on, &self.options)?, on)));
        match opened {
            Ok((sender, on)) => {
                if let Some(source) = on.v4.first().filter(|_| stale) {
                    tracing::warn!("{option} {name}: frames leave from {source} now");
                }
                self.queued_errors += self.sender.queued_errors();
                (self.sender, self.on) = (sender, on);
                true
            }
            Err(error) => {
                crate::limited!(warn, 1, "{option} {name}: the socket cannot be opened again yet: {error:#}");
                false
            }
        }
    }
}

fn open(option: &'static str, on: &Interface, options: &SocketOptions) -> anyhow::Result<Sender> {
    let options = SocketOptions { interface: Some(on.clone()), ..options.clone() };
    Sender::open(&options).with_context(|| format!("{option} {}", on.name))
}
