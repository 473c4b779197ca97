//! A link: the log as one run of a replica reaches it, over the network.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tidings::log::names::Subject;
use tidings::log::{AppendError, Appended, EventLog, LogInfo, Messages, NewEvent, RawMessage, ReadError};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use crate::network::{Fate, Network};

/// How long the client waits for the answer to a publish, and to any other request.
const PUB_ACK: Duration = Duration::from_secs(2);
const REQUEST: Duration = Duration::from_secs(3);

/// A consumer that gives no sign of life for so long counts as gone.
const SILENCE: Duration = Duration::from_secs(4);

/// In percent of the messages that are delivered: not at all, and twice.
const UNDELIVERED: u64 = 2;
const REDELIVERED: u64 = 2;

/// What is asked of the log, as a number for the dice.
mod call {
    pub const APPEND: u64 = 1;
    pub const INFO: u64 = 2;
    pub const GET: u64 = 3;
    pub const FIRST_FROM: u64 = 4;
    pub const HEAD_OF: u64 = 5;
    pub const FOLLOW: u64 = 6;
}

#[derive(Clone)]
pub struct Link(Arc<End>);

/// The replica's end.
struct End {
    network: Arc<Network>,
    replica: usize,
    /// The process that had it is dead.
    severed: AtomicBool,
    interruptions: AtomicU64,
    news: Notify,
    generation: watch::Sender<u64>,
}

impl Link {
    pub fn new(network: &Arc<Network>, replica: usize) -> Self {
        let link = Self(Arc::new(End {
            network: network.clone(),
            replica,
            severed: AtomicBool::new(false),
            interruptions: AtomicU64::new(0),
            news: Notify::new(),
            generation: watch::Sender::new(0),
        }));
        network.connect(&link);
        link
    }

    pub fn replica(&self) -> usize {
        self.0.replica
    }

