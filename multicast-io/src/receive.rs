//! Batch receive: `recvmmsg`, `UDP_GRO`, `SO_RXQ_OVFL`, joins.
//!
//! One call takes up to [`BATCH`] messages into the free slots of a `Burst`. Each message may be a train of up to 128
//! datagrams.
//!
//! Promise: nothing is lost in silence. What the kernel dropped before the call ([`Receiver::kernel_drops`]) and what did not
//! fit a slot ([`Receiver::truncated`]) is counted.
//!
//! Cost: header, address and control memory is allocated once, at open. A call allocates nothing and copies nothing.

use crate::address::RawAddress;
use crate::buffers::{self, Direction};
use crate::cmsg::{Control, space};
use crate::rxq_ovfl::KernelDrops;
use crate::{Burst, Interface, SocketError, SocketOptions, gro, joins, open, pktinfo, recverr};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Most messages of one system call. 8 bring most of the gain, 32 the rest.
pub const BATCH: usize = 64;

/// Times that a call is made again after an error about an earlier datagram, before it is reported.
const RETRIES: usize = 16;

/// GRO segment, drop count and destination address.
const CONTROL: usize = gro::SPACE + space(size_of::<u32>()) + pktinfo::SPACE;

/// A non-blocking UDP socket that receives in batches. Wrap it in `tokio::io::unix::AsyncFd` for readiness.
pub struct Receiver {
    socket: socket2::Socket,
    batch: ReceiveHeaders,
    kernel_drops: KernelDrops,
    truncated: u64,
    queued_errors: AtomicU64,
    receive_buffer: usize,
    warnings: Vec<String>,
}

/// What `recvmmsg` reads and writes, except the bytes.
struct ReceiveHeaders {
    headers: Box<[libc::mmsghdr; BATCH]>,
    iovecs: Box<[libc::iovec; BATCH]>,
    names: Box<[RawAddress; BATCH]>,
    controls: Box<[Control<CONTROL>; BATCH]>,
}

// SAFETY: the pointers in headers and iovecs are written before each system call and not used after it.
unsafe impl Send for ReceiveHeaders {}
// SAFETY: as above; shared references give no access to them.
unsafe impl Sync for ReceiveHeaders {}

impl ReceiveHeaders {
    fn new() -> ReceiveHeaders {
        // SAFETY: integers and pointers only; zeros and nulls are values.
        let (header, iovec) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        ReceiveHeaders {
            headers: Box::new([header; BATCH]),
            iovecs: Box::new([iovec; BATCH]),
            names: Box::new([RawAddress::unset(); BATCH]),
            controls: Box::new([Control::empty(); BATCH]),
        }
    }

    /// Points the first `count` headers at the free slots of `burst`.
    fn aim(&mut self, burst: &mut Burst, count: usize) {
        for at in 0..count {
            let slot = burst.free_slot(at);
            self.iovecs[at] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            let header = &mut self.headers[at].msg_hdr;
            header.msg_name = (&raw mut self.names[at]).cast();
            header.msg_namelen = RawAddress::ROOM;
            header.msg_iov = &raw mut self.iovecs[at];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[at].as_mut_ptr();
            header.msg_controllen = CONTROL as _;
            header.msg_flags = 0;
        }
    }

    /// One `recvmmsg` of up to `count` messages into the free slots of `burst`.
    fn fill(&mut self, fd: BorrowedFd<'_>, burst: &mut Burst, count: usize) -> io::Result<usize> {
        self.aim(burst, count);
        let count = libc::c_uint::try_from(count).unwrap_or(0);
        // SAFETY: the first `count` headers were aimed at memory of `self` and `burst`, which are borrowed exclusively
        // through the call and not moved, with the lengths that this memory has; the slots are disjoint.
        let got = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }
}

impl Receiver {
    /// Opens and binds. `IP(V6)_MULTICAST_ALL` is always off: a socket takes only the groups that it joined itself.
    pub fn open(options: &SocketOptions) -> Result<Receiver, SocketError> {
        let opened = open::open_reporting(options)?;
        let about = |operation| SocketError::about(operation, options.bind);
        let fd = opened.socket.as_fd();
        KernelDrops::enable(fd).map_err(about("set RXQ_OVFL of"))?;
        if options.gro {
            gro::enable(fd).map_err(about("set GRO of"))?;
        }
        if options.packet_info {
            pktinfo::enable(fd, options.bind.is_ipv6()).map_err(about("set PKTINFO of"))?;
        }
        let receive_buffer =
            buffers::granted(fd, Direction::Receive).map_err(about("read buffer size of"))?;
        Ok(Receiver {
            socket: opened.socket,
            batch: ReceiveHeaders::new(),
            kernel_drops: KernelDrops::default(),
            truncated: 0,
            queued_errors: AtomicU64::new(0),
            receive_buffer,
            warnings: opened.warnings,
        })
    }

