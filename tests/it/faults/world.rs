//! A world: three replicas under load, and what is found in it when a fault is over.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tidings::audit::source::Source;
use tidings::audit::state::state_at;
use tidings::audit::verify;
use tidings::log::EventLog;
use tidings::log::names::ACTIVE_BUCKET;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use super::people::{Diary, Listener, Person, SECRET};
use super::rules::{Evidence, Footprint, Standing, judge};
use crate::support::checkpoints::{KeyFile, signed};
use crate::support::log::everything;
use crate::support::{Http, Link, Nats, PATIENCE, Replica, Spec, eventually, random, within};

/// When NATS answers again, everything works across replicas within this time.
const HEALED_WITHIN: Duration = Duration::from_secs(10);

/// A post that is in the log is heard everywhere within this time.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// When nobody mirrors any more, another replica does within this time.
const TAKEOVER: Duration = Duration::from_secs(30);

/// A checkpoint is signed after so many events.
const SIGNED_EVERY: u64 = 50;

/// Listeners at each replica.
const LISTENERS: usize = 2;

/// Has a replica sign checkpoints, with the key that all have.
pub fn signing(spec: Spec) -> Spec {
    static KEY: LazyLock<KeyFile> = LazyLock::new(|| KeyFile::of("example.com/tidings", 1));
    let (file, every) = (KEY.path(), SIGNED_EVERY.to_string());
    spec.with(&["--checkpoint-every-events", &every, "--checkpoint-key", file.to_str().unwrap()])
}

/// Three replicas, and who uses them.
pub struct World {
    /// Replica for replica, unless they know NATS themselves.
    pub links: Vec<Link>,
    pub replicas: [Replica; 3],
    pub random: fastrand::Rng,
    people: Vec<Person>,
    /// How often load was begun.
    loads: usize,
    diaries: Vec<Diary>,
    /// Events that a disk has lost before the log had them.
    released: HashSet<String>,
    listeners: Vec<Listener>,
    /// How many more than usual are connected to each replica.
    pub crowds: [u32; 3],
    before: Vec<Standing>,
    most: Arc<Mutex<Vec<Footprint>>>,
    measuring: JoinHandle<()>,
}

impl World {
    /// Each replica behind a link of its own to one server.
    pub async fn behind_links(nats: &Nats) -> Self {
        Self::behind_links_with(nats, &[]).await
    }

    /// The same with these options.
    pub async fn behind_links_with(nats: &Nats, options: &[&str]) -> Self {
        let mut links = Vec::new();
        let mut replicas = Vec::new();
        for _ in 0..3 {
            let link = Link::to(nats.port()).await;
            let spec = signing(Spec::joining(nats.url_through(link.address())).with(options));
            replicas.push(Replica::start_with(spec).await);
            links.push(link);
        }
        Self::of(links, replicas.try_into().unwrap_or_else(|_| panic!("three"))).await
    }

    /// Three replicas that know NATS themselves.
    pub async fn joining(spec: &Spec) -> Self {
        Self::of(Vec::new(), Replica::three_with(&signing(spec.clone())).await).await
    }

    /// These replicas, which are ready.
    pub async fn of(links: Vec<Link>, mut replicas: [Replica; 3]) -> Self {
        let mut listeners = Vec::new();
        for (n, replica) in replicas.iter_mut().enumerate() {
            replica.keep_port();
            let user = |m| format!("listener-{n}-{m}");
            listeners.extend((0..LISTENERS).map(|m| Listener::start(n, replica.url(), user(m))));
        }
        let mut before = Vec::new();
        for replica in &replicas {
            before.push(Standing::of(replica).await);
        }
        let random = random::of_this_run();
        let most = Arc::new(Mutex::new(vec![Footprint::default(); 3]));
        let urls = replicas.iter().map(Replica::url).collect();
        let measuring = tokio::spawn(measure(urls, most.clone()));
        let mut world = Self {
            links,
            replicas,
            random,
            people: Vec::new(),
            loads: 0,
            diaries: Vec::new(),
            released: HashSet::new(),
            listeners,
            crowds: [0; 3],
            before,
            most,
            measuring,
        };
        world.begin_load().await;
        world
    }

