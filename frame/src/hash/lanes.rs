//! Double SHA-256 of many messages, sixteen at a time, one in each lane of AVX-512.
//!
//! Why: the SHA instructions work on one message and wait for themselves; sixteen messages side by side cost less. A lane
//! whose message has ended takes the next one at once, so lengths need not be alike; first digests wait until there are
//! enough of them for a full set of second hashes. Once few lanes are at work, what they left is finished with the SHA instructions.
//!
//! Vectors never pass through a closure: what is not inlined loses the instructions, and with them a factor of twenty.
//! No unsafe here: `pulp` hands out the instructions against a token that proves that the processor has them.

use super::pairs::{BLOCK, Message, START, Started, TAIL, in_pairs, sha256_again};
use crate::Id;
use core::arch::x86_64::__m512i;
use pulp::x86::V4;
use pulp::{NullaryFnOnce, cast};

/// Messages hashed together.
const LANES: usize = 16;
/// Lanes that must be at work for a step of all to be worth its time.
const FEWEST: usize = 10;

/// Bytes of a block, and most of a message's bytes in its last block.
const BLOCK_BYTES: u32 = 64;
const ROOM: u32 = 55;
const _: () = assert!(BLOCK_BYTES as usize == BLOCK && (BLOCK_BYTES - ROOM) as usize == TAIL);

#[rustfmt::skip]
const ROUND: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Double SHA-256 of `messages`, the longest first; `found` gets each and its hash, in no order. `false`, with nothing done,
/// where the processor has no AVX-512 or the messages are too few.
pub(super) fn sha256d_each<'a>(
    messages: &[Message],
    bytes: &impl Fn(Message) -> &'a [u8],
    found: &mut impl FnMut(Message, Id),
) -> bool {
    // Remembers what it found; a later call is one load.
    let Some(simd) = V4::try_new().filter(|_| messages.len() >= LANES) else { return false };
    let mut lanes = Lanes::default();
    let mut firsts = Firsts::default();
    simd.vectorize(Hash { simd, messages, bytes, found, lanes: &mut lanes, firsts: &mut firsts });
    lanes.finish(messages, found);
    firsts.finish(messages, found);
    true
}

/// A call that is compiled with the instructions of its token. (A closure would not be inlined into it.)
struct Hash<'h, 'a, B, F> {
    simd: V4,
    messages: &'h [Message],
    bytes: &'h B,
    found: &'h mut F,
    lanes: &'h mut Lanes<'a>,
    firsts: &'h mut Firsts,
}

impl<'a, B: Fn(Message) -> &'a [u8], F: FnMut(Message, Id)> NullaryFnOnce for Hash<'_, 'a, B, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Hash { simd, messages, bytes, found, lanes, firsts } = self;
        let mut next = messages.iter();
        lanes.refill(u16::MAX, messages.len(), &mut next, bytes);
        let mut state = start(simd);
        while lanes.at_work.count_ones() as usize >= FEWEST {
            let ends = lanes.ends(simd);
            let words = lanes.words(simd, ends);
            compress(simd, &mut state, words);
            if ends != 0 {
                firsts.put(simd, &state, ends, &lanes.numbers);
                for (word, start) in state.iter_mut().zip(START) {
                    *word = simd.avx512f._mm512_mask_mov_epi32(*word, ends, splat(simd, start));
                }
                lanes.refill(ends, messages.len(), &mut next, bytes);
                if firsts.count >= LANES {
                    firsts.hash(simd, messages, found);
                }
            }
        }
        if firsts.count >= FEWEST {
            firsts.hash(simd, messages, found);
        }
        for (words, word) in lanes.state.iter_mut().zip(state) {
            *words = cast(word);
        }
    }
}

/// The messages under way.
#[derive(Default)]
struct Lanes<'a> {
    /// Bit n: lane n has a message.
    at_work: u16,
    /// Place of the message in the list.
    numbers: [u32; LANES],
    /// Its bytes that are left (less than 0 once its end is marked), and where they begin.
    left: [i32; LANES],
    rest: [&'a [u8]; LANES],
    /// Its length in bits.
    bits: [u32; LANES],
    /// Word by word, once the lanes stand still.
    state: [[u32; LANES]; 8],
}

