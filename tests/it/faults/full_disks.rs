//! Disks that take nothing: full under a replica while it runs or before it starts, read-only, or full under NATS.

use std::fs;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::people::{SECRET, Said};
use super::rules::Evidence;
use super::world::{World, signing};
use crate::operations::warnings::{WHILE, shows};
use crate::support::{Cluster, Condition, Events, Link, Nats, Replica, SmallDisk, Spec, eventually, within};

/// How long a disk stays full once that is noticed.
const FULL_FOR: Duration = Duration::from_secs(5);

/// How long a store may go on in what it has of a full disk.
const USED_UP_WITHIN: Duration = Duration::from_mins(1);

/// A world in which the second replica has a small disk of its own.
async fn world(disk: &SmallDisk) -> (Nats, World) {
    let nats = Nats::start_with_password(SECRET).await;
    let (mut links, mut replicas) = (Vec::new(), Vec::new());
    for n in 0..3 {
        let link = Link::to(nats.port()).await;
        let mut spec = signing(Spec::joining(nats.url_through(link.address())));
        if n == 1 {
            spec = spec.keeping_data_in(disk.path().join("data"));
        }
        replicas.push(Replica::start_with(spec).await);
        links.push(link);
    }
    let world = World::of(links, replicas.try_into().unwrap_or_else(|_| panic!("three"))).await;
    (nats, world)
}

/// What a world was told of a kind.
fn said(evidence: &Evidence) -> Vec<&Said> {
    evidence.diaries.iter().flat_map(|diary| &diary.tried).flat_map(|tried| &tried.said).collect()
}

/// It goes on by itself, with what it has on disk.
async fn nothing_was_rebuilt(replica: &Replica) {
    assert_eq!(replica.count("tidings_projection_gave_up").await, 0);
    let was_rebuilt = replica.data_dir().join("projection.quarantine-1").exists();
    let log = replica.log();
    let why: Vec<_> =
        log.lines().filter(|line| line.contains("projection") || line.contains("ERROR")).collect();
    assert!(!was_rebuilt, "nothing is wrong with what is on it: {why:#?}");
}

/// What it says to a post: the status, none if it does not answer, and the code of an error.
async fn posted(replica: &Replica) -> (u16, Value) {
    let post = replica.request(Method::POST, "").json(&json!({"message": "is there room?"}));
    let Ok(answer) = post.send().await else { return (0, Value::Null) };
    (answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default()["code"].take())
}

async fn is_stalled(replica: &Replica) -> bool {
    replica.count("tidings_projection_stalled").await == 1
}

/// The second replica's store goes on in what it has of the disk already, so more is posted until that is used up.
async fn used_up(world: &World, what: &str, mut seen: impl AsyncFnMut(&Replica) -> bool) {
    let long = json!({"message": "🦀".repeat(280)});
    let begun = Instant::now();
    while !seen(&world.replicas[1]).await {
        assert!(begun.elapsed() < USED_UP_WITHIN, "not within {USED_UP_WITHIN:?}: {what}");
        let (status, answer) =
            world.replicas[0].ask(world.replicas[0].request(Method::POST, "").json(&long)).await;
        assert!(status < 300, "the others go on: {answer}");
    }
}

