//! What the system says of the process, under the names that Prometheus's own clients use. Linux says it, in `/proc`.

use prometheus_client::registry::Registry;

/// Nothing is said where the system does not say it.
#[cfg(not(target_os = "linux"))]
pub(super) fn register(_: &mut Registry) {}

/// What cannot be read now is left out.
#[cfg(target_os = "linux")]
pub(super) fn register(registry: &mut Registry) {
    if let Ok(process) = procfs::process::Process::myself()
        && let Err(error) = linux::register(registry, &process)
    {
        tracing::debug!("/proc does not say all: {error}");
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use procfs::process::{LimitValue, Process};
    use procfs::{ProcResult, WithCurrentSystemInfo as _};
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;
    use prometheus_client::registry::{Registry, Unit};

    use crate::metrics::collector::{bytes, now};

    pub(super) fn register(r: &mut Registry, process: &Process) -> ProcResult<()> {
        let stat = process.stat()?;
        let seconds = |ticks: u64| as_f64(ticks) / as_f64(procfs::ticks_per_second());
        let cpu = ConstCounter::new(seconds(stat.utime + stat.stime));
        r.register_with_unit("process_cpu", "User and system CPU time", Unit::Seconds, cpu);
        bytes(r, "process_resident_memory", "Resident memory", stat.rss_bytes().get());
        bytes(r, "process_virtual_memory", "Virtual memory", stat.vsize);
        now(r, "process_threads", "Threads", stat.num_threads);
        now(r, "process_open_fds", "Open file descriptors", process.fd_count()?);
        if let LimitValue::Value(limit) = process.limits()?.max_open_files.soft_limit {
            now(r, "process_max_fds", "File descriptors that it may have open", limit);
        }
        let started = ConstGauge::new(as_f64(procfs::boot_time_secs()?) + seconds(stat.starttime));
        r.register_with_unit("process_start_time", "When it started, since 1970", Unit::Seconds, started);
        Ok(())
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "ticks and seconds of this age of the world fit into 52 bits"
    )]
    const fn as_f64(value: u64) -> f64 {
        value as f64
    }
}