    /// Has so many more clients listen at a replica.
    pub fn listen(&mut self, replica: usize, clients: u32) {
        let url = self.replicas[replica].url();
        let more = (0..clients).map(|n| Listener::start(replica, url.clone(), format!("of-a-crowd-{n}")));
        self.listeners.extend(more);
        self.crowds[replica] += clients;
    }

    /// How many connections a replica has.
    pub async fn connections(&self, replica: usize) -> u64 {
        self.replicas[replica].count("tidings_connections{channel=\"creator\"}").await
    }

    /// Takes up what somebody else wrote down.
    pub fn note(&mut self, diary: Diary) {
        self.diaries.push(diary);
    }

    /// Has people at work at each replica, and waits until there is something to lose.
    pub async fn begin_load(&mut self) {
        self.loads += 1;
        for (n, replica) in self.replicas.iter().enumerate() {
            let name = format!("{}-{n}", self.loads);
            self.people.push(Person::start(name, replica.url(), self.random.fork()));
        }
        eventually("there is load", || async { self.people.iter().all(Person::has_begun) }).await;
    }

    /// Sends the people home, with what they wrote down.
    pub async fn end_load(&mut self) {
        self.people.iter().for_each(Person::stop);
        for person in self.people.drain(..) {
            self.diaries.push(person.leave().await);
        }
    }

    /// What was promised by these entries of an outbox is void: the disk that had them was damaged. There is no load.
    pub fn release(&mut self, lost: &[Value]) {
        self.released.extend(lost.iter().filter_map(|entry| Some(entry["id"].as_str()?.to_owned())));
        let diaries = self.diaries.iter_mut();
        diaries.for_each(|diary| lost.iter().for_each(|entry| diary.release(entry)));
    }

    /// The log is another one: what was promised of the old one is void.
    pub async fn forget_promises(&mut self) {
        self.end_load().await;
        self.diaries.clear();
    }

    /// How far the first replica is.
    pub async fn position(&self) -> u64 {
        self.position_of(0).await
    }

    /// How far a replica is.
    pub async fn position_of(&self, replica: usize) -> u64 {
        self.replicas[replica].readyz().await["sequence"].as_u64().unwrap_or_default()
    }

    /// Waits until the log has grown by some more.
    pub async fn goes_on(&self) {
        let before = self.position().await;
        eventually("there is load", || async { self.position().await > before + 50 }).await;
    }

    /// Waits until these replicas work in a mode.
    pub async fn in_mode(&self, mode: &str, replicas: &[usize]) {
        for n in replicas {
            self.replicas[*n].in_mode(mode).await;
        }
    }

    /// The fault is over as of now: waits until everything works again, and judges. Returns what was found.
    pub async fn end(mut self, nats: &Nats) -> Evidence {
        self.works_across_replicas().await;
        self.end_load().await;
        self.settle().await;
        let log = Arc::new(nats.log().await);
        let info = log.info().await.unwrap();
        let head = info.last_sequence;
        let mut digests = Vec::new();
        for replica in &self.replicas {
            digests.push(replica.digest_at(head).await);
        }
        eventually("the hubs are done", || async { self.hubs_are_done().await }).await;
        let active = self.replicas[0].active("nobody").await["id"].clone();
        within(TAKEOVER, "KV shows what is active", || async {
            mirrored(nats).await == Some(active.clone())
        })
        .await;
        let mut sessions = Vec::new();
        for listener in self.listeners.drain(..) {
            sessions.extend(listener.leave().await);
        }
        eventually("nothing waits any more", || async { self.nothing_waits().await }).await;
        eventually("the log is signed nearly to its end", || async {
            let last = signed(nats).await.pop().filter(|last| last.checkpoint.epoch == info.epoch);
            last.is_some_and(|last| last.checkpoint.size + SIGNED_EVERY > head)
        })
        .await;
        let signed = signed(nats).await;
        let irregular = self.irregularities(&Source::Log(log.clone())).await;
        let folded = state_at(&Source::Log(log.clone()), head).await.unwrap();
        let log = everything(&*log).await;
        let mut after = Vec::new();
        for replica in &self.replicas {
            after.push(Standing::of(replica).await);
        }
        self.measuring.abort();
        for replica in &mut self.replicas {
            let ended = replica.terminate().await;
            assert!(ended.success(), "a replica ended with {ended}");
        }
        let evidence = Evidence {
            epoch: info.epoch,
            signed,
            log,
            irregular,
            replayed: folded.state.digest.to_string(),
            digests,
            diaries: std::mem::take(&mut self.diaries),
            sessions,
            crowds: self.crowds,
            before: std::mem::take(&mut self.before),
            after,
            most: self.most.lock().await.clone(),
            diagnostics: self.replicas.iter().map(Replica::log).collect(),
        };
        judge(&evidence);
        evidence
    }

