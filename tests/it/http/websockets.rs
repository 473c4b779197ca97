//! Floods over WebSockets: while each of them goes on, others are served as ever; afterwards nothing is left of it.

use futures_util::future::join_all;
use serde_json::Value;

use super::Calm;
use crate::support::raw::{CLOSE, PING, PONG, TEXT};
use crate::support::{Raw, Replica, eventually, random};

/// So many clients, past their greeting.
async fn crowd(replica: &Replica, count: usize) -> Vec<Raw> {
    let mut crowd = join_all((0..count).map(|n| {
        let query = format!("?user_id=crowd-{n}");
        async move { Raw::websocket(replica, &query).await }
    }))
    .await;
    for client in &mut crowd {
        for _ in 0..2 {
            let (first, _) = client.frame().await.expect("a greeting");
            assert_eq!(first, TEXT);
        }
    }
    crowd
}

async fn all_are_closed(crowd: &mut [Raw], code: u16) {
    for closed in join_all(crowd.iter_mut().map(Raw::close_code)).await {
        assert_eq!(closed, Some(code));
    }
}

/// How many connections there are, the one that listens included.
async fn connections(calm: &Calm) -> u64 {
    calm.replica.count("tidings_connections{channel=\"creator\"}").await
}

#[tokio::test]
async fn clients_that_read_nothing() {
    let mut calm = Calm::with(&["--max-unsent-bytes", "20000", "--unsent-seconds", "2"]).await;
    let narrow = (0..50).map(|n| {
        let query = format!("?user_id=slow-{n}");
        let replica = &calm.replica;
        async move { Raw::narrow_websocket(replica, &query).await }
    });
    let slow = join_all(narrow).await;
    eventually("they are attached", || async { connections(&calm).await == 51 }).await;
    let mut posts = 0;
    while calm.replica.count("tidings_slow_clients_total").await < 50 {
        posts += 1;
        assert!(posts < 5_000, "clients that read nothing are still served after {posts} broadcasts");
        calm.goes_on().await;
    }
    drop(slow);
    calm.is_as_before().await;
}

#[tokio::test]
async fn pings_without_end() {
    let mut calm = Calm::with(&[]).await;
    let mut flooding = crowd(&calm.replica, 50).await;
    let burst: Vec<u8> = (0..100).flat_map(|_| Raw::masked(PING, b"are you there")).collect();
    join_all(flooding.iter_mut().map(|raw| raw.send(&burst))).await;
    calm.goes_on().await;
    let mut pongs = 0;
    for raw in &mut flooding {
        loop {
            let (first, payload) = raw.frame().await.expect("a close frame comes before the end");
            match first {
                PONG => assert_eq!(payload, b"are you there"),
                CLOSE => break assert_eq!(payload[..2], 4029_u16.to_be_bytes()),
                _ => continue,
            }
            pongs += 1;
        }
    }
    // While a client's burst is read, one more may have become due.
    assert!((50 * 40..50 * 42).contains(&pongs), "as many as may come at once are answered: {pongs}");
    drop(flooding);
    calm.is_as_before().await;
}

#[tokio::test]
async fn tiny_pieces_without_end() {
    let mut calm = Calm::with(&[]).await;
    let mut flooding = crowd(&calm.replica, 50).await;
    let begin = Raw::masked(TEXT & 0x7f, b"");
    let burst: Vec<u8> = begin.into_iter().chain((0..2_000).flat_map(|_| Raw::masked(0x00, b""))).collect();
    join_all(flooding.iter_mut().map(|raw| raw.send(&burst))).await;
    calm.goes_on().await;
    all_are_closed(&mut flooding, 4029).await;
    drop(flooding);
    calm.is_as_before().await;
}

#[tokio::test]
async fn acknowledgements_without_end() {
    let mut calm = Calm::with(&["--messages-per-second", "1000", "--message-burst", "1000"]).await;
    let id = calm.replica.active("nobody").await["id"].as_str().unwrap().to_owned();
    let other = "0198c5a0-1111-7222-8333-444455556666";
    let mut flooding = crowd(&calm.replica, 50).await;
    let burst: Vec<u8> = (0..500)
        .flat_map(|n| {
            let id = if n % 2 == 0 { &id } else { other };
            let text = format!(r#"{{"type":"acknowledge_broadcast","broadcast_id":"{id}"}}"#);
            Raw::masked(TEXT, text.as_bytes())
        })
        .collect();
    join_all(flooding.iter_mut().map(|raw| raw.send(&burst))).await;
    calm.goes_on().await;
    for raw in &mut flooding {
        let mut counted = 0;
        for _ in 0..500 {
            let answer = loop {
                let (_, payload) = raw.frame().await.expect("every one is answered");
                let heard: Value = serde_json::from_slice(&payload).unwrap();
                if heard["type"] == "acknowledged" || heard["type"] == "error" {
                    break heard;
                }
            };
            counted += u32::from(answer["type"] == "acknowledged" && answer["already"] == false);
            // Whether nobody has sent it, or another replica has a moment ago, can take a while to know.
            let fine = ["unknown_broadcast", "catching_up", "busy"].map(Value::from);
            assert!(answer["type"] == "acknowledged" || fine.contains(&answer["code"]), "{answer}");
        }
        assert_eq!(counted, 1, "a user's acknowledgement counts once");
    }
    drop(flooding);
    calm.has_nothing_left().await;
}

#[tokio::test]
async fn two_thousand_come_back_at_once() {
    let mut calm = Calm::with(&[]).await;
    for _ in 0..2 {
        let crowd = crowd(&calm.replica, 2_000).await;
        assert_eq!(connections(&calm).await, 2_001, "each was greeted");
        calm.goes_on().await;
        drop(crowd);
        eventually("they are gone", || async { connections(&calm).await == 1 }).await;
    }
    calm.is_as_before().await;
}

#[tokio::test]
async fn messages_that_never_end() {
    let mut calm = Calm::with(&["--message-seconds", "2"]).await;
    let mut unfinished = crowd(&calm.replica, 100).await;
    for (n, raw) in unfinished.iter_mut().enumerate() {
        let whole = Raw::masked(TEXT, b"never to be heard");
        // In the middle of a header, of a payload, or between two pieces.
        match n % 3 {
            0 => raw.send(&whole[..3]).await,
            1 => raw.send(&whole[..9]).await,
            _ => raw.send(&Raw::masked(TEXT & 0x7f, b"more to come")).await,
        }
    }
    calm.goes_on().await;
    all_are_closed(&mut unfinished, 4011).await;
    drop(unfinished);
    calm.is_as_before().await;
}

#[tokio::test]
async fn garbage_after_the_handshake() {
    let mut calm = Calm::with(&["--message-seconds", "2"]).await;
    let mut random = random::seeded(11);
    for _ in 0..4 {
        let mut garbage = crowd(&calm.replica, 50).await;
        for raw in &mut garbage {
            raw.send(&random::bytes(&mut random, 2_000)).await;
        }
        calm.goes_on().await;
        for raw in &mut garbage {
            let code = raw.close_code().await;
            assert!(matches!(code, Some(1002 | 1003 | 1007 | 1009 | 4011)), "{code:?}");
        }
    }
    calm.is_as_before().await;
}
