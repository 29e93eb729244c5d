//! The socket: a dump at the start, then the kernel's news.
//!
//! Promise: [`Watch::look`] returns when the kernel has no more to tell, so what [`Watch::links`] says then is no older than the
//! call. Where the kernel dropped news because the socket's queue was full, or a message did not fit, all links are asked for
//! again.
//!
//! Cost: a look without news is one system call. Each piece of news is read and parsed once.

use crate::table::{Address, AddressState, Event, Link, Links};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::Poll;

/// Longest datagram of the kernel that is read whole. It puts at most 32 KiB into one of a dump.
const ROOM: usize = 64 << 10;
/// Groups of `rtnetlink(7)`: links, IPv4 addresses, IPv6 addresses.
const GROUPS: [u32; 3] = [1, 5, 9];
/// A dump that was interrupted by a change is made again so often.
const DUMPS: usize = 8;
/// Linux: news was dropped.
const ENOBUFS: i32 = 105;

/// See the module text. Belongs to the runtime that it was opened on.
pub struct Watch {
    socket: TokioSocket,
    room: Vec<u8>,
    links: Links,
}

/// What one datagram held.
enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing is there.
    Nothing,
    /// Something was missed.
    Missed,
}

impl Watch {
    /// Begins to follow the links of the thread's network namespace. Must be called on a runtime.
    ///
    /// # Errors
    /// The kernel refuses the socket (a filter on `AF_NETLINK`), or does not answer.
    pub fn open() -> io::Result<Watch> {
        Watch::with_queue(None)
    }

    /// The same with a receive queue of this many bytes; `None` is the system's default.
    ///
    /// # Errors
    /// As [`Watch::open`].
    pub fn with_queue(bytes: Option<i32>) -> io::Result<Watch> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let inner = socket.socket_mut();
        if let Some(bytes) = bytes {
            inner.set_rx_buf_sz(bytes)?;
        }
        inner.bind_auto()?;
        for group in GROUPS {
            inner.add_membership(group)?;
        }
        // News that comes while the dump is made is read behind it.
        let links = dump()?;
        Ok(Watch { socket, room: vec![0; ROOM], links })
    }

    /// The links as they were when somebody looked last.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Takes all news that the kernel has. `true`: something is different. Does not wait.
    ///
    /// # Errors
    /// The socket failed, or a new dump did.
    pub fn look(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            let mut room = &mut self.room[..];
            let read = self.socket.socket_ref().recv_from(&mut room, 0);
            match judge(read.map(|(_, from)| (ROOM - room.len(), from)))? {
                Read::Nothing => return Ok(changed),
                read => changed |= self.take(read)?,
            }
        }
    }

    /// Completes when something is different. Cancel safe.
    ///
    /// # Errors
    /// As [`Watch::look`].
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let (socket, room) = (&self.socket, &mut self.room);
            let read = poll_fn(|context| {
                let mut room = &mut room[..];
                match socket.poll_recv_from(context, &mut room) {
                    Poll::Ready(read) => Poll::Ready(read.map(|from| (ROOM - room.len(), from))),
                    Poll::Pending => Poll::Pending,
                }
            });
            let read = judge(read.await)?;
            // What belongs together is taken together: an interface and its addresses.
            if self.take(read)? | self.look()? {
                return Ok(());
            }
        }
    }

    fn take(&mut self, read: Read) -> io::Result<bool> {
        match read {
            Read::Nothing => Ok(false),
            Read::Bytes(bytes) => {
                let mut changed = false;
                each(self.room.get(..bytes).unwrap_or_default(), |_, payload| {
                    if let Some(event) = event(payload) {
                        changed |= self.links.apply(event);
                    }
                });
                Ok(changed)
            }
            Read::Missed => {
                // What is queued is older than the dump, and changes nothing when it is read behind it.
                let links = dump()?;
                let changed = links != self.links;
                self.links = links;
                Ok(changed)
            }
        }
    }
}

