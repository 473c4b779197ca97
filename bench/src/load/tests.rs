//! The load counts right and notices what is wrong, against a replica.

use super::{Load, Plan};
use crate::cores::Cores;
use crate::identity::Issuer;
use crate::nats::Nats;
use crate::replica::Replica;

const PLAN: Plan = Plan { clients: 20, deaf: 0, at_once: 4, greeted: true, long: false };

/// A load of its own number, which has addresses of its own.
fn load_of(issuer: &Issuer, number: u32) -> (Nats, Replica, Load) {
    let cores = Cores::share_out(false).unwrap();
    let nats = Nats::start(&cores).unwrap();
    let replica = Replica::start_anywhere(&nats, &cores, &[]).unwrap();
    let load = Load::of(replica.address, PLAN, number, issuer).unwrap();
    (nats, replica, load)
}

#[test]
fn clients_with_tokens_hear_each_broadcast_once_and_acknowledge_it() {
    let (_nats, _replica, mut load) = load_of(&Issuer::new().unwrap(), 90);
    load.connect().unwrap();
    assert_eq!((load.upgraded, load.refused, load.heard.greeted), (20, 0, 20));
    for expected in 0..3 {
        let number = load.post().unwrap();
        let accepted = load.accepted().unwrap();
        assert_eq!(number, expected);
        assert!(load.delivered(number).unwrap() >= accepted.posted);
        for client in 0..20 {
            load.acknowledge(client, &accepted.id).unwrap();
        }
        let confirmed = 20 * (usize::try_from(number).unwrap() + 1);
        load.until("all are confirmed", |load| load.heard.confirmed >= confirmed).unwrap();
    }
    load.overhear().unwrap();
    let heard = &load.heard;
    assert_eq!((heard.deliveries, heard.wrong(), load.lost), (60, 0, 0));
    assert_eq!((heard.confirmed, &heard.trouble), (60, &None));
}

#[test]
fn clients_whose_tokens_are_of_somebody_else_are_refused() {
    let stranger = Issuer::of("another secret: 32 bytes or more of it").unwrap();
    let (_nats, _replica, mut load) = load_of(&stranger, 91);
    load.connect().unwrap();
    assert_eq!((load.upgraded, load.refused), (0, 20));
    let trouble = load.heard.trouble.as_deref().unwrap();
    assert!(trouble.contains("401") && trouble.contains("invalid_token"), "{trouble}");
    load.post().unwrap();
    let refused = load.accepted().unwrap_err();
    assert!(format!("{refused:#}").contains("a broadcast was not accepted"), "{refused:#}");
}
