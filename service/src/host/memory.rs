//! Whether the sizes of a role fit into this host, before anything of them is touched.
//!
//! Every queue and table of a role is bounded by an option. Their sum is compared with two figures:
//!
//! * what there can ever be: the machine's memory, and the limits of the cgroups that the process is in (v1 and v2). Beyond
//!   it the start is refused: the kernel would kill the process later, under load.
//! * what there is now. Beyond it the role starts and says so, since the memory may come free: that of an old process, in a
//!   restart or a hand-over.
//!
//! Buffers of sockets count with what the kernel grants of the wish.

use crate::codes::Code;
use crate::config::ByteSize;
use crate::lifecycle::Lifecycle;
use multicast_io::{Receiver, Sender, SocketOptions};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The code of the trouble.
pub const CODE: &str = Code::MemFit.name();

/// Between two looks of a running role.
const LOOK: Duration = Duration::from_secs(5);

/// What a size is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Memory of the process.
    Heap,
    /// Receive buffer of a socket.
    ReceiveBuffer,
    /// Send buffer of a socket.
    SendBuffer,
}

/// One bound of a role's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The option that sets it.
    pub option: &'static str,
    /// Bytes of one.
    pub each: u64,
    /// How many there are.
    pub times: u64,
    /// What it is for.
    pub what: Use,
}

impl Size {
    /// Memory of the process.
    pub fn heap(option: &'static str, each: u64, times: usize) -> Size {
        Size { option, each, times: times as u64, what: Use::Heap }
    }

    fn bytes(&self) -> u64 {
        self.each.saturating_mul(self.times)
    }
}

/// What the host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Most that the process may ever have, and who says so.
    most: Option<(u64, String)>,
    /// What is free now.
    available: Option<u64>,
}

/// How sizes and a host go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// There is room.
    Fits,
    /// There is none now.
    Tight(String),
    /// There can never be.
    Beyond(String),
}

impl Room {
    /// This host's, for this process.
    pub fn of_this_host() -> Room {
        Room::read(Path::new("/"))
    }

    /// `root`: where `proc` and the mounts of the cgroups are.
    fn read(root: &Path) -> Room {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let meminfo = text("proc/meminfo");
        let total = kib(&meminfo, "MemTotal:").map(|bytes| (bytes, "MemTotal of this host".to_owned()));
        let limit = cgroup_limit(root, &text("proc/self/mounts"), &text("proc/self/cgroup"));
        let most = total.into_iter().chain(limit).min_by_key(|(bytes, _)| *bytes);
        Room { most, available: kib(&meminfo, "MemAvailable:") }
    }

    /// `held`: what this role has of its sizes already, or another process will give back to it.
    pub fn judge(&self, sizes: &[Size], held: u64) -> Fit {
        let sum = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(size.bytes()));
        if let Some((most, who)) = &self.most
            && sum > *most
        {
            return Fit::Beyond(format!(
                "the sizes of this role add up to {}, and {who} is {}: {}. Lower them, or give the role more memory",
                Mib(sum),
                Mib(*most),
                Listed(sizes)
            ));
        }
        match self.available {
            Some(available) if sum.saturating_sub(held) > available => Fit::Tight(format!(
                "the sizes of this role add up to {}, of which {} is still to be taken, and {} is available now \
                 (MemAvailable): {}",
                Mib(sum),
                Mib(sum.saturating_sub(held)),
                Mib(available),
                Listed(sizes)
            )),
            _ => Fit::Fits,
        }
    }
}

