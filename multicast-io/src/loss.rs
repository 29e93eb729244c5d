//! `--inject-loss`: drops a seeded random share of what arrives, before anyone sees it. For tests and the demo.

/// Decides the fate of datagrams. The same seed gives the same fates.
#[derive(Clone, Debug)]
pub struct Loss {
    state: u64,
    /// Drop when 32 random bits are below this: 0 drops nothing, 2^32 everything.
    threshold: u64,
    dropped: u64,
}

impl Loss {
    /// `percent` 0.0 ..= 100.0; what lies outside counts as the nearest end, and what is not a number as 0.
    pub fn new(percent: f64, seed: u64) -> Loss {
        let share = (percent / 100.0).clamp(0.0, 1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ..= 2^32")]
        let threshold = (share * 4_294_967_296.0) as u64;
        Loss { state: seed, threshold, dropped: 0 }
    }

    /// True: drop this one (and count it).
    pub fn drop_next(&mut self) -> bool {
        let drop = self.next_bits() >> 32 < self.threshold;
        self.dropped += u64::from(drop);
        drop
    }

    /// Datagrams dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Applies `drop_next` to arrivals from index `from` on.
    pub fn apply(&mut self, burst: &mut crate::Burst, from: usize) {
        if self.threshold > 0 {
            burst.retain_arrivals(from, |_, _| !self.drop_next());
        }
    }

    /// A counter through a 64-bit finalizer (the SplitMix64 generator).
    fn next_bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped_of_100_000(percent: f64, seed: u64) -> u64 {
        let mut loss = Loss::new(percent, seed);
        (0..100_000).for_each(|_| _ = loss.drop_next());
        loss.dropped()
    }

    #[test]
    fn the_share_is_near_its_percentage() {
        for seed in 0..10 {
            let dropped = dropped_of_100_000(5.0, seed);
            // Six standard deviations of a binomial with p = 0.05 are 414.
            assert!((4_586..=5_414).contains(&dropped), "seed {seed}: {dropped}");
        }
        assert_eq!(dropped_of_100_000(0.0, 1), 0);
        assert_eq!(dropped_of_100_000(100.0, 1), 100_000);
        assert_eq!(dropped_of_100_000(f64::NAN, 1), 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_fates_and_another_seed_others() {
        let fates = |seed| {
            let mut loss = Loss::new(20.0, seed);
            (0..1_000).map(|_| loss.drop_next()).collect::<Vec<_>>()
        };
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
    }
}
