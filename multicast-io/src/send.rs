//! Train send: `UDP_SEGMENT` through `sendmmsg`, with fallback per socket and errors from the error queue.
//!
//! A train is a run of frames to one destination. All but the last are padded with zeros to the segment size. No byte is
//! copied for that: padding is an iovec of a shared zero page. Without GSO the frames leave one a datagram, unpadded.
//!
//! Promise: `Progress::frames` is exact. A frame counts when the kernel took it, and no frame before it is skipped. A message
//! that a queue refused (ENOBUFS) left nothing behind, so it can be sent again. Trains beyond the kernel's limits are split
//! here. A train that the kernel refuses is sent again frame by frame. What the kernel took and lost later (a shaper that cuts
//! trains, a network card) is beyond this promise; `docs/tuning.md` names the cases.
//!
//! Cost: header memory is allocated at open. With trains of 16 a frame costs 0.3-0.5 µs of kernel time, alone 4-6 µs.

use crate::address::RawAddress;
use crate::buffers::{self, Direction};
use crate::cmsg::Control;
use crate::gso::{self, Refusal};
use crate::{SocketError, SocketOptions, Span, open, receive, recverr};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Most messages of one system call (the kernel's own limit is 1,024; beyond a hundred nothing is gained).
const MESSAGES: usize = 256;

/// Pieces of memory of one system call: frame and padding of the longest train several times.
const PIECES: usize = 2_048;

/// Times that a call is made again, without progress, after an error about an earlier datagram.
const RETRIES: usize = 16;

/// What padding is made of. A frame that needs more ends its train.
static ZEROS: [u8; 16_384] = [0; 16_384];

/// Frames `first .. first + count` of the frame list, sent to one destination in segments of `segment` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// Group or host, and port.
    pub destination: SocketAddr,
    /// Index of the first frame.
    pub first: u32,
    /// Number of frames.
    pub count: u32,
    /// Bytes a segment; every frame but the last is padded up to it, none is longer.
    pub segment: u16,
}

/// How far a send got: the first `frames` frames (counted through the trains in order) were taken by the kernel.
#[derive(Debug)]
pub struct Progress {
    /// Frames taken.
    pub frames: usize,
    /// Why the next frame was not taken: `WouldBlock` (wait for writability), ENOBUFS (a queue refused it), or final
    /// (EMSGSIZE: too long for any datagram; `InvalidInput`: its span or index lies outside).
    /// `None`: all were.
    pub error: Option<io::Error>,
}

/// A sending socket on one interface, with IP(V6)_RECVERR set.
pub struct Sender {
    socket: socket2::Socket,
    batch: SendHeaders,
    limits: KernelLimits,
    gso_refused: bool,
    queued_errors: AtomicU64,
    send_buffer: usize,
    warnings: Vec<String>,
}

/// What the kernel takes as a train on this socket.
#[derive(Clone, Copy)]
struct KernelLimits {
    /// Frames; 1 where GSO is off.
    frames: usize,
    /// Longest segment; shrinks when the kernel finds one too long for the path.
    segment: u16,
}

/// How far a send is in the list of trains.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct SendCursor {
    train: usize,
    /// Frames of that train already behind us.
    frame: usize,
}

/// What `sendmmsg` reads, except the bytes, and what each message stands for.
struct SendHeaders {
    headers: Box<[libc::mmsghdr; MESSAGES]>,
    names: Box<[RawAddress; MESSAGES]>,
    controls: Box<[Control<{ gso::SPACE }>; MESSAGES]>,
    pieces: Box<[libc::iovec; PIECES]>,
    messages: Box<[Message; MESSAGES]>,
}

/// One message: `frames` frames from `cursor` on, a train if there are several.
#[derive(Clone, Copy, Default)]
struct Message {
    cursor: SendCursor,
    frames: usize,
    segment: u16,
}

// SAFETY: the pointers in headers and pieces are written before each system call and not used after it.
unsafe impl Send for SendHeaders {}
// SAFETY: as above; shared references give no access to them.
unsafe impl Sync for SendHeaders {}