impl<'a> Lanes<'a> {
    /// Gives `free` lanes the next messages.
    #[inline(always)]
    fn refill(
        &mut self,
        mut free: u16,
        count: usize,
        next: &mut core::slice::Iter<'_, Message>,
        bytes: &impl Fn(Message) -> &'a [u8],
    ) {
        while free != 0 {
            let lane = free.trailing_zeros() as usize;
            free &= free - 1;
            let number = count - next.len();
            match next.next() {
                Some(&message) => self.take(lane, number, message, bytes(message)),
                None => self.at_work &= !(1 << lane),
            }
        }
    }

    #[inline(always)]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "messages are short and few: `Message` has 32 bits for both"
    )]
    fn take(&mut self, lane: usize, number: usize, message: Message, bytes: &'a [u8]) {
        self.at_work |= 1 << lane;
        self.numbers[lane] = number as u32;
        let (len, _) = message.cut(bytes);
        self.left[lane] = len as i32;
        self.bits[lane] = 8 * len;
        self.rest[lane] = bytes;
    }

    /// Lanes whose next block is their last.
    #[inline(always)]
    fn ends(&self, simd: V4) -> u16 {
        self.at_work & simd.avx512f._mm512_cmple_epi32_mask(cast(self.left), splat(simd, ROOM))
    }

    /// The next block of each lane, word by word. Rows are spelled out, as those of a loop would go through memory.
    #[inline(always)]
    fn words(&mut self, simd: V4, last: u16) -> [__m512i; 16] {
        let f = simd.avx512f;
        let ends = f._mm512_min_epi32(cast(self.left), splat(simd, BLOCK_BYTES));
        let ends = f._mm512_add_epi32(f._mm512_max_epi32(ends, splat(simd, u32::MAX)), splat(simd, 1));
        let ends: [u32; LANES] = cast(ends);
        macro_rules! rows {
            ($($lane:literal)*) => {
                [$(row(simd, &mut self.rest[$lane], ends[$lane])),*]
            };
        }
        let rows = rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        self.left = cast(f._mm512_sub_epi32(cast(self.left), splat(simd, BLOCK_BYTES)));
        let mut words = transpose(simd, &rows);
        words[15] = f._mm512_mask_mov_epi32(words[15], last, cast(self.bits));
        words
    }

    /// Hashes what is left of the messages under way.
    fn finish(&self, messages: &[Message], found: &mut impl FnMut(Message, Id)) {
        let at_work = (0..LANES).filter(|lane| self.at_work >> lane & 1 == 1);
        let started = at_work.map(|lane| Started {
            message: messages[self.numbers[lane] as usize],
            state: core::array::from_fn(|word| self.state[word][lane]),
            rest: &self.rest[lane][..usize::try_from(self.left[lane]).unwrap_or(0)],
            marked: self.left[lane] < 0,
            len: self.bits[lane] / 8,
        });
        in_pairs(started, found);
    }
}

/// The next block of a message, its words in the order of the processor: `end` is the number of its bytes that the message
/// still has, plus one. What follows the message in `rest` is not looked at.
#[inline(always)]
fn row(simd: V4, rest: &mut &[u8], end: u32) -> __m512i {
    let bytes = match rest.split_first_chunk::<BLOCK>() {
        Some((whole, after)) => {
            *rest = after;
            *whole
        }
        None => last_bytes(core::mem::take(rest)),
    };
    let end = (end as usize).min(ENDS - 1);
    simd.avx512bw._mm512_mask_shuffle_epi8(cast(MARK[end]), KEEP[end], cast(bytes), cast(ORDER))
}

/// Cases of a block's end: after it, or at a byte of it, or before it.
const ENDS: usize = BLOCK + 2;

/// For each end the bytes that belong to the message, and what stands for the others: the bit that ends it, and zeros (FIPS
/// 180-4, section 5.1.1). Both for bytes that are in order already. The length is written later.
static KEEP: [u64; ENDS] = {
    let mut keep = [0; ENDS];
    let mut end = 1;
    while end < ENDS {
        // The byte before the end, if any, is kept as well.
        keep[end] = match end {
            1 => 0,
            _ => keep[end - 1] | 1 << (ORDER[end - 2]),
        };
        end += 1;
    }
    keep
};
static MARK: [[u8; BLOCK]; ENDS] = {
    let mut mark = [[0; BLOCK]; ENDS];
    let mut end = 1;
    while end < ENDS - 1 {
        mark[end][ORDER[end - 1] as usize] = 0x80;
        end += 1;
    }
    mark
};