async fn stands_still(world: &World) {
    used_up(world, "it stands still", is_stalled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn full_under_a_replica_that_works_with_the_log() {
    let disk = SmallDisk::of_megabytes(8);
    let (nats, world) = world(&disk).await;
    let replica = &world.replicas[1];
    disk.fill();
    stands_still(&world).await;
    let ready = replica.readyz().await;
    assert_eq!(ready["status"], "unavailable");
    assert!(ready["reason"].as_str().unwrap().contains("the disk cannot be written"), "{ready}");
    assert_eq!(replica.count("tidings_degraded").await, 1);
    let (status, active) = replica.ask(replica.request(Method::GET, "/active")).await;
    assert_eq!(status, 200, "what is resident is served: {active}");
    let (status, history) = replica.ask(replica.request(Method::GET, "/history")).await;
    assert_eq!(status, 503, "what is not is refused: {history}");
    let before = world.position().await;
    sleep(FULL_FOR).await;
    assert!(world.position().await > before + 20, "the others go on");
    assert!(is_stalled(replica).await);
    disk.make_room();
    eventually("it is ready by itself", || async { replica.is_ready().await }).await;
    nothing_was_rebuilt(replica).await;
    world.end(&nats).await;
}

#[tokio::test]
#[ignore = "takes root: make faults"]
async fn clients_of_a_full_disk_go_to_the_other_replicas_and_stay_where_there_is_none() {
    let disk = SmallDisk::of_megabytes(8);
    let nats = Nats::start().await;
    let other = Replica::start(&nats).await;
    let spec = Spec::joining(nats.url()).keeping_data_in(disk.path().join("data"));
    let full = Replica::start_with(spec).await;
    eventually("each has heard the other", || async { full.stats().await["replicas"] == 2 }).await;
    let mut client = full.connect("ann").await;
    client.greeted().await;
    let mut stream = Events::of(full.request(Method::GET, "/events?user_id=eve").send().await.unwrap());
    disk.fill();
    let long = json!({"message": "🦀".repeat(280)});
    let begun = Instant::now();
    while !is_stalled(&full).await {
        assert!(begun.elapsed() < USED_UP_WITHIN, "it stands still");
        other.ask(other.request(Method::POST, "").json(&long)).await;
    }
    assert_eq!(client.closed().await.code, 1012, "it can go to the other one");
    let mut last = None;
    while let Some(event) = stream.next().await {
        last = Some(event);
    }
    assert!(last.is_some_and(|event| event.retry_ms.is_some()), "the event stream can, too");
    assert_eq!(full.connect("bob").await.closed().await.code, 1012, "nobody new is taken");

    drop(other);
    eventually("it takes clients again when it is alone", || async {
        full.connect("bob").await.next_text().await.is_ok()
    })
    .await;
    disk.make_room();
    eventually("it is ready by itself", || async { full.is_ready().await }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn full_again_and_again() {
    let disk = SmallDisk::of_megabytes(8);
    let (nats, world) = world(&disk).await;
    let replica = &world.replicas[1];
    for _ in 0..5 {
        disk.fill();
        stands_still(&world).await;
        disk.make_room();
        eventually("it is ready by itself", || async { replica.is_ready().await }).await;
    }
    nothing_was_rebuilt(replica).await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn full_of_what_was_moved_aside() {
    let disk = SmallDisk::of_megabytes(8);
    let (nats, world) = world(&disk).await;
    let replica = &world.replicas[1];
    let aside = replica.data_dir().join("projection.quarantine-2");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("db"), vec![0; 4 << 20]).unwrap();
    disk.fill();
    used_up(&world, "it makes room by itself", async |_| !aside.exists()).await;
    eventually("it is ready by itself", || async { replica.is_ready().await }).await;
    nothing_was_rebuilt(replica).await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn full_under_a_replica_that_is_alone() {
    let disk = SmallDisk::of_megabytes(8);
    let (nats, world) = world(&disk).await;
    world.links[1].become_(Condition::Cut);
    world.in_mode("local", &[1]).await;
    let replica = &world.replicas[1];
    assert_eq!(posted(replica).await, (202, Value::Null));
    disk.fill();
    eventually("the outbox refuses", || async { posted(replica).await == (503, json!("outbox_failed")) })
        .await;
    assert!(replica.is_ready().await, "it shows what it has");
    sleep(FULL_FOR).await;
    disk.make_room();
    eventually("the outbox accepts again", || async { posted(replica).await.0 == 202 }).await;
    world.links[1].become_(Condition::Whole);
    world.in_mode("cluster", &[1]).await;
    nothing_was_rebuilt(replica).await;
    let evidence = world.end(&nats).await;
    assert!(said(&evidence).contains(&&Said::Refused { code: "outbox_failed".to_owned() }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn full_before_a_replica_starts() {
    let disk = SmallDisk::of_megabytes(8);
    let (nats, mut world) = world(&disk).await;
    world.replicas[1].kill();
    disk.fill();
    world.replicas[1].spawn();
    let replica = &world.replicas[1];
    eventually("it is there", || async { replica.readyz().await.is_object() }).await;
    stands_still(&world).await;
    sleep(FULL_FOR).await;
    assert!(!replica.is_ready().await);
    disk.make_room();
    eventually("it is ready by itself", || async { replica.is_ready().await }).await;
    nothing_was_rebuilt(replica).await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn full_before_a_replica_starts_on_half_an_entry_and_without_nats() {
    let disk = SmallDisk::of_megabytes(8);
    let (nats, mut world) = world(&disk).await;
    world.replicas[1].kill();
    world.links[1].become_(Condition::Cut);
    fs::write(world.replicas[1].data_dir().join("outbox/entries"), "half an entry").unwrap();
    disk.fill();
    world.replicas[1].spawn();
    let replica = &world.replicas[1];
    eventually("it refuses", || async { posted(replica).await.0 == 503 }).await;
    disk.make_room();
    eventually("it accepts", || async { posted(replica).await.0 == 202 }).await;
    let kept = fs::read_to_string(replica.data_dir().join("outbox/rejected")).unwrap();
    assert!(kept.contains("half an entry"), "{kept}");
    world.links[1].become_(Condition::Whole);
    world.in_mode("cluster", &[1]).await;
    nothing_was_rebuilt(replica).await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn read_only_before_a_replica_starts() {
    let disk = SmallDisk::of_megabytes(8);
    let (nats, mut world) = world(&disk).await;
    let replica = &mut world.replicas[1];
    assert!(replica.terminate().await.success());
    disk.become_read_only(true);
    replica.spawn();
    assert_eq!(replica.ended().await.code(), Some(1));
    let said = replica.log();
    let last = said.lines().last().unwrap();
    assert!(last.contains("cannot be written to") && last.contains("--data-dir"), "{said}");
    disk.become_read_only(false);
    replica.start_again().await;
    nothing_was_rebuilt(replica).await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn full_under_nats() {
    let disk = SmallDisk::of_megabytes(16);
    let mut nats = Nats::start_in(disk.path().join("store"), SECRET).await;
    let world = World::behind_links(&nats).await;
    disk.fill();
    world.in_mode("local", &[0, 1, 2]).await;
    sleep(FULL_FOR).await;
    disk.make_room();
    nats.restart().await;
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn full_under_a_replica_with_a_nats_of_its_own() {
    let disk = SmallDisk::of_megabytes(16);
    let own = Replica::start_with(signing(Spec::embedded().keeping_data_in(disk.path().join("data")))).await;
    let nats = Nats::of(&own);
    let joining = async || Replica::start_with(signing(Spec::joining(nats.url()))).await;
    let world = World::of(Vec::new(), [joining().await, own, joining().await]).await;
    disk.fill();
    world.in_mode("local", &[0, 2]).await;
    let replica = &world.replicas[1];
    sleep(FULL_FOR).await;
    let (status, active) = replica.ask(replica.request(Method::GET, "/active")).await;
    assert_eq!(status, 200, "what is resident is served: {active}");
    disk.make_room();
    world.in_mode("cluster", &[0, 1, 2]).await;
    nothing_was_rebuilt(replica).await;
    world.end(&nats).await;
}

/// A NATS server that finds its disk full gives JetStream up, and runs on without it until it is restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes root: make faults"]
async fn full_under_one_nats_server_of_three_shows_while_the_others_serve() {
    let disk = SmallDisk::of_megabytes(24);
    let store = disk.path().join("store");
    let cluster = Cluster::start_on(&[&store]).await;
    let spec = Spec::joining(cluster.url()).with(&["--stream-replicas", "3"]);
    let replica = Replica::start_with(spec).await;
    disk.fill();
    let text = "x".repeat(250);
    within(WHILE, "the server finds no room", || async {
        let post = replica.request(reqwest::Method::POST, "").json(&json!({"message": text}));
        let _ = post.send().await;
        cluster.nodes[0].said().contains("resources, will be DISABLED")
    })
    .await;
    let name = &cluster.nodes[0].name;
    let line = format!("the NATS server {name}, one of 3 that keep the stream BROADCASTS, ");
    shows(&replica, "log_copy_away", name, &line).await;
    replica.post_until_taken("the others are enough").await;
}
