//! What a process costs, from `/proc`: its processor time and its memory.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use procfs::process::Process;
use rustix::time::{ClockId, clock_gettime};

/// How fine the processor time is, for the table.
pub const RESOLUTION: &str = "CPU is user + system time of the server's processes alone, the sum over their threads in \
    /proc/<pid>/task/*/schedstat: in nanoseconds, exact while a thread sleeps, so it is read when all of them do";

/// A process has to rest for this long, with less than a fiftieth of a core, to count as settled.
const SETTLED: Duration = Duration::from_millis(200);
const SETTLED_SHARE: u32 = 50;

/// What never rests is no base for a measurement.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Of the kernel's clock ticks, on every Linux that there is.
const TICK: Duration = Duration::from_millis(10);

/// A server whose cost is measured: one process, or several together.
pub struct Measured(Vec<Process>);

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
        Self::together([pid])
    }

    /// The ones with these ids.
    pub fn together(pids: impl IntoIterator<Item = u32>) -> anyhow::Result<Self> {
        let process = |pid| {
            let process =
                i32::try_from(pid).ok().map(Process::new).context("a process id is a positive number")?;
            process.context("looking at a process that was started a moment ago")
        };
        Ok(Self(pids.into_iter().map(process).collect::<anyhow::Result<_>>()?))
    }

    /// What it has had by now.
    pub fn cpu(&self) -> anyhow::Result<CpuTime> {
        let (mut by_thread, mut ticks) = (BTreeMap::new(), 0);
        for process in &self.0 {
            for thread in process.tasks()? {
                // One that ends meanwhile has nothing to tell.
                if let Ok(thread) = thread
                    && let Ok(scheduled) = thread.schedstat()
                {
                    by_thread.insert(thread.tid, scheduled.sum_exec_runtime);
                }
            }
            let stat = process.stat()?;
            ticks += stat.utime + stat.stime;
        }
        Ok(CpuTime { by_thread, ticks })
    }

    /// The same, once none of its threads runs or waits for a core.
    pub fn cpu_at_rest(&self) -> anyhow::Result<CpuTime> {
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT {
            if !self.is_running()? {
                return self.cpu();
            }
            sleep(Duration::from_micros(200));
        }
        bail!("a server never rests: {:?}", self.pids())
    }

    fn is_running(&self) -> anyhow::Result<bool> {
        for process in &self.0 {
            let mut threads = process.tasks()?.filter_map(|thread| thread.ok()?.stat().ok());
            if threads.any(|stat| stat.state == 'R') {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn pids(&self) -> Vec<i32> {
        self.0.iter().map(Process::pid).collect()
    }

    /// Waits until it does nearly nothing.
    pub fn settle(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT {
            let before = self.cpu()?;
            sleep(SETTLED);
            if self.cpu()?.since(&before) < SETTLED / SETTLED_SHARE {
                return Ok(());
            }
        }
        bail!("a server does not settle: {:?}", self.pids())
    }

    /// What it takes now.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        let mut proportional = 0;
        for process in &self.0 {
            let maps = process.smaps_rollup()?.memory_map_rollup;
            let pss = maps.into_iter().find_map(|map| map.extension.map.get("Pss").copied());
            proportional += pss.context("the kernel tells Pss")?;
        }
        Ok(Memory { anonymous: self.anonymous()?, proportional })
    }

    /// Bytes of its own that no file is behind: the part of its memory that costs little to ask for.
    pub fn anonymous(&self) -> anyhow::Result<u64> {
        let mut anonymous = 0;
        for process in &self.0 {
            anonymous += process.status()?.rssanon.context("the kernel tells RssAnon")? * 1024;
        }
        Ok(anonymous)
    }
}

impl CpuTime {
    /// What was added since then to each thread that is there now, the busiest first.
    pub fn of_threads_since(&self, earlier: &Self) -> Vec<Duration> {
        let added = |(thread, now): (&i32, &u64)| {
            let before = earlier.by_thread.get(thread).copied().unwrap_or_default();
            Duration::from_nanos(now.saturating_sub(before))
        };
        let mut threads: Vec<_> = self.by_thread.iter().map(added).collect();
        threads.sort_unstable_by(|one, other| other.cmp(one));
        threads
    }

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
