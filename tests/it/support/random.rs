//! A small generator, so that a failing run can be told, and run again, by its seed.

pub struct Random(u64);

impl Random {
    /// From the variable `SEED`, else a new one each run; says which.
    pub fn of_this_run() -> Self {
        Self::of(asked_for().unwrap_or_else(|| std::process::id().into()))
    }

    /// From a seed; says which.
    pub fn of(seed: u64) -> Self {
        println!("SEED={seed}");
        Self(seed)
    }

    /// One of these seeds after the other, or the variable `SEED` alone.
    pub fn of_each(seeds: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = Self> {
        let asked_for = asked_for();
        let seeds = asked_for.map_or(seeds, |seed| seed..=seed);
        seeds.map(Self::of)
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Another generator, which gives other numbers.
    pub fn fork(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }
}

fn asked_for() -> Option<u64> {
    std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"))
}
