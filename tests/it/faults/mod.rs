//! Every fault that can be made on one machine, under load, and one judge for all of them.
//!
//! A [`World`] is one NATS with three replicas, each behind a link that can be broken; creators post and clear, users
//! acknowledge, and clients listen and come back. All write down what they were told. When a fault is over,
//! [`World::end`] waits until everything works again and hands what was written down to the judge.

mod cluster;
mod crowds;
mod full_disks;
mod hearing;
mod rules;
mod links;
mod people;
mod replicas;
mod servers;
mod storage;
mod world;
