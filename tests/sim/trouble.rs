//! Trouble: by the seed, lines are cut, replicas die and come back, subscriptions break off, the weather changes, and the
//! log is full for a while. In the end all is well.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::network::Weather;
use crate::replica::Spec;
use crate::world::World;

/// What a memory log takes when nobody limits it.
const ROOMY: u64 = 64 << 20;

/// How much of it there was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Troubles {
    pub cuts: usize,
    pub deaths: usize,
}

/// Makes trouble until a moment, and returns when all is well again.
pub async fn make(world: Arc<World>, until: Instant) -> Troubles {
    let mut dice = Dice::of(&[world.seed, 10]);
    let mut troubles = Troubles::default();
    let mut passing = Vec::new();
    while Instant::now() < until {
        sleep(dice.ms(50..2_000)).await;
        let replica = dice.index(world.replicas());
        match dice.within(0..20) {
            0..6 => {
                troubles.cuts += 1;
                passing.push(tokio::spawn(cut(world.clone(), replica, dice.ms(50..9_000))));
            }
            6..10 => {
                if let Some((next, stale)) = world.kill(replica, &mut dice).await {
                    troubles.deaths += 1;
                    passing.push(tokio::spawn(start_after(world.clone(), next, stale, dice.ms(0..4_000))));
                }
            }
            10..13 => {
                world.trace.note(format_args!("{replica} is interrupted"));
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
    troubles
}

async fn cut(world: Arc<World>, replica: usize, time: Duration) {
    world.trace.note(format_args!("{replica} is cut off for {time:?}"));
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
    world.network.log.limit(0);
    sleep(time).await;
    world.network.log.limit(ROOMY);
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
    }
}
