//! Floods: while each of them goes on, others are served as ever; afterwards nothing is left of it.

use futures_util::future::join_all;
use tokio::net::TcpStream;

use super::Calm;
use crate::support::{Raw, Replica, random};

async fn raws(replica: &Replica, count: usize) -> Vec<Raw> {
    join_all((0..count).map(|_| Raw::connect(replica))).await
}

async fn all_send(raws: &mut [Raw], bytes: &[u8]) {
    join_all(raws.iter_mut().map(|raw| raw.send(bytes))).await;
}

async fn all_are_refused(raws: &mut [Raw], status: u16, code: &str) {
    for refused in join_all(raws.iter_mut().map(Raw::refusal)).await {
        assert_eq!(refused, (status, code.to_owned()));
    }
}

#[tokio::test]
async fn half_open_heads() {
    let mut calm = Calm::with(&["--head-timeout-seconds", "2"]).await;
    let mut slow = raws(&calm.replica, 200).await;
    all_send(&mut slow, b"POST /api/creator/broadcast HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await;
    for _ in 0..3 {
        calm.goes_on().await;
        all_send(&mut slow, b"o").await;
    }
    all_are_refused(&mut slow, 408, "request_timeout").await;
    calm.is_as_before().await;
}

#[tokio::test]
async fn slow_bodies() {
    let mut calm = Calm::with(&["--request-timeout-seconds", "2"]).await;
    let mut slow = raws(&calm.replica, 200).await;
    all_send(
        &mut slow,
        b"POST /api/creator/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{",
    )
    .await;
    for _ in 0..3 {
        calm.goes_on().await;
        all_send(&mut slow, b" ").await;
    }
    for answer in join_all(slow.iter_mut().map(Raw::answer)).await {
        assert_eq!((answer.status, answer.body["code"].as_str()), (408, Some("request_timeout")));
    }
    for rest in join_all(slow.iter_mut().map(Raw::rest)).await {
        assert_eq!(rest, b"", "it ends with its answer");
    }
    calm.is_as_before().await;
}

#[tokio::test]
async fn coming_and_going() {
    let mut calm = Calm::with(&[]).await;
    let address = calm.replica.url().trim_start_matches("http://").to_owned();
    for n in 0..2_000 {
        let stream = TcpStream::connect(&address).await.unwrap();
        // Every other one leaves with a reset.
        if n % 2 == 0 {
            stream.set_zero_linger().unwrap();
        }
        if n % 400 == 0 {
            calm.goes_on().await;
        }
    }
    calm.is_as_before().await;
}

#[tokio::test]
async fn raw_garbage() {
    let mut calm = Calm::with(&["--head-timeout-seconds", "1"]).await;
    let mut random = random::seeded(7);
    let mut answered = 0;
    for round in 0..6 {
        let mut raws = raws(&calm.replica, 50).await;
        for raw in &mut raws {
            let bytes = random::bytes(&mut random, 3_000);
            raw.send(&bytes).await;
        }
        if round % 2 == 0 {
            calm.goes_on().await;
        }
        for raw in &mut raws {
            let head = raw.head().await;
            assert!(head.starts_with("HTTP/1.1 400 ") || head.starts_with("HTTP/1.1 408 "), "{head}");
            raw.rest().await;
            answered += 1;
        }
    }
    assert_eq!(answered, 300);
    calm.is_as_before().await;
}

#[tokio::test]
async fn more_sockets_than_there_are_places() {
    let mut calm =
        Calm::with(&["--max-sockets", "60", "--max-connections", "40", "--head-timeout-seconds", "2"]).await;
    let mut crowd = raws(&calm.replica, 150).await;
    calm.goes_on().await;
    assert_eq!(calm.replica.count("tidings_sockets").await, 60, "as many as there are places");
    let turned_away = 150 - (60 - usize::try_from(calm.sockets).unwrap());
    let refused = calm.replica.count("tidings_sockets_refused_total{reason=\"too_many_sockets\"}").await;
    assert_eq!(refused, u64::try_from(turned_away).unwrap());
    // Whoever has a place and says nothing is cut off without a word; of the others as many are told as can be at a time.
    let ends = join_all(crowd.iter_mut().map(Raw::head)).await;
    let told = ends
        .iter()
        .filter(|head| head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 5"))
        .count();
    assert!(told > 0 && ends.iter().filter(|head| head.is_empty()).count() == 150 - told, "{ends:?}");
    calm.is_as_before().await;
}