    pub fn generation(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    pub fn reconnected(&self) {
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    /// Ends the subscription.
    pub fn interrupt(&self) {
        self.0.interruptions.fetch_add(1, Ordering::Relaxed);
        self.wake();
    }

    /// Has the subscription look for news.
    pub fn wake(&self) {
        self.0.news.notify_one();
    }

    /// The process is dead: nothing gets through any more, in neither direction, but for what was under way.
    pub fn sever(&self) {
        self.0.severed.store(true, Ordering::Relaxed);
    }

    /// Ends when something may be sent; never for the dead.
    async fn connected(&self) -> anyhow::Result<()> {
        if self.0.severed.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        if self.0.network.connected(self.0.replica) { Ok(()) } else { Err(anyhow!("not connected")) }
    }

    /// Sends an event on its way, which does not end when nobody waits any more.
    fn send(&self, event: NewEvent, fate: &Fate, answer: oneshot::Sender<Answer>) {
        let Fate { there, back, again, outlives_a_cut, .. } = *fate;
        let link = self.clone();
        self.0.network.begin();
        tokio::spawn(async move {
            let End { network, replica, .. } = &*link.0;
            let log = network.replacements();
            sleep(there).await;
            if !network.pass(*replica, outlives_a_cut, log).await {
                return network.end();
            }
            let landed = network.land(*replica, event.clone()).await;
            if let (Some(again), Ok(_)) = (again, &landed) {
                tokio::spawn(network.clone().land_again(*replica, event, again));
            } else {
                network.end();
            }
            if let Some(back) = back {
                sleep(back).await;
                if link.comes_back(outlives_a_cut, log).await {
                    let _ = answer.send(landed);
                }
            }
        });
    }

    /// Whether an answer gets to whoever asked.
    async fn comes_back(&self, outlives_a_cut: bool, log: u64) -> bool {
        self.0.network.pass(self.0.replica, outlives_a_cut, log).await
            && !self.0.severed.load(Ordering::Relaxed)
    }

    async fn ask<T>(
        &self,
        kind: u64,
        about: u64,
        ask: impl AsyncFnOnce(&Network) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        self.connected().await.map_err(ReadError::Away)?;
        let End { network, replica, .. } = &*self.0;
        let (fate, log) = (network.fate(*replica, kind, about), network.replacements());
        let answered = async {
            sleep(fate.there).await;
            if fate.lost || !network.pass(*replica, fate.outlives_a_cut, log).await {
                return pending().await;
            }
            let answer = ask(network).await;
            let Some(back) = fate.back else { return pending().await };
            sleep(back).await;
            if self.comes_back(fate.outlives_a_cut, log).await { answer } else { pending().await }
        };
        timeout(REQUEST, answered).await.unwrap_or_else(|_| Err(ReadError::Away(anyhow!("no answer"))))
    }
}

type Answer = Result<Appended, AppendError>;

impl EventLog for Link {
    fn append(&self, event: NewEvent) -> BoxFuture<'_, Answer> {
        async move {
            self.connected().await.map_err(AppendError::Unknown)?;
            let (high, low) = event.id.as_u64_pair();
            let fate = self.0.network.fate(self.0.replica, call::APPEND, high ^ low);
            let (answer, answered) = oneshot::channel();
            if !fate.lost {
                self.send(event, &fate, answer);
            }
            let answered = async {
                match answered.await {
                    Ok(answer) => answer,
                    Err(_) => pending().await,
                }
            };
            let unknown = |_| Err(AppendError::Unknown(anyhow!("no answer")));
            timeout(PUB_ACK, answered).await.unwrap_or_else(unknown)
        }
        .boxed()
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        self.ask(call::INFO, 0, async |network| network.log.info().await).boxed()
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        self.ask(call::GET, sequence, async move |network| network.log.get(sequence).await).boxed()
    }

    fn first_from(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        self.ask(call::FIRST_FROM, sequence, async move |network| network.log.first_from(sequence).await)
            .boxed()
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        self.ask(call::HEAD_OF, 0, async move |network| network.log.head_of(subject).await).boxed()
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        async move {
            self.ask(call::FOLLOW, from, async |_| Ok(())).await?;
            let subscription = Subscription {
                link: self.clone(),
                next: from,
                repeated: false,
                interruptions: self.0.interruptions.load(Ordering::Relaxed),
                log: self.0.network.replacements(),
                ended: false,
            };
            Ok(stream::unfold(subscription, Subscription::next).boxed())
        }
        .boxed()
    }

    fn ensure(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        async { Ok(()) }.boxed()
    }
}

/// A consumer of the log: in order, with the delays, gaps and doubles of the network.
struct Subscription {
    link: Link,
    next: u64,
    /// The next one was delivered already, and is delivered again.
    repeated: bool,
    interruptions: u64,
    /// Of which log, by the number of those before it.
    log: u64,
    ended: bool,
}

impl Subscription {
    async fn next(mut self) -> Option<(Result<RawMessage, ReadError>, Self)> {
        loop {
            let End { network, replica, severed, interruptions, .. } = &*self.link.0;
            if severed.load(Ordering::Relaxed) {
                return pending().await;
            }
            let interrupted = interruptions.load(Ordering::Relaxed) != self.interruptions;
            if self.ended || interrupted || network.replacements() != self.log {
                return None;
            }
            if network.cut_since(*replica).is_some() {
                if timeout(SILENCE, network.pass(*replica, true, self.log)).await.is_err() {
                    self.ended = true;
                    return Some((Err(ReadError::Away(anyhow!("no sign of life"))), self));
                }
                continue;
            }
            let Ok(Some(message)) = network.log.first_from(self.next).await else {
                let _ = timeout(SILENCE / 2, self.link.0.news.notified()).await;
                continue;
            };
            self.next = message.sequence;
            let (due, mut dice) = network.delivery(*replica, self.next);
            sleep_until(due).await;
            if network.cut_since(*replica).is_some() || network.replacements() != self.log {
                continue;
            }
            let (undelivered, again) = (dice.percent(UNDELIVERED), dice.percent(REDELIVERED));
            if undelivered {
                network.inject("undelivered message");
            }
            if again {
                network.inject("redelivered message");
            }
            self.repeated = again && !self.repeated;
            if !self.repeated {
                self.next += 1;
            }
            if !undelivered {
                return Some((Ok(message), self));
            }
        }
    }
}