/// The sizes as the kernel grants them: buffers of sockets are cut to its bounds.
pub fn granted(sizes: &[Size]) -> Vec<Size> {
    let any = SocketOptions::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let grant = |size: &Size| {
        let wish = usize::try_from(size.each).ok();
        let granted = match size.what {
            Use::Heap => None,
            Use::ReceiveBuffer => {
                let socket = Receiver::open(&SocketOptions { receive_buffer: wish, ..any.clone() });
                socket.ok().map(|socket| socket.receive_buffer())
            }
            Use::SendBuffer => {
                let socket = Sender::open(&SocketOptions { send_buffer: wish, ..any.clone() });
                socket.ok().map(|socket| socket.send_buffer())
            }
        };
        Size { each: granted.map_or(size.each, |bytes| size.each.min(bytes as u64)), ..*size }
    };
    sizes.iter().map(grant).collect()
}

/// Refuses sizes that this host can never hold, and watches those that it does not hold now until the role drains. Call on
/// the control runtime.
///
/// # Errors
/// The sum of the sizes, with the numbers.
pub fn admit(sizes: &[Size], lifecycle: &Lifecycle) -> anyhow::Result<()> {
    let sizes = granted(sizes);
    let room = Room::of_this_host();
    if let Fit::Beyond(why) = room.judge(&sizes, 0) {
        anyhow::bail!("{why}");
    }
    let (lifecycle, condition) = (lifecycle.clone(), lifecycle.condition("memory"));
    condition.met("there is room");
    let mut told = false;
    let mut look = move || match Room::of_this_host().judge(&sizes, resident("self").unwrap_or(0)) {
        Fit::Tight(why) | Fit::Beyond(why) => {
            condition.fails(Code::MemFit, &why);
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(code = CODE, "{why}");
            }
        }
        Fit::Fits => {
            condition.met("there is room");
            if std::mem::take(&mut told) {
                tracing::info!(code = CODE, "there is room for all sizes of this role now");
            }
        }
    };
    look();
    tokio::spawn(async move {
        let mut every = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = lifecycle.drain_began() => return,
                _ = every.tick() => look(),
            }
        }
    });
    Ok(())
}

/// Resident bytes of a process (`self`, or its pid).
pub fn resident(process: &str) -> Option<u64> {
    kib(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmRSS:")
}

/// A line of `/proc` in kB.
fn kib(text: &str, label: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest limit of the cgroups of this process and of those above them.
fn cgroup_limit(root: &Path, mounts: &str, groups: &str) -> Option<(u64, String)> {
    let mount = |kind: &str, controller: &str| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, place, found, options, ..] = fields.as_slice() else { return None };
            let has = controller.is_empty() || options.split(',').any(|option| option == controller);
            (*found == kind && has).then(|| PathBuf::from(place.trim_start_matches('/')))
        })
    };
    let group = |controller: &str| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            names.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/'))
        })
    };
    let v2 = mount("cgroup2", "").zip(group("")).map(|found| (found, "memory.max"));
    let v1 = mount("cgroup", "memory").zip(group("memory")).map(|found| (found, "memory.limit_in_bytes"));
    let limits = [v2, v1].into_iter().flatten().flat_map(|((mount, group), file)| {
        // Inside a container the path may be that of the host: the mount is then the container's own group.
        let path = mount.join(group);
        let above = path.ancestors().take_while(|path| path.starts_with(&mount));
        let files: Vec<PathBuf> = above.map(|path| path.join(file)).collect();
        files.into_iter().filter_map(|file| {
            let bytes = std::fs::read_to_string(root.join(&file)).ok()?.trim().parse().ok()?;
            Some((bytes, format!("/{} of its cgroup", file.display())))
        })
    });
    limits.min_by_key(|(bytes, _)| *bytes)
}

/// The sizes, largest first.
struct Listed<'a>(&'a [Size]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sizes: Vec<&Size> = self.0.iter().filter(|size| size.bytes() > 0).collect();
        sizes.sort_by_key(|size| std::cmp::Reverse(size.bytes()));
        for (index, size) in sizes.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", size.option, Mib(size.each))?;
            if size.times > 1 {
                write!(f, " × {}", size.times)?;
            }
        }
        Ok(())
    }
}

