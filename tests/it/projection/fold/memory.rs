//! What is held in memory of broadcasts and of who acknowledged them, and what is read from the disk.

use tidings::domain::View;

use super::*;

#[tokio::test]
async fn broadcasts_beyond_the_bounds_are_dropped_from_memory_and_still_known() {
    let (log, ids) = log_of_rounds(300).await;
    let directory = TempDir::new().unwrap();
    let projecting = Projecting::start(log.clone(), directory.path());
    projecting.digest_at(1_200).await;
    let loaded = async || projecting.look(|view| view.log().broadcasts.len()).await;
    assert!(loaded().await <= 257, "{}", loaded().await);
    let acks = acks(&projecting, &log);
    for id in &ids {
        assert_eq!(already(&acks, *id, "cid").await, Some(true));
    }
    // Nothing was written for that; what is new is, and then it is known.
    assert_eq!(projecting.projection.position().sequence, 1_200);
    for (n, id) in ids.iter().step_by(60).enumerate() {
        assert_eq!(already(&acks, *id, "dan").await, Some(false));
        assert_eq!(already(&acks, *id, "dan").await, Some(true));
        assert!(n == 0 || loaded().await <= 257, "the fold dropped what requests had loaded");
    }
    assert_eq!(projecting.digest_at(1_205).await, clean_digest(&log).await);
}

#[tokio::test]
async fn one_users_acknowledgement_of_a_crowded_broadcast_is_looked_up_without_loading_the_others() {
    const USERS: usize = 270_000;
    let log = MemoryLog::default();
    let crowded = post(&log, "crowded").await;
    let users: Vec<_> = (0..USERS).map(|n| format!("user-{n}")).collect();
    for users in users.chunks(1_000) {
        let users: Vec<_> = users.iter().map(String::as_str).collect();
        log.append(acknowledged(crowded.0, &users)).await.unwrap();
    }
    post(&log, "the next one").await;
    let head = log.info().await.unwrap().last_sequence;
    let home = TempDir::new().unwrap();
    let directory = home.path().join("projection");
    let projecting = Projecting::start(log.clone(), &directory);
    projecting.digest_at(head).await;
    let in_memory = async |projecting: &Projecting| {
        projecting
            .look(move |view| view.log().broadcast(crowded).map(|known| known.acknowledgements.len()))
            .await
    };
    let is_sealed = async || {
        let is_open = move |view: View<'_>| view.log().broadcast(crowded).unwrap().acknowledgements.is_open();
        !projecting.look(is_open).await
    };
    eventually("the crowded set is sealed", is_sealed).await;
    let first = acks(&projecting, &log);
    for user in ["user-0", "user-137", "user-269999"] {
        assert_eq!(already(&first, crowded, user).await, Some(true), "{user}");
    }
    assert_eq!(
        in_memory(&projecting).await,
        Some(USERS),
        "a repeat loads nothing, and those who acknowledged last stay"
    );
    assert_eq!(already(&first, crowded, "somebody-new").await, Some(false));
    assert_eq!(already(&first, crowded, "somebody-new").await, Some(true));
    assert_eq!(in_memory(&projecting).await, Some(USERS + 1));
    assert_eq!(projecting.digest_at(head + 1).await, clean_digest(&log).await);
    projecting.stop().await;
    drop(first);
    // The same from disk.
    released(&directory).await;
    let projecting = Projecting::start(log.clone(), &directory);
    projecting.digest_at(head + 1).await;
    assert_eq!(in_memory(&projecting).await, None, "a start loads no sealed set");
    let again = acks(&projecting, &log);
    for (user, known) in [("user-4711", true), ("somebody-new", true), ("nobody-yet", false)] {
        assert_eq!(already(&again, crowded, user).await, Some(known), "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_that_reaches_the_log_while_a_page_is_read_is_on_the_page_once() {
    let (log, ids) = log_of_rounds(1).await;
    let directory = TempDir::new().unwrap();
    let projecting = Projecting::start(log.clone(), directory.path());
    projecting.digest_at(4).await;
    let (projection, id) = (projecting.projection.clone(), ids[0]);
    for n in 0..100 {
        let user = format!("user-{n}");
        let new = acknowledged(id.0, &[&user]);
        let (at, event) = (new.time, new.event.clone());
        let accepted = Accepted { channel: channel(), id: new.id, at, sent_to: None, event };
        projection.fold_pending(vec![(accepted, None)]).await;
        let stop = Arc::new(AtomicBool::new(false));
        let reading = tokio::spawn({
            let (projection, stop) = (projection.clone(), stop.clone());
            async move {
                loop {
                    let is_last = stop.load(Ordering::Relaxed);
                    let page = projection.acks_after(id, (0, 0), 1_000).await.unwrap();
                    let found = page.iter().filter(|ack| ack.acknowledgement.user.as_str() == user).count();
                    assert_eq!(found, 1, "{user} on a page");
                    if is_last {
                        return;
                    }
                }
            }
        });
        let sequence = log.append(new).await.unwrap().sequence;
        assert!(projection.reached(sequence, PATIENCE).await);
        projection.settle().await;
        stop.store(true, Ordering::Relaxed);
        reading.await.unwrap();
    }
}
