//! Who runs where: the server on one core and the load on another, so that neither takes time from the other.

use std::process::{Child, Command};

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of this machine, as they are shared out.
#[derive(Clone, Copy)]
pub struct Cores {
    all: CpuSet,
    /// The server's and the load's.
    apart: Option<(usize, usize)>,
}

impl Cores {
    /// Puts the thread that calls, which is the load, on a core of its own, if that is wanted and there are two.
    pub fn share_out(wanted: bool) -> anyhow::Result<Self> {
        let all = sched_getaffinity(None)?;
        let mut there = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
        let apart = wanted.then(|| there.next().zip(there.next())).flatten();
        if let Some((_, load)) = apart {
            sched_setaffinity(None, &only(load))?;
        }
        Ok(Self { all, apart })
    }

    /// Starts a server on the server's core.
    pub fn spawn_server(&self, command: &mut Command) -> anyhow::Result<Child> {
        spawn(command, self.apart.map_or(self.all, |(server, _)| only(server)))
    }

    /// Does something with the thread that calls on all cores, and puts it back.
    pub fn unpinned<T>(&self, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let own = sched_getaffinity(None)?;
        sched_setaffinity(None, &self.all)?;
        let done = act();
        sched_setaffinity(None, &own)?;
        done
    }

    /// Starts what may run anywhere.
    pub fn spawn_anywhere(&self, command: &mut Command) -> anyhow::Result<Child> {
        spawn(command, self.all)
    }
}

/// A child has the cores of the thread that made it.
fn spawn(command: &mut Command, cores: CpuSet) -> anyhow::Result<Child> {
    let own = sched_getaffinity(None)?;
    sched_setaffinity(None, &cores)?;
    let child = command.spawn();
    sched_setaffinity(None, &own)?;
    child.with_context(|| format!("starting {}", command.get_program().display()))
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.apart {
            Some((server, load)) => write!(
                f,
                "the server is pinned to core {server}, the load to core {load}; nats-server may run on all {}, and so may what \
                 only reads a log, and everybody in the row `shards`",
                self.all.count()
            ),
            None => write!(f, "nothing is pinned; there are {} cores", self.all.count()),
        }
    }
}

fn only(core: usize) -> CpuSet {
    let mut cores = CpuSet::new();
    cores.set(core);
    cores
}
