//! Trouble: by the seed, lines are cut, replicas die and come back, subscriptions break off, the weather changes, the log is
//! full for a while, loses messages, or comes back without any. In the end all is well.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::network::Weather;
use crate::replica::Spec;
use crate::world::World;

/// What a memory log takes when nobody limits it.
const ROOMY: u64 = 64 << 20;

/// Longer than a replica takes to notice that it does not reach the log.
const OUTAGE: Duration = Duration::from_secs(4);

/// Makes trouble until a moment, and returns when all is well again.
pub async fn make(world: Arc<World>, until: Instant) {
    let mut dice = Dice::of(&[world.seed, 10]);
    let mut passing = Vec::new();
    let mut replacement = Dice::of(&[world.seed, 11]);
    if replacement.percent(10) {
        passing.push(tokio::spawn(replace_log(world.clone(), replacement.ms(1_000..6_000))));
    }
    while Instant::now() < until {
        sleep(dice.ms(50..2_000)).await;
        let replica = dice.index(world.replicas());
        match dice.within(0..20) {
            0..6 => {
                // Now and then for longer than the log knows the ids of what came into it.
                let time = if dice.percent(15) { dice.ms(16_000..22_000) } else { dice.ms(50..9_000) };
                passing.push(tokio::spawn(cut(world.clone(), replica, time)));
            }
            6..10 => {
                if let Some((next, stale)) = world.kill(replica, &mut dice).await {
                    world.network.inject("death of a replica");
                    passing.push(tokio::spawn(start_after(world.clone(), next, stale, dice.ms(0..4_000))));
                }
            }
            10..13 => {
                world.trace.note(format_args!("{replica} is interrupted"));
                world.network.inject("interruption");
                world.network.interrupt(replica);
            }
            13..19 => {
                let weather = weather(&mut dice);
                world.trace.note(format_args!("{weather:?}"));
                world.network.become_as(weather);
            }
            _ => passing.push(tokio::spawn(fill(world.clone(), dice.ms(100..4_000)))),
        }
    }
    for trouble in passing {
        trouble.await.unwrap();
    }
    world.network.become_as(Weather::FINE);
}

async fn cut(world: Arc<World>, replica: usize, time: Duration) {
    world.trace.note(format_args!("{replica} is cut off for {time:?}"));
    world.network.inject("cut line");
    world.network.cut(replica);
    sleep(time).await;
    world.trace.note(format_args!("{replica} is not cut off any more"));
    world.network.heal(replica);
}

async fn start_after(world: Arc<World>, next: Spec, stale: bool, time: Duration) {
    let number = next.number;
    sleep(time).await;
    world.start(next);
    world.remembers(number, stale).await;
}

async fn fill(world: Arc<World>, time: Duration) {
    world.trace.note(format_args!("the log is full for {time:?}"));
    world.network.inject("full log");
    world.network.log.limit(0);
    sleep(time).await;
    world.network.log.limit(ROOMY);
}

/// Nobody reaches the log for a while, and then it is another one, which is empty.
async fn replace_log(world: Arc<World>, after: Duration) {
    sleep(after).await;
    world.trace.note(format_args!("the log is away, and loses everything"));
    (0..world.replicas()).for_each(|replica| world.network.cut(replica));
    sleep(OUTAGE).await;
    world.network.replace_log();
    world.forget();
    (0..world.replicas()).for_each(|replica| world.network.heal(replica));
}

fn weather(dice: &mut Dice) -> Weather {
    if dice.percent(30) {
        return Weather::FINE;
    }
    Weather {
        delay_ms: *dice.pick(&[2, 20, 100, 400]),
        lost: dice.within(0..12),
        unanswered: dice.within(0..12),
        late: dice.within(0..8),
        doubled: dice.within(0..12),
        damaged: if dice.percent(25) { dice.within(2..12) } else { 0 },
    }
}
