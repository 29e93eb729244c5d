//! The plain loop that the floor is measured against: receive, sort, pad, send, in one function, over the `nix` crate.
//!
//! Written for this comparison and sharing no code with the product, so that the floor cannot hide a slow socket layer.

use anyhow::Context;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockFlag, SockType,
    SockaddrIn6, bind, recvmmsg, sendmsg, setsockopt, socket, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

const SLOTS: usize = 128;
const SLOT: usize = 65_536;
const CALL: usize = 32;
const ROUND: usize = 1_024;
const LONGEST_TRAIN: usize = 128;
const TRAIN_BYTES: usize = 65_487;

/// Options of the loop.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Interface of the multicast side
    #[arg(long)]
    iface: String,
    /// End after this long at the latest, seconds
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
}

/// Forwards from port 8725 to four groups until nothing comes for a while.
pub fn run(args: &Args) -> anyhow::Result<serde_json::Value> {
    let flags = SockFlag::SOCK_NONBLOCK;
    let input = socket(AddressFamily::Inet6, SockType::Datagram, flags, None)?;
    setsockopt(&input, sockopt::RcvBufForce, &(4 << 20))?;
    setsockopt(&input, sockopt::UdpGroSegment, &true)?;
    bind(input.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 8725, 0, 0)))?;
    let output = socket(AddressFamily::Inet6, SockType::Datagram, flags, None)?;
    setsockopt(&output, sockopt::SndBufForce, &(8 << 20))?;
    let index = nix::net::if_::if_nametoindex(args.iface.as_str()).context("--iface")?;
    let groups: Vec<SockaddrIn6> = (0..4)
        .map(|group| Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0x000b, group))
        .map(|address| SocketAddrV6::new(address, 9001, 0, index).into())
        .collect();

    let mut memory = vec![0_u8; SLOTS * SLOT];
    let zeros = [0_u8; 2048];
    let mut frames: Vec<(u64, u32)> = Vec::new();
    let (mut count, mut trains) = (0_u64, 0_u64);
    let end = Instant::now() + Duration::from_secs_f64(args.seconds.clamp(0.0, 3600.0));
    eprintln!("ready");
    let mut last: Option<Instant> = None;
    while Instant::now() < end && last.is_none_or(|last| last.elapsed() < Duration::from_millis(1800)) {
        poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], PollTimeout::from(50_u8))?;
        frames.clear();
        let mut used = 0;
        while used + CALL <= SLOTS && frames.len() < ROUND {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> = memory[used * SLOT..(used + CALL) * SLOT]
                .chunks_mut(SLOT)
                .map(|slot| [IoSliceMut::new(slot)])
                .collect();
            // New ones for each call: `recvmmsg` leaves the length of the last control message in them, and a train whose
            // segment size finds no room would count as one frame.
            let mut headers = MultiHeaders::<SockaddrIn6>::preallocate(CALL, Some(cmsg_space!(i32)));
            let got: Vec<(usize, usize)> = match recvmmsg(
                input.as_raw_fd(),
                &mut headers,
                slices.iter_mut(),
                MsgFlags::MSG_DONTWAIT,
                None,
            ) {
                Err(Errno::EAGAIN) => break,
                got => got?.map(|message| (message.bytes, segment(&message))).collect(),
            };
            for (slot, (bytes, segment)) in got.iter().enumerate() {
                let start = (used + slot) * SLOT;
                for at in (start..start + bytes).step_by((*segment).max(1)) {
                    let end = (at + segment).min(start + bytes);
                    frames.extend(describe(&memory[at..end], at));
                }
            }
            used += got.len();
        }
        if frames.is_empty() {
            continue;
        }
        last = Some(Instant::now());
        frames.sort_unstable();
        let mut from = 0;
        while from < frames.len() {
            let upto = from + train(&frames[from..]);
            let segment = length(&frames[upto - 1]);
            let mut pieces = Vec::with_capacity(2 * LONGEST_TRAIN);
            for frame in &frames[from..upto] {
                let at = frame.1 as usize;
                pieces.push(IoSlice::new(&memory[at..at + length(frame)]));
                pieces.push(IoSlice::new(&zeros[..segment - length(frame)]));
            }
            let size = u16::try_from(segment)?;
            let control = [ControlMessage::UdpGsoSegments(&size)];
            let group = &groups[usize::try_from(frames[from].0 >> 32)?];
            let control = if upto - from > 1 { &control[..] } else { &[] };
            sendmsg(output.as_raw_fd(), &pieces, control, MsgFlags::MSG_DONTWAIT, Some(group))?;
            count += (upto - from) as u64;
            trains += 1;
            from = upto;
        }
    }
    Ok(serde_json::json!({ "part": "reference", "frames": count, "trains": trains }))
}

fn segment(message: &nix::sys::socket::RecvMsg<'_, '_, SockaddrIn6>) -> usize {
    let gro = message.cmsgs().ok().and_then(|mut cmsgs| {
        cmsgs.find_map(|cmsg| match cmsg {
            ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
            _ => None,
        })
    });
    gro.unwrap_or(message.bytes)
}

/// Group and length as one key to sort by, and where the frame is.
fn describe(frame: &[u8], at: usize) -> Option<(u64, u32)> {
    let declared = u32::from_be_bytes(*frame.get(88..92)?.first_chunk()?);
    Some((u64::from(frame[8] >> 6) << 32 | u64::from(declared + 92), u32::try_from(at).ok()?))
}

fn length(frame: &(u64, u32)) -> usize {
    (frame.0 & 0xffff) as usize
}

/// How many frames from the front share a train.
fn train(frames: &[(u64, u32)]) -> usize {
    let head = &frames[0];
    let fits = |(at, frame): (usize, &(u64, u32))| {
        frame.0 >> 32 == head.0 >> 32
            && length(frame) * 100 <= length(head) * 115
            && length(frame) * (at + 1) <= TRAIN_BYTES
            && at < LONGEST_TRAIN
    };
    frames.iter().enumerate().take_while(|frame| fits(*frame)).count().max(1)
}
