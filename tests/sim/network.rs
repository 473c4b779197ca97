//! The network between the replicas and the one log. By the seed it delays, loses, doubles, brings late, and cuts off.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tidings::log::memory::MemoryLog;
use tidings::log::{AppendError, Appended, EventLog as _, NewEvent, RawMessage};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::dice::Dice;
use crate::link::Link;
use crate::trace::Trace;

/// A line that is cut is noticed by the client's pings after this long. Until then it sends, and what it sends waits.
const NOTICED: Duration = Duration::from_secs(2);

/// How long the log knows the ids of what came into it. Requests that are late or doubled arrive within 12 s.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(15);

/// How bad the network is now: in percent of the calls, but for the delay.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub delay_ms: u64,
    /// The request gets lost: nothing happens.
    pub lost: u64,
    /// The answer gets lost: it happens, and nobody is told.
    pub unanswered: u64,
    /// The request arrives when nobody waits for it any more.
    pub late: u64,
    /// What came into the log arrives once more.
    pub doubled: u64,
    /// What came into the log is lost on its disk before it is read.
    pub damaged: u64,
}

impl Weather {
    pub const FINE: Self = Self { delay_ms: 5, lost: 0, unanswered: 0, late: 0, doubled: 0, damaged: 0 };
}

/// What becomes of one call.
pub struct Fate {
    pub lost: bool,
    pub there: Duration,
    pub back: Option<Duration>,
    /// When it came into the log, it arrives once more after this.
    pub again: Option<Duration>,
    /// While it is under way the line may be cut: then it waits for the line, or is lost.
    pub outlives_a_cut: bool,
}

/// The line between a replica and the log.
#[derive(Clone, Copy, Default)]
struct Line {
    cut: Option<Instant>,
    /// The client has noticed, and sends nothing until it has connected again.
    down: bool,
}

struct State {
    weather: Weather,
    lines: Vec<Line>,
    /// The link of each replica's present run.
    links: Vec<Option<Link>>,
    /// When each message came into the log.
    landed: Vec<Instant>,
    /// What the duplicate window knows.
    ids: HashMap<Uuid, Known>,
    /// What is lost on the disk of the log.
    lost: Vec<RawMessage>,
    /// What the log has, and its duplicate window has not.
    forgotten: HashSet<Uuid>,
    /// How often the log was replaced by an empty one.
    replacements: u64,
    /// How often each kind of fault happened.
    injected: BTreeMap<&'static str, usize>,
    calls: HashMap<(usize, u64, u64), u64>,
    under_way: usize,
}

/// An event that came into the log.
#[derive(Clone, Copy)]
struct Known {
    sequence: u64,
    since: Instant,
}

pub struct Network {
    seed: u64,
    pub log: MemoryLog,
    /// A log of three nodes looks at the ids before the guard.
    three_nodes: bool,
    pub trace: Trace,
    healed: Notify,
    state: Mutex<State>,
}

