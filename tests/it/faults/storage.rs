//! A replica's own files, damaged while it is away or while it runs. What is derived comes back the same; what was
//! accepted and is whole gets to the log, and the rest is kept and said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use strum::IntoEnumIterator as _;
use tempfile::TempDir;
use tidings::log::EventLog as _;

use super::people::SECRET;
use super::world::World;
use crate::support::log::everything;
use crate::support::nats::{copy_folder, files_below};
use crate::support::{Nats, Random, Replica, Spec, eventually, within};

/// A store that does not open counts as damaged after this, and a damaged one is as it was within the other.
const OPEN_PATIENCE: [&str; 2] = ["--store-open-seconds", "5"];
const COMES_BACK_WITHIN: Duration = Duration::from_secs(30);

/// Rebuilds that one damage may cost: what only a request meets may cost another one.
const REBUILDS: u64 = 2;

/// What is done to one file, or to all of them.
#[derive(Clone, Copy, Debug, strum::EnumIter)]
enum Damage {
    Delete,
    Truncate,
    Empty,
    FlipABit,
    FlipManyBits,
    Overwrite,
    AppendRubbish,
    DropTheFirstBytes,
    ZeroTheHead,
    BecomeAFolder,
    DeleteEverything,
    OlderCopy,
    OlderFile,
}

/// A number up to a length, the length not included.
fn somewhere(random: &mut Random, length: usize) -> usize {
    usize::try_from(random.below(length.max(1) as u64)).unwrap()
}

