//! What a process costs, from `/proc`: its processor time and its memory.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use procfs::process::Process;
use rustix::time::{ClockId, clock_gettime};

/// How fine the processor time is, for the table.
pub const RESOLUTION: &str = "CPU is user + system time of the server's process alone, the sum over its threads in \
    /proc/<pid>/task/*/schedstat: in nanoseconds, exact while a thread sleeps, so it is read when all of them do";

/// A process has to rest for this long, with less than a fiftieth of a core, to count as settled.
const SETTLED: Duration = Duration::from_millis(200);
const SETTLED_SHARE: u32 = 50;

/// What never rests is no base for a measurement.
const PATIENCE: Duration = Duration::from_mins(1);

/// Of the kernel's clock ticks, on every Linux that there is.
const TICK: Duration = Duration::from_millis(10);

/// A process whose cost is measured.
pub struct Measured(Process);

/// The processor time that a process has had so far.
pub struct CpuTime {
    by_thread: BTreeMap<i32, u64>,
    /// Of all threads that there ever were, but only in ticks.
    ticks: u64,
}

/// The memory that a process has.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Bytes of its own that no file is behind.
    pub anonymous: u64,
    /// Bytes that would be free without it: its share of what others map too is counted.
    pub proportional: u64,
}

impl Measured {
    /// The one with this id.
    pub fn new(pid: u32) -> anyhow::Result<Self> {
        let process =
            i32::try_from(pid).ok().map(Process::new).context("a process id is a positive number")?;
        Ok(Self(process.context("looking at a process that was started a moment ago")?))
    }

    /// What it has had by now.
    pub fn cpu(&self) -> anyhow::Result<CpuTime> {
        let mut by_thread = BTreeMap::new();
        for thread in self.0.tasks()? {
            // One that ends meanwhile has nothing to tell.
            if let Ok(thread) = thread
                && let Ok(scheduled) = thread.schedstat()
            {
                by_thread.insert(thread.tid, scheduled.sum_exec_runtime);
            }
        }
        let stat = self.0.stat()?;
        Ok(CpuTime { by_thread, ticks: stat.utime + stat.stime })
    }

    /// The same, once none of its threads runs or waits for a core.
    pub fn cpu_at_rest(&self) -> anyhow::Result<CpuTime> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let threads = self.0.tasks()?.filter_map(|thread| thread.ok()?.stat().ok());
            if threads.filter(|stat| stat.state == 'R').count() == 0 {
                return self.cpu();
            }
            sleep(Duration::from_micros(200));
        }
        bail!("process {} never rests", self.0.pid())
    }

    /// Waits until it does nearly nothing.
    pub fn settle(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let before = self.cpu()?;
            sleep(SETTLED);
            if self.cpu()?.since(&before) < SETTLED / SETTLED_SHARE {
                return Ok(());
            }
        }
        bail!("process {} does not settle", self.0.pid())
    }

    /// What it takes now.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let maps = self.0.smaps_rollup()?.memory_map_rollup;
        let proportional = maps.into_iter().find_map(|map| map.extension.map.get("Pss").copied());
        Ok(Memory {
            anonymous: self.anonymous()?,
            proportional: proportional.context("the kernel tells Pss")?,
        })
    }

    /// Bytes of its own that no file is behind: the part of its memory that costs little to ask for.
    pub fn anonymous(&self) -> anyhow::Result<u64> {
        Ok(self.0.status()?.rssanon.context("the kernel tells RssAnon")? * 1024)
    }
}

impl CpuTime {
    /// What was added since then. Should a thread have ended, which takes its nanoseconds along, the ticks tell at least as
    /// much.
    pub fn since(&self, earlier: &Self) -> Duration {
        let added = |(thread, now): (&i32, &u64)| {
            now.saturating_sub(earlier.by_thread.get(thread).copied().unwrap_or(0))
        };
        let exact = Duration::from_nanos(self.by_thread.iter().map(added).sum());
        if earlier.by_thread.keys().all(|thread| self.by_thread.contains_key(thread)) {
            return exact;
        }
        let ticks = u32::try_from(self.ticks.saturating_sub(earlier.ticks)).unwrap_or(u32::MAX);
        exact.max(TICK * ticks)
    }
}

/// The processor time of the thread that asks: of the load generator, or of a flood.
pub fn own_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