impl Network {
    pub fn new(seed: u64, replicas: usize, trace: Trace) -> Arc<Self> {
        let state = State {
            weather: Weather::FINE,
            lines: vec![Line::default(); replicas],
            links: vec![None; replicas],
            landed: vec![],
            ids: HashMap::new(),
            lost: vec![],
            forgotten: HashSet::new(),
            replacements: 0,
            injected: BTreeMap::new(),
            calls: HashMap::new(),
            under_way: 0,
        };
        Arc::new(Self {
            seed,
            log: MemoryLog::default(),
            three_nodes: Dice::of(&[seed, 3]).percent(40),
            trace,
            healed: Notify::new(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A fault of this kind happened.
    pub fn inject(&self, fault: &'static str) {
        *self.state().injected.entry(fault).or_default() += 1;
    }

    pub fn injected(&self) -> BTreeMap<&'static str, usize> {
        self.state().injected.clone()
    }

    /// What is lost on the disk of the log.
    pub fn lost(&self) -> Vec<RawMessage> {
        self.state().lost.clone()
    }

    /// How often the log was replaced by an empty one.
    pub fn replacements(&self) -> u64 {
        self.state().replacements
    }

    /// The log comes back without its data: another one, which is empty. What is under way to the old one does not arrive.
    pub fn replace_log(&self) {
        let mut state = self.state();
        state.replacements += 1;
        self.log.recreate();
        state.landed.clear();
        state.ids.clear();
        state.forgotten.clear();
        state.lost.clear();
        state.links.iter().flatten().for_each(Link::wake);
        drop(state);
        self.healed.notify_waiters();
        self.inject("replaced log");
    }

    pub fn become_as(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// From now on this is the replica's link.
    pub fn connect(&self, link: &Link) {
        self.state().links[link.replica()] = Some(link.clone());
    }

    pub fn cut(&self, replica: usize) {
        self.state().lines[replica].cut.get_or_insert_with(Instant::now);
    }

    /// The line is there again. When the client had noticed, it takes a moment to connect.
    pub fn heal(self: &Arc<Self>, replica: usize) {
        self.notice(replica);
        let mut state = self.state();
        let line = &mut state.lines[replica];
        if line.cut.take().is_none() {
            return;
        }
        let down = line.down;
        drop(state);
        self.healed.notify_waiters();
        if down {
            tokio::spawn(self.clone().reconnect(replica));
        }
    }

    async fn reconnect(self: Arc<Self>, replica: usize) {
        let calls = self.count(replica, 99, 0);
        sleep(Dice::of(&[self.seed, 4, replica as u64, calls]).ms(10..2_000)).await;
        let link = {
            let mut state = self.state();
            let line = &mut state.lines[replica];
            line.down = line.cut.is_some();
            state.links[replica].clone().filter(|_| !state.lines[replica].down)
        };
        if let Some(link) = link {
            link.reconnected();
        }
    }

    pub fn interrupt(&self, replica: usize) {
        if let Some(link) = &self.state().links[replica] {
            link.interrupt();
        }
    }

    fn notice(&self, replica: usize) {
        let line = &mut self.state().lines[replica];
        line.down |= line.cut.is_some_and(|since| since.elapsed() >= NOTICED);
    }

    /// Whether the replica's client thinks that it is connected.
    pub fn connected(&self, replica: usize) -> bool {
        self.notice(replica);
        !self.state().lines[replica].down
    }

    /// Since when the line is cut.
    pub fn cut_since(&self, replica: usize) -> Option<Instant> {
        self.state().lines[replica].cut
    }

    /// Gets along the line; `false` when that was cut and what is under way is lost, or when the log is not the one any more
    /// that it is under way to.
    pub async fn pass(&self, replica: usize, outlives_a_cut: bool, replacements: u64) -> bool {
        while self.cut_since(replica).is_some() && self.replacements() == replacements {
            if !outlives_a_cut {
                return false;
            }
            self.healed.notified().await;
        }
        self.replacements() == replacements
    }

    fn count(&self, replica: usize, kind: u64, about: u64) -> u64 {
        let mut state = self.state();
        let calls = state.calls.entry((replica, kind, about)).or_default();
        *calls += 1;
        *calls
    }

    /// What becomes of the next call of this kind about this.
    pub fn fate(&self, replica: usize, kind: u64, about: u64) -> Fate {
        let nth = self.count(replica, kind, about);
        let weather = self.state().weather;
        let mut dice = Dice::of(&[self.seed, 5, replica as u64, kind, about, nth]);
        let way = |dice: &mut Dice| dice.ms(0..weather.delay_ms + 1);
        let (there, back, again) = (way(&mut dice), way(&mut dice), dice.ms(0..3_000));
        let happens = |dice: &mut Dice, fault, chance| {
            let happens = dice.percent(chance);
            if happens {
                self.inject(fault);
            }
            happens
        };
        let late = happens(&mut dice, "late request", weather.late);
        Fate {
            lost: happens(&mut dice, "lost request", weather.lost),
            there: if late { dice.ms(1_500..9_000) } else { there },
            back: (!happens(&mut dice, "lost answer", weather.unanswered)).then_some(back),
            again: happens(&mut dice, "doubled request", weather.doubled).then_some(again),
            outlives_a_cut: dice.percent(50),
        }
    }

    /// How long a message takes to a replica that follows the log.
    pub fn delivery(&self, replica: usize, sequence: u64) -> (Instant, Dice) {
        let state = self.state();
        let landed = usize::try_from(sequence).unwrap() - 1;
        let mut dice = Dice::of(&[self.seed, 6, replica as u64, sequence]);
        (state.landed[landed] + dice.ms(0..state.weather.delay_ms + 1), dice)
    }

    /// An event arrives at the log.
    pub async fn land(&self, from: usize, event: NewEvent) -> Result<Appended, AppendError> {
        let id = event.id;
        let (name, subject, expected) =
            (event.event.event_type().name, event.subject.to_string(), event.expected);
        self.end_duplicate_windows();
        if self.state().forgotten.contains(&id) {
            self.inject("retry after the duplicate window");
        }
        let known = self.state().ids.get(&id).copied().filter(|_| self.three_nodes);
        let landed = match known {
            Some(Known { sequence, .. }) => Ok(Appended { sequence, duplicate: true }),
            None => self.log.append(event).await,
        };
        self.trace.note(format_args!("{from} {name} {subject} {id}, expected {expected:?}: {landed:?}"));
        if let Ok(Appended { sequence, duplicate: false }) = landed {
            self.damage(sequence).await;
            let mut state = self.state();
            state.ids.insert(id, Known { sequence, since: Instant::now() });
            state.landed.push(Instant::now());
            state.links.iter().flatten().for_each(Link::wake);
        }
        landed
    }

    /// Forgets the ids of what came into the log long ago.
    fn end_duplicate_windows(&self) {
        let mut state = self.state();
        let ended = state.ids.extract_if(|_, known| known.since.elapsed() > DUPLICATE_WINDOW);
        let ended: Vec<_> = ended.map(|(id, _)| id).collect();
        for id in &ended {
            self.log.forget(*id);
        }
        state.forgotten.extend(ended);
    }

    /// Loses what has just come into the log, now and then.
    async fn damage(&self, sequence: u64) {
        let weather = self.state().weather;
        let replacements = self.replacements();
        if Dice::of(&[self.seed, 12, replacements, sequence]).percent(weather.damaged) {
            let lost = self.log.get(sequence).await.unwrap();
            self.log.damage(sequence);
            self.state().lost.extend(lost);
            self.inject("damaged message");
        }
    }

    /// A double of what came into the log arrives too.
    pub async fn land_again(self: Arc<Self>, from: usize, event: NewEvent, after: Duration) {
        let replacements = self.replacements();
        sleep(after).await;
        if self.replacements() == replacements {
            let _ = self.land(from, event).await;
        }
        self.end();
    }

    pub fn begin(&self) {
        self.state().under_way += 1;
    }

    pub fn end(&self) {
        self.state().under_way -= 1;
    }

    /// Whether everybody is connected, and nothing can come into the log any more but what somebody asks for now.
    pub fn is_quiet(&self) -> bool {
        let state = self.state();
        state.under_way == 0 && state.lines.iter().all(|line| line.cut.is_none() && !line.down)
    }
}