fn rubbish(random: &mut Random, length: usize) -> Vec<u8> {
    (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
}

/// Does damage to a folder of which there is an older copy; says what and where.
fn damage(folder: &Path, older: &Path, random: &mut Random) -> String {
    let all: Vec<_> = Damage::iter().collect();
    let damage = all[somewhere(random, all.len())];
    let files = files_below(folder);
    let file = &files[somewhere(random, files.len())];
    match damage {
        Damage::DeleteEverything => fs::remove_dir_all(folder).unwrap(),
        Damage::OlderCopy => {
            fs::remove_dir_all(folder).unwrap();
            copy_folder(older, folder);
        }
        Damage::OlderFile => {
            let name = file.strip_prefix(folder).unwrap();
            let other = older.join(name);
            fs::remove_file(file).unwrap();
            if other.exists() {
                fs::copy(other, file).unwrap();
            }
        }
        Damage::Delete => fs::remove_file(file).unwrap(),
        Damage::BecomeAFolder => {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }
        of_bytes => {
            let bytes = damaged(fs::read(file).unwrap(), of_bytes, random);
            fs::write(file, bytes).unwrap();
        }
    }
    format!("{damage:?} at {}", file.strip_prefix(folder).unwrap().display())
}

fn damaged(mut bytes: Vec<u8>, damage: Damage, random: &mut Random) -> Vec<u8> {
    let length = bytes.len();
    let flips = if matches!(damage, Damage::FlipManyBits) { 64 } else { 1 };
    match damage {
        Damage::Truncate => bytes.truncate(somewhere(random, length)),
        Damage::Empty => bytes.clear(),
        Damage::AppendRubbish => bytes.extend(rubbish(random, 5_000)),
        Damage::DropTheFirstBytes => drop(bytes.drain(..length.min(1 + somewhere(random, 8)))),
        Damage::ZeroTheHead => bytes.iter_mut().take(64).for_each(|byte| *byte = 0),
        Damage::Overwrite => {
            let (from, much) = (somewhere(random, length), 1 + somewhere(random, 4_096));
            for byte in bytes.iter_mut().skip(from).take(much) {
                *byte = u8::try_from(random.below(256)).unwrap();
            }
        }
        _ => {
            for _ in 0..flips {
                let (at, bit) = (somewhere(random, length), random.below(8));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
        }
    }
    bytes
}

/// Everything that a replica knows, as creators read it.
async fn known(replica: &Replica) -> Option<Value> {
    let read = async |path: String| {
        let (status, answer) = replica.ask(replica.request(Method::GET, &path)).await;
        (status == 200).then_some(answer)
    };
    let history = read("/history?limit=200".to_owned()).await?;
    let mut acks = BTreeMap::new();
    for broadcast in history["broadcasts"].as_array().unwrap() {
        let id = broadcast["id"].as_str().unwrap();
        acks.insert(id.to_owned(), read(format!("/{id}/acks?limit=200")).await?);
    }
    Some(json!({"history": history, "acks": acks, "active": replica.active("nobody").await}))
}

/// A replica whose projection is known as it should be, and as it was earlier.
struct Patient {
    _nats: Nats,
    replica: Replica,
    whole: TempDir,
    older: TempDir,
    head: u64,
    digest: String,
    known: Value,
}

impl Patient {
    async fn admitted() -> Self {
        let nats = Nats::start().await;
        let mut replica = Replica::start_with(Spec::joining(nats.url()).with(&OPEN_PATIENCE)).await;
        replica.keep_port();
        Self::talks(&replica).await;
        let older = Self::copied(&mut replica).await;
        replica.start_again().await;
        Self::talks(&replica).await;
        let head = nats.log().await.info().await.unwrap().last_sequence;
        let digest = replica.digest_at(head).await;
        let known = known(&replica).await.expect("all can be read");
        let whole = Self::copied(&mut replica).await;
        Self { _nats: nats, replica, whole, older, head, digest, known }
    }

    async fn talks(replica: &Replica) {
        for n in 0..30 {
            let id = replica.post_broadcast(&format!("number {n}")).await["id"].as_str().unwrap().to_owned();
            for user in ["ann", "bob"] {
                replica.acknowledge(&id, user).await;
            }
        }
    }

    /// Stops a replica, and copies its projection.
    async fn copied(replica: &mut Replica) -> TempDir {
        assert!(replica.terminate().await.success());
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&replica.data_dir().join("projection"), copy.path());
        copy
    }

    fn folder(&self) -> PathBuf {
        self.replica.data_dir().join("projection")
    }

    /// Starts with the projection damaged, and must be as it was.
    async fn recovers_from_damage(&mut self, random: &mut Random) {
        for n in 1..=3 {
            let _ = fs::remove_dir_all(self.folder().with_extension(format!("aside-{n}")));
        }
        let _ = fs::remove_dir_all(self.folder());
        copy_folder(self.whole.path(), &self.folder());
        println!("{}", damage(&self.folder(), self.older.path(), random));
        self.replica.start_again().await;
        assert_eq!(self.replica.digest_at(self.head).await, self.digest);
        within(COMES_BACK_WITHIN, "it knows everything again", || async {
            known(&self.replica).await.as_ref() == Some(&self.known)
        })
        .await;
        let rebuilds = self.replica.count("tidings_projection_rebuilds_total{reason=\"damaged\"}").await;
        assert!(rebuilds <= REBUILDS, "it was rebuilt {rebuilds} times");
        assert_eq!(self.replica.digest_at(self.head).await, self.digest);
        // The same process: one that had ended would not answer to this.
        assert!(self.replica.terminate().await.success());
    }
}

async fn recovers_from(seeds: std::ops::RangeInclusive<u64>) {
    let mut patient = Patient::admitted().await;
    for mut random in Random::of_each(seeds) {
        patient.recovers_from_damage(&mut random).await;
    }
}

#[tokio::test]
async fn a_damaged_projection_comes_back_the_same() {
    recovers_from(1..=8).await;
}

#[tokio::test]
#[ignore = "slow: make faults"]
async fn a_projection_damaged_in_a_hundred_ways_comes_back_the_same() {
    recovers_from(1..=100).await;
}

async fn world() -> (Nats, World) {
    let nats = Nats::start_with_password(SECRET).await;
    let world = World::behind_links(&nats).await;
    (nats, world)
}

/// Something happens to the files of the second replica while it runs; later it is killed, and starts on what there is.
async fn runs_over(what: impl FnOnce(&Path)) {
    let (nats, mut world) = world().await;
    what(&world.replicas[1].data_dir());
    let before = world.position().await;
    eventually("there is load", || async { world.position().await > before + 50 }).await;
    world.replicas[1].kill();
    world.replicas[1].start_again().await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_directory_is_deleted_under_a_running_replica() {
    runs_over(|directory| fs::remove_dir_all(directory).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_cut_off_under_a_running_replica() {
    runs_over(|directory| {
        let file = File::options().write(true).open(directory.join("projection/db")).unwrap();
        file.set_len(1_000).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_overwritten_under_a_running_replica() {
    runs_over(|directory| {
        let path = directory.join("projection/db");
        let length = fs::metadata(&path).unwrap().len();
        let mut file = File::options().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&vec![0xA5; usize::try_from(length).unwrap()]).unwrap();
    })
    .await;
}

/// The ids of the events that an outbox has in these lines.
fn ids(lines: &BTreeSet<Vec<u8>>) -> BTreeSet<String> {
    let json =
        |line: &Vec<u8>| serde_json::from_slice::<Value>(line.splitn(2, |b| *b == b' ').nth(1).unwrap());
    lines.iter().map(|line| json(line).unwrap()["id"].as_str().unwrap().to_owned()).collect()
}

fn lines(file: &Path) -> BTreeSet<Vec<u8>> {
    fs::read(file).unwrap().split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// A replica accepts alone, is killed, and its outbox is damaged: what is whole gets to the log, once.
async fn relays_what_is_whole(damage: Damage, random: &mut Random) {
    let mut nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    replica.keep_port();
    nats.kill();
    replica.in_mode("local").await;
    for n in 0..10 {
        let request = replica.request(Method::POST, "").json(&json!({"message": format!("alone {n}")}));
        assert_eq!(replica.ask(request).await.0, 202);
    }
    replica.kill();
    let file = replica.data_dir().join("outbox/entries");
    let written = lines(&file);
    fs::write(&file, damaged(fs::read(&file).unwrap(), damage, random)).unwrap();
    let whole: BTreeSet<_> = lines(&file).intersection(&written).cloned().collect();
    replica.spawn();
    nats.start_again().await;
    replica.in_mode("cluster").await;
    eventually("all is relayed", || async { replica.count("tidings_outbox_entries").await == 0 }).await;
    let log = everything(&nats.log().await).await;
    let logged: Vec<_> = log.iter().map(|message| message.header("ce-id").unwrap().to_owned()).collect();
    assert_eq!(logged.len(), whole.len(), "{damage:?}: each once");
    assert_eq!(logged.into_iter().collect::<BTreeSet<_>>(), ids(&whole), "{damage:?}");
    if whole.len() < written.len() {
        let rejected = fs::read_to_string(replica.data_dir().join("outbox/rejected")).unwrap_or_default();
        let cut_at_an_end = lines(&file).is_subset(&written) && rejected.is_empty();
        assert!(cut_at_an_end || replica.log().contains("kept in rejected"), "{damage:?}: {rejected}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_outbox_gives_the_log_what_is_whole() {
    let mut random = Random::of_this_run();
    for damage in [Damage::FlipABit, Damage::Truncate] {
        relays_what_is_whole(damage, &mut random).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn an_outbox_damaged_in_many_ways_gives_the_log_what_is_whole() {
    for mut random in Random::of_each(1..=3) {
        for damage in [
            Damage::FlipABit,
            Damage::FlipManyBits,
            Damage::Truncate,
            Damage::Empty,
            Damage::Overwrite,
            Damage::AppendRubbish,
            Damage::DropTheFirstBytes,
            Damage::ZeroTheHead,
        ] {
            relays_what_is_whole(damage, &mut random).await;
        }
    }
}
