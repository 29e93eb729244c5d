//! BRC-139 shard manifest (wire 1.11), with the Domains section of generation B.
//!
//! Decoding checks everything once, in the order of wire 1.11: coherence, then the checksum, then the contents. After that
//! the view walks the datagram without allocation, and nothing can fail.

use crate::{DecodeError, GroupIndex, Kind, field, field::Writer, group, hash};
use core::net::Ipv6Addr;

/// Length of the fixed part.
pub const HEADER: usize = 64;
const CRC_AT: usize = 44;
const SUCCESSOR: usize = 24;
const DOMAIN: usize = 24;
/// Most shard bits of a manifest's transaction plane.
pub const MAX_SHARD_BITS: u8 = 12;
/// Most domains of one manifest.
pub const MAX_DOMAINS: u8 = 15;

/// The fixed part of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Byte 7; see the constants of [`Manifest`].
    pub flags: u8,
    /// Informational; a registry keys on the datagram's source.
    pub source: Ipv6Addr,
    /// CRC-32C of the instance name.
    pub instance_id: u32,
    /// Unix seconds.
    pub epoch: u32,
    /// Seconds; 0 = three announce intervals.
    pub ttl_secs: u16,
    /// Seconds.
    pub interval_secs: u16,
    /// 0..=12.
    pub shard_bits: u8,
    /// 0 generic, 1 proxy, 2 listener, 3 retry, 4 producer, 5 manifest only, 6 and 7 BEEF; not validated.
    pub role: u8,
    /// Generation of the sharding.
    pub generation: [u8; 16],
}

/// Borrowed view of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest<'a> {
    /// The fixed part.
    pub identity: Identity,
    groups: Claimed<'a>,
    sources: &'a [[u8; 16]],
    successor: Option<Successor>,
    domain_count: u8,
    domains: &'a [u8],
    wire_len: usize,
}

/// The groups that a participant says it has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claimed<'a> {
    None,
    List(&'a [[u8; 2]]),
    Bitmap(&'a [u8]),
}

/// What comes next (wire 1.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its generation.
    pub generation: [u8; 16],
    /// At most one away from those it replaces.
    pub shard_bits: u8,
    /// Bit 0: SSM.
    pub flags: u8,
    /// Unix seconds.
    pub transition_epoch: u32,
}

impl Successor {
    fn read(bytes: &[u8; SUCCESSOR]) -> Option<Successor> {
        Some(Successor {
            generation: *bytes.first_chunk()?,
            shard_bits: bytes[16],
            flags: bytes[17],
            transition_epoch: field::u32(bytes, 20)?,
        })
    }

    fn write(&self) -> [u8; SUCCESSOR] {
        let mut out = [0; SUCCESSOR];
        out[..16].copy_from_slice(&self.generation);
        out[16] = self.shard_bits;
        out[17] = self.flags;
        out[20..].copy_from_slice(&self.transition_epoch.to_be_bytes());
        out
    }
}

/// One plane of groups (BRC-148).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// 0 transactions, 1 objects; at most 14.
    pub id: u8,
    /// At most 12 for domain 0, else 15.
    pub shard_bits: u8,
    /// Slots of 4,096 groups that the domain reserves.
    pub span: u8,
    /// Bit 0 SSM, bit 1 a successor follows, bit 2 active.
    pub flags: u8,
    /// 0; not validated.
    pub version: u8,
    /// Generation of the plane.
    pub generation: [u8; 16],
    /// Present exactly when flag 2 is set.
    pub successor: Option<Successor>,
}

impl Domain {
    /// Flag: the plane is SSM.
    pub const SSM: u8 = 0x01;
    /// Flag: a successor follows.
    pub const SUCCESSOR: u8 = 0x02;
    /// Flag: the plane is in use.
    pub const ACTIVE: u8 = 0x04;

    fn split(bytes: &[u8]) -> Option<(Domain, &[u8])> {
        let (fixed, rest) = bytes.split_first_chunk::<DOMAIN>()?;
        let (successor, rest) = match fixed[3] & Domain::SUCCESSOR {
            0 => (None, rest),
            _ => {
                let (successor, rest) = rest.split_first_chunk()?;
                (Some(Successor::read(successor)?), rest)
            }
        };
        let generation = *field::bytes(fixed, 8)?;
        let [id, shard_bits, span, flags, version, ..] = *fixed;
        Some((Domain { id, shard_bits, span, flags, version, generation, successor }, rest))
    }