fn judge(read: io::Result<(usize, SocketAddr)>) -> io::Result<Read> {
    match read {
        // Anybody may write to a socket whose number he guesses, with privilege; only the kernel is believed.
        Ok((_, from)) if from.port_number() != 0 => Ok(Read::Bytes(0)),
        Ok((ROOM, _)) => Ok(Read::Missed),
        Ok((bytes, _)) => Ok(Read::Bytes(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Read::Bytes(0)),
        Err(error) if error.raw_os_error() == Some(ENOBUFS) => Ok(Read::Missed),
        Err(error) => Err(error),
    }
}

/// All links and addresses, asked for on a socket of its own: answers and news do not mix.
fn dump() -> io::Result<Links> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let mut room = vec![0; ROOM];
    for _ in 0..DUMPS {
        let mut links = Links::default();
        let of_links = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let of_addresses = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let whole = ask(&socket, of_links, &mut room, &mut links)?
            & ask(&socket, of_addresses, &mut room, &mut links)?;
        if whole {
            return Ok(links);
        }
    }
    Err(io::Error::other("the interfaces change faster than they can be listed"))
}

/// `false`: something changed meanwhile, the answer may lack something.
fn ask(
    socket: &Socket,
    question: RouteNetlinkMessage,
    room: &mut [u8],
    links: &mut Links,
) -> io::Result<bool> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = 1;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let (mut whole, mut done, mut refused) = (true, false, None);
    while !done {
        let mut left = &mut *room;
        let (_, from) = socket.recv_from(&mut left, 0)?;
        let read = ROOM - left.len();
        if from.port_number() != 0 {
            continue;
        }
        each(room.get(..read).unwrap_or_default(), |header, payload| {
            whole &= header.flags & NLM_F_DUMP_INTR == 0;
            match payload {
                NetlinkPayload::Done(_) => done = true,
                NetlinkPayload::Error(error) => refused = Some(error.to_io()),
                payload => {
                    if let Some(event) = event(payload) {
                        links.apply(event);
                    }
                }
            }
        });
        if let Some(error) = refused {
            return Err(error);
        }
    }
    Ok(whole)
}

/// Every message of a datagram that can be read; one that cannot is passed over.
fn each(mut bytes: &[u8], mut take: impl FnMut(&NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)) {
    /// Of a netlink message.
    const HEADER: usize = 16;
    while bytes.len() >= HEADER {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let Some(one) = bytes.get(..length).filter(|one| one.len() >= HEADER) else { return };
        if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) {
            let (header, payload) = message.into_parts();
            take(&header, payload);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => link(message).map(Event::Link),
        // A bridge says of a port that leaves it that the port is gone, in its own family.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => {
            is_plain(&message).then_some(Event::LinkGone(message.header.index))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) => {
            Some(Event::Address(message.header.index, address(&message)?))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(message)) => {
            Some(Event::AddressGone(message.header.index, address(&message)?.ip))
        }
        _ => None,
    }
}

fn is_plain(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

fn link(message: LinkMessage) -> Option<Link> {
    if !is_plain(&message) {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: flags.contains(LinkFlags::Up),
        // Not only a carrier: the kernel has also begun to send by it.
        carrier: flags.contains(LinkFlags::LowerUp | LinkFlags::Running),
        multicast: flags.contains(LinkFlags::Multicast),
        is_loopback: flags.contains(LinkFlags::Loopback),
        mtu: 0,
        losses: 0,
        addresses: Vec::new(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::CarrierDownCount(losses) => link.losses = losses,
            _ => {}
        }
    }
    Some(link)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut address, mut local, mut flags) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Flags(bits) => flags = Some(*bits),
            _ => {}
        }
    }
    // Of a link with a peer the address is the peer's.
    let ip: IpAddr = local.or(address)?;
    let flags = flags.unwrap_or(AddressFlags::from_bits_retain(u32::from(message.header.flags.bits())));
    let state = if flags.contains(AddressFlags::Dadfailed) {
        AddressState::Duplicate
    } else if flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic) {
        AddressState::Tentative
    } else if flags.contains(AddressFlags::Deprecated) {
        AddressState::Deprecated
    } else {
        AddressState::Preferred
    };
    Some(Address { ip, state })
}