/// Bytes for people.
struct Mib(u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = ByteSize(self.0).to_string();
        match self.0 {
            bytes if exact.ends_with("iB") || bytes < 1 << 20 => f.write_str(&exact),
            bytes => write!(f, "{}MiB", bytes >> 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A host of 8 GiB, of which 2 are free, with these files.
    fn room(mounts: &str, groups: &str, files: &[(&str, &str)]) -> Room {
        let root = std::env::temp_dir().join(format!(
            "oncecast-room-{}-{:x}",
            std::process::id(),
            std::ptr::from_ref(&mounts).addr()
        ));
        let meminfo = "MemTotal:        8388608 kB\nMemFree:         1 kB\nMemAvailable:    2097152 kB\n";
        let own = [("proc/meminfo", meminfo), ("proc/self/mounts", mounts), ("proc/self/cgroup", groups)];
        for (path, text) in own.iter().chain(files) {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let room = Room::read(&root);
        std::fs::remove_dir_all(root).unwrap();
        room
    }

    fn dedup(bytes: u64) -> [Size; 2] {
        [Size::heap("--slab-bytes", 32 << 20, 2), Size::heap("--dedup-memory", bytes, 1)]
    }

    #[test]
    fn sizes_beyond_the_machine_are_refused_with_the_numbers() {
        let room = room("", "", &[]);
        let Fit::Beyond(why) = room.judge(&dedup(500 * GIB), 0) else { panic!("there is no room") };
        assert!(why.contains("--dedup-memory 500GiB, --slab-bytes 32MiB × 2"), "{why}");
        assert!(why.contains("MemTotal of this host is 8GiB") && why.contains("512064MiB"), "{why}");
        assert_eq!(room.judge(&dedup(GIB), 0), Fit::Fits);
        let Fit::Tight(why) = room.judge(&dedup(4 * GIB), 0) else { panic!("not now") };
        assert!(why.contains("2GiB is available now"), "{why}");
        assert_eq!(room.judge(&dedup(4 * GIB), 3 * GIB), Fit::Fits, "what it holds is not wanted again");
        assert!(matches!(room.judge(&dedup(u64::MAX), 0), Fit::Beyond(_)), "a sum that overflows");
    }

    #[test]
    fn the_lowest_limit_of_the_cgroups_counts() {
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let unit = "sys/fs/cgroup/system.slice/a.service/memory.max";
        let slice = "sys/fs/cgroup/system.slice/memory.max";
        let group = "0::/system.slice/a.service\n";
        let Fit::Beyond(why) =
            room(v2, group, &[(unit, "max\n"), (slice, "536870912\n")]).judge(&dedup(GIB), 0)
        else {
            panic!("the slice has 512 MiB")
        };
        assert!(why.contains("/sys/fs/cgroup/system.slice/memory.max of its cgroup is 512MiB"), "{why}");
        assert_eq!(room(v2, group, &[(unit, "max\n")]).judge(&dedup(GIB), 0), Fit::Fits);
        let container = room(v2, "0::/\n", &[("sys/fs/cgroup/memory.max", "536870912")]);
        assert!(matches!(container.judge(&dedup(GIB), 0), Fit::Beyond(_)));
    }

    #[test]
    fn the_limit_of_the_older_cgroups_counts_too() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let groups = "4:memory:/docker/abc\n0::/\n";
        let file = |path| (path, "536870912\n");
        for path in [
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
        ] {
            assert!(
                matches!(room(v1, groups, &[file(path)]).judge(&dedup(GIB), 0), Fit::Beyond(_)),
                "{path}"
            );
        }
        let unlimited = [("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(room(v1, groups, &unlimited).judge(&dedup(GIB), 0), Fit::Fits);
    }

    #[test]
    fn buffers_count_with_what_the_kernel_grants() {
        let wish = Size { option: "--recv-buf-bytes", each: 1 << 40, times: 1, what: Use::ReceiveBuffer };
        assert!(granted(&[wish])[0].each < 1 << 40);
    }
}