    /// The rules that concern one domain alone (with what the top level says).
    fn check(&self, top: &Identity) -> Option<()> {
        let most = if self.id == 0 { MAX_SHARD_BITS } else { 15 };
        let fits =
            |bits: u8| bits <= most && (u32::from(self.id) << 12) + (1u32 << bits) <= group::PLANES_END;
        let valid = self.id <= 14
            && fits(self.shard_bits)
            && self.span >= 1u8 << self.shard_bits.saturating_sub(12)
            && u32::from(self.id) + u32::from(self.span) <= 15
            && (self.id != 0 || (self.shard_bits == top.shard_bits && self.generation == top.generation));
        let successor_valid = self.successor.is_none_or(|next| {
            top.flags & Manifest::AUTHORITATIVE != 0
                && fits(next.shard_bits)
                && next.shard_bits.abs_diff(self.shard_bits) <= 1
        });
        (valid && successor_valid).then_some(())
    }

    /// The slots that the domain reserves, one bit each.
    fn slots(&self) -> u16 {
        (0..self.span)
            .fold(0, |slots, i| slots | 1u16.checked_shl(u32::from(self.id) + u32::from(i)).unwrap_or(0))
    }

    fn write(&self, out: &mut Writer<'_>) -> Option<()> {
        let flag = if self.successor.is_some() { Domain::SUCCESSOR } else { 0 };
        let flags = self.flags & !Domain::SUCCESSOR | flag;
        out.put(&[self.id, self.shard_bits, self.span, flags, self.version, 0, 0, 0])?;
        out.put(&self.generation)?;
        self.successor.map_or(Some(()), |successor| out.put(&successor.write()))
    }
}

impl<'a> Manifest<'a> {
    /// Flag: groups follow, as a list or as a bitmap.
    pub const GROUPS: u8 = 0x01;
    /// Flag: speaks for the deployment.
    pub const AUTHORITATIVE: u8 = 0x02;
    /// Flag: the sender leaves.
    pub const SHUTDOWN: u8 = 0x04;
    /// Flag: the plane is SSM.
    pub const SSM: u8 = 0x08;
    /// Flag: sources follow.
    pub const SOURCES: u8 = 0x10;
    /// Flag: for pilots; without AUTHORITATIVE a receiver must ignore the manifest (the decoder does not).
    pub const PILOT_ONLY: u8 = 0x20;
    /// Flag: a successor follows.
    pub const SUCCESSOR: u8 = 0x40;
    /// Flag (B): domains follow. A rejects such manifests as `ManifestBadCrc`.
    pub const DOMAINS: u8 = 0x80;