impl Sender {
    /// Opens and binds; a unicast bind address is the source of all that is sent.
    pub fn open(options: &SocketOptions) -> Result<Sender, SocketError> {
        let opened = open::open_reporting(options)?;
        let fd = opened.socket.as_fd();
        let about = |operation| SocketError::about(operation, options.bind);
        let send_buffer = buffers::granted(fd, Direction::Send).map_err(about("read buffer size of"))?;
        let frames = if options.gso { gso::max_segments(fd) } else { 1 };
        Ok(Sender {
            limits: KernelLimits { frames, segment: u16::MAX },
            socket: opened.socket,
            batch: SendHeaders::new(),
            gso_refused: false,
            queued_errors: AtomicU64::new(0),
            send_buffer,
            warnings: opened.warnings,
        })
    }

    /// Address that the socket is bound to, with the port that the kernel chose where 0 was asked.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        receive::local_addr(&self.socket)
    }

    /// Longest train the socket takes now: 1 where GSO is off or was refused.
    pub fn max_train(&self) -> usize {
        self.limits.frames
    }

    /// Longest segment of a train that the socket takes now, bytes: below `u16::MAX` once the kernel found a longer one too
    /// long for the path. Frames above it still leave, one by one and in IP fragments where they must.
    pub fn max_segment(&self) -> u16 {
        self.limits.segment
    }

    /// True once GSO was refused at run time and the socket went on without it.
    pub fn gso_refused(&self) -> bool {
        self.gso_refused
    }

    /// Errors about earlier datagrams (ICMP) taken from the socket, since open.
    pub fn queued_errors(&self) -> u64 {
        self.queued_errors.load(Ordering::Relaxed)
    }

    /// Size of the send buffer that the kernel granted, bytes, in the unit of the wish (the kernel doubles it).
    pub fn send_buffer(&self) -> usize {
        self.send_buffer
    }

    /// What the operator should know, one line each: a buffer that was granted smaller than asked, and the knob.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Hands trains to the kernel in order. Partial sends are continued; returns when all is taken or one cannot be.
    /// Spans are those of `memory`; frames are counted through the trains, not through the frame list.
    pub fn send(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        let list = SendList { memory, trains, frames };
        let mut taken = 0;
        let mut cursor = SendCursor::default();
        let mut retries = RETRIES;
        // A refused train: its frames go one by one, and the first that is taken proves that the train was at fault.
        let mut singly = 0;
        let mut suspicion = None;
        loop {
            let (count, flaw) = self.batch.load(&list, cursor, self.limits, singly);
            if count == 0 {
                return Progress { frames: taken, error: flaw };
            }
            match self.batch.hand_over(self.socket.as_fd(), count) {
                Ok(sent) => {
                    for message in &self.batch.messages[..sent.min(count)] {
                        cursor = message.cursor.after(message.frames);
                        taken += message.frames;
                        singly = singly.saturating_sub(message.frames);
                    }
                    if sent > 0 {
                        retries = RETRIES;
                        self.conclude(suspicion.take());
                    }
                }
                Err(error) => {
                    let first = self.batch.messages[0];
                    let refusal = Refusal::of(&error, first.segment).filter(|_| first.frames > 1);
                    if refusal.is_some() {
                        // EMSGSIZE may also sit in the error queue.
                        recverr::drain(self.socket.as_fd(), &self.queued_errors);
                        (suspicion, singly) = (refusal, first.frames);
                    } else if retries == 0 || !self.worth_repeating(&error) {
                        return Progress { frames: taken, error: Some(error) };
                    } else {
                        retries -= 1;
                    }
                }
            }
        }
    }

    /// Draws the consequence once a frame of a refused train left alone.
    fn conclude(&mut self, suspicion: Option<Refusal>) {
        match suspicion {
            Some(Refusal::Gso) => {
                self.limits.frames = 1;
                self.gso_refused = true;
            }
            Some(Refusal::Length(segment)) => {
                self.limits.segment = self.limits.segment.min(segment.saturating_sub(1));
            }
            None => {}
        }
    }

    fn worth_repeating(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::Interrupted => true,
            io::ErrorKind::WouldBlock => false,
            _ if error.raw_os_error() == Some(libc::ENOBUFS) => false,
            _ => recverr::was_about_an_earlier_datagram(self.socket.as_fd(), error, &self.queued_errors),
        }
    }
}

