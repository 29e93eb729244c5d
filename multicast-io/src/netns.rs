//! A private network for one process: its own loopback, on which multicast works, and nothing else.
//!
//! For the demo and tests: no other interface exists there, so nothing can leave by accident, and no privilege is needed
//! where the system allows user namespaces.

use crate::{Interface, interface, rtnetlink};
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

/// First 16 bits of the IPv6 groups that the loopback of the private network routes: any-source and source-specific, of link,
/// site, organisation and global scope (`docs/wire.md`, group addresses).
const PREFIXES: [u16; 8] = [0xff02, 0xff05, 0xff08, 0xff0e, 0xff32, 0xff35, 0xff38, 0xff3e];

/// Moves the process into a new network namespace (with a user namespace, as its root, where it is not root), brings `lo` up and routes
/// IPv6 multicast over it. IPv4 multicast needs no route there.
///
/// Must be called before the process starts threads: a thread that exists stays in the old network, so that is an error.
/// Where the system forbids namespaces the error says so, and the process is where it was.
pub fn enter_private_network() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "the private network must be entered before threads are started; there are {threads}"
        )));
    }
    unshare_network()?;
    bring_loopback_up()?;
    let lo = Interface::by_name("lo").map_err(io::Error::other)?;
    for prefix in PREFIXES {
        match rtnetlink::add_local_route(Ipv6Addr::new(prefix, 0, 0, 0, 0, 0, 0, 0), 16, lo.index) {
            Ok(()) => {}
            // No IPv6 here: IPv4 works all the same.
            Err(error) if ipv6_is_missing(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ipv6_is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES | libc::ENODEV))
}

/// As root the network alone; else, or where root is not enough, with a user namespace.
fn unshare_network() -> io::Result<()> {
    if unshare(libc::CLONE_NEWNET).is_ok() {
        return Ok(());
    }
    // SAFETY: both calls have no arguments and cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
    // The caller is root inside, so that programs it starts may alter the network too; outside, and for files, it stays who it
    // was. Groups must be given up first (user_namespaces(7)).
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers; what it does to the process is what the caller asked for.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn bring_loopback_up() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    let mut request = interface::named_request("lo")?;
    let up = libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOOPBACK;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(up).map_err(io::Error::other)?;
    // SAFETY: the request reads one `ifreq`, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused() {
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || finished.recv());
        let error = enter_private_network().unwrap_err().to_string();
        assert!(error.contains("before threads"), "{error}");
        drop(finish);
        thread.join().unwrap().unwrap_err();
    }
}