    /// Decodes in the order of wire 1.11. Bytes after the declared length are tolerated and not under the checksum.
    pub fn decode(datagram: &'a [u8]) -> Result<Manifest<'a>, DecodeError> {
        let short = DecodeError::ManifestTooShort;
        let (header, rest) = datagram.split_first_chunk::<HEADER>().ok_or(short)?;
        if !field::has_magic(header) {
            return Err(DecodeError::BadMagic);
        }
        if header[6] != Kind::Manifest as u8 {
            return Err(DecodeError::ManifestBadType);
        }
        let identity = Identity::read(header).ok_or(short)?;
        let counts = Counts::read(header).ok_or(short)?;
        if identity.shard_bits > MAX_SHARD_BITS {
            return Err(DecodeError::ManifestBadShardBits);
        }
        counts.check(identity.flags)?;
        let manifest = Manifest::sections(identity, counts, rest)?;
        let sections = rest.get(..manifest.wire_len - HEADER).ok_or(DecodeError::ManifestTruncated)?;
        if crc(header, sections) != field::u32(header, CRC_AT).ok_or(short)? {
            return Err(DecodeError::ManifestBadCrc);
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Cuts the sections after the header; nothing but lengths and the number of domains is judged.
    fn sections(identity: Identity, counts: Counts, rest: &'a [u8]) -> Result<Manifest<'a>, DecodeError> {
        let truncated = DecodeError::ManifestTruncated;
        let total = rest.len();
        let (bitmap, rest) = rest.split_at_checked(counts.bitmap).ok_or(truncated)?;
        let (list, rest) = rest.split_at_checked(2 * counts.groups).ok_or(truncated)?;
        let (sources, mut rest) = rest.split_at_checked(16 * counts.sources).ok_or(truncated)?;
        let mut successor = None;
        if identity.flags & Manifest::SUCCESSOR != 0 {
            let (bytes, after) = rest.split_first_chunk().ok_or(truncated)?;
            successor = Some(Successor::read(bytes).ok_or(truncated)?);
            rest = after;
        }
        let mut domain_count = 0;
        let mut domains: &[u8] = &[];
        if identity.flags & Manifest::DOMAINS != 0 {
            (domain_count, domains) =
                rest.split_first().map(|(count, rest)| (*count, rest)).ok_or(truncated)?;
            if !(1..=MAX_DOMAINS).contains(&domain_count) {
                return Err(DecodeError::ManifestBadDomains);
            }
            rest = domains;
            for _ in 0..domain_count {
                (_, rest) = Domain::split(rest).ok_or(truncated)?;
            }
        }
        let groups = match (counts.groups, counts.bitmap) {
            (0, 0) => Claimed::None,
            (0, _) => Claimed::Bitmap(bitmap),
            _ => Claimed::List(list.as_chunks().0),
        };
        let sources = sources.as_chunks().0;
        let wire_len = HEADER + total - rest.len();
        Ok(Manifest { identity, groups, sources, successor, domain_count, domains, wire_len })
    }

    /// What is judged only after the checksum.
    fn check(&self) -> Result<(), DecodeError> {
        if let Claimed::List(list) = self.groups
            && !list.is_sorted_by(|a, b| a < b)
        {
            return Err(DecodeError::ManifestBadEncoding);
        }
        let bits = self.identity.shard_bits;
        if self.successor.is_some_and(|s| s.shard_bits > MAX_SHARD_BITS || s.shard_bits.abs_diff(bits) > 1) {
            return Err(DecodeError::ManifestBadSuccessor);
        }
        check_domains(self.domains(), &self.identity).ok_or(DecodeError::ManifestBadDomains)
    }

    /// Declared length on the wire.
    pub fn wire_len(&self) -> usize {
        self.wire_len
    }

    /// The groups that the sender has joined, ascending; `None` if it does not say.
    pub fn groups(&self) -> Option<impl Iterator<Item = GroupIndex> + use<'a>> {
        let groups = self.groups;
        let (list, bitmap): (&[[u8; 2]], &[u8]) = match groups {
            Claimed::None => return None,
            Claimed::List(list) => (list, &[]),
            Claimed::Bitmap(bitmap) => (&[], bitmap),
        };
        let listed = list.iter().map(|index| GroupIndex(u16::from_be_bytes(*index)));
        // A bitmap has at most 65,535 bytes; bits beyond the 16-bit index space mean no group.
        let set = |index: &u16| {
            bitmap.get(usize::from(index / 8)).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
        };
        let end = u16::try_from(bitmap.len().saturating_mul(8).saturating_sub(1)).unwrap_or(u16::MAX);
        let mapped = (0..=end).filter(set).map(GroupIndex);
        Some(listed.chain(mapped))
    }

    /// The bitmap as sent, if the groups came as one.
    pub fn bitmap(&self) -> Option<&'a [u8]> {
        match self.groups {
            Claimed::Bitmap(bitmap) => Some(bitmap),
            _ => None,
        }
    }

    /// Sources to join in SSM mode.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = Ipv6Addr> + use<'a> {
        self.sources.iter().map(|source| Ipv6Addr::from(*source))
    }

    /// The generation that follows, if announced.
    pub fn successor(&self) -> Option<Successor> {
        self.successor
    }

    /// The planes, in the order sent.
    pub fn domains(&self) -> impl Iterator<Item = Domain> + use<'a> {
        let mut rest = self.domains;
        (0..self.domain_count).map_while(move |_| {
            let (domain, after) = Domain::split(rest)?;
            rest = after;
            Some(domain)
        })
    }
}

/// Rules of wire 1.11 over all domains: each valid, no slot shared (which makes ids unique).
fn check_domains(domains: impl Iterator<Item = Domain>, top: &Identity) -> Option<()> {
    let mut taken = 0u16;
    for domain in domains {
        domain.check(top)?;
        (taken & domain.slots() == 0).then_some(())?;
        taken |= domain.slots();
    }
    Some(())
}

/// The counts of a header.
#[derive(Clone, Copy)]
struct Counts {
    groups: usize,
    bitmap: usize,
    sources: usize,
}

impl Counts {
    fn read(header: &[u8; HEADER]) -> Option<Counts> {
        Some(Counts {
            groups: field::u16(header, 38)?.into(),
            bitmap: field::u16(header, 40)?.into(),
            sources: field::u16(header, 42)?.into(),
        })
    }

    /// Flags and counts must agree.
    fn check(&self, flags: u8) -> Result<(), DecodeError> {
        let has = |flag: u8| flags & flag != 0;
        let forms = usize::from(self.groups > 0) + usize::from(self.bitmap > 0);
        if forms != usize::from(has(Manifest::GROUPS)) {
            return Err(DecodeError::ManifestBadEncoding);
        }
        if has(Manifest::SOURCES) != (self.sources > 0) {
            return Err(DecodeError::ManifestBadSources);
        }
        if has(Manifest::SUCCESSOR) && !has(Manifest::AUTHORITATIVE) {
            return Err(DecodeError::ManifestBadSuccessor);
        }
        Ok(())
    }
}