/// The end of a slice that nothing follows.
#[cold]
fn last_bytes(rest: &[u8]) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    bytes[..rest.len()].copy_from_slice(rest);
    bytes
}

/// First digests that wait for their second hash, word by word: fewer than a set, and what one step may add.
#[derive(Default)]
struct Firsts {
    words: [[[u32; LANES]; 2]; 8],
    /// Places of their messages in the list.
    numbers: [[u32; LANES]; 2],
    count: usize,
}

impl Firsts {
    /// Adds those lanes of `state` that have `ended`.
    #[inline(always)]
    fn put(&mut self, simd: V4, state: &[__m512i; 8], ended: u16, numbers: &[u32; LANES]) {
        for (words, word) in self.words.iter_mut().zip(state) {
            append(simd, words, self.count, ended, *word);
        }
        append(simd, &mut self.numbers, self.count, ended, cast(*numbers));
        self.count += ended.count_ones() as usize;
    }

    /// Hashes a set, which may not be full, again.
    #[inline(always)]
    fn hash(&mut self, simd: V4, messages: &[Message], found: &mut impl FnMut(Message, Id)) {
        let mut block = [splat(simd, 0); 16];
        for (word, words) in block.iter_mut().zip(&self.words) {
            *word = cast(words[0]);
        }
        block[8] = splat(simd, 0x8000_0000);
        block[15] = splat(simd, 256);
        let mut state = start(simd);
        compress(simd, &mut state, block);
        let mut rows = [splat(simd, 0); 16];
        for (row, word) in rows.iter_mut().zip(state) {
            *row = big_endian(simd, word);
        }
        let ids: [[Id; 2]; LANES] = cast(transpose(simd, &rows));
        for (number, id) in self.numbers[0].iter().zip(ids).take(self.count) {
            found(messages[*number as usize], id[0]);
        }
        for words in self.words.iter_mut().chain([&mut self.numbers]) {
            words[0] = words[1];
        }
        self.count = self.count.saturating_sub(LANES);
    }

    /// Hashes again what is left.
    fn finish(&self, messages: &[Message], found: &mut impl FnMut(Message, Id)) {
        for at in (0..self.count).step_by(2) {
            let pair = [at, (at + 1).min(self.count - 1)];
            let ids = sha256_again(pair.map(|at| core::array::from_fn(|word| self.words[word][0][at])));
            for (at, id) in pair.into_iter().zip(ids).take(self.count - at) {
                found(messages[self.numbers[0][at] as usize], id);
            }
        }
    }
}

/// Writes those lanes of `word` that have `ended`, side by side, from `count` on; what follows them is overwritten.
#[inline(always)]
fn append(simd: V4, words: &mut [[u32; LANES]; 2], count: usize, ended: u16, word: __m512i) {
    if let Some(place) =
        words.as_flattened_mut().get_mut(count..).and_then(|words| words.first_chunk_mut::<LANES>())
    {
        *place = cast(simd.avx512f._mm512_maskz_compress_epi32(ended, word));
    }
}

#[inline(always)]
fn start(simd: V4) -> [__m512i; 8] {
    let mut state = [splat(simd, 0); 8];
    for (word, start) in state.iter_mut().zip(START) {
        *word = splat(simd, start);
    }
    state
}

#[inline(always)]
fn splat(simd: V4, word: u32) -> __m512i {
    simd.avx512f._mm512_set1_epi32(word.cast_signed())
}

/// Where each byte goes when those of each word are swapped. (A shuffle looks at the low four bits.)
const ORDER: [u8; BLOCK] = {
    let mut order = [0; BLOCK];
    let mut at = 0_u8;
    while at < 64 {
        order[at as usize] = at ^ 3;
        at += 1;
    }
    order
};

/// Swaps the bytes of each word.
#[inline(always)]
fn big_endian(simd: V4, row: __m512i) -> __m512i {
    simd.avx512bw._mm512_shuffle_epi8(row, cast(ORDER))
}