impl SendCursor {
    fn after(self, frames: usize) -> SendCursor {
        SendCursor { frame: self.frame + frames, ..self }
    }
}

/// The arguments of one `send`.
struct SendList<'a> {
    memory: &'a [u8],
    trains: &'a [Train],
    frames: &'a [Span],
}

impl<'a> SendList<'a> {
    /// The cursor itself, or the start of the next train with frames where this one is done.
    fn next(&self, mut cursor: SendCursor) -> Option<(SendCursor, &'a Train)> {
        loop {
            let train = self.trains.get(cursor.train)?;
            if cursor.frame < train.count as usize {
                return Some((cursor, train));
            }
            cursor = SendCursor { train: cursor.train + 1, frame: 0 };
        }
    }

    /// Bytes of frame `frame` of `train`; `None` where index or span lies outside.
    fn frame(&self, train: &Train, frame: usize) -> Option<&'a [u8]> {
        let span = self.frames.get((train.first as usize).checked_add(frame)?)?;
        self.memory.get(span.range())
    }
}

impl SendHeaders {
    fn new() -> SendHeaders {
        // SAFETY: integers and pointers only; zeros and nulls are values.
        let (header, piece) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        SendHeaders {
            headers: Box::new([header; MESSAGES]),
            names: Box::new([RawAddress::unset(); MESSAGES]),
            controls: Box::new([Control::empty(); MESSAGES]),
            pieces: Box::new([piece; PIECES]),
            messages: Box::new([Message::default(); MESSAGES]),
        }
    }

    /// Writes the messages from `cursor` on, until a limit of one call; the first `singly` frames are not put into trains.
    /// Returns how many messages, and why there is none where a frame is not to be had.
    fn load(
        &mut self,
        list: &SendList<'_>,
        mut cursor: SendCursor,
        limits: KernelLimits,
        mut singly: usize,
    ) -> (usize, Option<io::Error>) {
        let mut used = 0;
        for at in 0..MESSAGES {
            let Some((next, train)) = list.next(cursor) else { return (at, None) };
            let limits = if singly > 0 { KernelLimits { frames: 1, ..limits } } else { limits };
            let Some((frames, pieces)) = self.form_message(list, train, next.frame, limits, used) else {
                return (at, Some(outside(next, train)));
            };
            // No room for the whole message: it opens the next call.
            if frames == 0 {
                return (at, None);
            }
            self.write_header(at, train, frames, used, pieces);
            self.messages[at] = Message { cursor: next, frames, segment: train.segment };
            used += pieces;
            cursor = next.after(frames);
            singly = singly.saturating_sub(frames);
        }
        (MESSAGES, None)
    }

    /// Writes the pieces of one message from frame `first` of `train` on, at `self.pieces[used..]`. Returns frames and
    /// pieces; no frames where there is no room; `None` where the first frame is not to be had.
    fn form_message(
        &mut self,
        list: &SendList<'_>,
        train: &Train,
        first: usize,
        limits: KernelLimits,
        used: usize,
    ) -> Option<(usize, usize)> {
        let bytes = list.frame(train, first)?;
        let segment = usize::from(train.segment);
        let room = &mut self.pieces[used..];
        let most = limits.frames.min(train.count as usize - first).min(gso::MAX_BYTES / segment.max(1));
        if room.len() < 2 * gso::MAX_SEGMENTS {
            return Some((0, 0));
        }
        room[0] = piece(bytes);
        let (mut frames, mut pieces, mut last) = (1, 1, bytes.len());
        if segment > usize::from(limits.segment) {
            return Some((frames, pieces));
        }
        while frames < most && last <= segment {
            // What the frame before lacks; a flaw here is found when this frame opens a message.
            let Some(padding) = ZEROS.get(..segment - last) else { break };
            let Some(bytes) = list.frame(train, first + frames).filter(|bytes| bytes.len() <= segment) else {
                break;
            };
            // The kernel ends a train at an empty segment: an empty frame travels alone.
            if bytes.is_empty() {
                break;
            }
            if !padding.is_empty() {
                room[pieces] = piece(padding);
                pieces += 1;
            }
            room[pieces] = piece(bytes);
            (frames, pieces, last) = (frames + 1, pieces + 1, bytes.len());
        }
        Some((frames, pieces))
    }