impl Identity {
    fn read(header: &[u8; HEADER]) -> Option<Identity> {
        Some(Identity {
            flags: header[7],
            source: Ipv6Addr::from(*field::bytes::<16>(header, 8)?),
            instance_id: field::u32(header, 24)?,
            epoch: field::u32(header, 28)?,
            ttl_secs: field::u16(header, 32)?,
            interval_secs: field::u16(header, 34)?,
            shard_bits: header[36],
            role: header[37],
            generation: *field::bytes(header, 48)?,
        })
    }

    fn write(&self, counts: [u16; 3]) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&field::prologue(Kind::Manifest as u8, self.flags));
        out[8..24].copy_from_slice(&self.source.octets());
        out[24..28].copy_from_slice(&self.instance_id.to_be_bytes());
        out[28..32].copy_from_slice(&self.epoch.to_be_bytes());
        out[32..34].copy_from_slice(&self.ttl_secs.to_be_bytes());
        out[34..36].copy_from_slice(&self.interval_secs.to_be_bytes());
        out[36] = self.shard_bits;
        out[37] = self.role;
        for (field, count) in out[38..44].as_chunks_mut().0.iter_mut().zip(counts) {
            *field = count.to_be_bytes();
        }
        out[48..].copy_from_slice(&self.generation);
        out
    }
}

/// Checksum over the declared length, its own field as zeros.
fn crc(header: &[u8; HEADER], sections: &[u8]) -> u32 {
    let (before, rest) = header.split_at(CRC_AT);
    hash::crc32c(&[before, &[0; 4], rest.get(4..).unwrap_or_default(), sections])
}

/// How a sender says which groups it has joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Groups<'a> {
    /// It does not say.
    #[default]
    Unsaid,
    /// Ascending, without repetition.
    List(&'a [GroupIndex]),
    /// Bit i of byte i/8, LSB first.
    Bitmap(&'a [u8]),
}

/// What a manifest is built from. The flags GROUPS, SOURCES, SUCCESSOR and DOMAINS are set by what is there, whatever
/// `identity.flags` says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestFields<'a> {
    /// The fixed part.
    pub identity: Identity,
    /// Joined groups.
    pub groups: Groups<'a>,
    /// Sources to join in SSM mode.
    pub sources: &'a [Ipv6Addr],
    /// The generation that follows.
    pub successor: Option<Successor>,
    /// Planes (B); leave empty where A consumers exist.
    pub domains: &'a [Domain],
}

impl ManifestFields<'_> {
    /// Writes a manifest to the front of `out` and returns its length. `None` if `out` is too short, or if the result
    /// would break a rule of the decoder.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let (list, bitmap): (&[GroupIndex], &[u8]) = match self.groups {
            Groups::Unsaid => (&[], &[]),
            Groups::List(list) => (list, &[]),
            Groups::Bitmap(bitmap) => (&[], bitmap),
        };
        let mut identity = self.identity;
        for (flag, set) in [
            (Manifest::GROUPS, !list.is_empty() || !bitmap.is_empty()),
            (Manifest::SOURCES, !self.sources.is_empty()),
            (Manifest::SUCCESSOR, self.successor.is_some()),
            (Manifest::DOMAINS, !self.domains.is_empty()),
        ] {
            identity.flags = if set { identity.flags | flag } else { identity.flags & !flag };
        }
        let counts = [list.len(), bitmap.len(), self.sources.len()].map(u16::try_from);
        let [Ok(groups), Ok(bitmap_bytes), Ok(sources)] = counts else { return None };

        let mut writer = Writer::new(out);
        writer.put(&identity.write([groups, bitmap_bytes, sources]))?;
        writer.put(bitmap)?;
        list.iter().try_for_each(|group| writer.put(&group.0.to_be_bytes()))?;
        self.sources.iter().try_for_each(|source| writer.put(&source.octets()))?;
        if let Some(successor) = self.successor {
            writer.put(&successor.write())?;
        }
        if !self.domains.is_empty() {
            writer.put(&[u8::try_from(self.domains.len()).ok()?])?;
        }
        self.domains.iter().try_for_each(|domain| domain.write(&mut writer))?;
        let len = writer.len();
        seal(out.get_mut(..len)?)?;
        Manifest::decode(out.get(..len)?).ok().map(|manifest| manifest.wire_len)
    }
}

/// Writes the checksum of a complete manifest.
fn seal(manifest: &mut [u8]) -> Option<()> {
    let (header, sections) = manifest.split_first_chunk_mut::<HEADER>()?;
    let crc = crc(header, sections);
    header[CRC_AT..48].copy_from_slice(&crc.to_be_bytes());
    Some(())
}