    /// What an auditor finds in the log, except for acknowledgements of what was released.
    async fn irregularities(&self, source: &Source) -> Vec<String> {
        let mut findings = Vec::new();
        let evidence = verify::Evidence::default();
        verify::verify(source, &evidence, |_| {}, &mut |finding| findings.push(finding)).await.unwrap();
        let explained = |what: &str| self.released.iter().any(|id| what.contains(id));
        let findings = findings.into_iter().filter(|finding| !explained(&finding.what));
        findings.map(|finding| finding.to_string()).collect()
    }

    /// What is posted through any replica is in the log, and heard at every other one, in time.
    async fn works_across_replicas(&self) {
        let clients = join_all(self.replicas.iter().map(|replica| async {
            let mut client = replica.connect("probe").await;
            client.greeted().await;
            Mutex::new(client)
        }));
        let clients = clients.await;
        within(HEALED_WITHIN, "everything works across replicas again", || async {
            for replica in &self.replicas {
                let post =
                    replica.request(Method::POST, "").json(&json!({"message": format!("{SECRET} probe")}));
                let (status, answer) = replica.ask(post).await;
                if status != 201 {
                    return false;
                }
                let heard = clients.iter().map(|client| async {
                    let mut client = client.lock().await;
                    let heard = client.until("the probe", |m| m["broadcast"]["id"] == answer["id"]);
                    timeout(HEARD_WITHIN, heard).await.is_ok()
                });
                if join_all(heard).await.contains(&false) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Asks again about every command whose outcome is not known, through any replica.
    async fn settle(&mut self) {
        let http = Http::patient(PATIENCE);
        let open = self.diaries.iter_mut().flat_map(|diary| &mut diary.tried);
        for tried in open.filter(|tried| !tried.is_settled()) {
            let replica = self.random.usize(..3);
            tried.again(&http, &self.replicas[replica].url()).await;
            assert!(tried.is_settled(), "a retry settles it: {tried:?}");
        }
    }

    async fn hubs_are_done(&self) -> bool {
        for replica in &self.replicas {
            if replica.count("tidings_announcements_waiting").await > 0 {
                return false;
            }
        }
        true
    }

    async fn nothing_waits(&self) -> bool {
        for replica in &self.replicas {
            if !Standing::of(replica).await.is_at_rest() {
                return false;
            }
        }
        true
    }
}

/// Keeps the most that each replica took, while it answers.
async fn measure(urls: Vec<String>, most: Arc<Mutex<Vec<Footprint>>>) {
    let http = Http::patient(HEARD_WITHIN);
    let mut every = interval(Duration::from_millis(500));
    loop {
        every.tick().await;
        for (n, url) in urls.iter().enumerate() {
            let Ok(answer) = http.request(Method::GET, format!("{url}/metrics")).send().await else {
                continue;
            };
            if let Some(now) = answer.text().await.ok().as_deref().and_then(Footprint::read) {
                let mut most = most.lock().await;
                most[n] = most[n].most(now);
            }
        }
    }
}

/// The id of the broadcast that is active by KV, or null; nothing while the bucket is not there.
async fn mirrored(nats: &Nats) -> Option<Value> {
    let bucket = nats.jetstream().await.get_key_value(ACTIVE_BUCKET).await.ok()?;
    let value = bucket.get("creator").await.ok()?;
    Some(value.map_or(Value::Null, |json| serde_json::from_slice::<Value>(&json).unwrap()["id"].clone()))
}