/// Rows of sixteen words into columns.
#[inline(always)]
fn transpose(simd: V4, rows: &[__m512i; 16]) -> [__m512i; 16] {
    let f = simd.avx512f;
    let mut pairs = *rows;
    for i in 0..8 {
        pairs[2 * i] = f._mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = f._mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = pairs;
    for i in [0, 4, 8, 12] {
        fours[i] = f._mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = f._mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = f._mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = f._mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut eights = fours;
    for i in [0, 1, 2, 3, 8, 9, 10, 11] {
        eights[i] = f._mm512_shuffle_i32x4::<0x88>(fours[i], fours[i + 4]);
        eights[i + 4] = f._mm512_shuffle_i32x4::<0xdd>(fours[i], fours[i + 4]);
    }
    let mut columns = eights;
    for i in 0..8 {
        columns[i] = f._mm512_shuffle_i32x4::<0x88>(eights[i], eights[i + 8]);
        columns[i + 8] = f._mm512_shuffle_i32x4::<0xdd>(eights[i], eights[i + 8]);
    }
    columns
}

/// One block of each lane (FIPS 180-4, section 6.2.2). The eight variables are renamed instead of moved.
// Long because its macros must see its variables: in functions vectors would go through memory.
#[inline(always)]
fn compress(simd: V4, state: &mut [__m512i; 8], mut words: [__m512i; 16]) {
    const XOR: i32 = 0x96;
    const CHOOSE: i32 = 0xca;
    const MAJORITY: i32 = 0xe8;
    let v = simd.avx512f;
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    macro_rules! rotate {
        ($x:expr, $i:literal, $j:literal, $k:literal) => {
            v._mm512_ternarylogic_epi32::<XOR>(
                v._mm512_ror_epi32::<$i>($x),
                v._mm512_ror_epi32::<$j>($x),
                v._mm512_ror_epi32::<$k>($x),
            )
        };
    }
    macro_rules! shift {
        ($x:expr, $i:literal, $j:literal, $k:literal) => {
            v._mm512_ternarylogic_epi32::<XOR>(
                v._mm512_ror_epi32::<$i>($x),
                v._mm512_ror_epi32::<$j>($x),
                v._mm512_srli_epi32::<$k>($x),
            )
        };
    }
    macro_rules! expand {
        ($at:literal) => {
            let (near, far) = (words[($at + 14) & 15], words[($at + 1) & 15]);
            words[$at] = v._mm512_add_epi32(
                v._mm512_add_epi32(words[$at], shift!(far, 7, 18, 3)),
                v._mm512_add_epi32(words[($at + 9) & 15], shift!(near, 17, 19, 10)),
            );
        };
    }
    macro_rules! round {
        ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident, $first:expr, $at:literal) => {
            let key = v._mm512_add_epi32(words[$at], splat(simd, ROUND[$first + $at]));
            let choose = v._mm512_ternarylogic_epi32::<CHOOSE>($e, $f, $g);
            let one = v._mm512_add_epi32(
                v._mm512_add_epi32($h, key),
                v._mm512_add_epi32(rotate!($e, 6, 11, 25), choose),
            );
            let two = v._mm512_add_epi32(
                rotate!($a, 2, 13, 22),
                v._mm512_ternarylogic_epi32::<MAJORITY>($a, $b, $c),
            );
            $d = v._mm512_add_epi32($d, one);
            $h = v._mm512_add_epi32(one, two);
        };
    }
    // Each word of the schedule is made just before its round, so that both chains fill each other's gaps.
    macro_rules! eight_rounds {
        ($first:expr, $prepare:ident, $a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal $h:literal) => {
            $prepare!($a);
            round!(a b c d e f g h, $first, $a);
            $prepare!($b);
            round!(h a b c d e f g, $first, $b);
            $prepare!($c);
            round!(g h a b c d e f, $first, $c);
            $prepare!($d);
            round!(f g h a b c d e, $first, $d);
            $prepare!($e);
            round!(e f g h a b c d, $first, $e);
            $prepare!($f);
            round!(d e f g h a b c, $first, $f);
            $prepare!($g);
            round!(c d e f g h a b, $first, $g);
            $prepare!($h);
            round!(b c d e f g h a, $first, $h);
        };
    }
    macro_rules! nothing {
        ($at:literal) => {};
    }
    eight_rounds!(0, nothing, 0 1 2 3 4 5 6 7);
    eight_rounds!(0, nothing, 8 9 10 11 12 13 14 15);
    for first in [16, 32, 48] {
        eight_rounds!(first, expand, 0 1 2 3 4 5 6 7);
        eight_rounds!(first, expand, 8 9 10 11 12 13 14 15);
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = v._mm512_add_epi32(*word, add);
    }
}
