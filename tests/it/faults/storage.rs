//! A replica's own files, damaged while it is away or while it runs. What is derived comes back the same; what was
//! accepted and is whole gets to the log, and the rest is kept and said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use strum::IntoEnumIterator as _;
use tempfile::TempDir;
use tidings::log::EventLog as _;

use super::people::SECRET;
use super::world::World;
use crate::support::log::everything;
use crate::support::nats::{copy_folder, files_below};
use crate::support::{Condition, Nats, Replica, eventually, random, within};

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
fn somewhere(random: &mut Rng, length: usize) -> usize {
    random.usize(..length.max(1))
}

/// Does damage to a folder of which there is an older copy; says what and where.
fn damage(folder: &Path, older: &Path, random: &mut Rng) -> String {
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

fn damaged(mut bytes: Vec<u8>, damage: Damage, random: &mut Rng) -> Vec<u8> {
    let length = bytes.len();
    let flips = if matches!(damage, Damage::FlipManyBits) { 64 } else { 1 };
    match damage {
        Damage::Truncate => bytes.truncate(somewhere(random, length)),
        Damage::Empty => bytes.clear(),
        Damage::AppendRubbish => bytes.extend(random::bytes(random, 5_000)),
        Damage::DropTheFirstBytes => drop(bytes.drain(..length.min(1 + somewhere(random, 8)))),
        Damage::ZeroTheHead => bytes.iter_mut().take(64).for_each(|byte| *byte = 0),
        Damage::Overwrite => {
            let (from, much) = (somewhere(random, length), 1 + somewhere(random, 4_096));
            for byte in bytes.iter_mut().skip(from).take(much) {
                *byte = random.u8(..);
            }
        }
        _ => {
            for _ in 0..flips {
                let (at, bit) = (somewhere(random, length), random.u32(..8));
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

/// A world that is at rest, whose second replica's projection is known as it should be, and as it was earlier.
struct Patient {
    nats: Nats,
    world: World,
    whole: TempDir,
    older: TempDir,
    head: u64,
    digest: String,
    known: Value,
}

impl Patient {
    async fn admitted() -> Self {
        let nats = Nats::start_with_password(SECRET).await;
        let mut world = World::behind_links_with(&nats, &OPEN_PATIENCE).await;
        world.goes_on().await;
        let older = Self::copied(&mut world.replicas[1]).await;
        world.replicas[1].start_again().await;
        world.goes_on().await;
        world.end_load().await;
        let head = nats.log().await.info().await.unwrap().last_sequence;
        let digest = world.replicas[1].digest_at(head).await;
        let known = known(&world.replicas[1]).await.expect("all can be read");
        let whole = Self::copied(&mut world.replicas[1]).await;
        Self { nats, world, whole, older, head, digest, known }
    }

    /// Stops a replica, and copies its projection.
    async fn copied(replica: &mut Replica) -> TempDir {
        assert!(replica.terminate().await.success());
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&replica.data_dir().join("projection"), copy.path());
        copy
    }

    /// Starts with the projection damaged, must be as it was, and is stopped.
    async fn recovers_from_damage(&mut self, random: &mut Rng) {
        let replica = &mut self.world.replicas[1];
        let folder = replica.data_dir().join("projection");
        for n in 1..=3 {
            let _ = fs::remove_dir_all(folder.with_extension(format!("quarantine-{n}")));
        }
        let _ = fs::remove_dir_all(&folder);
        copy_folder(self.whole.path(), &folder);
        println!("{}", damage(&folder, self.older.path(), random));
        replica.start_again().await;
        assert_eq!(replica.digest_at(self.head).await, self.digest);
        within(COMES_BACK_WITHIN, "it knows everything again", || async {
            known(replica).await.as_ref() == Some(&self.known)
        })
        .await;
        let rebuilds = replica.count("tidings_projection_rebuilds_total{reason=\"damaged\"}").await;
        assert!(rebuilds <= REBUILDS, "it was rebuilt {rebuilds} times");
        assert_eq!(replica.digest_at(self.head).await, self.digest);
        // The same process: one that had ended would not answer to this.
        assert!(replica.terminate().await.success());
    }

    async fn discharged(mut self) {
        self.world.replicas[1].start_again().await;
        self.world.begin_load().await;
        self.world.end(&self.nats).await;
    }
}

async fn recovers_from(seeds: std::ops::RangeInclusive<u64>) {
    let mut patient = Patient::admitted().await;
    for mut random in random::of_each(seeds) {
        patient.recovers_from_damage(&mut random).await;
    }
    patient.discharged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_projection_comes_back_the_same() {
    recovers_from(1..=8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
    world.goes_on().await;
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
async fn another_process_wants_the_data_directory_of_a_running_replica() {
    let (nats, world) = world().await;
    for _ in 0..3 {
        let refused = world.replicas[1].tidings(&["serve", "--listen", "127.0.0.1:0"]).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("another process uses the data directory"), "{said}");
    }
    world.end(&nats).await;
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

/// The events that an outbox has in these lines.
fn entries<'a>(lines: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Value> {
    let json = |line: &Vec<u8>| serde_json::from_slice(line.splitn(2, |byte| *byte == b' ').nth(1).unwrap());
    lines.into_iter().map(|line| json(line).unwrap()).collect()
}

fn lines(file: &Path) -> BTreeSet<Vec<u8>> {
    fs::read(file).unwrap().split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// The second replica accepts alone, is killed, and its outbox is damaged: what is whole gets to the log, once.
async fn relays_what_is_whole(nats: &Nats, world: &mut World, damage: Damage) {
    world.links[1].become_(Condition::Cut);
    world.in_mode("local", &[1]).await;
    eventually("it accepts alone", || async {
        world.replicas[1].count("tidings_outbox_entries").await >= 10
    })
    .await;
    world.replicas[1].kill();
    world.end_load().await;
    let file = world.replicas[1].data_dir().join("outbox/entries");
    let written = lines(&file);
    let bytes = damaged(fs::read(&file).unwrap(), damage, &mut world.random);
    fs::write(&file, bytes).unwrap();
    let left = lines(&file);
    let lost = entries(written.difference(&left));
    world.release(&lost);
    world.replicas[1].spawn();
    world.links[1].become_(Condition::Whole);
    world.in_mode("cluster", &[1]).await;
    let logged: Vec<_> = everything(&nats.log().await).await;
    let logged: Vec<_> = logged.iter().map(|message| message.header("ce-id").unwrap()).collect();
    let times = |entry: &Value| logged.iter().filter(|id| entry["id"] == **id).count();
    for whole in entries(written.intersection(&left)) {
        // An acknowledgement goes into the log with its broadcast alone, which the damage may have taken.
        let broadcast = &whole["data"]["broadcast_id"];
        let has_its_broadcast =
            whole["type"] != "broadcast.acknowledged" || logged.iter().any(|id| *broadcast == **id);
        assert_eq!(times(&whole), usize::from(has_its_broadcast), "{damage:?}: whole: {whole}");
        if !has_its_broadcast {
            world.release(&[whole]);
        }
    }
    // One that was sent as the link was cut may be there all the same.
    for entry in &lost {
        assert!(times(entry) <= 1, "{damage:?}: damaged: {entry}");
    }
    if !lost.is_empty() {
        let only_cut_off = left.is_subset(&written);
        assert!(only_cut_off || world.replicas[1].log().contains("kept in rejected"), "{damage:?}");
    }
    world.begin_load().await;
}

async fn each_gives_the_log_what_is_whole(damages: impl IntoIterator<Item = Damage>) {
    let (nats, mut world) = world().await;
    for damage in damages {
        relays_what_is_whole(&nats, &mut world, damage).await;
    }
    // Where the damage took a broadcast and left its acknowledgements, these were rejected, which counts until the next start.
    let replica = &mut world.replicas[1];
    replica.terminate().await;
    replica.start_again().await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_outbox_gives_the_log_what_is_whole() {
    each_gives_the_log_what_is_whole([Damage::FlipABit, Damage::Truncate]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn an_outbox_damaged_in_many_ways_gives_the_log_what_is_whole() {
    let ways = [
        Damage::FlipABit,
        Damage::FlipManyBits,
        Damage::Truncate,
        Damage::Empty,
        Damage::Overwrite,
        Damage::AppendRubbish,
        Damage::DropTheFirstBytes,
        Damage::ZeroTheHead,
    ];
    each_gives_the_log_what_is_whole(std::iter::repeat_n(ways, 3).flatten()).await;
}