    fn write_header(&mut self, at: usize, train: &Train, frames: usize, used: usize, pieces: usize) {
        let (name, name_length) = RawAddress::new(train.destination);
        self.names[at] = name;
        let header = &mut self.headers[at].msg_hdr;
        header.msg_name = (&raw mut self.names[at]).cast();
        header.msg_namelen = name_length;
        header.msg_iov = self.pieces[used..used + pieces].as_mut_ptr();
        header.msg_iovlen = pieces as _;
        header.msg_flags = 0;
        if frames > 1 {
            header.msg_controllen = gso::write_segment(&mut self.controls[at], train.segment) as _;
            header.msg_control = self.controls[at].as_mut_ptr();
        } else {
            header.msg_controllen = 0;
            header.msg_control = std::ptr::null_mut();
        }
    }

    /// One `sendmmsg` of the first `count` messages. The kernel reports an error only where the first of them failed.
    fn hand_over(&mut self, fd: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let count = libc::c_uint::try_from(count).unwrap_or(0);
        // SAFETY: `load` aimed the first `count` headers at memory of `self`, of the caller's `memory` slice (borrowed
        // through the whole `send`) and of `ZEROS`, with their lengths; sending writes only to the headers.
        let sent = unsafe {
            libc::sendmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

fn piece(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn outside(cursor: SendCursor, train: &Train) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("frame {} of train {} (first {}) lies outside", cursor.frame, cursor.train, train.first),
    )
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Sender {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Burst, Interface, Receiver, sockopt};
    use std::net::Ipv4Addr;

    fn options() -> SocketOptions {
        SocketOptions {
            interface: Some(Interface::by_name("lo").unwrap()),
            ..SocketOptions::new((Ipv4Addr::LOCALHOST, 0).into())
        }
    }

    fn arrived(receiver: &mut Receiver) -> Vec<Vec<u8>> {
        let mut burst = Burst::new(16, 0);
        while receiver.receive(&mut burst, 16).is_ok_and(|new| new > 0) {}
        burst.arrivals().iter().map(|arrival| burst.bytes(arrival.span).to_vec()).collect()
    }

    #[test]
    fn a_kernel_that_refuses_trains_gets_the_frames_one_by_one() {
        let mut receiver = Receiver::open(&options()).unwrap();
        let mut sender = Sender::open(&options()).unwrap();
        let to = receiver.local_addr().unwrap();
        let memory: Vec<u8> = (1..=60).collect();
        let spans: Vec<Span> = (0..6).map(|at| Span { start: at * 10, len: 10 - at }).collect();
        let trains = [
            Train { destination: to, first: 0, count: 1, segment: 10 },
            Train { destination: to, first: 1, count: 3, segment: 10 },
            Train { destination: to, first: 4, count: 2, segment: 10 },
        ];
        // A datagram without checksum cannot be cut by the kernel: what a driver without the feature says, too.
        sockopt::set_flag(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, true).unwrap();
        let longest = sender.max_train();
        assert!(longest > 1);
        let progress = sender.send(&memory, &trains, &spans);
        assert_eq!((progress.frames, progress.error.is_none()), (6, true));
        let frames: Vec<Vec<u8>> = spans.iter().map(|span| memory[span.range()].to_vec()).collect();
        assert_eq!(arrived(&mut receiver), frames);
        assert_eq!((sender.gso_refused(), sender.max_train()), (true, 1));
        // From now on without asking.
        assert_eq!(sender.send(&memory, &trains, &spans).frames, 6);
        assert_eq!(arrived(&mut receiver), frames);
    }

    #[test]
    fn a_destination_that_cannot_be_is_no_refusal_of_trains() {
        let mut sender = Sender::open(&options()).unwrap();
        let longest = sender.max_train();
        let spans = [Span { start: 0, len: 5 }; 4];
        for destination in ["127.0.0.1:0", "[::1]:9"] {
            let train = Train { destination: destination.parse().unwrap(), first: 0, count: 4, segment: 5 };
            let progress = sender.send(&[1; 5], &[train], &spans);
            assert_eq!(progress.frames, 0);
            assert!(progress.error.is_some());
        }
        assert_eq!((sender.gso_refused(), sender.max_train()), (false, longest));
    }
}
