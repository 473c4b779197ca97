//! Random numbers from seeds. A seed is printed, so that a test that fails shows it; `SEED=<number>` runs it again.

use fastrand::Rng;

/// From the variable `SEED`, else another one in each run.
pub fn of_this_run() -> Rng {
    seeded(asked_for().unwrap_or_else(|| fastrand::u64(..)))
}

/// From a seed.
pub fn seeded(seed: u64) -> Rng {
    println!("SEED={seed}");
    Rng::with_seed(seed)
}

/// From one of these seeds after the other, or from the variable `SEED` alone.
pub fn of_each(seeds: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = Rng> {
    let seeds = asked_for().map_or(seeds, |seed| seed..=seed);
    seeds.map(seeded)
}

/// So many random bytes.
pub fn bytes(random: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

fn asked_for() -> Option<u64> {
    std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"))
}