    /// Address that the socket is bound to, with the port that the kernel chose where 0 was asked.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        local_addr(&self.socket)
    }

    /// Leaves a port that is shared, without closing: from now on the kernel gives the port's unicast to the other sockets on
    /// it. What is queued here stays to be received, so a receiver that withdraws and empties its queue loses nothing, where
    /// one that is just closed loses what came since it last looked.
    ///
    /// How: it is connected to itself, so it hears nobody else (Linux since 5.3 picks only among sockets that are not
    /// connected).
    ///
    /// # Errors
    /// What the kernel says; the socket then works as before.
    pub fn withdraw(&self) -> io::Result<()> {
        let mut own = self.local_addr()?;
        match own.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => own.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => own.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        self.socket.connect(&own.into())
    }

    /// Any-source join. Joining twice is not an error.
    pub fn join(&self, group: IpAddr, on: &Interface) -> Result<(), SocketError> {
        joins::join(self, group, on)
    }

    /// Source-specific join (RFC 4607). Joining twice is not an error.
    pub fn join_source(&self, group: IpAddr, source: IpAddr, on: &Interface) -> Result<(), SocketError> {
        joins::join_source(self, group, source, on)
    }

    /// Takes back a `join`.
    pub fn leave(&self, group: IpAddr, on: &Interface) -> Result<(), SocketError> {
        joins::leave(self, group, on)
    }

    /// Takes back a `join_source`.
    pub fn leave_source(&self, group: IpAddr, source: IpAddr, on: &Interface) -> Result<(), SocketError> {
        joins::leave_source(self, group, source, on)
    }

    /// Fills free slots of `burst` with one `recvmmsg` of at most `max` messages and appends the arrivals, GRO trains
    /// split. Returns the number of new arrivals; `WouldBlock` when nothing waits; `Ok(0)` only when no slot is free (or
    /// `max` is 0). An error queued on the socket (ICMP) is consumed and counted, not returned.
    pub fn receive(&mut self, burst: &mut Burst, max: usize) -> io::Result<usize> {
        loop {
            let count = max.min(burst.free_slots()).min(BATCH);
            if count == 0 {
                return Ok(0);
            }
            let filled = self.fill(burst, count)?;
            let arrivals = self.deliver(burst, filled);
            burst.take_slots(filled);
            // All of them cut: what waits behind them must not be forgotten. Each turn takes slots, so this ends.
            if arrivals > 0 {
                return Ok(arrivals);
            }
        }
    }

    /// `recvmmsg`, again after an interruption or an error about an earlier datagram.
    fn fill(&mut self, burst: &mut Burst, count: usize) -> io::Result<usize> {
        let mut retries = RETRIES;
        loop {
            match self.batch.fill(self.socket.as_fd(), burst, count) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock && retries > 0 => {
                    retries -= 1;
                    let fd = self.socket.as_fd();
                    if !recverr::was_about_an_earlier_datagram(fd, &error, &self.queued_errors) {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Appends what the kernel wrote to the first `filled` free slots. Returns the number of datagrams.
    fn deliver(&mut self, burst: &mut Burst, filled: usize) -> usize {
        let mut arrivals = 0;
        for at in 0..filled {
            let message = &self.batch.headers[at];
            let len = (message.msg_len as usize).min(burst.free_slot(at).len());
            let mut segment = None;
            let mut destination = None;
            #[allow(clippy::unnecessary_cast, reason = "size_t with glibc, socklen_t with musl")]
            let control_length = message.msg_hdr.msg_controllen as usize;
            for control in self.batch.controls[at].messages(control_length) {
                segment = segment.or_else(|| gro::segment(&control));
                destination = destination.or_else(|| pktinfo::destination(&control));
                if (control.level, control.kind) == (libc::SOL_SOCKET, libc::SO_RXQ_OVFL)
                    && let Some([reading]) = control.read::<[u32; 1]>()
                {
                    self.kernel_drops.observe(reading);
                }
            }
            let cut = message.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
            match self.batch.names[at].get() {
                // Without its control messages a train cannot be split.
                Some(source) if !cut => {
                    arrivals += burst.append(at, len, segment.unwrap_or(len), source, destination);
                }
                _ => self.truncated += 1,
            }
        }
        arrivals
    }

    /// Datagrams that the kernel dropped because this socket's queue was full (SO_RXQ_OVFL), since open. Costs one
    /// system call: the losses at the end of a burst count too. A train that was dropped whole counts as one, however many
    /// datagrams it held (`gro`): the figure says that something was lost, sequence numbers say how much.
    pub fn kernel_drops(&self) -> u64 {
        self.kernel_drops.total(self.socket.as_fd())
    }

    /// Datagrams cut because they did not fit, since open (they are not delivered).
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// Errors about earlier datagrams (ICMP) taken from the socket, since open.
    pub fn queued_errors(&self) -> u64 {
        self.queued_errors.load(Ordering::Relaxed)
    }

    /// Size of the receive buffer that the kernel granted, bytes, in the unit of the wish (the kernel doubles it).
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// What the operator should know, one line each: a buffer that was granted smaller than asked, and the knob.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Sends one datagram from this socket, from local address `from` if given (IP_PKTINFO: answer from the address
    /// that the request hit; a group address cannot be a source and is ignored).
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        let (mut name, name_length) = RawAddress::new(to);
        let mut control = Control::<{ pktinfo::SPACE }>::empty();
        let control_length = from.map_or(0, |from| pktinfo::write_source(&mut control, from));
        let mut iovec = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: integers and pointers only; zeros and nulls are values.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = name_length;
        header.msg_iov = &raw mut iovec;
        header.msg_iovlen = 1;
        if control_length > 0 {
            header.msg_control = control.as_mut_ptr();
            header.msg_controllen = control_length as _;
        }
        for _ in 0..RETRIES {
            // SAFETY: `header` names locals that live through the call with their lengths; sending only reads them.
            let sent = unsafe { libc::sendmsg(self.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            let again = match error.kind() {
                io::ErrorKind::Interrupted => true,
                io::ErrorKind::WouldBlock => false,
                _ => recverr::was_about_an_earlier_datagram(self.socket.as_fd(), &error, &self.queued_errors),
            };
            if !again {
                return Err(error);
            }
        }
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

pub(crate) fn local_addr(socket: &socket2::Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::other("the socket's address is not an IP address"))
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
